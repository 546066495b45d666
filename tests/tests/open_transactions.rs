//! An open or prepared transaction, in this database or in another, holds back its own changes and nothing else:
//! links, the fold, readers of the log and whoever waits for them go on.

use postgres::Client;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_text};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

fn pair() -> Pair {
    let settings = vec!["max_prepared_transactions = 10".to_owned()];
    let pair = Pair::with(&pg::Options { settings, ..pg::Options::default() }, Options::in_memory());
    run(&mut pair.sql(), "CREATE DATABASE elsewhere");
    run(&mut pair.postgres.connect_as("postgres", "elsewhere"), "CREATE TABLE t (n int)");
    pair
}

/// Writes here and there, and everybody goes on: both sides get everything, the waiters return, the fold is done.
fn everybody_goes_on(pair: &Pair, round: &str) {
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, &format!("SELECT tandem.put('here.{round}', '[1]'), tandem.put('gone.{round}', '[1]')"));
    ask(&mut redis, &["TANDEM.PUT", &format!("there.{round}"), "[1]"]);
    run(&mut client, &format!("SELECT tandem.delete('gone.{round}')"));
    pair.settle(&format!("{round}: writes of both sides are on both"), |client, redis| {
        ask_text(redis, &["TANDEM.GET", &format!("here.{round}"), "PAYLOAD"]).is_some()
            && value::<i64>(client, &format!("SELECT count(*) FROM tandem.items WHERE id = 'there.{round}'"))
                == 1
    });
    let synced: i64 = value(&mut client, "SELECT tandem.wait_synced(60000)");
    assert_eq!(synced, 1, "{round}: wait_synced waits for what is committed");
    wait::until(&format!("{round}: the fold goes on"), DEADLINE, || {
        value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0
    });
}

/// What the transaction had changed comes when it ends.
fn comes(pair: &Pair, id: &str) {
    pair.settle(&format!("{id} is on both sides"), |_, redis| {
        ask_text(redis, &["TANDEM.GET", id, "PAYLOAD"]).is_some()
    });
    let census = check_postgres(&mut pair.sql(), id);
    assert_eq!(census, check_redis(&mut pair.commands(), id));
}

fn in_feed(client: &mut Client, since: &str, id: &str) -> i64 {
    value(client, &format!("SELECT count(*) FROM tandem.changes_since('{since}', 1000) WHERE id = '{id}'"))
}

#[test]
fn transactions_elsewhere_hold_back_nothing() {
    let pair = pair();
    let mut elsewhere = pair.postgres.connect_as("postgres", "elsewhere");
    run(&mut elsewhere, "BEGIN; INSERT INTO t VALUES (1)");
    everybody_goes_on(&pair, "open");
    run(&mut elsewhere, "PREPARE TRANSACTION 'elsewhere'");
    everybody_goes_on(&pair, "prepared");
    run(&mut elsewhere, "ROLLBACK PREPARED 'elsewhere'");
    everybody_goes_on(&pair, "ended");
}

#[test]
fn a_writer_holds_back_its_own_changes_alone() {
    let pair = pair();
    let (mut open, mut prepared, mut client) = (pair.sql(), pair.sql(), pair.sql());
    let since: String = value(&mut client, "SELECT tandem.log_position()");
    run(&mut open, "BEGIN; SELECT tandem.put('open', '[1]'), tandem.merkle_root()");
    run(&mut prepared, "BEGIN; SELECT tandem.put('prepared', '[1]'); PREPARE TRANSACTION 'here'");
    everybody_goes_on(&pair, "writers");
    assert_eq!(in_feed(&mut client, &since, "here.writers"), 1);
    assert_eq!(in_feed(&mut client, &since, "open") + in_feed(&mut client, &since, "prepared"), 0);
    let after: String = value(
        &mut client,
        &format!("SELECT (array_agg(pos))[count(*)] FROM tandem.changes_since('{since}', 1000)"),
    );
    run(&mut open, "COMMIT");
    comes(&pair, "open");
    run(&mut client, "COMMIT PREPARED 'here'");
    comes(&pair, "prepared");
    assert_eq!(in_feed(&mut client, &after, "open") + in_feed(&mut client, &after, "prepared"), 2);
}

/// Whoever has to find out why something does not come finds a name.
#[test]
fn who_holds_something_back_is_named() {
    let pair = pair();
    let (mut writer, mut reader, mut client) = (pair.sql(), pair.sql(), pair.sql());
    let waits_for = "SELECT waits_for FROM tandem.link_status WHERE direction = 'to_redis'";
    let fact = |name: &str| format!("SELECT value FROM tandem.status() WHERE name = '{name}'");
    let mut named = |query: &str| value::<Option<String>>(&mut client, query);
    wait::until("the log is read", DEADLINE, || named(&fact("log_kept_by")).is_none());
    assert_eq!(named(waits_for), None);
    run(&mut writer, "BEGIN; SELECT tandem.put('open', '[1]')");
    let pid: i32 = value(&mut writer, "SELECT pg_backend_pid()");
    let expected = format!("process {pid} of postgres in database postgres, in a transaction since ");
    for query in [waits_for.to_owned(), fact("open_writer")] {
        let found = named(&query);
        assert!(found.as_ref().is_some_and(|found| found.starts_with(&expected)), "{query}: {found:?}");
    }
    run(&mut writer, "PREPARE TRANSACTION 'kept'");
    for query in [waits_for.to_owned(), fact("open_writer"), fact("log_kept_by")] {
        let found = named(&query);
        let expected = "prepared transaction 'kept' in database postgres since ";
        assert!(found.as_ref().is_some_and(|found| found.starts_with(expected)), "{query}: {found:?}");
    }
    run(&mut writer, "COMMIT PREPARED 'kept'");
    wait::until("it is taken", DEADLINE, || named(&fact("log_kept_by")).is_none());
    run(&mut reader, "BEGIN; SELECT count(*) FROM tandem.changes");
    let pid: i32 = value(&mut reader, "SELECT pg_backend_pid()");
    let found = named(&fact("log_kept_by"));
    assert!(found.as_ref().is_some_and(|found| found.contains(&format!("process {pid} "))), "{found:?}");
    assert_eq!(named(waits_for), None, "who reads holds nothing back");
    run(&mut reader, "ROLLBACK");
    pair.pause();
    run(&mut writer, "SELECT tandem.put('later', '[1]')");
    wait::until("it is folded", DEADLINE, || {
        named(&fact("log_kept_by")) == Some(format!("link {}", pair.link))
    });
}

#[test]
fn a_prepared_writer_comes_after_a_restart() {
    let mut pair = pair();
    run(&mut pair.sql(), "BEGIN; SELECT tandem.put('prepared', '[1]'); PREPARE TRANSACTION 'here'");
    everybody_goes_on(&pair, "before");
    pair.postgres.restart();
    everybody_goes_on(&pair, "restarted");
    run(&mut pair.sql(), "COMMIT PREPARED 'here'");
    comes(&pair, "prepared");
}

#[test]
fn readers_hold_back_nothing() {
    let pair = pair();
    let mut reader = pair.sql();
    run(&mut reader, "BEGIN; SELECT tandem.merkle_root(), tandem.dirty_count()");
    everybody_goes_on(&pair, "idle");
    let mut older = pair.sql();
    run(&mut older, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT tandem.merkle_root()");
    everybody_goes_on(&pair, "older");
    run(&mut older, "SELECT tandem.merkle_root(); COMMIT");
    run(&mut reader, "COMMIT");
}
