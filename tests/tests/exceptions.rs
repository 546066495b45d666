//! What waits on for a link though what was written after it is acknowledged: what somebody is in the way of in Postgres,
//! and what Redis could not read when it was its turn. The link is played by the tests, where no other is named.

use ::redis::{Connection, Value};
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::content::Bounds;
use tandem_shared::{Body, Content, Revision, State, Timestamp, Version};
use tandem_tests::by_hand::{self, Entry, acknowledge, attach, attach_as, attachment, pull};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Ids and contents of entries, `dropped` for no revision.
fn contents(entries: &[Entry]) -> Vec<(&str, String)> {
    let content = |revision: &Option<Vec<u8>>| {
        let revision = revision.as_ref().map(|bytes| decode(bytes, Source::Foreign).expect("a revision"));
        let content = revision.map(|revision| revision.content().map(|content| content.bytes().to_vec()));
        content
            .flatten()
            .map_or_else(|| "dropped".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    entries.iter().map(|(_, id, revision)| (id.as_str(), content(revision))).collect()
}

fn acknowledge_but(redis: &mut Connection, run: &str, seq: i64, except: &[i64]) -> i64 {
    let mut words = vec!["TANDEM.LINK".to_owned(), "ACK".to_owned(), "pg".to_owned(), run.to_owned()];
    words.extend([seq.to_string(), "EXCEPT".to_owned(), except.len().to_string()]);
    words.extend(except.iter().map(i64::to_string));
    ask_number(redis, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// How many entries the first link has gone past that wait on, in Redis' words.
fn held(redis: &mut Connection) -> Option<Value> {
    let Value::Array(links) = ask(redis, &["TANDEM.LINK", "LIST"]) else { return None };
    let Some(Value::Array(link)) = links.first() else { return None };
    let place = link.iter().position(|word| *word == Value::BulkString(b"held".to_vec()))?;
    link.get(place + 1).cloned()
}

fn is_blocked(redis: &mut Connection, count: usize) -> bool {
    let info = ask_text(redis, &["INFO", "clients"]).unwrap_or_default();
    info.contains(&format!("blocked_clients:{count}\r"))
}

/// Writes an item that has expired when Redis, which deletes nothing from then on, answers the pull that the write has
/// woken. Returns that answer.
fn pulled_in_a_pause(redis: &mut Connection, server: &Redis, (run, after): (&str, i64)) -> Value {
    let (mut reader, run) = (server.connect(), run.to_owned());
    let reading = std::thread::spawn(move || {
        let after = after.to_string();
        ask(&mut reader, &["TANDEM.LINK", "PULL", "pg", &run, &after, "1000", "10000000", "60000"])
    });
    wait::until("the pull waits", DEADLINE, || is_blocked(redis, 1));
    // In one go, so that the pull is answered after all of it.
    let mut pipe = ::redis::pipe();
    pipe.cmd("TANDEM.PUT").arg(&["brief", "[1]", "PX", "1"]);
    pipe.cmd("CLIENT").arg(&["PAUSE", "100000000", "WRITE"]);
    pipe.cmd("EVAL_RO").arg(&["local n = 0 for i = 1, 3000000 do n = n + i end return n", "0"]);
    pipe.query::<Vec<Value>>(redis).expect("the commands run");
    reading.join().expect("the pull is answered")
}

#[test]
fn what_expires_while_redis_deletes_nothing_is_pulled_afterwards() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    ask(&mut redis, &["TANDEM.PUT", "first", "1"]);
    let first = pull(&mut redis, "pg", &run, 0)[0].0;
    acknowledge(&mut redis, "pg", &run, first);

    assert_eq!(pulled_in_a_pause(&mut redis, &server, (&run, first)), Value::Array(vec![]));
    assert_eq!(ask_number(&mut redis, &["EXISTS", "brief"]), 0, "it has expired");
    // What the link says next is said before Redis has deleted the copy.
    let mut pipe = ::redis::pipe();
    pipe.cmd("CLIENT").arg("UNPAUSE");
    pipe.cmd("TANDEM.LINK").arg(&["ACK", "pg", &run, &(first + 1).to_string()]);
    pipe.cmd("TANDEM.LINK").arg("PENDING");
    let answers: Vec<Value> = pipe.query(&mut redis).expect("the commands run");
    assert_eq!(answers[2], Value::Int(1), "it is not taken by that: {answers:?}");
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "20"]), 0);
    let entries = pull(&mut redis, "pg", &run, first + 1);
    assert_eq!(contents(&entries), [("brief", "[1]".to_owned())]);
    acknowledge(&mut redis, "pg", &run, entries[0].0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), 0);
}

/// The first that touches it when Redis deletes again may be anything.
#[test]
fn whatever_takes_the_place_of_what_has_expired_leaves_it_to_the_link() {
    let later = encode(&Revision {
        version: Version::new(2).expect("a version"),
        timestamp: Timestamp::new(1_700_000_000_000).expect("a time"),
        audit: None,
        body: Body::Live {
            state: State::default(),
            content: Content::json(b"[2]", Bounds::MAX).expect("JSON"),
        },
    });
    let commands: [&[&[u8]]; 9] = [
        &[b"PERSIST", b"brief"],
        &[b"PEXPIRE", b"brief", b"100000"],
        &[b"DEL", b"brief"],
        &[b"SET", b"brief", b"text"],
        &[b"TANDEM.PUT", b"brief", b"[2]"],
        &[b"TANDEM.REMOVE", b"brief"],
        &[b"TANDEM.LINK", b"FETCH", b"brief"],
        &[b"TANDEM.LINK", b"PUSH", b"pg", b"brief", &later],
        &[b"SWAPDB", b"0", b"1"],
    ];
    for words in commands {
        let server = Redis::start(Options::in_memory());
        let mut redis = server.connect();
        let run = attach(&mut redis, "pg");
        pulled_in_a_pause(&mut redis, &server, (&run, 0));
        let mut pipe = ::redis::pipe();
        pipe.cmd("CLIENT").arg("UNPAUSE");
        pipe.add_command(words.iter().fold(::redis::Cmd::new(), |mut command, word| {
            command.arg(*word);
            command
        }));
        pipe.query::<Vec<Value>>(&mut redis).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let mut entries = Vec::new();
        wait::until("it is there to be pulled", DEADLINE, || {
            entries = pull(&mut redis, "pg", &run, 0);
            entries.iter().any(|(_, id, _)| id == "brief")
        });
        let told = contents(&entries);
        let command = String::from_utf8_lossy(words[0]);
        assert!(told.contains(&("brief", "[1]".to_owned())), "{command}: {told:?}");
    }
}

#[test]
fn what_expires_while_redis_deletes_nothing_survives_its_death() {
    for is_saved in [false, true] {
        let mut server = Redis::start(
            Options::durable().with("aof-use-rdb-preamble", if is_saved { "no" } else { "yes" }),
        );
        let mut redis = server.connect();
        let run = attach(&mut redis, "pg");
        pulled_in_a_pause(&mut redis, &server, (&run, 0));
        if is_saved {
            ask(&mut redis, &["BGREWRITEAOF"]);
            wait::until("the file is rewritten", DEADLINE, || {
                let info = ask_text(&mut redis, &["INFO", "persistence"]).unwrap_or_default();
                info.contains("aof_rewrite_in_progress:0\r") && info.contains("aof_rewrite_scheduled:0\r")
            });
        }
        server.kill_hard();
        server.restart();
        let mut redis = server.connect();
        let run = attach_as(&mut redis, &attachment("pg")).run;
        let mut entries = Vec::new();
        wait::until("it is there to be pulled", DEADLINE, || {
            entries = pull(&mut redis, "pg", &run, 0);
            !entries.is_empty()
        });
        assert_eq!(contents(&entries), [("brief", "[1]".to_owned())], "rewritten: {is_saved}");
    }
}

#[test]
fn an_acknowledgement_with_exceptions_is_the_same_after_a_restart_and_on_a_replica() {
    let mut server = Redis::start(Options::durable().with("repl-diskless-sync-delay", "0"));
    let replica = Redis::start(Options::in_memory());
    let (mut redis, mut to_replica) = (server.connect(), replica.connect());
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &server.port().to_string()]);
    wait::until("the replica is there", DEADLINE, || {
        ask_text(&mut to_replica, &["INFO", "replication"])
            .unwrap_or_default()
            .contains("master_link_status:up")
    });
    let run = attach(&mut redis, "pg");
    for id in ["a", "b", "c", "d"] {
        ask(&mut redis, &["TANDEM.PUT", id, "[1]"]);
    }
    let numbers: Vec<i64> = pull(&mut redis, "pg", &run, 0).iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(acknowledge_but(&mut redis, &run, numbers[3], &[numbers[0], numbers[2]]), 2);
    ask(&mut redis, &["TANDEM.PUT", "c", "[2]"]);
    assert_eq!(held(&mut redis), Some(Value::Int(1)), "c is what comes next");
    let expected = [("a", "[1]".to_owned()), ("c", "[2]".to_owned())];
    assert_eq!(contents(&pull(&mut redis, "pg", &run, 0)), expected);
    assert_eq!(contents(&pull(&mut redis, "pg", &run, numbers[3])), expected[1..]);
    // Said once more, it changes nothing; and an exception that was written since is not what was excepted.
    assert_eq!(acknowledge_but(&mut redis, &run, numbers[3], &[numbers[0], numbers[2]]), 0);
    assert_eq!(contents(&pull(&mut redis, "pg", &run, 0)), expected);
    assert_eq!(ask_number(&mut redis, &["WAIT", "1", "60000"]), 1);

    for how in ["from its log", "from its rewritten log", "from its replica"] {
        let mut next = if how == "from its replica" {
            ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
            replica.connect()
        } else {
            server.kill_hard();
            server.restart();
            server.connect()
        };
        let attached = attach_as(&mut next, &attachment("pg"));
        assert!(!attached.is_fresh, "{how}");
        assert_eq!(contents(&pull(&mut next, "pg", &attached.run, 0)), expected, "{how}");
        assert_eq!(ask_number(&mut next, &["TANDEM.LINK", "PENDING"]), 2, "{how}");
        if how == "from its log" {
            ask(&mut next, &["BGREWRITEAOF"]);
            wait::until("the file is rewritten", DEADLINE, || {
                let info = ask_text(&mut next, &["INFO", "persistence"]).unwrap_or_default();
                info.contains("aof_rewrite_in_progress:0\r") && info.contains("aof_rewrite_scheduled:0\r")
            });
        }
    }
}

#[test]
fn nobody_waits_for_what_somebody_else_has_written() {
    let server = Redis::start(Options::in_memory());
    let [mut first, mut second, mut scripts] = [(); 3].map(|()| server.connect());
    let run = attach(&mut second, "pg");
    ask(&mut first, &["TANDEM.PUT", "a", "1"]);
    ask(&mut second, &["TANDEM.PUT", "b", "1"]);
    let entries = pull(&mut second, "pg", &run, 0);
    acknowledge_but(&mut second, &run, entries[1].0, &[entries[0].0]);
    assert_eq!(ask_number(&mut second, &["TANDEM.WAIT", "60000"]), 1);
    assert_eq!(ask_number(&mut first, &["TANDEM.WAIT", "20"]), 0, "its own is not there");
    // A script writes in nobody's name.
    ask(&mut scripts, &["EVAL", "return redis.call('TANDEM.PUT', 'c', '1')", "1", "c"]);
    let script = pull(&mut second, "pg", &run, entries[1].0)[0].0;
    acknowledge_but(&mut second, &run, script, &[entries[0].0, script]);
    assert_eq!(ask_number(&mut scripts, &["TANDEM.WAIT", "20"]), 0, "it may be its own");
    acknowledge_but(&mut second, &run, script, &[entries[0].0]);
    assert_eq!(ask_number(&mut scripts, &["TANDEM.WAIT", "60000"]), 1);
    let waiting = std::thread::spawn(move || ask_number(&mut first, &["TANDEM.WAIT", "60000"]));
    wait::until("the client waits", DEADLINE, || is_blocked(&mut second, 1));
    by_hand::acknowledge(&mut second, "pg", &run, script);
    assert_eq!(waiting.join().expect("it is answered"), 1);
}

/// Through a link that nobody plays.
#[test]
fn a_locked_item_keeps_nobody_waiting_but_its_writer() {
    let mut pair = Pair::start();
    let (mut client, mut holder) = (pair.sql(), pair.sql());
    run(&mut client, "SELECT tandem.put('locked', '1')");
    pair.settle_at(1);
    run(&mut holder, "BEGIN; SELECT id FROM tandem.items WHERE id = 'locked' FOR UPDATE");
    let (mut first, mut second) = (pair.commands(), pair.commands());
    ask(&mut first, &["TANDEM.PUT", "locked", "2"]);
    ask(&mut second, &["TANDEM.PUT", "other", "2"]);
    assert_eq!(ask_number(&mut second, &["TANDEM.WAIT", "60000"]), 1);
    assert_eq!(held(&mut second), Some(Value::Int(1)), "the link has gone past it");
    assert!(value::<bool>(&mut client, "SELECT tandem.exists('other')"));
    assert_eq!(ask_number(&mut first, &["TANDEM.WAIT", "20"]), 0);
    assert_eq!(ask_number(&mut first, &["TANDEM.LINK", "PENDING"]), 1);
    pair.redis.kill_hard();
    pair.redis.restart();
    let mut redis = pair.commands();
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), 1, "it is owed after a restart");
    ask(&mut redis, &["TANDEM.PUT", "later", "2"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.get('locked')"), 1);
    ask(&mut redis, &["TANDEM.PUT", "locked", "3"]);
    let waiting = std::thread::spawn(move || ask_number(&mut redis, &["TANDEM.WAIT", "60000"]));
    let mut redis = pair.commands();
    wait::until("the client waits", DEADLINE, || {
        // Beside the link's own, which waits for writes.
        let info = ask_text(&mut redis, &["CLIENT", "LIST"]).unwrap_or_default();
        info.lines().any(|line| line.contains("cmd=tandem.wait") && line.contains("flags=b"))
    });
    run(&mut holder, "COMMIT");
    assert_eq!(waiting.join().expect("it is answered"), 1);
    pair.settle("it is joined when the lock is gone", |client, redis| {
        value::<i64>(client, "SELECT version FROM tandem.get('locked')") == 3
            && ask_number(redis, &["TANDEM.LINK", "PENDING"]) == 0
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0, "nothing was lost");
}

/// The copy that is to come back is what both make together, and not what Postgres has while somebody is in the way.
#[test]
fn a_copy_that_was_dropped_while_its_row_was_locked_comes_back() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut holder, mut redis) = (pair.sql(), pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('locked', '1')");
    pair.settle_at(1);
    run(&mut holder, "BEGIN; SELECT id FROM tandem.items WHERE id = 'locked' FOR UPDATE");
    ask(&mut redis, &["TANDEM.PUT", "locked", "2"]);
    ask(&mut redis, &["TANDEM.PUT", "before", "2"]);
    assert_eq!(ask_number(&mut pair.commands(), &["TANDEM.WAIT", "60000"]), 1);
    ask(&mut redis, &["DEL", "locked"]);
    ask(&mut redis, &["TANDEM.PUT", "after", "2"]);
    wait::until("the link has gone on", DEADLINE, || value(&mut client, "SELECT tandem.exists('after')"));
    assert_eq!(ask_number(&mut redis, &["EXISTS", "locked"]), 0, "what Postgres has is older");
    run(&mut holder, "COMMIT");
    pair.settle("it is back", |client, redis| {
        value::<i64>(client, "SELECT version FROM tandem.get('locked')") == 2
            && ask_text(redis, &["TANDEM.GET", "locked", "PAYLOAD"]).as_deref() == Some("2")
            && ask_number(redis, &["TANDEM.LINK", "PENDING"]) == 0
    });
}
