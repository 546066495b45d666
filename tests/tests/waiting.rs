//! What waits in Redis for links, seen by links that a test plays: nothing that was acknowledged to a client is lost
//! when databases are swapped or emptied, links come and go, or a replica takes over; and nobody waits for nothing.

use ::redis::{Connection, Value};
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::content::Bounds;
use tandem_shared::{Body, Content, Revision, State, Timestamp, Version};
use tandem_tests::by_hand::{self, acknowledge, attach, attach_as, attachment, attachment_of, pull};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::wait::{self, DEADLINE};

/// What a pull brings of ids: the content, `removed` for a tombstone, `dropped` for no revision.
fn told(redis: &mut Connection, link: &str, run: &str) -> Vec<(String, String)> {
    let told = |revision: Option<Vec<u8>>| match revision {
        None => "dropped".to_owned(),
        Some(bytes) => match decode(&bytes, Source::Foreign).expect("a revision").content() {
            Some(content) => String::from_utf8_lossy(content.bytes()).into_owned(),
            None => "removed".to_owned(),
        },
    };
    pull(redis, link, run, 0).into_iter().map(|(_, id, revision)| (id, told(revision))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(id, what)| ((*id).to_owned(), (*what).to_owned())).collect()
}

fn revision(version: u64, content: &str) -> Vec<u8> {
    let content = Content::json(content.as_bytes(), Bounds::MAX).expect("JSON");
    encode(&Revision {
        version: Version::new(version.into()).expect("a version"),
        timestamp: Timestamp::new(1_700_000_000_000).expect("a time"),
        audit: None,
        body: Body::Live { state: State::default(), content },
    })
}

fn push(redis: &mut Connection, link: &str, id: &str, revision: &[u8]) -> String {
    let words: [&[u8]; 5] = [b"TANDEM.LINK", b"PUSH", link.as_bytes(), id.as_bytes(), revision];
    match send(redis, &words) {
        Ok(Value::Array(answers)) => match &answers[0] {
            Value::BulkString(word) => String::from_utf8_lossy(word).into_owned(),
            other => format!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_waits_is_kept_when_databases_are_swapped() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    ask(&mut redis, &["TANDEM.PUT", "removed", "1"]);
    let seq = attach_as(&mut redis, &attachment("pg")).seq;
    acknowledge(&mut redis, "pg", &run, seq);
    ask(&mut redis, &["TANDEM.REMOVE", "removed"]);
    ask(&mut redis, &["TANDEM.PUT", "live", "[1]"]);
    ask(&mut redis, &["TANDEM.PUT", "hidden", "[1]"]);
    ask(&mut redis, &["TANDEM.REMOVE", "hidden"]);
    ask(&mut redis, &["TANDEM.PUT", "hidden", "\"secret\"", "LOCAL"]);
    let before = told(&mut redis, "pg", &run);
    assert_eq!(before, pairs(&[("removed", "removed"), ("live", "[1]"), ("hidden", "removed")]));

    ask(&mut redis, &["SWAPDB", "0", "0"]);
    assert_eq!(told(&mut redis, "pg", &run), before, "nothing was swapped");
    let known = |redis: &mut Connection| {
        let Value::Array(words) = ask(redis, &["TANDEM.STATUS", "removed"]) else { panic!("a record") };
        [words[3].clone(), words[9].clone()]
    };
    let removal = known(&mut redis);

    ask(&mut redis, &["SWAPDB", "0", "1"]);
    let mut after = told(&mut redis, "pg", &run);
    after.retain(|(id, _)| !id.is_empty());
    assert_eq!(after, before, "what the link has not taken lies in the other database now");
    ask(&mut redis, &["SELECT", "1"]);
    assert_eq!(known(&mut redis), removal, "the removal is known where the keys are");
    assert_eq!(ask_number(&mut redis, &["EXISTS", "live", "hidden"]), 2);
    let Value::Array(verified) = ask(&mut redis, &["TANDEM.VERIFY"]) else { panic!("a record") };
    assert_eq!(verified[1], Value::Int(1), "{verified:?}");
}

#[test]
fn a_local_item_leaves_no_more_when_a_database_is_emptied() {
    for command in [["FLUSHDB", "SYNC"], ["FLUSHALL", "ASYNC"]] {
        let server = Redis::start(Options::in_memory());
        let mut redis = server.connect();
        let run = attach(&mut redis, "pg");
        ask(&mut redis, &["TANDEM.PUT", "other", "[1]"]);
        ask(&mut redis, &["TANDEM.PUT", "x", "[1]"]);
        ask(&mut redis, &["TANDEM.REMOVE", "x"]);
        ask(&mut redis, &["TANDEM.PUT", "x", "\"secret\"", "LOCAL"]);
        ask(&mut redis, &command);
        assert_eq!(
            told(&mut redis, "pg", &run),
            pairs(&[("other", "[1]"), ("x", "removed"), ("", "dropped")]),
            "{command:?}"
        );
    }
}

#[test]
fn what_one_link_brought_is_kept_for_the_other() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]"]);
    attach_as(&mut redis, &attachment_of("cache", ["", "cache", "both"]));
    let mirror = attach(&mut redis, "mirror");
    assert_eq!(push(&mut redis, "cache", "x", &revision(7, "[7]")), "applied");
    ask(&mut redis, &["DEL", "x"]);
    assert_eq!(told(&mut redis, "mirror", &mirror), pairs(&[("x", "[7]"), ("x", "dropped")]));
    // It is offered something older, which does not take the place of what it has not seen.
    push(&mut redis, "mirror", "x", &revision(5, "[5]"));
    assert!(told(&mut redis, "mirror", &mirror).contains(&("x".to_owned(), "[7]".to_owned())));
}

/// It may have expired between the worker's question whether it is here and the worker's answer.
#[test]
fn a_cache_is_brought_nothing_that_nobody_asked_for() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]", "PX", "1000000"]);
    attach_as(&mut redis, &attachment_of("pg", ["", "cache", "both"]));
    assert_eq!(push(&mut redis, "pg", "x", &revision(2, "[2]")), "applied");
    assert!(ask_number(&mut redis, &["PTTL", "x"]) > 0, "it keeps its time to live");
    ask(&mut redis, &["PEXPIRE", "x", "0"]);
    assert_eq!(push(&mut redis, "pg", "x", &revision(3, "[3]")), "unchanged");
    assert_eq!(ask_number(&mut redis, &["EXISTS", "x"]), 0);
    // What every link mirrors is here at all times.
    assert_eq!(push(&mut redis, "pg", "tandem/x", &revision(3, "[3]")), "applied");
}

fn in_step(master: &mut Connection, replica: &mut Connection) {
    wait::until("the replica is in step", DEADLINE, || {
        let info = ask_text(replica, &["INFO", "replication"]).unwrap_or_default();
        let offset = |connection: &mut Connection, field: &str| {
            let info = ask_text(connection, &["INFO", "replication"]).unwrap_or_default();
            info.lines().find_map(|line| line.strip_prefix(field)).map(|number| number.trim().to_owned())
        };
        info.contains("master_link_status:up")
            && offset(master, "master_repl_offset:") == offset(replica, "slave_repl_offset:")
    });
}

/// An acknowledgement names a number, which must stand for the same on a replica.
#[test]
fn numbers_are_the_same_on_a_replica() {
    let master = Redis::start(Options::in_memory().with("repl-diskless-sync-delay", "0"));
    let replica = Redis::start(Options::in_memory());
    let (mut redis, mut to_replica) = (master.connect(), replica.connect());
    ask(&mut redis, &["TANDEM.PUT", "early", "1"]);
    ask(&mut redis, &["TANDEM.REMOVE", "early"]);
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    in_step(&mut redis, &mut to_replica);
    let run = attach(&mut redis, "pg");
    // The tombstone from before gets a number, as do an offer that is stale, an expiry, an eviction and a removal.
    assert_eq!(told(&mut redis, "pg", &run), pairs(&[("early", "removed")]));
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]", "VERSION", "9"]);
    let taken = pull(&mut redis, "pg", &run, 0);
    acknowledge(&mut redis, "pg", &run, taken.last().expect("an entry").0);
    assert_eq!(push(&mut redis, "pg", "x", &revision(3, "[3]")), "stale");
    ask(&mut redis, &["TANDEM.PUT", "short", "1", "PX", "5"]);
    wait::until("it expires", DEADLINE, || ask_number(&mut redis, &["EXISTS", "short"]) == 0);
    ask(&mut redis, &["TANDEM.PUT", "y", "[2]"]);
    ask(&mut redis, &["DEL", "y"]);
    let entries = pull(&mut redis, "pg", &run, 0);
    let before_y = entries.iter().rev().find(|(_, id, _)| id != "y").expect("others").0;
    acknowledge(&mut redis, "pg", &run, before_y);
    let rest = pull(&mut redis, "pg", &run, 0);
    assert_eq!(rest.len(), 2, "y and its copy: {rest:?}");
    let seq = attach_as(&mut redis, &attachment("pg")).seq;
    in_step(&mut redis, &mut to_replica);
    drop(master);
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    let attached = attach_as(&mut to_replica, &attachment("pg"));
    assert_eq!(attached.seq, seq);
    assert_eq!(pull(&mut to_replica, "pg", &attached.run, 0), rest, "y is not forgotten");
}

#[test]
fn nobody_waits_for_what_no_link_is_told_of() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let run = attach(&mut redis, "pg");
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]", "PX", "1500"]);
    let seq = pull(&mut redis, "pg", &run, 0)[0].0;
    acknowledge(&mut redis, "pg", &run, seq);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
    wait::until("it expires", DEADLINE, || ask_number(&mut redis, &["EXISTS", "x"]) == 0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
    // A push overtakes a write that was not pulled, which is to be recorded as a loser.
    ask(&mut redis, &["TANDEM.PUT", "y", "[1]"]);
    assert_eq!(push(&mut redis, "pg", "y", &revision(5, "[5]")), "applied");
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "20"]), 0);
    let loser = pull(&mut redis, "pg", &run, 0)[0].0;
    acknowledge(&mut redis, "pg", &run, loser);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
    assert!(pull(&mut redis, "pg", &run, 0).is_empty());
    // One that is written again and again is not taken by the acknowledgement of what was there before.
    ask(&mut redis, &["TANDEM.PUT", "z", "[1]"]);
    let first = pull(&mut redis, "pg", &run, 0)[0].0;
    ask(&mut redis, &["TANDEM.PUT", "z", "[2]"]);
    acknowledge(&mut redis, "pg", &run, first);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "20"]), 0);
}

#[test]
fn what_no_link_takes_fills_no_set() {
    let server = Redis::start(Options::in_memory().with("tandem.pending-bytes-max", "1024"));
    let mut redis = server.connect();
    attach_as(&mut redis, &attachment_of("pg", ["a:", "mirror", "both"]));
    let full =
        (0..100).find_map(|number| send(&mut redis, &["TANDEM.PUT", &format!("a:{number}"), "1"]).err());
    assert_eq!(full.expect("the set is full").code(), Some("BACKPRESSURE"));
    for number in 0..100 {
        ask(&mut redis, &["TANDEM.PUT", &format!("b:{number}"), "1"]);
    }
    ask(&mut redis, &["TANDEM.MPUT", "1", "b:more", "1"]);
    assert!(send(&mut redis, &["TANDEM.MPUT", "2", "b:more", "2", "a:more", "1"]).is_err());
    assert!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) < 100);
}

/// A client that waits is not told that its write was taken because somebody has written the id again.
#[test]
fn a_write_that_was_written_over_is_not_taken() {
    let server = Redis::start(Options::in_memory());
    let (mut redis, mut other) = (server.connect(), server.connect());
    let run = attach(&mut other, "pg");
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]"]);
    let waiting = std::thread::spawn(move || ask_number(&mut redis, &["TANDEM.WAIT", "60000"]));
    let blocked = |redis: &mut Connection| {
        let info = ask_text(redis, &["INFO", "clients"]).unwrap_or_default();
        info.contains("blocked_clients:1")
    };
    wait::until("the client waits", DEADLINE, || blocked(&mut other));
    for content in ["[2]", "[3]"] {
        ask(&mut other, &["TANDEM.PUT", "x", content]);
        ask(&mut other, &["TANDEM.PUT", "y", content]);
    }
    ask(&mut other, &["DEL", "x"]);
    assert!(blocked(&mut other), "nothing of it is in Postgres");
    let last = pull(&mut other, "pg", &run, 0).last().expect("an entry").0;
    acknowledge(&mut other, "pg", &run, last);
    assert_eq!(waiting.join().expect("it is answered"), 1);
}

#[test]
fn one_high_version_does_not_use_up_those_of_all() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    attach(&mut redis, "pg");
    let highest = ["9223372036854775807", "4611686018427387904"];
    let put =
        |redis: &mut Connection, version: &str| send(redis, &["TANDEM.PUT", "a", "1", "VERSION", version]);
    assert!(highest.iter().any(|version| put(&mut redis, version).is_ok()));
    ask(&mut redis, &["FLUSHDB"]);
    for content in ["1", "2", "3"] {
        ask(&mut redis, &["TANDEM.PUT", "b", content]);
    }
    assert_eq!(ask_number(&mut redis, &["TANDEM.REMOVE", "b"]), 1);
}

/// Tombstones from before a link was attached do not fill the set, and are all told of, whatever is restarted
/// meanwhile.
#[test]
fn a_new_link_is_told_of_older_tombstones_in_pages() {
    const REMOVED: usize = 250;
    let options = Options::durable().with("tandem.pending-bytes-max", "20000");
    let mut server = Redis::start(options);
    let mut redis = server.connect();
    for number in 0..REMOVED {
        ask(&mut redis, &["TANDEM.PUT", &format!("r:{number:03}"), "1"]);
        ask(&mut redis, &["TANDEM.REMOVE", &format!("r:{number:03}")]);
    }
    ask(&mut redis, &["TANDEM.PUT", "outside", "1"]);
    ask(&mut redis, &["TANDEM.REMOVE", "outside"]);
    let scope = attachment_of("pg", ["r:", "mirror", "both"]);
    let mut run = attach_as(&mut redis, &scope).run;
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), REMOVED as i64);
    ask(&mut redis, &["TANDEM.PUT", "r:new", "1"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "20"]), 0);
    let (mut after, mut seen) = (0, Vec::new());
    for round in 0.. {
        let words = ["TANDEM.LINK", "PULL", "pg", &run, &after.to_string(), "60", "10000000", "0"];
        let Value::Array(page) = ask(&mut redis, &words) else { panic!("an array") };
        assert!(page.len() <= 60, "{} entries", page.len());
        let Some(Value::Array(last)) = page.last() else { break };
        let Value::Int(seq) = last[0] else { panic!("a number") };
        if round == 1 {
            // This page is lost with its reader, and the server.
            server.kill_hard();
            server.restart();
            redis = server.connect();
            run = attach_as(&mut redis, &scope).run;
            after = 0;
            continue;
        }
        for entry in page {
            let Value::Array(fields) = entry else { panic!("an entry") };
            let Value::BulkString(id) = &fields[1] else { panic!("an id") };
            assert_ne!(fields[2], Value::Nil);
            seen.push(String::from_utf8_lossy(id).into_owned());
        }
        // The next page may be asked for before the one before is acknowledged.
        if round % 2 == 0 {
            by_hand::acknowledge(&mut redis, "pg", &run, seq);
        }
        after = seq;
    }
    by_hand::acknowledge(&mut redis, "pg", &run, after);
    let removed = seen.iter().filter(|id| *id != "r:new").count();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((removed, seen.len()), (REMOVED, REMOVED + 1), "each once, and what was written meanwhile");
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), 0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "60000"]), 1);
}
