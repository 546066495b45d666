//! The stream `tandem:cdc`: one entry a write, with the fields of docs/cdc.md, bounded, and the same on a replica and
//! after a restart.

use redis::{Connection, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use tandem_tests::cluster::Cluster;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_text, send};
use tandem_tests::sql;
use tandem_tests::wait::{self, DEADLINE};

type Fields = BTreeMap<String, Vec<u8>>;

fn with_stream(options: Options) -> Options {
    options.with("tandem.cdc-maxlen", "1000")
}

fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes.clone(),
        other => panic!("{other:?} is no string"),
    }
}

fn entries(connection: &mut Connection) -> Vec<Fields> {
    let Value::Array(entries) = ask(connection, &["XRANGE", "tandem:cdc", "-", "+"]) else {
        panic!("a stream is a list of entries")
    };
    let fields = |entry: &Value| {
        let Value::Array(parts) = entry else { panic!("{entry:?} is no entry") };
        let Some(Value::Array(words)) = parts.get(1) else { panic!("{entry:?} has no fields") };
        words
            .chunks(2)
            .map(|pair| (String::from_utf8(bytes(&pair[0])).expect("a name"), bytes(&pair[1])))
            .collect()
    };
    entries.iter().map(fields).collect()
}

fn text<'a>(entry: &'a Fields, name: &str) -> &'a str {
    std::str::from_utf8(&entry[name]).expect("this field is text")
}

fn meta(entry: &Fields) -> Json {
    serde_json::from_slice(&entry["meta"]).expect("meta is JSON")
}

fn content(entry: &Fields) -> Vec<u8> {
    let meta = meta(entry);
    match meta["encoding"].as_str() {
        Some("zstd") => {
            let size = usize::try_from(meta["bytes"].as_u64().expect("a size")).expect("a small one");
            zstd::bulk::decompress(&entry["data"], size).expect("zstd")
        }
        _ => entry["data"].clone(),
    }
}

#[test]
fn every_write_is_an_entry() {
    let redis = Redis::start(with_stream(Options::in_memory()));
    let mut connection = redis.connect();
    let long = format!("{{\"text\":\"{}\"}}", "ab".repeat(500));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let audit = format!("{{\"home\":\"x\",\"trace\":\"{trace}\"}}");
    for words in [
        &["TANDEM.PUT", "long", &long, "STATE", "hot", "AUDIT", &audit][..],
        &["TANDEM.PUT", "short", "[1]"],
        &["TANDEM.PUT", "short", "[1]"],
        &["TANDEM.PUT", "bytes", "plain"],
        &["TANDEM.MERGE", "long", "{\"text\":null}"],
        &["TANDEM.STATE", "SET", "long", "cold"],
        &["TANDEM.MPUT", "2", "m1", "[1]", "short", "[1]"],
        &["TANDEM.PUT", "here", "[1]", "LOCAL"],
        &["TANDEM.REMOVE", "short"],
        &["DEL", "bytes"],
    ] {
        send(&mut connection, words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    let entries = entries(&mut connection);
    let seen: Vec<String> = entries
        .iter()
        .map(|entry| format!("{} {} {}", text(entry, "op"), text(entry, "key"), text(entry, "version")))
        .collect();
    let expected = [
        "put long 1",
        "put short 1",
        "put bytes 1",
        "put long 2",
        "put long 3",
        "put m1 1",
        "remove short 2",
    ];
    assert_eq!(seen, expected, "what changes nothing, is local or only drops a copy is not told");
    let first = &entries[0];
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["data", "hash", "key", "meta", "op", "version"]);
    let told = meta(first);
    assert_eq!((told["encoding"].as_str(), told["state"].as_str()), (Some("zstd"), Some("hot")));
    assert_eq!(told["audit"]["trace"].as_str(), Some(trace));
    assert!(first["data"].len() < long.len());
    assert_eq!(content(first), long.as_bytes());
    assert_eq!(text(first, "hash"), blake3_hex(long.as_bytes()));
    assert_eq!(
        (content(&entries[2]), meta(&entries[2])["type"].as_str()),
        (b"plain".to_vec(), Some("binary"))
    );
    assert_eq!(content(&entries[4]), b"{}");
    assert!(uuid(meta(&entries[5])["audit"]["batch"].as_str()), "a batch names itself");
    let last = &entries[6];
    assert!(last["data"].is_empty() && last["hash"].is_empty());
}

fn blake3_hex(bytes: &[u8]) -> String {
    tandem_shared::PayloadHash::of(bytes).to_hex()
}

fn uuid(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.len() == 36 && text.split('-').count() == 5)
}

#[test]
fn the_stream_is_off_unless_it_is_asked_for_and_bounded() {
    let redis = Redis::start(Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["TANDEM.PUT", "a", "[1]"]);
    assert_eq!(ask(&mut connection, &["EXISTS", "tandem:cdc"]), Value::Int(0));
    ask(&mut connection, &["CONFIG", "SET", "tandem.cdc-maxlen", "10"]);
    for number in 0..500 {
        ask(&mut connection, &["TANDEM.PUT", "a", &format!("[{number}]"), "STATE", "x"]);
    }
    let Value::Int(length) = ask(&mut connection, &["XLEN", "tandem:cdc"]) else { panic!("a length") };
    // Redis cuts by whole nodes of a hundred entries.
    assert!((10..=200).contains(&length), "{length} entries");
    ask(&mut connection, &["DEL", "tandem:cdc"]);
    ask(&mut connection, &["SET", "tandem:cdc", "in the way"]);
    ask(&mut connection, &["TANDEM.PUT", "a", "[\"stands\"]"]);
    assert_eq!(ask_text(&mut connection, &["TANDEM.GET", "a", "PAYLOAD"]).as_deref(), Some("[\"stands\"]"));
}

#[test]
fn a_replica_and_a_restart_have_the_same_entries() {
    let mut redis = Redis::start(with_stream(Options::durable()));
    let replica = Redis::start(with_stream(Options::in_memory()));
    let (mut connection, mut follower) = (redis.connect(), replica.connect());
    ask(&mut follower, &["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    wait::until("the replica follows", DEADLINE, || {
        ask_text(&mut follower, &["INFO", "replication"])
            .is_some_and(|text| text.contains("master_link_status:up"))
    });
    for number in 0..20 {
        ask(&mut connection, &["TANDEM.PUT", &format!("a{}", number % 7), &format!("[{number}]")]);
    }
    ask(&mut connection, &["TANDEM.REMOVE", "a3"]);
    let written = entries(&mut connection);
    assert_eq!(written.len(), 21);
    wait::until("the replica has them", DEADLINE, || entries(&mut follower) == written);
    redis.kill_hard();
    redis.restart();
    let mut connection = redis.connect();
    assert_eq!(entries(&mut connection), written, "after a kill, from the AOF");
    ask(&mut connection, &["TANDEM.PUT", "a0", "[\"on\"]"]);
    assert_eq!(entries(&mut connection).len(), 22);
}

#[test]
fn what_a_link_brings_says_so() {
    let pair = Pair::with(&pg::Options::default(), with_stream(Options::in_memory()));
    sql::run(&mut pair.sql(), "SELECT tandem.put('from.sql', '[1]', audit => '{\"home\":\"pg\"}')");
    let mut connection = pair.commands();
    let told = wait::until_some("the write is in the stream", DEADLINE, || {
        if ask(&mut connection, &["EXISTS", "tandem:cdc"]) == Value::Int(0) {
            return None;
        }
        entries(&mut connection).into_iter().find(|entry| text(entry, "key") == "from.sql")
    });
    assert_eq!(meta(&told)["origin"].as_str(), Some(pair.link.as_str()));
    assert_eq!(meta(&told)["audit"]["home"].as_str(), Some("pg"));
}

#[test]
fn what_the_stream_cannot_take_is_counted() {
    let server = Redis::start(with_stream(Options::in_memory()));
    let mut redis = server.connect();
    let lost = |redis: &mut Connection| {
        let info = ask_text(redis, &["INFO", "tandem"]).expect("INFO answers");
        let line = info.lines().find_map(|line| line.strip_prefix("tandem_cdc_lost:").map(str::to_owned));
        line.unwrap_or_else(|| panic!("no count in {info}"))
    };
    assert_eq!(lost(&mut redis), "0");
    ask(&mut redis, &["SET", "tandem:cdc", "text"]);
    for _ in 0..2 {
        ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
        ask(&mut redis, &["TANDEM.REMOVE", "a"]);
    }
    assert_eq!(lost(&mut redis), "4");
    let lines = server.log_tail().matches("no entry in stream").count();
    assert_eq!(lines, 1, "the log tells once: {}", server.log_tail());
    ask(&mut redis, &["DEL", "tandem:cdc"]);
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    assert_eq!((lost(&mut redis).as_str(), entries(&mut redis).len()), ("4", 1));
}

#[test]
fn a_cluster_has_no_stream_and_says_so() {
    let cluster = Cluster::start(1);
    let mut redis = cluster.nodes[0].connect();
    let error = send(&mut redis, &["CONFIG", "SET", "tandem.cdc-maxlen", "1000"]).expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("cluster") && text.contains("changes_since"), "{text}");
    ask(&mut redis, &["CONFIG", "SET", "tandem.cdc-maxlen", "0"]);
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    assert!(entries(&mut redis).is_empty());
}
