//! What an operator relies on: tombstones that go away in time, rights, secrets that stay secret, numbers to watch.

use ::redis::Connection;
use postgres::Client;
use tandem_shared::decide::Retention;
use tandem_shared::link::Attachment;
use tandem_tests::by_hand;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_number, ask_text};
use tandem_tests::sql::{error_text, refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A Postgres that remembers removals for a second.
fn forgetful() -> pg::Options {
    pg::Options { settings: vec!["tandem.tombstone_retention = '1s'".to_owned()], ..pg::Options::default() }
}

/// A setting that lets Redis remember them as long.
fn forgetful_redis(options: redis::Options) -> redis::Options {
    options.with("tandem.tombstone-retention-ms", "1000")
}

fn tombstones_of_postgres(client: &mut Client) -> Vec<String> {
    let rows = rows(client, "SELECT id FROM tandem.tombstones ORDER BY id");
    rows.iter().map(|row| row.get(0)).collect()
}

fn tombstones_of_redis(connection: &mut Connection) -> i64 {
    let info = ask_text(connection, &["INFO", "tandem"]).unwrap_or_default();
    let fields =
        info.lines().filter_map(|line| line.split_once("db0:")).flat_map(|(_, fields)| fields.split(','));
    let count = fields.filter_map(|field| field.strip_prefix("tombstones=")).map(str::parse::<i64>).next();
    count.map_or(0, |count| count.expect("a number"))
}

#[test]
fn tombstones_that_all_have_taken_are_forgotten_on_both_sides() {
    let pair = Pair::with(&forgetful(), forgetful_redis(redis::Options::in_memory()));
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 9) n",
    );
    pair.settle_at(9);
    run(&mut client, "SELECT tandem.put('a.1', '2'), tandem.put('a.2', '2'), tandem.put('a.1', '3')");
    pair.settle("the new versions are there", |_, redis| {
        ask_text(redis, &["TANDEM.GET", "a.1", "PAYLOAD"]).as_deref() == Some("3")
    });
    run(&mut client, "SELECT tandem.delete_many('{a.1,a.3,a.4}')");
    ask(&mut redis, &["TANDEM.MREMOVE", "3", "a.2", "a.5", "a.6"]);
    pair.settle_at(3);
    // Whichever side forgets first, what is put there anew is not lost to the tombstone that the other has still.
    wait::until("one side has forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty() || tombstones_of_redis(&mut redis) == 0
    });
    run(&mut client, "SELECT tandem.put('a.1', '\"again\"')");
    ask(&mut redis, &["TANDEM.PUT", "a.2", "\"again\""]);
    pair.settle_at(5);
    for id in ["a.1", "a.2"] {
        assert_eq!(ask_text(&mut redis, &["TANDEM.GET", id, "PAYLOAD"]).as_deref(), Some("\"again\""));
    }
    wait::until("both have forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty() && tombstones_of_redis(&mut redis) == 0
    });
    pair.settle_at(5);
    run(&mut client, "SELECT tandem.put('a.3', '1')");
    let version: i64 = value(&mut client, "SELECT version FROM tandem.get('a.3')");
    assert_eq!(version, 1, "nothing is known of it any more");
    pair.settle_at(6);
}

/// Postgres has dropped a tombstone that Redis keeps for 7 days by its own setting.
#[test]
fn a_check_does_not_bring_back_a_removal_that_one_side_has_forgotten() {
    let pair = Pair::with(&forgetful(), redis::Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    pair.settle_at(2);
    ask(&mut redis, &["TANDEM.REMOVE", "a"]);
    pair.settle_at(1);
    wait::until("Postgres has forgotten", DEADLINE, || tombstones_of_postgres(&mut client).is_empty());
    pair.pause();
    run(&mut client, "SELECT tandem.put('a', '\"again\"')");
    let answer: String = value(&mut client, &format!("SELECT answer FROM tandem.reconcile('{}')", pair.link));
    let payload = ask_text(&mut redis, &["TANDEM.GET", "a", "PAYLOAD"]);
    assert_eq!((answer.as_str(), payload.as_deref()), ("equal", Some("\"again\"")));
    assert!(value::<bool>(&mut client, "SELECT tandem.exists('a')"));
}

#[test]
fn a_tombstone_stays_until_every_link_that_carries_it_has_taken_it() {
    let postgres = Postgres::with_extension(&forgetful());
    let mut client = postgres.connect();
    run(&mut client, "SELECT tandem.link('redis://127.0.0.1:1', name => 'away', prefix => 'in.')");
    run(&mut client, "SELECT tandem.put('in.a', '1'), tandem.put('out.a', '1'), tandem.put('in.b', '1')");
    run(&mut client, "SELECT tandem.delete_many('{in.a,out.a}')");
    wait::until("the one that no link carries is forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client) == ["in.a"]
    });
    // A link that has taken everything up to now.
    run(&mut client, "SELECT tandem.pause_link('away')");
    run(&mut client, "UPDATE tandem.links SET needs_check = false, log_position = tandem.log_position()");
    run(&mut client, "SELECT tandem.delete('in.b')");
    wait::until("the one that the link has taken is forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client) == ["in.b"]
    });
    run(&mut client, "SELECT tandem.unlink('away')");
    wait::until("nobody is left to take the other", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty()
    });
}

#[test]
fn redis_forgets_what_no_link_waits_for_and_tells_its_replica_and_its_file() {
    let mut master = Redis::start(forgetful_redis(redis::Options::durable()));
    // The replica would keep them for ever by its own setting.
    let replica = Redis::start(redis::Options::in_memory().with("tandem.tombstone-retention-ms", "0"));
    let mut to_replica = replica.connect();
    let mut connection = master.connect();
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    for id in ["early", "late"] {
        ask(&mut connection, &["TANDEM.PUT", id, "1"]);
    }
    ask(&mut connection, &["TANDEM.REMOVE", "early"]);
    let attachment = Attachment { retention: Retention::of_ms(1000), ..by_hand::attachment("pg") };
    let attach = |connection: &mut ::redis::Connection| by_hand::attach_as(connection, &attachment).run;
    // What was removed before its first contact waits for the link, too.
    let run = attach(&mut connection);
    assert_eq!(ask_number(&mut connection, &["TANDEM.LINK", "PENDING"]), 1);
    let pulled = by_hand::pull(&mut connection, "pg", &run, 0);
    assert!(matches!(&pulled[..], [(_, id, Some(_))] if id == "early"), "{pulled:?}");
    by_hand::acknowledge(&mut connection, "pg", &run, pulled[0].0);
    ask(&mut connection, &["TANDEM.REMOVE", "late"]);
    wait::until("only the one that waits is left, on both", DEADLINE, || {
        tombstones_of_redis(&mut connection) == 1 && tombstones_of_redis(&mut to_replica) == 1
    });
    assert_eq!(ask_number(&mut connection, &["TANDEM.LINK", "PENDING"]), 1);
    master.kill_hard();
    master.restart();
    let mut connection = master.connect();
    assert_eq!(tombstones_of_redis(&mut connection), 1, "the file says the same");
    let run = attach(&mut connection);
    ask(&mut connection, &["TANDEM.LINK", "ACK", "pg", &run, "1000"]);
    wait::until("the acknowledged one is forgotten, on both", DEADLINE, || {
        tombstones_of_redis(&mut connection) == 0 && tombstones_of_redis(&mut to_replica) == 0
    });
}

/// A line of tandem.link_status: state, number waiting, whether there is a lag, dead letters.
fn line(client: &mut Client, direction: &str) -> (String, Option<i64>, bool, i64) {
    let query = format!(
        "SELECT state, waiting, coalesce(lag_seconds, 0) > 0, dead_letters FROM tandem.link_status \
         WHERE link = 'redis' AND direction = '{direction}'"
    );
    let row = rows(client, &query).remove(0);
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

#[test]
fn the_status_of_a_link_says_what_waits_and_for_how_long() {
    let mut pair = Pair::with(&pg::Options::default(), redis::Options::durable());
    run(&mut pair.sql(), "CREATE ROLE watcher LOGIN IN ROLE tandem_reader");
    let mut client = pair.postgres.connect_as("watcher", "postgres");
    let idle = ("streaming".to_owned(), Some(0), false, 0);
    wait::until("the link streams and nothing waits", DEADLINE, || {
        line(&mut client, "to_redis") == idle && line(&mut client, "from_redis") == idle
    });
    ask(&mut pair.commands(), &["SET", "taken", "a string"]);
    run(&mut pair.sql(), "SELECT tandem.put('taken', '1')");
    wait::until("a dead letter counts in its direction", DEADLINE, || {
        line(&mut client, "to_redis").3 == 1 && line(&mut client, "from_redis").3 == 0
    });
    pair.pause();
    run(&mut pair.sql(), "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    wait::until("the lag grows from the oldest change on", DEADLINE, || {
        line(&mut client, "to_redis") == ("paused".to_owned(), Some(2), true, 1)
    });
    pair.resume();
    pair.redis.kill_hard();
    wait::until("the status says that Redis is away", DEADLINE, || {
        let query =
            "SELECT last_error FROM tandem.link_status WHERE direction = 'to_redis' AND state = 'waiting'";
        let found = rows(&mut client, query);
        found
            .iter()
            .any(|row| row.get::<_, Option<String>>(0).is_some_and(|error| error.contains("connecting")))
    });
    pair.redis.restart();
    wait::until("it streams again and nothing waits", DEADLINE, || {
        let (to, from) = (line(&mut client, "to_redis"), line(&mut client, "from_redis"));
        (to.0.as_str(), to.1, to.2, from.0.as_str(), from.1)
            == ("streaming", Some(0), false, "streaming", Some(0))
    });
    let answer: Option<String> =
        value(&mut client, "SELECT last_check_answer FROM tandem.link_status LIMIT 1");
    assert!(answer.is_some());

    // Each exporter query of the manual, as the role it names.
    let manual = include_str!("../../docs/operations.md");
    let queries = manual.lines().filter_map(|line| line.trim().strip_prefix("query: \"")?.strip_suffix('"'));
    let mut count = 0;
    for query in queries {
        assert_eq!(rows(&mut client, query).len(), 2, "{query}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn what_waits_in_redis_is_known_in_postgres() {
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let (mut client, mut blocker) = (pair.sql(), pair.sql());
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    run(
        &mut client,
        "UPDATE tandem.links SET redis_waiting = 5, redis_waiting_since = now() - interval '1 minute'",
    );
    assert!(line(&mut client, "from_redis").2);
    wait::until("the session corrects it", DEADLINE, || {
        line(&mut client, "from_redis") == ("streaming".to_owned(), Some(0), false, 0)
    });
    // A one-way link has one line.
    run(&mut blocker, "SELECT tandem.link('redis://127.0.0.1:1', name => 'one', direction => 'from_redis')");
    let ways: Vec<String> = rows(&mut client, "SELECT direction FROM tandem.link_status WHERE link = 'one'")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ways, ["from_redis"]);
}

#[test]
fn row_level_security_holds_for_every_function() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    run(
        &mut client,
        "CREATE ROLE anna LOGIN IN ROLE tandem_writer; CREATE ROLE bert LOGIN IN ROLE tandem_writer; \
         ALTER TABLE tandem.items ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON tandem.items USING (payload->>'of' = current_user)",
    );
    let (mut anna, mut bert) =
        (postgres.connect_as("anna", "postgres"), postgres.connect_as("bert", "postgres"));
    let content = |of: &str| format!("'{{\"of\":\"{of}\"}}'");
    run(&mut anna, &format!("SELECT tandem.put('a.1', {}), tandem.put('a.2', {0})", content("anna")));
    run(&mut bert, &format!("SELECT tandem.put('b.1', {})", content("bert")));
    let seen = |client: &mut Client| -> Vec<String> {
        rows(client, "SELECT id FROM tandem.scan('')").iter().map(|row| row.get(0)).collect()
    };
    assert_eq!((seen(&mut anna), seen(&mut bert)), (vec!["a.1".into(), "a.2".into()], vec!["b.1".into()]));
    assert!(rows(&mut bert, "SELECT * FROM tandem.get('a.1')").is_empty());
    for (query, expected) in [
        ("SELECT tandem.count()", 1),
        ("SELECT tandem.count_state('default')", 1),
        ("SELECT tandem.exists('a.1')::int::bigint", 0),
        ("SELECT tandem.delete('a.1')::int::bigint", 0),
        ("SELECT tandem.delete_prefix('a.')", 0),
        ("SELECT count(*) FROM tandem.get_many('{a.1}') WHERE id IS NOT NULL", 0),
        ("SELECT count(*) FROM tandem.changes_since() WHERE payload IS NOT NULL", 1),
    ] {
        assert_eq!(value::<i64>(&mut bert, query), expected, "{query}");
    }
    let (state, text) = refused(&mut bert, &format!("SELECT tandem.put('b.2', {})", content("anna")));
    assert_eq!(state, "42501", "the policy refuses the row: {text}");
    // The id is taken by a row that is not to be seen: a refusal, and not an endless second attempt.
    let (state, text) = refused(&mut bert, &format!("SELECT tandem.put('a.1', {})", content("bert")));
    assert!(state == "22023" && text.contains("may not see"), "{state} {text}");
    let (state, text) = refused(&mut bert, "SELECT tandem.set_state('a.1', 'hot')");
    assert_eq!(state, "P0002", "{text}");
    assert_eq!(seen(&mut anna).len(), 2);
    let verified: bool = value(&mut client, "SELECT ok FROM tandem.verify()");
    assert!(verified, "capture saw all of it");
}

#[test]
fn functions_with_rights_of_their_own_have_a_search_path_of_their_own() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let definers = rows(
        &mut client,
        "SELECT p.oid::regprocedure::text, coalesce(array_to_string(p.proconfig, ','), '') FROM pg_proc p \
         WHERE p.pronamespace = 'tandem'::regnamespace AND p.prosecdef",
    );
    assert!(!definers.is_empty(), "links() shows what its readers may not read");
    for row in definers {
        let (name, config): (String, String) = (row.get(0), row.get(1));
        assert!(config.contains("search_path=pg_catalog, pg_temp"), "{name}: {config}");
    }
    // Nobody but the owner makes what these would find first.
    run(&mut client, "CREATE ROLE writer LOGIN IN ROLE tandem_writer");
    let (state, _) = refused(&mut postgres.connect_as("writer", "postgres"), "CREATE TABLE tandem.mine ()");
    assert_eq!(state, "42501");
}

#[test]
fn the_password_of_a_link_is_seen_by_its_owner_only() {
    let redis = Redis::start(redis::Options::in_memory());
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let url = format!("redis://someone:s3cret-word@127.0.0.1:{}", redis.port());
    run(&mut client, &format!("SELECT tandem.link('{url}'); CREATE ROLE writer LOGIN IN ROLE tandem_writer"));
    wait::until("Redis has refused the password", DEADLINE, || {
        let error: Option<String> = value(&mut client, "SELECT last_error FROM tandem.links()");
        error.is_some_and(|error| error.contains("WRONGPASS"))
    });
    let reason: String = value(&mut client, "SELECT reason FROM tandem.reconcile('redis')");
    assert!(reason.contains("WRONGPASS") && !reason.contains("s3cret"), "{reason}");
    let mut writer = postgres.connect_as("writer", "postgres");
    for query in
        ["SELECT * FROM tandem.links", "SELECT url FROM tandem.links", "SELECT tandem.reconcile('redis')"]
    {
        assert_eq!(refused(&mut writer, query).0, "42501", "{query}");
    }
    for query in [
        "SELECT l::text FROM tandem.links() l",
        "SELECT l::text FROM tandem.link_status l",
        "SELECT l::text FROM tandem.status() l",
        "SELECT l::text FROM tandem.checks l",
        "SELECT concat(a.query, a.application_name, a.backend_type) FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid()",
    ] {
        for row in rows(&mut writer, query) {
            let text: String = row.get(0);
            assert!(!text.contains("s3cret"), "{query}: {text}");
        }
    }
    let log = std::fs::read_to_string(postgres.directory().join("postgres.log")).expect("the server's log");
    assert!(log.contains("WRONGPASS"), "the log says what is wrong");
    assert!(!log.contains("s3cret"), "and not the password");
}

/// What an argument of a function is when it is not the one that is tried.
fn plausible(name: &str, kind: &str) -> String {
    match (name, kind) {
        ("url", _) => "'redis://127.0.0.1:1'".into(),
        ("mode", _) => "'mirror'".into(),
        ("direction", _) => "'both'".into(),
        ("table_name", _) => "'some_table'".into(),
        ("payload" | "patch", "text") => "'{}'".into(),
        ("if_match" | "audit" | "type" | "since" | "after" | "link", _) => "NULL".into(),
        (_, "text") => "'x'".into(),
        (_, "text[]") => "ARRAY['x']".into(),
        (_, "jsonb") => "'{}'::jsonb".into(),
        (_, "bytea") => "'\\x00'::bytea".into(),
        (_, "boolean") => "false".into(),
        (_, "bigint" | "integer") => "1".into(),
        (_, kind) => format!("NULL::{kind}"),
    }
}

/// Arguments of a function, all plausible but the one at a place.
fn arguments_with(arguments: &[(&str, &str)], place: usize, tried: &str) -> String {
    let arguments = arguments
        .iter()
        .enumerate()
        .map(|(at, (name, kind))| if at == place { tried.to_owned() } else { plausible(name, kind) });
    arguments.collect::<Vec<String>>().join(", ")
}

/// Makes a call that is answered or refused with an error of tandem's.
fn try_call(client: &mut Client, call: &str) {
    const TYPED: [&str; 14] = [
        "08003", "21000", "22023", "22P02", "23505", "23514", "25006", "40001", "53400", "54000", "55000",
        "57014", "P0002", "XX001",
    ];
    if let Err(error) = client.batch_execute(call) {
        let is_typed = error.code().is_some_and(|state| TYPED.contains(&state.code()));
        assert!(is_typed, "{call}: {}", error_text(&error));
    }
}

#[test]
fn no_argument_is_taken_for_sql() {
    const EVIL: [&str; 6] = [
        "'; DROP TABLE tandem.items; --",
        "x'); DROP TABLE tandem.items CASCADE; --",
        "\"; DROP TABLE tandem.items; --",
        "$q$; DROP TABLE tandem.items; $q$",
        "\\'; DROP TABLE tandem.items; --",
        "%I %L %s {} $1",
    ];
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let tables = |client: &mut Client| -> std::collections::BTreeSet<String> {
        let query = "SELECT relname::text FROM pg_class WHERE relnamespace = 'tandem'::regnamespace";
        rows(client, query).iter().map(|row| row.get(0)).collect()
    };
    let before = tables(&mut client);
    let functions = rows(
        &mut client,
        "SELECT p.proname::text, ARRAY(SELECT coalesce(p.proargnames[a.place], '') || ':' || format_type(a.kind, NULL) \
             FROM unnest(p.proargtypes) WITH ORDINALITY a (kind, place) ORDER BY a.place) \
         FROM pg_proc p WHERE p.pronamespace = 'tandem'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY 1",
    );
    let mut tried = 0;
    for row in functions {
        let (function, arguments): (String, Vec<String>) = (row.get(0), row.get(1));
        let arguments: Vec<(&str, &str)> =
            arguments.iter().map(|argument| argument.split_once(':').expect("name and type")).collect();
        for (place, (_, kind)) in arguments.iter().enumerate() {
            for evil in EVIL.iter().copied().map(Some).chain([None]) {
                let Some(evil) = evil else {
                    let all = arguments_with(&arguments, place, &format!("NULL::{kind}"));
                    tried += 1;
                    try_call(&mut client, &format!("SELECT tandem.{function}({all})"));
                    continue;
                };
                let literal = format!("'{}'", evil.replace('\'', "''"));
                let tried_one = match *kind {
                    "text" => literal,
                    "text[]" => format!("ARRAY[{literal}]"),
                    "jsonb" => format!(
                        "jsonb_build_array(jsonb_build_object('id', {literal}, 'payload', {literal}, \
                        'op', 'put', 'state', {literal}))"
                    ),
                    "bytea" => format!("convert_to({literal}, 'UTF8')"),
                    _ => continue,
                };
                tried += 1;
                let all = arguments_with(&arguments, place, &tried_one);
                try_call(&mut client, &format!("SELECT tandem.{function}({all})"));
            }
        }
    }
    assert!(tried > 300, "{tried} calls");
    assert!(tables(&mut client).is_superset(&before), "every table is there");
    // The worker of a link gets its name, prefix and errors as data too.
    let (name, prefix) = (EVIL[0].replace('\'', "''"), EVIL[1].replace('\'', "''"));
    run(
        &mut client,
        &format!("SELECT tandem.link('redis://127.0.0.1:1', name => '{name}', prefix => '{prefix}')"),
    );
    wait::until("its worker has tried to connect", DEADLINE, || {
        let query =
            format!("SELECT count(*) FROM tandem.links() WHERE name = '{name}' AND last_error IS NOT NULL");
        value::<i64>(&mut client, &query) > 0
    });
    let stored: i64 =
        value(&mut client, "SELECT count(*) FROM tandem.items WHERE id ~ 'DROP' OR payload::text ~ 'DROP'");
    assert!(stored > 0, "some of these are ids and content");
    assert!(tables(&mut client).is_superset(&before));
}
