//! Writes by SQL against the same upsert on a bare table, and the fold of the change log.

use crate::table::{begin, per_second, ratio, row, thousands};
use crate::{Size, payload};
use postgres::Client;
use std::time::Instant;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{error_text, run, value};

const BATCH: usize = 500;

/// The same columns, keys and checks, and nothing behind them.
const BARE: &str =
    "CREATE TABLE bare (LIKE tandem.items INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)";
const UPSERT_BARE: &str = "INSERT INTO bare (id, version, \"timestamp\", payload_hash, payload) \
    SELECT id, 1, 0, decode(repeat('00', 32), 'hex'), payload::jsonb FROM unnest($1::text[], $2::text[]) AS i (id, payload) \
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, version = bare.version + 1";
const UPSERT_ITEMS: &str = "INSERT INTO tandem.items AS items (id, payload) \
    SELECT id, payload::jsonb FROM unnest($1::text[], $2::text[]) AS i (id, payload) \
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload";
const PUT_MANY: &str = "SELECT written FROM tandem.put_many($1::text[], $2::text[])";

/// Measures batches of 500: first of new ids, then of the same ids with other content.
pub fn measure(size: Size) {
    let server = Postgres::with_extension(&options());
    let mut client = server.connect();
    run(&mut client, BARE);
    let ways = [("bare", UPSERT_BARE), ("dml", UPSERT_ITEMS), ("put", PUT_MANY)];
    let (mut inserts, mut updates) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for round in 0..size.rounds {
        for (way, (name, statement)) in ways.iter().enumerate() {
            let prefix = format!("{name}.{round}");
            inserts[way].push(batches(&mut client, statement, &prefix, "first", size.batches));
            updates[way].push(batches(&mut client, statement, &prefix, "second", size.batches));
        }
    }
    let method = format!(
        "batches of {BATCH}, one transaction each, commits on disk, 250 bytes of JSON; {} rounds in turn of {} batches; \
         medians of rows per second",
        size.rounds, size.batches
    );
    let names = ["upsert of a bare table", "upsert of tandem.items", "tandem.put_many"];
    table("SQL writes", &method, names, [inserts, updates]);
    singles(&mut client, size);
}

const UPSERT_ONE_BARE: &str = "INSERT INTO bare (id, version, \"timestamp\", payload_hash, payload) \
    VALUES ($1::text, 1, 0, decode(repeat('00', 32), 'hex'), $2::text::jsonb) \
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, version = bare.version + 1";
const UPSERT_ONE_ITEM: &str = "INSERT INTO tandem.items AS items (id, payload) VALUES ($1::text, $2::text::jsonb) \
    ON CONFLICT (id) DO UPDATE SET payload = excluded.payload";
const PUT_ONE: &str = "SELECT changed FROM tandem.put($1::text, $2::text)";

/// Measures single writes. Commits do not wait for the disk, which would hide all else.
fn singles(client: &mut Client, size: Size) {
    run(client, "SET synchronous_commit = off");
    let ways = [("one.bare", UPSERT_ONE_BARE), ("one.dml", UPSERT_ONE_ITEM), ("one.put", PUT_ONE)];
    let (mut inserts, mut updates) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    let count = size.batches * 50;
    for round in 0..size.rounds {
        for (way, (name, statement)) in ways.iter().enumerate() {
            let prefix = format!("{name}.{round}");
            inserts[way].push(one_by_one(client, statement, &prefix, "first", count));
            updates[way].push(one_by_one(client, statement, &prefix, "second", count));
        }
    }
    run(client, "RESET synchronous_commit");
    let method = format!(
        "one row a statement and transaction, prepared, commits not waited for; {} rounds in turn of {count} writes; \
         medians of rows per second",
        size.rounds
    );
    table(
        "Single SQL writes",
        &method,
        ["upsert of a bare table", "upsert of tandem.items", "tandem.put"],
        [inserts, updates],
    );
}

/// Writes per second, each a transaction.
fn one_by_one(client: &mut Client, statement: &str, prefix: &str, content: &str, count: usize) -> f64 {
    let prepared =
        client.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    let start = Instant::now();
    for row in 0..count {
        let number = format!("{:08}", row.wrapping_mul(7919) % count);
        let (id, payload) = (format!("{prefix}.{number}"), payload(&format!("{content}{number}")));
        client
            .execute(&prepared, &[&id, &payload])
            .unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Prints rates of new and of existing ids; the first way is what the others are compared with.
fn table(title: &str, method: &str, names: [&str; 3], [inserts, updates]: [[Vec<f64>; 3]; 2]) {
    begin(
        title,
        method,
        &["write", "new ids", "ratio to bare (range)", "existing ids", "ratio to bare (range)"],
    );
    for (way, name) in names.iter().enumerate() {
        let ratios = (ratio(&inserts[way], &inserts[0]), ratio(&updates[way], &updates[0]));
        row(&[name, &per_second(&inserts[way]), &ratios.0, &per_second(&updates[way]), &ratios.1]);
    }
}

/// Measures how fast the log is folded into the blocks: into an empty set, then all over a filled one.
pub fn measure_fold(size: Size) {
    let server = Postgres::with_extension(&options());
    let mut client = server.connect();
    let method =
        "from a statement's commit until the log is folded into the blocks, by tandem.fold() and the worker"
            .to_owned();
    begin("Fold", &method, &["changes", "rows that are there", "ms", "changes/s"]);
    let count = size.linked * 2;
    let mut there = 0;
    let statements = [
        format!(
            "INSERT INTO tandem.items (id, payload) SELECT md5(n::text), '1' FROM generate_series(1, {count}) n"
        ),
        "UPDATE tandem.items SET payload = '2'".to_owned(),
        "UPDATE tandem.items SET payload = '3' WHERE id < '2'".to_owned(),
    ];
    for statement in statements {
        run(&mut client, &statement);
        let pending: i64 = value(&mut client, "SELECT tandem.dirty_count()");
        let start = Instant::now();
        // The worker folds too; whoever holds the lock goes on.
        while value::<i64>(&mut client, "SELECT tandem.fold()") > 0
            || value::<i64>(&mut client, "SELECT tandem.dirty_count()") > 0
        {}
        let seconds = start.elapsed().as_secs_f64();
        let rate = thousands(pending as f64 / seconds);
        row(&[&pending, &there, &format!("{:.0}", seconds * 1000.0), &rate]);
        there = count;
    }
}

fn options() -> Options {
    let settings = ["shared_buffers = '512MB'", "max_wal_size = '4GB'"].map(str::to_owned).to_vec();
    Options { fsync: true, settings, ..Options::default() }
}

/// Rows per second of so many batches.
fn batches(client: &mut Client, statement: &str, prefix: &str, content: &str, count: usize) -> f64 {
    let prepared =
        client.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    let all: Vec<(Vec<String>, Vec<String>)> = (0..count)
        .map(|batch| {
            (0..BATCH)
                .map(|row| {
                    let number = format!("{:08}", (batch * BATCH + row).wrapping_mul(7919) % (count * BATCH));
                    (format!("{prefix}.{number}"), payload(&format!("{content}{number}")))
                })
                .unzip()
        })
        .collect();
    let start = Instant::now();
    for (ids, payloads) in &all {
        client
            .execute(&prepared, &[ids, payloads])
            .unwrap_or_else(|error| panic!("{statement}: {}", error_text(&error)));
    }
    (count * BATCH) as f64 / start.elapsed().as_secs_f64()
}
