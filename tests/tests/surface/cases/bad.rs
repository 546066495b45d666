//! What is refused: ids, content and options that no engine takes, in every command that takes them.

use super::revisions::apply;
use super::*;

/// Every request that names an item, about this id.
fn about(id: &str) -> Vec<(&'static str, Request)> {
    let owned = || id.to_owned();
    vec![
        ("put", put(id, "1")),
        ("put.detected", put_raw(id, b"1", vec![])),
        ("put.binary", put_raw(id, b"1", vec![PutOption::Binary])),
        ("put.jsonb", put_raw(id, b"1", vec![PutOption::Jsonb])),
        ("put.local", put_with(id, "1", vec![PutOption::Local])),
        ("merge", merge(id, "{}")),
        ("get", get(id)),
        ("get.many", Request::GetMany(vec!["bad.id".to_owned(), owned()])),
        ("exists", Request::Exists(owned())),
        ("exists.many", Request::ExistsMany(vec!["bad.id".to_owned(), owned()])),
        ("remove", remove(id)),
        ("status", Request::Status(owned())),
        ("apply", apply(id, 1, Some("1"))),
        ("mput", Request::PutMany(vec![(owned(), "1".to_owned())], vec![])),
        ("mremove", Request::RemoveMany(vec![owned()], vec![])),
        ("in_state", Request::InState(owned(), "s".to_owned())),
        ("set_state", Request::SetState(owned(), "s".to_owned(), vec![])),
        ("move_state", Request::MoveState(owned(), ["s".to_owned(), "t".to_owned()], vec![])),
    ]
}

pub fn ids() -> Vec<Case> {
    let long = "x".repeat(513);
    let long_of_two = format!("x{}", "é".repeat(256));
    let mut cases = Vec::new();
    for (what, id, saying) in [
        ("empty", "", "id is empty"),
        ("513", long.as_str(), "has 513 bytes"),
        ("513.of.two", long_of_two.as_str(), "has 513 bytes"),
    ] {
        cases.extend(about(id).into_iter().map(|(name, request)| {
            read(format!("id.{what}.{name}"), vec![], request, Expect::RefusedSaying("INVALID", saying))
        }));
    }
    // Text in Postgres cannot hold NUL, so the protocol itself refuses it.
    cases.extend(about("a\0b").into_iter().map(|(name, request)| {
        let apart = Expect::RefusedApart { sql: "22021", redis: "INVALID" };
        read(format!("id.nul.{name}"), vec![], request, apart)
    }));
    cases
}

pub fn content() -> Vec<Case> {
    let bad = |name: &'static str, payload: &str| {
        read(name, vec![], put("bad.content", payload), Expect::Refused("BADJSON"))
    };
    let large = format!("\"{}\"", "x".repeat(17 * 1024 * 1024));
    let long_numbers = format!("[{}]", vec!["1e131071"; 1000].join(","));
    let large_binary = put_raw("bad.content", &vec![7; 17 * 1024 * 1024], vec![PutOption::Binary]);
    vec![
        bad("json.empty", ""),
        bad("json.broken", r#"{"a":"#),
        bad("json.trailing", "1 2"),
        bad("json.bare", "abc"),
        bad("json.single.quotes", "{'a':1}"),
        bad("json.comma", "[1,]"),
        bad("json.control", "\"\u{1}\""),
        bad("json.nul", r#""\u0000""#),
        bad("json.nul.key", r#"{"\u0000":1}"#),
        bad("json.lone.surrogate", r#""\ud800""#),
        bad("json.depth.129", &format!("{}{}", "[".repeat(129), "]".repeat(129))),
        bad("json.huge.number", "1e131072"),
        bad("json.fine.number", "1e-16384"),
        bad("json.not.a.number", "[NaN]"),
        bad("json.leading.zero", "01"),
        bad("json.plus", "+1"),
        read(
            "json.numbers.too.long",
            vec![],
            put("bad.content", &long_numbers),
            Expect::RefusedSaying("TOOLARGE", "has 131074000 bytes, at most 67108864"),
        ),
        read("content.17.MiB", vec![], put("bad.content", &large), Expect::Refused("TOOLARGE")),
        read("content.17.MiB.binary", vec![], large_binary, Expect::Refused("TOOLARGE")),
        read("content.nothing.done", vec![], get("bad.content"), is(Answer::Nothing)),
        read(
            "content.over.an.item",
            vec![put("bad.over", "1")],
            put("bad.over", "{"),
            Expect::Refused("BADJSON"),
        ),
    ]
}

fn odd(redis: &[&str], sql: &str, code: &'static str) -> (Request, Expect) {
    let words = redis.iter().map(|word| (*word).to_owned()).collect();
    (Request::Odd(words, sql.to_owned()), Expect::RefusedApart { sql: code, redis: "INVALID" })
}

pub fn options() -> Vec<Case> {
    let with = |option: PutOption| put_with("bad.option", "1", vec![option]);
    let refused = Expect::Refused;
    let mut cases = vec![
        read("version.0", vec![], with(PutOption::Version(0)), refused("INVALID")),
        read("version.-1", vec![], with(PutOption::Version(-1)), refused("INVALID")),
        read("version.least", vec![], with(PutOption::Version(i64::MIN)), refused("INVALID")),
        read("state.empty", vec![], with(state_option("")), refused("INVALID")),
        read("state.65", vec![], with(state_option(&"s".repeat(65))), refused("INVALID")),
        read(
            "state.65.of.two",
            vec![],
            with(state_option(&format!("s{}", "é".repeat(32)))),
            refused("INVALID"),
        ),
    ];
    // What has no such function, option or number of arguments in SQL is no function of that kind (42883).
    let odds = [
        ("put.few", odd(&["TANDEM.PUT", "bad.option"], "put('bad.option')", "42883")),
        ("put.none", odd(&["TANDEM.PUT"], "put()", "42883")),
        (
            "put.option",
            odd(&["TANDEM.PUT", "bad.option", "1", "BOGUS"], "put('bad.option', '1', bogus => '1')", "42883"),
        ),
        ("merge.few", odd(&["TANDEM.MERGE", "bad.option"], "merge('bad.option')", "42883")),
        (
            "merge.option",
            odd(
                &["TANDEM.MERGE", "bad.option", "{}", "LOCAL"],
                "merge('bad.option', '{}', local => true)",
                "42883",
            ),
        ),
        ("get.none", odd(&["TANDEM.GET"], "get()", "42883")),
        ("get.many", odd(&["TANDEM.GET", "a", "b"], "get('a', 'b')", "42883")),
        ("mget.none", odd(&["TANDEM.MGET"], "get_many()", "42883")),
        ("mexists.none", odd(&["TANDEM.MEXISTS"], "exists_many()", "42883")),
        ("remove.none", odd(&["TANDEM.REMOVE"], "delete()", "42883")),
        (
            "remove.option",
            odd(
                &["TANDEM.REMOVE", "bad.option", "STATE", "s"],
                "delete('bad.option', state => 's')",
                "42883",
            ),
        ),
        ("status.none", odd(&["TANDEM.STATUS"], "item_status()", "42883")),
        ("mput.none", odd(&["TANDEM.MPUT"], "put_many()", "42883")),
        ("mremove.none", odd(&["TANDEM.MREMOVE"], "delete_many()", "42883")),
        ("batch.none", odd(&["TANDEM.BATCH"], "batch()", "42883")),
        ("batch.option", odd(&["TANDEM.BATCH", "[]", "LOCAL"], "batch('[]', local => true)", "42883")),
        ("state.list.none", odd(&["TANDEM.STATE", "LIST"], "list_state()", "42883")),
        ("state.set.few", odd(&["TANDEM.STATE", "SET", "a"], "set_state('a')", "42883")),
        ("state.move.few", odd(&["TANDEM.STATE", "MOVE", "a", "s"], "move_state('a', 's')", "42883")),
        ("state.has.few", odd(&["TANDEM.STATE", "HAS", "a"], "in_state('a')", "42883")),
        ("prefix.remove.none", odd(&["TANDEM.REMOVEPREFIX"], "delete_prefix()", "42883")),
        ("merkle.unknown", odd(&["TANDEM.MERKLE", "TRUNK"], "merkle_trunk()", "42883")),
        ("merkle.hash.none", odd(&["TANDEM.MERKLE", "HASH"], "merkle_hash()", "42883")),
        ("merkle.node.none", odd(&["TANDEM.MERKLE", "NODE"], "merkle_node()", "42883")),
    ];
    // A container of subcommands is Redis' own, and so is its refusal.
    let own = |words: &[&str], sql: &str| {
        let (request, _) = odd(words, sql, "42883");
        read(format!("odd.{sql}"), vec![], request, Expect::RefusedApart { sql: "42883", redis: "ERR" })
    };
    cases.push(own(&["TANDEM.STATE"], "state()"));
    cases.push(own(&["TANDEM.STATE", "BURN", "s"], "burn_state('s')"));
    // And so is that of too few words for a command.
    let is_counted = |name: &str| {
        !name.starts_with("merkle") && [".none", ".few"].iter().any(|short| name.ends_with(short))
    };
    cases.extend(odds.into_iter().map(|(name, (request, expect))| {
        let apart = Expect::RefusedApart { sql: "42883", redis: "ERR" };
        let expect = if is_counted(name) { apart } else { expect };
        read(format!("odd.{name}"), vec![], request, expect)
    }));
    cases
}
