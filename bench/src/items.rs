//! States, prefixes and batches among many items, against what a user of the bare engine would do for the same answer.

use crate::table::{begin, median, per_second, ratio, row, thousands};
use crate::{Size, payload};
use postgres::Client;
use redis::{Cmd, Connection, Pipeline};
use std::time::Instant;
use tandem_tests::postgres::{Options as PgOptions, Postgres};
use tandem_tests::redis::{Options, Redis, ask_text};
use tandem_tests::sql::{error_text, run};

const STATES: usize = 10;
const PAGE: usize = 100;
const BATCH: usize = 500;
/// Items that share a prefix.
const UNDER_PREFIX: usize = 1000;

/// A question, the same for both ways.
struct Question {
    name: &'static str,
    bare_name: &'static str,
    ours: Box<dyn Fn(usize) -> Vec<Cmd>>,
    bare: Box<dyn Fn(usize) -> Vec<Cmd>>,
}

/// Measures both engines.
pub fn measure(size: Size) {
    in_redis(size);
    in_postgres(size);
}

fn id(number: usize) -> String {
    format!("group.{:05}.item.{:08}", number / UNDER_PREFIX, number)
}

fn state(number: usize) -> String {
    format!("state{}", number % STATES)
}

fn command(words: &[&str]) -> Cmd {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command
}

/// In bare Redis: the content under `bare:` and the id, a set for each state, and a sorted set of all ids for their
/// order.
fn in_redis(size: Size) {
    let ours = Redis::start(Options::in_memory());
    let bare = Redis::start(Options::in_memory());
    let (mut to_ours, mut to_bare) = (ours.connect(), bare.connect());
    let empty = (used(&mut to_ours), used(&mut to_bare));
    fill_plain(&mut to_bare, size.items);
    let plain = used(&mut to_bare) - empty.1;
    let start = Instant::now();
    fill_tandem(&mut to_ours, size.items);
    let seconds = start.elapsed().as_secs_f64();
    let held = used(&mut to_ours) - empty.0;
    fill_indexes(&mut to_bare, size.items);
    let indexed = used(&mut to_bare) - empty.1;
    let questions = questions(size.items);
    let mut rates: Vec<[Vec<f64>; 2]> = questions.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for round in 0..size.rounds {
        for (question, rates) in questions.iter().zip(&mut rates) {
            rates[0].push(rate(&mut to_ours, round, size.questions, &question.ours));
            rates[1].push(rate(&mut to_bare, round, size.questions, &question.bare));
        }
    }
    let method = format!(
        "{} items of 250 bytes in {STATES} states, {UNDER_PREFIX} under a prefix; one connection, pipelines of 16; {} \
         rounds in turn; medians",
        thousands(size.items as f64),
        size.rounds
    );
    begin("Items in Redis", &method, &["tandem", "answers/s", "bare", "answers/s", "ratio (range)"]);
    for (question, rates) in questions.iter().zip(&rates) {
        let ratio = ratio(&rates[0], &rates[1]);
        row(&[&question.name, &per_second(&rates[0]), &question.bare_name, &per_second(&rates[1]), &ratio]);
    }
    let each = |bytes: f64| thousands(bytes / size.items as f64 - 250.0);
    println!(
        "\nMemory an item beyond its 250 bytes of content (ids of {} bytes): tandem {} bytes; plain SET {}; plain SET with a \
         set for each state and a sorted set of the ids {}. Filled in {seconds:.1} s.",
        id(0).len(),
        each(held),
        each(plain),
        each(indexed),
    );
}

fn questions(items: usize) -> Vec<Question> {
    let prefix = move |turn: usize| format!("group.{:05}.", turn * 7919 % (items / UNDER_PREFIX));
    let of_state = |turn: usize| state(turn);
    let after = move |turn: usize| id(turn * 104_729 % items);
    let batch = move |turn: usize, begin: &[&str], prefix: &str| {
        let mut command = command(begin);
        for place in 0..BATCH {
            let number = (turn * BATCH + place) * 7919 % items;
            command.arg(format!("{prefix}{}", id(number))).arg(payload(&format!("{turn}.{number}")));
        }
        vec![command]
    };
    vec![
        Question {
            name: "STATE COUNT",
            bare_name: "SCARD",
            ours: Box::new(move |turn| vec![command(&["TANDEM.STATE", "COUNT", &of_state(turn)])]),
            bare: Box::new(move |turn| vec![command(&["SCARD", &of_state(turn)])]),
        },
        Question {
            name: "STATE LIST, 100 ids in order",
            bare_name: "SSCAN COUNT 100, no order",
            ours: Box::new(move |turn| {
                vec![command(&[
                    "TANDEM.STATE",
                    "LIST",
                    &of_state(turn),
                    "AFTER",
                    &after(turn),
                    "LIMIT",
                    "100",
                ])]
            }),
            bare: Box::new(move |turn| {
                let cursor = (turn * 7919 % 65_536).to_string();
                vec![command(&["SSCAN", &of_state(turn), &cursor, "COUNT", "100"])]
            }),
        },
        Question {
            name: "SCAN prefix, 100 items",
            bare_name: "ZRANGE BYLEX LIMIT 100 and MGET",
            ours: Box::new(move |turn| vec![command(&["TANDEM.SCAN", &prefix(turn), "LIMIT", "100"])]),
            bare: Box::new(move |turn| {
                let (low, high) = (format!("[{}", prefix(turn)), format!("({}/", prefix(turn)));
                let page = command(&["ZRANGE", "ids", &low, &high, "BYLEX", "LIMIT", "0", "100"]);
                let mut contents = command(&["MGET"]);
                let first = turn * 7919 % (items / UNDER_PREFIX) * UNDER_PREFIX;
                (first..first + PAGE).for_each(|number| {
                    contents.arg(format!("bare:{}", id(number)));
                });
                vec![page, contents]
            }),
        },
        Question {
            name: "COUNT prefix",
            bare_name: "ZLEXCOUNT",
            ours: Box::new(move |turn| vec![command(&["TANDEM.COUNT", &prefix(turn)])]),
            bare: Box::new(move |turn| {
                let (low, high) = (format!("[{}", prefix(turn)), format!("({}/", prefix(turn)));
                vec![command(&["ZLEXCOUNT", "ids", &low, &high])]
            }),
        },
        Question {
            name: "MPUT of 500",
            bare_name: "MSET of 500",
            ours: Box::new(move |turn| batch(turn, &["TANDEM.MPUT", "500"], "")),
            bare: Box::new(move |turn| batch(turn, &["MSET"], "bare:")),
        },
    ]
}

/// Answers per second. Requests are made before the clock starts.
fn rate(
    connection: &mut Connection,
    round: usize,
    count: usize,
    question: &dyn Fn(usize) -> Vec<Cmd>,
) -> f64 {
    const DEPTH: usize = 16;
    let first = question(0);
    let words: usize = first.iter().map(|command| command.args_iter().count()).sum();
    // A batch of 500 does about as much as 100 questions.
    let count = if words > 500 { (count / 100).max(DEPTH) } else { count };
    let pipelines: Vec<Pipeline> = (0..count)
        .collect::<Vec<_>>()
        .chunks(DEPTH)
        .map(|turns| {
            let mut pipeline = redis::pipe();
            for turn in turns {
                for command in question(round * count + turn) {
                    pipeline.add_command(command).ignore();
                }
            }
            pipeline
        })
        .collect();
    let start = Instant::now();
    for pipeline in pipelines {
        pipeline.query::<()>(connection).unwrap_or_else(|error| panic!("asking Redis: {error}"));
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn used(connection: &mut Connection) -> f64 {
    let memory = ask_text(connection, &["INFO", "memory"]).unwrap_or_default();
    let line = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("INFO memory says used_memory")
}

fn in_chunks(connection: &mut Connection, items: usize, add: &dyn Fn(&mut Pipeline, usize)) {
    for chunk in (0..items).collect::<Vec<_>>().chunks(1000) {
        let mut pipeline = redis::pipe();
        chunk.iter().for_each(|number| add(&mut pipeline, *number));
        pipeline.query::<()>(connection).unwrap_or_else(|error| panic!("filling Redis: {error}"));
    }
}

fn fill_tandem(connection: &mut Connection, items: usize) {
    in_chunks(connection, items, &|pipeline, number| {
        let content = payload(&format!("{number:012}"));
        let pipeline = pipeline.cmd("TANDEM.PUT").arg(id(number)).arg(content);
        pipeline.arg("STATE").arg(state(number)).ignore();
    });
}

fn fill_plain(connection: &mut Connection, items: usize) {
    in_chunks(connection, items, &|pipeline, number| {
        let content = payload(&format!("{number:012}"));
        pipeline.cmd("SET").arg(format!("bare:{}", id(number))).arg(content).ignore();
    });
}

fn fill_indexes(connection: &mut Connection, items: usize) {
    in_chunks(connection, items, &|pipeline, number| {
        pipeline.cmd("SADD").arg(state(number)).arg(id(number)).ignore();
        pipeline.cmd("ZADD").arg("ids").arg(0).arg(id(number)).ignore();
    });
}

/// In bare Postgres: a table of the same columns and indexes.
fn in_postgres(size: Size) {
    let settings = ["shared_buffers = '512MB'", "max_wal_size = '4GB'"].map(str::to_owned).to_vec();
    let server = Postgres::with_extension(&PgOptions { fsync: false, settings, ..PgOptions::default() });
    let mut client = server.connect();
    run(
        &mut client,
        "CREATE TABLE bare (LIKE tandem.items INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)",
    );
    let fill = format!(
        "INSERT INTO tandem.items (id, payload, state) \
         SELECT 'group.' || lpad((n / {UNDER_PREFIX})::text, 5, '0') || '.item.' || lpad(n::text, 8, '0'), \
                jsonb_build_object('id', n, 'text', repeat('x', 200)), 'state' || n % {STATES} \
         FROM generate_series(0, {} - 1) n",
        size.items
    );
    run(&mut client, &fill);
    run(&mut client, "INSERT INTO bare SELECT * FROM tandem.items");
    run(&mut client, "VACUUM ANALYZE");
    let group = format!(
        "'group.' || lpad((($1::bigint * 7919) % {})::text, 5, '0') || '.'",
        size.items / UNDER_PREFIX
    );
    let batch = format!(
        "SELECT array_agg('group.00000.item.' || lpad(n::text, 8, '0')) AS ids, \
         array_agg('{{\"n\":' || n || ',\"turn\":' || $1::bigint || ',\"text\":\"' || repeat('x', 200) || '\"}}') AS payloads \
         FROM generate_series(0, {BATCH} - 1) n"
    );
    let pairs = [
        (
            "count_state",
            "SELECT tandem.count_state('state' || $1::bigint % 10)".to_owned(),
            "SELECT count(*) FROM bare WHERE state = 'state' || $1::bigint % 10".to_owned(),
        ),
        (
            "get_state, 100 items",
            "SELECT count(*) FROM tandem.get_state('state' || $1::bigint % 10, lim => 100)".to_owned(),
            "SELECT count(*) FROM (SELECT * FROM bare WHERE state = 'state' || $1::bigint % 10 ORDER BY id LIMIT 100) b"
                .to_owned(),
        ),
        (
            "scan prefix, 100 items",
            format!("SELECT count(*) FROM tandem.scan({group}, lim => 100)"),
            format!(
                "SELECT count(*) FROM (SELECT * FROM bare WHERE id >= {group} AND id < {group} || chr(1114109) \
                 ORDER BY id LIMIT 100) b"
            ),
        ),
        (
            "count prefix",
            format!("SELECT tandem.count({group})"),
            format!("SELECT count(*) FROM bare WHERE id >= {group} AND id < {group} || chr(1114109)"),
        ),
        (
            "put_many of 500",
            format!("WITH b AS ({batch}) SELECT written FROM b, tandem.put_many(b.ids, b.payloads)"),
            format!(
                "WITH b AS ({batch}), w AS (INSERT INTO bare (id, version, \"timestamp\", payload_hash, payload) \
                 SELECT i.id, 1, 0, decode(repeat('00', 32), 'hex'), i.payload::jsonb \
                 FROM b, unnest(b.ids, b.payloads) AS i (id, payload) \
                 ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, version = bare.version + 1 RETURNING 1) \
                 SELECT count(*) FROM w"
            ),
        ),
    ];
    let method = format!(
        "{} items of about 250 bytes in {STATES} states, analysed; one connection, prepared; {} rounds in turn; medians",
        thousands(size.items as f64),
        size.rounds
    );
    begin("Items in Postgres", &method, &["tandem", "ms", "bare table, ms", "ratio of speed (range)"]);
    for (name, ours, bare) in pairs {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..size.rounds {
            times[0].push(time(&mut client, &ours, round));
            times[1].push(time(&mut client, &bare, round));
        }
        let ratio = ratio(&times[1], &times[0]);
        row(&[&name, &format!("{:.3}", median(&times[0])), &format!("{:.3}", median(&times[1])), &ratio]);
    }
}

/// Milliseconds of one answer, the mean of ten.
fn time(client: &mut Client, statement: &str, round: usize) -> f64 {
    const TIMES: usize = 10;
    let prepared =
        client.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    let start = Instant::now();
    for turn in 0..TIMES {
        let turn = i64::try_from(round * TIMES + turn).expect("a small number");
        client
            .query(&prepared, &[&turn])
            .unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    }
    start.elapsed().as_secs_f64() * 1000.0 / TIMES as f64
}
