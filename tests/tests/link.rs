//! The link: what is written on either side reaches the other, whatever is killed meanwhile. Nothing here waits
//! for a time to pass; everything waits for a state, and checks both sides from the ground up when it is there.

use ::redis::{Connection, Value};
use postgres::Client;
use std::collections::BTreeSet;
use tandem_tests::census::{Census, check_postgres, check_redis};
use tandem_tests::pair::{Pair, count_of_postgres, link, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text};
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Both sides hold the same, checked without their indexes.
fn same(pair: &Pair, count: i64) -> Census {
    pair.settle_at(count);
    let census = check_postgres(&mut pair.sql(), "in Postgres");
    assert_eq!(census, check_redis(&mut pair.commands(), "in Redis"));
    census
}

fn put(redis: &mut Connection, id: &str, payload: &str) {
    ask(redis, &["TANDEM.PUT", id, payload]);
}

fn fill_redis(redis: &mut Connection, prefix: &str, count: usize) {
    (0..count).for_each(|number| put(redis, &format!("{prefix}{number:04}"), &format!("{{\"n\":{number}}}")));
}

fn fill_postgres(client: &mut Client, prefix: &str, count: usize) {
    run(
        client,
        &format!(
            "INSERT INTO tandem.items (id, payload) SELECT '{prefix}' || to_char(n, 'FM0000'), \
             jsonb_build_object('n', n) FROM generate_series(0, {count} - 1) n"
        ),
    );
}

fn payload_in_postgres(client: &mut Client, id: &str) -> Option<String> {
    let query = format!("SELECT payload::text FROM tandem.items WHERE id = '{id}'");
    rows(client, &query).first().map(|row| row.get(0))
}

fn payload_in_redis(redis: &mut Connection, id: &str) -> Option<String> {
    match ask(redis, &["TANDEM.GET", id]) {
        Value::Array(words) => match &words[11] {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            other => panic!("the payload of {id} is {other:?}"),
        },
        _ => None,
    }
}

#[test]
fn writes_and_removals_go_both_ways() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    fill_redis(&mut redis, "r.", 100);
    fill_postgres(&mut client, "p.", 100);
    same(&pair, 200);
    assert_eq!(payload_in_postgres(&mut client, "r.0042").as_deref(), Some(r#"{"n": 42}"#));
    assert_eq!(payload_in_redis(&mut redis, "p.0042").as_deref(), Some(r#"{"n":42}"#));

    ask(
        &mut redis,
        &["TANDEM.PUT", "p.0001", "bytes \u{1}", "BINARY", "STATE", "delta", "AUDIT", "{\"home\":\"r\"}"],
    );
    run(&mut client, "SELECT tandem.put('r.0001', '[2]', state => 'base')");
    run(&mut client, "UPDATE tandem.items SET payload = '[3]' WHERE id = 'r.0002'");
    ask(&mut redis, &["TANDEM.REMOVE", "p.0003"]);
    run(&mut client, "SELECT tandem.delete('r.0003')");
    run(&mut client, "DELETE FROM tandem.items WHERE id = 'r.0004'");
    same(&pair, 197);
    let blob: Option<Vec<u8>> = value(&mut client, "SELECT payload_blob FROM tandem.get('p.0001')");
    assert_eq!(blob.as_deref(), Some("bytes \u{1}".as_bytes()));
    let home: String = value(&mut client, "SELECT state || (audit->>'home') FROM tandem.get('p.0001')");
    assert_eq!(home, "deltar");
    assert_eq!(payload_in_redis(&mut redis, "r.0002").as_deref(), Some("[3]"));

    // What was removed counts on from its tombstone on the other side too.
    put(&mut redis, "r.0003", "[1]");
    pair.settle("the item is back", |client, _| payload_in_postgres(client, "r.0003").is_some());
    let version: i64 = value(&mut client, "SELECT version FROM tandem.get('r.0003')");
    assert_eq!(version, 3);
    let conflicts: i64 = value(&mut client, "SELECT count(*) FROM tandem.conflicts");
    assert_eq!(conflicts, 0, "nobody wrote against another");
    let letters: i64 = value(&mut client, "SELECT count(*) FROM tandem.dead_letters");
    assert_eq!(letters, 0, "nothing was set aside");
}

#[test]
fn transactions_arrive_whole_or_not_at_all() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    // Its stream tells of every write that Redis has ever seen.
    ask(&mut redis, &["CONFIG", "SET", "tandem.cdc-maxlen", "1000000"]);
    run(&mut client, "BEGIN; SELECT tandem.put('no', '1'); ROLLBACK");
    run(
        &mut client,
        "BEGIN; SAVEPOINT a; SELECT tandem.put('no', '1'), tandem.put('large.0000', '\"no\"'); ROLLBACK TO a; \
         DO $$ BEGIN PERFORM tandem.put('no', '1'); PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$; COMMIT",
    );
    fill_postgres(&mut client, "large.", 5000);
    same(&pair, 5000);
    let told = format!("{:?}", ask(&mut redis, &["XRANGE", "tandem:cdc", "-", "+"]));
    assert!(told.contains("large.4999"), "the stream tells of writes");
    assert!(
        !told.contains("\"no\"") && payload_in_redis(&mut redis, "no").is_none(),
        "what was rolled back left a trace"
    );
    run(&mut client, "TRUNCATE tandem.items");
    same(&pair, 0);
    assert_eq!(ask_number(&mut redis, &["DBSIZE"]), 1, "TRUNCATE is a removal of everything but the stream");
}

#[test]
fn an_open_transaction_holds_back_nothing_that_comes_after_it() {
    let pair = Pair::start();
    let (mut first, mut second) = (pair.sql(), pair.sql());
    run(&mut first, "BEGIN; SELECT tandem.put('early', '1')");
    run(&mut second, "SELECT tandem.put('late', '2')");
    run(&mut first, "COMMIT");
    same(&pair, 2);
}

#[test]
fn equal_versions_of_both_sides_meet_and_the_loser_is_recorded() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "both", "1");
    same(&pair, 1);
    pair.pause();
    put(&mut redis, "both", r#"{"from":"redis"}"#);
    run(&mut client, r#"SELECT tandem.put('both', '{"from":"postgres"}')"#);
    pair.resume();
    pair.settle("the conflict is settled and recorded", |client, _| {
        value::<i64>(client, "SELECT count(*) FROM tandem.conflicts WHERE id = 'both'") > 0
    });
    let losers: Vec<Vec<u8>> = rows(&mut client, "SELECT loser FROM tandem.conflicts WHERE id = 'both'")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(losers.len(), 1, "one write lost");
    let loser =
        tandem_shared::codec::decode(&losers[0], tandem_shared::codec::Source::Foreign).expect("a revision");
    let loser = String::from_utf8_lossy(loser.content().expect("a live one").bytes()).into_owned();
    let winner = payload_in_redis(&mut redis, "both").expect("the item is there");
    let seen = BTreeSet::from([loser.as_str(), winner.as_str()]);
    assert_eq!(seen, BTreeSet::from([r#"{"from":"postgres"}"#, r#"{"from":"redis"}"#]));
    same(&pair, 1);
}

#[test]
fn redis_is_killed_and_comes_back() {
    let mut pair = Pair::start();
    let mut client = pair.sql();
    fill_redis(&mut pair.commands(), "r.", 300);
    pair.redis.kill_hard();
    fill_postgres(&mut client, "p.", 300);
    run(&mut client, "DELETE FROM tandem.items WHERE id = 'p.0000'");
    pair.redis.restart();
    fill_redis(&mut pair.commands(), "after.", 10);
    same(&pair, 609);
}

#[test]
fn redis_comes_back_with_nothing_and_is_filled_again() {
    let mut pair = Pair::with(&pg::Options::default(), Options::in_memory());
    fill_redis(&mut pair.commands(), "r.", 200);
    fill_postgres(&mut pair.sql(), "p.", 200);
    let before = same(&pair, 400);
    pair.redis.kill_hard();
    pair.redis.restart();
    assert_eq!(same(&pair, 400), before);
}

#[test]
fn the_worker_is_killed() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for round in 0..3 {
        fill_redis(&mut redis, &format!("r{round}."), 100);
        let workers =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type LIKE 'tandem%'";
        let killed: i64 = value(&mut client, workers);
        assert!(killed > 0 || round > 0, "the worker shows itself in pg_stat_activity as tandem…");
        fill_postgres(&mut client, &format!("p{round}."), 100);
        same(&pair, 200 * (round + 1));
    }
}

#[test]
fn postgres_is_killed_and_comes_back() {
    let mut pair = Pair::start();
    fill_postgres(&mut pair.sql(), "p.", 300);
    fill_redis(&mut pair.commands(), "r.", 300);
    pair.postgres.kill_hard();
    fill_redis(&mut pair.commands(), "meanwhile.", 300);
    ask(&mut pair.commands(), &["TANDEM.REMOVE", "meanwhile.0000"]);
    pair.postgres.restart();
    fill_postgres(&mut pair.sql(), "after.", 10);
    same(&pair, 909);
}

#[test]
fn both_are_killed_under_load() {
    let mut pair = Pair::start();
    for round in 0..2 {
        let prefix = format!("load{round}.");
        let acknowledged = std::thread::scope(|scope| {
            let mut redis = pair.commands();
            let writer = scope.spawn(move || {
                let alive = (0..).take_while(|number| {
                    let id = format!("{prefix}{number:06}");
                    tandem_tests::redis::send(&mut redis, &["TANDEM.PUT", &id, "1"]).is_ok()
                });
                alive.count()
            });
            wait::until("some of the load is in Postgres", DEADLINE, || {
                count_of_postgres(&mut pair.sql()) > 200 * (round + 1)
            });
            pair.postgres.kill_hard();
            pair.redis.kill_hard();
            writer.join().expect("the writer ends with its server")
        });
        pair.redis.restart();
        pair.postgres.restart();
        let prefix = format!("load{round}.");
        let expected = i64::try_from(acknowledged).expect("a small number");
        pair.settle("every acknowledged write is in Postgres", |client, _| {
            value::<i64>(client, &format!("SELECT tandem.count('{prefix}')")) >= expected
        });
        // The one write that was under way may have happened or not.
        let count: i64 = value(&mut pair.sql(), &format!("SELECT tandem.count('{prefix}')"));
        assert!(count <= expected + 1, "{count} items of {expected} acknowledged writes");
    }
    let count = count_of_postgres(&mut pair.sql());
    same(&pair, count);
}

#[test]
fn copies_that_redis_drops_are_brought_back() {
    let pair = Pair::start();
    let mut redis = pair.commands();
    fill_redis(&mut redis, "a.", 50);
    let before = same(&pair, 50);
    assert_eq!(ask_number(&mut redis, &["DEL", "a.0001", "a.0002"]), 2);
    assert_eq!(same(&pair, 50), before, "DEL drops a copy and removes nothing");
    ask(&mut redis, &["FLUSHALL"]);
    assert_eq!(same(&pair, 50), before, "FLUSHALL drops all copies and removes nothing");
}

/// A key of another type cannot be an item. The copy is set aside with the reason, and nothing else waits for it.
#[test]
fn an_item_whose_key_is_taken_is_set_aside() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    fill_redis(&mut redis, "a.", 50);
    let before = same(&pair, 50);
    ask(&mut redis, &["SET", "a.0003", "a string over an item"]);
    wait::until("the copy that has no place is set aside", DEADLINE, || {
        let reasons = rows(&mut client, "SELECT reason FROM tandem.dead_letters WHERE id = 'a.0003'");
        reasons.iter().any(|row| row.get::<_, String>(0).contains("another Redis type"))
    });
    run(&mut client, "SELECT tandem.put('a.0004', '1')");
    wait::until("other items go on", DEADLINE, || {
        payload_in_redis(&mut redis, "a.0004").as_deref() == Some("1")
    });
    assert_eq!(ask_text(&mut redis, &["GET", "a.0003"]).as_deref(), Some("a string over an item"));
    ask(&mut redis, &["DEL", "a.0003"]);
    Reconciled::run(&mut client, &format!("'{}'", pair.link));
    assert_ne!(same(&pair, 50), before, "a.0004 has changed");
    assert!(payload_in_redis(&mut redis, "a.0003").is_some(), "the item is back where there is room again");
}

#[test]
fn unlinked_sides_are_strangers_until_they_are_linked_again() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    fill_redis(&mut redis, "r.", 20);
    same(&pair, 20);
    let gone: bool = value(&mut client, &format!("SELECT tandem.unlink('{}')", pair.link));
    assert!(gone, "there was a link");
    let again: bool = value(&mut client, &format!("SELECT tandem.unlink('{}')", pair.link));
    assert!(!again, "there is none any more");
    let links: i64 = value(&mut client, "SELECT count(*) FROM tandem.links()");
    assert_eq!(links, 0);
    wait::until("Redis knows of no link", DEADLINE, || {
        ask(&mut redis, &["TANDEM.LINK", "LIST"]) == Value::Array(vec![])
    });
    fill_redis(&mut redis, "later.", 20);
    fill_postgres(&mut client, "meanwhile.", 20);
    run(&mut client, "SELECT tandem.delete('r.0001')");
    link(&mut client, &pair.redis);
    same(&pair, 59);
    assert_eq!(
        payload_in_redis(&mut redis, "r.0001"),
        None,
        "a removal holds, though it was made without a link"
    );
}

/// A tombstone is in no fingerprint, so a comparison does not show it; without it the other side would count from 1
/// again and lose against it.
#[test]
fn removals_from_before_the_first_contact_are_told_of() {
    let redis = Redis::start(Options::in_memory());
    let postgres = Postgres::with_extension(&pg::Options::default());
    let (mut client, mut commands) = (postgres.connect(), redis.connect());
    put(&mut commands, "removed.redis", "1");
    ask(&mut commands, &["TANDEM.REMOVE", "removed.redis"]);
    run(&mut client, "SELECT tandem.put('removed.postgres', '1'), tandem.delete('removed.postgres')");
    link(&mut client, &redis);
    wait::until("both sides know of both removals", DEADLINE, || {
        let Value::Array(there) =
            ask(&mut commands, &["TANDEM.LINK", "FETCH", "removed.postgres", "removed.redis"])
        else {
            panic!("FETCH answers with an array");
        };
        let count: i64 = value(&mut client, "SELECT count(*) FROM tandem.tombstones");
        count == 2 && !there.contains(&Value::Nil)
    });
    put(&mut commands, "removed.postgres", "[1]");
    run(&mut client, "SELECT tandem.put('removed.redis', '[1]')");
    wait::until("what is put after the removals lives on both sides", DEADLINE, || {
        ["removed.redis", "removed.postgres"].iter().all(|id| {
            payload_in_redis(&mut commands, id).is_some() && payload_in_postgres(&mut client, id).is_some()
        })
    });
}

#[test]
fn reconcile_finds_exactly_the_drift_and_mends_it() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    fill_redis(&mut redis, "a.", 2000);
    same(&pair, 2000);
    pair.pause();
    put(&mut redis, "a.0100", "\"newer in Redis\"");
    put(&mut redis, "only.redis", "1");
    ask(&mut redis, &["DEL", "a.0200", "a.1999"]);
    ask(&mut redis, &["TANDEM.REMOVE", "a.0300"]);
    run(
        &mut client,
        "SELECT tandem.put('a.0400', '1'), tandem.put('only.postgres', '1'), tandem.delete('a.0500')",
    );
    let drift = ["a.0100", "only.redis", "a.0200", "a.1999", "a.0300", "a.0400", "only.postgres", "a.0500"];
    let drift: BTreeSet<String> = drift.map(str::to_owned).into();
    let before = pair.roots();

    let dry = Reconciled::run(&mut client, &format!("'{}', '', true", pair.link));
    // The link is paused, so all of it waits for the link on one side or the other.
    assert_eq!((dry.answer.as_str(), dry.differences, dry.repaired), ("incomplete", 8, 0), "{dry:?}");
    assert_eq!(dry.ids, drift);
    assert!(dry.ranges > 0 && dry.ranges < 500, "{} ranges for 8 differences among 2000", dry.ranges);
    assert!(dry.bytes > 0 && dry.rounds > 0, "{dry:?}");
    assert_eq!(pair.roots(), before, "a dry run changes nothing");

    let part = Reconciled::run(&mut client, &format!("'{}', 'only.', true", pair.link));
    assert_eq!(part.ids, BTreeSet::from(["only.postgres".to_owned(), "only.redis".to_owned()]));

    let real = Reconciled::run(&mut client, &format!("'{}'", pair.link));
    assert_eq!((real.differences, real.repaired), (8, 8), "{real:?}");
    assert_eq!(same(&pair, 2000).count, 2000);
    for removed in ["a.0300", "a.0500"] {
        assert_eq!(payload_in_redis(&mut redis, removed), None, "{removed} was removed");
        assert_eq!(payload_in_postgres(&mut client, removed), None, "{removed} was removed");
    }
    let after = Reconciled::run(&mut client, &format!("'{}', '', true", pair.link));
    assert_eq!((after.answer.as_str(), after.differences), ("equal", 0), "{after:?}");
    pair.resume();
    put(&mut redis, "after", "1");
    same(&pair, 2001);
}

#[derive(Debug)]
struct Reconciled {
    answer: String,
    differences: i64,
    repaired: i64,
    ranges: i64,
    rounds: i64,
    bytes: i64,
    ids: BTreeSet<String>,
}

impl Reconciled {
    fn run(client: &mut Client, arguments: &str) -> Reconciled {
        let row = rows(client, &format!("SELECT * FROM tandem.reconcile({arguments})")).remove(0);
        Reconciled {
            answer: row.get("answer"),
            differences: row.get("differences"),
            repaired: row.get("repaired"),
            ranges: row.get("ranges"),
            rounds: row.get("rounds"),
            bytes: row.get("bytes"),
            ids: row.get::<_, Option<Vec<String>>>("ids").unwrap_or_default().into_iter().collect(),
        }
    }
}

#[test]
fn two_links_carry_writes_between_two_redises() {
    let pair = Pair::start();
    let other = Redis::start(Options::in_memory());
    let mut client = pair.sql();
    run(&mut client, &format!("SELECT tandem.link('{}', name => 'other')", other.url()));
    fill_redis(&mut pair.commands(), "a.", 100);
    fill_redis(&mut other.connect(), "b.", 100);
    ask(&mut other.connect(), &["TANDEM.REMOVE", "b.0000"]);
    // All three in one look: 199 of the 200 may be there for a moment before the removal is.
    wait::until("Postgres and both Redises have one root", DEADLINE, || {
        let (postgres, redis) = pair.roots();
        let removed = payload_in_redis(&mut pair.commands(), "b.0000").is_none();
        removed
            && count_of_postgres(&mut client) == 199
            && postgres == redis
            && postgres == root_of_redis(&mut other.connect())
    });
    check_redis(&mut other.connect(), "in the second Redis");
}

#[test]
fn secrets_that_differ_are_told_of() {
    let redis = Redis::start(Options::in_memory().with("tandem.digest-secret", "another"));
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    run(&mut client, &format!("SELECT tandem.link('{}', name => 'secret')", redis.url()));
    wait::until("the link says that the secrets differ", DEADLINE, || {
        let error: Option<String> = value(&mut client, "SELECT last_error FROM tandem.links()");
        error.is_some_and(|error| error.contains("secret"))
    });
    put(&mut redis.connect(), "a", "1");
    assert_eq!(count_of_postgres(&mut client), 0);
}

#[test]
fn without_the_preloaded_library_the_error_says_what_to_do() {
    let postgres = Postgres::start(&pg::Options { preload: false, ..pg::Options::default() });
    let mut client = postgres.connect();
    let statements = "CREATE EXTENSION tandem; SELECT tandem.link('redis://127.0.0.1:1')";
    let (_, text) = refused(&mut client, statements);
    assert!(text.contains("shared_preload_libraries"), "{text}");
}

#[test]
fn bad_links_are_refused() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    for call in [
        "tandem.link('not a url')",
        "tandem.link('http://127.0.0.1:1')",
        "tandem.link('redis://127.0.0.1:1', mode => 'nonsense')",
        "tandem.link('redis://127.0.0.1:1', direction => 'sideways')",
        "tandem.link('redis://127.0.0.1:1', name => '')",
    ] {
        let (state, text) = refused(&mut client, &format!("SELECT {call}"));
        assert_eq!(state, "22023", "{call}: {text}");
    }
    let links: i64 = value(&mut client, "SELECT count(*) FROM tandem.links()");
    assert_eq!(links, 0);
}

#[test]
fn both_sides_tell_of_the_link() {
    let pair = Pair::start();
    let mut client = pair.sql();
    put(&mut pair.commands(), "a", "1");
    same(&pair, 1);
    let row = rows(&mut client, "SELECT name, mode, direction, paused FROM tandem.links()").remove(0);
    let told: (String, String, String, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!(told, (pair.link.clone(), "mirror".to_owned(), "both".to_owned(), false));
    let status = rows(&mut client, "SELECT name, coalesce(value, '') FROM tandem.status()");
    let status: Vec<(String, String)> = status.iter().map(|row| (row.get(0), row.get(1))).collect();
    let root = root_of_redis(&mut pair.commands()).expect("there is an item");
    assert!(status.contains(&("root".to_owned(), root.clone())), "{status:?}");
    let info = ask_text(&mut pair.commands(), &["INFO", "tandem"]).unwrap_or_default();
    assert!(info.contains(&root) && info.contains("links=1"), "{info}");
    wait::until("nothing is left unacknowledged", DEADLINE, || {
        ask_number(&mut pair.commands(), &["TANDEM.LINK", "PENDING"]) == 0
    });
}
