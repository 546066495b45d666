//! Audit objects: what is kept, and what is refused wherever one can be given.

use super::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with(id: &str, content: &str, audit: &str) -> Request {
    put_with(id, content, vec![audit_option(audit)])
}

/// The name, the object, and what is read back.
const KEPT: &[(&str, &str, &str)] = &[
    ("empty", "{}", "{}"),
    (
        "batch",
        r#"{"batch":"00000000-0000-4000-8000-00000000000a"}"#,
        r#"{"batch":"00000000-0000-4000-8000-00000000000a"}"#,
    ),
    (
        "trace",
        r#"{"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
        r#"{"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
    ),
    ("home", r#"{"home":"é"}"#, r#"{"home":"é"}"#),
    ("free", r#"{"why":{"b":[1.0,null],"a":true},"by":7}"#, r#"{"by":7,"why":{"a":true,"b":[1,null]}}"#),
    ("order", " { \"home\" : \"z\", \"a\": 1 } ", r#"{"a":1,"home":"z"}"#),
];

/// The name, the object, and the code.
const REFUSED: &[(&str, &str, &str)] = &[
    ("array", "[]", "INVALID"),
    ("text", r#""x""#, "INVALID"),
    ("null", "null", "INVALID"),
    ("broken", "{", "BADJSON"),
    ("nothing", "", "BADJSON"),
    ("word", "batch", "BADJSON"),
    ("batch.word", r#"{"batch":"b"}"#, "INVALID"),
    ("batch.null", r#"{"batch":null}"#, "INVALID"),
    ("batch.number", r#"{"batch":1}"#, "INVALID"),
    ("batch.short", r#"{"batch":"00000000-0000-4000-8000-00000000000"}"#, "INVALID"),
    ("batch.letters", r#"{"batch":"g0000000-0000-4000-8000-000000000001"}"#, "INVALID"),
    ("trace.word", r#"{"trace":"t"}"#, "INVALID"),
    ("trace.number", r#"{"trace":7}"#, "INVALID"),
    ("trace.short", r#"{"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"}"#, "INVALID"),
    ("trace.capitals", r#"{"trace":"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01"}"#, "INVALID"),
    ("trace.version.ff", r#"{"trace":"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#, "INVALID"),
    ("trace.id.0", r#"{"trace":"00-00000000000000000000000000000000-00f067aa0ba902b7-01"}"#, "INVALID"),
    ("trace.parent.0", r#"{"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}"#, "INVALID"),
    ("home.empty", r#"{"home":""}"#, "INVALID"),
    ("home.number", r#"{"home":1}"#, "INVALID"),
    ("home.null", r#"{"home":null}"#, "INVALID"),
    ("nul", r#"{"a":"\u0000"}"#, "BADJSON"),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, audit, kept) in KEPT {
        let id = format!("audit.{name}");
        cases.push(write(id.clone(), vec![], with(&id, "1", audit), version(1, 1)));
        cases.push(read(format!("{id}.read"), vec![], get(&id), field("audit", kept)));
    }
    cases.extend(REFUSED.iter().map(|(name, audit, code)| {
        read(format!("audit.{name}"), vec![], with("audit.bad", "1", audit), Expect::Refused(code))
    }));
    cases.extend(lengths());
    cases.extend(kept_with_the_revision());
    cases
}

fn lengths() -> Vec<Case> {
    let home = |length: usize| format!("{{\"home\":\"{}\"}}", "h".repeat(length));
    let free = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    vec![
        write("audit.home.128", vec![], with("audit.home.128", "1", &home(128)), version(1, 1)),
        read("audit.home.129", vec![], with("audit.bad", "1", &home(129)), Expect::Refused("INVALID")),
        write("audit.1024", vec![], with("audit.1024", "1", &free(1024)), version(1, 1)),
        read(
            "audit.1025",
            vec![],
            with("audit.bad", "1", &free(1025)),
            Expect::RefusedSaying("TOOLARGE", "audit has 1025 bytes, at most 1024"),
        ),
        write(
            "audit.blanks",
            vec![],
            with("audit.blanks", "1", &format!("{{{}\"a\":1}}", " ".repeat(2000))),
            version(1, 1),
        ),
        // What was accepted can be read and changed, though jsonb prints more than was given.
        write("audit.number", vec![], with("audit.number", "1", r#"{"n":1e1100}"#), version(1, 1)),
        read("audit.number.read", vec![], get("audit.number"), field("audit", r#"{"n":1e1100}"#)),
        write("audit.number.put", vec![], put("audit.number", "2"), version(2, 1)),
        write(
            "audit.members",
            vec![],
            with("audit.members", "1", &format!("{{\"a\":[{}1]}}", "1,".repeat(507))),
            version(1, 1),
        ),
        write("audit.members.put", vec![], put("audit.members", "2"), version(2, 1)),
        read(
            "audit.numbers.too.long",
            vec![],
            with("audit.bad", "1", r#"{"n":[1e2000,1e2000,1e2000]}"#),
            Expect::RefusedSaying("TOOLARGE", "has 6016 bytes, at most 4096"),
        ),
    ]
}

fn kept_with_the_revision() -> Vec<Case> {
    let traced = format!("{{\"trace\":\"{TRACE}\"}}");
    let none = || Expect::Fields(vec![("audit", Answer::Nothing)]);
    vec![
        read(
            "audit.unchanged.put",
            vec![with("audit.it", "1", r#"{"home":"first"}"#)],
            with("audit.it", "1", r#"{"home":"second"}"#),
            version(1, 0),
        ),
        read("audit.unchanged.put.read", vec![], get("audit.it"), field("audit", r#"{"home":"first"}"#)),
        write("audit.changed.put", vec![], with("audit.it", "2", &traced), version(2, 1)),
        read("audit.changed.put.read", vec![], get("audit.it"), field("audit", &traced)),
        write("audit.put.without", vec![], put("audit.it", "3"), version(3, 1)),
        read("audit.put.without.read", vec![], get("audit.it"), none()),
        read(
            "audit.in.a.page",
            vec![with("audit.page", "1", r#"{"home":"p"}"#)],
            Request::Scan("audit.page".to_owned(), all()),
            Expect::Ids(vec!["audit.page"]),
        ),
        read(
            "audit.put.back.without",
            vec![with("audit.back", "1", "{}"), remove("audit.back"), put("audit.back", "1")],
            get("audit.back"),
            none(),
        ),
    ]
}
