//! The change log as a feed for other readers, and what of it the blocks do not know yet.

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;
use std::time::Duration;
use tandem_tests::census::check_postgres;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{error_text, refused, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A server of its own: what can be read of the log depends on every transaction of a server.
fn alone() -> (Postgres, Client) {
    let settings = vec!["autovacuum = off".to_owned()];
    let server = Postgres::start(&Options { settings, ..Options::default() });
    run(&mut server.connect(), "CREATE DATABASE alone");
    let mut client = server.connect_as("postgres", "alone");
    run(&mut client, "CREATE EXTENSION tandem");
    (server, client)
}

/// Every change after a position, read in pages of two.
fn feed(client: &mut Client, mut since: Option<String>) -> (Vec<String>, Option<String>) {
    let mut seen = Vec::new();
    loop {
        let page = client
            .query("SELECT pos, id, op, version FROM tandem.changes_since($1, 2)", &[&since])
            .unwrap_or_else(|error| panic!("{}", error_text(&error)));
        let Some(last) = page.last() else { return (seen, since) };
        since = Some(last.get(0));
        seen.extend(page.iter().map(|row| {
            format!("{} {} {}", row.get::<_, String>(2), row.get::<_, String>(1), row.get::<_, i64>(3))
        }));
    }
}

#[test]
fn the_feed_has_every_change_once_whatever_commits_when() {
    let (server, mut client) = alone();
    let mut slow = server.connect_as("postgres", "alone");
    run(&mut client, "SELECT tandem.put('a', '{\"n\":1}'), tandem.put('b', '[1]')");
    run(&mut client, "SELECT tandem.put('a', '{\"n\":2}', state => 'hot', audit => '{\"home\":\"x\"}')");
    let (seen, since) = feed(&mut client, None);
    assert_eq!(seen, ["put a 1", "put b 1", "put a 2"]);
    let position: String = value(&mut client, "SELECT tandem.log_position()");
    assert_eq!(feed(&mut client, Some(position)).0, Vec::<String>::new(), "it is after everything there is");
    let now = "SELECT state || ' ' || type || ' ' || payload || ' ' || (audit->>'home') || ' ' || (etag IS NOT NULL) \
        FROM tandem.changes_since(lim => 1)";
    assert_eq!(value::<String>(&mut client, now), "hot json {\"n\": 2} x true", "what is there now");
    run(&mut slow, "BEGIN; SELECT tandem.put('slow', '[1]')");
    run(&mut client, "SELECT tandem.put('fast', '[1]')");
    let (seen, since) = feed(&mut client, since);
    assert_eq!(seen, ["put fast 1"], "an open transaction holds back nothing but its own changes");
    run(&mut slow, "COMMIT");
    run(&mut client, "SELECT tandem.delete('a')");
    let (seen, since) = feed(&mut client, since);
    assert_eq!(seen, ["put slow 1", "remove a 3"]);
    assert_eq!(feed(&mut client, since).0, Vec::<String>::new());
    let gone = "SELECT payload IS NULL AND etag IS NULL FROM tandem.changes_since() WHERE id = 'a' LIMIT 1";
    assert!(value::<bool>(&mut client, gone));
}

#[test]
fn positions_that_the_log_no_longer_reaches_are_refused() {
    let (_server, mut client) = alone();
    // A slot is full at 16 MiB: ids of 500 bytes fill it.
    let turn = |client: &mut Client| {
        run(
            client,
            "INSERT INTO tandem.items (id, payload) SELECT repeat('x', 490) || n, '1' FROM generate_series(1, 20000) n \
             ON CONFLICT (id) DO UPDATE SET payload = (items.payload::int + 1)::text::jsonb",
        );
        for _ in 0..2 {
            run(client, "SELECT tandem.fold()");
            run(client, "SELECT tandem.rotate_log()");
        }
    };
    let first: String = value(&mut client, "SELECT tandem.log_position()");
    run(&mut client, "SELECT tandem.put('a', '[1]')");
    let second: String = value(&mut client, "SELECT tandem.log_position()");
    turn(&mut client);
    run(&mut client, "SELECT tandem.put('b', '[1]')");
    let kept = "SELECT count(*) FROM tandem.changes_since($1, 10000) WHERE id < 'x'";
    let kept: i64 = client.query_one(kept, &[&first]).expect("the log reaches back").get(0);
    assert_eq!(kept, 1, "the slot before the present one is kept");
    wait::until("the oldest slot is emptied", DEADLINE, || {
        turn(&mut client);
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.changes WHERE id = 'a'") == 0
    });
    let (state, text) = refused(&mut client, &format!("SELECT * FROM tandem.changes_since('{first}')"));
    assert_eq!(state, "55000", "STALE: {text}");
    assert!(text.contains("read the items and go on from it"), "{text}");
    let position: String = value(&mut client, "SELECT tandem.log_position()");
    run(&mut client, "SELECT tandem.put('c', '[1]')");
    assert_eq!(feed(&mut client, Some(position)).0, ["put c 1"]);
    let (state, text) = refused(&mut client, &format!("SELECT * FROM tandem.changes_since('{second}')"));
    assert_eq!(state, "55000", "STALE: {text}");
    let (state, text) = refused(&mut client, "SELECT * FROM tandem.changes_since('999999999')");
    assert_eq!(state, "55000", "a position of another life of the database is STALE too: {text}");
    run(&mut client, "SELECT * FROM tandem.changes_since()");
}

#[test]
fn listeners_are_told() {
    let server = Postgres::start(&Options::default());
    let mut client = server.connect();
    run(&mut client, "CREATE EXTENSION tandem; LISTEN tandem; SELECT tandem.put('listen', '[1]')");
    let mut last = None;
    let told = wait::until_some("a notification with the last position", DEADLINE, || {
        let mut notifications = client.notifications();
        let mut waiting = notifications.timeout_iter(Duration::from_millis(300));
        while let Ok(Some(notification)) = waiting.next() {
            last = Some(notification.payload().to_owned());
        }
        last.clone()
    });
    let after = format!("SELECT count(*) FROM tandem.changes_since('{told}')");
    assert_eq!(value::<i64>(&mut client, &after), 0);
    run(&mut client, "SELECT tandem.put('listen', '[2]')");
    assert_eq!(value::<i64>(&mut client, &after), 1);
}

#[test]
fn dirty_ids_are_those_the_blocks_do_not_know() {
    let (server, mut client) = alone();
    run(
        &mut client,
        "SELECT tandem.put('a.b.' || n, '[1]'), tandem.put('a.c.' || n, '[1]') FROM generate_series(1, 3) n",
    );
    run(&mut client, "SELECT tandem.put('d', '[1]')");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.dirty_count()"), 7);
    run(&mut client, "SELECT tandem.fold()");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.dirty_count()"), 0);
    let mut other = server.connect_as("postgres", "alone");
    run(&mut other, "BEGIN; SELECT tandem.put('open', '[1]')");
    run(
        &mut client,
        "SELECT tandem.put('a.b.2', '[2]'), tandem.put('a.b.2', '[3]'), tandem.set_state('d', 'x')",
    );
    // What is not folded stays dirty, and the hash is right nevertheless.
    let node = "SELECT count || ' ' || pending FROM tandem.merkle_node('a')";
    assert_eq!(value::<String>(&mut client, node), "6 2");
    let unfolded: String = value(&mut client, "SELECT tandem.merkle_hash('a')");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.dirty_count('a.')"), 1);
    assert_eq!(value::<String>(&mut client, "SELECT string_agg(d, ' ') FROM tandem.dirty() d"), "a.b.2 d");
    let prefixes = "SELECT string_agg(path || ' ' || count, ', ') FROM tandem.dirty_prefixes('')";
    assert_eq!(value::<String>(&mut client, prefixes), "a 1, d 1");
    let clean = "SELECT string_agg(path || ' ' || count, ', ') FROM tandem.clean_branches('a')";
    assert_eq!(value::<String>(&mut client, clean), "a.c 3");
    let states = "SELECT tandem.is_clean('a.c') AND NOT tandem.is_clean('a.b') AND NOT tandem.is_clean()";
    assert!(value::<bool>(&mut client, states));
    // An open transaction holds back nobody's fold.
    run(&mut client, "SELECT tandem.fold()");
    assert_eq!(value::<String>(&mut client, "SELECT tandem.merkle_hash('a')"), unfolded);
    assert!(value::<bool>(&mut client, "SELECT tandem.is_clean()"));
    run(&mut other, "ROLLBACK");
    let leaves = "SELECT string_agg(l.id, ' ') FROM tandem.merkle_leaves('a', after => 'a.b.2', lim => 2) l";
    assert_eq!(value::<String>(&mut client, leaves), "a.b.3 a.c.1");
    check_postgres(&mut client, "after dirt");
}
