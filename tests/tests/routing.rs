//! Ids under a prefix in a table of their own: items, hashes and log stay what they were, and plain SQL on the table
//! counts as on the whole. One server, a database for each test.

use postgres::Client;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::install::client_program;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{refused, rows, run, value};

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn server() -> &'static Postgres {
    SERVER.get_or_init(|| Postgres::start(&Options::default()))
}

fn database() -> Client {
    let name = format!("routing_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server().connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server().connect_as("postgres", &name);
    run(&mut client, "CREATE EXTENSION tandem");
    client
}

/// Items under several prefixes, of two versions each, and a few in the way of the bounds.
fn fill(client: &mut Client) {
    for payload in ["1", "2"] {
        run(
            client,
            &format!(
                "INSERT INTO tandem.items (id, payload) SELECT p || n, '{payload}' FROM generate_series(1, 200) n, \
                 unnest(ARRAY['view:users:', 'view:users:uk:', 'view:posts:', 'view', 'view;', 'a', 'z']) p \
                 ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
            ),
        );
    }
    run(client, "DELETE FROM tandem.items WHERE id LIKE '%77'");
}

/// Everything that routing must leave alone, as one text.
fn state(client: &mut Client) -> String {
    value(
        client,
        "SELECT md5(string_agg(i::text, ',' ORDER BY i.id)) || ' root ' || tandem.merkle_root() \
         || (SELECT format(' log %s %s', count(*), coalesce(max(xid), 0)) FROM tandem.changes) \
         || (SELECT format(' tombstones %s', count(*)) FROM tandem.tombstones) FROM tandem.items i",
    )
}

/// How many items lie in which table.
fn census(client: &mut Client) -> Vec<String> {
    let query =
        "SELECT tableoid::regclass::text || ' ' || count(*) FROM tandem.items GROUP BY tableoid ORDER BY 1";
    rows(client, query).iter().map(|row| row.get(0)).collect()
}

fn log(client: &mut Client, id: &str) -> Vec<String> {
    let query = format!("SELECT op::text || version FROM tandem.changes WHERE id = '{id}' ORDER BY xid, seq");
    rows(client, &query).iter().map(|row| row.get(0)).collect()
}

fn plan(client: &mut Client, query: &str) -> String {
    let lines = rows(client, &format!("EXPLAIN (COSTS off) {query}"));
    lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

const ROUTES: [(&str, &str); 3] =
    [("view:", "view_items"), ("view:users:", "users_items"), ("view:users:uk:", "uk_items")];

#[test]
fn the_longest_prefix_wins_in_whatever_order_routes_come() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let mut client = database();
        fill(&mut client);
        let before = state(&mut client);
        for place in order {
            let (prefix, table) = ROUTES[place];
            run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
            assert_eq!(state(&mut client), before, "after {prefix} in order {order:?}");
        }
        let expected = ["items_default 792", "uk_items 198", "users_items 198", "view_items 198"];
        let expected: Vec<String> = expected.iter().map(|line| format!("tandem.{line}")).collect();
        assert_eq!(census(&mut client), expected, "in order {order:?}");
        check_postgres(&mut client, "after routing");
        run(
            &mut client,
            "INSERT INTO tandem.items (id, payload) VALUES ('view:users:new', '1'), ('view:x', '1')",
        );
        assert_eq!(
            value::<i64>(&mut client, "SELECT count(*) FROM tandem.users_items WHERE id LIKE '%new'"),
            1
        );
        assert_eq!(
            value::<i64>(&mut client, "SELECT count(*) FROM tandem.view_items WHERE id = 'view:x'"),
            1
        );
        let before = state(&mut client);
        // Taking the middle one away gives its ids to the shorter prefix and leaves the longer one alone.
        for (prefix, moved) in [("view:users:", 199_i64), ("view:", 398), ("view:users:uk:", 198)] {
            assert_eq!(value::<i64>(&mut client, &format!("SELECT tandem.unroute('{prefix}')")), moved);
            assert_eq!(state(&mut client), before, "after {prefix} was unrouted, in order {order:?}");
        }
        assert_eq!(census(&mut client), ["tandem.items_default 1388"]);
        let left: i64 = value(
            &mut client,
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'tandem'::regnamespace AND relname ~ '^(route |view|users|uk)'",
        );
        assert_eq!(left, 0, "nothing of the routes is left");
        check_postgres(&mut client, "after unrouting");
    }
}

#[test]
fn plain_sql_on_the_table_and_on_the_whole_is_captured_once() {
    let mut client = database();
    fill(&mut client);
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    for (table, id) in
        [("users_items", "view:users:n"), ("view_items", "view:n"), ("items", "view:users:uk:n")]
    {
        run(&mut client, &format!("INSERT INTO tandem.{table} (id, payload) VALUES ('{id}', '1')"));
        run(&mut client, &format!("UPDATE tandem.{table} SET payload = '2' WHERE id = '{id}'"));
        run(&mut client, &format!("DELETE FROM tandem.{table} WHERE id = '{id}'"));
        assert_eq!(log(&mut client, id), ["p1", "p2", "r3"], "by {table}");
        run(&mut client, &format!("SELECT tandem.put('{id}', '5')"));
        assert_eq!(log(&mut client, id), ["p1", "p2", "r3", "p4"], "by function, after {table}");
        check_postgres(&mut client, &format!("after writes to {table}"));
    }
    let mut copy = client.copy_in("COPY tandem.users_items (id, payload) FROM STDIN").expect("COPY starts");
    for number in 0..500 {
        writeln!(copy, "view:users:copy{number}\t{number}").expect("COPY takes a line");
    }
    assert_eq!(copy.finish().expect("COPY ends"), 500);
    assert_eq!(log(&mut client, "view:users:copy7"), ["p1"]);
    check_postgres(&mut client, "after COPY into a routed table");
    let node: String = value(
        &mut client,
        "SELECT format('tandem.%I', 'route ' || number) FROM tandem.routes WHERE prefix = 'view:users:'",
    );
    run(&mut client, &format!("INSERT INTO {node} (id, payload) VALUES ('view:users:uk:m', '1')"));
    assert_eq!(log(&mut client, "view:users:uk:m"), ["p1"], "by the node between");
    let upsert = "INSERT INTO tandem.items (id, payload) SELECT p || n, '9' FROM generate_series(150, 250) n, \
                  unnest(ARRAY['view:users:', 'view:users:uk:', 'view:', 'b']) p \
                  ON CONFLICT (id) DO UPDATE SET payload = excluded.payload";
    run(&mut client, upsert);
    check_postgres(&mut client, "after an upsert over several tables");
    run(
        &mut client,
        "SELECT * FROM tandem.put_many(ARRAY['view:users:1', 'view:users:uk:1', 'b'], ARRAY['7', '7', '7'])",
    );
    check_postgres(&mut client, "after put_many over several tables");
    // An id that changes may change its table.
    run(&mut client, "UPDATE tandem.items SET id = 'view:posts:moved' WHERE id = 'view:users:2'");
    assert_eq!(log(&mut client, "view:posts:moved"), ["p1"]);
    assert_eq!(log(&mut client, "view:users:2").last().map(String::as_str), Some("r3"));
    check_postgres(&mut client, "after an id went to another table");
    refused(&mut client, "INSERT INTO tandem.users_items (id, payload) VALUES ('elsewhere', '1')");
    check_postgres(&mut client, "after an id in the wrong table");
}

#[test]
fn truncate_of_a_table_and_of_the_whole() {
    let mut client = database();
    fill(&mut client);
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    let logged = |client: &mut Client| value::<i64>(client, "SELECT count(*) FROM tandem.changes");
    let before = logged(&mut client);
    run(&mut client, "TRUNCATE tandem.users_items");
    assert_eq!(logged(&mut client), before + 198);
    assert_eq!(check_postgres(&mut client, "after TRUNCATE of a routed table").count, 1386 - 198);
    run(&mut client, "TRUNCATE tandem.items");
    assert_eq!(logged(&mut client), before + 1386);
    assert_eq!(check_postgres(&mut client, "after TRUNCATE of the whole").count, 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones"), 1400);
}

#[test]
fn names_and_prefixes_that_are_refused() {
    let mut client = database();
    run(&mut client, "SELECT tandem.route('a:', 'a_items')");
    let long = "x".repeat(64);
    let names = [
        "",
        "x\"; DROP TABLE tandem.items; --",
        "Users",
        "1st",
        "a-b",
        "a b",
        "ä",
        &long,
        "items",
        "items_default",
        "items_pkey",
        "item",
        "blocks",
        "changes",
        "changes_0",
        "routes",
        "restored_items",
        "a_items",
        "a_items_pkey",
    ];
    for name in names {
        let statement = format!("SELECT tandem.route('b:', $name${name}$name$)");
        let (state, text) = refused(&mut client, &statement);
        assert_eq!(state, "22023", "{name}: {text}");
    }
    for prefix in ["", "a:", &"p".repeat(513)] {
        let (state, text) = refused(&mut client, &format!("SELECT tandem.route('{prefix}', 'b_items')"));
        assert_eq!(state, "22023", "{prefix}: {text}");
    }
    let (state, text) = refused(&mut client, "SELECT tandem.unroute('nowhere')");
    assert_eq!(state, "P0002", "{text}");
    // The longest name, and prefixes with every kind of letter.
    run(&mut client, &format!("SELECT tandem.route('it''s \\ \"x\" %', '{}')", "y".repeat(63)));
    run(&mut client, "SELECT tandem.route(U&'\\+10FFFF', 'last_items')");
    run(&mut client, "SELECT tandem.put(U&'\\+10FFFFx', '1'), tandem.put('it''s \\ \"x\" % a', '1')");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.last_items"), 1);
    assert_eq!(value::<i64>(&mut client, &format!("SELECT count(*) FROM tandem.{}", "y".repeat(63))), 1);
    let listed: Vec<String> =
        rows(&mut client, "SELECT table_name FROM tandem.routes()").iter().map(|row| row.get(0)).collect();
    assert_eq!(listed, ["a_items", &"y".repeat(63), "last_items"]);
    check_postgres(&mut client, "after odd prefixes");
}

#[test]
fn rights_are_those_of_items_and_routing_is_the_owners() {
    let mut client = database();
    let user = format!("routing_user_{}", std::process::id());
    run(&mut client, &format!("CREATE ROLE {user} LOGIN; GRANT tandem_writer TO {user}"));
    run(&mut client, "SELECT tandem.route('a:', 'a_items')");
    run(&mut client, &format!("SET ROLE {user}"));
    for statement in ["SELECT tandem.route('b:', 'b_items')", "SELECT tandem.unroute('a:')"] {
        assert_eq!(refused(&mut client, statement).0, "42501", "{statement}");
    }
    // By its own name the table has none of the policies that items may have.
    for statement in
        ["SELECT * FROM tandem.a_items", "INSERT INTO tandem.a_items (id, payload) VALUES ('a:1', '1')"]
    {
        assert_eq!(refused(&mut client, statement).0, "42501", "{statement}");
    }
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('a:1', '1')");
    run(&mut client, "UPDATE tandem.items SET payload = '2' WHERE id = 'a:1'");
    assert_eq!(refused(&mut client, "TRUNCATE tandem.a_items").0, "42501");
    run(&mut client, "RESET ROLE");
    assert_eq!(log(&mut client, "a:1"), ["p1", "p2"]);
    assert_eq!(refused(&mut client, "DROP TABLE tandem.a_items").0, "2BP01", "it is the extension's");
    run(&mut client, &format!("DROP OWNED BY {user}; DROP ROLE {user}"));
    run(&mut client, "DROP EXTENSION tandem; CREATE EXTENSION tandem");
    assert_eq!(check_postgres(&mut client, "after the extension was made anew").count, 0);
}

#[test]
fn queries_go_to_the_tables_that_matter() {
    let mut client = database();
    fill(&mut client);
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    let tables = |text: &str| {
        let names = ["items_default", "view_items", "users_items", "uk_items"];
        names
            .into_iter()
            .filter(|name| text.contains(&format!(" {name} ")) || text.contains(&format!("{name}_pkey")))
            .collect::<Vec<_>>()
    };
    for (query, expected) in [
        ("SELECT * FROM tandem.items WHERE id = 'view:users:1'", vec!["users_items"]),
        ("SELECT * FROM tandem.items WHERE id = 'a1'", vec!["items_default"]),
        (
            "SELECT * FROM tandem.items WHERE id >= 'view:users:uk:' AND id < 'view:users:uk;'",
            vec!["uk_items"],
        ),
        (
            "SELECT * FROM tandem.items WHERE id >= 'view:users:' AND id < 'view:users;'",
            vec!["users_items", "uk_items"],
        ),
        ("SELECT * FROM tandem.scan('view:users:uk:')", vec!["uk_items"]),
    ] {
        let text = plan(&mut client, query);
        assert_eq!(tables(&text), expected, "{query}\n{text}");
    }
    // LIKE is none of the operators that Postgres picks partitions by; it goes through the index of each.
    run(&mut client, "SET enable_seqscan = off");
    let text = plan(&mut client, "SELECT * FROM tandem.items WHERE id LIKE 'view:users:uk:%'");
    assert_eq!(text.matches("Index Cond: ((id >= 'view:users:uk:'::text)").count(), 4, "{text}");
}

#[test]
fn a_rollback_leaves_everything_as_it_was() {
    let mut client = database();
    fill(&mut client);
    run(&mut client, "SELECT tandem.route('view:users:', 'users_items')");
    let (before, tables) = (state(&mut client), census(&mut client));
    run(
        &mut client,
        "BEGIN; SELECT tandem.route('view:', 'view_items'); SELECT tandem.unroute('view:users:'); \
         SELECT tandem.route('z', 'z_items'); ROLLBACK",
    );
    assert_eq!((state(&mut client), census(&mut client)), (before, tables));
    refused(&mut client, "DO $$ BEGIN PERFORM tandem.route('z', 'z_items'); RAISE 'no'; END $$");
    run(&mut client, "INSERT INTO tandem.users_items (id, payload) VALUES ('view:users:n', '1')");
    assert_eq!(log(&mut client, "view:users:n"), ["p1"]);
    check_postgres(&mut client, "after rollbacks");
}

fn words(database: &str) -> Vec<String> {
    let port = server().port().to_string();
    ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database].map(str::to_owned).to_vec()
}

#[test]
fn a_dump_carries_routes_and_rows() {
    let mut client = database();
    fill(&mut client);
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    run(&mut client, "SELECT tandem.route('a', '_first'); SELECT tandem.put_binary('a\\b', '\\x00ff')");
    let source: String = value(&mut client, "SELECT current_database()::text");
    for options in [&[][..], &["--inserts"]] {
        let dump = Command::new(client_program("pg_dump"))
            .args(words(&source))
            .args(options)
            .output()
            .expect("pg_dump starts");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let target = format!("{source}_{}", options.len());
        run(&mut client, &format!("CREATE DATABASE {target}"));
        let mut psql = Command::new(client_program("psql"))
            .args(words(&target))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        psql.stdin.take().expect("it has an input").write_all(&dump.stdout).expect("psql reads");
        let ended = psql.wait_with_output().expect("psql ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let mut restored = server().connect_as("postgres", &target);
        let root = |client: &mut Client| value::<String>(client, "SELECT tandem.merkle_root()");
        assert_eq!(root(&mut restored), root(&mut client), "with {options:?}");
        assert_eq!(census(&mut restored), census(&mut client), "with {options:?}");
        let content = "SELECT md5(string_agg(i::text, ',' ORDER BY i.id)) FROM tandem.items i";
        assert_eq!(value::<String>(&mut restored, content), value::<String>(&mut client, content));
        assert_eq!(value::<i64>(&mut restored, "SELECT count(*) FROM tandem.restored_items"), 0);
        check_postgres(&mut restored, "after a restore");
        run(&mut restored, "INSERT INTO tandem.uk_items (id, payload) VALUES ('view:users:uk:n', '1')");
        assert_eq!(log(&mut restored, "view:users:uk:n"), ["p1"]);
        run(
            &mut restored,
            "SELECT tandem.route('view:p', 'posts_items'); SELECT tandem.unroute('view:users:')",
        );
        check_postgres(&mut restored, "after routing in the restored database");
    }
}

/// Columns, triggers and constraints of others come along, and nobody is told of a move that is no change.
#[test]
fn a_move_is_nothing_to_others() {
    let mut client = database();
    run(
        &mut client,
        "CREATE TABLE owners (name text PRIMARY KEY); INSERT INTO owners VALUES ('x'); \
         CREATE TABLE fired (what text); \
         ALTER TABLE tandem.items ADD COLUMN owner text DEFAULT 'x' REFERENCES owners, \
             ADD COLUMN length integer GENERATED ALWAYS AS (octet_length(id)) STORED, ADD COLUMN dropped text; \
         ALTER TABLE tandem.items DROP COLUMN dropped; \
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN INSERT INTO public.fired VALUES (TG_OP || ' ' || TG_TABLE_NAME); RETURN coalesce(NEW, OLD); END$$",
    );
    fill(&mut client);
    run(
        &mut client,
        "CREATE TRIGGER whole AFTER INSERT OR UPDATE OR DELETE ON tandem.items FOR EACH ROW EXECUTE FUNCTION fire(); \
         CREATE TRIGGER part AFTER INSERT OR UPDATE OR DELETE ON tandem.items_default FOR EACH ROW EXECUTE FUNCTION fire(); \
         CREATE TRIGGER always BEFORE INSERT OR DELETE ON tandem.items_default FOR EACH STATEMENT EXECUTE FUNCTION fire(); \
         ALTER TABLE tandem.items_default ENABLE ALWAYS TRIGGER always",
    );
    let before = state(&mut client);
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    for (prefix, _) in ROUTES {
        run(&mut client, &format!("SELECT tandem.unroute('{prefix}')"));
    }
    assert_eq!(state(&mut client), before);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM fired"), 0);
    let enabled: String = value(
        &mut client,
        "SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger \
                            WHERE tgrelid = 'tandem.items_default'::regclass AND NOT tgisinternal",
    );
    assert_eq!(enabled, "_tandem_capture A, _tandem_truncate A, always A, part O, whole O, zz_tandem_row A");
    let left: i64 = value(
        &mut client,
        "SELECT count(*) FROM pg_constraint WHERE conname LIKE 'tandem%' AND conrelid = 'tandem.items_default'::regclass",
    );
    assert_eq!(left, 0, "nothing of the routes is left");
    run(
        &mut client,
        "SELECT tandem.route('view:', 'view_items'); INSERT INTO tandem.items (id, payload) VALUES ('view:n', '1')",
    );
    refused(&mut client, "UPDATE tandem.items SET owner = 'nobody' WHERE id = 'view:n'");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM fired"), 1, "in a routed table triggers fire");
    check_postgres(&mut client, "after a write of a routed item");
}

#[test]
fn who_refers_to_items_loses_nothing() {
    let mut client = database();
    fill(&mut client);
    run(
        &mut client,
        "CREATE TABLE likes (id text REFERENCES tandem.items ON DELETE CASCADE); \
         INSERT INTO likes VALUES ('view:users:1'), ('a1')",
    );
    let (code, text) = refused(&mut client, "SELECT tandem.route('view:', 'view_items')");
    assert!(code == "22023" && text.contains("likes_id_fkey") && text.contains("likes"), "{text}");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM likes"), 2);
    run(
        &mut client,
        "ALTER TABLE likes DROP CONSTRAINT likes_id_fkey; SELECT tandem.route('view:', 'view_items'); \
         ALTER TABLE likes ADD CONSTRAINT likes_id_fkey FOREIGN KEY (id) REFERENCES tandem.items ON DELETE CASCADE",
    );
    refused(&mut client, "SELECT tandem.unroute('view:')");
    run(&mut client, "DELETE FROM tandem.items WHERE id = 'view:users:1'");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM likes"), 1);
}

/// The table that holds everything else is not read through: what is left in it is proven by constraints.
#[test]
fn the_rest_is_not_scanned() {
    let mut client = database();
    fill(&mut client);
    let name: String = value(&mut client, "SELECT current_database()::text");
    let mut steps: Vec<String> =
        ROUTES.iter().map(|(prefix, table)| format!("SELECT tandem.route('{prefix}', '{table}')")).collect();
    // Between two that are there.
    steps.push("SELECT tandem.unroute('view:users:')".to_owned());
    steps.push("SELECT tandem.route('view:users:', 'users_again')".to_owned());
    steps.push("SELECT tandem.unroute('view:')".to_owned());
    for step in steps {
        let output = Command::new(client_program("psql"))
            .args(words(&name))
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-c", "SET client_min_messages = debug1", "-c", &step])
            .output()
            .expect("psql starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{step}: {said}");
        assert!(said.contains("implied by existing constraints"), "{step}: {said}");
        assert!(!said.contains("verifying table"), "{step}: {said}");
        check_postgres(&mut client, &step);
    }
}

#[test]
fn a_route_does_not_wait_for_ever_for_who_reads() {
    let mut client = database();
    fill(&mut client);
    let name: String = value(&mut client, "SELECT current_database()::text");
    let mut reader = server().connect_as("postgres", &name);
    run(&mut reader, "BEGIN; SELECT count(*) FROM tandem.items");
    assert_eq!(refused(&mut client, "SELECT tandem.route('view:', 'view_items')").0, "55P03");
    run(&mut client, "SET lock_timeout = '50ms'");
    assert_eq!(refused(&mut client, "SELECT tandem.route('view:', 'view_items')").0, "55P03");
    run(&mut reader, "COMMIT");
    run(&mut client, "SELECT tandem.route('view:', 'view_items')");
    assert_eq!(value::<String>(&mut client, "SHOW lock_timeout"), "50ms");
}

#[test]
fn subscribers_hear_nothing_of_a_move() {
    let settings = vec!["wal_level = logical".to_owned()];
    let postgres = Postgres::start(&Options { settings, ..Options::default() });
    let mut client = postgres.connect();
    run(&mut client, "CREATE EXTENSION tandem");
    fill(&mut client);
    run(
        &mut client,
        "CREATE PUBLICATION items FOR TABLE tandem.items WITH (publish_via_partition_root = true); \
         CREATE PUBLICATION parts FOR TABLE tandem.items",
    );
    run(&mut client, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let heard = |client: &mut Client, publication: &str| -> i64 {
        value(
            client,
            &format!(
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL, 'proto_version', '1', \
                 'publication_names', '{publication}') WHERE chr(get_byte(data, 0)) IN ('I', 'U', 'D', 'T')"
            ),
        )
    };
    for (prefix, table) in ROUTES {
        run(&mut client, &format!("SELECT tandem.route('{prefix}', '{table}')"));
    }
    run(&mut client, "SELECT tandem.unroute('view:users:')");
    for publication in ["items", "parts"] {
        assert_eq!(heard(&mut client, publication), 0, "by {publication}");
    }
    run(&mut client, "UPDATE tandem.items SET payload = '5' WHERE id IN ('view:users:1', 'view:1', 'a1')");
    assert_eq!(heard(&mut client, "items"), 2, "a change in a routed table is heard");
}
