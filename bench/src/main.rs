//! Measures tandem against bare Redis and bare Postgres: in one run, on one machine, in alternating rounds, so that
//! ratios mean something where absolute figures do not. Prints the tables of bench/README.md.
//!
//! `QUICK=1` takes sizes that prove the benchmark works and measure nothing. Words after the program's name pick
//! sections: redis, sql, fold, items, link, lag, readthrough, reconcile.

mod items;
mod lag;
mod link;
mod machine;
mod readthrough;
mod reconcile;
mod redis_commands;
mod sql_writes;
mod table;

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Rounds of which the median is taken.
    rounds: usize,
    /// Requests of redis-benchmark a round.
    requests: usize,
    /// Keys they are spread over.
    keys: usize,
    /// Batches of 500 a round.
    batches: usize,
    /// Items among which states and prefixes are asked for.
    items: usize,
    /// Questions a round.
    questions: usize,
    /// Items that go over the link, each way.
    linked: usize,
    /// How long writes go over the link at a steady rate.
    paced_seconds: usize,
    /// Reads a round of one connection that reads through; of many, each does a quarter.
    reads: usize,
    /// Items that are reconciled, and how many of them differ.
    reconciled: [(usize, usize); 4],
}

const FULL: Size = Size {
    rounds: 5,
    requests: 400_000,
    keys: 100_000,
    batches: 40,
    items: 1_000_000,
    questions: 10_000,
    linked: 100_000,
    paced_seconds: 10,
    reads: 4_000,
    reconciled: [(100_000, 10), (1_000_000, 10), (1_000_000, 1_000), (1_000_000, 100_000)],
};
const QUICK: Size = Size {
    rounds: 2,
    requests: 20_000,
    keys: 5_000,
    batches: 4,
    items: 20_000,
    questions: 1_000,
    linked: 5_000,
    paced_seconds: 1,
    reads: 400,
    reconciled: [(5_000, 10), (20_000, 10), (20_000, 100), (20_000, 2_000)],
};

fn main() {
    let size = if std::env::var_os("QUICK").is_some() { QUICK } else { FULL };
    let picked: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |section: &str| picked.is_empty() || picked.iter().any(|word| word == section);
    machine::print();
    if wanted("redis") {
        redis_commands::measure(size);
    }
    if wanted("sql") {
        sql_writes::measure(size);
    }
    if wanted("fold") {
        sql_writes::measure_fold(size);
    }
    if wanted("items") {
        items::measure(size);
    }
    if wanted("link") {
        link::measure(size);
    }
    if wanted("lag") {
        lag::measure(size);
    }
    if wanted("readthrough") {
        readthrough::measure(size);
    }
    if wanted("reconcile") {
        reconcile::measure(size);
    }
}

/// 250 bytes of JSON; `text` makes one differ from the next.
fn payload(text: &str) -> String {
    let head =
        format!("{{\"id\":\"{text}\",\"name\":\"a person\",\"age\":42,\"tags\":[\"a\",\"b\"],\"text\":\"");
    let filler = 250_usize.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "x".repeat(filler))
}
