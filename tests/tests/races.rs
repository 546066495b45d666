//! Two transactions on one id, at every isolation: a row and a tombstone of one id never both stay, and blocks that
//! do not add up are mended and stop nothing.

use postgres::Client;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_shared::codec::encode;
use tandem_shared::{Body, Revision, Timestamp, Version};
use tandem_tests::census::check_postgres;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{error_text, refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(&Options::default()))
}

/// Two sessions of a database of their own, which no worker serves.
fn sessions() -> (Client, Client) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("races_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    run(&mut server().connect(), &format!("CREATE DATABASE {name}"));
    let mut first = server().connect_as("postgres", &name);
    run(&mut first, "CREATE EXTENSION tandem");
    (first, server().connect_as("postgres", &name))
}

/// No id has both a row and a tombstone, and all adds up.
fn sound(client: &mut Client, when: &str) {
    let both = "SELECT count(*) FROM tandem.items i JOIN tandem.tombstones t USING (id) WHERE NOT i.local";
    assert_eq!(value::<i64>(client, both), 0, "{when}: a row and a tombstone of one id");
    check_postgres(client, when);
}

fn version(client: &mut Client, id: &str) -> i64 {
    value(client, &format!("SELECT version FROM tandem.items WHERE id = '{id}'"))
}

/// Runs a statement that has to wait for the other session, lets that go on, and gives back what came of it.
fn waiting(waiter: Client, statement: &str, other: &mut Client, then: &str) -> (Client, Result<(), String>) {
    let mut waiter = waiter;
    let pid: i32 = value(&mut waiter, "SELECT pg_backend_pid()");
    let statement = statement.to_owned();
    let thread = std::thread::spawn(move || {
        let result = waiter.batch_execute(&statement).map_err(|error| error_text(&error));
        (waiter, result)
    });
    let waits = format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}");
    wait::until("the statement waits", DEADLINE, || {
        thread.is_finished() || value::<Option<bool>>(other, &waits) == Some(true)
    });
    run(other, then);
    thread.join().expect("the session ends well")
}

#[test]
fn an_id_that_is_moved_to_counts_on_from_a_removal_meanwhile() {
    let (mut first, mut second) = sessions();
    run(&mut first, "INSERT INTO tandem.items (id, payload) VALUES ('a', '1')");
    run(&mut second, "BEGIN; INSERT INTO tandem.items (id, payload) VALUES ('b', '1')");
    let moved = "UPDATE tandem.items SET id = 'b' WHERE id = 'a'";
    let (mut first, result) =
        waiting(first, moved, &mut second, "DELETE FROM tandem.items WHERE id = 'b'; COMMIT");
    result.expect("the id is free");
    assert_eq!(version(&mut first, "b"), 3, "above the removal");
    sound(&mut first, "after an id was moved over a removal");
}

#[test]
fn put_counts_on_from_a_removal_meanwhile_and_says_so() {
    let (first, mut second) = sessions();
    run(&mut second, "BEGIN; SELECT tandem.put('a', '[1]')");
    let put = "CREATE TABLE said AS SELECT p.version, p.etag FROM tandem.put('a', '[2]') p";
    let (mut first, result) = waiting(first, put, &mut second, "SELECT tandem.delete('a'); COMMIT");
    result.expect("the id is free");
    assert_eq!(version(&mut first, "a"), 3);
    let agrees = "SELECT s.version = g.version AND s.etag = g.etag FROM said s, tandem.get('a') g";
    assert!(value::<bool>(&mut first, agrees), "the answer is of what is stored");
    sound(&mut first, "after a put over a removal");
}

#[test]
fn a_removal_that_a_transaction_cannot_see_is_a_failed_serialization() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        for write in [
            "INSERT INTO tandem.items (id, payload) VALUES ('x', '2')",
            "SELECT tandem.put('x', '[2]')",
            "UPDATE tandem.items SET id = 'x' WHERE id = 'y'",
        ] {
            let (mut first, mut second) = sessions();
            run(&mut first, "SELECT tandem.put('y', '[1]')");
            run(&mut first, &format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM tandem.items"));
            run(&mut second, "INSERT INTO tandem.items (id, payload) VALUES ('x', '1')");
            run(&mut second, "DELETE FROM tandem.items WHERE id = 'x'");
            let (state, text) = refused(&mut first, write);
            assert_eq!(state, "40001", "{isolation}, {write}: {text}");
            run(&mut first, "ROLLBACK");
            run(&mut first, "SELECT tandem.put('x', '[3]')");
            assert_eq!(version(&mut first, "x"), 3);
            sound(&mut first, &format!("{isolation}, {write}"));
        }
    }
}

fn tombstone(version: i128) -> String {
    let revision = Revision {
        version: Version::new(version).expect("a version"),
        timestamp: Timestamp::new(1_700_000_000_000).expect("a timestamp"),
        audit: None,
        body: Body::Tombstone,
    };
    tandem_shared::digest::hex(&encode(&revision))
}

/// Whoever is first: what is joined waits for a row that is coming, and a row for a removal that is being joined.
#[test]
fn a_joined_removal_and_a_first_row_see_each_other() {
    let (first, mut second) = sessions();
    run(&mut second, "BEGIN; INSERT INTO tandem.items (id, payload) VALUES ('a', '1')");
    let joined = format!("SELECT tandem.apply('a', decode('{}', 'hex'))", tombstone(5));
    let (mut first, result) = waiting(first, &joined, &mut second, "COMMIT");
    result.expect("the removal is joined after the row");
    assert_eq!(value::<i64>(&mut first, "SELECT count(*) FROM tandem.items"), 0, "version 5 wins over 1");
    sound(&mut first, "after a removal that waited for a row");

    run(&mut second, &format!("BEGIN; SELECT tandem.apply('b', decode('{}', 'hex'))", tombstone(7)));
    let inserted = "INSERT INTO tandem.items (id, payload) VALUES ('b', '1')";
    let (mut first, result) = waiting(first, inserted, &mut second, "COMMIT");
    result.expect("the row comes after the removal");
    assert_eq!(version(&mut first, "b"), 8);
    sound(&mut first, "after a row that waited for a removal");
}

#[test]
fn truncate_takes_rows_that_its_transaction_cannot_see() {
    let (mut first, mut second) = sessions();
    run(&mut first, "SELECT tandem.put('seen', '[1]')");
    run(&mut first, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tandem.items");
    run(&mut second, "SELECT tandem.put('unseen', '[1]')");
    run(&mut first, "TRUNCATE tandem.items; COMMIT");
    let buried: Vec<String> = rows(&mut first, "SELECT id FROM tandem.tombstones ORDER BY id")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(buried, ["seen", "unseen"]);
    sound(&mut first, "after TRUNCATE");
}

#[test]
fn what_is_written_as_a_replica_is_captured() {
    let (mut first, _) = sessions();
    run(&mut first, "SELECT tandem.put('a', '[1]'), tandem.put('b', '[1]')");
    run(&mut first, "SET session_replication_role = replica");
    run(&mut first, "UPDATE tandem.items SET payload = '2' WHERE id = 'a'");
    assert_eq!(version(&mut first, "a"), 2, "new content is a new version");
    run(
        &mut first,
        "INSERT INTO tandem.items (id, payload, payload_hash, version, \"timestamp\") VALUES ('c', '3', '\\x00', 9, 5)",
    );
    run(&mut first, "DELETE FROM tandem.items WHERE id = 'b'");
    run(&mut first, "RESET session_replication_role");
    sound(&mut first, "after writes as a replica");
    let (_, text) =
        refused(&mut first, "SET session_replication_role = replica; TRUNCATE tandem.items; SELECT 1/0");
    assert!(text.contains("division"), "{text}");
}

/// A transaction that has its number and writes later, while the blocks are made anew.
#[test]
fn blocks_made_anew_know_what_older_transactions_write_later() {
    let (mut first, mut second) = sessions();
    run(&mut first, "BEGIN; SELECT pg_current_xact_id()");
    run(&mut second, "SELECT tandem.put('b', '[1]')");
    run(&mut second, "SELECT tandem.rebuild_blocks()");
    run(&mut first, "SELECT tandem.put('a', '[1]'); COMMIT");
    sound(&mut second, "before the fold");
    run(&mut second, "SELECT tandem.fold()");
    sound(&mut second, "after the fold");
    let (state, _) =
        refused(&mut second, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT tandem.rebuild_blocks()");
    assert_eq!(state, "22023");
}

#[test]
fn a_block_that_does_not_add_up_stops_nothing_and_is_mended() {
    let (mut first, _) = sessions();
    run(
        &mut first,
        "INSERT INTO tandem.items (id, payload) SELECT 'i.' || n, '1' FROM generate_series(1, 3000) n",
    );
    run(&mut first, "SELECT tandem.fold()");
    run(&mut first, "UPDATE tandem.blocks SET count = count + 5 WHERE first = ''");
    let verified = rows(&mut first, "SELECT ok, problems::text FROM tandem.verify()").remove(0);
    assert!(!verified.get::<_, bool>(0), "it is found");
    assert!(verified.get::<_, String>(1).contains("block"), "and named: {}", verified.get::<_, String>(1));
    assert_eq!(value::<i64>(&mut first, "SELECT tandem.mend_blocks('i.2')"), 0, "that one is another block");
    assert_eq!(value::<i64>(&mut first, "SELECT tandem.mend_blocks()"), 1);
    sound(&mut first, "after it was mended");
    run(&mut first, "UPDATE tandem.blocks SET count = count + 5 WHERE first = ''");
    // It grows until it is to be cut.
    run(
        &mut first,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 3000) n",
    );
    run(&mut first, "SELECT tandem.fold()");
    sound(&mut first, "after the block was cut");
    assert_eq!(value::<i64>(&mut first, "SELECT mended FROM tandem.fold_state"), 2);
}

#[test]
fn a_hash_that_is_read_writes_and_locks_nothing() {
    let (mut first, mut second) = sessions();
    run(&mut first, "SELECT tandem.put('a', '[1]')");
    run(
        &mut first,
        "BEGIN; SELECT tandem.merkle_root(); SELECT * FROM tandem.merkle_node(''); SELECT * FROM tandem.merkle_children(''); \
         SELECT tandem.dirty_count()",
    );
    assert!(
        value::<bool>(&mut first, "SELECT pg_current_xact_id_if_assigned() IS NULL"),
        "no transaction number"
    );
    let statements = [
        "SET lock_timeout = '5s'",
        "SELECT tandem.put('b', '[1]')",
        "SELECT tandem.fold()",
        "SELECT tandem.rotate_log()",
    ];
    statements.iter().for_each(|statement| run(&mut second, statement));
    assert_eq!(value::<i64>(&mut second, "SELECT tandem.dirty_count()"), 0, "the fold waits for nobody");
    run(&mut first, "COMMIT");
    sound(&mut first, "at the end");
}

/// One that sees an older moment gets the hash of that moment, also when the log has been emptied since.
#[test]
fn an_older_moment_keeps_its_hash_when_the_log_is_emptied() {
    let (mut first, mut second) = sessions();
    run(&mut first, "SELECT tandem.put('a', '[1]')");
    run(&mut first, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    let before: String = value(&mut first, "SELECT tandem.merkle_root()");
    wait::until("the log is emptied", DEADLINE, || {
        run(
            &mut second,
            "INSERT INTO tandem.items (id, payload) SELECT repeat('x', 490) || n, '1' FROM generate_series(1, 20000) n \
             ON CONFLICT (id) DO UPDATE SET payload = (items.payload::int + 1)::text::jsonb",
        );
        for _ in 0..2 {
            run(&mut second, "SELECT tandem.fold()");
            run(&mut second, "SELECT tandem.rotate_log()");
        }
        value::<i64>(&mut second, "SELECT times_emptied FROM tandem.log_state") > 0
    });
    assert_eq!(value::<String>(&mut first, "SELECT tandem.merkle_root()"), before);
    run(&mut first, "COMMIT");
    sound(&mut first, "at the end");
}

#[test]
fn a_transaction_may_write_and_drop_the_extension() {
    let (mut first, _) = sessions();
    run(&mut first, "BEGIN; SELECT tandem.put('a', '[1]'); DROP EXTENSION tandem CASCADE; COMMIT");
    run(&mut first, "CREATE EXTENSION tandem");
    run(&mut first, "SELECT tandem.put('a', '[1]')");
    assert_eq!(version(&mut first, "a"), 1);
    sound(&mut first, "in the new extension");
}
