//! What a link tells of itself and how it is kept right: waiting for it, checking it, mending it, dead letters.

use postgres::Client;
use tandem_tests::by_hand;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_text};
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options::default(), redis::Options::in_memory())
}

fn in_redis(pair: &Pair, id: &str) -> bool {
    ask_text(&mut pair.commands(), &["TANDEM.GET", id, "PAYLOAD"]).is_some()
}

fn wait_synced(client: &mut Client, timeout_ms: i64) -> i64 {
    value(client, &format!("SELECT tandem.wait_synced({timeout_ms})"))
}

#[test]
fn who_waits_finds_the_writes_on_the_other_side() {
    let pair = start();
    let mut client = pair.sql();
    for round in 0..20 {
        run(&mut client, &format!("SELECT tandem.put('a.{round}', '{{}}')"));
        assert_eq!(wait_synced(&mut client, 0), 1);
        assert!(in_redis(&pair, &format!("a.{round}")), "it is there when the wait is over");
    }
}

#[test]
fn a_wait_counts_the_links_that_are_past_the_writes() {
    let pair = start();
    let other = Redis::start(redis::Options::in_memory());
    let mut client = pair.sql();
    run(&mut client, &format!("SELECT tandem.link('{}', name => 'other')", other.url()));
    run(&mut client, "SELECT tandem.put('a', '1')");
    assert_eq!(wait_synced(&mut client, 0), 2);
    pair.pause();
    run(&mut client, "SELECT tandem.put('b', '1')");
    wait::until("the other link takes the write", DEADLINE, || wait_synced(&mut client, 1) == 1);
    pair.resume();
    assert_eq!(wait_synced(&mut client, 0), 2);
    assert!(in_redis(&pair, "b"));

    // A link that takes nothing from here is not waited for.
    run(&mut client, "SELECT tandem.unlink('other')");
    run(
        &mut client,
        &format!("SELECT tandem.link('{}', name => 'back', direction => 'from_redis')", other.url()),
    );
    run(&mut client, "SELECT tandem.put('c', '1')");
    assert_eq!(wait_synced(&mut client, 0), 1);
}

#[test]
fn a_wait_is_for_what_is_committed() {
    let pair = start();
    let (mut client, mut writer) = (pair.sql(), pair.sql());
    run(&mut writer, "BEGIN; SELECT tandem.put('early', '1')");
    assert_eq!(wait_synced(&mut client, 0), 1, "what is not committed is not waited for");
    run(&mut client, "SELECT tandem.put('late', '1')");
    assert_eq!(wait_synced(&mut client, 0), 1, "an older transaction that runs on holds back nobody");
    assert!(in_redis(&pair, "late"));
    run(&mut writer, "COMMIT");
    assert_eq!(wait_synced(&mut client, 0), 1);
    assert!(in_redis(&pair, "early"));

    let statements = "BEGIN; SELECT tandem.put('own', '1'); SELECT tandem.wait_synced(0)";
    let (state, text) = refused(&mut client, statements);
    assert_eq!(state, "22023", "{text}");
    run(&mut client, "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tandem.items");
    run(&mut writer, "SELECT tandem.put('meanwhile', '1')");
    assert_eq!(wait_synced(&mut client, 0), 1, "it sees the link go on though its transaction does not");
    assert!(in_redis(&pair, "meanwhile"));
    run(&mut client, "COMMIT");
}

#[test]
fn a_wait_can_be_cut_short() {
    let pair = start();
    let mut client = pair.sql();
    pair.pause();
    run(&mut client, "SELECT tandem.put('a', '1'); SET statement_timeout = 100");
    let (state, text) = refused(&mut client, "SELECT tandem.wait_synced(0)");
    assert_eq!(state, "57014", "{text}");
    for bad in ["-1", "86400001", "NULL"] {
        let (state, text) = refused(&mut client, &format!("SELECT tandem.wait_synced({bad})"));
        assert_eq!(state, "22023", "{bad}: {text}");
    }
    let alone = Postgres::with_extension(&pg::Options::default());
    let mut client = alone.connect();
    run(&mut client, "SELECT tandem.put('a', '1')");
    assert_eq!(wait_synced(&mut client, 0), 0, "without links there is nothing to wait for");
    run(&mut client, "CREATE ROLE reader LOGIN IN ROLE tandem_reader");
    assert_eq!(wait_synced(&mut alone.connect_as("reader", "postgres"), 0), 0);
}

/// A reconcile: answer, differences, repaired, pending and reason.
type Answer = (String, i64, i64, i64, Option<String>);

fn reconcile(client: &mut Client, arguments: &str) -> Answer {
    let query =
        format!("SELECT answer, differences, repaired, pending, reason FROM tandem.reconcile({arguments})");
    let row = rows(client, &query).remove(0);
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
}

fn answered(answer: &str, differences: i64, repaired: i64, pending: i64) -> (String, i64, i64, i64) {
    (answer.to_owned(), differences, repaired, pending)
}

fn numbers(answer: &Answer) -> (String, i64, i64, i64) {
    (answer.0.clone(), answer.1, answer.2, answer.3)
}

/// The report of the last run: id, what differed, what was done.
fn report(client: &mut Client) -> Vec<(String, String, String)> {
    let query = "SELECT id, differed, done FROM tandem.reports \
        WHERE run = (SELECT max(run) FROM tandem.checks) ORDER BY id";
    rows(client, query).iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn lines(lines: &[[&str; 3]]) -> Vec<(String, String, String)> {
    lines.iter().map(|[id, differed, done]| ((*id).into(), (*differed).into(), (*done).into())).collect()
}

/// A pair whose sides have gone apart behind the link's back: nothing of it waits anywhere.
fn drifted() -> Pair {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 9) n",
    );
    pair.settle_at(9);
    pair.pause();
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &pair.link]);
    ask(&mut redis, &["DEL", "a.1"]);
    ask(&mut redis, &["TANDEM.PUT", "a.2", "2"]);
    ask(&mut redis, &["TANDEM.REMOVE", "a.3"]);
    ask(&mut redis, &["TANDEM.PUT", "a.5", "[\"redis\"]"]);
    ask(&mut redis, &["TANDEM.PUT", "r", "1"]);
    run(
        &mut client,
        "SELECT tandem.put('a.4', '2'), tandem.put('a.5', '[\"postgres\"]'), tandem.put('p', '1')",
    );
    run(&mut client, "UPDATE tandem.links SET log_position = tandem.log_position()");
    pair
}

#[test]
fn a_report_says_what_differed_and_what_was_done() {
    let pair = drifted();
    let mut client = pair.sql();
    let name = &pair.link;
    let dry = reconcile(&mut client, &format!("'{name}', dry_run => true"));
    assert_eq!(numbers(&dry), answered("differs", 7, 0, 0), "{dry:?}");
    let expected = [
        ["a.1", "missing_in_redis", "nothing"],
        ["a.2", "older_in_postgres", "nothing"],
        ["a.3", "older_in_postgres", "nothing"],
        ["a.4", "older_in_redis", "nothing"],
        ["a.5", "conflict", "nothing"],
        ["p", "missing_in_redis", "nothing"],
        ["r", "missing_in_postgres", "nothing"],
    ];
    assert_eq!(report(&mut client), lines(&expected));
    let other = reconcile(&mut client, &format!("'{name}', 'nothing.here', true"));
    assert_eq!(numbers(&other), answered("equal", 0, 0, 0));

    let real = reconcile(&mut client, &format!("'{name}'"));
    assert_eq!(numbers(&real), answered("equal", 7, 7, 0), "{real:?}");
    let done = report(&mut client);
    let done: Vec<&str> = done.iter().map(|(_, _, done)| done.as_str()).collect();
    let (conflict, others) = (done[4], [&done[..4], &done[5..]].concat());
    assert_eq!(others, ["pushed", "pulled", "pulled", "pushed", "pushed", "pulled"]);
    assert!(["pulled", "pushed"].contains(&conflict), "{done:?}");
    let row = rows(
        &mut client,
        "SELECT last_check_answer, last_check_differences, last_check_repaired, last_check_ranges > 0, \
             last_check_bytes > 0, last_check_at IS NOT NULL FROM tandem.links()",
    )
    .remove(0);
    let last: (String, i64, i64, bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
    assert_eq!(last, ("equal".to_owned(), 7, 7, true, true, true));
    pair.resume();
    pair.settle_at(10);
}

#[test]
fn what_is_on_its_way_is_incomplete_and_not_different() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    pair.settle_at(1);
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "b", "1"]);
    run(&mut client, "SELECT tandem.put('c', '1')");
    let name = pair.link.clone();
    let dry = reconcile(&mut client, &format!("'{name}', dry_run => true"));
    assert_eq!(numbers(&dry), answered("incomplete", 2, 0, 2), "{dry:?}");
    assert!(dry.4.is_some_and(|reason| reason.contains("on their way")));
    let query = "SELECT reason FROM tandem.reports WHERE run = (SELECT max(run) FROM tandem.checks)";
    let reasons: Vec<Option<String>> = rows(&mut client, query).iter().map(|row| row.get(0)).collect();
    assert_eq!(reasons, [Some("on its way".to_owned()), Some("on its way".to_owned())]);

    // One that is on its way does not hide one that is not.
    run(&mut client, "UPDATE tandem.links SET log_position = tandem.log_position()");
    let dry = reconcile(&mut client, &format!("'{name}', dry_run => true"));
    assert_eq!(numbers(&dry), answered("differs", 2, 0, 1), "{dry:?}");
    // What waits for another link only is not on its way.
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &name]);
    by_hand::attach(&mut redis, "other");
    ask(&mut redis, &["TANDEM.PUT", "b", "2"]);
    let dry = reconcile(&mut client, &format!("'{name}', dry_run => true"));
    assert_eq!(numbers(&dry), answered("differs", 2, 0, 0), "{dry:?}");
}

#[test]
fn a_check_that_cannot_read_a_side_is_incomplete() {
    let mut pair = start();
    let mut client = pair.sql();
    ask(&mut pair.commands(), &["TANDEM.PUT", "a", "1"]);
    pair.settle_at(1);
    pair.redis.kill_hard();
    for dry_run in [true, false] {
        let answer = reconcile(&mut client, &format!("'{}', dry_run => {dry_run}", pair.link));
        assert_eq!(numbers(&answer), answered("incomplete", 0, 0, 0), "{answer:?}");
        assert!(answer.4.is_some_and(|reason| reason.contains("connecting")));
    }
    let last: String = value(&mut client, "SELECT last_check_answer FROM tandem.links()");
    assert_eq!(last, "incomplete");
    let (state, text) = refused(&mut client, "SELECT tandem.reconcile('no such link')");
    assert_eq!(state, "08003", "NOLINK: {text}");
    let (state, text) =
        refused(&mut client, &format!("SELECT tandem.reconcile('{}', max_rows => 0)", pair.link));
    assert_eq!(state, "22023", "{text}");
}

#[test]
fn a_bounded_run_is_gone_on_with_by_running_it_again() {
    let pair = start();
    let mut client = pair.sql();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 50) n",
    );
    pair.settle_at(50);
    pair.pause();
    ask(&mut pair.commands(), &["FLUSHALL"]);
    let call = format!("'{}', max_rows => 20", pair.link);
    for repaired in [20, 20, 10] {
        let answer = reconcile(&mut client, &call);
        let expected = if repaired == 20 { "incomplete" } else { "equal" };
        assert_eq!(numbers(&answer), answered(expected, repaired, repaired, 0), "{answer:?}");
        assert_eq!(answer.4.is_some_and(|reason| reason.contains("run it again")), repaired == 20);
        assert_eq!(report(&mut client).len() as i64, repaired);
    }
    pair.resume();
    pair.settle_at(50);
}

#[test]
fn a_revision_that_postgres_refuses_does_not_stop_a_check() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    pair.settle_at(0);
    pair.pause();
    run(&mut client, "ALTER TABLE tandem.items ADD CONSTRAINT small CHECK ((payload->>'n')::int < 10)");
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &pair.link]);
    for number in 8..12 {
        ask(&mut redis, &["TANDEM.PUT", &format!("a.{number:02}"), &format!("{{\"n\":{number}}}")]);
    }
    let answer = reconcile(&mut client, &format!("'{}'", pair.link));
    assert_eq!(numbers(&answer), answered("differs", 4, 2, 0), "{answer:?}");
    assert!(answer.4.is_some_and(|reason| reason.contains("a.10") && reason.contains("small")));
    let expected = [
        ["a.08", "missing_in_postgres", "pulled"],
        ["a.09", "missing_in_postgres", "pulled"],
        ["a.10", "missing_in_postgres", "refused"],
        ["a.11", "missing_in_postgres", "refused"],
    ];
    assert_eq!(report(&mut client), lines(&expected));
    // The link's own check goes past them too, and sets them aside.
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &pair.link]);
    pair.resume();
    wait::until("both are set aside", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(DISTINCT id) FROM tandem.dead_letters") == 2
    });
    ask(&mut redis, &["TANDEM.PUT", "later", "{\"n\":1}"]);
    wait::until("the link goes on", DEADLINE, || value::<bool>(&mut client, "SELECT tandem.exists('later')"));
}

#[test]
fn checks_run_on_their_schedule_and_only_the_last_are_kept() {
    let redis = Redis::start(redis::Options::in_memory());
    let settings = vec!["tandem.checks_kept = 2".to_owned(), "tandem.report_rows_max = 1".to_owned()];
    let postgres = Postgres::with_extension(&pg::Options { settings, ..pg::Options::default() });
    let mut client = postgres.connect();
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    let (state, text) =
        refused(&mut client, "SELECT tandem.link('redis://127.0.0.1:1', check_every => '-1 s')");
    assert_eq!(state, "22023", "{text}");
    run(&mut client, &format!("SELECT tandem.link('{}', check_every => '300 ms')", redis.url()));
    let ended = |client: &mut Client, condition: &str| -> i64 {
        value(
            client,
            &format!("SELECT count(*) FROM tandem.checks WHERE finished_at IS NOT NULL AND {condition}"),
        )
    };
    wait::until("a scheduled check finds both sides equal", DEADLINE, || {
        ended(&mut client, "kind = 'scheduled' AND answer = 'equal' AND differences = 0") > 0
    });
    wait::until("old runs are forgotten", DEADLINE, || {
        ended(&mut client, "run < 2") == 0 && ended(&mut client, "true") <= 3
    });
    let named: i64 = value(&mut client, "SELECT count(*) FROM tandem.reports");
    assert!(named <= 1, "one id was to be named, and its run may be forgotten");
}

#[test]
fn who_looks_sees_how_far_a_check_is() {
    let pair = drifted();
    let (mut client, mut other) = (pair.sql(), pair.sql());
    // Joining waits for this lock, so the check stands still between comparing and mending.
    run(&mut other, "BEGIN; LOCK TABLE tandem.items IN SHARE MODE");
    pair.resume();
    wait::until("the check is seen to mend", DEADLINE, || {
        let query = "SELECT kind FROM tandem.check_progress \
            WHERE phase = 'mending' AND ranges > 0 AND link = 'redis' AND started_at <= clock_timestamp()";
        rows(&mut client, query).iter().any(|row| row.get::<_, String>(0) == "attach")
    });
    run(&mut other, "COMMIT");
    pair.settle_at(10);
    wait::until("it is over", DEADLINE, || rows(&mut client, "SELECT FROM tandem.check_progress").is_empty());
    let answer: (i64, String) = {
        let row = rows(&mut client, "SELECT repaired, answer FROM tandem.checks ORDER BY run DESC LIMIT 1")
            .remove(0);
        (row.get(0), row.get(1))
    };
    assert_eq!(answer, (7, "equal".to_owned()));
}

fn letters(client: &mut Client) -> Vec<(String, String, i32)> {
    let query = "SELECT id, direction, attempts FROM tandem.dead_letters ORDER BY id";
    rows(client, query).iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// The numbers that retry_dead_letters answers with.
fn retry(client: &mut Client, arguments: &str) -> (i64, i64, i64) {
    let query = format!("SELECT joined, requested, refused FROM tandem.retry_dead_letters({arguments})");
    let row = rows(client, &query).remove(0);
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn what_postgres_refused_is_joined_when_it_is_tried_again() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "ALTER TABLE tandem.items ADD CONSTRAINT small CHECK ((payload->>'n')::int < 10)");
    for number in 8..12 {
        ask(&mut redis, &["TANDEM.PUT", &format!("a.{number:02}"), &format!("{{\"n\":{number}}}")]);
    }
    wait::until("two are set aside and two arrive", DEADLINE, || {
        letters(&mut client).len() == 2 && value::<i64>(&mut client, "SELECT tandem.count()") == 2
    });
    assert_eq!(retry(&mut client, "NULL, 1"), (0, 0, 1), "the reason holds");
    assert_eq!(retry(&mut client, "'another link'"), (0, 0, 0));
    let reason: String = value(&mut client, "SELECT reason FROM tandem.dead_letters WHERE attempts > 1");
    assert!(reason.contains("small"), "{reason}");
    let counted: String = value(&mut client, "SELECT value FROM tandem.status() WHERE name = 'dead_letters'");
    assert_eq!(counted, "2");
    run(&mut client, "ALTER TABLE tandem.items DROP CONSTRAINT small");
    assert_eq!(retry(&mut client, ""), (2, 0, 0));
    assert_eq!(letters(&mut client), []);
    pair.settle_at(4);
    let (state, text) = refused(&mut client, "SELECT tandem.retry_dead_letters(lim => 0)");
    assert_eq!(state, "22023", "{text}");
}

#[test]
fn what_redis_refused_is_pushed_when_it_is_tried_again() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for id in ["taken", "taken.too"] {
        ask(&mut redis, &["SET", id, "a string"]);
    }
    run(&mut client, "SELECT tandem.put('taken', '1'), tandem.put('taken.too', '1')");
    let aside = |client: &mut Client| letters(client).iter().filter(|(_, way, _)| way == "to_redis").count();
    wait::until("both are set aside", DEADLINE, || aside(&mut client) == 2);
    run(&mut client, "SELECT tandem.put('taken', '2')");
    wait::until("the refusal is noted, in the same letter", DEADLINE, || {
        letters(&mut client).iter().any(|(id, _, attempts)| id == "taken" && *attempts > 1)
    });
    assert_eq!(aside(&mut client), 2);
    ask(&mut redis, &["DEL", "taken"]);
    assert_eq!(retry(&mut client, &format!("'{}'", pair.link)), (0, 2, 0));
    wait::until("the one that has a place again is there", DEADLINE, || {
        let left = letters(&mut client);
        left.len() == 1 && left[0].0 == "taken.too" && left[0].2 > 1
    });
    assert_eq!(ask_text(&mut redis, &["TANDEM.GET", "taken", "PAYLOAD"]).as_deref(), Some("2"));
    let discard = "SELECT tandem.discard_dead_letter((SELECT max(seq) FROM tandem.dead_letters))";
    assert!(value::<bool>(&mut client, discard));
    assert_eq!(letters(&mut client), []);
    assert!(!value::<bool>(&mut client, "SELECT tandem.discard_dead_letter(1)"));
}
