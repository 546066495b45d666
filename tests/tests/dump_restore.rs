//! A dump in each form carries what is tandem's into a new cluster, whose link waits to be told that it may take
//! over; and DROP EXTENSION leaves nothing behind but an empty schema, and the roles, which are the whole cluster's.

use postgres::Client;
use std::path::Path;
use std::process::Command;
use tandem_tests::census::check_postgres;
use tandem_tests::install::client_program;
use tandem_tests::pair::{Pair, root_of_postgres};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, ask};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn client(program: &str, server: &Postgres, words: &[&str]) {
    let output = Command::new(client_program(program))
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &server.port().to_string()])
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    assert!(!said.contains("error") && !said.contains("ERROR"), "{program} {words:?}: {said}");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// What a dump must carry beside the items.
fn books(client: &mut Client) -> Vec<String> {
    let queries = [
        "SELECT string_agg(t::text, ',' ORDER BY t.id) FROM tandem.tombstones t",
        "SELECT string_agg(c::text, ',' ORDER BY c.seq) FROM tandem.conflicts c",
        "SELECT string_agg((d.id, d.direction, d.reason)::text, ',' ORDER BY d.seq) FROM tandem.dead_letters d",
        "SELECT string_agg((r.prefix, r.table_name)::text, ',' ORDER BY r.prefix) FROM tandem.routes r",
        "SELECT string_agg((l.name, l.url, l.prefix, l.direction)::text, ',' ORDER BY l.name) FROM tandem.links l",
        "SELECT md5(string_agg(i::text, ',' ORDER BY i.id)) FROM tandem.items i",
    ];
    queries.iter().map(|query| value::<Option<String>>(client, query).expect("something is there")).collect()
}

#[test]
fn a_dump_in_any_form_is_restored_and_its_link_waits() {
    let mut pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut source, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut source,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, to_jsonb(n) FROM generate_series(1, 2000) n; \
         SELECT tandem.route('view:', 'view_items'); SELECT tandem.put_binary('view:1', '\\x00ff'), tandem.put('here', '1', local => true), \
             tandem.delete('a.1')",
    );
    ask(&mut redis, &["SET", "taken", "a string"]);
    run(&mut source, "SELECT tandem.put('taken', '1')");
    wait::until("a letter is set aside", DEADLINE, || {
        value(&mut source, "SELECT count(*) = 1 FROM tandem.dead_letters")
    });
    // What is accepted is restored: numbers that print 17 MB, and a version that was counted on from the largest
    // given.
    run(
        &mut source,
        "SELECT tandem.put('numbers', (SELECT '[' || string_agg('1e131071', ',') || ']' FROM generate_series(1, 130)), type => 'json'); \
         SELECT tandem.put('large', '1', version => 4611686018427387904), tandem.put('large', '2')",
    );
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "a.2", "\"redis\""]);
    run(&mut source, "SELECT tandem.put('a.2', '\"postgres\"'), tandem.resume_link('redis')");
    wait::until("the conflict is recorded", DEADLINE, || {
        value(&mut source, "SELECT count(*) = 1 FROM tandem.conflicts")
    });
    wait::until("and settled", DEADLINE, || {
        value(&mut source, "SELECT state = 'streaming' AND waiting = 0 FROM tandem.links()")
    });
    let (expected, root) = (books(&mut source), root_of_postgres(&mut source));

    let target = Postgres::start(&pg::Options::default());
    let folder = pair.postgres.directory();
    for form in ["plain", "custom", "directory"] {
        let file = folder.join(form);
        let file = path(&file);
        // The worker serves the database `postgres`.
        let database = if form == "directory" { "postgres" } else { form };
        if database == form {
            run(&mut target.connect(), &format!("CREATE DATABASE {form}"));
        }
        let jobs = if form == "directory" { &["-j", "4"][..] } else { &[] };
        let dump = [&["-d", "postgres", "-F", form, "-f", file][..], jobs].concat();
        client("pg_dump", &pair.postgres, &dump);
        if form == "plain" {
            client("psql", &target, &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", file]);
        } else {
            client("pg_restore", &target, &[&["-d", database, "-e", file][..], jobs].concat());
        }
        let mut restored = target.connect_as("postgres", database);
        assert_eq!(root_of_postgres(&mut restored), root, "{form}");
        assert_eq!(books(&mut restored), expected, "{form}");
        check_postgres(&mut restored, form);
        run(&mut restored, "SELECT tandem.put('a.1', '\"again\"')");
        let version: i64 = value(&mut restored, "SELECT version FROM tandem.get('a.1')");
        assert_eq!(version, 3, "{form}: a removal is known");
    }

    // Two clusters must not serve one link by accident.
    let mut restored = target.connect();
    let waits = "SELECT paused AND last_error LIKE 'restored from another cluster%' FROM tandem.links()";
    wait::until("the restored link is paused", DEADLINE, || {
        value::<Option<bool>>(&mut restored, waits) == Some(true)
    });
    run(&mut source, "SELECT tandem.put('source', '1')");
    wait::until("the link of the source goes on", DEADLINE, || {
        value(&mut source, "SELECT state = 'streaming' AND waiting = 0 FROM tandem.links()")
    });
    ask(&mut redis, &["DEL", "taken"]);
    run(&mut restored, "SELECT tandem.retry_dead_letters(), tandem.resume_link('redis')");
    // Whoever lets it go on all the same is told.
    let told =
        "SELECT coalesce(last_error, '') LIKE '%another Postgres has attached it%' FROM tandem.links()";
    wait::until("one of the two is told of the other", DEADLINE, || {
        value::<bool>(&mut source, told) || value::<bool>(&mut restored, told)
    });
    pair.postgres.stop();
    wait::until("it has taken over, with what was written meanwhile", DEADLINE, || {
        value::<bool>(&mut restored, "SELECT tandem.exists('source')")
            && root_of_postgres(&mut restored) == tandem_tests::pair::root_of_redis(&mut redis)
    });
}

#[test]
fn a_dropped_extension_leaves_nothing_behind() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "SELECT tandem.route('view:', 'view_items'); SELECT tandem.put('view:1', '1'), tandem.put('a', '1')",
    );
    pair.settle_at(2);
    run(&mut client, "DROP EXTENSION tandem");
    let left: Vec<String> = rows(
        &mut client,
        "SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = to_regnamespace('tandem') \
         UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = to_regnamespace('tandem') OR prosrc LIKE '%tandem%' \
         UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = to_regnamespace('tandem') \
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE '%tandem%' AND nspname <> 'tandem' \
         UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE '%tandem%' \
         UNION ALL SELECT 'extension ' || extname FROM pg_extension WHERE extname = 'tandem'",
    )
    .iter()
    .map(|row| row.get(0))
    .collect();
    assert!(left.is_empty(), "{left:?}");
    let roles: i64 = value(&mut client, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tandem%'");
    assert_eq!(roles, 2, "the roles are the whole cluster's");
    wait::until("the session has ended", DEADLINE, || {
        value(
            &mut client,
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'tandem link%')",
        )
    });
    assert_eq!(
        ask(&mut redis, &["TANDEM.LINK", "LIST"]),
        ::redis::Value::Array(vec![]),
        "nothing waits for it in Redis"
    );
    // And it can be made again.
    run(&mut client, "CREATE EXTENSION tandem");
    tandem_tests::pair::link(&mut client, &pair.redis);
    pair.settle_at(2);
}
