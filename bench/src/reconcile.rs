//! What it costs to find and mend differences, by their number and by that of all items, against what a user would do
//! instead: a dump of both sides, compared.

use crate::Size;
use crate::table::{begin, row, thousands, with_range};
use postgres::Client;
use redis::Connection;
use std::collections::HashMap;
use std::io::BufRead;
use std::time::{Duration, Instant};
use tandem_shared::digest::PayloadHash;
use tandem_tests::pair::{Pair, count_of_postgres, count_of_redis, root_of_postgres, root_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask_text};
use tandem_tests::sql::{error_text, rows, run, value};
use tandem_tests::wait;

const LONG: Duration = Duration::from_secs(3600);
/// Keys a step of SCAN, and commands a pipeline.
const PAGE: usize = 1000;
const COPY: &str =
    "COPY (SELECT id, encode(payload_hash, 'hex') FROM tandem.items WHERE NOT local) TO STDOUT";

/// Measures with the link paused: dry runs, the dump of both sides, then the run that repairs.
pub fn measure(size: Size) {
    let settings = ["shared_buffers = '512MB'", "max_wal_size = '4GB'"].map(str::to_owned).to_vec();
    let options = pg::Options { fsync: false, settings, ..pg::Options::default() };
    let pair = Pair::with(&options, Options::in_memory());
    let rounds = size.rounds.min(3);
    let method = format!(
        "items of 250 bytes of JSON; with the link paused half of the differing ids are written in Postgres and half in \
         Redis, spread over all; the log is folded; a dry run is the median of {rounds}, dearest and cheapest beside it; \
         the dump is COPY of id and hash, and SCAN with the content of each key in pipelines of {PAGE}, hashed and \
         compared in memory"
    );
    begin(
        "Reconcile",
        &method,
        &["items", "differ", "run", "ms (range)", "bytes", "ranges", "rounds", "found"],
    );
    let mut there = 0;
    for (items, differ) in size.reconciled {
        fill(&pair, there, items);
        there = items;
        measure_at(&pair, items, differ, rounds);
    }
}

fn fill(pair: &Pair, from: usize, to: usize) {
    if from == to {
        return;
    }
    let mut client = pair.sql();
    let statement = format!(
        "INSERT INTO tandem.items (id, payload) SELECT md5(n::text), jsonb_build_object('n', n, 'text', repeat('x', 225)) \
         FROM generate_series({from} + 1, {to}) n"
    );
    run(&mut client, &statement);
    run(&mut client, "VACUUM ANALYZE tandem.items");
}

/// What a way to compare found and took.
struct Found {
    differences: usize,
    bytes: f64,
    ranges: String,
    rounds: String,
}

fn measure_at(pair: &Pair, items: usize, differ: usize, rounds: usize) {
    let expected = i64::try_from(items).expect("a small number");
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    wait::until("the set is on both sides", LONG, || {
        count_of_redis(&mut redis) == expected && count_of_postgres(&mut client) == expected
    });
    wait::until("the roots are equal", LONG, || root_of_postgres(&mut client) == root_of_redis(&mut redis));
    pair.pause();
    make_differ(&mut client, &mut redis, items, differ);
    wait::until("the log is folded", LONG, || value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0);
    let report = |what: &str, times: &[f64], found: &Found| {
        assert_eq!(found.differences, differ, "differences found by the {what} among {items}");
        let (items, bytes) = (thousands(items as f64), thousands(found.bytes));
        let time = if times.len() == 1 { thousands(times[0]) } else { with_range(times, 0) };
        row(&[
            &items,
            &thousands(differ as f64),
            &what,
            &time,
            &bytes,
            &found.ranges,
            &found.rounds,
            &thousands(found.differences as f64),
        ]);
    };
    let (mut times, mut last) = (Vec::new(), None);
    for _ in 0..rounds {
        let (time, found) = timed(|| reconcile(&mut client, &pair.link, true));
        times.push(time);
        last = Some(found);
    }
    report("dry run", &times, &last.expect("there was a round"));
    let (time, found) = timed(|| dump(&mut client, &mut redis));
    report("dump and compare", &[time], &found);
    let (time, found) = timed(|| reconcile(&mut client, &pair.link, false));
    report("repair", &[time], &found);
    pair.resume();
    wait::until("the roots are equal", LONG, || root_of_postgres(&mut client) == root_of_redis(&mut redis));
}

fn timed(work: impl FnOnce() -> Found) -> (f64, Found) {
    let start = Instant::now();
    let found = work();
    (start.elapsed().as_secs_f64() * 1000.0, found)
}

/// Writes ids at equal distances, every other one in Redis and the rest in Postgres.
fn make_differ(client: &mut Client, redis: &mut Connection, items: usize, differ: usize) {
    let ids = |remainder: usize| {
        format!(
            "SELECT md5((n * {})::text) FROM generate_series(1, {differ}) n WHERE n % 2 = {remainder}",
            items / differ
        )
    };
    // Content that no earlier case has written.
    let patch = format!("{{\"case\":\"{differ} of {items}\"}}");
    run(client, &format!("UPDATE tandem.items SET payload = payload || '{patch}' WHERE id IN ({})", ids(0)));
    let ids: Vec<String> = rows(client, &ids(1)).iter().map(|row| row.get(0)).collect();
    for page in ids.chunks(PAGE) {
        let mut pipeline = redis::pipe();
        for id in page {
            pipeline.cmd("TANDEM.MERGE").arg(id).arg(&patch).ignore();
        }
        pipeline.query::<()>(redis).unwrap_or_else(|error| panic!("writing to Redis: {error}"));
    }
}

fn reconcile(client: &mut Client, link: &str, is_dry: bool) -> Found {
    let found = rows(client, &format!("SELECT * FROM tandem.reconcile('{link}', '', {is_dry})")).remove(0);
    let number = |name: &str| found.get::<_, i64>(name);
    let repaired = if is_dry { 0 } else { number("differences") };
    assert_eq!(number("repaired"), repaired, "repaired");
    Found {
        differences: usize::try_from(number("differences")).expect("a count"),
        bytes: number("bytes") as f64,
        ranges: number("ranges").to_string(),
        rounds: number("rounds").to_string(),
    }
}

/// Reads all of both sides and compares. The bytes are what COPY sent and what Redis received and sent.
fn dump(client: &mut Client, redis: &mut Connection) -> Found {
    let before = redis_bytes(redis);
    let (ours, sent) = dump_of_postgres(client);
    let theirs = dump_of_redis(redis);
    let here_or_other = ours.iter().filter(|(id, hash)| theirs.get(*id) != Some(hash)).count();
    let there_only = theirs.keys().filter(|id| !ours.contains_key(*id)).count();
    Found {
        differences: here_or_other + there_only,
        bytes: sent as f64 + redis_bytes(redis) - before,
        ranges: String::new(),
        rounds: String::new(),
    }
}

/// Hash of each id's content, and the bytes that were read.
fn dump_of_postgres(client: &mut Client) -> (HashMap<String, String>, usize) {
    let lines = client.copy_out(COPY).unwrap_or_else(|error| panic!("{COPY}: {}", error_text(&error)));
    let (mut found, mut bytes) = (HashMap::new(), 0);
    for line in lines.lines() {
        let line = line.unwrap_or_else(|error| panic!("{COPY}: {error}"));
        bytes += line.len() + 1;
        let (id, hash) = line.split_once('\t').unwrap_or_else(|| panic!("{COPY}: {line}"));
        found.insert(id.to_owned(), hash.to_owned());
    }
    (found, bytes)
}

/// Hash of each id's content.
fn dump_of_redis(redis: &mut Connection) -> HashMap<String, String> {
    let (mut found, mut cursor) = (HashMap::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        let page: (u64, Vec<String>) = scan
            .arg(cursor)
            .arg("COUNT")
            .arg(PAGE)
            .query(redis)
            .unwrap_or_else(|error| panic!("SCAN: {error}"));
        if !page.1.is_empty() {
            found.extend(hashes(redis, page.1));
        }
        cursor = page.0;
        if cursor == 0 {
            return found;
        }
    }
}

fn hashes(redis: &mut Connection, ids: Vec<String>) -> impl Iterator<Item = (String, String)> {
    let mut pipeline = redis::pipe();
    for id in &ids {
        pipeline.cmd("TANDEM.GET").arg(id).arg("PAYLOAD");
    }
    let contents: Vec<Vec<u8>> = pipeline.query(redis).unwrap_or_else(|error| panic!("TANDEM.GET: {error}"));
    let hash = |content: Vec<u8>| PayloadHash::of(&content).to_hex();
    ids.into_iter().zip(contents.into_iter().map(hash))
}

/// Bytes that Redis has received and sent.
fn redis_bytes(redis: &mut Connection) -> f64 {
    let info = ask_text(redis, &["INFO", "stats"]).unwrap_or_default();
    ["total_net_input_bytes:", "total_net_output_bytes:"]
        .iter()
        .map(|name| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse::<f64>().ok()).expect("INFO stats counts bytes")
        })
        .sum()
}
