//! What everybody expects of a command in Redis: a write that changes nothing disturbs nobody, what tandem looks at
//! for itself is no read, and a reply is whole.

use ::redis::{Connection, Value};
use tandem_tests::by_hand::{attachment_of, try_attach};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::wait::{self, DEADLINE};

fn refusal(connection: &mut Connection, words: &[&str]) -> String {
    match send(connection, words) {
        Ok(answer) => panic!("{}: {answer:?} is no refusal", words.join(" ")),
        Err(error) => format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default()),
    }
}

/// A number of INFO.
fn counted(connection: &mut Connection, section: &str, name: &str) -> i64 {
    let info = ask_text(connection, &["INFO", section]).expect("INFO answers");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is not in {info}"))
}

fn field(reply: &Value, name: &str) -> Value {
    let Value::Array(words) = reply else { panic!("{reply:?} is no record") };
    let is_it = |word: &Value| *word == Value::BulkString(name.as_bytes().to_vec());
    let at = words.chunks(2).position(|pair| is_it(&pair[0]));
    words[2 * at.unwrap_or_else(|| panic!("{name} is not in {reply:?}")) + 1].clone()
}

/// Whether `by` another connection aborts a transaction over the key.
fn aborts(watcher: &mut Connection, writer: &mut Connection, key: &str, by: &[&str]) -> bool {
    ask(watcher, &["WATCH", key]);
    let _ = send(writer, by);
    ask(watcher, &["MULTI"]);
    ask(watcher, &["ECHO", "done"]);
    ask(watcher, &["EXEC"]) == Value::Nil
}

#[test]
fn what_changes_nothing_aborts_no_transaction() {
    let server = Redis::start(Options::in_memory());
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    ask(&mut writer, &["TANDEM.PUT", "a", "1", "STATE", "cold"]);
    let etag = match field(&ask(&mut writer, &["TANDEM.STATUS", "a"]), "etag") {
        Value::BulkString(etag) => String::from_utf8(etag).expect("hex"),
        other => panic!("{other:?}"),
    };
    let other_etag = etag.chars().rev().collect::<String>();
    for unchanged in [
        &["TANDEM.PUT", "a", "1", "STATE", "cold"][..],
        &["TANDEM.PUT", "a", "2", "IFABSENT"],
        &["TANDEM.PUT", "a", "2", "IFMATCH", &other_etag],
        &["TANDEM.PUT", "a", "2", "VERSION", "1"],
        &["TANDEM.GETORPUT", "a", "2"],
        &["TANDEM.STATE", "SET", "a", "cold"],
        &["TANDEM.REMOVE", "a", "IFMATCH", &other_etag],
        &["TANDEM.MPUT", "1", "a", "1"],
        &["TANDEM.GET", "a"],
        &["TANDEM.MGET", "a"],
        &["TANDEM.VERIFY"],
    ] {
        assert!(!aborts(&mut watcher, &mut writer, "a", unchanged), "{}", unchanged.join(" "));
    }
    assert!(!aborts(&mut watcher, &mut writer, "b", &["TANDEM.REMOVE", "b"]), "there was nothing");
    for changes in [
        &["TANDEM.PUT", "a", "2", "IFMATCH", &etag][..],
        &["TANDEM.STATE", "SET", "a", "hot"],
        &["TANDEM.PUT", "a", "2", "STATE", "hot", "EX", "100"],
        &["TANDEM.PUT", "a", "2", "STATE", "hot"],
        &["TANDEM.PUT", "a", "{}"],
        &["TANDEM.MERGE", "a", r#"{"b":1}"#],
        &["TANDEM.MPUT", "1", "a", "1"],
        &["TANDEM.BATCH", r#"[{"op":"put","id":"a","payload":9}]"#],
        &["TANDEM.REMOVE", "a"],
        &["TANDEM.PUT", "a", "4"],
        &["TANDEM.REMOVEPREFIX", "a"],
        &["TANDEM.PUT", "a", "5", "LOCAL"],
        &["DEL", "a"],
    ] {
        assert!(aborts(&mut watcher, &mut writer, "a", changes), "{}", changes.join(" "));
    }
}

/// A server and its replica, in step.
fn replicated(options: impl Fn() -> Options) -> (Redis, Redis) {
    let (master, replica) = (Redis::start(options()), Redis::start(options()));
    ask(&mut replica.connect(), &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    wait::until("the replica is in step", DEADLINE, || {
        counted(&mut master.connect(), "replication", "connected_slaves") == 1
            && ask_text(&mut replica.connect(), &["INFO", "replication"])
                .is_some_and(|info| info.contains("master_link_status:up"))
    });
    (master, replica)
}

#[test]
fn what_a_replica_is_sent_aborts_transactions_there() {
    let (master, replica) = replicated(Options::in_memory);
    let (mut writer, mut watcher) = (master.connect(), replica.connect());
    for words in [&["TANDEM.PUT", "a", "1"][..], &["TANDEM.PUT", "a", "2"], &["TANDEM.REMOVE", "a"]] {
        ask(&mut watcher, &["WATCH", "a"]);
        ask(&mut writer, words);
        assert_eq!(ask_number(&mut writer, &["WAIT", "1", "0"]), 1);
        ask(&mut watcher, &["MULTI"]);
        ask(&mut watcher, &["ECHO", "done"]);
        assert_eq!(ask(&mut watcher, &["EXEC"]), Value::Nil, "{}", words.join(" "));
    }
}

#[test]
fn a_recount_holds_where_a_copy_has_expired_and_only_another_may_delete_it() {
    let (master, replica) = replicated(|| Options::in_memory().with("enable-debug-command", "yes"));
    let (mut redis, mut copy) = (master.connect(), replica.connect());
    ask(&mut redis, &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    ask(&mut redis, &["TANDEM.PUT", "kept", "1", "STATE", "hot"]);
    ask(&mut redis, &["TANDEM.PUT", "gone", "1", "STATE", "hot", "PX", "1"]);
    ask(&mut redis, &["CLIENT", "PAUSE", "600000", "WRITE"]);
    for (connection, whose) in [(&mut copy, "a replica"), (&mut redis, "a master in a pause")] {
        wait::until("it has expired", DEADLINE, || {
            ask_number(connection, &["EXISTS", "kept"]) == 1
                && ask_number(connection, &["EXISTS", "gone"]) == 0
        });
        for scan in [
            &["TANDEM.SCAN", "", "LIMIT", "1"][..],
            &["TANDEM.STATE", "LIST", "hot", "LIMIT", "1"],
            &["TANDEM.STATE", "GET", "hot", "LIMIT", "1"],
        ] {
            let Value::Array(page) = ask(connection, scan) else { panic!("a page") };
            assert_eq!(page.len(), 1, "{whose}: {}", scan.join(" "));
            assert!(format!("{page:?}").contains(&format!("{:?}", Value::BulkString(b"kept".to_vec()))));
        }
        let verified = ask(connection, &["TANDEM.VERIFY"]);
        assert_eq!(field(&verified, "ok"), Value::Int(1), "{whose}: {verified:?}");
    }
    ask(&mut redis, &["CLIENT", "UNPAUSE"]);
}

#[test]
fn what_tandem_looks_at_for_itself_is_neither_hit_nor_miss() {
    let server = Redis::start(Options::in_memory().with("tandem.fetch-timeout-ms", "20"));
    let mut redis = server.connect();
    ask(&mut redis, &["TANDEM.PUT", "here", "1", "STATE", "hot"]);
    // Of a cache it is asked what is here before anything is written.
    let scope = attachment_of("pg", ["", "cache", "to_redis"]);
    try_attach(&mut redis, &scope).expect("it is nobody's");
    let looks = |redis: &mut Connection| {
        (counted(redis, "stats", "keyspace_hits"), counted(redis, "stats", "keyspace_misses"))
    };
    let before = looks(&mut redis);
    for words in [
        &["TANDEM.PUT", "new", "1", "VERSION", "5"][..],
        &["TANDEM.PUT", "here", "2"],
        &["TANDEM.PUT", "local", "2", "LOCAL"],
        &["TANDEM.MPUT", "2", "here", "1", "newer", "1"],
        &["TANDEM.STATE", "GET", "hot"],
        &["TANDEM.SCAN", ""],
        &["TANDEM.VERIFY"],
        &["TANDEM.LINK", "HOLDS", "pg", "here", "absent"],
        &["TANDEM.LINK", "FETCH", "here", "absent"],
        &["TANDEM.LINK", "LISTRANGE", "100", "", ""],
    ] {
        let _ = send(&mut redis, words);
        assert_eq!(looks(&mut redis), before, "{}", words.join(" "));
    }
    // What clients read counts once an id.
    ask(&mut redis, &["TANDEM.MGET", "here", "local"]);
    assert_eq!(looks(&mut redis), (before.0 + 2, before.1));
    ask(&mut redis, &["TANDEM.EXISTS", "here"]);
    assert_eq!(looks(&mut redis), (before.0 + 3, before.1));
}

#[test]
fn a_fill_that_is_refused_is_one_refusal() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let attachment = attachment_of("pg", ["", "mirror", "from_redis"]);
    try_attach(&mut redis, &attachment).expect("it is nobody's");
    let mut words = vec!["TANDEM.LINK".to_owned(), "FILL".to_owned(), "pg".to_owned()];
    words.extend(attachment.owner.words());
    words.extend(["a", "", "b", ""].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = refusal(&mut redis, &words);
    assert!(text.starts_with("NOLINK"), "{text}");
    assert_eq!(ask_text(&mut redis, &["PING"]).as_deref(), Some("PONG"), "nothing is left of the reply");
}

#[test]
fn a_transaction_with_a_wrong_number_of_arguments_is_refused_as_a_whole() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    for wrong in [
        &["TANDEM.PUT", "a"][..],
        &["TANDEM.GET"],
        &["TANDEM.MGET"],
        &["TANDEM.REMOVE"],
        &["TANDEM.MERGE", "a"],
        &["TANDEM.STATUS", "a", "b"],
        &["TANDEM.STATE", "SET", "a"],
        &["TANDEM.STATE", "MOVE", "a", "b"],
        &["TANDEM.STATE", "COUNT"],
        &["TANDEM.WAIT"],
        &["TANDEM.VERIFY", "a"],
        &["TANDEM.BATCH"],
        &["TANDEM.SCAN"],
    ] {
        ask(&mut redis, &["MULTI"]);
        let text = refusal(&mut redis, wrong);
        assert!(text.contains("wrong number of arguments"), "{}: {text}", wrong.join(" "));
        ask(&mut redis, &["TANDEM.PUT", "done", "1"]);
        let text = refusal(&mut redis, &["EXEC"]);
        assert!(text.starts_with("EXECABORT"), "{}: {text}", wrong.join(" "));
        assert_eq!(ask_number(&mut redis, &["TANDEM.COUNT"]), 0);
    }
}

#[test]
fn help_is_given_where_it_is_offered() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let text = refusal(&mut redis, &["TANDEM.STATE", "BOGUS"]);
    assert!(text.contains("TANDEM.STATE HELP"), "{text}");
    let Value::Array(lines) = ask(&mut redis, &["TANDEM.STATE", "HELP"]) else { panic!("lines") };
    let lines = format!("{lines:?}");
    for subcommand in ["LIST", "GET", "COUNT", "HAS", "SET", "MOVE", "REMOVE"] {
        assert!(lines.contains(subcommand), "{subcommand}: {lines}");
    }
}

#[test]
fn json_that_is_no_content_is_told_to_be_mended_and_not_to_be_stored() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    ask(&mut redis, &["TANDEM.PUT", "a", "{}"]);
    for (words, whose) in [
        (&["TANDEM.BATCH", "[{"][..], "the batch"),
        (&["TANDEM.PUT", "a", "{}", "AUDIT", "{"], "audit"),
        (&["TANDEM.MERGE", "a", "{"], "the patch"),
    ] {
        let text = refusal(&mut redis, words);
        assert!(text.starts_with(&format!("BADJSON {whose} is refused at byte")), "{text}");
        assert!(!text.contains("BINARY"), "{text}");
    }
    let text = refusal(&mut redis, &["TANDEM.BATCH", "[7]"]);
    assert!(text.starts_with("INVALID") && text.contains("expected an object"), "{text}");
}

#[test]
fn reads_leave_items_alone_while_a_child_saves() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    let reads = |redis: &mut Connection| field(&ask(redis, &["TANDEM.STATUS", "a"]), "access_count");
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    ask(&mut redis, &["TANDEM.GET", "a"]);
    assert_eq!(reads(&mut redis), Value::Int(1));
    // So long that the child is still there.
    ask(&mut redis, &["CONFIG", "SET", "rdb-key-save-delay", "600000000"]);
    ask(&mut redis, &["BGSAVE"]);
    ask(&mut redis, &["TANDEM.GET", "a"]);
    ask(&mut redis, &["TANDEM.MGET", "a"]);
    assert_eq!(counted(&mut redis, "persistence", "rdb_bgsave_in_progress"), 1);
    assert_eq!(reads(&mut redis), Value::Int(1), "each would have a page of memory copied");
    // Which ends the child.
    ask(&mut redis, &["FLUSHALL"]);
    wait::until("the child is gone", DEADLINE, || {
        counted(&mut redis, "persistence", "rdb_bgsave_in_progress") == 0
    });
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    ask(&mut redis, &["TANDEM.GET", "a"]);
    assert_eq!(reads(&mut redis), Value::Int(1));
}

#[test]
fn what_a_replica_cannot_take_is_counted_there() {
    let (master, replica) = replicated(Options::in_memory);
    let (mut redis, mut copy) = (master.connect(), replica.connect());
    assert_eq!(counted(&mut copy, "tandem", "tandem_failed_effects"), 0);
    ask(&mut copy, &["CONFIG", "SET", "replica-read-only", "no"]);
    ask(&mut copy, &["SET", "a", "of another type"]);
    ask(&mut redis, &["TANDEM.PUT", "a", "1"]);
    ask(&mut redis, &["TANDEM.PUT", "b", "1"]);
    assert_eq!(ask_number(&mut redis, &["WAIT", "1", "0"]), 1);
    assert_eq!(counted(&mut copy, "tandem", "tandem_failed_effects"), 1);
    assert_eq!(ask_number(&mut copy, &["TANDEM.COUNT"]), 1);
}
