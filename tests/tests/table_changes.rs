//! What is done to the tables of items without a row being written: rewriting loses nothing, and what tandem cannot
//! have heard of is named until it was counted anew.

use postgres::Client;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Options, Postgres};
use tandem_tests::redis::{self as rd, ask_number};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn database() -> Client {
    let server = SERVER.get_or_init(|| Postgres::start(&Options::default()));
    let name = format!("changes_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server.connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server.connect_as("postgres", &name);
    run(
        &mut client,
        "CREATE EXTENSION tandem; SELECT tandem.route('view:', 'view_items'); \
         INSERT INTO tandem.items (id, payload) SELECT 'a' || n, '1' FROM generate_series(1, 50) n; \
         INSERT INTO tandem.items (id, payload) SELECT 'view:' || n, '1' FROM generate_series(1, 50) n",
    );
    client
}

fn problems(client: &mut Client) -> String {
    value(client, "SELECT array_to_string(problems, ' | ') FROM tandem.verify()")
}

/// The triggers that are not enabled always, of all tables below items.
fn loose(client: &mut Client) -> Vec<String> {
    let query = "SELECT format('%s %s %s', p.relid::regclass, t.tgname, t.tgenabled) FROM pg_partition_tree('tandem.items') p \
                 JOIN pg_trigger t ON t.tgrelid = p.relid WHERE t.tgname LIKE '%tandem%' AND t.tgenabled <> 'A' ORDER BY 1";
    rows(client, query).iter().map(|row| row.get(0)).collect()
}

#[test]
fn the_end_of_a_bulk_load_leaves_capture_as_it_was() {
    for table in ["tandem.items", "tandem.items_default", "tandem.view_items"] {
        for which in ["ALL", "USER"] {
            let mut client = database();
            run(&mut client, &format!("ALTER TABLE {table} DISABLE TRIGGER {which}"));
            let named = problems(&mut client);
            assert!(named.contains("trigger _tandem_"), "{table} {which}: {named}");
            run(&mut client, &format!("ALTER TABLE {table} ENABLE TRIGGER {which}"));
            assert_eq!(loose(&mut client), [""; 0], "{table} {which}");
            let named = problems(&mut client);
            assert!(named.contains(" was off"), "{table} {which}: {named}");
            run(&mut client, "SELECT tandem.rebuild_blocks()");
            check_postgres(&mut client, &format!("{table} {which}, counted anew"));
            run(&mut client, "UPDATE tandem.items SET payload = '2' WHERE id IN ('a1', 'view:1')");
            let logged: i64 = value(&mut client, "SELECT count(*) FROM tandem.changes WHERE version = 2");
            assert_eq!(logged, 2, "each change once");
            check_postgres(&mut client, &format!("{table} {which}, written"));
        }
    }
    // Enabled without having been off, nothing is in doubt.
    let mut client = database();
    run(
        &mut client,
        "ALTER TABLE tandem.items ENABLE TRIGGER ALL; ALTER TABLE tandem.items ENABLE REPLICA TRIGGER _tandem_capture",
    );
    assert_eq!(loose(&mut client), [""; 0]);
    check_postgres(&mut client, "triggers that were on");
}

#[test]
fn tables_that_come_and_go_are_named() {
    let mut client = database();
    let node: String =
        value(&mut client, "SELECT format('tandem.%I', 'route ' || number) FROM tandem.routes");
    run(&mut client, &format!("ALTER TABLE tandem.items DETACH PARTITION {node}"));
    let named = problems(&mut client);
    assert!(named.contains("was detached from the items") && named.contains("route 1"), "{named}");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    check_postgres(&mut client, "without the table");
    run(
        &mut client,
        &format!("ALTER TABLE tandem.items ATTACH PARTITION {node} FOR VALUES FROM ('view:') TO ('view;')"),
    );
    let named = problems(&mut client);
    assert!(named.contains("was attached to the items") && named.contains("view_items"), "{named}");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    check_postgres(&mut client, "with the table again");
    // A table of one's own has all of capture, TRUNCATE too, and an empty one is no reason to doubt.
    run(&mut client, "CREATE TABLE public.mine PARTITION OF tandem.items FOR VALUES FROM ('m') TO ('n')");
    check_postgres(&mut client, "with a new table");
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('m1', '1'); TRUNCATE public.mine");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones WHERE id = 'm1'"), 1);
    assert_eq!(loose(&mut client), [""; 0]);
    check_postgres(&mut client, "after TRUNCATE of a new table");
    run(&mut client, "SELECT tandem.route('r:', 'r_items'); SELECT tandem.unroute('r:')");
    check_postgres(&mut client, "routes are no reason to doubt");
}

/// What is dropped is gone unheard of, and what is made in its place does not make up for it.
#[test]
fn what_is_dropped_is_named() {
    let mut client = database();
    run(&mut client, "CREATE TABLE public.mine PARTITION OF tandem.items FOR VALUES FROM ('m') TO ('n')");
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('m1', '1'); DROP TABLE public.mine");
    let named = problems(&mut client);
    assert!(named.contains("public.mine: table was dropped"), "{named}");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    check_postgres(&mut client, "without the table");
    run(
        &mut client,
        "DO $$ DECLARE made text := (SELECT pg_get_triggerdef(oid) FROM pg_trigger \
                WHERE tgrelid = 'tandem.items'::regclass AND tgname = '_tandem_capture'); \
            BEGIN DROP TRIGGER _tandem_capture ON tandem.items; \
            UPDATE tandem.items SET payload = '[3]' WHERE id = 'a1'; EXECUTE made; \
            ALTER TABLE tandem.items ENABLE ALWAYS TRIGGER _tandem_capture; END $$",
    );
    let named = problems(&mut client);
    assert!(named.contains("tandem.items: trigger _tandem_capture was dropped"), "{named}");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    check_postgres(&mut client, "counted anew");
    // Nobody else's tables and triggers are any of its business.
    run(
        &mut client,
        "CREATE ROLE bystander_of_drops; CREATE TABLE public.own (n int); ALTER TABLE own OWNER TO bystander_of_drops; \
         SET ROLE bystander_of_drops; DROP TABLE public.own; RESET ROLE; CREATE TEMP TABLE t (n int); DROP TABLE t",
    );
    check_postgres(&mut client, "after others' tables were dropped");
}

#[test]
fn who_has_no_part_in_tandem_changes_tables_as_ever() {
    let mut client = database();
    run(&mut client, "ALTER TABLE tandem.items DISABLE TRIGGER _tandem_capture");
    let user = format!("builder_{}", std::process::id());
    run(
        &mut client,
        &format!("CREATE ROLE {user}; GRANT CREATE ON SCHEMA public TO {user}; SET ROLE {user}"),
    );
    run(
        &mut client,
        "CREATE TABLE public.own (id text, n int, k int) PARTITION BY LIST (n); CREATE TABLE public.own_1 PARTITION OF public.own DEFAULT; \
         ALTER TABLE public.own ALTER COLUMN k TYPE bigint USING k + 1, ADD COLUMN m text",
    );
    run(&mut client, &format!("RESET ROLE; DROP OWNED BY {user}; DROP ROLE {user}"));
}

#[test]
fn a_column_of_another_type_is_a_reason_to_doubt() {
    let mut client = database();
    run(
        &mut client,
        "ALTER TABLE tandem.items ADD COLUMN n integer DEFAULT 5, ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
    );
    check_postgres(&mut client, "with columns of one's own");
    run(&mut client, "ALTER TABLE tandem.items ALTER COLUMN n TYPE bigint USING n + 1");
    let named = problems(&mut client);
    assert!(named.contains("another type"), "{named}");
}

/// Whoever rewrites a table right after a write does not make the write unseen.
#[test]
fn a_table_that_is_rewritten_loses_no_change() {
    let pair = Pair::with(&pg::Options::default(), rd::Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for round in 0..20 {
        let rewrite = match round % 4 {
            0 => format!(
                "ALTER TABLE tandem.items ADD COLUMN g{round} text GENERATED ALWAYS AS (id || 'x') STORED"
            ),
            1 => "CLUSTER tandem.items_default USING items_default_pkey".to_owned(),
            2 => "VACUUM FULL tandem.items_default".to_owned(),
            _ => format!("ALTER TABLE tandem.items ADD COLUMN v{round} double precision DEFAULT random()"),
        };
        run(&mut client, &format!("INSERT INTO tandem.items (id, payload) VALUES ('rw.{round}', '{{}}')"));
        run(&mut client, &rewrite);
        wait::until_or(
            DEADLINE,
            || ask_number(&mut redis, &["EXISTS", &format!("rw.{round}")]) == 1,
            || format!("rw.{round} is in Redis after {rewrite}\n{}", pair.report()),
        );
    }
    pair.settle_at(20);
}
