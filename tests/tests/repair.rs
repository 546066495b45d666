//! What a link tells of itself and how it is kept right: waiting for it, checking it, mending it, dead letters.

use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask_text};
use tandem_tests::sql::{refused, run, value};
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
    // The order of commits is kept, so the link cannot read `late` while an older transaction runs.
    assert_eq!(wait_synced(&mut client, 50), 0);
    run(&mut writer, "COMMIT");
    assert_eq!(wait_synced(&mut client, 0), 1);
    assert!(in_redis(&pair, "late"));

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
