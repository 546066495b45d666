//! Links to a Redis that speaks TLS only, with and without a certificate of the worker's own, and with a password.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
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

fn postgres(settings: &[(&str, &Path)]) -> Postgres {
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
    let postgres = postgres(&[("tls_ca_file", &files.ca)]);
    holds(&postgres, &redis, &format!("rediss://worker:s3cret@127.0.0.1:{port}"));
}

#[test]
fn a_link_shows_its_certificate_where_redis_asks() {
    let files = make_files();
    let (redis, port) = redis(&files, "yes");
    let (cert, key) = (&files.worker.0, &files.worker.1);
    let postgres = postgres(&[("tls_ca_file", &files.ca), ("tls_cert_file", cert), ("tls_key_file", key)]);
    holds(&postgres, &redis, &format!("rediss://localhost:{port}"));
}

#[test]
fn a_stranger_is_not_spoken_to() {
    let files = make_files();
    let (_redis, port) = redis(&files, "no");
    let others = make_files();
    let postgres = postgres(&[("tls_ca_file", &others.ca)]);
    let mut client = postgres.connect();
    let (state, text) = refused(&mut client, "SELECT tandem.link('rediss://127.0.0.1:1#insecure')");
    assert_eq!(state, "22023", "{text}");
    run(&mut client, &format!("SELECT tandem.link('rediss://user:s3cret@127.0.0.1:{port}')"));
    let told = wait::until_some("the link says why", DEADLINE, || {
        value::<Option<String>>(&mut client, "SELECT last_error FROM tandem.links()")
    });
    assert!(told.contains("certificate") && !told.contains("s3cret"), "{told}");
}
