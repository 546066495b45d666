//! Attacks by roles without rights, and by the owner of a database, on whoever uses tandem there: nothing of theirs
//! runs with another's rights, writes tandem's books, crashes the server, or shows what row-level security hides. And
//! what the catalog says of everything that the extension makes: who may call it, and where its names are looked up.

use postgres::Client;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::redis::{self as rd, Redis};
use tandem_tests::scratch::Scratch;
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn server() -> &'static Postgres {
    SERVER.get_or_init(|| Postgres::start(&Options::default()))
}

/// A database with the extension, in which nobody has been yet, and its name.
fn database() -> (Client, String) {
    let name = format!("secure_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server().connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server().connect_as("postgres", &name);
    run(&mut client, "CREATE EXTENSION tandem");
    (client, name)
}

/// A role that may log in, and its connection to the database.
fn role(owner: &mut Client, database: &str, kind: &str, member_of: &str) -> (Client, String) {
    let name = format!("{kind}_{database}");
    run(owner, &format!("CREATE ROLE {name} LOGIN"));
    if !member_of.is_empty() {
        run(owner, &format!("GRANT {member_of} TO {name}"));
    }
    (server().connect_as(&name, database), name)
}

/// Tries statements one by one; whatever the server answers, it must still be there.
fn attempt(client: &mut Client, statements: &[&str]) -> Vec<String> {
    let mut answers = Vec::new();
    for statement in statements {
        let answer = match client.batch_execute(statement) {
            Ok(()) => String::new(),
            Err(error) => tandem_tests::sql::error_text(&error),
        };
        assert!(!client.is_closed(), "{statement}: the server ended the session: {answer}");
        answers.push(answer);
    }
    answers
}

/// The books that only tandem writes, as one text.
fn books(owner: &mut Client) -> String {
    value(
        owner,
        "SELECT concat_ws(' | ', (SELECT string_agg(c::text, ',' ORDER BY c::text) FROM tandem.changes c), \
            (SELECT string_agg(t::text, ',' ORDER BY t.id) FROM tandem.tombstones t), \
            (SELECT string_agg(b::text, ',' ORDER BY b.first) FROM tandem.blocks b), \
            (SELECT string_agg(c::text, ',' ORDER BY c.seq) FROM tandem.conflicts c))",
    )
}

fn is_superuser(owner: &mut Client, name: &str) -> bool {
    value(owner, &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{name}'"))
}

/// Trigger functions of the extension.
fn trigger_functions(owner: &mut Client) -> Vec<String> {
    let query = "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d \
                 ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
                 WHERE p.prorettype = 'trigger'::regtype ORDER BY 1";
    rows(owner, query).iter().map(|row| row.get(0)).collect()
}

/// Every function of a trigger is put on a temporary table with columns of the right names and evil types, in each
/// way that a trigger can be made.
#[test]
fn trigger_functions_serve_nobody_elses_tables() {
    let (mut owner, name) = database();
    run(&mut owner, "SELECT tandem.put('x', '1'), tandem.put('y', '1'), tandem.delete('y')");
    let functions = trigger_functions(&mut owner);
    assert!(!functions.is_empty(), "the extension has triggers");
    for member_of in ["tandem_reader", "tandem_writer"] {
        let kind = member_of.trim_start_matches("tandem_");
        let (mut mallory, user) = role(&mut owner, &name, kind, member_of);
        run(
            &mut mallory,
            &format!(
                "CREATE TYPE pg_temp.evil AS ENUM ('x'); \
                 CREATE FUNCTION pg_temp.f(pg_temp.evil) RETURNS bigint LANGUAGE plpgsql AS \
                     $$BEGIN EXECUTE 'ALTER ROLE {user} SUPERUSER'; RETURN 1; END$$; \
                 CREATE CAST (pg_temp.evil AS bigint) WITH FUNCTION pg_temp.f(pg_temp.evil) AS IMPLICIT"
            ),
        );
        let before = books(&mut owner);
        let shapes = [
            ("text", "pg_temp.evil", "'x'"),
            ("text", "bigint", "5"),
            ("bigint", "bigint", "5"),
            ("text", "text", "'5'"),
        ];
        for (number, (id, version, given)) in shapes.iter().enumerate() {
            let table = format!("t{number}");
            let key = if *id == "bigint" { "4096" } else { "'x'" };
            run(
                &mut mallory,
                &format!(
                    "CREATE TEMP TABLE {table} (id {id}, version {version}, \"timestamp\" bigint, payload_hash bytea, \
                         payload jsonb, payload_blob bytea, audit jsonb, state text, local boolean, \
                         access_count bigint, last_accessed timestamptz, prefix text, table_name text, number bigint)"
                ),
            );
            let row = format!(
                "({key}, {given}, 1, decode(repeat('00', 32), 'hex'), '1', NULL, NULL, 'default', false, 0, now(), \
                 'a:', 'a_items', 1)"
            );
            run(&mut mallory, &format!("INSERT INTO {table} VALUES {row}"));
            for function in &functions {
                for way in [
                    "AFTER INSERT ON %t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
                    "AFTER UPDATE ON %t REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
                    "AFTER DELETE ON %t REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT",
                    "BEFORE INSERT OR UPDATE OR DELETE ON %t FOR EACH ROW",
                    "AFTER INSERT OR UPDATE OR DELETE ON %t FOR EACH ROW",
                    "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %t FOR EACH STATEMENT",
                    "AFTER TRUNCATE ON %t FOR EACH STATEMENT",
                ] {
                    let made =
                        format!("CREATE TRIGGER g {} EXECUTE FUNCTION {function}", way.replace("%t", &table));
                    let statements = [
                        "BEGIN",
                        &made,
                        &format!("INSERT INTO {table} VALUES {row}"),
                        "COMMIT",
                        &format!("UPDATE {table} SET version = version, state = 'other'"),
                        &format!("DELETE FROM {table} WHERE state = 'other'"),
                        &format!("TRUNCATE {table}"),
                        &format!("DROP TRIGGER IF EXISTS g ON {table}"),
                        "ROLLBACK",
                    ];
                    let answers = attempt(&mut mallory, &statements);
                    assert!(
                        answers[1].contains("42501"),
                        "{user} may make a trigger of {function}: {answers:?}"
                    );
                    attempt(&mut mallory, &[&format!("DROP TRIGGER IF EXISTS g ON {table}")]);
                }
            }
        }
        assert!(!is_superuser(&mut owner, &user));
        assert_eq!(books(&mut owner), before, "{user} wrote tandem's books");
    }
    check_postgres(&mut owner, "after the attacks");
}

/// Even who owns the extension makes no use of them by mistake: on any other table they refuse, and do not crash.
#[test]
fn trigger_functions_refuse_other_tables_of_their_owner_too() {
    let (mut owner, _) = database();
    let before = books(&mut owner);
    for function in trigger_functions(&mut owner) {
        for way in [
            "BEFORE INSERT ON o FOR EACH ROW",
            "AFTER INSERT ON o FOR EACH ROW",
            "BEFORE INSERT ON o FOR EACH STATEMENT",
        ] {
            run(&mut owner, "DROP TABLE IF EXISTS o; CREATE TABLE o (id bigint, version text)");
            run(&mut owner, &format!("CREATE TRIGGER g {way} EXECUTE FUNCTION {function}"));
            let answers = attempt(&mut owner, &["INSERT INTO o VALUES (4096, 'x')"]);
            assert!(!answers[0].is_empty(), "{function}, {way}: it was accepted");
        }
    }
    assert_eq!(books(&mut owner), before);
}

/// What mallory leaves in a schema of the victim's path: overloads that match better than what they are named after.
/// Each notes who ran it.
fn lay_traps(mallory: &mut Client, schema: &str) {
    run(
        mallory,
        &format!(
            "CREATE TABLE {schema}.sprung (who text, what text); GRANT INSERT ON {schema}.sprung TO PUBLIC; \
             CREATE FUNCTION {schema}.spring(what text) RETURNS void LANGUAGE sql AS \
                 $$INSERT INTO {schema}.sprung VALUES (current_user, what)$$"
        ),
    );
    let functions = [
        ("format", "text, smallint", "text", "$1"),
        ("format", "text, integer", "text", "$1"),
        ("format", "text, text", "text", "$1"),
        ("format", "text, text, text", "text", "$1"),
        ("format", "text, text, text, text", "text", "$1"),
        ("format", "text, regclass", "text", "$1"),
        ("format", "text, bigint", "text", "$1"),
        ("unnest", "text[]", "SETOF text", "$1[1]"),
        ("unnest", "bigint[]", "SETOF bigint", "$1[1]"),
        ("unnest", "bytea[]", "SETOF bytea", "$1[1]"),
        ("unnest", "boolean[]", "SETOF boolean", "$1[1]"),
        ("unnest", "name[]", "SETOF name", "$1[1]"),
        ("cardinality", "text[]", "integer", "1"),
        ("array_length", "text[], integer", "integer", "1"),
        ("array_to_string", "text[], text", "text", "''::text"),
        ("to_jsonb", "text", "jsonb", "NULL::jsonb"),
        ("to_jsonb", "bigint", "jsonb", "NULL::jsonb"),
        ("concat", "text, text", "text", "$1"),
        ("concat_ws", "text, text, text", "text", "$1"),
        ("num_nulls", "jsonb, bytea", "integer", "1"),
        ("jsonb_build_object", "text, text", "jsonb", "NULL::jsonb"),
        ("pg_typeof", "text", "regtype", "NULL::regtype"),
        ("digest", "bigint, text, text, boolean, bytea", "bytea", "NULL::bytea"),
        ("check_id", "text", "text", "$1"),
        ("age", "text", "integer", "1"),
        ("now", "integer", "timestamptz", "NULL::timestamptz"),
    ];
    for (name, arguments, returns, answer) in functions {
        run(
            mallory,
            &format!(
                "CREATE FUNCTION {schema}.{name}({arguments}) RETURNS {returns} LANGUAGE sql AS \
                 $$SELECT {schema}.spring('{name}({arguments})'); SELECT {answer}$$"
            ),
        );
    }
    for kind in ["text", "boolean", "bigint", "bytea"] {
        run(
            mallory,
            &format!(
                "CREATE FUNCTION {schema}.step_{kind}({kind}[], {kind}) RETURNS {kind}[] LANGUAGE sql AS \
                     $$SELECT {schema}.spring('aggregate of {kind}'); SELECT $1$$; \
                 CREATE AGGREGATE {schema}.array_agg({kind}) (sfunc = {schema}.step_{kind}, stype = {kind}[], initcond = '{{}}'); \
                 CREATE FUNCTION {schema}.tally_{kind}(bigint, {kind}) RETURNS bigint LANGUAGE sql AS \
                     $$SELECT {schema}.spring('count of {kind}'); SELECT 1::bigint$$; \
                 CREATE AGGREGATE {schema}.count({kind}) (sfunc = {schema}.tally_{kind}, stype = bigint, initcond = '0')"
            ),
        );
    }
    let operators = [
        ("||", "bigint", "text", "text", "$2"),
        ("||", "text", "bigint", "text", "$1"),
        ("||", "text", "integer", "text", "$1"),
        ("||", "text[]", "text", "text[]", "$1"),
        ("||", "text", "text[]", "text[]", "$2"),
        ("||", "text", "smallint", "text", "$1"),
        ("=", "text", "name", "boolean", "true"),
        ("=", "name", "varchar", "boolean", "true"),
        ("=", "smallint", "text", "boolean", "true"),
        ("<>", "text", "name", "boolean", "true"),
        ("=", "text[]", "text[]", "boolean", "true"),
        ("<>", "xid8", "bigint", "boolean", "true"),
        (">=", "integer", "numeric", "boolean", "true"),
        ("=", "text", "varchar", "boolean", "true"),
        ("@>", "text[]", "text[]", "boolean", "true"),
    ];
    for (number, (name, left, right, returns, answer)) in operators.iter().enumerate() {
        run(
            mallory,
            &format!(
                "CREATE FUNCTION {schema}.operator_{number}({left}, {right}) RETURNS {returns} LANGUAGE sql AS \
                     $$SELECT {schema}.spring('{left} {name} {right}'); SELECT {answer}$$; \
                 CREATE OPERATOR {schema}.{name} (leftarg = {left}, rightarg = {right}, function = {schema}.operator_{number})"
            ),
        );
    }
}

/// Types named as those that statements cast to, and casts of a type of mallory's own: a check of the one and a function
/// of the other run wherever such a name is looked up on mallory's path.
fn lay_types(mallory: &mut Client, schema: &str) {
    run(
        mallory,
        &format!(
            "CREATE FUNCTION {schema}.passes(what pg_catalog.text) RETURNS boolean LANGUAGE sql AS \
                 $$SELECT {schema}.spring(what); SELECT true$$; \
             CREATE TYPE {schema}.own AS (content pg_catalog.text); \
             CREATE FUNCTION {schema}.to_own(pg_catalog.text) RETURNS {schema}.own LANGUAGE sql AS \
                 $$SELECT {schema}.spring('a cast to own'); SELECT ROW($1)::{schema}.own$$; \
             CREATE FUNCTION {schema}.of_own({schema}.own) RETURNS pg_catalog.text LANGUAGE sql AS \
                 $$SELECT {schema}.spring('a cast of own'); SELECT ($1).content$$; \
             CREATE CAST (pg_catalog.text AS {schema}.own) WITH FUNCTION {schema}.to_own AS IMPLICIT; \
             CREATE CAST ({schema}.own AS pg_catalog.text) WITH FUNCTION {schema}.of_own AS IMPLICIT"
        ),
    );
    for kind in ["text", "jsonb", "bytea", "name", "oid", "regclass", "bool", "int8", "timestamptz"] {
        run(
            mallory,
            &format!(
                "CREATE DOMAIN {schema}.{kind} AS pg_catalog.{kind} CHECK ({schema}.passes('a value of {kind}'))"
            ),
        );
    }
}

/// What of mallory's another role ran.
fn sprung(owner: &mut Client, schema: &str) -> Vec<String> {
    let query = format!(
        "SELECT DISTINCT who || ' ran ' || what FROM {schema}.sprung WHERE who NOT LIKE 'mallory%' ORDER BY 1"
    );
    rows(owner, &query).iter().map(|row| row.get(0)).collect()
}

/// One call of each function that the extension makes.
const CALLS: &[&str] = &[
    "SELECT tandem.put('a.1', '1'), tandem.put('a.2', '{\"b\": 1}'::jsonb), tandem.put_binary('a.3', '\\x00')",
    "SELECT tandem.merge('a.2', '{\"c\": 1}'), tandem.set_state('a.2', 'open'), tandem.move_state('a.2', 'open', 'shut')",
    "SELECT * FROM tandem.put_many(ARRAY['b.1', 'b.2', 'b.3'], ARRAY['1', '2', '3'])",
    "SELECT * FROM tandem.put_many(ARRAY['b.1', 'b.2'], ARRAY['7', '8'])",
    "SELECT * FROM tandem.batch('[{\"op\": \"put\", \"id\": \"c\", \"payload\": 1}, {\"op\": \"set_state\", \"id\": \"b.1\", \"state\": \"s\"}]')",
    "SELECT * FROM tandem.get('a.1'), tandem.get_or_put('d', '1') d, tandem.get_or_put('d', '2') e",
    "SELECT * FROM tandem.get_many(ARRAY['a.1', 'zz', 'b.2'])",
    "SELECT tandem.exists('a.1'), tandem.exists_many(ARRAY['a.1', 'zz']), tandem.touch('a.1')",
    "SELECT * FROM tandem.scan('a.'), tandem.list_state('s'), tandem.get_state('s')",
    "SELECT tandem.count('a'), tandem.count_state('s'), tandem.in_state('b.1', 's'), tandem.item_status('a.1')",
    "SELECT * FROM tandem.delete_many(ARRAY['b.2', 'zz'])",
    "SELECT tandem.delete('a.3'), tandem.delete_state('s'), tandem.delete_prefix('c')",
    "SELECT * FROM tandem.changes_since(NULL, 5)",
    "SELECT * FROM tandem.changes_since(tandem.log_position(), 5)",
    "SELECT tandem.merkle_root(), tandem.merkle_hash('a'), tandem.merkle_node('a')",
    "SELECT tandem.fold()",
    "SELECT * FROM tandem.merkle_children(''), tandem.merkle_leaves('a')",
    "SELECT tandem.put('e', '1'), tandem.dirty_count(), tandem.is_clean('e')",
    "SELECT * FROM tandem.dirty(), tandem.dirty_prefixes(), tandem.clean_branches()",
    "SELECT * FROM tandem.verify()",
    "SELECT * FROM tandem.status(), tandem.links(), tandem.routes(), tandem.link_status",
    "SELECT tandem.route('a.', 'a_items')",
    "SELECT tandem.unroute('a.')",
    "SELECT tandem.rotate_log(), tandem.forget_checks(1), tandem.forget_tombstones(1, 1)",
    "SELECT tandem.is_taken('a.1'), tandem.wait_synced(1), tandem.discard_dead_letter(1)",
    "SELECT * FROM tandem.retry_dead_letters()",
    "SELECT tandem.rebuild_blocks()",
    "SELECT * FROM tandem.peer_fingerprints(ARRAY[''], ARRAY[NULL]), tandem.peer_splits(2, ARRAY[''], ARRAY[NULL])",
    "SELECT * FROM tandem.peer_lists(5, ARRAY[''], ARRAY[NULL]), tandem.peer_fetch(ARRAY['a.1']), tandem.peer_waiting(ARRAY['a.1'])",
    "SELECT tandem.apply('a.1', (SELECT revision FROM tandem.peer_fetch(ARRAY['a.1'])))",
    "SELECT * FROM tandem.peer_join(ARRAY['a.1'], ARRAY[(SELECT revision FROM tandem.peer_fetch(ARRAY['a.1']))])",
    "INSERT INTO tandem.items (id, payload) VALUES ('f', '1') ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
    "UPDATE tandem.items SET payload = '3' WHERE id = 'f'",
    "UPDATE tandem.items SET id = 'g' WHERE id = 'f'",
    "DELETE FROM tandem.items WHERE id = 'g'",
    "TRUNCATE tandem.items",
];

fn call_everything(victim: &mut Client, place: &str) {
    for call in CALLS {
        run(victim, call);
    }
    check_postgres(victim, place);
}

#[test]
fn nothing_of_another_role_in_public_runs_in_tandems_functions() {
    let (mut owner, name) = database();
    let (mut mallory, _) = role(&mut owner, &name, "mallory", "");
    run(&mut owner, &format!("GRANT CREATE ON SCHEMA public TO mallory_{name}"));
    lay_traps(&mut mallory, "public");
    call_everything(&mut owner, "with traps in public");
    assert!(sprung(&mut owner, "public").is_empty(), "{:?}", sprung(&mut owner, "public"));
}

#[test]
fn a_schema_named_like_the_superuser_is_not_looked_into() {
    let (mut owner, name) = database();
    let (mut mallory, user) = role(&mut owner, &name, "mallory", "");
    run(&mut owner, &format!("GRANT CREATE ON DATABASE {name} TO {user}"));
    run(&mut mallory, "CREATE SCHEMA postgres; GRANT USAGE ON SCHEMA postgres TO PUBLIC");
    lay_traps(&mut mallory, "postgres");
    let mut victim = server().connect_as("postgres", &name);
    call_everything(&mut victim, "with traps in a schema of one's own name");
    assert!(sprung(&mut owner, "postgres").is_empty(), "{:?}", sprung(&mut owner, "postgres"));
}

#[test]
fn a_temporary_schema_on_ones_own_path_is_not_preferred() {
    let (mut owner, name) = database();
    let (mut mallory, user) = role(&mut owner, &name, "mallory", "tandem_writer");
    let before = books(&mut owner);
    // A fold runs with its owner's rights: the caller's temporary objects are what it must not see.
    run(
        &mut mallory,
        &format!(
            "CREATE FUNCTION pg_temp.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS \
                 $$BEGIN EXECUTE 'ALTER ROLE {user} SUPERUSER'; RETURN NEXT $1[1]; END$$; \
             CREATE TEMP TABLE changes (id text); CREATE TEMP TABLE links (name text); CREATE TEMP TABLE pg_class (oid oid); \
             SET search_path = pg_temp, pg_catalog, public"
        ),
    );
    attempt(
        &mut mallory,
        &["SELECT tandem.fold()", "SELECT * FROM tandem.links()", "SELECT tandem.rotate_log()"],
    );
    assert!(!is_superuser(&mut owner, &user));
    assert_eq!(books(&mut owner), before);
    check_postgres(&mut owner, "after temporary traps");
}

/// Overloads that take the place of what they are named after where their schema comes before pg_catalog.
fn lay_exact_traps(mallory: &mut Client, schema: &str) {
    let functions = [
        ("now", "", "timestamptz", "NULL::timestamptz"),
        ("clock_timestamp", "", "timestamptz", "NULL::timestamptz"),
        ("current_database", "", "name", "'x'::name"),
        ("pg_notify", "text, text", "void", "NULL"),
        ("starts_with", "text, text", "boolean", "true"),
        ("pg_try_advisory_xact_lock", "bigint", "boolean", "true"),
        ("pg_control_system", "", "bigint", "1::bigint"),
    ];
    for (name, arguments, returns, answer) in functions {
        run(
            mallory,
            &format!(
                "CREATE FUNCTION {schema}.{name}({arguments}) RETURNS {returns} LANGUAGE sql AS \
                 $$SELECT {schema}.spring('{name}({arguments})'); SELECT {answer}$$"
            ),
        );
    }
    for (number, (name, kind)) in
        [("=", "text"), ("<", "text"), (">=", "text"), ("=", "bigint"), (">", "bigint")].iter().enumerate()
    {
        run(
            mallory,
            &format!(
                "CREATE FUNCTION {schema}.exact_{number}({kind}, {kind}) RETURNS boolean LANGUAGE sql AS \
                     $$SELECT {schema}.spring('{kind} {name} {kind}'); SELECT true$$; \
                 CREATE OPERATOR {schema}.{name} (leftarg = {kind}, rightarg = {kind}, function = {schema}.exact_{number})"
            ),
        );
    }
}

#[test]
fn the_owner_of_a_served_database_gains_nothing_from_the_workers() {
    let settings = vec!["tandem.databases = 'served'".to_owned()];
    let postgres = Postgres::start(&Options { settings, ..Options::default() });
    let redis = Redis::start(rd::Options::in_memory());
    run(&mut postgres.connect(), "CREATE ROLE mallory_owner LOGIN");
    run(&mut postgres.connect(), "CREATE DATABASE served OWNER mallory_owner");
    let mut mallory = postgres.connect_as("mallory_owner", "served");
    run(&mut mallory, "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC");
    lay_traps(&mut mallory, "public");
    lay_traps(&mut mallory, "evil");
    lay_exact_traps(&mut mallory, "evil");
    lay_types(&mut mallory, "evil");
    // Reaches sessions that begin from now on, and so the workers.
    run(&mut mallory, "ALTER DATABASE served SET search_path = evil, public, pg_catalog");
    let mut owner = postgres.connect_as("postgres", "served");
    run(&mut owner, "SET search_path = pg_catalog; CREATE EXTENSION tandem");
    run(&mut owner, "SELECT tandem.put('a', '1'), tandem.put('b', '1'), tandem.delete('b')");
    run(&mut owner, &format!("SELECT tandem.link('{}')", redis.url()));
    let mut commands = redis.connect();
    rd::ask(&mut commands, &["TANDEM.PUT", "c", "1"]);
    wait::until("the link carries both ways", DEADLINE, || {
        rd::ask_number(&mut commands, &["EXISTS", "a"]) == 1
            && value::<bool>(&mut owner, "SELECT EXISTS (SELECT FROM tandem.items WHERE id = 'c')")
    });
    wait::until("the worker folds", DEADLINE, || {
        value::<i64>(&mut owner, "SELECT tandem.dirty_count()") == 0
    });
    run(&mut owner, "SELECT * FROM tandem.reconcile('redis')");
    let found = [sprung(&mut owner, "public"), sprung(&mut owner, "evil")];
    assert!(found.iter().all(Vec::is_empty), "{found:?}");
}

#[test]
fn nobody_but_tandem_writes_its_books() {
    let (mut owner, name) = database();
    run(&mut owner, "SELECT tandem.put('x', '1'), tandem.put('y', '1'), tandem.delete('y')");
    run(&mut owner, "SELECT tandem.route('r:', 'r_items'); SELECT tandem.put('r:1', '1')");
    let before = books(&mut owner);
    let tables = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE n.nspname = 'tandem' AND c.relkind IN ('r', 'p') AND c.relname <> 'items' ORDER BY 1";
    let tables: Vec<String> = rows(&mut owner, tables).iter().map(|row| row.get(0)).collect();
    assert!(tables.len() > 10, "{tables:?}");
    for member_of in ["", "tandem_reader", "tandem_writer"] {
        let kind = format!("forger_{}", member_of.trim_start_matches("tandem_"));
        let (mut mallory, user) = role(&mut owner, &name, &kind, member_of);
        for table in &tables {
            for statement in [
                format!("INSERT INTO {table} DEFAULT VALUES"),
                format!("INSERT INTO {table} SELECT * FROM {table}"),
                format!("DELETE FROM {table}"),
                format!("TRUNCATE {table}"),
                format!("DO $$BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; END$$"),
                format!(
                    "CREATE TRIGGER g BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
                ),
                format!("COPY {table} FROM PROGRAM 'true'"),
                format!("DROP TABLE {table}"),
            ] {
                let answers = attempt(&mut mallory, &[&statement]);
                // 428C9: even before rights are looked at.
                let is_refused = ["42501", "428C9"].iter().any(|state| answers[0].contains(state));
                assert!(is_refused, "{user}: {statement}: {answers:?}");
            }
        }
        let writes = [
            "INSERT INTO tandem.tombstones VALUES ('x', 50, 1)",
            "UPDATE tandem.tombstones SET version = 9000",
            "SELECT nextval('tandem.conflicts_seq_seq')",
            "CREATE FUNCTION tandem.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TABLE tandem.mine ()",
            "ALTER EXTENSION tandem DROP FUNCTION tandem.fold(bigint)",
            "SELECT tandem.route('q:', 'q_items')",
            "SELECT tandem.unroute('r:')",
            "SELECT tandem.rotate_log()",
            "SELECT tandem.forget_tombstones(9000000000000, 100)",
            "SELECT tandem.forget_checks(1)",
            "SELECT tandem.rebuild_blocks()",
            "SELECT * FROM tandem.reconcile('redis')",
        ];
        for (statement, answer) in writes.iter().zip(attempt(&mut mallory, &writes)) {
            assert!(answer.contains("42501"), "{user}: {statement}: {answer:?}");
        }
    }
    assert_eq!(books(&mut owner), before);
    check_postgres(&mut owner, "after forgeries");
}

/// Policies that let a role see and write what is below its own prefix alone.
const POLICIES: &str = "ALTER TABLE tandem.items ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY own ON tandem.items USING (starts_with(id, split_part(current_user, '_', 1) || '.')) \
        WITH CHECK (starts_with(id, split_part(current_user, '_', 1) || '.'))";

/// A writer of a prefix of its own gets at nothing of another's.
#[test]
fn row_level_security_holds_for_everything_that_shows_or_changes_an_item() {
    let (mut owner, name) = database();
    run(&mut owner, "SELECT tandem.route('bert.r', 'bert_items')");
    run(&mut owner, POLICIES);
    let (mut anna, _) = role(&mut owner, &name, "anna", "tandem_writer");
    let (mut bert, _) = role(&mut owner, &name, "bert", "tandem_writer");
    run(&mut bert, "SELECT tandem.put('bert.1', '\"secret one\"'), tandem.put('bert.r1', '\"secret two\"')");
    run(&mut bert, "SELECT tandem.put('bert.gone', '\"secret three\"'), tandem.delete('bert.gone')");
    // What lost and what was set aside holds whole revisions.
    run(
        &mut owner,
        "INSERT INTO tandem.conflicts (id, version, loser) VALUES ('bert.1', 1, 'secret four'); \
         INSERT INTO tandem.dead_letters (link, direction, id, revision, reason) \
             VALUES ('redis', 'from_redis', 'bert.1', 'secret five', 'no')",
    );
    let before = books(&mut owner);
    let columns = "SELECT format('SELECT %I::text FROM tandem.%I', a.attname, c.relname) \
                   FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                   WHERE c.relnamespace = 'tandem'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 \
                   AND NOT a.attisdropped";
    let columns: Vec<String> = rows(&mut owner, columns).iter().map(|row| row.get(0)).collect();
    for query in columns {
        let Ok(shown) = anna.query(query.as_str(), &[]) else { continue };
        for row in shown {
            let text = row.get::<_, Option<String>>(0).unwrap_or_default();
            // The bytes of "secret" as bytea shows them.
            assert!(!text.contains("secret") && !text.contains("736563726574"), "{query}: {text}");
        }
    }
    for query in [
        "SELECT * FROM tandem.get('bert.1')",
        "SELECT * FROM tandem.get('bert.r1')",
        "SELECT * FROM tandem.scan('')",
        "SELECT * FROM tandem.list_state('default')",
        "SELECT * FROM tandem.get_state('default')",
        "SELECT * FROM tandem.merkle_leaves('')",
        "SELECT * FROM tandem.peer_lists(9, ARRAY[''], ARRAY[NULL])",
        "SELECT id FROM tandem.items",
    ] {
        assert!(rows(&mut anna, query).is_empty(), "{query}");
    }
    for query in [
        "SELECT payload IS NOT NULL FROM tandem.get_many(ARRAY['bert.1'])",
        "SELECT tandem.exists('bert.1')",
        "SELECT tandem.delete('bert.1')",
        "SELECT tandem.touch('bert.r1')",
        "SELECT tandem.delete_prefix('') > 0",
        "SELECT tandem.delete_state('default') > 0",
    ] {
        assert_ne!(value::<Option<bool>>(&mut anna, query), Some(true), "{query}");
    }
    let writes = [
        "SELECT tandem.put('bert.1', '2')",
        "SELECT tandem.put('bert.new', '2')",
        "SELECT tandem.get_or_put('bert.r1', '2')",
        "SELECT tandem.merge('bert.1', '{}')",
        "SELECT tandem.set_state('bert.1', 'x')",
        "SELECT * FROM tandem.put_many(ARRAY['anna.1', 'bert.1'], ARRAY['1', '1'])",
        "INSERT INTO tandem.items (id, payload) VALUES ('bert.2', '1')",
        "INSERT INTO tandem.bert_items (id, payload) VALUES ('bert.r2', '1')",
        "SELECT * FROM tandem.bert_items",
        "SELECT * FROM tandem.items_default",
        "UPDATE tandem.bert_items SET payload = '1'",
    ];
    for (statement, answer) in writes.iter().zip(attempt(&mut anna, &writes)) {
        assert!(!answer.is_empty(), "{statement} was accepted");
    }
    assert_eq!(books(&mut owner), before);
    // Its own it writes and removes as ever, with a tombstone and a conflict that tandem writes for it.
    run(&mut anna, "SELECT tandem.put('anna.1', '1'), tandem.put('anna.1', '2'), tandem.delete('anna.1')");
    run(&mut anna, "INSERT INTO tandem.items (id, payload) VALUES ('anna.2', '1'); DELETE FROM tandem.items");
    let buried: i64 =
        value(&mut owner, "SELECT count(*) FROM tandem.tombstones WHERE starts_with(id, 'anna.')");
    assert_eq!(buried, 2);
    check_postgres(&mut owner, "after both wrote");
}

/// Everything of a kind that the extension makes, by pg_depend.
fn members(catalog: &str, columns: &str, condition: &str) -> String {
    format!(
        "SELECT {columns} FROM {catalog} o JOIN pg_depend d ON d.classid = '{catalog}'::regclass AND d.objid = o.oid \
         AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass \
         JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'tandem' WHERE {condition} ORDER BY 1"
    )
}

fn listed(client: &mut Client, query: &str) -> Vec<String> {
    rows(client, query).iter().map(|row| row.get(0)).collect()
}

#[test]
fn names_in_functions_are_bound_or_looked_up_on_a_path_of_their_own() {
    let (mut owner, _) = database();
    let loose = members(
        "pg_proc",
        "o.oid::regprocedure::text",
        "o.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND o.prosqlbody IS NULL \
         AND NOT EXISTS (SELECT FROM unnest(o.proconfig) s WHERE s = 'search_path=pg_catalog, pg_temp')",
    );
    assert_eq!(listed(&mut owner, &loose), [""; 0]);
    let definers = members(
        "pg_proc",
        "o.oid::regprocedure::text",
        "o.prosecdef AND NOT EXISTS (SELECT FROM unnest(o.proconfig) s WHERE s = 'search_path=pg_catalog, pg_temp')",
    );
    assert_eq!(listed(&mut owner, &definers), [""; 0]);
}

#[test]
fn who_may_do_what_is_as_it_is_written_here() {
    let (mut owner, _) = database();
    let definers = members(
        "pg_proc",
        "o.proname::text",
        "o.prosecdef AND has_function_privilege('public', o.oid, 'EXECUTE')",
    );
    // It shows what of the links is no secret.
    assert_eq!(listed(&mut owner, &definers), ["links"]);
    let languages =
        members("pg_proc", "o.proname::text", "o.prosecdef AND o.prorettype = 'trigger'::regtype");
    assert_eq!(listed(&mut owner, &languages), [""; 0], "triggers fire with the rights of who writes");
    let triggers = members(
        "pg_proc",
        "o.oid::regprocedure::text",
        "o.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) AND has_function_privilege('public', o.oid, 'EXECUTE')",
    );
    assert_eq!(listed(&mut owner, &triggers), [""; 0]);
    let closed = members(
        "pg_proc",
        "o.proname::text",
        "NOT has_function_privilege('tandem_writer', o.oid, 'EXECUTE') \
         AND o.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)",
    );
    let mut closed = listed(&mut owner, &closed);
    closed.dedup();
    assert_eq!(closed, CLOSED);
    let grants = "SELECT format('%s %s: %s', grantee, what, string_agg(privilege, ' ' ORDER BY privilege)) FROM ( \
            SELECT a.grantee::regrole::text AS grantee, c.relname AS what, a.privilege_type AS privilege \
            FROM pg_class c, aclexplode(c.relacl) a \
            WHERE c.relnamespace = 'tandem'::regnamespace AND a.grantee <> c.relowner \
            UNION ALL \
            SELECT a.grantee::regrole::text, c.relname, \
                format('%s(%s)', a.privilege_type, string_agg(t.attname, ' ' ORDER BY t.attname)) \
            FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a \
            WHERE c.relnamespace = 'tandem'::regnamespace AND a.grantee <> c.relowner GROUP BY 1, 2, a.privilege_type \
            UNION ALL \
            SELECT a.grantee::regrole::text, 'schema', a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a \
            WHERE n.nspname = 'tandem' AND a.grantee <> n.nspowner) g \
        GROUP BY grantee, what ORDER BY 1";
    let granted = listed(&mut owner, grants);
    let lines = || GRANTED.lines().map(str::trim).filter(|line| !line.is_empty());
    let readers = lines().map(|line| format!("tandem_reader {line}"));
    let writers = lines().map(|line| match line {
        "items: SELECT" => "tandem_writer items: DELETE INSERT SELECT UPDATE".to_owned(),
        line => format!("tandem_writer {line}"),
    });
    let expected: Vec<String> = readers.chain(writers).collect();
    assert_eq!(granted, expected);
}

/// Functions that a writer may not call, apart from those of triggers: they make and drop tables, dial, or change the
/// log.
const CLOSED: &[&str] = &[
    "add_triggers",
    "fold",
    "forget_checks",
    "forget_tombstones",
    "link_nodes",
    "make_route",
    "mend_blocks",
    "note_doubt",
    "note_parts",
    "rebuild_blocks",
    "reconcile",
    "reconcile_peers",
    "restore_columns",
    "restore_items",
    "rotate_log",
    "route",
    "unroute",
];

/// What readers may do; writers may do the same, and PUBLIC nothing.
const GRANTED: &str = "
    blocks: SELECT
    changes: SELECT
    check_progress: SELECT
    checks: SELECT
    conflicts: SELECT(id origin recorded_at seq version)
    dead_letters: SELECT(attempts direction id link reason recorded_at retry seq tried_at)
    doubts: SELECT
    fold_state: SELECT
    items: SELECT
    link_status: SELECT
    links: SELECT(direction log_position mode name needs_check prefix)
    log_state: SELECT
    reports: SELECT
    restored_columns: SELECT(id)
    restored_items: SELECT(id)
    routes: SELECT
    schema: USAGE
    tombstones: SELECT
    unlinked: SELECT(last_error name recorded_at seq tried_at)
";

#[test]
fn everything_has_a_comment() {
    let (mut owner, _) = database();
    for (catalog, name, condition) in [
        // Capture's and the log's own helpers are nobody's to call, and say what they are where they are made.
        (
            "pg_proc",
            "o.oid::regprocedure::text",
            "o.proname !~ '^(capture_|check_position|position_|flush_log|add_)'",
        ),
        ("pg_class", "o.oid::regclass::text", "o.relkind IN ('r', 'p', 'v') AND o.relname !~ '^changes_'"),
        (
            "pg_type",
            "o.oid::regtype::text",
            "(SELECT c.relkind FROM pg_class c WHERE c.oid = o.typrelid) = 'c'",
        ),
    ] {
        let bare =
            members(catalog, name, &format!("({condition}) AND obj_description(o.oid, '{catalog}') IS NULL"));
        assert_eq!(listed(&mut owner, &bare), [""; 0], "{catalog}");
    }
    let columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'tandem.items'::regclass AND attnum > 0 \
                   AND col_description(attrelid, attnum) IS NULL";
    assert_eq!(listed(&mut owner, columns), [""; 0]);
}

#[test]
fn members_that_the_roles_had_before_are_named() {
    let settings = vec!["tandem.databases = ''".to_owned()];
    let postgres = Postgres::start(&Options { settings, ..Options::default() });
    let mut owner = postgres.connect();
    run(&mut owner, "CREATE ROLE tandem_writer; CREATE ROLE eve LOGIN; GRANT tandem_writer TO eve");
    let said = notices(&postgres, "CREATE EXTENSION tandem");
    assert!(said.iter().any(|line| line.contains("tandem_writer") && line.contains("eve")), "{said:?}");
    run(&mut owner, "DROP EXTENSION tandem; REVOKE tandem_writer FROM eve");
    let said = notices(&postgres, "CREATE EXTENSION tandem");
    assert!(!said.iter().any(|line| line.contains("tandem_writer")), "{said:?}");
}

/// What the server says by the way while it runs a statement.
fn notices(postgres: &Postgres, statement: &str) -> Vec<String> {
    let words = postgres.psql_words();
    let output = std::process::Command::new(&words[0])
        .args(&words[1..])
        .args(["-X", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", statement])
        .output()
        .expect("psql starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{statement}: {said}");
    said.lines().map(str::to_owned).collect()
}

#[test]
fn a_schema_that_somebody_else_prepared_is_not_moved_into() {
    let name = format!("secure_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut admin = server().connect();
    run(&mut admin, &format!("CREATE DATABASE {name}"));
    let mut owner = server().connect_as("postgres", &name);
    let (mut mallory, user) = role(&mut owner, &name, "mallory", "");
    run(&mut owner, &format!("GRANT CREATE ON DATABASE {name} TO {user}"));
    run(&mut mallory, "CREATE SCHEMA tandem");
    let (state, said) = refused(&mut owner, "CREATE EXTENSION tandem");
    assert!(state == "42501" && said.contains("tandem") && said.contains(&user), "{said}");
    run(
        &mut owner,
        "ALTER SCHEMA tandem OWNER TO postgres; CREATE FUNCTION tandem.check_id(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    );
    let (_, said) = refused(&mut owner, "CREATE EXTENSION tandem");
    assert!(said.contains("not empty"), "{said}");
    run(&mut owner, "DROP FUNCTION tandem.check_id; CREATE EXTENSION tandem");
    check_postgres(&mut owner, "in a schema that was there");
    let (_, said) = refused(&mut owner, "DROP EXTENSION tandem; CREATE EXTENSION tandem SCHEMA public");
    assert!(said.contains("must be installed in schema \"tandem\""), "{said}");
}

#[test]
fn a_database_that_cannot_hold_every_id_is_refused() {
    let name = format!("secure_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    );
    run(&mut server().connect(), &create);
    let (state, said) = refused(&mut server().connect_as("postgres", &name), "CREATE EXTENSION tandem");
    assert!(state == "0A000" && said.contains("LATIN1") && said.contains("UTF8"), "{state} {said}");
}

/// The secret of digests is shown to nobody, whether the library is loaded before or not, and counts in both.
#[test]
fn the_secret_is_in_no_setting() {
    let scratch = Scratch::new("secret");
    let file = scratch.path().join("secret");
    std::fs::write(&file, "hush hush\n").expect("a file in a directory of ours");
    let root = |settings: Vec<String>, preload: bool| {
        let postgres = Postgres::start(&Options { settings, preload, ..Options::default() });
        let mut owner = postgres.connect();
        run(&mut owner, "CREATE EXTENSION tandem; CREATE ROLE eve LOGIN");
        run(&mut owner, "INSERT INTO tandem.items (id, version, payload) VALUES ('a', 1, '1')");
        let mut eve = postgres.connect_as("eve", "postgres");
        for query in
            ["SELECT setting FROM pg_settings", "SELECT current_setting('tandem.digest_secret', true)"]
        {
            for row in rows(&mut eve, query) {
                let shown = row.get::<_, Option<String>>(0).unwrap_or_default();
                assert!(!shown.contains("hush"), "{query}: {shown}");
            }
        }
        // A setting that there is not is a slip of the pen.
        run(&mut owner, "LOAD 'tandem'");
        let (code, said) = refused(&mut owner, "SET tandem.contnet_bytes_max = 5");
        assert!(code == "42602" && said.contains("reserved prefix"), "{code} {said}");
        value::<String>(&mut owner, "SELECT tandem.merkle_root()")
    };
    let secret = || vec![format!("tandem.digest_secret_file = '{}'", file.display())];
    let (before, later, without) = (root(secret(), true), root(secret(), false), root(Vec::new(), true));
    assert_eq!(before, later);
    assert_ne!(before, without);
}
