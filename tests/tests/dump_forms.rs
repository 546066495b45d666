//! Each form of a dump, and each way to restore it, brings back everything or says what is still to be done.

use postgres::Client;
use std::path::Path;
use std::process::Command;
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

/// A database without the extension, and its name.
fn empty() -> (Client, String) {
    let name = format!("dumped_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(&mut server().connect(), &format!("CREATE DATABASE {name}"));
    (server().connect_as("postgres", &name), name)
}

fn source() -> (Client, String) {
    let (mut client, name) = empty();
    run(
        &mut client,
        "CREATE EXTENSION tandem; SELECT tandem.route('view:', 'view_items'); \
         INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, to_jsonb(n) FROM generate_series(1, 300) n; \
         INSERT INTO tandem.items (id, payload) SELECT 'view:' || n, '[1, 2]' FROM generate_series(1, 30) n; \
         SELECT tandem.put_binary('b', '\\x00ff'), tandem.put('here', '1', local => true), tandem.delete('a.1'); \
         SELECT tandem.put('a.2', '2', state => 'open'), tandem.touch('a.3')",
    );
    (client, name)
}

/// Runs a client program of the server; what it says beside its output.
fn program(name: &str, settings: &str, words: &[&str]) -> String {
    let output = Command::new(client_program(name))
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &server().port().to_string()])
        .args(words)
        .env("PGOPTIONS", settings)
        .output()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name} {words:?}: {said}");
    assert!(!said.contains("ERROR"), "{name} {words:?}: {said}");
    said
}

/// A place for a file in the server's own directory.
fn file(name: &str) -> String {
    let place: &Path = server().directory();
    place
        .join(format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed)))
        .to_str()
        .expect("a UTF-8 path")
        .to_owned()
}

/// Everything that must come back, as one text.
fn state(client: &mut Client) -> String {
    value(
        client,
        "SELECT md5(string_agg((i.id, i.version, i.timestamp, i.payload_hash, i.payload, i.payload_blob, i.state, i.local, \
             i.access_count)::text, ',' ORDER BY i.id)) || ' root ' || tandem.merkle_root() \
         || (SELECT string_agg(t::text, ',' ORDER BY t.id) FROM tandem.tombstones t) \
         || (SELECT string_agg((r.prefix, r.table_name)::text, ',') FROM tandem.routes r) \
         || (SELECT count(*) FROM tandem.view_items) FROM tandem.items i",
    )
}

fn dump(database: &str, words: &[&str]) -> String {
    let place = file("dump");
    program("pg_dump", "", &[&["-d", database, "-f", &place][..], words].concat());
    place
}

#[test]
fn every_form_comes_back_in_every_way() {
    let (mut client, from) = source();
    let expected = state(&mut client);
    let plain = |words: &[&str], settings: &str, has_extension: bool| {
        let place = dump(&from, words);
        let (mut target, to) = empty();
        if has_extension {
            run(&mut target, "CREATE EXTENSION tandem");
        }
        program("psql", settings, &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &to, "-f", &place]);
        assert_eq!(state(&mut target), expected, "{words:?} with {settings:?}");
        assert_eq!(value::<i64>(&mut target, "SELECT count(*) FROM tandem.restored_items"), 0, "{words:?}");
        check_postgres(&mut target, &format!("{words:?} with {settings:?}"));
        run(
            &mut target,
            "SELECT tandem.put('view:new', '1'); INSERT INTO tandem.items (id, payload) VALUES ('c', '1')",
        );
        check_postgres(&mut target, &format!("{words:?} with {settings:?}, after a write"));
    };
    plain(&[], "", false);
    plain(&["--inserts"], "", false);
    plain(&["--column-inserts", "--rows-per-insert=7"], "", false);
    plain(&[], "-c session_replication_role=replica", false);
    plain(&["-a"], "", true);
    plain(&["-a", "--disable-triggers"], "", true);
    plain(&["-a", "--disable-triggers", "--inserts"], "", true);
    plain(&["-a"], "-c session_replication_role=replica", true);
    plain(&["-n", "tandem", "-a"], "", true);
    plain(&["-t", "tandem.*", "-a"], "", true);
    plain(&["-e", "tandem"], "", false);
}

#[test]
fn an_archive_comes_back_in_every_way() {
    let (mut client, from) = source();
    let expected = state(&mut client);
    for form in [&["-F", "custom"][..], &["-F", "directory", "-j", "3"]] {
        for (words, settings, has_extension) in [
            (&["-e"][..], "", false),
            (&["-e", "-j", "3"], "", false),
            (&["-e", "--disable-triggers"], "", false),
            (&["-e", "-a", "--disable-triggers"], "", true),
            (&["-e", "-1", "-a", "--disable-triggers"], "", true),
            (&["-e"], "-c session_replication_role=replica", false),
        ] {
            let place = dump(&from, form);
            let (mut target, to) = empty();
            if has_extension {
                run(&mut target, "CREATE EXTENSION tandem");
            }
            program("pg_restore", settings, &[words, &["-d", &to, &place]].concat());
            let way = format!("{form:?} {words:?} {settings}");
            assert_eq!(state(&mut target), expected, "{way}");
            check_postgres(&mut target, &way);
        }
    }
}

/// Rows that stay because the trigger is off are named, and can be taken on.
#[test]
fn what_stays_at_the_door_is_named() {
    let (mut client, _) = source();
    run(
        &mut client,
        "ALTER TABLE tandem.restored_items DISABLE TRIGGER ALL; \
         INSERT INTO tandem.restored_items (id, version, timestamp, payload_hash, payload, state, local, access_count) \
             SELECT 'late', 7, 5, payload_hash, payload, state, local, 0 FROM tandem.items WHERE id = 'a.5'",
    );
    let verified: String = value(&mut client, "SELECT v::text FROM tandem.verify() v WHERE NOT ok");
    assert!(verified.contains("restored_items") && verified.contains("restore_items()"), "{verified}");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.restore_items()"), 1);
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.get('late')"), 7);
    check_postgres(&mut client, "after the late row");
}

#[test]
fn values_of_own_columns_come_along() {
    let (mut client, from) = source();
    run(
        &mut client,
        "ALTER TABLE tandem.items ADD COLUMN region text, ADD COLUMN tags text[] DEFAULT '{x}', ADD COLUMN raw bytea, \
             ADD COLUMN length integer GENERATED ALWAYS AS (octet_length(id)) STORED; \
         UPDATE tandem.items SET region = 'de ' || id, tags = ARRAY[id, NULL], raw = '\\x00ff'",
    );
    let own = "SELECT md5(string_agg((i.id, i.region, i.tags, i.raw)::text, ',' ORDER BY i.id)) FROM tandem.items i";
    let (expected, expected_own) = (state(&mut client), value::<String>(&mut client, own));
    let place = dump(&from, &[]);
    let (mut target, to) = empty();
    let said = program("psql", "", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &to, "-f", &place]);
    assert_eq!(said.matches("WARNING").count(), 1, "{said}");
    assert!(said.contains("raw, region, tags") && said.contains("restore_columns()"), "{said}");
    assert_eq!(state(&mut target), expected);
    let verified: String = value(&mut target, "SELECT v::text FROM tandem.verify() v WHERE NOT ok");
    assert!(verified.contains("restored_columns"), "{verified}");
    run(
        &mut target,
        "ALTER TABLE tandem.items ADD COLUMN region text, ADD COLUMN tags text[], ADD COLUMN raw bytea",
    );
    let log = "SELECT count(*) FROM tandem.changes";
    let logged: i64 = value(&mut target, log);
    assert_eq!(value::<i64>(&mut target, "SELECT tandem.restore_columns()"), 331);
    assert_eq!(value::<i64>(&mut target, log), logged, "columns of others are no part of a revision");
    assert_eq!(value::<String>(&mut target, own), expected_own);
    check_postgres(&mut target, "with the columns");
    // Where the columns are there before, they are filled at once.
    let data = dump(&from, &["-a"]);
    let (mut target, to) = empty();
    run(
        &mut target,
        "CREATE EXTENSION tandem; ALTER TABLE tandem.items ADD COLUMN region text NOT NULL, ADD COLUMN tags text[], ADD COLUMN raw bytea",
    );
    program("psql", "", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &to, "-f", &data]);
    assert_eq!(value::<String>(&mut target, own), expected_own);
    check_postgres(&mut target, "with columns that were there");
    assert!(rows(&mut target, "SELECT FROM tandem.restored_columns").is_empty());
}

/// What was accepted under a larger bound is not lost where the bound is smaller.
#[test]
fn a_restore_takes_what_was_accepted() {
    let (mut client, from) = source();
    run(&mut client, "SELECT tandem.put('large', to_jsonb(repeat('x', 200000)))");
    let expected = state(&mut client);
    let place = dump(&from, &[]);
    let (mut target, to) = empty();
    run(&mut target, &format!("ALTER DATABASE {to} SET tandem.content_bytes_max = 1000"));
    program("psql", "", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &to, "-f", &place]);
    assert_eq!(state(&mut target), expected);
    let mut bounded = server().connect_as("postgres", &to);
    let (code, _) = refused(&mut bounded, "SELECT tandem.put('other', to_jsonb(repeat('x', 200000)))");
    assert_eq!(code, "54000");
}
