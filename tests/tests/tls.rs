//! TLS: links to a Redis that speaks it, with and without a certificate of the worker's own, and with a password; and
//! checks with another Postgres.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tandem_tests::ports;
use tandem_tests::postgres::{Options as PgOptions, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number};
use tandem_tests::scratch::Scratch;
use tandem_tests::sql::{refused, run, value};
use tandem_tests::wait::{self, DEADLINE};

struct Files {
    _scratch: Scratch,
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    worker: (PathBuf, PathBuf),
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).expect("the folder takes a file");
    // Both servers read them, and one runs as another user.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    path
}

fn make_files() -> Files {
    let scratch = Scratch::new("tls");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        // By default it is called as its issuer is, and then OpenSSL takes it for its own.
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.signed_by(&key, &issuer).expect("a certificate");
        (
            write(scratch.path(), &format!("{name}.crt"), &cert.pem()),
            write(scratch.path(), &format!("{name}.key"), &key.serialize_pem()),
        )
    };
    let (server, worker) = (issue("server"), issue("worker"));
    let ca = write(scratch.path(), "ca.crt", &ca_pem);
    Files { ca, server, worker, _scratch: scratch }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A Redis with a TLS port beside the plain one of the tests.
fn redis(files: &Files, auth_clients: &str) -> (Redis, u16) {
    let port = ports::free();
    let options = Options::in_memory()
        .with("tls-port", &port.to_string())
        .with("tls-cert-file", &shown(&files.server.0))
        .with("tls-key-file", &shown(&files.server.1))
        .with("tls-ca-cert-file", &shown(&files.ca))
        .with("tls-auth-clients", auth_clients);
    (Redis::start(options), port)
}

fn server(settings: &[(&str, &Path)]) -> Postgres {
    let settings =
        settings.iter().map(|(name, path)| format!("tandem.{name} = '{}'", path.display())).collect();
    Postgres::with_extension(&PgOptions { settings, ..PgOptions::default() })
}

fn holds(postgres: &Postgres, redis: &Redis, url: &str) {
    let (mut client, mut connection) = (postgres.connect(), redis.connect());
    run(&mut client, &format!("SELECT tandem.link('{url}')"));
    run(&mut client, "SELECT tandem.put('from.sql', '[1]')");
    wait::until("what SQL wrote is in Redis", DEADLINE, || {
        ask_number(&mut connection, &["TANDEM.EXISTS", "from.sql"]) == 1
    });
    let large = format!("[\"{}\"]", "x".repeat(300_000));
    ask(&mut connection, &["TANDEM.PUT", "from.redis", &large]);
    wait::until("what Redis wrote is in Postgres", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.items WHERE id = 'from.redis'") == 1
    });
    let answer: String = value(&mut client, "SELECT answer FROM tandem.reconcile('redis', dry_run => true)");
    assert_eq!(answer, "equal");
}

#[test]
fn a_link_speaks_tls_and_gives_its_password() {
    let files = make_files();
    let (redis, port) = redis(&files, "no");
    ask(&mut redis.connect(), &["ACL", "SETUSER", "worker", "on", ">s3cret", "~*", "+@all"]);
    let postgres = server(&[("tls_ca_file", &files.ca)]);
    holds(&postgres, &redis, &format!("rediss://worker:s3cret@127.0.0.1:{port}"));
}

#[test]
fn a_link_shows_its_certificate_where_redis_asks() {
    let files = make_files();
    let (redis, port) = redis(&files, "yes");
    let (cert, key) = (&files.worker.0, &files.worker.1);
    let postgres = server(&[("tls_ca_file", &files.ca), ("tls_cert_file", cert), ("tls_key_file", key)]);
    holds(&postgres, &redis, &format!("rediss://localhost:{port}"));
}

#[test]
fn a_stranger_is_not_spoken_to() {
    let files = make_files();
    let (_redis, port) = redis(&files, "no");
    let others = make_files();
    let postgres = server(&[("tls_ca_file", &others.ca)]);
    let mut client = postgres.connect();
    let (state, text) = refused(&mut client, "SELECT tandem.link('rediss://127.0.0.1:1#insecure')");
    assert_eq!(state, "22023", "{text}");
    run(&mut client, &format!("SELECT tandem.link('rediss://user:s3cret@127.0.0.1:{port}')"));
    let told = wait::until_some("the link says why", DEADLINE, || {
        value::<Option<String>>(&mut client, "SELECT last_error FROM tandem.links()")
    });
    assert!(told.contains("certificate") && !told.contains("s3cret"), "{told}");
}

/// A Postgres that takes connections from outside by TLS only.
fn encrypted(files: &Files) -> Postgres {
    let server = server(&[]);
    let data = server.directory().join("data");
    let key = data.join("tls.key");
    fs::copy(&files.server.1, &key).expect("the folder takes a file");
    // Postgres takes a key only that nobody else reads.
    let owner = fs::metadata(&data).expect("the server made it");
    chown(&key, Some(owner.uid()), Some(owner.gid())).expect("the file is ours");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let mut client = server.connect();
    for (name, value) in
        [("ssl_key_file", "tls.key"), ("ssl_cert_file", &shown(&files.server.0)), ("ssl", "on")]
    {
        run(&mut client, &format!("ALTER SYSTEM SET {name} = '{value}'"));
    }
    run(&mut client, "CREATE ROLE outside LOGIN IN ROLE tandem_writer; SELECT tandem.put('a', '1')");
    let hba = data.join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).expect("initdb wrote it");
    let own = "hostssl all outside all trust\nhost all outside all reject\n";
    fs::write(&hba, format!("{own}{rules}")).expect("it can be written");
    run(&mut client, "SELECT pg_reload_conf()");
    wait::until("it speaks TLS", DEADLINE, || value::<String>(&mut server.connect(), "SHOW ssl") == "on");
    server
}

#[test]
fn a_check_with_another_postgres_speaks_tls() {
    let files = make_files();
    let other = encrypted(&files);
    let here = server(&[("tls_ca_file", &files.ca)]);
    let mut client = here.connect();
    let stranger = make_files();
    let apart = server(&[("tls_ca_file", &stranger.ca)]);
    let reconcile = |client: &mut postgres::Client, mode: &str| -> (String, String) {
        let url = format!("postgresql://outside@localhost:{}/postgres?sslmode={mode}", other.port());
        let query = format!(
            "SELECT answer || ' ' || differences, coalesce(reason, '') FROM tandem.reconcile('{url}')"
        );
        let row = client.query_one(&query, &[]).expect("it answers");
        (row.get(0), row.get(1))
    };
    assert_eq!(reconcile(&mut client, "require").0, "equal 1");
    for mode in ["verify-full", "prefer"] {
        assert_eq!(reconcile(&mut client, mode).0, "equal 0", "{mode}");
    }
    let (answer, reason) = reconcile(&mut client, "disable");
    assert!(answer == "incomplete 0" && reason.contains("pg_hba.conf"), "{answer}: {reason}");
    for mode in ["require", "prefer"] {
        let (answer, reason) = reconcile(&mut apart.connect(), mode);
        assert!(answer == "incomplete 0" && reason.contains("certificate"), "{mode}: {answer}: {reason}");
    }
}
