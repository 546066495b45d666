//! What one engine alone has: words and types that the other's grammar cannot say.

use crate::stand_of_redis;
use ::redis::Value;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql;

/// What only Redis has: keys of another type, bytes that are not UTF-8, wrong numbers of arguments and options
/// that SQL's types already keep out.
#[test]
fn redis_refuses_what_sql_cannot_even_say() {
    let redis = Redis::start(redis::Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["SET", "text", "1"]);
    ask(&mut connection, &["TANDEM.PUT", "item", "1"]);
    let before = stand_of_redis(&mut connection);
    let refusals: &[&[&[u8]]] = &[
        &[b"TANDEM.PUT", b"text", b"1"],
        &[b"TANDEM.MERGE", b"text", b"{}"],
        &[b"TANDEM.GET", b"text"],
        &[b"TANDEM.MGET", b"item", b"text"],
        &[b"TANDEM.REMOVE", b"text"],
        &[b"TANDEM.EXISTS", b"text"],
        &[b"TANDEM.MEXISTS", b"item", b"text"],
        &[b"TANDEM.STATUS", b"text"],
        &[b"TANDEM.STATE", b"SET", b"text", b"s"],
        &[b"TANDEM.STATE", b"MOVE", b"text", b"s", b"t"],
        &[b"TANDEM.STATE", b"HAS", b"text", b"s"],
        &[b"TANDEM.MPUT", b"2", b"new", b"1", b"text", b"1"],
        &[b"TANDEM.MREMOVE", b"2", b"item", b"text"],
        &[b"TANDEM.BATCH", br#"[{"op":"delete","id":"item"},{"op":"delete","id":"text"}]"#],
        &[b"TANDEM.PUT", b"a\xffb", b"1"],
        &[b"TANDEM.PUT", b"new", b"1", b"STATE", b"\xff"],
        &[b"TANDEM.PUT", b"new"],
        &[b"TANDEM.PUT", b"new", b"1", b"JSON", b"BINARY"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION", b"x"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION", b"9223372036854775808"],
        &[b"TANDEM.PUT", b"new", b"1", b"STATE"],
        &[b"TANDEM.PUT", b"new", b"1", b"IFMATCH"],
        &[b"TANDEM.PUT", b"new", b"1", b"AUDIT"],
        &[b"TANDEM.PUT", b"new", b"1", b"AUDIT", b"\xff"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"0"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"x"],
        &[b"TANDEM.PUT", b"new", b"1", b"PX", b"-1"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"9223372036854775807"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"1", b"PX", b"1"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"1", b"KEEPTTL"],
        &[b"TANDEM.PUT", b"new", b"1", b"NOSUCHOPTION"],
        &[b"TANDEM.MERGE", b"new", b"{}", b"BINARY"],
        &[b"TANDEM.MERGE", b"new", b"{}", b"EX", b"0"],
        &[b"TANDEM.GET", b"item", b"more"],
        &[b"TANDEM.EXISTS"],
        &[b"TANDEM.REMOVE", b"item", b"IFABSENT"],
        &[b"TANDEM.REMOVE", b"item", b"VERSION", b"x"],
        &[b"TANDEM.MPUT", b"0"],
        &[b"TANDEM.MPUT", b"x", b"new", b"1"],
        &[b"TANDEM.MPUT", b"-1", b"new", b"1"],
        &[b"TANDEM.MPUT", b"2", b"new", b"1"],
        &[b"TANDEM.MPUT", b"1", b"new", b"1", b"more", b"1"],
        &[b"TANDEM.MPUT", b"9223372036854775807", b"new", b"1"],
        &[b"TANDEM.MPUT", b"1", b"new", b"1", b"VERSION", b"1"],
        &[b"TANDEM.MPUT", b"1", b"new", b"1", b"EX", b"1"],
        &[b"TANDEM.MREMOVE", b"0"],
        &[b"TANDEM.MREMOVE", b"2", b"item"],
        &[b"TANDEM.MREMOVE", b"1", b"item", b"more"],
        &[b"TANDEM.BATCH", b"\xff"],
        &[b"TANDEM.BATCH", b"[]", b"AUDIT"],
        &[b"TANDEM.STATE", b"LIST", b"s", b"LIMIT", b"x"],
        &[b"TANDEM.STATE", b"LIST", b"s", b"AFTER"],
        &[b"TANDEM.STATE", b"LIST", b"s", b"more"],
        &[b"TANDEM.STATE", b"COUNT", b"s", b"more"],
        &[b"TANDEM.STATE", b"SET", b"item", b"s", b"VERSION", b"3"],
        &[b"TANDEM.STATE", b"MOVE", b"item", b"s", b"t", b"IFMATCH", b"x"],
        &[b"TANDEM.STATE", b"REMOVE", b"s", b"AFTER", b"a"],
        &[b"TANDEM.SCAN"],
        &[b"TANDEM.SCAN", b"", b"LIMIT", b"x"],
        &[b"TANDEM.SCAN", b"", b"AFTER", b"\xff"],
        &[b"TANDEM.SCAN", b"\xff"],
        &[b"TANDEM.COUNT", b"", b"more"],
        &[b"TANDEM.REMOVEPREFIX", b"i", b"LIMIT", b"x"],
        &[b"TANDEM.REMOVEPREFIX", b"i", b"more"],
        &[b"TANDEM.MERKLE"],
        &[b"TANDEM.MERKLE", b"ROOT", b"more"],
        &[b"TANDEM.MERKLE", b"LEAVES", b"", b"NOFOLD"],
        &[b"TANDEM.EFFECT", b"WRITE", b"item", b"x", b"1", b"", b"-1"],
        &[b"TANDEM.APPLY", b"new", b"x", b"more"],
    ];
    let mut failures = Vec::new();
    for words in refusals {
        let shown: Vec<String> =
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let reply = send(&mut connection, words);
        let code = reply.as_ref().err().and_then(|error| error.code());
        let expected = match words {
            // The key of another type, which BATCH names within its JSON.
            _ if shown.iter().any(|word| word == "text" || word.contains("\"text\"")) => "WRONGTYPE",
            // Redis counts the words of a command by itself.
            [b"TANDEM.PUT", _] | [b"TANDEM.EXISTS" | b"TANDEM.SCAN" | b"TANDEM.MERKLE"] => "ERR",
            [b"TANDEM.STATE", b"COUNT", _, _] | [b"TANDEM.APPLY", _, _, _] => "ERR",
            [b"TANDEM.APPLY", ..] => "CORRUPT INVALID",
            [b"TANDEM.BATCH", b"\xff"] => "BADJSON INVALID",
            [.., b"AUDIT", b"\xff"] => "BADJSON INVALID",
            _ => "INVALID",
        };
        if !code.is_some_and(|code| expected.split(' ').any(|one| one == code)) {
            failures.push(format!("{}: {reply:?}", shown.join(" ")));
        }
    }
    assert!(failures.is_empty(), "refused with another code or not at all:\n{}", failures.join("\n"));
    assert_eq!(stand_of_redis(&mut connection), before, "after all refusals");
    assert_eq!(ask(&mut connection, &["GET", "text"]), Value::BulkString(b"1".to_vec()));
}

/// The address of every code: message, DETAIL and SQLSTATE; and a HINT where there is something to do.
#[test]
fn sql_errors_can_be_told_apart() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let (state, text) = sql::refused(&mut client, "SELECT tandem.put('', '1')");
    assert_eq!(state, "22023", "{text}");
    assert!(text.contains("code INVALID") && text.contains("id is empty"), "{text}");
    let (state, text) = sql::refused(&mut client, "SELECT tandem.put('a', '{', type => 'json')");
    assert_eq!(state, "22P02", "{text}");
    assert!(text.contains("code BADJSON"), "{text}");
    assert!(!text.contains("backtrace"), "a refusal is no crash: {text}");
}

/// `jsonb` and `text` are the same content.
#[test]
fn sql_takes_json_as_text_and_as_jsonb() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let payload = r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#;
    let mut etag = |id: &str, kind: &str| -> (String, String) {
        let query = format!("SELECT hash, etag FROM tandem.put('{id}', '{payload}'::{kind}, version => 5)");
        let row = sql::rows(&mut client, &query).remove(0);
        (row.get(0), row.get(1))
    };
    let (as_text, as_jsonb) = (etag("text", "text"), etag("jsonb", "jsonb"));
    assert_eq!(as_text.0, as_jsonb.0, "the hash");
    assert_ne!(as_text.1, as_jsonb.1, "the etag covers the id");
    assert_eq!(etag("text", "jsonb"), as_text, "put again in the other form");
}

/// A time to live is Redis' own. A put without a word about it ends it, as SET does; a merge keeps it.
#[test]
fn times_to_live_are_set_kept_and_ended() {
    let redis = Redis::start(redis::Options::in_memory());
    let mut connection = redis.connect();
    let mut ttl_after = |words: &[&str]| {
        ask(&mut connection, words);
        ask_number(&mut connection, &["TTL", "a"])
    };
    let near = |ttl: i64, seconds: i64| (seconds - 600..=seconds).contains(&ttl);
    let ended = -1;
    assert!(near(ttl_after(&["TANDEM.PUT", "a", "{}", "EX", "5000"]), 5000));
    assert!(near(ttl_after(&["TANDEM.PUT", "a", "[1]", "KEEPTTL"]), 5000));
    assert!(near(ttl_after(&["TANDEM.PUT", "a", "{}", "PX", "9000000"]), 9000));
    assert!(near(ttl_after(&["TANDEM.MERGE", "a", r#"{"b":1}"#]), 9000), "a merge keeps it");
    assert!(near(ttl_after(&["TANDEM.MERGE", "a", r#"{"b":2}"#, "KEEPTTL"]), 9000));
    assert!(near(ttl_after(&["TANDEM.MERGE", "a", r#"{"b":3}"#, "EX", "3000"]), 3000));
    assert!(
        near(ttl_after(&["TANDEM.MERGE", "a", r#"{"b":3}"#, "PX", "8000000"]), 8000),
        "of an unchanged item too"
    );
    assert!(near(ttl_after(&["TANDEM.STATE", "SET", "a", "s"]), 8000), "a change of state keeps it");
    assert_eq!(ttl_after(&["TANDEM.PUT", "a", "[2]"]), ended);
    assert!(near(ttl_after(&["TANDEM.PUT", "a", "[2]", "EX", "4000"]), 4000), "of an unchanged item too");
}

/// GET with PAYLOAD is the content alone; SQL selects the column.
#[test]
fn content_alone() {
    let redis = Redis::start(redis::Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["TANDEM.PUT", "json", " { } "]);
    ask(&mut connection, &["TANDEM.PUT", "bytes", " 1 "]);
    assert_eq!(ask_text(&mut connection, &["TANDEM.GET", "json", "PAYLOAD"]).as_deref(), Some("{}"));
    assert_eq!(ask_text(&mut connection, &["TANDEM.GET", "bytes", "PAYLOAD"]).as_deref(), Some(" 1 "));
    assert_eq!(ask_text(&mut connection, &["TANDEM.GET", "absent", "PAYLOAD"]), None);
    assert_eq!(ask_number(&mut connection, &["TANDEM.EXISTS", "json", "absent", "bytes", "json"]), 3);
}

/// Redis counts reads by itself; in SQL a function cannot write and read in one plan, so `touch` counts.
#[test]
fn accesses_are_counted() {
    let redis = Redis::start(redis::Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["TANDEM.PUT", "a", "1"]);
    ask(&mut connection, &["TANDEM.GET", "a"]);
    ask(&mut connection, &["TANDEM.MGET", "a", "b"]);
    let Value::Array(status) = ask(&mut connection, &["TANDEM.STATUS", "a"]) else {
        panic!("a status is a record")
    };
    let name = |word: &Value| matches!(word, Value::BulkString(text) if text == b"access_count");
    let place = status.iter().position(name).expect("a status counts accesses");
    assert_eq!(status[place + 1], Value::Int(2), "{status:?}");

    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let count = "SELECT access_count FROM tandem.item_status('a')";
    sql::run(&mut client, "SELECT tandem.put('a', '1')");
    assert_eq!(sql::value::<i64>(&mut client, count), 0);
    let before: Option<String> = sql::value(&mut client, "SELECT tandem.merkle_root()");
    assert!(sql::value::<bool>(&mut client, "SELECT tandem.touch('a')"));
    assert!(sql::value::<bool>(&mut client, "SELECT tandem.touch('a')"));
    assert!(!sql::value::<bool>(&mut client, "SELECT tandem.touch('b')"));
    assert_eq!(sql::value::<i64>(&mut client, count), 2);
    let seen: bool = sql::value(
        &mut client,
        "SELECT last_accessed IS NOT NULL AND version = 1 FROM tandem.item_status('a')",
    );
    assert!(seen, "an access is no new version");
    let after: Option<String> = sql::value(&mut client, "SELECT tandem.merkle_root()");
    assert_eq!(before, after, "statistics are not hashed");
    assert_eq!(sql::value::<i64>(&mut client, "SELECT count(*) FROM tandem.changes"), 1, "nor logged");
}
