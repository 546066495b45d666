//! Clients write to both sides at once while something goes wrong; then no write that a client was told of may be
//! lost, nothing removed may be alive, and both sides must be the same (DESIGN, the promise).
//!
//! A seed decides what goes wrong ([`faults::Kind`]), what the workload has beside plain writes
//! ([`company::Company`]), what the clients do, and whether Redis is a mirror or a cache. `SEED=n` runs one seed
//! again; `FAULT_SEEDS=n` sets how many there are, 20 in the long form (`make test-faults`).

mod bombs;
mod company;
mod contents;
mod evidence;
mod faults;
mod intruder;
mod ledger;
mod opened;
mod probe;
mod proxy;
mod settle;
mod speaker;
mod workload;

use company::Company;
use faults::{KINDS, Kind, Scene};
use ledger::{Entry, Outcome};
use probe::probe;
use settle::report;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use tandem_tests::sql;
use workload::{Operation, Side, Stage, Step};

const CLIENTS_EACH_SIDE: u64 = 4;
const STEPS_EACH_CLIENT: u64 = 150;

#[test]
fn no_fault_loses_an_acknowledged_write() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds: Vec<u64> = match (number("SEED"), number("FAULT_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (0..count).collect(),
        (None, None) => (0..KINDS.len() as u64 + 2).collect(),
    };
    let mut failed = String::new();
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            let text = if text.is_empty() { panic.downcast_ref::<&str>().unwrap_or(&"") } else { text };
            println!("seed {seed} failed");
            let _ = write!(failed, "\nSEED={seed} ({:?}, {:?}): {text}\n", kind(seed), Company::of(seed));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

fn kind(seed: u64) -> Kind {
    KINDS[seed as usize % KINDS.len()]
}

/// A side's clients have every other number.
fn side(client: u64) -> Side {
    if client.is_multiple_of(2) { Side::Postgres } else { Side::Redis }
}

/// Every id that steps may write to.
fn ids_of(steps: &[Vec<Step>]) -> BTreeSet<String> {
    let of_step = |step: &Step| match &step.operation {
        Operation::Batch(ids) => ids.clone(),
        _ => vec![step.id.clone()],
    };
    steps.iter().flatten().flat_map(of_step).collect()
}

fn stage(scene: &Scene, kind: Kind, company: Company) -> Stage {
    Stage {
        redis_port: AtomicU16::new(scene.redis.port()),
        postgres_port: scene.postgres.port(),
        postgres_steps: AtomicU64::new(0),
        redis_steps: AtomicU64::new(0),
        steps_each_side: CLIENTS_EACH_SIDE * STEPS_EACH_CLIENT,
        filler: if kind == Kind::MemoryFull { 2000 } else { 20 },
        replicated: AtomicBool::new(kind == Kind::Failover),
        company,
        is_lazy: kind == Kind::LazyCommits,
        faults: AtomicU64::new(0),
        crashes: AtomicU64::new(0),
        confirmed: Mutex::new(Vec::new()),
        problems: Mutex::new(Vec::new()),
        verdicts: Mutex::new(BTreeMap::new()),
        slow: AtomicU64::new(0),
        slowest_ms: AtomicU64::new(0),
    }
}

fn run(seed: u64) {
    let (kind, company) = (kind(seed), Company::of(seed));
    let steps: Vec<Vec<Step>> = (0..2 * CLIENTS_EACH_SIDE)
        .map(|client| workload::steps(seed, client, STEPS_EACH_CLIENT, company))
        .collect();
    let mut scene = Scene::start(seed, kind, company, ids_of(&steps));
    let stage = stage(&scene, kind, company);
    let mut entries: Vec<Entry> = std::thread::scope(|scope| {
        let stage = &stage;
        let clients = (0..)
            .zip(&steps)
            .map(|(client, steps)| scope.spawn(move || workload::run(stage, side(client), client, steps)));
        let mut threads: Vec<_> = clients.collect();
        threads.extend(scene.disturb(stage, scope));
        threads.into_iter().flat_map(|thread| thread.join().expect("a client ends")).collect()
    });
    scene.after(&entries);
    let number = stage.faults.fetch_add(1, Ordering::SeqCst) + 1;
    entries.extend(probe(&stage, number, scene.is_cache, true));
    settle::prepare(&scene, &stage, &entries);
    settle::settle(&scene, &stage, &ledger::ids(&entries), true);
    if !scene.opened.is_empty() {
        // Nothing of that waited for these.
        entries.extend(scene.opened.end(&scene.postgres, &stage));
        settle::settle(&scene, &stage, &ledger::ids(&entries), true);
    }
    let last = settle::compare(&scene, &stage, &entries);
    evidence::discount(&mut entries, &scene.evidence);
    let mut client = scene.postgres.connect();
    let mut problems = ledger::judge(&mut client, &entries, &last, &stage);
    problems.extend(stage.problems.lock().expect("nobody panics with it").drain(..));
    problems.extend(bombs::unequal_verdicts(&stage));
    assert!(problems.is_empty(), "{} problems:\n{}\n{}", problems.len(), problems.join("\n"), report(&scene));
    let letters: i64 = sql::value(&mut client, "SELECT count(*) FROM tandem.dead_letters");
    assert_eq!(letters, 0, "nothing was set aside\n{}", report(&scene));
    summarize(seed, &scene, &stage, &entries, &last);
}

fn summarize(
    seed: u64,
    scene: &Scene,
    stage: &Stage,
    entries: &[Entry],
    last: &BTreeMap<String, contents::Held>,
) {
    let conflicts: i64 = sql::value(&mut scene.postgres.connect(), "SELECT count(*) FROM tandem.conflicts");
    let unknown = entries.iter().filter(|entry| entry.outcome == Outcome::Unknown).count();
    let items = last.values().filter(|held| held.live.is_some()).count();
    println!(
        "seed {seed}: {:?}{}, {:?}: {} acknowledged, {unknown} unknown, {items} items at the end, \
         {conflicts} conflicts; {} probes over {} s, the slowest {} ms",
        kind(seed),
        if scene.is_cache { " of a cache" } else { "" },
        stage.company,
        entries.len() - unknown,
        stage.slow.load(Ordering::SeqCst),
        probe::SLOW.as_secs(),
        stage.slowest_ms.load(Ordering::SeqCst),
    );
}
