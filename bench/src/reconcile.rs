//! What it costs to find and mend 15 differences, among many items and among ten times as many.

use crate::Size;
use crate::table::{begin, median, row, thousands};
use std::time::{Duration, Instant};
use tandem_tests::pair::{Pair, count_of_postgres, count_of_redis, root_of_postgres, root_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait;

const DIFFERENCES: usize = 15;
const LONG: Duration = Duration::from_secs(3600);

/// Measures with the link paused: dry runs, then the one that repairs.
pub fn measure(size: Size) {
    let settings = ["shared_buffers = '512MB'", "max_wal_size = '4GB'"].map(str::to_owned).to_vec();
    let options = pg::Options { fsync: false, settings, ..pg::Options::default() };
    let pair = Pair::with(&options, Options::in_memory());
    let method = format!(
        "{DIFFERENCES} keys deleted from Redis, spread over the ids, with the link paused; the log is folded; a dry run \
         is the median of {} runs, dearest and cheapest beside it",
        size.rounds
    );
    begin("Reconcile", &method, &["items", "run", "ms (range)", "ranges", "rounds", "bytes", "found"]);
    let mut there = 0;
    for count in size.reconciled {
        fill(&pair, there, count);
        there = count;
        measure_at(&pair, count, size.rounds);
    }
}

fn fill(pair: &Pair, from: usize, to: usize) {
    let mut client = pair.sql();
    let statement = format!(
        "INSERT INTO tandem.items (id, payload) SELECT md5(n::text), jsonb_build_object('n', n) \
         FROM generate_series({from} + 1, {to}) n"
    );
    run(&mut client, &statement);
    run(&mut client, "VACUUM ANALYZE tandem.items");
}

fn measure_at(pair: &Pair, count: usize, rounds: usize) {
    let expected = i64::try_from(count).expect("a small number");
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    wait::until("the set is on both sides", LONG, || {
        count_of_redis(&mut redis) == expected && count_of_postgres(&mut client) == expected
    });
    wait::until("the roots are equal", LONG, || root_of_postgres(&mut client) == root_of_redis(&mut redis));
    wait::until("the log is folded", LONG, || value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0);
    pair.pause();
    for row in rows(
        &mut client,
        &format!("SELECT md5((n * {})::text) FROM generate_series(1, {DIFFERENCES}) n", count / DIFFERENCES),
    ) {
        ask(&mut redis, &["DEL", row.get(0)]);
    }
    let dry = format!("SELECT * FROM tandem.reconcile('{}', '', true)", pair.link);
    let (mut times, mut last) = (Vec::new(), None);
    for _ in 0..rounds {
        let start = Instant::now();
        let found = rows(&mut client, &dry).remove(0);
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        last = Some(found);
    }
    report(count, "dry", &times, &last.expect("there was a round"));
    let start = Instant::now();
    let mended = rows(&mut client, &format!("SELECT * FROM tandem.reconcile('{}')", pair.link)).remove(0);
    report(count, "repair", &[start.elapsed().as_secs_f64() * 1000.0], &mended);
    pair.resume();
    wait::until("the roots are equal", LONG, || root_of_postgres(&mut client) == root_of_redis(&mut redis));
}

fn report(count: usize, what: &str, times: &[f64], found: &postgres::Row) {
    let number = |name: &str| found.get::<_, i64>(name);
    assert_eq!(number("differences"), DIFFERENCES as i64, "differences found among {count}");
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    row(&[
        &thousands(count as f64),
        &what,
        &format!("{:.0} ({least:.0} to {most:.0})", median(times)),
        &number("ranges"),
        &number("rounds"),
        &thousands(number("bytes") as f64),
        &number("differences"),
    ]);
}
