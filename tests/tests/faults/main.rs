//! Clients write to both sides at once while something goes wrong; then no write that a client was told of may be
//! lost, nothing removed may be alive, and both sides must be the same (DESIGN, the promise).
//!
//! A seed decides what goes wrong, what the clients do, and whether Redis is a mirror or a cache. `SEED=n` runs one seed again; `FAULT_SEEDS=n` sets how
//! many there are, 20 in the long form (`make test-faults`).

mod faults;
mod ledger;
mod proxy;
mod workload;

use faults::{KINDS, Scene};
use ledger::{Entry, Outcome};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};
use tandem_shared::Revision;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{root_of_postgres, root_of_redis};
use tandem_tests::redis::{ask_text, send};
use tandem_tests::sql;
use tandem_tests::wait::{self, DEADLINE};
use workload::{Side, Stage};

const CLIENTS_EACH_SIDE: u64 = 4;
const STEPS_EACH_CLIENT: u64 = 150;

#[test]
fn no_fault_loses_an_acknowledged_write() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FAULT_SEEDS").unwrap_or(KINDS.len() as u64 + 4),
    };
    let mut failed = String::new();
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            let text = if text.is_empty() { panic.downcast_ref::<&str>().unwrap_or(&"") } else { text };
            println!("seed {seed} failed");
            let _ = write!(failed, "\nSEED={seed} ({:?}): {text}\n", kind(seed));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

fn kind(seed: u64) -> faults::Kind {
    KINDS[seed as usize % KINDS.len()]
}

fn run(seed: u64) {
    let kind = kind(seed);
    let mut scene = Scene::start(seed, kind);
    let stage = Stage {
        redis_port: AtomicU16::new(scene.redis.port()),
        postgres_port: scene.postgres.port(),
        postgres_steps: AtomicU64::new(0),
        redis_steps: AtomicU64::new(0),
        steps_each_side: CLIENTS_EACH_SIDE * STEPS_EACH_CLIENT,
        filler: if kind == faults::Kind::MemoryFull { 2000 } else { 20 },
        replicated: AtomicBool::new(kind == faults::Kind::Failover),
    };
    let entries: Vec<Entry> = std::thread::scope(|scope| {
        let stage = &stage;
        let clients: Vec<_> = (0..2 * CLIENTS_EACH_SIDE)
            .map(|client| {
                let side = if client % 2 == 0 { Side::Postgres } else { Side::Redis };
                let steps = workload::steps(seed, client, STEPS_EACH_CLIENT);
                scope.spawn(move || workload::run(stage, side, client, &steps))
            })
            .collect();
        scene.disturb(stage);
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    });
    scene.after(&entries);
    let last = settle(&scene, &entries);
    let problems = ledger::judge(&mut scene.postgres.connect(), &entries, &last);
    assert!(problems.is_empty(), "{} losses:\n{}\n{}", problems.len(), problems.join("\n"), report(&scene));
    let census = check_postgres(&mut scene.postgres.connect(), "in Postgres");
    assert_eq!(census, check_redis(&mut scene.redis.connect(), "in Redis"));
    let mut client = scene.postgres.connect();
    let letters: i64 = sql::value(&mut client, "SELECT count(*) FROM tandem.dead_letters");
    assert_eq!(letters, 0, "nothing was set aside\n{}", report(&scene));
    let conflicts: i64 = sql::value(&mut client, "SELECT count(*) FROM tandem.conflicts");
    let unknown = entries.iter().filter(|entry| entry.outcome == Outcome::Unknown).count();
    println!(
        "seed {seed}: {kind:?}{}, {} acknowledged, {unknown} unknown, {} items at the end, {conflicts} conflicts",
        if scene.is_cache { " of a cache" } else { "" },
        entries.len() - unknown,
        census.count
    );
}

/// Waits until both sides have caught up: equal roots, nothing waiting, and every id that was written to stands
/// equal, removed ones too. Returns what the ids are.
fn settle(scene: &Scene, entries: &[Entry]) -> BTreeMap<String, Revision> {
    let ids = ledger::ids(entries);
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let mut last = BTreeMap::new();
    let unequal = RefCell::new(Vec::new());
    wait::until_or(
        DEADLINE,
        || {
            if scene.is_cache {
                // Then it has everything.
                let mut all: BTreeSet<String> = ids.clone();
                all.extend(
                    sql::rows(&mut client, "SELECT id FROM tandem.items").iter().map(|row| row.get(0)),
                );
                let words: Vec<&str> =
                    std::iter::once("TANDEM.EXISTS").chain(all.iter().map(|id| id.as_str())).collect();
                if send(&mut connection, &words).is_err() {
                    return false;
                }
            }
            last = ledger::revisions_of_redis(&mut connection, ids.iter());
            let there = ledger::standings_of_postgres(&mut client);
            let standing = |id: &String| last.get(id).map(|revision| ledger::standing(id, revision));
            let mut unequal = unequal.borrow_mut();
            unequal.clear();
            for id in &ids {
                if standing(id) != there.get(id).cloned() {
                    unequal.push(format!(
                        "{id}: {:?} in Postgres, {:?} in Redis",
                        there.get(id),
                        standing(id)
                    ));
                }
            }
            unequal.is_empty()
                && ledger::waiting(&mut connection) == Some(0)
                && root_of_postgres(&mut client) == root_of_redis(&mut connection)
        },
        || {
            format!(
                "both sides are the same; these differ:\n{}\n{}",
                unequal.borrow().join("\n"),
                report(scene)
            )
        },
    );
    last
}

/// What the servers say of themselves, for messages.
fn report(scene: &Scene) -> String {
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let mut lines =
        |query: &str| -> Vec<String> { sql::rows(&mut client, query).iter().map(|row| row.get(0)).collect() };
    let links = lines("SELECT l::text FROM tandem.links() l");
    let conflicts = lines("SELECT format('%s %s', id, version) FROM tandem.conflicts");
    let letters = lines("SELECT d::text FROM tandem.dead_letters d");
    let differences = lines("SELECT r::text FROM tandem.links() l, tandem.reconcile(l.name, '', true) r");
    let verified = lines("SELECT v::text FROM tandem.verify() v");
    let counted = tandem_tests::redis::ask(&mut connection, &["TANDEM.VERIFY"]);
    let undead = lines("SELECT id FROM tandem.items JOIN tandem.tombstones USING (id)");
    format!(
        "alive with a tombstone {undead:?}\nverify {verified:?} and {counted:?}\ndifferences {differences:?}\nlinks {links:?}\nconflicts {conflicts:?}\nset aside {letters:?}\nwaiting in Redis {:?}\nINFO {}\n{}\n{}",
        ledger::waiting(&mut connection),
        ask_text(&mut connection, &["INFO", "tandem"]).unwrap_or_default(),
        scene.postgres.log_tail(),
        scene.redis.log_tail(),
    )
}
