//! Copies that expire in a mirror: they are gone from Redis, Postgres has them still, and whatever happens later
//! neither brings them back without their time to live nor takes them for something that never was.

use ::redis::{Connection, Value};
use postgres::Client;
use tandem_tests::by_hand;
use tandem_tests::census::check_redis;
use tandem_tests::pair::{Pair, root_of_postgres, root_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

fn streams(pair: &Pair) {
    wait::until("the link streams", DEADLINE, || {
        value::<bool>(&mut pair.sql(), "SELECT state = 'streaming' FROM tandem.links()")
    });
}

fn mirror() -> Pair {
    let pair = Pair::start();
    streams(&pair);
    pair
}

fn payload(redis: &mut Connection, id: &str) -> Option<String> {
    ask_text(redis, &["TANDEM.GET", id, "PAYLOAD"])
}

fn payload_in_postgres(client: &mut Client, id: &str) -> Option<String> {
    value(client, &format!("SELECT (SELECT payload::text FROM tandem.items WHERE id = '{id}')"))
}

fn version_in_postgres(client: &mut Client, id: &str) -> Option<i64> {
    value(client, &format!("SELECT (SELECT version FROM tandem.items WHERE id = '{id}')"))
}

/// The version that a write answers with.
fn version(answer: Value) -> i64 {
    match answer {
        Value::Array(words) => match words[1] {
            Value::Int(version) => version,
            ref other => panic!("{other:?} is no version"),
        },
        other => panic!("{other:?} is no answer to a write"),
    }
}

fn error(redis: &mut Connection, words: &[&str]) -> String {
    match send(redis, words) {
        Ok(answer) => panic!("{words:?}: {answer:?}"),
        Err(error) => format!("{} {}", error.code().unwrap_or(""), error.detail().unwrap_or("")),
    }
}

/// Whether a key is gone; looking makes Redis drop a copy that has expired.
fn is_gone(redis: &mut Connection, id: &str) -> bool {
    ask_number(redis, &["EXISTS", id]) == 0
}

/// Puts an item that Postgres gets and that then expires.
fn expire(redis: &mut Connection, id: &str, content: &str) {
    ask(redis, &["TANDEM.PUT", id, content]);
    assert_eq!(ask_number(redis, &["TANDEM.WAIT", "0"]), 1);
    ask(redis, &["PEXPIRE", id, "20"]);
    wait::until("the copy expires", DEADLINE, || is_gone(redis, id));
}

fn field(redis: &mut Connection, name: &str) -> i64 {
    let info = ask_text(redis, &["INFO", "tandem"]).unwrap_or_default();
    let fields =
        info.lines().filter_map(|line| line.split_once("db0:")).flat_map(|(_, rest)| rest.split(','));
    let prefix = format!("{name}=");
    fields.filter_map(|field| field.strip_prefix(&prefix)).find_map(|number| number.parse().ok()).unwrap_or(0)
}

/// A check of everything finds nothing, and the roots are equal.
fn is_equal(client: &mut Client, redis: &mut Connection) -> bool {
    let found: String = value(client, "SELECT answer || differences FROM tandem.reconcile('redis')");
    let roots = (root_of_postgres(client), root_of_redis(redis));
    found == "equal0" && roots.0 == roots.1
}

#[test]
fn what_is_decided_over_an_expired_copy_is_decided_over_what_postgres_has() {
    let pair = mirror();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for id in [
        "merge", "first", "absent", "match", "mismatch", "remove", "removes", "batch", "p:1", "p:2", "state",
        "put",
    ] {
        expire(&mut redis, id, r#"{"v":99}"#);
        assert_eq!(payload(&mut redis, id), None, "{id} has expired");
        assert_eq!(ask_number(&mut redis, &["TANDEM.EXISTS", id]), 0);
    }
    assert_eq!(ask_number(&mut redis, &["TANDEM.COUNT"]), 0);
    assert_eq!(version(ask(&mut redis, &["TANDEM.MERGE", "merge", r#"{"b":2}"#])), 2);
    assert_eq!(payload(&mut redis, "merge").as_deref(), Some(r#"{"b":2,"v":99}"#));
    let Value::Array(item) = ask(&mut redis, &["TANDEM.GETORPUT", "first", "[1]"]) else { panic!("an item") };
    assert_eq!(item[11], Value::BulkString(br#"{"v":99}"#.to_vec()));
    assert_eq!(payload(&mut redis, "first"), None, "to look at it does not bring it back for good");
    assert!(error(&mut redis, &["TANDEM.PUT", "absent", "[1]", "IFABSENT"]).starts_with("EXISTS"));
    assert_eq!(payload(&mut redis, "absent"), None);
    let etag: String = value(&mut client, "SELECT etag FROM tandem.get('match')");
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "match", "[1]", "IFMATCH", &etag])), 2);
    assert!(error(&mut redis, &["TANDEM.PUT", "mismatch", "[1]", "IFMATCH", &etag]).starts_with("CONFLICT"));
    assert_eq!(ask_number(&mut redis, &["TANDEM.REMOVE", "remove"]), 1);
    ask(&mut redis, &["TANDEM.MREMOVE", "1", "removes"]);
    ask(&mut redis, &["TANDEM.BATCH", r#"[{"op":"delete","id":"batch"}]"#]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.REMOVEPREFIX", "p:"]), 2);
    assert_eq!(version(ask(&mut redis, &["TANDEM.STATE", "SET", "state", "hot"])), 2);
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "put", "[2]"])), 2);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    for (id, there) in [
        ("merge", Some(r#"{"b": 2, "v": 99}"#)),
        ("first", Some(r#"{"v": 99}"#)),
        ("absent", Some(r#"{"v": 99}"#)),
        ("match", Some("[1]")),
        ("mismatch", Some(r#"{"v": 99}"#)),
        ("remove", None),
        ("removes", None),
        ("batch", None),
        ("p:1", None),
        ("p:2", None),
        ("state", Some(r#"{"v": 99}"#)),
        ("put", Some("[2]")),
    ] {
        assert_eq!(payload_in_postgres(&mut client, id).as_deref(), there, "{id}");
    }
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0);
    wait::until_or(DEADLINE, || is_equal(&mut client, &mut redis), || pair.report());
    assert_eq!(field(&mut redis, "ghosts"), 3, "first, absent, mismatch");
    assert!(["first", "absent", "mismatch"].iter().all(|id| payload(&mut redis, id).is_none()));
}

#[test]
fn where_postgres_cannot_be_asked_nothing_is_decided_over_an_expired_copy() {
    let pair = mirror();
    let mut redis = pair.commands();
    for id in ["a", "b"] {
        expire(&mut redis, id, r#"{"v":1}"#);
    }
    ask(&mut redis, &["MULTI"]);
    ask(&mut redis, &["TANDEM.MERGE", "a", "{}"]);
    assert!(send(&mut redis, &["EXEC"]).is_err_and(|error| error.code() == Some("NOLINK")));
    let mut pair = pair;
    pair.postgres.stop();
    let etag = "0".repeat(64);
    wait::until("the loss is noticed", DEADLINE, || {
        error(&mut redis, &["TANDEM.MERGE", "a", "{}"]).starts_with("NOLINK")
    });
    for words in [
        &["TANDEM.GETORPUT", "a", "1"][..],
        &["TANDEM.PUT", "a", "1", "IFABSENT"],
        &["TANDEM.PUT", "a", "1", "IFMATCH", &etag],
        &["TANDEM.REMOVE", "a"],
        &["TANDEM.MREMOVE", "1", "a"],
        &["TANDEM.STATE", "SET", "a", "hot"],
        &["TANDEM.BATCH", r#"[{"op":"merge","id":"a","patch":{}}]"#],
    ] {
        let text = error(&mut redis, words);
        assert!(text.starts_with("NOLINK"), "{words:?}: {text}");
    }
    assert_eq!(payload(&mut redis, "a"), None, "what has expired is gone, whoever is away");
    assert_eq!(ask_number(&mut redis, &["TANDEM.EXISTS", "a", "b"]), 0);
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "b", "[2]"])), 2, "the version is known");
    pair.postgres.restart();
    wait::until("it reaches Postgres", DEADLINE, || version_in_postgres(&mut pair.sql(), "b") == Some(2));
}

/// Neither a check nor anything that makes a link compare.
#[test]
fn an_expired_copy_stays_away_through_checks_restarts_and_files() {
    for (options, is_killed) in [
        (Options::durable(), true),
        (Options::durable().with("aof-use-rdb-preamble", "no"), true),
        (Options::in_memory(), false),
    ] {
        let mut pair = Pair::with(&pg::Options::default(), options);
        streams(&pair);
        let (mut client, mut redis) = (pair.sql(), pair.commands());
        for number in 0..50 {
            ask(&mut redis, &["TANDEM.PUT", &format!("stays.{number}"), "1"]);
        }
        for round in 1..=3 {
            ask(&mut redis, &["TANDEM.PUT", "gone", &round.to_string()]);
        }
        expire(&mut redis, "gone", "[4]");
        let root = root_of_postgres(&mut client);
        let stays_away = |pair: &Pair, when: &str| {
            let (mut client, mut redis) = (pair.sql(), pair.commands());
            wait::until_or(
                DEADLINE,
                || is_equal(&mut client, &mut redis),
                || format!("{when}\n{}", pair.report()),
            );
            assert_eq!(
                (root_of_redis(&mut redis), payload(&mut redis, "gone")),
                (root.clone(), None),
                "{when}"
            );
            let (count, ghosts) = (ask_number(&mut redis, &["TANDEM.COUNT"]), field(&mut redis, "ghosts"));
            assert_eq!((count, ghosts), (50, 1), "{when}");
        };
        stays_away(&pair, "after a check");
        for command in [&["SAVE"][..], &["BGREWRITEAOF"], &["DEBUG", "RELOAD"]] {
            if command[0] != "BGREWRITEAOF" || is_killed {
                ask(&mut redis, command);
            }
        }
        wait::until("the AOF is rewritten", DEADLINE, || {
            let info = ask_text(&mut redis, &["INFO", "persistence"]).unwrap_or_default();
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        });
        for _ in 0..2 {
            if is_killed {
                pair.redis.kill_hard();
            }
            pair.redis.restart();
            stays_away(&pair, "after a restart");
        }
        run(&mut client, "SELECT tandem.pause_link('redis'); UPDATE tandem.links SET needs_check = true");
        pair.resume();
        stays_away(&pair, "after the link has come anew");
        let mut redis = pair.commands();
        ask(&mut redis, &["FLUSHALL"]);
        stays_away(&pair, "after everything else was dropped and brought back");
        assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "gone", "[5]"])), 5);
        wait::until("the next put wins", DEADLINE, || version_in_postgres(&mut client, "gone") == Some(5));
        assert_eq!(payload(&mut redis, "gone").as_deref(), Some("[5]"));
    }
}

#[test]
fn an_item_that_expires_before_the_link_has_it_reaches_postgres_once() {
    let mut pair = Pair::start();
    streams(&pair);
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    ask(&mut redis, &["TANDEM.PUT", "old", "[1]"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "new", "[1]", "PX", "20"]);
    ask(&mut redis, &["TANDEM.PUT", "old", "[2]", "PX", "20"]);
    wait::until("both have expired", DEADLINE, || is_gone(&mut redis, "new") && is_gone(&mut redis, "old"));
    pair.resume();
    let arrives = |client: &mut Client| {
        wait::until("both are in Postgres", DEADLINE, || {
            version_in_postgres(client, "new") == Some(1) && version_in_postgres(client, "old") == Some(2)
        });
    };
    arrives(&mut client);
    wait::until_or(DEADLINE, || is_equal(&mut client, &mut redis), || pair.report());
    assert_eq!((payload(&mut redis, "new"), payload(&mut redis, "old")), (None, None));
    assert_eq!(ask_number(&mut redis, &["DBSIZE"]), 0);

    // It has expired when the file is loaded, which tells nobody.
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "file", "[1]", "PX", "1500"]);
    ask(&mut redis, &["TANDEM.PUT", "old", "[3]", "PX", "1500"]);
    ask(&mut redis, &["CONFIG", "SET", "appendonly", "no"]);
    ask(&mut redis, &["SAVE"]);
    assert_eq!(ask_number(&mut redis, &["EXISTS", "file", "old"]), 2, "the file has them");
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1600);
    pair.redis.kill_hard();
    pair.redis.set_options(Options::in_memory());
    wait::until("their time has passed", DEADLINE, || std::time::Instant::now() > until);
    pair.redis.restart();
    let mut redis = pair.commands();
    assert_eq!(ask_number(&mut redis, &["DBSIZE"]), 0, "nothing of it was loaded");
    pair.resume();
    wait::until_or(
        DEADLINE,
        || {
            version_in_postgres(&mut client, "file") == Some(1)
                && version_in_postgres(&mut client, "old") == Some(3)
        },
        || pair.report(),
    );
    wait::until_or(DEADLINE, || is_equal(&mut client, &mut redis), || pair.report());
    assert_eq!(ask_number(&mut redis, &["DBSIZE"]), 0, "nothing came back");
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "old", "[4]"])), 4);
}

#[test]
fn what_postgres_writes_later_replaces_what_has_expired() {
    let pair = mirror();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for id in ["changed", "removed", "twice"] {
        expire(&mut redis, id, "[1]");
    }
    run(&mut client, "SELECT tandem.put('changed', '[2]'); SELECT tandem.delete('removed')");
    wait::until("the newer one is here", DEADLINE, || {
        payload(&mut redis, "changed").as_deref() == Some("[2]")
    });
    wait::until("the removal is known", DEADLINE, || field(&mut redis, "tombstones") == 1);
    assert_eq!(field(&mut redis, "ghosts"), 1, "the third has not changed");
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "removed", "[3]"])), 3, "counted on from the removal");
    // While the link is away.
    pair.pause();
    run(&mut client, "SELECT tandem.put('twice', '[2]')");
    pair.resume();
    wait::until("the newer one is here", DEADLINE, || payload(&mut redis, "twice").as_deref() == Some("[2]"));
    pair.settle_at(3);
    check_redis(&mut redis, "in the end");
}

#[test]
fn a_promoted_replica_knows_what_has_expired() {
    let pair = Pair::with(&pg::Options::default(), Options::durable().with("repl-diskless-sync-delay", "0"));
    streams(&pair);
    let replica = Redis::start(Options::durable());
    let (mut client, mut redis, mut to_replica) = (pair.sql(), pair.commands(), replica.connect());
    expire(&mut redis, "before", "[1]");
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &pair.redis.port().to_string()]);
    wait::until("the replica is in step", DEADLINE, || field(&mut to_replica, "ghosts") == 1);
    expire(&mut redis, "after", "[1]");
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "late", "[1]", "PX", "20"]);
    wait::until("it has expired", DEADLINE, || is_gone(&mut redis, "late"));
    assert_eq!(ask_number(&mut redis, &["WAIT", "1", "60000"]), 1);
    assert_eq!(field(&mut to_replica, "ghosts"), 3);
    assert_eq!(root_of_redis(&mut redis), root_of_redis(&mut to_replica));
    let Pair { postgres: _postgres, redis: master, .. } = pair;
    drop(master);
    ask(&mut to_replica, &["REPLICAOF", "NO", "ONE"]);
    assert_eq!(version(ask(&mut to_replica, &["TANDEM.PUT", "before", "[2]"])), 2, "before any comparison");
    run(
        &mut client,
        &format!("UPDATE tandem.links SET url = '{}'; SELECT tandem.resume_link('redis')", replica.url()),
    );
    wait::until("all of it is in Postgres", DEADLINE, || {
        version_in_postgres(&mut client, "late") == Some(1)
            && version_in_postgres(&mut client, "before") == Some(2)
    });
    wait::until("both are equal", DEADLINE, || is_equal(&mut client, &mut to_replica));
    assert_eq!(ask_number(&mut to_replica, &["DBSIZE"]), 1, "nothing came back");
}

/// The link is up, and takes some of them before they expire, and others afterwards.
#[test]
fn items_that_live_for_a_moment_reach_postgres_and_stay_away() {
    let pair = mirror();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for number in 0..300 {
        let time = (number % 5 + 1).to_string();
        ask(&mut redis, &["TANDEM.PUT", &format!("otp:{number}"), "1", "PX", &time]);
    }
    wait::until("all have expired", DEADLINE, || ask_number(&mut redis, &["DBSIZE"]) == 0);
    wait::until_or(
        DEADLINE,
        || value::<i64>(&mut client, "SELECT tandem.count()") == 300 && is_equal(&mut client, &mut redis),
        || pair.report(),
    );
    assert_eq!(ask_number(&mut redis, &["DBSIZE"]), 0, "none came back");
    assert_eq!(field(&mut redis, "pending"), 0);
}

/// What expires at a key says nothing of an item that is not at it.
#[test]
fn the_expiry_of_what_is_no_item_settles_nothing() {
    let server = Redis::start(Options::in_memory());
    let (mut redis, mut worker) = (server.connect(), server.connect());
    let link = by_hand::attach(&mut worker, "pg");
    for id in ["removed", "dropped"] {
        ask(&mut redis, &["TANDEM.PUT", id, "1"]);
    }
    ask(&mut redis, &["TANDEM.REMOVE", "removed"]);
    ask(&mut redis, &["DEL", "dropped"]);
    ask(&mut redis, &["SET", "removed", "tmp", "PX", "5"]);
    ask(&mut redis, &["TANDEM.PUT", "dropped", "1", "PX", "5", "LOCAL"]);
    wait::until("both expire", DEADLINE, || is_gone(&mut redis, "removed") && is_gone(&mut redis, "dropped"));
    let pulled = by_hand::pull(&mut worker, "pg", &link, 0);
    let seen: Vec<(&str, bool)> =
        pulled.iter().map(|(_, id, revision)| (id.as_str(), revision.is_some())).collect();
    assert_eq!(seen, [("removed", true), ("dropped", true), ("dropped", false)], "{pulled:?}");
    ask(&mut redis, &["TANDEM.PUT", "other", "1"]);
    ask(&mut redis, &["FLUSHALL"]);
    ask(&mut redis, &["SET", "", "v", "PX", "5"]);
    wait::until("it expires", DEADLINE, || is_gone(&mut redis, ""));
    assert!(
        by_hand::pull(&mut worker, "pg", &link, 0).iter().any(|(_, id, _)| id.is_empty()),
        "all were dropped"
    );
}

#[test]
fn a_time_to_live_that_has_passed_already_is_an_expiry() {
    let pair = mirror();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let past: [&[&str]; 6] = [
        &["EXPIRE", "x", "0"],
        &["PEXPIRE", "x", "-1"],
        &["EXPIREAT", "x", "1"],
        &["PEXPIREAT", "x", "1"],
        &["EVAL", "return redis.call('PEXPIRE', KEYS[1], -5)", "1", "x"],
        &["MULTI"],
    ];
    for (round, command) in past.iter().enumerate() {
        ask(&mut redis, &["TANDEM.PUT", "x", &round.to_string()]);
        assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
        ask(&mut redis, command);
        if command[0] == "MULTI" {
            ask(&mut redis, &["EXPIRE", "x", "0"]);
            ask(&mut redis, &["EXEC"]);
        }
        assert_eq!(field(&mut redis, "ghosts"), 1, "{command:?}");
        wait::until_or(
            DEADLINE,
            || is_equal(&mut client, &mut redis),
            || format!("{command:?}\n{}", pair.report()),
        );
        assert!(is_gone(&mut redis, "x"), "{command:?}: it is meant to be gone");
    }
    // DEL drops a copy, and the link brings it back.
    ask(&mut redis, &["TANDEM.PUT", "x", "[9]"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    ask(&mut redis, &["DEL", "x"]);
    wait::until("it is back", DEADLINE, || !is_gone(&mut redis, "x"));
}

fn status(redis: &mut Connection, id: &str) -> [String; 3] {
    let Value::Array(words) = ask(redis, &["TANDEM.STATUS", id]) else { panic!("a status is a record") };
    [3, 5, 7].map(|place| match &words[place] {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => "-".to_owned(),
    })
}

/// As long as nobody can be asked, a copy that was dropped is not called absent.
#[test]
fn a_dropped_copy_is_not_called_absent() {
    let pair = mirror();
    let mut redis = pair.commands();
    for id in ["g", "h"] {
        ask(&mut redis, &["TANDEM.PUT", id, "[1]"]);
    }
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    expire(&mut redis, "e", "[1]");
    let mut pair = pair;
    pair.postgres.stop();
    ask(&mut redis, &["DEL", "g"]);
    wait::until("the loss is noticed", DEADLINE, || {
        send(&mut redis, &["TANDEM.GET", "g"]).is_err_and(|error| error.code() == Some("NOLINK"))
    });
    for words in [["TANDEM.EXISTS", "g"], ["TANDEM.MGET", "g"], ["TANDEM.MEXISTS", "g"]] {
        assert!(error(&mut redis, &words).starts_with("NOLINK"), "{words:?}");
    }
    assert_eq!(status(&mut redis, "g"), ["dropped", "postgres", "to_redis"]);
    assert_eq!(status(&mut redis, "e"), ["expired", "postgres", "-"]);
    assert_eq!(payload(&mut redis, "h").as_deref(), Some("[1]"));
    assert_eq!((payload(&mut redis, "e"), payload(&mut redis, "never")), (None, None));
    pair.postgres.restart();
    wait::until("the copy is back", DEADLINE, || {
        matches!(send(&mut redis, &["TANDEM.GET", "g", "PAYLOAD"]), Ok(Value::BulkString(_)))
    });
}

/// A key of another type takes the place of an item, whose copy the link cannot bring back.
#[test]
fn an_item_whose_key_was_taken_is_known_when_the_key_is_free() {
    let pair = mirror();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for id in ["put", "first", "read"] {
        for content in ["\"a\"", "\"b\"", "\"c\""] {
            ask(&mut redis, &["TANDEM.PUT", id, content]);
        }
    }
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    for id in ["put", "first", "read"] {
        ask(&mut redis, &["SET", id, "a string"]);
    }
    wait::until("the copies have no place", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters") == 3
    });
    wait::until("nothing waits", DEADLINE, || ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) == 0);
    ask(&mut redis, &["DEL", "put", "first", "read"]);
    assert!(error(&mut redis, &["TANDEM.PUT", "first", "\"new\"", "IFABSENT"]).starts_with("EXISTS"));
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "put", "\"new\""])), 4);
    assert_eq!(payload(&mut redis, "read").as_deref(), Some("\"c\""));
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    assert_eq!(payload_in_postgres(&mut client, "put").as_deref(), Some("\"new\""));
    wait::until_or(DEADLINE, || is_equal(&mut client, &mut redis), || pair.report());
}

/// What has expired stands for its copy only as far as the other side is known to have it.
#[test]
fn a_ghost_counts_where_the_other_side_has_the_copy() {
    let server = Redis::start(Options::in_memory());
    let (mut redis, mut worker) = (server.connect(), server.connect());
    let root = |redis: &mut Connection| root_of_redis(redis);
    let expire = |redis: &mut Connection, id: &str| {
        ask(redis, &["PEXPIRE", id, "5"]);
        wait::until("it expires", DEADLINE, || is_gone(redis, id));
    };
    ask(&mut redis, &["TANDEM.PUT", "x", "[1]"]);
    let of_x = root(&mut redis);
    let words: [&[u8]; 3] = [b"TANDEM.LINK", b"FETCH", b"x"];
    let Ok(Value::Array(fetched)) = send(&mut redis, &words) else { panic!("FETCH answers") };
    let Value::BulkString(revision) = fetched[0].clone() else { panic!("x is there") };
    // It was there before the link, which has not compared yet.
    by_hand::try_attach(&mut worker, &by_hand::attachment("pg")).expect("it is nobody's");
    expire(&mut redis, "x");
    assert_eq!(
        (root(&mut redis), field(&mut redis, "ghosts")),
        (None, 1),
        "nobody knows what the other side has"
    );
    let push = |redis: &mut Connection| {
        let words: [&[u8]; 5] = [b"TANDEM.LINK", b"PUSH", b"pg", b"x", &revision];
        send(redis, &words).expect("PUSH answers")
    };
    assert_eq!(push(&mut worker), Value::Array(vec![Value::BulkString(b"unchanged".to_vec())]));
    assert_eq!(
        (root(&mut redis), ask_number(&mut redis, &["DBSIZE"])),
        (of_x.clone(), 0),
        "it has it, and it stays away"
    );
    // A comparison that finds it here only asks for it; where it does so again nothing came of it.
    for counts in [true, false] {
        let Ok(Value::Array(fetched)) = send(&mut worker, &words) else { panic!("FETCH answers") };
        assert_eq!(fetched, [Value::Nil]);
        assert_eq!(root(&mut redis).is_some(), counts);
    }
    assert_eq!(push(&mut worker), Value::Array(vec![Value::BulkString(b"unchanged".to_vec())]));
    assert_eq!(root(&mut redis), of_x);

    // What is on its way counts, and what was refused does not.
    ask(&mut worker, &["TANDEM.LINK", "READY", "pg"]);
    ask(&mut redis, &["TANDEM.PUT", "y", "[1]"]);
    let with_y = root(&mut redis);
    expire(&mut redis, "y");
    assert_eq!(root(&mut redis), with_y);
    ask(&mut redis, &["TANDEM.PUT", "z", "[1]"]);
    let attached = by_hand::attach_as(&mut worker, &by_hand::attachment("pg"));
    let seq = attached.seq.to_string();
    ask(&mut worker, &["TANDEM.LINK", "ACK", "pg", &attached.run, &seq, "REFUSED", "z"]);
    expire(&mut redis, "z");
    assert_eq!(root(&mut redis), with_y);
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "z", "[2]"])), 2);
}
