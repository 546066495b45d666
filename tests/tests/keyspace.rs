//! The index of a Redis database is exactly its keyspace's, whatever happens to the keys. After each event it is
//! held against a recount of the keys made here, from the shared crate's hashes, and against TANDEM.VERIFY.

use ::redis::{Connection, Value};
use tandem_tests::census::{Census, check_redis};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::wait::{self, DEADLINE};

/// Puts `count` items as `{prefix}{number}`.
fn fill(connection: &mut Connection, prefix: &str, count: usize) {
    for number in 0..count {
        let id = format!("{prefix}{number:04}");
        ask(connection, &["TANDEM.PUT", &id, &format!("{{\"number\":{number}}}"), "STATE", "base"]);
    }
}

fn server() -> (Redis, Connection) {
    let server = Redis::start(Options::in_memory());
    let connection = server.connect();
    (server, connection)
}

/// Checks the index and that it counts what is expected.
fn counts(connection: &mut Connection, count: u64, when: &str) -> Census {
    let census = check_redis(connection, when);
    assert_eq!(census.count, count, "items {when}");
    census
}

fn select(connection: &mut Connection, database: &str) {
    ask(connection, &["SELECT", database]);
}

#[test]
fn removals_by_key_leave_the_index() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 30);
    counts(&mut redis, 30, "at first");
    assert_eq!(ask_number(&mut redis, &["DEL", "a.0000", "a.0001", "absent"]), 2);
    counts(&mut redis, 28, "after DEL");
    assert_eq!(ask_number(&mut redis, &["UNLINK", "a.0002", "a.0003"]), 2);
    counts(&mut redis, 26, "after UNLINK");
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    ask(&mut redis, &["TANDEM.PUT", "a.large", &large]);
    ask(&mut redis, &["UNLINK", "a.large"]);
    counts(&mut redis, 26, "after UNLINK of a large item, which is freed by another thread");
    ask(&mut redis, &["SET", "a.0004", "text"]);
    counts(&mut redis, 25, "after SET over an item");
    ask(&mut redis, &["RPUSH", "numbers", "2", "1"]);
    ask(&mut redis, &["SORT", "numbers", "STORE", "a.0005"]);
    counts(&mut redis, 24, "after SORT STORE over an item");
    ask(&mut redis, &["GETDEL", "a.0004"]);
    ask(&mut redis, &["TANDEM.PUT", "a.0004", "1"]);
    counts(&mut redis, 25, "after a put where a string was");
    assert_eq!(ask_number(&mut redis, &["TANDEM.REMOVE", "a.0006"]), 1);
    counts(&mut redis, 24, "after TANDEM.REMOVE");
}

#[test]
fn changes_in_place_move_the_root() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 10);
    let first = counts(&mut redis, 10, "at first");
    ask(&mut redis, &["TANDEM.PUT", "a.0003", "[1]"]);
    let second = counts(&mut redis, 10, "after a put over an item");
    assert_ne!(first.root, second.root, "the root after a change");
    ask(&mut redis, &["TANDEM.PUT", "a.0003", " [ 1.0 ] "]);
    assert_eq!(counts(&mut redis, 10, "after the same put").root, second.root, "an unchanged item");
}

#[test]
fn renamed_and_copied_items_are_under_their_new_names() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 5);
    let before = counts(&mut redis, 5, "at first");
    ask(&mut redis, &["RENAME", "a.0000", "b.0000"]);
    let renamed = counts(&mut redis, 5, "after RENAME");
    assert_ne!(before.root, renamed.root, "an id is part of the digest");
    ask(&mut redis, &["RENAME", "a.0001", "b.0000"]);
    counts(&mut redis, 4, "after RENAME over another item");
    assert_eq!(ask_number(&mut redis, &["RENAMENX", "a.0002", "b.0000"]), 0);
    assert_eq!(ask_number(&mut redis, &["RENAMENX", "a.0002", "c.0000"]), 1);
    counts(&mut redis, 4, "after RENAMENX");
    ask(&mut redis, &["RENAME", "c.0000", "c.0000"]);
    counts(&mut redis, 4, "after RENAME onto itself");
    ask(&mut redis, &["COPY", "a.0003", "d.0000"]);
    counts(&mut redis, 5, "after COPY");
    ask(&mut redis, &["COPY", "a.0003", "a.0004", "REPLACE"]);
    counts(&mut redis, 5, "after COPY REPLACE");
    let (old, copied) =
        (ask(&mut redis, &["TANDEM.GET", "a.0003"]), ask(&mut redis, &["TANDEM.GET", "d.0000"]));
    assert_ne!(old, copied, "a copy has an etag of its own");
    ask(&mut redis, &["SET", "text", "1"]);
    ask(&mut redis, &["RENAME", "text", "d.0000"]);
    counts(&mut redis, 4, "after RENAME of a string over an item");
}

#[test]
fn dumped_and_restored_items_are_counted_once() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 3);
    let before = counts(&mut redis, 3, "at first");
    let Value::BulkString(dump) = ask(&mut redis, &["DUMP", "a.0001"]) else { panic!("DUMP gives bytes") };
    ask(&mut redis, &["DEL", "a.0001"]);
    let restore = |redis: &mut Connection, words: &[&[u8]]| {
        let mut command: Vec<&[u8]> = vec![b"RESTORE"];
        command.extend(words);
        send(redis, &command).unwrap_or_else(|error| panic!("RESTORE: {error}"));
    };
    restore(&mut redis, &[b"a.0001", b"0", &dump]);
    assert_eq!(
        counts(&mut redis, 3, "after RESTORE").root,
        before.root,
        "what was restored is what was dumped"
    );
    restore(&mut redis, &[b"a.0002", b"0", &dump, b"REPLACE"]);
    counts(&mut redis, 3, "after RESTORE REPLACE");
    let error = send(&mut redis, &[b"RESTORE".as_slice(), b"x", b"0", &dump[..dump.len() - 12]]);
    assert!(error.is_err(), "a dump cut short is refused");
    counts(&mut redis, 3, "after a refused RESTORE");
}

#[test]
fn databases_have_indexes_of_their_own() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 6);
    ask(&mut redis, &["MOVE", "a.0000", "1"]);
    counts(&mut redis, 5, "after MOVE away");
    ask(&mut redis, &["COPY", "a.0001", "a.copy", "DB", "1"]);
    counts(&mut redis, 5, "after COPY to another database");
    select(&mut redis, "1");
    let in_one = counts(&mut redis, 2, "where they went");
    select(&mut redis, "0");
    let in_zero = counts(&mut redis, 5, "where they came from");
    ask(&mut redis, &["SWAPDB", "0", "1"]);
    assert_eq!(counts(&mut redis, 2, "after SWAPDB"), in_one);
    select(&mut redis, "1");
    assert_eq!(counts(&mut redis, 5, "after SWAPDB, on the other side"), in_zero);
    ask(&mut redis, &["SWAPDB", "1", "9"]);
    counts(&mut redis, 0, "after SWAPDB with an empty database");
    select(&mut redis, "9");
    assert_eq!(counts(&mut redis, 5, "in what was empty"), in_zero);
}

#[test]
fn flushed_databases_have_empty_indexes() {
    let (_server, mut redis) = server();
    for flush in [["FLUSHDB", "SYNC"], ["FLUSHDB", "ASYNC"]] {
        select(&mut redis, "1");
        fill(&mut redis, "other.", 4);
        select(&mut redis, "0");
        fill(&mut redis, "a.", 20);
        ask(&mut redis, &flush);
        counts(&mut redis, 0, &flush.join(" "));
        assert_eq!(ask_text(&mut redis, &["TANDEM.MERKLE", "ROOT"]), None, "the root of nothing");
        select(&mut redis, "1");
        counts(&mut redis, 4, "in the database that was not flushed");
    }
    for flush in [["FLUSHALL", "SYNC"], ["FLUSHALL", "ASYNC"]] {
        select(&mut redis, "0");
        fill(&mut redis, "a.", 20);
        ask(&mut redis, &flush);
        for database in ["0", "1"] {
            select(&mut redis, database);
            counts(&mut redis, 0, &flush.join(" "));
        }
        fill(&mut redis, "again.", 3);
        counts(&mut redis, 3, "items put after a flush");
    }
}

#[test]
fn expired_items_leave_the_index() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 5);
    ask(&mut redis, &["TANDEM.PUT", "b.lazy", "1", "PX", "1"]);
    ask(&mut redis, &["TANDEM.PUT", "b.active", "1", "PX", "1"]);
    ask(&mut redis, &["TANDEM.PUT", "b.hour", "1", "EX", "3600"]);
    wait::until("an expired item is nil", DEADLINE, || {
        ask(&mut redis, &["TANDEM.GET", "b.lazy"]) == Value::Nil
    });
    wait::until("Redis drops expired keys by itself", DEADLINE, || ask_number(&mut redis, &["DBSIZE"]) == 6);
    counts(&mut redis, 6, "after expiry");
    ask(&mut redis, &["PEXPIRE", "a.0000", "-1"]);
    counts(&mut redis, 5, "after an expiry in the past");
    assert!(ask_number(&mut redis, &["TTL", "b.hour"]) > 3000, "EX sets a time to live");
    ask(&mut redis, &["TANDEM.PUT", "b.hour", "2", "KEEPTTL"]);
    assert!(ask_number(&mut redis, &["TTL", "b.hour"]) > 3000, "KEEPTTL keeps it");
    ask(&mut redis, &["TANDEM.PUT", "b.hour", "3"]);
    assert_eq!(ask_number(&mut redis, &["TTL", "b.hour"]), -1, "a plain put clears it, as SET does");
}

#[test]
fn evicted_items_leave_the_index() {
    let server = Redis::start(Options::in_memory().with("maxmemory-policy", "allkeys-lru"));
    let mut redis = server.connect();
    let used = ask_text(&mut redis, &["INFO", "memory"]).unwrap_or_default();
    let used: u64 = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .and_then(|number| number.trim().parse().ok())
        .expect("INFO memory tells used_memory");
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", &(used + (4 << 20)).to_string()]);
    let payload = format!("\"{}\"", "x".repeat(10_000));
    for number in 0..2000 {
        ask(&mut redis, &["TANDEM.PUT", &format!("a.{number:04}"), &payload]);
    }
    // The check itself takes memory, and Redis would go on evicting meanwhile.
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", "0"]);
    let left = ask_number(&mut redis, &["DBSIZE"]);
    assert!(left > 0 && left < 1000, "{left} of 2000 items are left: Redis evicted some");
    counts(&mut redis, left as u64, "after eviction");
}

#[test]
fn transactions_and_scripts_keep_the_index() {
    let (_server, mut redis) = server();
    fill(&mut redis, "a.", 5);
    ask(&mut redis, &["MULTI"]);
    for words in [["TANDEM.PUT", "b.1", "1"], ["RENAME", "a.0000", "b.2"], ["COPY", "a.0001", "b.3"]] {
        ask(&mut redis, &words);
    }
    ask(&mut redis, &["DEL", "a.0002"]);
    ask(&mut redis, &["EXEC"]);
    counts(&mut redis, 6, "after MULTI … EXEC");
    let script = "redis.call('TANDEM.PUT', KEYS[1], '1'); redis.call('DEL', KEYS[2]); return redis.call('TANDEM.GET', KEYS[1])[2]";
    assert_eq!(ask_text(&mut redis, &["EVAL", script, "2", "c.1", "a.0003"]), Some("c.1".to_owned()));
    counts(&mut redis, 6, "after a script");
}

/// Content of both kinds, several databases, times to live: what a reload must bring back.
fn varied(redis: &mut Connection) -> [Census; 2] {
    fill(redis, "a.", 300);
    ask(redis, &["TANDEM.PUT", "bin", "\u{1}\u{2}", "BINARY", "VERSION", "77", "AUDIT", "{\"home\":\"x\"}"]);
    ask(redis, &["TANDEM.PUT", "ttl", "{}", "EX", "3600"]);
    ask(redis, &["SET", "text", "1"]);
    ask(redis, &["TANDEM.REMOVE", "a.0007"]);
    select(redis, "3");
    fill(redis, "other.", 20);
    let other = counts(redis, 20, "in another database");
    select(redis, "0");
    [counts(redis, 301, "at first"), other]
}

fn compare(
    redis: &mut Connection,
    before: &[Census; 2],
    digests: &[Option<String>],
    version: i64,
    when: &str,
) {
    assert_eq!(check_redis(redis, when), before[0], "{when}");
    assert!(ask_number(redis, &["TTL", "ttl"]) > 3000, "{when}: the time to live");
    assert_eq!(digest_values(redis), digests, "{when}: DEBUG DIGEST-VALUE");
    select(redis, "3");
    assert_eq!(check_redis(redis, when), before[1], "{when}, in another database");
    select(redis, "0");
    // A removal is remembered: the next version counts on from its tombstone's.
    ask(redis, &["TANDEM.PUT", "a.0007", "1"]);
    let item = ask(redis, &["TANDEM.GET", "a.0007"]);
    let Value::Array(words) = item else { panic!("an item is a record") };
    assert_eq!(words[3], Value::Int(version), "{when}: the version of a put after a removal");
    ask(redis, &["TANDEM.REMOVE", "a.0007"]);
}

fn digest_values(redis: &mut Connection) -> Vec<Option<String>> {
    let Value::Array(values) = ask(redis, &["DEBUG", "DIGEST-VALUE", "a.0001", "bin", "ttl", "absent"])
    else {
        panic!("DIGEST-VALUE answers with an array")
    };
    values
        .into_iter()
        .map(|value| match value {
            Value::SimpleString(text) => Some(text),
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            _ => None,
        })
        .collect()
}

#[test]
fn debug_reload_brings_everything_back() {
    let (_server, mut redis) = server();
    let before = varied(&mut redis);
    let digests = digest_values(&mut redis);
    ask(&mut redis, &["DEBUG", "RELOAD"]);
    compare(&mut redis, &before, &digests, 3, "after DEBUG RELOAD");
}

#[test]
fn a_restart_from_an_rdb_file_brings_everything_back() {
    let (mut server, mut redis) = server();
    let before = varied(&mut redis);
    let digests = digest_values(&mut redis);
    ask(&mut redis, &["SAVE"]);
    server.restart();
    compare(&mut server.connect(), &before, &digests, 3, "after a restart from RDB");
}

#[test]
fn a_kill_and_restart_from_an_aof_bring_everything_back() {
    for preamble in ["yes", "no"] {
        let mut server = Redis::start(Options::durable().with("aof-use-rdb-preamble", preamble));
        let mut redis = server.connect();
        let before = varied(&mut redis);
        let digests = digest_values(&mut redis);
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        compare(&mut redis, &before, &digests, 3, &format!("after a restart from AOF, preamble {preamble}"));
        ask(&mut redis, &["BGREWRITEAOF"]);
        wait::until("the AOF is rewritten", DEADLINE, || {
            let info = ask_text(&mut server.connect(), &["INFO", "persistence"]).unwrap_or_default();
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        });
        let info = ask_text(&mut redis, &["INFO", "persistence"]).unwrap_or_default();
        assert!(info.contains("aof_last_bgrewrite_status:ok"), "{info}");
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        compare(
            &mut redis,
            &before,
            &digests,
            5,
            &format!("after a restart from a rewritten AOF, preamble {preamble}"),
        );
    }
}

/// Two different servers are compared: the replica is asked itself.
#[test]
fn a_replica_has_the_index_of_its_master() {
    let master = Redis::start(Options::in_memory().with("repl-diskless-sync-delay", "0"));
    let replica = Redis::start(Options::in_memory());
    let (mut to_master, mut to_replica) = (master.connect(), replica.connect());
    fill(&mut to_replica, "stray.", 5);
    let before = varied(&mut to_master);
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    in_step(&mut to_master, &mut to_replica, "after a full resync");
    assert_eq!(counts(&mut to_replica, 301, "on the replica"), before[0]);
    assert_eq!(digest_values(&mut to_replica), digest_values(&mut to_master));

    ask(&mut to_master, &["TANDEM.PUT", "a.0001", "[\"changed\"]"]);
    ask(&mut to_master, &["TANDEM.REMOVE", "a.0002"]);
    ask(&mut to_master, &["DEL", "a.0003"]);
    ask(&mut to_master, &["RENAME", "a.0004", "b.0004"]);
    ask(&mut to_master, &["TANDEM.PUT", "short", "1", "PX", "1"]);
    wait::until("the item expires", DEADLINE, || ask(&mut to_master, &["TANDEM.GET", "short"]) == Value::Nil);
    in_step(&mut to_master, &mut to_replica, "after single writes");
    assert_eq!(check_redis(&mut to_master, "on the master"), counts(&mut to_replica, 299, "on the replica"));
    let (left, right) =
        (ask(&mut to_master, &["TANDEM.GET", "a.0001"]), ask(&mut to_replica, &["TANDEM.GET", "a.0001"]));
    assert_eq!(left, right, "an item with its timestamp, on both");

    ask(&mut to_master, &["FLUSHALL"]);
    fill(&mut to_master, "new.", 3);
    in_step(&mut to_master, &mut to_replica, "after FLUSHALL");
    assert_eq!(check_redis(&mut to_master, "on the master"), counts(&mut to_replica, 3, "on the replica"));

    // What the replica learned holds when it is promoted.
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    ask(&mut to_replica, &["TANDEM.PUT", "own", "1"]);
    counts(&mut to_replica, 4, "on the promoted replica");
}

fn in_step(master: &mut Connection, replica: &mut Connection, when: &str) {
    wait::until(&format!("the replica is in step {when}"), DEADLINE, || {
        let info = ask_text(replica, &["INFO", "replication"]).unwrap_or_default();
        info.contains("master_link_status:up")
            && offset(master, "master_repl_offset:") == offset(replica, "slave_repl_offset:")
    });
}

fn offset(connection: &mut Connection, field: &str) -> Option<String> {
    let info = ask_text(connection, &["INFO", "replication"]).unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix(field)).map(|number| number.trim().to_owned())
}

/// Commands carry what clients and clusters route by.
#[test]
fn commands_are_described() {
    let (_server, mut redis) = server();
    let docs = format!("{:?}", ask(&mut redis, &["COMMAND", "DOCS", "TANDEM.PUT"]));
    assert!(docs.contains("summary"), "{docs}");
    let keys = ask(&mut redis, &["COMMAND", "GETKEYS", "TANDEM.MGET", "x", "y"]);
    let expected = ["x", "y"].map(|key| Value::BulkString(key.as_bytes().to_vec()));
    assert_eq!(keys, Value::Array(expected.to_vec()));
    for name in
        ["PUT", "GET", "MGET", "EXISTS", "REMOVE", "SCAN", "COUNT", "APPLY", "VERIFY", "MERKLE", "LINK"]
    {
        let docs = ask(&mut redis, &["COMMAND", "DOCS", &format!("TANDEM.{name}")]);
        let Value::Array(entries) = docs else { panic!("COMMAND DOCS answers with a list") };
        assert_eq!(entries.len(), 2, "COMMAND DOCS of TANDEM.{name}");
        let text = format!("{:?}", entries[1]);
        assert!(text.contains("summary"), "COMMAND DOCS of TANDEM.{name}: {text}");
    }
    ask(&mut redis, &["TANDEM.PUT", "small", "1"]);
    ask(&mut redis, &["TANDEM.PUT", "large", &format!("\"{}\"", "x".repeat(100_000))]);
    let small = ask_number(&mut redis, &["MEMORY", "USAGE", "small"]);
    let large = ask_number(&mut redis, &["MEMORY", "USAGE", "large"]);
    assert!(small > 0 && large - small > 99_000, "MEMORY USAGE: {small} and {large}");
}
