//! Whatever way `tandem.items` is written, version, timestamp and hash come out right, the change log is complete
//! and the blocks add up. One server, a database for each test.

use postgres::Client;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn database() -> Client {
    let server = SERVER.get_or_init(|| Postgres::start(&Options::default()));
    let name = format!("capture_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server.connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server.connect_as("postgres", &name);
    run(&mut client, "CREATE EXTENSION tandem");
    client
}

/// Version and canonical content hash of an item, by SQL alone.
fn version(client: &mut Client, id: &str) -> i64 {
    value(client, &format!("SELECT version FROM tandem.items WHERE id = '{id}'"))
}

/// What was logged of an id, oldest first, as `op version`.
fn log(client: &mut Client, id: &str) -> Vec<String> {
    let query = format!("SELECT op::text || version FROM tandem.changes WHERE id = '{id}' ORDER BY xid, seq");
    rows(client, &query).iter().map(|row| row.get(0)).collect()
}

/// The item `plain` was written by DML and `put` by function: they differ in nothing but the id.
fn same_as_put(client: &mut Client, plain: &str, put: &str) {
    let query = format!(
        "SELECT a.version = b.version AND a.payload_hash = b.payload_hash AND a.state = b.state \
         AND abs(a.\"timestamp\" - b.\"timestamp\") < 3600000 FROM tandem.items a, tandem.items b \
         WHERE a.id = '{plain}' AND b.id = '{put}'"
    );
    assert!(value::<bool>(client, &query), "{plain} by plain SQL is what {put} by tandem.put is");
}

#[test]
fn plain_insert_update_and_delete() {
    let mut client = database();
    run(&mut client, r#"INSERT INTO tandem.items (id, payload) VALUES ('a', '{"x": 1.0, "w": [10e-1]}')"#);
    run(&mut client, r#"SELECT tandem.put('b', '{"w":[1],"x":1}')"#);
    same_as_put(&mut client, "a", "b");
    check_postgres(&mut client, "after INSERT");
    run(&mut client, "UPDATE tandem.items SET payload = payload || '{\"y\": 2}' WHERE id = 'a'");
    run(&mut client, r#"SELECT tandem.put('b', '{"x":1,"w":[1],"y":2}')"#);
    assert_eq!(version(&mut client, "a"), 2);
    same_as_put(&mut client, "a", "b");
    check_postgres(&mut client, "after UPDATE");
    run(&mut client, "DELETE FROM tandem.items WHERE id = 'a'");
    assert_eq!(log(&mut client, "a"), ["p1", "p2", "r3"]);
    check_postgres(&mut client, "after DELETE");
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('a', '1')");
    assert_eq!(version(&mut client, "a"), 4, "an id counts on after its removal");
    let left: i64 = value(&mut client, "SELECT count(*) FROM tandem.tombstones");
    assert_eq!(left, 0, "an item that is back has no tombstone");
    check_postgres(&mut client, "after INSERT of a removed id");
}

#[test]
fn what_a_user_writes_into_the_kept_columns_does_not_count() {
    let mut client = database();
    let forged = "INSERT INTO tandem.items (id, payload, payload_hash, \"timestamp\") \
                  VALUES ('a', '[1]', decode(repeat('ab', 32), 'hex'), NULL)";
    run(&mut client, forged);
    run(&mut client, "SELECT tandem.put('b', '[1]')");
    same_as_put(&mut client, "a", "b");
    run(&mut client, "UPDATE tandem.items SET payload_hash = decode(repeat('cd', 32), 'hex') WHERE id = 'a'");
    same_as_put(&mut client, "a", "b");
    assert_eq!(version(&mut client, "a"), 1, "nothing changed");
    assert_eq!(log(&mut client, "a"), ["p1"], "and nothing was logged");
    check_postgres(&mut client, "after forged hashes");
}

#[test]
fn versions_that_a_user_gives_are_kept_or_refused() {
    let mut client = database();
    run(&mut client, "INSERT INTO tandem.items (id, version, payload) VALUES ('a', 7, '1')");
    assert_eq!(version(&mut client, "a"), 7);
    run(&mut client, "UPDATE tandem.items SET version = 10, payload = '2' WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 10);
    let (state, text) =
        refused(&mut client, "UPDATE tandem.items SET version = 9, payload = '3' WHERE id = 'a'");
    assert_eq!(state, "55000", "STALE: {text}");
    for bad in ["0", "-1"] {
        let statement = format!("INSERT INTO tandem.items (id, version, payload) VALUES ('b', {bad}, '1')");
        let (state, text) = refused(&mut client, &statement);
        assert_eq!(state, "22023", "INVALID: {text}");
    }
    check_postgres(&mut client, "after given versions");
}

#[test]
fn plain_writes_are_refused_where_put_is() {
    let mut client = database();
    for (id, payload, code) in [("", "1", "22023"), (&"x".repeat(513), "1", "22023"), ("a", "1e20000", "")] {
        let statement = format!("INSERT INTO tandem.items (id, payload) VALUES ('{id}', '{payload}')");
        let accepted = client.batch_execute(&statement);
        match accepted {
            Ok(()) => assert_eq!(code, "", "{statement}: it was accepted"),
            Err(error) => assert_eq!(error.code().map(|state| state.code()), Some(code), "{error:?}"),
        }
    }
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let (state, text) =
        refused(&mut client, &format!("INSERT INTO tandem.items (id, payload) VALUES ('deep', '{deep}')"));
    assert_eq!(state, "22P02", "BADJSON: {text}");
    let (state, text) = refused(
        &mut client,
        "INSERT INTO tandem.items (id, payload, state) VALUES ('s', '1', repeat('s', 65))",
    );
    assert_eq!(state, "22023", "INVALID: {text}");
    refused(&mut client, "INSERT INTO tandem.items (id) VALUES ('none')");
    refused(&mut client, "INSERT INTO tandem.items (id, payload, payload_blob) VALUES ('both', '1', '1')");
    check_postgres(&mut client, "after refused writes");
}

#[test]
fn many_rows_in_one_statement_and_by_copy() {
    let mut client = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'n.' || n, to_jsonb(n) FROM generate_series(1, 3000) n",
    );
    assert_eq!(check_postgres(&mut client, "after a large INSERT").count, 3000);
    run(
        &mut client,
        "UPDATE tandem.items SET payload = to_jsonb(-(payload::int)) WHERE payload::int % 3 = 0",
    );
    assert_eq!(check_postgres(&mut client, "after a large UPDATE").count, 3000);
    run(&mut client, "DELETE FROM tandem.items WHERE payload::int % 2 = 0");
    assert_eq!(check_postgres(&mut client, "after a large DELETE").count, 1500);
    let mut copy = client.copy_in("COPY tandem.items (id, payload) FROM STDIN").expect("COPY starts");
    for number in 0..2000 {
        writeln!(copy, "copy.{number}\t{{\"n\": {number}}}").expect("COPY takes a line");
    }
    assert_eq!(copy.finish().expect("COPY ends"), 2000);
    assert_eq!(check_postgres(&mut client, "after COPY").count, 3500);
    assert_eq!(version(&mut client, "copy.7"), 1);
    assert_eq!(log(&mut client, "copy.7"), ["p1"]);
}

#[test]
fn truncate_leaves_tombstones() {
    let mut client = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'n.' || n, '1' FROM generate_series(1, 700) n",
    );
    run(&mut client, "BEGIN; TRUNCATE tandem.items; ROLLBACK");
    assert_eq!(check_postgres(&mut client, "after a TRUNCATE that was rolled back").count, 700);
    run(&mut client, "TRUNCATE tandem.items");
    assert_eq!(check_postgres(&mut client, "after TRUNCATE").count, 0);
    let tombstones: i64 = value(&mut client, "SELECT count(*) FROM tandem.tombstones WHERE version = 2");
    assert_eq!(tombstones, 700);
}

#[test]
fn rollbacks_and_savepoints() {
    let mut client = database();
    run(
        &mut client,
        "BEGIN; INSERT INTO tandem.items (id, payload) VALUES ('a', '1'); SELECT tandem.put('b', '1'); ROLLBACK",
    );
    assert_eq!(check_postgres(&mut client, "after ROLLBACK").count, 0);
    run(
        &mut client,
        "BEGIN; INSERT INTO tandem.items (id, payload) VALUES ('a', '1'); \
         SAVEPOINT s; UPDATE tandem.items SET payload = '2' WHERE id = 'a'; SELECT tandem.put('b', '2'); \
         ROLLBACK TO s; UPDATE tandem.items SET payload = '3' WHERE id = 'a'; \
         SAVEPOINT t; SELECT tandem.put('c', '1'); RELEASE t; COMMIT",
    );
    assert_eq!(check_postgres(&mut client, "after savepoints").count, 2);
    assert_eq!(version(&mut client, "a"), 2);
    assert_eq!(log(&mut client, "a"), ["p1", "p2"]);
    // An error in the middle of a function's own write must not leave capture switched off.
    let mixed = "DO $$ BEGIN BEGIN PERFORM tandem.put('', '1'); EXCEPTION WHEN OTHERS THEN NULL; END; \
                 INSERT INTO tandem.items (id, payload) VALUES ('d', '1'); END $$";
    run(&mut client, mixed);
    assert_eq!(log(&mut client, "d"), ["p1"]);
    check_postgres(&mut client, "after a refusal that was caught");
}

#[test]
fn upserts() {
    let mut client = database();
    let upsert = |client: &mut Client, from: i32, to: i32, payload: &str| {
        run(
            client,
            &format!(
                "INSERT INTO tandem.items (id, payload) SELECT 'n.' || n, '{payload}' FROM generate_series({from}, {to}) n \
             ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
            ),
        );
    };
    upsert(&mut client, 1, 500, "1");
    upsert(&mut client, 251, 750, "2");
    assert_eq!(check_postgres(&mut client, "after upserts").count, 750);
    let versions = ["n.1", "n.300", "n.700"].map(|id| version(&mut client, id));
    assert_eq!(versions, [1, 2, 1]);
    upsert(&mut client, 251, 750, "2");
    assert_eq!(version(&mut client, "n.300"), 2, "an upsert of the same changes nothing");
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) VALUES ('n.1', '9'), ('new', '9') ON CONFLICT DO NOTHING",
    );
    assert_eq!(check_postgres(&mut client, "after DO NOTHING").count, 751);
}

#[test]
fn merge_and_data_modifying_queries() {
    let mut client = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'n.' || n, to_jsonb(n) FROM generate_series(1, 10) n",
    );
    run(
        &mut client,
        "MERGE INTO tandem.items i USING (SELECT 'n.' || n AS id, n FROM generate_series(6, 15) n) s ON i.id = s.id \
         WHEN MATCHED AND s.n < 8 THEN DELETE WHEN MATCHED THEN UPDATE SET payload = '0' \
         WHEN NOT MATCHED THEN INSERT (id, payload) VALUES (s.id, '1')",
    );
    assert_eq!(check_postgres(&mut client, "after MERGE").count, 13);
    run(
        &mut client,
        "WITH gone AS (DELETE FROM tandem.items WHERE id < 'n.12' RETURNING id, payload) \
         INSERT INTO tandem.items (id, payload) SELECT 'moved.' || id, payload FROM gone",
    );
    assert_eq!(check_postgres(&mut client, "after a DELETE that feeds an INSERT").count, 13);
}

#[test]
fn an_id_that_changes_is_a_removal_and_a_put() {
    let mut client = database();
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '2')");
    run(&mut client, "UPDATE tandem.items SET id = 'c' WHERE id = 'a'");
    assert_eq!(check_postgres(&mut client, "after an id changed").count, 2);
    assert_eq!(log(&mut client, "a"), ["p1", "r2"]);
    assert_eq!(log(&mut client, "c").len(), 1);
    let tombstone: i64 = value(&mut client, "SELECT version FROM tandem.tombstones WHERE id = 'a'");
    assert_eq!(tombstone, 2);
}

#[test]
fn states_and_audit_by_plain_sql() {
    let mut client = database();
    run(&mut client, "INSERT INTO tandem.items (id, payload, state) VALUES ('a', '1', 'pending')");
    run(&mut client, "UPDATE tandem.items SET state = 'done' WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 2, "the state is part of the revision");
    run(
        &mut client,
        "UPDATE tandem.items SET access_count = access_count + 1, last_accessed = now() WHERE id = 'a'",
    );
    assert_eq!(version(&mut client, "a"), 2, "local statistics are not");
    assert_eq!(log(&mut client, "a"), ["p1", "p2"]);
    run(&mut client, "UPDATE tandem.items SET payload = NULL, payload_blob = '\\x00ff' WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 3);
    check_postgres(&mut client, "after changes of state and kind");
}

/// Writers that run into each other, at first puts too: every version is used once, and the sums come out right.
#[test]
fn concurrent_writers_of_the_same_ids() {
    let mut client = database();
    let name: String = value(&mut client, "SELECT current_database()::text");
    let server = SERVER.get().expect("the server runs");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let mut client = server.connect_as("postgres", &name);
            scope.spawn(move || {
                for round in 0..200 {
                    let id = format!("shared.{}", round / 2);
                    let statement = if writer % 2 == 0 {
                        format!("SELECT tandem.put('{id}', '[{writer},{round}]')")
                    } else {
                        format!(
                            "INSERT INTO tandem.items (id, payload) VALUES ('{id}', '[{writer},{round}]') \
                             ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
                        )
                    };
                    run(&mut client, &statement);
                }
            });
        }
    });
    assert_eq!(check_postgres(&mut client, "after concurrent writers").count, 100);
    let sum: i64 = value(&mut client, "SELECT sum(version)::bigint FROM tandem.items");
    assert_eq!(sum, 800, "800 writes, each with a version of its own");
    let logged: i64 = value(&mut client, "SELECT count(DISTINCT (id, version)) FROM tandem.changes");
    assert_eq!(logged, 800);
}

/// A load is often one transaction. What a put locks must not add up to more than the server has room for.
#[test]
fn one_transaction_with_very_many_puts() {
    let mut client = database();
    run(
        &mut client,
        "SELECT count(p.changed) FROM generate_series(1, 20000) n, tandem.put('n.' || n, '1') p",
    );
    assert_eq!(check_postgres(&mut client, "after 20000 puts in one statement").count, 20_000);
    let many = "SELECT written FROM tandem.put_many(\
                ARRAY(SELECT 'm.' || n FROM generate_series(1, 10000) n), array_fill('2'::text, ARRAY[10000]))";
    assert_eq!(value::<i64>(&mut client, many), 10_000);
    assert_eq!(check_postgres(&mut client, "after 10000 puts in one call").count, 30_000);
}

/// Blocks split and merge as the set grows and shrinks; between the folds nothing may be lost.
#[test]
fn folding_in_steps_adds_up() {
    let mut client = database();
    for round in 0..6 {
        run(
            &mut client,
            &format!(
                "INSERT INTO tandem.items (id, payload) SELECT 'r' || {round} || '.' || md5(n::text), to_jsonb(n) \
             FROM generate_series(1, 900) n"
            ),
        );
        run(
            &mut client,
            &format!("DELETE FROM tandem.items WHERE id LIKE 'r{}.%' AND payload::int > 40", round - 1),
        );
        let pending: i64 = value(&mut client, "SELECT tandem.dirty_count()");
        assert!(pending > 0, "changes wait for the fold");
        check_postgres(&mut client, &format!("in round {round}"));
    }
}

/// A backlog over a filled set makes every block too large. Each is cut by its own items: to read on to the end of the
/// set took minutes among half a million, and held back the links for as long.
#[test]
fn cutting_blocks_reads_each_item_once() {
    let mut client = database();
    let fill = |client: &mut Client, from: i64, to: i64| {
        run(
            client,
            &format!(
                "INSERT INTO tandem.items (id, payload) SELECT md5(n::text), '1' FROM generate_series({from}, {to}) n"
            ),
        );
        while value::<i64>(client, "SELECT tandem.fold()") > 0 {}
        run(client, "SELECT pg_stat_force_next_flush()");
        value::<i64>(
            client,
            "SELECT sum(coalesce(s.idx_tup_fetch, 0) + s.seq_tup_read)::bigint FROM pg_stat_user_tables s \
             WHERE s.relid IN (SELECT t.relid FROM pg_partition_tree('tandem.items') t)",
        )
    };
    let before = fill(&mut client, 1, 5_000);
    let read = fill(&mut client, 5_001, 25_000) - before;
    let blocks: i64 = value(&mut client, "SELECT count(*) FROM tandem.blocks");
    assert!(blocks >= 25_000 / 512, "{blocks} blocks: they were cut");
    assert!((20_000..75_000).contains(&read), "{read} rows read to cut the blocks of 25000 items");
    assert_eq!(check_postgres(&mut client, "after the cuts").count, 25_000);
}

/// Content that is stored outside of its row, and content that is the same in another form, counts as what it is.
#[test]
fn long_content_and_equal_content_in_another_form() {
    let mut client = database();
    let long = "(SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 2000) n)";
    run(&mut client, &format!("INSERT INTO tandem.items (id, payload) SELECT 'a', {long}"));
    run(&mut client, "UPDATE tandem.items SET state = 'seen' WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 2);
    run(&mut client, &format!("UPDATE tandem.items SET payload = {long}, access_count = 1 WHERE id = 'a'"));
    assert_eq!(version(&mut client, "a"), 2, "the same content again is no change");
    run(&mut client, "UPDATE tandem.items SET payload = payload || '[1]' WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 3);
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('n', '[1.0, 1e1]')");
    run(&mut client, "UPDATE tandem.items SET payload = '[1, 10]' WHERE id = 'n'");
    assert_eq!(version(&mut client, "n"), 1, "other digits, the same numbers");
    // The bytes of the binary item are those that lie in the row of the other for the same text.
    let upsert = "INSERT INTO tandem.items (id, payload_blob) SELECT 'b', repeat('x', 40)::bytea \
                  ON CONFLICT (id) DO UPDATE SET payload_blob = excluded.payload_blob";
    for _ in 0..2 {
        run(&mut client, upsert);
        assert_eq!(version(&mut client, "b"), 1);
    }
    run(&mut client, "UPDATE tandem.items SET version = 5, \"timestamp\" = NULL WHERE id = 'b'");
    assert_eq!(version(&mut client, "b"), 5);
    check_postgres(&mut client, "after contents in several forms");
}

/// A local item is there for queries and for nothing else: no log, no hash, no tombstone.
#[test]
fn local_rows_leave_no_trace() {
    let mut client = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 's.' || n, '1' FROM generate_series(1, 1000) n",
    );
    let root = |client: &mut Client| value::<String>(client, "SELECT tandem.merkle_root()");
    let logged = |client: &mut Client| value::<i64>(client, "SELECT count(*) FROM tandem.changes");
    let tombstones = |client: &mut Client| value::<i64>(client, "SELECT count(*) FROM tandem.tombstones");
    let before = root(&mut client);
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload, local) SELECT 's.' || n || '.l', '1', true FROM generate_series(1, 1000) n",
    );
    run(&mut client, "UPDATE tandem.items SET payload = '2' WHERE local");
    run(&mut client, "UPDATE tandem.items SET id = 's.moved' WHERE id = 's.9.l'");
    run(&mut client, "DELETE FROM tandem.items WHERE local AND id < 's.5'");
    assert_eq!(logged(&mut client), 1000, "only the shared ones are in the log");
    assert_eq!(tombstones(&mut client), 0);
    assert_eq!(root(&mut client), before);
    assert_eq!(version(&mut client, "s.7.l"), 2, "versions count there too");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    assert_eq!(root(&mut client), before, "and blocks made anew do not hold them");
    let verified: bool = value(&mut client, "SELECT ok FROM tandem.verify()");
    assert!(verified, "the recount passes them over");
    // Many enough that blocks are cut with local rows among the shared ones.
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 't.' || n, '1' FROM generate_series(1, 2000) n",
    );
    assert!(value::<bool>(&mut client, "SELECT ok FROM tandem.verify()"));
}

#[test]
fn local_rows_become_shared_and_never_the_other_way() {
    let mut client = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload, local) VALUES ('a', '1', true), ('b', '1', true)",
    );
    run(&mut client, "UPDATE tandem.items SET local = false WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 2);
    assert_eq!(log(&mut client, "a"), ["p2"]);
    let is_new: bool = value(&mut client, "SELECT count = 1 FROM tandem.changes WHERE id = 'a'");
    assert!(is_new, "nothing shared was there before");
    for statement in [
        "UPDATE tandem.items SET local = true WHERE id = 'a'",
        "UPDATE tandem.items SET local = true, id = 'c' WHERE id = 'a'",
        "INSERT INTO tandem.items (id, payload) VALUES ('a', '2') ON CONFLICT (id) DO UPDATE SET local = true",
    ] {
        let (state, text) = refused(&mut client, statement);
        assert_eq!(state, "22023", "{statement}: {text}");
    }
    run(&mut client, "DELETE FROM tandem.items WHERE id = 'a'");
    assert_eq!(log(&mut client, "a"), ["p2", "r3"]);
    // A local item over a tombstone leaves it there, and what is shared then is newer.
    run(&mut client, "INSERT INTO tandem.items (id, payload, local) VALUES ('a', '1', true)");
    let tombstone = "SELECT coalesce(max(version), 0) FROM tandem.tombstones WHERE id = 'a'";
    assert_eq!(value::<i64>(&mut client, tombstone), 3);
    run(&mut client, "UPDATE tandem.tombstones SET version = 9 WHERE id = 'a'");
    run(&mut client, "UPDATE tandem.items SET local = false WHERE id = 'a'");
    assert_eq!(version(&mut client, "a"), 10);
    assert_eq!(value::<i64>(&mut client, tombstone), 0);
    run(&mut client, "TRUNCATE tandem.items");
    assert_eq!(log(&mut client, "b"), Vec::<String>::new());
    let left: i64 = value(&mut client, "SELECT count(*) FROM tandem.tombstones WHERE id = 'b'");
    assert_eq!(left, 0, "a local row that is truncated leaves nothing");
    assert!(value::<bool>(&mut client, "SELECT ok FROM tandem.verify()"));
}

/// A plain INSERT takes its version before it waits at the primary key; what came and went there meanwhile has left
/// a tombstone that it did not count from.
#[test]
fn a_row_that_waited_for_a_removal_counts_on_from_it() {
    let postgres = Postgres::with_extension(&Options { preload: false, ..Options::default() });
    let (mut first, mut second) = (postgres.connect(), postgres.connect());
    run(&mut first, "BEGIN; SELECT tandem.put('a', '1', version => 8), tandem.delete('a')");
    let waiting = std::thread::spawn(move || {
        run(&mut second, "INSERT INTO tandem.items (id, payload) VALUES ('a', '2')");
    });
    let blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')";
    wait::until("the insert waits", DEADLINE, || value(&mut postgres.connect(), blocked));
    run(&mut first, "COMMIT");
    waiting.join().expect("the insert goes on");
    assert_eq!(version(&mut first, "a"), 10);
    let tombstones: i64 = value(&mut first, "SELECT count(*) FROM tandem.tombstones");
    assert_eq!(tombstones, 0, "what lives has no tombstone");
    check_postgres(&mut first, "after the insert");
}
