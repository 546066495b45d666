//! Drift that is made on purpose, found exactly, and mended.

use crate::show::{self, Stage};
use std::collections::BTreeSet;
use tandem_tests::pair::Pair;
use tandem_tests::redis::{Options, ask};
use tandem_tests::sql;

/// Updated after the RDB file was written, so what it holds of them is old.
const UPDATED: [&str; 5] =
    ["iso.639-3.eng", "iso.639-3.fra", "iso.639-3.spa", "iso.3166-2.FR.NOR", "iso.3166-2.GB.ENG"];
/// Deleted from Redis by DEL while the link is down.
const DELETED: [&str; 10] = [
    "iso.639-3.aaa",
    "iso.639-3.bar",
    "iso.639-3.ces",
    "iso.639-3.zul",
    "iso.639-3.nld",
    "iso.3166-2.DE.BE",
    "iso.3166-2.DE.HH",
    "iso.3166-2.US.CA",
    "load2.iso.639-3.ita",
    "load2.iso.639-3.por",
];

/// Makes 15 differences with the link paused, has them found by a dry run and mended by a real one.
pub fn make_and_mend(stage: &mut Stage, pair: &mut Pair, count: i64) {
    stage.step(
        "Make real drift: an old RDB file, and keys deleted while the link is down",
        "no log and no notification tells of it, and the hashes show it",
    );
    make(stage, pair, count);
    stage.step(
        "Reconcile: a dry run finds exactly those 15, a real one mends them",
        "the work grows with the difference, not with the data, and nothing else is touched",
    );
    mend(stage, pair);
    pair.resume();
    stage.say("the link runs again");
    stage.roots(pair, count);
}

fn make(stage: &Stage, pair: &mut Pair, count: i64) {
    let kept = pair.redis.directory().join("before.rdb");
    ask(&mut pair.commands(), &["SAVE"]);
    std::fs::copy(pair.redis.rdb(), &kept).expect("the RDB file can be copied");
    stage.say("SAVE; the RDB file is put aside");
    for id in UPDATED {
        let statement = format!(
            "SELECT tandem.put('{id}', jsonb_set(payload, '{{edition}}', '2')) FROM tandem.get('{id}')"
        );
        sql::run(&mut pair.sql(), &statement);
    }
    stage.say(&format!("5 updates through SQL: {}", UPDATED.join(" ")));
    stage.roots(pair, count);
    pair.pause();
    pair.redis.stop();
    std::fs::remove_dir_all(pair.redis.directory().join("appendonlydir")).expect("the AOF can be removed");
    std::fs::rename(&kept, pair.redis.rdb()).expect("the RDB file can be put back");
    pair.redis.set_options(Options::in_memory());
    pair.redis.restart();
    stage.say("link paused, Redis stopped and started from the old RDB file");
    let mut words = vec!["DEL"];
    words.extend(DELETED);
    let deleted = tandem_tests::redis::ask_number(&mut pair.commands(), &words);
    stage.say(&format!("redis> {}", words.join(" ")));
    assert_eq!(deleted, 10, "DEL found {deleted} of 10 keys");
    stage.roots_now(pair);
    let (ours, theirs) = pair.roots();
    assert_ne!(ours, theirs, "there is drift and the roots are equal");
}

fn mend(stage: &Stage, pair: &Pair) {
    let before = pair.roots();
    let dry = format!("SELECT * FROM tandem.reconcile('{}', '', true)", pair.link);
    show::psql(stage, pair, &dry);
    let found = reconcile(pair, &dry);
    let expected: BTreeSet<String> = UPDATED.iter().chain(&DELETED).map(|id| (*id).to_owned()).collect();
    assert_eq!(found.answer, "differs", "the answer of the dry run");
    assert_eq!(found.ids, expected, "the ids the dry run found");
    assert_eq!(found.differences, 15, "the number the dry run found");
    assert_eq!(found.repaired, 0, "a dry run repairs nothing");
    assert_eq!(pair.roots(), before, "a dry run changes nothing");
    stage.say(&format!("exactly the 15, found by comparing {} ranges", found.ranges));
    let mended = reconcile(pair, &format!("SELECT * FROM tandem.reconcile('{}')", pair.link));
    assert_eq!((mended.differences, mended.repaired), (15, 15), "found and repaired");
    stage.say(&format!("SELECT * FROM tandem.reconcile('{}')  ->  {} repaired", pair.link, mended.repaired));
    let again = reconcile(pair, &dry);
    assert_eq!((again.answer.as_str(), again.differences), ("equal", 0), "the answer after the repair");
    stage.say(&format!("once more: {}, {} ranges compared", again.answer, again.ranges));
}

struct Reconciled {
    answer: String,
    differences: i64,
    repaired: i64,
    ranges: i64,
    ids: BTreeSet<String>,
}

fn reconcile(pair: &Pair, query: &str) -> Reconciled {
    let row = sql::rows(&mut pair.sql(), query).remove(0);
    Reconciled {
        answer: row.get("answer"),
        differences: row.get("differences"),
        repaired: row.get("repaired"),
        ranges: row.get("ranges"),
        ids: row.get::<_, Option<Vec<String>>>("ids").unwrap_or_default().into_iter().collect(),
    }
}
