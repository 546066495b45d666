//! The vectors under `tests/vectors`: frozen, and both engines held to them.

use tandem_shared::digest::hex;
use tandem_tests::answer::Answer;
use tandem_tests::postgres as pg;
use tandem_tests::postgres::Postgres;
use tandem_tests::redis::{self, Redis};
use tandem_tests::request::{PutOption, Request};
use tandem_tests::vectors::{Vector, derived, store, stored};

/// Hashes, digests and encoded revisions outlive a release: what the shared crate derives today is what it derived
/// when the file was written. UPDATE_VECTORS=1 writes the file anew.
#[test]
fn the_shared_crate_still_derives_the_stored_vectors() {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        store(&derived());
    }
    let (derived, stored) = (derived(), stored());
    for (today, then) in derived.iter().zip(&stored) {
        assert_eq!(today, then, "{}", then.id);
    }
    assert_eq!(derived.len(), stored.len());
}

fn put(vector: &Vector) -> Request {
    let mut options = vec![
        PutOption::Version(vector.version.try_into().expect("a version fits a bigint")),
        PutOption::State(vector.state.clone()),
    ];
    options.push(if vector.binary { PutOption::Binary } else { PutOption::Json });
    if !vector.audit.is_empty() {
        options.push(PutOption::Audit(vector.audit.clone()));
    }
    Request::Put(vector.id.clone(), vector.payload.clone(), options)
}

/// Puts each vector, then reads it; then applies each encoded revision to an engine that has none, and reads
/// again. Both ways give the hash, etag and canonical content of the file.
fn hold(engine: &str, vectors: &[Vector], ask: &mut dyn FnMut(&Request) -> Answer, clear: &mut dyn FnMut()) {
    for vector in vectors {
        let answer = ask(&put(vector));
        assert_eq!(answer.text_field("hash"), vector.hash, "{engine}: hash of {}", vector.id);
        assert_eq!(answer.text_field("etag"), vector.etag, "{engine}: etag of {}", vector.id);
        read(engine, vector, &ask(&Request::Get(vector.id.clone())));
    }
    let root = ask(&Request::Root);
    clear();
    for vector in vectors {
        let answer = ask(&Request::Apply(vector.id.clone(), vector.revision.clone()));
        assert_eq!(answer, Answer::text("applied"), "{engine}: apply of {}", vector.id);
        let item = ask(&Request::Get(vector.id.clone()));
        read(engine, vector, &item);
        let timestamp = i64::try_from(vector.timestamp).expect("a timestamp fits a bigint");
        assert_eq!(item.field("timestamp"), Some(&Answer::Number(timestamp)), "{engine}: {}", vector.id);
    }
    assert_eq!(ask(&Request::Root), root, "{engine}: the root after puts and after applies");
}

fn read(engine: &str, vector: &Vector, item: &Answer) {
    let id = &vector.id;
    assert_eq!(item.text_field("hash"), vector.hash, "{engine}: stored hash of {id}");
    assert_eq!(item.text_field("etag"), vector.etag, "{engine}: stored etag of {id}");
    assert_eq!(item.field("payload"), Some(&Answer::bytes(&vector.canonical)), "{engine}: payload of {id}");
    let kind = if vector.binary { "binary" } else { "json" };
    assert_eq!(item.text_field("type"), kind, "{engine}: type of {id}");
    let audit = if vector.audit.is_empty() { Answer::Nothing } else { Answer::text(&vector.audit) };
    assert_eq!(item.field("audit"), Some(&audit), "{engine}: audit of {id}");
}

#[test]
fn redis_holds_to_the_vectors() {
    let server = Redis::start(redis::Options::in_memory());
    let vectors = stored();
    let mut connection = server.connect();
    let mut second = server.connect();
    // The same through protocol 3, where records are maps.
    let mut maps = server.connect_resp3();
    let mut ask = |request: &Request| {
        if matches!(request, Request::Get(_)) {
            assert_eq!(request.ask_redis(&mut maps), request.ask_redis(&mut connection), "{request:?}");
        }
        request.ask_redis(&mut connection)
    };
    hold("redis", &vectors, &mut ask, &mut || {
        redis::ask(&mut second, &["FLUSHALL"]);
    });
    for vector in &vectors {
        let payload = redis::ask(&mut second, &["TANDEM.GET", &vector.id, "PAYLOAD"]);
        assert_eq!(payload, ::redis::Value::BulkString(vector.canonical.clone()), "{}", vector.id);
        let fetched = redis::ask(&mut second, &["TANDEM.LINK", "FETCH", &vector.id]);
        let ::redis::Value::Array(entries) = fetched else { panic!("FETCH answers with an array") };
        let ::redis::Value::BulkString(bytes) = &entries[0] else {
            panic!("{}: {:?}", vector.id, entries[0])
        };
        assert_eq!(hex(bytes), hex(&vector.revision), "the encoded revision of {}", vector.id);
    }
    let absent = redis::ask(&mut second, &["TANDEM.GET", "absent", "PAYLOAD"]);
    assert_eq!(absent, ::redis::Value::Nil);
}

#[test]
fn postgres_holds_to_the_vectors() {
    let server = Postgres::with_extension(&pg::Options::default());
    let mut client = server.connect();
    let mut second = server.connect();
    hold("postgres", &stored(), &mut |request| request.ask_sql(&mut client), &mut || {
        tandem_tests::sql::run(&mut second, "TRUNCATE tandem.items; TRUNCATE tandem.tombstones");
    });
}
