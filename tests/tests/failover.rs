//! A standby answers what can be read and starts no worker. Promoted, it has the link, and nothing that a client was
//! told of is lost, though the standby was behind; the old primary, should it come back, is kept out.

use postgres::Client;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{Pair, count_of_postgres, root_of_postgres, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, ask, ask_number, ask_text};
use tandem_tests::sql::{error_text, refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn has_caught_up(primary: &mut Client, standby: &mut Client) {
    let end: String = value(primary, "SELECT pg_current_wal_insert_lsn()::text");
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
    wait::until("the standby has caught up", DEADLINE, || value(standby, &query));
}

/// An argument of a type that does no harm.
fn plausible(name: &str, kind: &str) -> String {
    match (name, kind) {
        ("link", _) => "'redis'".to_owned(),
        ("payload" | "patch" | "filter", "text") => "'{}'".to_owned(),
        ("if_match" | "audit" | "type" | "since" | "after" | "state", _) => "NULL".to_owned(),
        ("timeout_ms", _) => "1".to_owned(),
        (_, "text") => "'a.1'".to_owned(),
        (_, "text[]") => "ARRAY['a.1']".to_owned(),
        (_, "jsonb") => "'{}'::jsonb".to_owned(),
        (_, "bytea") => "'\\x00'::bytea".to_owned(),
        (_, "boolean") => "false".to_owned(),
        (_, "bigint" | "integer") => "1".to_owned(),
        (_, kind) => format!("NULL::{kind}"),
    }
}

#[test]
fn every_function_answers_on_a_standby_or_says_that_it_cannot() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let mut primary = pair.sql();
    run(
        &mut primary,
        "INSERT INTO tandem.items (id, payload, state) SELECT 'a.' || n, to_jsonb(n), 'odd' FROM generate_series(1, 300) n; \
         SELECT tandem.delete('a.300'), tandem.route('view:', 'view_items')",
    );
    pair.settle_at(299);
    let standby = Postgres::standby_of(&pair.postgres);
    let mut client = standby.connect();
    // Not folded: hashes are exact all the same.
    run(&mut primary, "BEGIN; SELECT tandem.put('a.1', '\"late\"'), pg_switch_wal(); COMMIT");
    has_caught_up(&mut primary, &mut client);
    for query in [
        "SELECT tandem.merkle_root()",
        "SELECT tandem.merkle_hash('a')",
        "SELECT string_agg(c::text, ',') FROM tandem.merkle_children('') c",
        "SELECT string_agg(l::text, ',') FROM tandem.merkle_leaves('a') l",
        "SELECT tandem.count('a.')::text",
        "SELECT g::text FROM tandem.get('a.2') g",
        "SELECT string_agg(g::text, ',') FROM tandem.get_many('{a.1,a.300}') g",
        "SELECT tandem.exists('a.3')::text",
        "SELECT string_agg(s::text, ',') FROM tandem.scan('a.') s",
        "SELECT string_agg(s, ',') FROM tandem.list_state('odd') s",
        "SELECT tandem.count_state('odd')::text",
        "SELECT (s.status, s.version, s.etag)::text FROM tandem.item_status('a.300') s",
        "SELECT string_agg(c::text, ',') FROM tandem.changes_since() c",
        "SELECT tandem.log_position()",
        "SELECT string_agg(r::text, ',') FROM tandem.routes() r",
        "SELECT ok::text FROM tandem.verify()",
        "SELECT value FROM tandem.status() WHERE name = 'root'",
        "SELECT tandem.dirty_count()::text",
        "SELECT answer FROM tandem.reconcile('redis', dry_run => true)",
    ] {
        // The primary may fold meanwhile, which takes from the dirty ones.
        wait::until(&format!("{query} answers as on the primary"), DEADLINE, || {
            has_caught_up(&mut primary, &mut client);
            let there: Option<String> = value(&mut primary, query);
            there == value::<Option<String>>(&mut client, query)
        });
    }
    check_postgres(&mut client, "on the standby");

    let functions = rows(
        &mut client,
        "SELECT p.proname::text, ARRAY(SELECT coalesce(p.proargnames[a.place], '') || ':' || format_type(a.kind, NULL) \
             FROM unnest(p.proargtypes) WITH ORDINALITY a (kind, place) ORDER BY a.place) \
         FROM pg_proc p WHERE p.pronamespace = 'tandem'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY 1",
    );
    let (mut answered, mut refused, mut unsaid) = (0, 0, Vec::new());
    for row in functions {
        let (function, arguments): (String, Vec<String>) = (row.get(0), row.get(1));
        let arguments: Vec<String> = arguments
            .iter()
            .filter_map(|argument| argument.split_once(':'))
            .map(|(name, kind)| plausible(name, kind))
            .collect();
        let call = format!("SELECT tandem.{function}({})", arguments.join(", "));
        match client.batch_execute(&call) {
            Ok(()) => answered += 1,
            Err(error) => {
                refused += 1;
                let state = error.code().map_or("", |state| state.code());
                // Read-only, not in this state, or an argument that this test made up.
                let is_said =
                    ["25006", "55000", "0A000", "22023", "22P02", "P0002", "42P01", "42704", "XX001"]
                        .contains(&state);
                unsaid.extend((!is_said).then(|| format!("{call}: {}", error_text(&error))));
            }
        }
    }
    assert!(unsaid.is_empty(), "{unsaid:#?}");
    assert!(answered > 30 && refused > 10, "{answered} functions answer, {refused} refuse");
    for write in ["put('a.1', '1')", "delete('a.1')", "link('redis://127.0.0.1:1', name => 'b')", "fold()"] {
        let (state, text) = self::refused(&mut client, &format!("SELECT tandem.{write}"));
        assert_eq!(state, "25006", "{write}: {text}");
    }
    let workers: i64 =
        value(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'tandem%'");
    assert_eq!(workers, 0, "a standby has no worker");
}

#[test]
fn a_promoted_standby_loses_nothing_and_keeps_the_old_primary_out() {
    let mut pair = Pair::start();
    let (mut primary, mut redis) = (pair.sql(), pair.commands());
    for number in 0..50 {
        ask(&mut redis, &["TANDEM.PUT", &format!("redis.{number}"), "1"]);
        run(&mut primary, &format!("SELECT tandem.put('postgres.{number}', '1')"));
    }
    pair.settle_at(100);
    let mut standby = Postgres::standby_of(&pair.postgres);
    has_caught_up(&mut primary, &mut standby.connect());

    // What comes now reaches the primary, and Redis is told so; the standby never hears of it.
    standby.stop();
    for number in 0..20 {
        ask(&mut redis, &["TANDEM.PUT", &format!("late.redis.{number}"), "1"]);
        run(&mut primary, &format!("SELECT tandem.put('late.postgres.{number}', '1')"));
    }
    ask(&mut redis, &["TANDEM.PUT", "redis.1", "2"]);
    ask(&mut redis, &["TANDEM.REMOVE", "redis.2"]);
    run(&mut primary, "SELECT tandem.delete('postgres.2')");
    pair.settle("Redis is told that Postgres has it", |client, redis| {
        count_of_postgres(client) == 138 && ask_number(redis, &["TANDEM.LINK", "PENDING"]) == 0
    });
    let root = root_of_redis(&mut redis);
    pair.postgres.kill_hard();
    standby.restart();
    let mut client = standby.connect();
    assert_eq!(count_of_postgres(&mut client), 100, "it was behind");
    run(&mut client, "SELECT pg_promote()");
    wait::until("the promoted standby has everything", DEADLINE, || {
        count_of_postgres(&mut client) == 138 && root_of_postgres(&mut client) == root
    });
    assert_eq!(root_of_redis(&mut redis), root, "Redis has lost nothing by it");
    for id in ["redis.2", "postgres.2"] {
        assert!(!value::<bool>(&mut client, &format!("SELECT tandem.exists('{id}')")), "{id} was removed");
    }

    // The old primary comes back as if nothing had happened.
    pair.postgres.restart();
    let mut old = pair.postgres.connect();
    wait::until("the old primary is told that it was replaced", DEADLINE, || {
        let error: Option<String> = value(&mut old, "SELECT last_error FROM tandem.links()");
        error.is_some_and(|error| error.contains("NOLINK") && error.contains("promoted"))
    });
    run(&mut old, "SELECT tandem.put('stray', '1')");
    let answer: String = value(&mut old, "SELECT reason FROM tandem.reconcile('redis')");
    assert!(answer.contains("promoted"), "{answer}");
    ask(&mut redis, &["TANDEM.PUT", "after", "1"]);
    run(&mut client, "SELECT tandem.put('after.too', '1')");
    let both_ways = |client: &mut Client, redis: &mut ::redis::Connection| {
        count_of_postgres(client) == 140 && root_of_postgres(client) == root_of_redis(redis)
    };
    wait::until("the link goes on both ways", DEADLINE, || both_ways(&mut client, &mut redis));
    // Not even to unlink there takes the link away from the one that has it.
    run(&mut old, "SELECT tandem.unlink('redis')");
    wait::until("nobody works for it", DEADLINE, || {
        value(
            &mut old,
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'tandem link%')",
        )
    });
    assert_eq!(ask_text(&mut redis, &["TANDEM.GET", "stray"]), None, "and nothing of it has come through");
    let waits = "SELECT state = 'streaming' AND last_error IS NULL FROM tandem.links()";
    wait::until("the promoted one streams", DEADLINE, || value(&mut client, waits));
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "5000"]), 1);
    let census = check_postgres(&mut client, "in the promoted standby");
    assert_eq!(census, check_redis(&mut redis, "in Redis"));
}
