//! What the module keeps beside the keys (tombstones, links, what waits for them and what is kept aside) is the same
//! after every way in which Redis moves its data: files, replicas, a promotion, MIGRATE.

use ::redis::{Connection, Value};
use std::collections::BTreeSet;
use tandem_tests::by_hand::{self, attach};
use tandem_tests::census::{Census, check_redis};
use tandem_tests::pair::{Pair, count_of_postgres, root_of_postgres, root_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Databases that hold something, or held something once.
const DATABASES: [&str; 4] = ["0", "3", "4", "5"];

/// All that one database has, by what its commands say.
#[derive(Debug, PartialEq)]
struct Books {
    census: Census,
    links: Value,
    /// Ids and revisions that a pull from the beginning gives.
    waiting: BTreeSet<(String, Option<Vec<u8>>)>,
    removed: Value,
    /// The number given last.
    seq: i64,
}

fn books(redis: &mut Connection, when: &str) -> Vec<Books> {
    let mut all = Vec::new();
    for database in DATABASES {
        ask(redis, &["SELECT", database]);
        let census = check_redis(redis, &format!("{when}, in database {database}"));
        for link in ["pg", "second", "third"] {
            // What was compared with whom is no part of the books.
            let _ = send(redis, &["TANDEM.LINK", "READY", link]);
        }
        let links = ask(redis, &["TANDEM.LINK", "LIST"]);
        let by_hand::Attached { run, seq, .. } = by_hand::attach_as(redis, &by_hand::attachment("pg"));
        let pulled = by_hand::pull(redis, "pg", &run, 0);
        let waiting = pulled.into_iter().map(|(_, id, revision)| (id, revision)).collect();
        let removed = ask(redis, &["TANDEM.LINK", "FETCH", "a.001", "a.002", "only", "a.1"]);
        all.push(Books { census, links, waiting, removed, seq });
    }
    ask(redis, &["SELECT", "0"]);
    all
}

/// Every kind of thing that there is to keep.
fn fill(redis: &mut Connection) {
    for database in DATABASES {
        ask(redis, &["SELECT", database]);
        attach(redis, "pg");
    }
    ask(redis, &["SELECT", "0"]);
    for number in 0..50 {
        ask(redis, &["TANDEM.PUT", &format!("a.{number:03}"), &format!("{{\"number\":{number}}}")]);
    }
    ask(redis, &["TANDEM.REMOVE", "a.001"]);
    let run = attach(redis, "pg");
    ask(redis, &["TANDEM.LINK", "ACK", "pg", &run, "45"]);
    attach(redis, "second");
    for number in 20..30 {
        ask(
            redis,
            &[
                "TANDEM.PUT",
                &format!("a.{number:03}"),
                "\"again\"",
                "STATE",
                "hot",
                "AUDIT",
                "{\"home\":\"x\"}",
            ],
        );
    }
    ask(redis, &["TANDEM.PUT", "local", "1", "LOCAL"]);
    ask(redis, &["TANDEM.PUT", "hour", "1", "EX", "3600"]);
    ask(redis, &["TANDEM.REMOVE", "a.002"]);
    // Dropped, and not yet taken: kept aside. Dropped and taken long ago: no more than said to be dropped.
    ask(redis, &["DEL", "a.021", "a.005"]);
    ask(redis, &["TANDEM.PUT", "a.021", "\"and again\""]);
    ask(redis, &["RENAME", "a.006", "renamed"]);
    ask(redis, &["SELECT", "3"]);
    ask(redis, &["TANDEM.PUT", "a.1", "1"]);
    // A database whose keys are gone, and one that has no key left either but knows of a removal.
    ask(redis, &["SELECT", "4"]);
    ask(redis, &["TANDEM.PUT", "a.1", "1"]);
    ask(redis, &["FLUSHDB"]);
    ask(redis, &["SELECT", "5"]);
    ask(redis, &["TANDEM.PUT", "only", "1"]);
    ask(redis, &["TANDEM.REMOVE", "only"]);
    ask(redis, &["SELECT", "0"]);
}

fn rewrite_aof(redis: &mut Connection) {
    ask(redis, &["BGREWRITEAOF"]);
    wait::until("the AOF is rewritten", DEADLINE, || {
        let info = ask_text(redis, &["INFO", "persistence"]).unwrap_or_default();
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    let info = ask_text(redis, &["INFO", "persistence"]).unwrap_or_default();
    assert!(info.contains("aof_last_bgrewrite_status:ok"), "{info}");
}

#[test]
fn the_books_survive_every_file() {
    let mut server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    fill(&mut redis);
    let before = books(&mut redis, "at first");
    assert!(before.iter().all(|books| !books.waiting.is_empty()), "something waits everywhere: {before:#?}");
    ask(&mut redis, &["DEBUG", "RELOAD"]);
    assert_eq!(books(&mut redis, "after DEBUG RELOAD"), before);
    ask(&mut redis, &["SAVE"]);
    server.restart();
    assert_eq!(books(&mut server.connect(), "after a restart from RDB"), before);

    for preamble in ["yes", "no"] {
        let mut server = Redis::start(Options::durable().with("aof-use-rdb-preamble", preamble));
        let mut redis = server.connect();
        fill(&mut redis);
        let before = books(&mut redis, "at first");
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        assert_eq!(
            books(&mut redis, "after a restart from the log of commands"),
            before,
            "preamble {preamble}"
        );
        rewrite_aof(&mut redis);
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        assert_eq!(books(&mut redis, "after a restart from a rewritten file"), before, "preamble {preamble}");
        // Both: what was rewritten, and what came after it.
        ask(&mut redis, &["TANDEM.PUT", "a.030", "\"later\""]);
        ask(&mut redis, &["TANDEM.REMOVE", "a.031"]);
        ask(&mut redis, &["DEL", "a.032"]);
        attach(&mut redis, "third");
        let before = books(&mut redis, "with more");
        server.kill_hard();
        server.restart();
        assert_eq!(books(&mut server.connect(), "after a restart from both"), before, "preamble {preamble}");
    }
}

/// There is no key whose rewriting would take the books along.
#[test]
fn the_books_survive_a_rewrite_of_the_aof_without_any_key() {
    for preamble in ["yes", "no"] {
        let mut server = Redis::start(Options::durable().with("aof-use-rdb-preamble", preamble));
        let mut redis = server.connect();
        fill(&mut redis);
        ask(&mut redis, &["FLUSHALL"]);
        let before = books(&mut redis, "at first");
        rewrite_aof(&mut redis);
        ask(&mut redis, &["TANDEM.PUT", "after", "1"]);
        ask(&mut redis, &["DEL", "after"]);
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        let mut after = books(&mut redis, "after the rewrite");
        after[0].waiting.retain(|(id, _)| id != "after");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(
                (&after.waiting, &after.removed),
                (&before.waiting, &before.removed),
                "preamble {preamble}"
            );
        }
    }
}

/// While writes are held back nothing may go to replicas, and so nothing into the AOF.
#[test]
fn an_aof_is_rewritten_while_writes_are_held_back() {
    let mut server = Redis::start(Options::durable().with("aof-use-rdb-preamble", "no"));
    let mut redis = server.connect();
    attach(&mut redis, "pg");
    ask(&mut redis, &["TANDEM.PUT", "gone", "1"]);
    ask(&mut redis, &["TANDEM.REMOVE", "gone"]);
    ask(&mut redis, &["CLIENT", "PAUSE", "600000", "WRITE"]);
    rewrite_aof(&mut redis);
    ask(&mut redis, &["BGSAVE"]);
    ask(&mut redis, &["CLIENT", "UNPAUSE"]);
    ask(&mut redis, &["TANDEM.PUT", "after", "1"]);
    let directory = server.directory().join("appendonlydir");
    let is_written = || {
        let files = std::fs::read_dir(&directory).expect("the AOF is a directory");
        let mut files = files.map(|file| std::fs::read(file.expect("a file").path()).unwrap_or_default());
        files.any(|bytes| bytes.windows(5).any(|word| word == b"BOOKS"))
    };
    wait::until("the books are written", DEADLINE, is_written);
    server.kill_hard();
    server.restart();
    let mut redis = server.connect();
    check_redis(&mut redis, "after the rewrite");
    assert_eq!(ask_text(&mut redis, &["TANDEM.GET", "after", "PAYLOAD"]).as_deref(), Some("1"));
    let Value::Array(words) = ask(&mut redis, &["TANDEM.STATUS", "gone"]) else { panic!("a record") };
    assert_eq!(words[3], Value::BulkString(b"removed".to_vec()));
}

fn follow(replica: &mut Connection, master: &Redis) {
    ask(replica, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
}

/// Waits until the replica has all that its master has.
fn in_step(master: &mut Connection, replica: &mut Connection) {
    let field = |connection: &mut Connection, name: &str| {
        let info = ask_text(connection, &["INFO", "replication"]).unwrap_or_default();
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
    };
    wait::until("the replica is in step", DEADLINE, || {
        field(replica, "master_link_status").as_deref() == Some("up")
            && field(master, "master_repl_offset") == field(replica, "slave_repl_offset")
    });
}

#[test]
fn the_books_reach_replicas_whole_and_in_part_and_survive_a_promotion() {
    let master = Redis::start(Options::in_memory().with("repl-diskless-sync-delay", "0"));
    let replica = Redis::start(Options::in_memory());
    let (mut to_master, mut to_replica) = (master.connect(), replica.connect());
    // The replica has something of its own, which goes.
    ask(&mut to_replica, &["TANDEM.PUT", "stray", "1"]);
    attach(&mut to_replica, "stray");
    fill(&mut to_master);
    // Attaching writes; a replica may not, so what it has is read when it is promoted.
    follow(&mut to_replica, &master);
    in_step(&mut to_master, &mut to_replica);
    let syncs = |connection: &mut Connection, kind: &str| {
        let info = ask_text(connection, &["INFO", "stats"]).unwrap_or_default();
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(':')?.trim().parse::<i64>().ok());
        count.expect("INFO tells of syncs")
    };
    assert_eq!((syncs(&mut to_master, "sync_full"), syncs(&mut to_master, "sync_partial_ok")), (1, 0));
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    let before = books(&mut to_master, "on the master");
    assert_eq!(books(&mut to_replica, "on the replica after a full resync"), before);

    follow(&mut to_replica, &master);
    in_step(&mut to_master, &mut to_replica);
    let partial = syncs(&mut to_master, "sync_partial_ok");
    ask(&mut to_master, &["CLIENT", "KILL", "TYPE", "replica"]);
    ask(&mut to_master, &["TANDEM.PUT", "a.030", "\"meanwhile\""]);
    ask(&mut to_master, &["TANDEM.REMOVE", "a.031"]);
    ask(&mut to_master, &["TANDEM.PUT", "a.021", "\"once more\""]);
    ask(&mut to_master, &["DEL", "a.021"]);
    let run = attach(&mut to_master, "pg");
    ask(&mut to_master, &["TANDEM.LINK", "ACK", "pg", &run, "52"]);
    ask(&mut to_master, &["TANDEM.LINK", "DETACH", "second"]);
    in_step(&mut to_master, &mut to_replica);
    assert!(syncs(&mut to_master, "sync_partial_ok") > partial, "the replica went on where it was");
    let before = books(&mut to_master, "on the master");
    drop(master);
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    assert_eq!(books(&mut to_replica, "on the promoted replica"), before);
    // It counts on where its master was.
    let seq = |redis: &mut Connection| by_hand::attach_as(redis, &by_hand::attachment("pg")).seq;
    let was = seq(&mut to_replica);
    assert_eq!(was, before[0].seq, "the numbers agree");
    ask(&mut to_replica, &["TANDEM.PUT", "own", "1"]);
    assert_eq!(seq(&mut to_replica), was + 1);
}

#[test]
fn a_link_that_is_moved_to_the_promoted_replica_loses_nothing_that_wait_acknowledged() {
    let pair = Pair::with(&pg::Options::default(), Options::durable().with("repl-diskless-sync-delay", "0"));
    let mut replica = Redis::start(Options::durable());
    let (mut client, mut redis, mut to_replica) = (pair.sql(), pair.commands(), replica.connect());
    ask(&mut redis, &["TANDEM.PUT", "before", "1"]);
    pair.settle_at(1);
    follow(&mut to_replica, &pair.redis);
    in_step(&mut redis, &mut to_replica);
    // None of this is taken by Postgres before the master dies.
    pair.pause();
    for number in 0..50 {
        ask(&mut redis, &["TANDEM.PUT", &format!("late.{number}"), "1"]);
    }
    ask(&mut redis, &["TANDEM.REMOVE", "before"]);
    ask(&mut redis, &["DEL", "late.7"]);
    run(&mut client, "SELECT tandem.put('postgres', '1')");
    assert_eq!(ask_number(&mut redis, &["WAIT", "1", "60000"]), 1);
    let Pair { postgres: _postgres, redis: master, .. } = pair;
    drop(master);
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    run(
        &mut client,
        &format!("UPDATE tandem.links SET url = '{}'; SELECT tandem.resume_link('redis')", replica.url()),
    );
    let all = |client: &mut postgres::Client, redis: &mut Connection| {
        count_of_postgres(client) == 51 && root_of_postgres(client) == root_of_redis(redis)
    };
    wait::until("everything is on both sides", DEADLINE, || all(&mut client, &mut to_replica));
    assert!(!value::<bool>(&mut client, "SELECT tandem.exists('before')"), "a removal is as good as a write");
    // And it is in the file of the one that was promoted.
    replica.kill_hard();
    replica.restart();
    let mut to_replica = replica.connect();
    wait::until("after a restart too", DEADLINE, || all(&mut client, &mut to_replica));
    check_redis(&mut to_replica, "in the promoted replica");
}

#[test]
fn migrated_items_leave_one_index_for_the_other() {
    let (from, to) = (Redis::start(Options::in_memory()), Redis::start(Options::in_memory()));
    let (mut source, mut target) = (from.connect(), to.connect());
    let run = [attach(&mut source, "pg"), attach(&mut target, "pg")];
    for number in 0..20 {
        ask(&mut source, &["TANDEM.PUT", &format!("a.{number}"), &format!("{number}")]);
    }
    ask(&mut source, &["TANDEM.PUT", "hour", "\"binary \\u0001\"", "VERSION", "70", "EX", "3600"]);
    ask(&mut target, &["TANDEM.PUT", "a.3", "\"in the way\""]);
    for (redis, run) in [&mut source, &mut target].into_iter().zip(&run) {
        ask(redis, &["TANDEM.LINK", "ACK", "pg", run, "1000"]);
    }
    let etag = |redis: &mut Connection, id: &str| match ask(redis, &["TANDEM.STATUS", id]) {
        Value::Array(words) => words[11].clone(),
        other => panic!("{other:?}"),
    };
    let before = etag(&mut source, "hour");
    let port = to.port().to_string();
    let migrate = |redis: &mut Connection, words: &[&str]| {
        ask(redis, &[&["MIGRATE", "127.0.0.1", &port, "", "0", "5000"][..], words].concat())
    };
    migrate(&mut source, &["KEYS", "a.1", "a.2", "hour"]);
    migrate(&mut source, &["COPY", "KEYS", "a.4"]);
    migrate(&mut source, &["REPLACE", "KEYS", "a.3"]);
    assert_eq!(check_redis(&mut source, "where they were").count, 17);
    assert_eq!(check_redis(&mut target, "where they went").count, 5);
    assert_eq!(etag(&mut target, "hour"), before);
    assert!(ask_number(&mut target, &["TTL", "hour"]) > 3000, "the time to live goes along");
    assert_eq!(ask_text(&mut target, &["TANDEM.GET", "a.3", "PAYLOAD"]).as_deref(), Some("3"));
    // The link of the target is told of all of them, that of the source of those that left.
    let waits = |redis: &mut Connection| {
        ask(redis, &["TANDEM.LINK", "WAITS", "pg", "a.1", "a.2", "a.3", "a.4", "hour", "a.5"])
    };
    let flags = |flags: [i64; 6]| Value::Array(flags.map(Value::Int).to_vec());
    assert_eq!(waits(&mut target), flags([1, 1, 1, 1, 1, 0]));
    assert_eq!(waits(&mut source), flags([1, 1, 1, 0, 1, 0]));
}
