//! Key permissions of Redis' users hold for every id that a command touches, declared or not.

use redis::{Connection, Value};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, send};

/// A server with items that `app` may touch and one that it may not.
fn server() -> (Redis, Connection) {
    let server = Redis::start(Options::in_memory());
    let mut owner = server.connect();
    for id in ["app.a", "app.b", "secret.1", "zoo.1"] {
        ask(&mut owner, &["TANDEM.PUT", id, "{}", "STATE", "open"]);
    }
    (server, owner)
}

/// A connection of a user with these rules beside all commands that are not dangerous.
fn user(server: &Redis, owner: &mut Connection, rules: &[&str]) -> Connection {
    let mut words = vec!["ACL", "SETUSER", "limited", "reset", "on", ">word", "+@all", "-@dangerous"];
    words.extend(["-tandem.join", "-tandem.apply", "-tandem.effect"]);
    words.extend(rules);
    ask(owner, &words);
    let mut connection = server.connect();
    ask(&mut connection, &["AUTH", "limited", "word"]);
    connection
}

#[track_caller]
fn refused(connection: &mut Connection, words: &[&str]) {
    let error = send(connection, words).expect_err("it has no permission").to_string();
    assert!(error.to_ascii_uppercase().contains("NOPERM"), "{words:?}: {error}");
}

fn texts(value: &Value) -> Vec<String> {
    let Value::Array(values) = value else { panic!("{value:?} is no array") };
    let mut texts = Vec::new();
    for value in values {
        match value {
            Value::BulkString(text) => texts.push(String::from_utf8_lossy(text).into_owned()),
            Value::Array(_) => texts.extend(texts_of_first(value)),
            other => panic!("{other:?}"),
        }
    }
    texts
}

/// Of a record its first value: the id, or the path.
fn texts_of_first(record: &Value) -> Vec<String> {
    let Value::Array(fields) = record else { panic!("{record:?}") };
    let Value::BulkString(text) = &fields[1] else { panic!("{record:?}") };
    vec![String::from_utf8_lossy(text).into_owned()]
}

#[test]
fn pages_leave_out_what_the_user_may_not_read() {
    let (server, mut owner) = server();
    let mut app = user(&server, &mut owner, &["~app.*", "~zoo.*"]);
    let mut writer = user_named(&server, &mut owner, "writer", &["%W~*"]);
    let all = ["app.a", "app.b", "secret.1", "zoo.1"];
    let own = ["app.a", "app.b", "zoo.1"];
    for words in [
        &["TANDEM.SCAN", ""][..],
        &["TANDEM.STATE", "LIST", "open"],
        &["TANDEM.STATE", "GET", "open"],
        &["TANDEM.MERKLE", "LEAVES", ""],
    ] {
        assert_eq!(texts(&ask(&mut owner, words)), all, "{words:?}");
        assert_eq!(texts(&ask(&mut app, words)), own, "{words:?}");
        assert_eq!(texts(&ask(&mut writer, words)), [""; 0], "{words:?}");
        // A page is filled with what may be read, and the next one goes on from there.
        let mut paged = words.to_vec();
        paged.extend(["AFTER", "app.a", "LIMIT", "2"]);
        assert_eq!(texts(&ask(&mut app, &paged)), ["app.b", "zoo.1"], "{paged:?}");
    }
    assert_eq!(texts(&ask(&mut app, &["TANDEM.MERKLE", "CHILDREN", ""])), ["app", "zoo"]);
    assert_eq!(
        texts(&ask(&mut app, &["TANDEM.MERKLE", "CHILDREN", "", "LIMIT", "1", "AFTER", "app"])),
        ["zoo"]
    );
    assert_eq!(texts(&ask(&mut owner, &["TANDEM.MERKLE", "CHILDREN", ""])), ["app", "secret", "zoo"]);
    assert_eq!(ask(&mut app, &["TANDEM.COUNT"]), Value::Int(4), "a number names nothing");
}

fn user_named(server: &Redis, owner: &mut Connection, name: &str, rules: &[&str]) -> Connection {
    let mut words = vec!["ACL", "SETUSER", name, "reset", "on", ">word", "+@all"];
    words.extend(rules);
    ask(owner, &words);
    let mut connection = server.connect();
    ask(&mut connection, &["AUTH", name, "word"]);
    connection
}

#[test]
fn bulk_writes_are_refused_as_a_whole() {
    let (server, mut owner) = server();
    let mut app = user(&server, &mut owner, &["~app.*"]);
    let mut reader = user_named(&server, &mut owner, "reader", &["%R~*"]);
    let batch = |ids: &[&str]| {
        let operations: Vec<String> =
            ids.iter().map(|id| format!("{{\"op\":\"put\",\"id\":\"{id}\",\"payload\":1}}")).collect();
        format!("[{}]", operations.join(","))
    };
    refused(&mut app, &["TANDEM.BATCH", &batch(&["app.c", "secret.1"])]);
    refused(&mut reader, &["TANDEM.BATCH", &batch(&["app.c"])]);
    refused(&mut app, &["TANDEM.BATCH", r#"[{"op":"delete","id":"secret.1"}]"#]);
    refused(&mut app, &["TANDEM.REMOVEPREFIX", ""]);
    refused(&mut app, &["TANDEM.STATE", "REMOVE", "open"]);
    refused(&mut reader, &["TANDEM.REMOVEPREFIX", "app."]);
    assert_eq!(ask(&mut owner, &["TANDEM.COUNT"]), Value::Int(4), "nothing was done");
    // The first two of the state are the user's own.
    assert_eq!(ask(&mut app, &["TANDEM.STATE", "REMOVE", "open", "LIMIT", "1"]), Value::Int(1));
    ask(&mut app, &["TANDEM.BATCH", &batch(&["app.c", "app.d"])]);
    assert_eq!(ask(&mut app, &["TANDEM.REMOVEPREFIX", "app."]), Value::Int(3));
    assert_eq!(ask(&mut owner, &["TANDEM.COUNT"]), Value::Int(2));
}

#[test]
fn scripts_and_transactions_have_the_rights_of_their_caller() {
    let (server, mut owner) = server();
    let mut app = user(&server, &mut owner, &["~app.*"]);
    let scan = "return #redis.call('TANDEM.SCAN', '')";
    assert_eq!(ask(&mut app, &["EVAL", scan, "0"]), Value::Int(2));
    assert_eq!(ask(&mut owner, &["EVAL", scan, "0"]), Value::Int(4));
    let batch = r#"return redis.call('TANDEM.BATCH', '[{"op":"put","id":"secret.2","payload":1}]')"#;
    refused(&mut app, &["EVAL", batch, "0"]);
    ask(&mut owner, &["EVAL", batch, "0"]);
    assert_eq!(ask(&mut owner, &["TANDEM.COUNT"]), Value::Int(5));
    ask(&mut app, &["MULTI"]);
    ask(&mut app, &["TANDEM.STATE", "LIST", "open"]);
    ask(&mut app, &["TANDEM.MERKLE", "LEAVES", ""]);
    let Value::Array(answers) = ask(&mut app, &["EXEC"]) else { panic!("EXEC answers with an array") };
    assert_eq!(texts(&answers[0]), ["app.a", "app.b"]);
    assert_eq!(texts(&answers[1]), ["app.a", "app.b"]);
}

#[test]
fn declared_keys_say_what_is_done_with_them() {
    let (server, mut owner) = server();
    let mut writer = user_named(&server, &mut owner, "writer", &["%W~*"]);
    let mut reader = user_named(&server, &mut owner, "reader", &["%R~*"]);
    ask(&mut writer, &["TANDEM.PUT", "w.1", "1"]);
    ask(&mut writer, &["TANDEM.MPUT", "2", "w.2", "1", "w.3", "1"]);
    ask(&mut writer, &["TANDEM.MREMOVE", "1", "w.3"]);
    refused(&mut writer, &["TANDEM.GETORPUT", "w.1", "1"]);
    refused(&mut writer, &["TANDEM.GET", "w.1"]);
    refused(&mut reader, &["TANDEM.GETORPUT", "w.1", "1"]);
    refused(&mut reader, &["TANDEM.MPUT", "1", "w.1", "1"]);
    ask(&mut reader, &["TANDEM.GET", "w.1"]);
}

#[test]
fn the_commands_of_a_link_need_every_key() {
    let (server, mut owner) = server();
    let mut app = user_named(&server, &mut owner, "app", &["~app.*"]);
    let mut reader = user_named(&server, &mut owner, "reader", &["%R~*"]);
    let mut link = user_named(&server, &mut owner, "link", &["~*"]);
    for words in
        [&["TANDEM.LINK", "FETCH", "app.a"][..], &["TANDEM.LINK", "LIST"], &["TANDEM.LINK", "DETACH", "x"]]
    {
        refused(&mut app, words);
        refused(&mut reader, words);
    }
    ask(&mut link, &["TANDEM.LINK", "FETCH", "app.a"]);
}

#[test]
fn a_user_who_is_gone_or_cut_short_is_asked_anew() {
    let (server, mut owner) = server();
    let mut app = user_named(&server, &mut owner, "app", &["~*"]);
    assert_eq!(texts(&ask(&mut app, &["TANDEM.SCAN", ""])).len(), 4);
    ask(&mut owner, &["ACL", "SETUSER", "app", "resetkeys", "~zoo.*"]);
    assert_eq!(texts(&ask(&mut app, &["TANDEM.SCAN", ""])), ["zoo.1"]);
}

/// A batch that waits for what Postgres has of an id runs later, without its client at hand.
#[test]
fn a_batch_that_has_waited_has_the_rights_it_began_with() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let mut owner = pair.commands();
    ask(&mut owner, &["TANDEM.PUT", "app.a", r#"{"a":1}"#]);
    pair.settle_at(1);
    let mut app = user_named(&pair.redis, &mut owner, "app", &["~app.*"]);
    for round in 0..20 {
        ask(&mut owner, &["DEL", "app.a"]);
        let batch = format!(r#"[{{"op":"merge","id":"app.a","patch":{{"b":{round}}}}}]"#);
        ask(&mut app, &["TANDEM.BATCH", &batch]);
        let payload = ask(&mut app, &["TANDEM.GET", "app.a", "PAYLOAD"]);
        assert_eq!(payload, Value::BulkString(format!(r#"{{"a":1,"b":{round}}}"#).into_bytes()));
    }
}
