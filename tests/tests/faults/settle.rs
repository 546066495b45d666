//! Waiting until both sides have caught up, and what each company asks for before that.

use crate::company::{COUNTER, Company, is_cursed, may_pass};
use crate::contents::{self, Held};
use crate::faults::Scene;
use crate::ledger::{self, Entry};
use crate::workload::Stage;
use ::postgres::Client;
use ::redis::{Connection, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use tandem_shared::content::canonicalize;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{root_of_postgres, root_of_redis};
use tandem_tests::redis::{ask, ask_number, ask_text, send};
use tandem_tests::sql;
use tandem_tests::wait::{self, DEADLINE};

/// Waits until both sides have caught up: nothing waiting, and every id that was written to stands equal, removed ones
/// too. Where `is_all`, the roots are equal as well; without it cursed ids are passed over.
pub fn settle(scene: &Scene, stage: &Stage, ids: &BTreeSet<String>, is_all: bool) {
    let ids: Vec<&String> = ids.iter().filter(|id| is_all || !is_cursed(id)).collect();
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let unequal = RefCell::new(Vec::new());
    wait::until_or(
        DEADLINE,
        || {
            if scene.is_cache && !has_all(&mut client, &mut connection, &ids) {
                return false;
            }
            let there = ledger::standings_of_postgres(&mut client);
            let mut unequal = unequal.borrow_mut();
            unequal.clear();
            for page in ids.chunks(200) {
                let found = ledger::revisions_of_redis(&mut connection, page.iter().copied());
                for id in page {
                    let standing = found.get(*id).map(|revision| ledger::standing(id, revision));
                    let in_postgres = there.get(*id);
                    let is_equal = standing.as_ref() == in_postgres
                        || (standing.is_none()
                            && stage.company == Company::Expiring
                            && ledger::status_of_redis(&mut connection, id) == "expired");
                    if !is_equal {
                        unequal.push(format!("{id}: {in_postgres:?} in Postgres, {standing:?} in Redis"));
                    }
                }
            }
            unequal.is_empty()
                && (!is_all
                    || (ledger::waiting(&mut connection) == Some(0)
                        && root_of_postgres(&mut client) == root_of_redis(&mut connection)))
        },
        || {
            let unequal = unequal.borrow().join("\n");
            format!("both sides are the same; these differ:\n{unequal}\n{}", report(scene))
        },
    );
}

/// Makes a cache read all there is. Whether it could.
fn has_all(client: &mut Client, connection: &mut Connection, ids: &[&String]) -> bool {
    let mut all: BTreeSet<String> = ids.iter().map(|id| (*id).clone()).collect();
    all.extend(sql::rows(client, "SELECT id FROM tandem.items").iter().map(|row| row.get(0)));
    let words: Vec<&str> = std::iter::once("TANDEM.EXISTS").chain(all.iter().map(String::as_str)).collect();
    send(connection, &words).is_ok()
}

/// What must hold before both sides can be the same, and what is done for it.
pub fn prepare(scene: &Scene, stage: &Stage, entries: &[Entry]) {
    match stage.company {
        Company::Triggers => lift_the_curse(scene, stage, entries),
        Company::Expiring => let_expire(scene, stage),
        Company::Plain | Company::Bombs | Company::Limited => {}
    }
}

/// What the trigger refuses is set aside, or tried again where the SQLSTATE says that it may pass, and holds up nothing
/// else; without the trigger it can be taken.
fn lift_the_curse(scene: &Scene, stage: &Stage, entries: &[Entry]) {
    let ids = ledger::ids(entries);
    settle(scene, stage, &ids, false);
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let missing = RefCell::new(Vec::new());
    wait::until_or(
        DEADLINE,
        || {
            let letters = sql::rows(
                &mut client,
                "SELECT DISTINCT id FROM tandem.dead_letters WHERE direction = 'from_redis'",
            );
            let letters: BTreeSet<String> = letters.iter().map(|row| row.get(0)).collect();
            let cursed = ids.iter().filter(|id| is_cursed(id) && !may_pass(id) && !letters.contains(*id));
            // A removal is taken, as there is nothing that a trigger could see.
            missing.replace(
                cursed.filter(|id| ask_number(&mut connection, &["EXISTS", id]) > 0).cloned().collect(),
            );
            missing.borrow().is_empty()
        },
        || {
            format!(
                "what a trigger refuses is set aside; these are not: {:?}\n{}",
                missing.borrow(),
                report(scene)
            )
        },
    );
    sql::run(&mut client, "DROP TRIGGER curses ON tandem.items");
    wait::until_or(
        DEADLINE,
        || {
            sql::rows(&mut client, "SELECT * FROM tandem.retry_dead_letters()");
            sql::value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters") == 0
        },
        || format!("what was set aside is taken\n{}", report(scene)),
    );
}

/// Waits until everything is gone that has a time to live. What was only ever put with one has it to the end in a mirror; a
/// cache fetches what has expired when it is asked for, and Postgres knows of no time to live.
fn let_expire(scene: &Scene, stage: &Stage) {
    let mut connection = scene.redis.connect();
    wait::until("what has a time to live is gone", DEADLINE, || {
        let Value::Array(keys) = ask(&mut connection, &["KEYS", "*"]) else {
            panic!("KEYS answers with an array")
        };
        let keys = keys.iter().filter_map(|key| match key {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        });
        keys.collect::<Vec<_>>().iter().all(|key| {
            let left = ask_number(&mut connection, &["PTTL", key]);
            if left == -1 && key.starts_with("brief.") && !scene.is_cache {
                stage.complain(format!("{key} has come back without its time to live"));
            }
            left < 0
        })
    });
}

/// Holds both sides against each other to the byte, and each against what it says of itself. Returns what they hold.
pub fn compare(scene: &Scene, stage: &Stage, entries: &[Entry]) -> BTreeMap<String, Held> {
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let there = contents::of_redis(&mut connection, &ledger::ids(entries));
    let here = contents::of_postgres(&mut client);
    let differences = contents::differences(&here, &there, stage.company);
    assert!(
        differences.is_empty(),
        "{} ids differ under equal roots:\n{}\n{}",
        differences.len(),
        differences.join("\n"),
        report(scene)
    );
    let census = check_postgres(&mut client, "in Postgres");
    let ghosts = here.keys().filter(|id| !there.contains_key(*id)).count();
    if ghosts == 0 {
        assert_eq!(census, check_redis(&mut connection, "in Redis"));
    } else {
        // Redis has the digests of these, and its root is of them too.
        let verified = ask(&mut connection, &["TANDEM.VERIFY"]);
        let Value::Array(words) = &verified else { panic!("TANDEM.VERIFY answers with a record") };
        assert_eq!(words[1], Value::Int(1), "TANDEM.VERIFY answers {verified:?}");
        let count = ask_number(&mut connection, &["TANDEM.COUNT"]) as u64;
        assert_eq!(census.count, count + ghosts as u64, "what has expired is in Postgres");
    }
    let link = &scene.link;
    let checked = format!("SELECT answer, r::text FROM tandem.reconcile('{link}', '', true) r");
    let row = sql::rows(&mut client, &checked).remove(0);
    assert_eq!(row.get::<_, &str>(0), "equal", "a check: {}", row.get::<_, &str>(1));
    if stage.company == Company::Triggers {
        let fired: i64 = sql::value(&mut client, "SELECT count(*) FROM public.fired");
        let counter = canonicalize(format!("{{\"n\":{fired}}}").as_bytes()).expect("JSON");
        let held = here.get(COUNTER).and_then(|held| held.live.as_ref()).map(|(_, _, content)| content);
        assert_eq!(held, Some(&counter), "the trigger has counted what has fired it");
    }
    here
}

/// What the servers say of themselves, for messages.
pub fn report(scene: &Scene) -> String {
    let (mut client, mut connection) = (scene.postgres.connect(), scene.redis.connect());
    let mut lines =
        |query: &str| -> Vec<String> { sql::rows(&mut client, query).iter().map(|row| row.get(0)).collect() };
    let links = lines("SELECT l::text FROM tandem.links() l");
    let conflicts = lines("SELECT format('%s %s', id, version) FROM tandem.conflicts");
    let letters = lines("SELECT d::text FROM tandem.dead_letters d");
    let differences = lines("SELECT r::text FROM tandem.links() l, tandem.reconcile(l.name, '', true) r");
    let verified = lines("SELECT v::text FROM tandem.verify() v");
    let counted = ask(&mut connection, &["TANDEM.VERIFY"]);
    let undead = lines("SELECT id FROM tandem.items JOIN tandem.tombstones USING (id)");
    format!(
        "alive with a tombstone {undead:?}\nverify {verified:?} and {counted:?}\ndifferences {differences:?}\n\
         links {links:?}\nconflicts {conflicts:?}\nset aside {letters:?}\n\
         waiting in Redis {:?}\nINFO {}\n{}\n{}",
        ledger::waiting(&mut connection),
        ask_text(&mut connection, &["INFO", "tandem"]).unwrap_or_default(),
        scene.postgres.log_tail(),
        scene.redis.log_tail(),
    )
}
