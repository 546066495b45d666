//! What only SQL has: roles, plans, plain arrays, and what a write leaves alone. What both
//! engines answer alike is in `surface`.

use postgres::Client;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{error_text, refused, rows, run, value};

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn server() -> &'static Postgres {
    SERVER.get_or_init(|| Postgres::start(&Options::default()))
}

/// A database of its own, which no worker serves: folding and rotation happen when a test asks for them.
fn database() -> (Client, String) {
    let name = format!("sql_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server().connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server().connect_as("postgres", &name);
    run(&mut client, "CREATE EXTENSION tandem");
    (client, name)
}

/// Refused with a SQLSTATE and a message that says this.
fn is_refused(client: &mut Client, statement: &str, state: &str, saying: &str) {
    let (found, text) = refused(client, statement);
    assert_eq!(found, state, "{statement}: {text}");
    assert!(text.contains(saying), "{statement}: {text}");
}

fn logged(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM tandem.changes")
}

fn plan(client: &mut Client, query: &str) -> String {
    let lines = rows(client, &format!("EXPLAIN (COSTS OFF) {query}"));
    lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[test]
fn null_is_refused_and_not_taken_for_nothing() {
    let (mut client, _) = database();
    for (call, saying) in [
        ("put(NULL, 'x')", "id is NULL"),
        ("put('a', NULL::text)", "payload is NULL"),
        ("put('a', NULL::jsonb)", "payload is NULL"),
        ("put_binary('a', NULL)", "payload is NULL"),
        ("merge('a', NULL::text)", "patch is NULL"),
        ("delete(NULL)", "id is NULL"),
        ("set_state('a', NULL)", "state is NULL"),
        ("move_state('a', NULL, 'x')", "from_state is NULL"),
        ("touch(NULL)", "id is NULL"),
        ("put_many(ARRAY['a', NULL], ARRAY['1', '2'])", "item 1 of the batch (''): id is NULL"),
        ("put_many(ARRAY['a', 'b'], ARRAY['1', NULL])", "item 1 of the batch ('b'): payload is NULL"),
        ("put_many(NULL::text[], ARRAY['1'])", "ids is NULL"),
        ("delete_many(ARRAY[NULL]::text[])", "item 0 of the batch (''): id is NULL"),
        ("batch(NULL)", "ops is NULL"),
        ("delete_state(NULL)", "state is NULL"),
        ("delete_prefix(NULL)", "prefix is NULL"),
    ] {
        is_refused(&mut client, &format!("SELECT tandem.{call}"), "22023", saying);
    }
    assert_eq!(logged(&mut client), 0);
}

#[test]
fn reads_check_their_arguments_even_where_nothing_is_stored() {
    let (mut client, _) = database();
    let long = "x".repeat(513);
    for call in [
        format!("scan('{long}')"),
        "scan('', lim => 0)".to_owned(),
        format!("count('{long}')"),
        "list_state('')".to_owned(),
        "list_state('s', lim => 10001)".to_owned(),
        "get_state('')".to_owned(),
        "count_state(repeat('s', 65))".to_owned(),
        "in_state('a', '')".to_owned(),
        "in_state('', 's')".to_owned(),
        "item_status('')".to_owned(),
        format!("dirty('{long}')"),
        format!("is_clean('{long}')"),
        "changes_since(lim => 0)".to_owned(),
        "changes_since('soon')".to_owned(),
        "changes_since('1--1')".to_owned(),
    ] {
        is_refused(&mut client, &format!("SELECT * FROM tandem.{call}"), "22023", "");
        // With the arguments as parameters of a plan that is made for any value.
        let prepared = format!("SET plan_cache_mode = force_generic_plan; SELECT * FROM tandem.{call}");
        is_refused(&mut client, &prepared, "22023", "");
    }
    run(&mut client, "SET plan_cache_mode = force_generic_plan");
    let (long, bad_state) = (long.as_str(), "");
    for (query, argument) in [
        ("SELECT * FROM tandem.scan($1)", long),
        ("SELECT tandem.count($1)", long),
        ("SELECT * FROM tandem.list_state($1)", bad_state),
        ("SELECT tandem.count_state($1)", bad_state),
        ("SELECT tandem.in_state('absent', $1)", bad_state),
    ] {
        let error = client.query(query, &[&argument]).expect_err(query);
        assert!(error_text(&error).contains("code INVALID"), "{query}: {}", error_text(&error));
    }
}

#[test]
fn a_batch_of_items_in_json_has_options_for_each() {
    let (mut client, _) = database();
    let batch = "SELECT written || ' ' || unchanged FROM tandem.put_many('[{\"id\":\"a\",\"payload\":{\"n\":1}}, \
        {\"id\":\"b\",\"payload_base64\":\"AP8=\",\"state\":\"hot\",\"audit\":{\"home\":\"x\"}}, \
        {\"id\":\"a\",\"payload\":{\"n\":1}}]'::jsonb, '{\"home\":\"y\"}')";
    assert_eq!(value::<String>(&mut client, batch), "2 1");
    let audits = "SELECT string_agg(audit->>'home', ',' ORDER BY id) FROM tandem.items";
    assert_eq!(value::<String>(&mut client, audits), "y,x");
    let batches: i64 = value(&mut client, "SELECT count(DISTINCT audit->>'batch') FROM tandem.items");
    assert_eq!(batches, 1, "both are stamped with one batch id");
    is_refused(
        &mut client,
        "SELECT tandem.batch('[{\"op\":\"put\",\"id\":\"c\",\"payload\":1}, \
            {\"op\":\"set_state\",\"id\":\"nowhere\",\"state\":\"x\"}]')",
        "P0002",
        "item 1 of the batch ('nowhere')",
    );
    assert!(!value::<bool>(&mut client, "SELECT tandem.exists('c')"), "all or nothing");
    is_refused(
        &mut client,
        "SELECT tandem.put('a', '[2]', version => 1)",
        "55000",
        "item 'a' is at version 1",
    );
    check_postgres(&mut client, "after batches");
}

#[test]
fn numbers_of_jsonb_arguments_keep_their_digits() {
    let (mut client, _) = database();
    run(&mut client, "SELECT tandem.put('a', '[12345678901234567890123, 1.50]'::jsonb)");
    run(&mut client, "SELECT tandem.merge('b', '{\"n\": 12345678901234567890123}'::jsonb)");
    let payloads = "SELECT string_agg(payload::text, ' ' ORDER BY id) FROM tandem.items";
    let expected = "[12345678901234567890123, 1.5] {\"n\": 12345678901234567890123}";
    assert_eq!(value::<String>(&mut client, payloads), expected);
}

/// A large content is stored out of line; the chunks of a value that is written again are new rows.
#[test]
fn a_change_of_state_leaves_the_content_where_it_is() {
    let (mut client, _) = database();
    run(
        &mut client,
        "SELECT tandem.put('a', (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 20000) n))",
    );
    let table: String = value(
        &mut client,
        "SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'tandem.items_default'::regclass",
    );
    let chunks = format!("SELECT count(*) || ' ' || max(xmin::text::bigint) FROM {table}");
    let chunks = chunks.as_str();
    let before: String = value(&mut client, chunks);
    run(&mut client, "SELECT tandem.set_state('a', 'hot'); SELECT tandem.move_state('a', 'hot', 'cold')");
    assert_eq!(value::<String>(&mut client, chunks), before);
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.items"), 3);
    is_refused(&mut client, "SELECT tandem.move_state('a', 'hot', 'x')", "40001", "is in state 'cold'");
    check_postgres(&mut client, "after changes of state");
}

#[test]
fn a_touch_is_no_revision() {
    let (mut client, _) = database();
    run(&mut client, "SELECT tandem.put('a', '[1]')");
    let before = logged(&mut client);
    assert!(value::<bool>(&mut client, "SELECT tandem.touch('a')"));
    assert!(value::<bool>(&mut client, "SELECT tandem.touch('a')"));
    assert!(!value::<bool>(&mut client, "SELECT tandem.touch('b')"));
    let row = "SELECT version || ' ' || access_count || ' ' || (last_accessed > now() - interval '1 hour') \
        FROM tandem.items";
    assert_eq!(value::<String>(&mut client, row), "1 2 true");
    assert_eq!(logged(&mut client), before);
    let seen =
        "SELECT s.access_count || ' ' || (s.last_accessed > 1700000000000) FROM tandem.item_status('a') s";
    assert_eq!(value::<String>(&mut client, seen), "2 true");
}

#[test]
fn local_items_are_seen_and_neither_logged_nor_hashed() {
    let (mut client, _) = database();
    run(&mut client, "SELECT tandem.put('a', '[1]', local => true), tandem.put('b', '[1]', local => true)");
    assert_eq!(logged(&mut client), 0);
    assert_eq!(value::<Option<String>>(&mut client, "SELECT tandem.merkle_root()"), None);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count()"), 2);
    let said = "SELECT value FROM tandem.status() WHERE name = 'local_items'";
    assert_eq!(value::<String>(&mut client, said), "2");
    run(&mut client, "SELECT tandem.set_state('a', 'x'), tandem.merge('a', '{\"n\":1}')");
    assert!(value::<bool>(&mut client, "SELECT tandem.delete('b')"));
    assert_eq!(logged(&mut client), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones"), 0);
    run(&mut client, "SELECT tandem.put('a', '[2]')");
    assert_eq!(logged(&mut client), 1, "it is shared now");
    assert_eq!(check_postgres(&mut client, "after a local item was shared").count, 1);
    is_refused(&mut client, "SELECT tandem.put('a', '[3]', local => true)", "22023", "is shared");
    // A local item over a tombstone leaves it; shared, it takes its place.
    run(&mut client, "SELECT tandem.delete('a'); SELECT tandem.put('a', '[4]', local => true)");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones"), 1);
    let before = logged(&mut client);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.delete_prefix('')"), 1);
    assert_eq!(logged(&mut client), before);
    run(&mut client, "SELECT tandem.put('a', '[5]', local => true); SELECT tandem.put('a', '[5]')");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones"), 0);
    check_postgres(&mut client, "after local items came and went");
}

#[test]
fn removals_have_the_version_that_was_asked_for() {
    let (mut client, _) = database();
    run(
        &mut client,
        "SELECT tandem.put('a', '[1]'), tandem.delete('a', version => 9, audit => '{\"home\":\"x\"}')",
    );
    let tombstone = "SELECT version || ' ' || (audit->>'home') FROM tandem.tombstones";
    assert_eq!(value::<String>(&mut client, tombstone), "9 x");
    let logged = "SELECT op::text || version FROM tandem.changes ORDER BY xid DESC, seq DESC LIMIT 1";
    assert_eq!(value::<String>(&mut client, logged), "r9");
    is_refused(&mut client, "SELECT tandem.put('a', '[1]', version => 9)", "55000", "version 9");
}

#[test]
fn bulk_removals_go_in_byte_order_and_leave_tombstones() {
    let (mut client, _) = database();
    let fill = "SELECT count(p.changed) FROM generate_series(1, 6000) n, \
        tandem.put('n.' || lpad(n::text, 5, '0'), '[1]', state => CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END) p";
    run(&mut client, fill);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.delete_state('even', 10)"), 10);
    assert_eq!(value::<String>(&mut client, "SELECT tandem.list_state('even', lim => 1)"), "n.00022");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.delete_state('even')"), 2990);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count_state('even')"), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.delete_prefix('n.00', 5)"), 5);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.delete_prefix('n.')"), 2995);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones"), 6000);
    is_refused(&mut client, "SELECT tandem.delete_prefix('n.', 0)", "22023", "limit 0");
    assert_eq!(check_postgres(&mut client, "after bulk removals").count, 0);
}

#[test]
fn reads_go_through_indexes() {
    let (mut client, _) = database();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload, state) \
         SELECT 'n.' || lpad(n::text, 6, '0'), '1', 's' || n % 50 FROM generate_series(1, 20000) n; \
         ANALYZE tandem.items; SET plan_cache_mode = force_generic_plan; \
         PREPARE list(text, text, bigint) AS SELECT * FROM tandem.list_state($1, $2, $3); \
         PREPARE get(text, text) AS SELECT id FROM tandem.get_state($1, $2); \
         PREPARE counted(text) AS SELECT tandem.count_state($1); \
         PREPARE scan(text, text) AS SELECT id FROM tandem.scan($1, $2); \
         PREPARE held(text, text) AS SELECT tandem.in_state($1, $2)",
    );
    for (query, index) in [
        ("EXECUTE list('s1', 'n.000500', 10)", "items_default_state_id_idx"),
        ("EXECUTE get('s1', 'n.000500')", "items_default_state_id_idx"),
        ("EXECUTE scan('n.', 'n.000500')", "items_default_pkey"),
    ] {
        let plan = plan(&mut client, query);
        assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{query}: {plan}");
        assert!(!plan.contains("Sort"), "{query}: {plan}");
        // The position of the page is looked up and not read up to.
        let condition = plan.lines().find(|line| line.contains("Index Cond")).unwrap_or_default();
        assert!(condition.contains("id > ") || condition.contains("id) > "), "{query}: {plan}");
    }
    let page = "SELECT count(*) || ' ' || min(l) FROM tandem.list_state('s1', 'n.000500', 10) l";
    assert_eq!(value::<String>(&mut client, page), "10 n.000501");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count_state('s1')"), 400);
    assert!(value::<bool>(&mut client, "SELECT tandem.in_state('n.000001', 's1')"));
}

#[test]
fn readers_read_and_writers_write_and_neither_has_more() {
    let (mut client, name) = database();
    run(
        &mut client,
        "DO $$ BEGIN CREATE ROLE some_reader LOGIN IN ROLE tandem_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         DO $$ BEGIN CREATE ROLE some_writer LOGIN IN ROLE tandem_writer; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         SELECT tandem.put('a', '{}')",
    );
    let reads = [
        "get('a')",
        "scan('')",
        "count()",
        "exists_many(ARRAY['a'])",
        "get_state('default')",
        "in_state('a', 'default')",
        "item_status('a')",
        "merkle_root()",
        "merkle_node('')",
        "merkle_leaves('')",
        "merkle_children('')",
        "dirty()",
        "dirty_count()",
        "dirty_prefixes()",
        "clean_branches()",
        "is_clean()",
        "changes_since()",
        "log_position()",
        "verify()",
        "status()",
        "links()",
    ];
    let writes = [
        "put('w', '{}')",
        "put('w', '[1]'::jsonb)",
        "put_binary('x', 'x')",
        "put('l', '1', local => true)",
        "merge('w', '{\"a\":1}')",
        "set_state('w', 's')",
        "move_state('w', 's', 't')",
        "touch('w')",
        "put_many(ARRAY['y', 'z'], ARRAY['1', '2'])",
        "batch('[{\"op\":\"delete\",\"id\":\"y\"}]')",
        "delete_many(ARRAY['z'])",
        "delete_state('t')",
        "delete('x')",
        "delete_prefix('')",
    ];
    let mut reader = server().connect_as("some_reader", &name);
    let mut writer = server().connect_as("some_writer", &name);
    for call in reads {
        rows(&mut reader, &format!("SELECT * FROM tandem.{call}"));
        rows(&mut writer, &format!("SELECT * FROM tandem.{call}"));
    }
    for call in writes {
        // What finds nothing to remove reads only.
        if !call.starts_with("delete_state") {
            is_refused(&mut reader, &format!("SELECT * FROM tandem.{call}"), "42501", "permission denied");
        }
        rows(&mut writer, &format!("SELECT * FROM tandem.{call}"));
    }
    for client in [&mut reader, &mut writer] {
        is_refused(client, "DELETE FROM tandem.changes", "42501", "permission denied");
        is_refused(client, "SELECT url FROM tandem.links", "42501", "permission denied");
        is_refused(client, "UPDATE tandem.log_state SET slot = 0", "42501", "permission denied");
    }
    check_postgres(&mut client, "after a writer's writes");
}

/// Statements are kept for the session; what happens to the tables meanwhile must not make them wrong.
#[test]
fn kept_statements_survive_changes_of_the_schema() {
    let (mut client, _) = database();
    run(&mut client, "SELECT tandem.put('a', '[1]')");
    run(&mut client, "CREATE INDEX later ON tandem.items ((payload->>'x')); ANALYZE tandem.items");
    run(&mut client, "SELECT tandem.put('a', '[2]'), tandem.merkle_root()");
    run(&mut client, "SET search_path = tandem; SELECT put('a', '[3]'); RESET search_path");
    run(&mut client, "DROP EXTENSION tandem CASCADE; CREATE EXTENSION tandem; SELECT tandem.put('a', '[4]')");
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.items"), 1);
    check_postgres(&mut client, "after the extension was made anew");
}

/// Only an item under the id itself means that somebody was first.
#[test]
fn get_or_put_ends_where_another_unique_index_refuses() {
    let (mut client, _) = database();
    run(
        &mut client,
        "CREATE UNIQUE INDEX ON tandem.items_default ((payload->>'email')); SET statement_timeout = '30s'; \
         SELECT tandem.get_or_put('a', '{\"email\": \"x\"}')",
    );
    is_refused(&mut client, "SELECT tandem.get_or_put('b', '{\"email\": \"x\"}')", "23505", "duplicate key");
    // A trigger that lets nothing in does not make it turn round for ever either.
    run(
        &mut client,
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER z BEFORE INSERT ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.nothing()",
    );
    refused(&mut client, "SELECT tandem.get_or_put('c', '1')");
    let payload: String = value(&mut client, "SELECT g.payload::text FROM tandem.get_or_put('a', '1') g");
    assert_eq!(payload, "{\"email\": \"x\"}");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count()"), 1);
}

/// A query by id over the function is as good as one over the table.
#[test]
fn get_is_taken_into_the_query_that_calls_it() {
    let (mut client, _) = database();
    let text = plan(&mut client, "SELECT payload FROM tandem.get('a')");
    assert!(text.contains("Index Scan") && !text.contains("Function Scan"), "{text}");
    assert!(rows(&mut client, "SELECT * FROM tandem.get(NULL)").is_empty());
    // What is not asked for is not computed, and nothing is computed twice.
    for call in ["get('a')", "get_many('{a}')", "scan('a')"] {
        let mut digests = |column: &str| {
            let lines = rows(
                &mut client,
                &format!("EXPLAIN (VERBOSE, COSTS OFF) SELECT {column} FROM tandem.{call}"),
            );
            let scanned = lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>();
            let per_line = scanned.iter().map(|line| line.matches("tandem.digest(").count());
            assert!(!scanned.iter().any(|line| line.contains("Function Scan on tandem")), "{scanned:?}");
            per_line.max()
        };
        assert_eq!((digests("version"), digests("*")), (Some(0), Some(1)), "{call}");
    }
}
