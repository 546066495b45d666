//! Cache mode and read-through: Redis holds what was read or written there, and asks Postgres for the rest.

use ::redis::{Connection, Value};
use postgres::Client;
use rustix::process::Signal;
use std::collections::BTreeSet;
use tandem_tests::census::check_redis;
use tandem_tests::guard;
use tandem_tests::pair::{Pair, count_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Servers with a link in cache mode over `c:`; Postgres has so many items there, `c:0000` and so on, at version 3.
fn cache(count: usize, options: Options) -> Pair {
    let redis = Redis::start(options);
    let postgres = Postgres::with_extension(&pg::Options { fsync: true, ..pg::Options::default() });
    let mut client = postgres.connect();
    run(
        &mut client,
        &format!(
            "SELECT tandem.put('c:' || to_char(n, 'FM0000'), jsonb_build_object('n', n)::text, version => 3) \
             FROM generate_series(0, {count} - 1) n"
        ),
    );
    let link = value(
        &mut client,
        &format!("SELECT tandem.link('{}', mode => 'cache', prefix => 'c:')", redis.url()),
    );
    let pair = Pair { postgres, redis, link };
    served(&pair);
    pair
}

/// Waits until the link's reader serves and the filter of ids is complete.
fn served(pair: &Pair) {
    let mut redis = pair.commands();
    wait::until_or(
        DEADLINE,
        || filter(&mut redis) == "complete" && reader(&mut pair.sql()).is_some(),
        || format!("the link serves readers\n{}", pair.report()),
    );
    let is_served = || match send(&mut redis, &["TANDEM.GET", "c:nobody has this"]) {
        Ok(answer) => answer == Value::Nil,
        Err(_) => false,
    };
    wait::until("a look for an absent id is answered", DEADLINE, is_served);
}

fn filter(redis: &mut Connection) -> String {
    let Value::Array(links) = ask(redis, &["TANDEM.LINK", "LIST"]) else { return String::new() };
    let Some(Value::Array(link)) = links.first() else { return String::new() };
    match link.last() {
        Some(Value::BulkString(state)) => String::from_utf8_lossy(state).into_owned(),
        _ => String::new(),
    }
}

/// The process that reads for the link.
fn reader(client: &mut Client) -> Option<u32> {
    let pids = rows(client, "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tandem reader %'");
    pids.first().map(|row| row.get::<_, i32>(0) as u32)
}

/// A counter of INFO tandem.
fn counter(redis: &mut Connection, name: &str) -> i64 {
    let info = ask_text(redis, &["INFO", "tandem"]).unwrap_or_default();
    let field = format!("tandem_{name}:");
    let line = info.lines().find_map(|line| line.strip_prefix(&field));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {field} in {info}"))
}

fn payload(redis: &mut Connection, id: &str) -> Option<String> {
    ask_text(redis, &["TANDEM.GET", id, "PAYLOAD"])
}

fn error(redis: &mut Connection, words: &[&str]) -> String {
    match send(redis, words) {
        Ok(answer) => panic!("{words:?}: {answer:?}"),
        Err(error) => format!("{} {}", error.code().unwrap_or(""), error.detail().unwrap_or("")),
    }
}

fn version_in_postgres(client: &mut Client, id: &str) -> Option<i64> {
    value(client, &format!("SELECT (SELECT version FROM tandem.items WHERE id = '{id}')"))
}

/// Waits until Postgres has an id at a version.
fn reaches_postgres(pair: &Pair, id: &str, version: Option<i64>) {
    let mut client = pair.sql();
    wait::until_or(
        DEADLINE,
        || version_in_postgres(&mut client, id) == version,
        || format!("{id} is at {version:?} in Postgres\n{}", pair.report()),
    );
}

#[test]
fn an_absent_id_is_brought_when_it_is_read() {
    let pair = cache(50, Options::durable());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    assert_eq!(count_of_redis(&mut redis), 0, "nothing is sent unasked");
    assert_eq!(payload(&mut redis, "c:0007").as_deref(), Some("{\"n\":7}"));
    let Value::Array(many) = ask(&mut redis, &["TANDEM.MGET", "c:0001", "c:none", "c:0002", "c:0007"]) else {
        panic!("MGET answers an array")
    };
    let there: Vec<bool> = many.iter().map(|item| *item != Value::Nil).collect();
    assert_eq!(there, [true, false, true, true]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.EXISTS", "c:0003", "c:none", "c:0004"]), 2);
    assert_eq!(ask_number(&mut redis, &["TANDEM.STATE", "HAS", "c:0005", "default"]), 1);
    assert_eq!(count_of_redis(&mut redis), 6, "what was asked for is here, and nothing else");
    assert_eq!(payload(&mut redis, "outside"), None, "the link does not carry it");
    check_redis(&mut redis, "after reading through");

    // What is cached follows Postgres; what is not is left alone.
    run(&mut client, "UPDATE tandem.items SET payload = '[1]' WHERE id IN ('c:0007', 'c:0040')");
    run(&mut client, "SELECT tandem.delete('c:0001')");
    wait::until("the cached copy follows", DEADLINE, || {
        payload(&mut redis, "c:0007").as_deref() == Some("[1]")
    });
    wait::until("a removed one goes", DEADLINE, || payload(&mut redis, "c:0001").is_none());
    assert_eq!(count_of_redis(&mut redis), 5);
    // A copy that is dropped stays away until it is read.
    ask(&mut redis, &["DEL", "c:0007", "c:0002"]);
    wait::until("the link takes note", DEADLINE, || ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) == 0);
    assert_eq!(count_of_redis(&mut redis), 3);
    assert_eq!(payload(&mut redis, "c:0007").as_deref(), Some("[1]"));
    ask(&mut redis, &["FLUSHALL"]);
    assert_eq!(payload(&mut redis, "c:0007").as_deref(), Some("[1]"));
    let census = check_redis(&mut redis, "after FLUSHALL");
    assert_eq!(census.count, 1);
}

#[test]
fn many_readers_of_one_id_are_one_fetch() {
    let pair = cache(5, Options::in_memory());
    let mut redis = pair.commands();
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-timeout-ms", "60000"]);
    let pid = reader(&mut pair.sql()).expect("a reader");
    guard::send(pid, Signal::STOP);
    let found = counter(&mut redis, "fetches_found");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..40)
            .map(|_| {
                let mut redis = pair.commands();
                scope.spawn(move || payload(&mut redis, "c:0003"))
            })
            .collect();
        let waiting = |redis: &mut Connection| {
            let info = ask_text(redis, &["INFO", "clients"]).unwrap_or_default();
            let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:").map(str::to_owned));
            line.and_then(|count| count.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        wait::until("all readers wait", DEADLINE, || waiting(&mut redis) >= 40);
        guard::send(pid, Signal::CONT);
        for reader in readers {
            assert_eq!(reader.join().expect("a reader ends").as_deref(), Some("{\"n\":3}"));
        }
    });
    assert_eq!(counter(&mut redis, "fetches_found"), found + 1);
}

#[test]
fn what_is_nowhere_is_known_without_asking_again() {
    let pair = cache(200, Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let asked = counter(&mut redis, "fetches_asked");
    for number in 0..200 {
        assert_eq!(payload(&mut redis, &format!("c:none.{number}")), None);
    }
    assert!(counter(&mut redis, "fetches_asked") - asked < 40, "the filter answers nearly all");
    // The filter learns of what is new, removed and new again.
    for round in 0..3 {
        for number in 0..20 {
            run(&mut client, &format!("SELECT tandem.put('c:none.{number}', '{round}')"));
        }
        let expected = round.to_string();
        for number in 0..20 {
            wait::until("a new id is found", DEADLINE, || {
                payload(&mut redis, &format!("c:none.{number}")).as_deref() == Some(expected.as_str())
            });
        }
        run(&mut client, "SELECT tandem.delete_prefix('c:none.')");
        wait::until("removed ids are not", DEADLINE, || {
            (0..20).all(|number| payload(&mut redis, &format!("c:none.{number}")).is_none())
        });
    }
    // Also where nothing is to be remembered, who has waited learns that there is nothing.
    ask(&mut redis, &["CONFIG", "SET", "tandem.absent-memory-ms", "0"]);
    run(&mut client, "SELECT tandem.put('c:once', '1'); SELECT tandem.delete('c:once')");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.wait_synced(60000)"), 1);
    ask(&mut redis, &["FLUSHALL"]);
    for number in 0..20 {
        assert_eq!(payload(&mut redis, &format!("c:none at all.{number}")), None);
    }
    ask(&mut redis, &["CONFIG", "SET", "tandem.absent-memory-ms", "60000"]);
    run(&mut client, "SELECT tandem.unlink(name) FROM tandem.links()");
    wait::until("the link is gone", DEADLINE, || {
        ask(&mut redis, &["TANDEM.LINK", "LIST"]) == Value::Array(vec![])
    });
    assert_eq!(payload(&mut redis, "c:0001"), None, "without a link it is nil at once");
}

#[test]
fn writes_of_what_is_not_here_know_what_postgres_has() {
    let pair = cache(20, Options::durable());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let version = |answer: Value| match answer {
        Value::Array(words) => words[1].clone(),
        other => other,
    };
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "c:0001", "[1]"])), Value::Int(4));
    assert_eq!(version(ask(&mut redis, &["TANDEM.MERGE", "c:0002", "{\"m\":1}"])), Value::Int(4));
    assert_eq!(payload(&mut redis, "c:0002").as_deref(), Some("{\"m\":1,\"n\":2}"));
    assert!(error(&mut redis, &["TANDEM.PUT", "c:0003", "[1]", "IFABSENT"]).starts_with("EXISTS"));
    assert!(error(&mut redis, &["TANDEM.PUT", "c:0004", "[1]", "VERSION", "2"]).starts_with("STALE"));
    assert_eq!(ask_number(&mut redis, &["TANDEM.REMOVE", "c:0005"]), 1);
    assert_eq!(
        version(ask(&mut redis, &["TANDEM.STATE", "MOVE", "c:0006", "default", "hot"])),
        Value::Int(4)
    );
    ask(&mut redis, &["TANDEM.MPUT", "2", "c:0007", "[7]", "c:new", "[8]"]);
    ask(&mut redis, &["TANDEM.MREMOVE", "2", "c:0008", "c:none"]);
    ask(&mut redis, &["TANDEM.BATCH", r#"[{"op":"merge","id":"c:0009","patch":{"m":2}}]"#]);
    assert_eq!(payload(&mut redis, "c:0009").as_deref(), Some("{\"m\":2,\"n\":9}"));
    assert_eq!(ask_text(&mut redis, &["TANDEM.GET", "c:0010", "PAYLOAD"]).as_deref(), Some("{\"n\":10}"));
    for (id, there) in [
        ("c:0001", Some(4)),
        ("c:0002", Some(4)),
        ("c:0003", Some(3)),
        ("c:0005", None),
        ("c:0006", Some(4)),
        ("c:0007", Some(4)),
        ("c:new", Some(1)),
        ("c:0008", None),
        ("c:0009", Some(4)),
    ] {
        reaches_postgres(&pair, id, there);
    }
    let conflicts: i64 = value(&mut client, "SELECT count(*) FROM tandem.conflicts");
    assert_eq!(conflicts, 0);
    // A removed id has a version too, from which a put counts on.
    run(&mut client, "SELECT tandem.put('c:gone', '1', version => 6); SELECT tandem.delete('c:gone')");
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.wait_synced(60000)"), 1);
    assert_eq!(version(ask(&mut redis, &["TANDEM.PUT", "c:gone", "[1]"])), Value::Int(8));
    reaches_postgres(&pair, "c:gone", Some(8));
    // What was written here and dropped before Postgres had it is not lost to the next reader.
    assert!(payload(&mut redis, "c:0011").is_some());
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "c:0011", "[11]"]);
    ask(&mut redis, &["DEL", "c:0011"]);
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-timeout-ms", "60000"]);
    pair.resume();
    // Until the link is back nobody can say; the first answer is the right one.
    let answer = wait::until_some("the id is read", DEADLINE, || {
        send(&mut redis, &["TANDEM.GET", "c:0011", "PAYLOAD"]).ok()
    });
    assert_eq!(answer, Value::BulkString(b"[11]".to_vec()));
}

#[test]
fn what_cannot_be_known_is_refused_and_not_guessed() {
    let mut pair = cache(20, Options::durable());
    let mut redis = pair.commands();
    assert!(payload(&mut redis, "c:0001").is_some());
    // Nobody can wait inside a transaction.
    for (words, code) in [
        (&["TANDEM.GET", "c:0002"][..], Some("NOLINK")),
        (&["TANDEM.PUT", "c:0002", "1"], Some("NOLINK")),
        (&["TANDEM.GET", "c:0001"], None),
        (&["TANDEM.GET", "outside"], None),
    ] {
        ask(&mut redis, &["MULTI"]);
        ask(&mut redis, words);
        let executed = send(&mut redis, &["EXEC"]);
        let refused = executed.err().and_then(|error| error.code().map(str::to_owned));
        assert_eq!(refused.as_deref(), code, "{words:?}");
    }

    // A reader that does not answer.
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-timeout-ms", "200"]);
    let pid = reader(&mut pair.sql()).expect("a reader");
    guard::send(pid, Signal::STOP);
    let late = error(&mut redis, &["TANDEM.GET", "c:0003"]);
    assert!(late.starts_with("TIMEOUT") && late.contains("c:0003") && late.contains("200 ms"), "{late}");
    assert!(error(&mut redis, &["TANDEM.PUT", "c:0003", "[]"]).starts_with("TIMEOUT"));
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-ids-max", "1"]);
    assert!(error(&mut redis, &["TANDEM.GET", "c:0004"]).starts_with("BACKPRESSURE"));
    ask(&mut redis, &["CONFIG", "SET", "tandem.fetch-ids-max", "10000"]);
    guard::send(pid, Signal::CONT);
    wait::until("it is fetched later", DEADLINE, || {
        matches!(send(&mut redis, &["TANDEM.GET", "c:0003", "PAYLOAD"]), Ok(Value::BulkString(_)))
    });

    // Postgres is away: what is here is served, what is not is not taken for absent; what is surely new is written.
    pair.postgres.stop();
    let mut answer = String::new();
    wait::until("the loss is noticed", DEADLINE, || {
        answer = error(&mut redis, &["TANDEM.GET", "c:0005"]);
        answer.starts_with("NOLINK")
    });
    assert!(error(&mut redis, &["TANDEM.PUT", "c:0005", "[]"]).starts_with("NOLINK"));
    assert_eq!(payload(&mut redis, "c:0001").as_deref(), Some("{\"n\":1}"));
    ask(&mut redis, &["TANDEM.PUT", "c:0001", "[\"during\"]"]);
    ask(&mut redis, &["TANDEM.PUT", "c:surely new", "[\"new\"]"]);
    assert_eq!(payload(&mut redis, "c:none"), None);

    // After a restart of Redis as well, while Postgres is still away.
    pair.redis.restart();
    let mut redis = pair.commands();
    assert!(error(&mut redis, &["TANDEM.GET", "c:0005"]).starts_with("NOLINK"));
    assert_eq!(payload(&mut redis, "c:0001").as_deref(), Some("[\"during\"]"));
    pair.postgres.restart();
    reaches_postgres(&pair, "c:0001", Some(4));
    reaches_postgres(&pair, "c:surely new", Some(1));
    wait::until("what is not here is read again", DEADLINE, || {
        matches!(send(&mut redis, &["TANDEM.GET", "c:0005", "PAYLOAD"]), Ok(Value::BulkString(_)))
    });
    check_redis(&mut redis, "in the end");
}

#[test]
fn a_small_memory_serves_all_of_postgres() {
    const ITEMS: usize = 400;
    let pair = cache(ITEMS, Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "UPDATE tandem.items SET payload = jsonb_build_object('n', payload->'n', 'filler', repeat(md5(id), 600))",
    );
    let used: i64 = ask_text(&mut redis, &["INFO", "memory"])
        .and_then(|info| info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()))
        .expect("used memory");
    ask(&mut redis, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", &(used + 2_000_000).to_string()]);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (mut redis, pair) = (pair.commands(), &pair);
            scope.spawn(move || {
                for step in 0..300 {
                    let number = (step * 7 + reader * 131) % ITEMS;
                    let words = ["TANDEM.GET", &format!("c:{number:04}"), "PAYLOAD"];
                    let found = match send(&mut redis, &words) {
                        Ok(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
                        other => panic!("{words:?}: {other:?}\n{}", pair.report()),
                    };
                    assert!(found.contains(&format!("\"n\":{number}}}")), "c:{number:04} is {:.40}", found);
                }
            });
        }
    });
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", "0"]);
    assert!(count_of_redis(&mut redis) < ITEMS as i64 / 2, "most were evicted");
    check_redis(&mut redis, "after evictions");
}

#[test]
fn a_mirror_answers_for_what_it_has_dropped() {
    let pair = Pair::start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "SELECT tandem.put('m:' || n, jsonb_build_object('n', n)::text) FROM generate_series(1, 500) n",
    );
    pair.settle_at(500);
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        ask(&mut redis, &["FLUSHALL"]);
        seen.insert(payload(&mut redis, "m:499"));
        ask(&mut redis, &["DEL", "m:77"]);
        ask(&mut redis, &["TANDEM.MERGE", "m:77", "{\"m\":1}"]);
        seen.insert(payload(&mut redis, "m:77"));
    }
    assert_eq!(seen, BTreeSet::from([Some("{\"n\":499}".to_owned()), Some("{\"m\":1,\"n\":77}".to_owned())]));
    pair.settle_at(500);
    assert_eq!(payload(&mut redis, "m:none"), None);
    // An expired copy is gone, and what is put there next counts on from it.
    ask(&mut redis, &["TANDEM.PUT", "m:5", "[1]", "PX", "300"]);
    wait::until("the copy expires", DEADLINE, || ask_number(&mut redis, &["EXISTS", "m:5"]) == 0);
    ask(&mut redis, &["TANDEM.PUT", "m:5", "[2]"]);
    reaches_postgres(&pair, "m:5", Some(3));
    let merged: String = value(&mut client, "SELECT payload::text FROM tandem.items WHERE id = 'm:77'");
    assert_eq!(merged, "{\"m\": 1, \"n\": 77}");
}

#[test]
fn of_many_defaults_one_is_stored_and_all_see_it() {
    let pair = cache(5, Options::in_memory());
    for round in 0..10 {
        let id = format!("c:one.{round}");
        let seen: BTreeSet<String> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|caller| {
                    let (mut client, mut redis, id) = (pair.sql(), pair.commands(), &id);
                    scope.spawn(move || {
                        let default = format!("[{caller}]");
                        if caller % 2 == 0 {
                            let query =
                                format!("SELECT payload::text FROM tandem.get_or_put('{id}', '{default}')");
                            return value::<String>(&mut client, &query);
                        }
                        let Value::Array(item) = ask(&mut redis, &["TANDEM.GETORPUT", id, &default]) else {
                            panic!("GETORPUT answers an item")
                        };
                        match &item[11] {
                            Value::BulkString(payload) => String::from_utf8_lossy(payload).into_owned(),
                            other => panic!("the payload is {other:?}"),
                        }
                    })
                })
                .collect();
            callers.into_iter().map(|caller| caller.join().expect("a caller ends")).collect()
        });
        assert_eq!(seen.len(), 1, "one value for all: {seen:?}");
    }
    let conflicts: i64 = value(&mut pair.sql(), "SELECT count(*) FROM tandem.conflicts");
    assert_eq!(conflicts, 0);
}

#[test]
fn a_check_compares_what_the_cache_holds() {
    let pair = cache(30, Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for number in 0..10 {
        assert!(payload(&mut redis, &format!("c:000{number}")).is_some());
    }
    let check = |client: &mut Client, dry_run: bool| {
        let query = format!("SELECT * FROM tandem.reconcile('{}', dry_run => {dry_run})", pair.link);
        let row = rows(client, &query).remove(0);
        (row.get::<_, String>("answer"), row.get::<_, i64>("differences"), row.get::<_, i64>("repaired"))
    };
    wait::until("both sides are equal", DEADLINE, || check(&mut client, true) == ("equal".to_owned(), 0, 0));
    pair.pause();
    // Held and changed, held and removed, not held; and in Redis: changed, new, and dropped.
    run(&mut client, "UPDATE tandem.items SET payload = '[1]' WHERE id IN ('c:0001', 'c:0020')");
    run(&mut client, "SELECT tandem.delete('c:0002')");
    ask(&mut redis, &["TANDEM.PUT", "c:0003", "[3]"]);
    ask(&mut redis, &["DEL", "c:0004"]);
    // Those four wait for the paused link, in the log or in Redis, so a look says that all is on its way.
    assert_eq!(check(&mut client, true), ("incomplete".to_owned(), 3, 0));
    assert_eq!(check(&mut client, false), ("equal".to_owned(), 3, 3));
    assert_eq!(count_of_redis(&mut redis), 8, "nothing was brought that was not held");
    assert_eq!(payload(&mut redis, "c:0001").as_deref(), Some("[1]"));
    let there: String = value(&mut client, "SELECT payload::text FROM tandem.items WHERE id = 'c:0003'");
    assert_eq!(there, "[3]");
    pair.resume();
    served(&pair);
    // The filter has answered for what nobody has; the link's reader may still be on its way.
    wait::until("what was not held is read", DEADLINE, || {
        send(&mut redis, &["TANDEM.GET", "c:0020", "PAYLOAD"]).is_ok_and(|answer| answer != Value::Nil)
    });
    assert_eq!(payload(&mut redis, "c:0020").as_deref(), Some("[1]"));
    assert_eq!(payload(&mut redis, "c:0002"), None);
    wait::until("both sides are equal", DEADLINE, || check(&mut client, true) == ("equal".to_owned(), 0, 0));
    let checked = "SELECT last_check_answer FROM tandem.link_status WHERE direction = 'to_redis'";
    assert_eq!(value::<Option<String>>(&mut client, checked).as_deref(), Some("equal"));
}
