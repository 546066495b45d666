//! Items that arrive at keys, or leave them, by Redis' own commands: RENAME, COPY, RESTORE, MOVE and SET.

use ::redis::{Connection, Value};
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::{Body, Content, ContentType, Revision, State, Timestamp, Version};
use tandem_tests::by_hand::{acknowledge, attach, pull};
use tandem_tests::census::check_redis;
use tandem_tests::pair::{Pair, root_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::value;
use tandem_tests::wait::{self, DEADLINE};

fn version(redis: &mut Connection, id: &str) -> i64 {
    let Value::Array(record) = ask(redis, &["TANDEM.GET", id]) else { return 0 };
    match record[3] {
        Value::Int(version) => version,
        ref other => panic!("{other:?}"),
    }
}

fn content(redis: &mut Connection, id: &str) -> Option<String> {
    ask_text(redis, &["TANDEM.GET", id, "PAYLOAD"])
}

/// What a pull brings: id, version and content.
fn told(redis: &mut Connection, link: &str, run: &str) -> Vec<(String, u64, String)> {
    let one = |(_, id, revision): (i64, String, Option<Vec<u8>>)| {
        let revision = decode(&revision?, Source::Foreign).expect("a revision");
        let content = revision.content().map(|content| String::from_utf8_lossy(content.bytes()).into_owned());
        Some((id, revision.version.get(), content.unwrap_or_else(|| "removed".to_owned())))
    };
    pull(redis, link, run, 0).into_iter().filter_map(one).collect()
}

fn put(redis: &mut Connection, id: &str, times: i64) {
    for number in 1..=times {
        ask(redis, &["TANDEM.PUT", id, &format!("[\"{id}\",{number}]")]);
    }
}

fn acknowledge_all(redis: &mut Connection, run: &str) {
    let last = pull(redis, "pg", run, 0).iter().map(|(seq, ..)| *seq).max().unwrap_or(0);
    acknowledge(redis, "pg", run, last);
}

/// Keys named in ways that no id can be.
const NO_IDS: [&[u8]; 4] = [b"", b"a\0b", &[b'x'; 600], b"\xff\xfe"];

#[test]
fn keys_whose_names_are_no_ids_hold_nobodys_items() {
    let mut server = Redis::start(Options::durable().with("aof-use-rdb-preamble", "no").with("save", ""));
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    put(&mut redis, "c", 1);
    acknowledge_all(&mut redis, &run);
    let root = root_of_redis(&mut redis);
    for name in NO_IDS {
        send(&mut redis, &[b"COPY".as_slice(), b"c", name]).expect("Redis copies it");
    }
    let holds = |redis: &mut Connection, when: &str| {
        assert_eq!(ask_number(redis, &["DBSIZE"]), 5, "{when}");
        assert_eq!(ask_number(redis, &["TANDEM.COUNT"]), 1, "{when}");
        assert_eq!(root_of_redis(redis), root, "{when}");
        let Value::Array(verified) = ask(redis, &["TANDEM.VERIFY"]) else { panic!("a record") };
        assert_eq!(verified[1], Value::Int(1), "{when}: {verified:?}");
    };
    holds(&mut redis, "after COPY");
    assert_eq!(told(&mut redis, "pg", &run), []);
    ask(&mut redis, &["BGREWRITEAOF"]);
    wait::until("the AOF is rewritten", DEADLINE, || {
        let info = ask_text(&mut redis, &["INFO", "persistence"]).unwrap_or_default();
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    drop(redis);
    server.restart();
    let mut redis = server.connect();
    holds(&mut redis, "after a restart from a rewritten AOF");
    // The empty name once stood for "every copy was dropped": nothing counts on from it.
    send(&mut redis, &[b"RENAME".as_slice(), b"c", b""]).expect("Redis renames it");
    for name in NO_IDS {
        send(&mut redis, &[b"DEL".as_slice(), name]).expect("it is deleted");
    }
    put(&mut redis, "new", 1);
    assert_eq!(version(&mut redis, "new"), 1);
    // From such a name an item may come back to an id.
    send(&mut redis, &[b"COPY".as_slice(), b"new", b""]).expect("Redis copies it");
    send(&mut redis, &[b"RENAME".as_slice(), b"", b"back"]).expect("Redis renames it");
    assert_eq!(content(&mut redis, "back").as_deref(), Some("[\"new\",1]"));
    check_redis(&mut redis, "at the end");
}

#[test]
fn what_arrives_counts_on_from_what_was_known_of_its_id() {
    let mut server = Redis::start(Options::durable());
    let replica = Redis::start(Options::in_memory());
    let (mut redis, mut second) = (server.connect(), replica.connect());
    ask(&mut second, &["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    let run = attach(&mut redis, "pg");
    put(&mut redis, "source", 2);
    for id in ["renamed", "copied", "restored", "removed", "transaction", "script"] {
        put(&mut redis, id, 9);
    }
    ask(&mut redis, &["TANDEM.REMOVE", "removed"]);
    acknowledge_all(&mut redis, &run);

    ask(&mut redis, &["COPY", "source", "copied", "REPLACE"]);
    assert_eq!(version(&mut redis, "copied"), 10);
    let Value::BulkString(dump) = ask(&mut redis, &["DUMP", "source"]) else { panic!("DUMP gives bytes") };
    send(&mut redis, &[b"RESTORE".as_slice(), b"restored", b"0", &dump, b"REPLACE"]).expect("it is restored");
    assert_eq!(version(&mut redis, "restored"), 10);
    ask(&mut redis, &["COPY", "source", "removed"]);
    assert_eq!(version(&mut redis, "removed"), 11);
    ask(&mut redis, &["MULTI"]);
    ask(&mut redis, &["COPY", "source", "transaction", "REPLACE"]);
    ask(&mut redis, &["TANDEM.GET", "transaction", "PAYLOAD"]);
    ask(&mut redis, &["TANDEM.PUT", "transaction", "[\"put\"]"]);
    ask(&mut redis, &["EXEC"]);
    assert_eq!(version(&mut redis, "transaction"), 11);
    let script =
        "redis.call('COPY', 'source', 'script', 'REPLACE'); return redis.call('TANDEM.GET', 'script')[4]";
    assert_eq!(ask(&mut redis, &["EVAL", script, "2", "source", "script"]), Value::Int(10));
    ask(&mut redis, &["RENAME", "source", "renamed"]);
    // Nobody asks tandem for it: the timer lets it count on.
    let mut arrived: Vec<_> = Vec::new();
    wait::until("what was renamed waits for the link", DEADLINE, || {
        arrived = told(&mut redis, "pg", &run);
        arrived.iter().any(|(id, ..)| id == "renamed")
    });
    arrived.sort();
    let source = "[\"source\",2]".to_owned();
    let expected: Vec<(String, u64, String)> =
        [("copied", 10), ("removed", 11), ("renamed", 10), ("restored", 10), ("script", 10)]
            .map(|(id, version)| (id.to_owned(), version, source.clone()))
            .into_iter()
            .chain([("transaction".to_owned(), 11, "[\"put\"]".to_owned())])
            .collect();
    assert_eq!(arrived, expected);

    let root = root_of_redis(&mut redis);
    check_redis(&mut redis, "on the master");
    wait::until("the replica has the same", DEADLINE, || root_of_redis(&mut second) == root);
    check_redis(&mut second, "on the replica");
    drop(redis);
    server.restart();
    let mut redis = server.connect();
    assert_eq!(root_of_redis(&mut redis), root, "after a restart");
    let run = attach(&mut redis, "pg");
    let mut waits = told(&mut redis, "pg", &run);
    waits.sort();
    assert_eq!(waits, expected, "after a restart");
}

#[test]
fn what_is_moved_counts_on_in_its_new_database_and_keeps_its_time_to_live() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    ask(&mut redis, &["SELECT", "1"]);
    put(&mut redis, "x", 3);
    ask(&mut redis, &["TANDEM.REMOVE", "x"]);
    ask(&mut redis, &["SELECT", "0"]);
    put(&mut redis, "x", 1);
    ask(&mut redis, &["PEXPIREAT", "x", "32503680000000"]);
    ask(&mut redis, &["MOVE", "x", "1"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.COUNT"]), 0);
    ask(&mut redis, &["SELECT", "1"]);
    assert_eq!(version(&mut redis, "x"), 5);
    assert_eq!(ask_number(&mut redis, &["PEXPIRETIME", "x"]), 32_503_680_000_000);
    check_redis(&mut redis, "in the new database");
}

#[test]
fn what_is_restored_over_itself_stays_as_it_is() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    put(&mut redis, "x", 3);
    acknowledge_all(&mut redis, &run);
    let Value::BulkString(dump) = ask(&mut redis, &["DUMP", "x"]) else { panic!("DUMP gives bytes") };
    send(&mut redis, &[b"RESTORE".as_slice(), b"x", b"0", &dump, b"REPLACE"]).expect("it is restored");
    assert_eq!(version(&mut redis, "x"), 3);
}

#[test]
fn what_was_moved_in_redis_stays_moved_on_both_sides() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "c1", 1);
    put(&mut redis, "c2", 5);
    put(&mut redis, "r1", 1);
    put(&mut redis, "gone", 3);
    ask(&mut redis, &["TANDEM.REMOVE", "gone"]);
    pair.settle_at(3);
    ask(&mut redis, &["COPY", "c1", "c2", "REPLACE"]);
    ask(&mut redis, &["RENAME", "r1", "gone"]);
    pair.settle("both arrivals are in Postgres", |client, _| {
        value(
            client,
            "SELECT count(*) = 2 FROM tandem.items WHERE (id, payload) IN (('c2', '[\"c1\",1]'), ('gone', '[\"r1\",1]'))",
        )
    });
    assert_eq!(content(&mut redis, "c2").as_deref(), Some("[\"c1\",1]"));
    assert_eq!(content(&mut redis, "gone").as_deref(), Some("[\"r1\",1]"));
    let versions: String = value(
        &mut client,
        "SELECT string_agg(version::text, ',' ORDER BY id) FROM tandem.items WHERE id IN ('c2', 'gone')",
    );
    assert_eq!(versions, "6,5");
}

/// Redis' CRC-64 (Jones), which ends what DUMP gives.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 }
        })
    })
}

/// What DUMP gives with some bytes of it replaced by others of the same length.
fn forged(dump: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = dump.windows(from.len()).position(|window| window == from).expect("the bytes are there");
    let mut forged = dump[..dump.len() - 8].to_vec();
    forged[at..at + to.len()].copy_from_slice(to);
    let crc = crc64(&forged);
    forged.extend(crc.to_le_bytes());
    forged
}

#[test]
fn restore_is_as_strict_as_apply() {
    let server = Redis::start(Options::in_memory().with("rdbcompression", "no"));
    let mut redis = server.connect();
    ask(&mut redis, &["TANDEM.PUT", "x", r#"{"a":1}"#]);
    let Value::BulkString(dump) = ask(&mut redis, &["DUMP", "x"]) else { panic!("DUMP gives bytes") };
    let restore = |redis: &mut Connection, dump: &[u8]| {
        send(redis, &[b"RESTORE".as_slice(), b"y", b"0", dump, b"REPLACE"])
    };
    let version_before = [1, 0, 0, 0, 0, 0, 0, 0];
    let version_after = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    restore(&mut redis, &forged(&dump, b"{\"a\":1}", b"{\"a\":2}")).expect("it is good JSON");
    assert_eq!(content(&mut redis, "y").as_deref(), Some("{\"a\":2}"));
    for (what, forged) in [
        ("no JSON", forged(&dump, b"{\"a\":1}", b"{\"a\" 1}")),
        ("not canonical", forged(&dump, b"{\"a\":1}", b"[ 1, 2]")),
        ("no room above its version", forged(&dump, &version_before, &version_after)),
    ] {
        let error = restore(&mut redis, &forged).expect_err(what).to_string();
        assert!(error.contains("Bad data format"), "{what}: {error}");
    }
    assert_eq!(content(&mut redis, "y").as_deref(), Some("{\"a\":2}"), "nothing was restored");
    check_redis(&mut redis, "after the refusals");
}

#[test]
fn another_type_at_an_id_is_a_wrong_type() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    ask(&mut redis, &["SET", "s", "x"]);
    for words in [
        &["TANDEM.GET", "s"][..],
        &["TANDEM.PUT", "s", "1"],
        &["TANDEM.REMOVE", "s"],
        &["TANDEM.STATE", "SET", "s", "x"],
    ] {
        let error = send(&mut redis, words).expect_err("it is a string").to_string();
        assert!(
            error.contains("WRONGTYPE") || error.contains("holds another Redis type"),
            "{words:?}: {error}"
        );
    }
    let error = ask(&mut redis, &["EVAL", "return redis.pcall('TANDEM.GET', 's').err", "1", "s"]);
    let Value::BulkString(error) = error else { panic!("{error:?}") };
    assert!(
        error.starts_with(b"WRONGTYPE key 's' holds another Redis type"),
        "{}",
        String::from_utf8_lossy(&error)
    );
}

#[test]
fn versions_count_on_after_a_string_stood_at_the_key() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "k", 3);
    pair.settle_at(1);
    ask(&mut redis, &["SET", "k", "a string"]);
    wait::until("the copy that the link brings is refused", DEADLINE, || {
        value(&mut client, "SELECT count(*) = 1 FROM tandem.dead_letters WHERE id = 'k'")
    });
    ask(&mut redis, &["DEL", "k"]);
    ask(&mut redis, &["TANDEM.PUT", "k", "\"new\""]);
    assert_eq!(version(&mut redis, "k"), 4);
    pair.settle("the new content is in Postgres", |client, _| {
        value(client, "SELECT payload = '\"new\"' FROM tandem.items WHERE id = 'k'")
    });
}

fn revision(version: u64, json: &str) -> Vec<u8> {
    let content = Content::stored(ContentType::Json, json.as_bytes()).expect("JSON");
    encode(&Revision {
        version: Version::new(version.into()).expect("a version"),
        timestamp: Timestamp::new(1_700_000_000_000).expect("a time"),
        audit: None,
        body: Body::Live { state: State::default(), content },
    })
}

fn push(redis: &mut Connection, id: &str, revision: &[u8]) {
    let words: [&[u8]; 5] = [b"TANDEM.LINK", b"PUSH", b"pg", id.as_bytes(), revision];
    send(redis, &words).expect("it is pushed");
}

#[test]
fn what_a_link_overwrites_untold_is_told_as_a_loser() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    let loser = |id: &str, version, content: &str| (id.to_owned(), version, content.to_owned());
    ask(&mut redis, &["TANDEM.PUT", "q", "[\"mine\"]"]);
    push(&mut redis, "q", &revision(2, "[\"pg\"]"));
    assert_eq!(content(&mut redis, "q").as_deref(), Some("[\"pg\"]"));
    let mine = loser("q", 1, "[\"mine\"]");
    assert_eq!(told(&mut redis, "pg", &run), [mine.clone(), loser("q", 2, "[\"pg\"]")]);
    // What comes after that from the other side overwrites what it has itself.
    push(&mut redis, "q", &revision(3, "[\"pg\",3]"));
    assert_eq!(told(&mut redis, "pg", &run), [mine, loser("q", 3, "[\"pg\",3]")]);
    acknowledge_all(&mut redis, &run);
    assert_eq!(told(&mut redis, "pg", &run), []);
    // What the link has taken is no loss.
    ask(&mut redis, &["TANDEM.PUT", "q", "[\"taken\"]"]);
    acknowledge_all(&mut redis, &run);
    push(&mut redis, "q", &revision(5, "[\"pg\",5]"));
    assert_eq!(told(&mut redis, "pg", &run), []);
    // A removal that is overwritten is a loss as well.
    ask(&mut redis, &["TANDEM.REMOVE", "q"]);
    push(&mut redis, "q", &revision(9, "[\"pg\",9]"));
    assert_eq!(told(&mut redis, "pg", &run), [loser("q", 6, "removed"), loser("q", 9, "[\"pg\",9]")]);
}
