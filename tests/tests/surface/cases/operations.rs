//! Batches of operations in JSON.

use super::*;

pub fn cases() -> Vec<Case> {
    let mut cases = done();
    cases.extend(refused());
    cases.extend(arrays_of_items());
    cases
}

fn get_many(list: &[&str]) -> Request {
    Request::GetMany(ids(list))
}

fn done() -> Vec<Case> {
    vec![
        write(
            "batch.every.operation",
            vec![put("batch.m", r#"{"a":1}"#), put("batch.d", "1"), put("batch.s", "1")],
            batch(
                r#"[{"op":"put","id":"batch.p","payload":{"x":[1.0]}},
                    {"op":"merge","id":"batch.m","patch":{"b":2}},
                    {"op":"delete","id":"batch.d"},
                    {"op":"set_state","id":"batch.s","state":"done"}]"#,
            ),
            written(4, 0),
        ),
        read(
            "batch.every.operation.read",
            vec![],
            get_many(&["batch.p", "batch.m", "batch.d", "batch.s"]),
            Expect::Ids(vec!["batch.p", "batch.m", "", "batch.s"]),
        ),
        read("batch.put.read", vec![], get("batch.p"), payload(r#"{"x":[1]}"#)),
        read("batch.merge.read", vec![], get("batch.m"), payload(r#"{"a":1,"b":2}"#)),
        read("batch.state.read", vec![], get("batch.s"), field("state", "done")),
        read(
            "batch.unchanged",
            vec![],
            batch(
                r#"[{"op":"put","id":"batch.p","payload":{"x":[1]}}, {"op":"merge","id":"batch.m","patch":{}},
                    {"op":"delete","id":"batch.d"}, {"op":"set_state","id":"batch.s","state":"done"}]"#,
            ),
            written(0, 4),
        ),
        write(
            "batch.in.order",
            vec![],
            batch(
                r#"[{"op":"put","id":"batch.o","payload":{}}, {"op":"merge","id":"batch.o","patch":{"a":1}},
                    {"op":"set_state","id":"batch.o","state":"s"}, {"op":"delete","id":"batch.o"},
                    {"op":"delete","id":"batch.o"}, {"op":"put","id":"batch.o","payload":[7]}]"#,
            ),
            written(5, 1),
        ),
        read(
            "batch.in.order.read",
            vec![],
            get("batch.o"),
            Expect::Fields(vec![
                ("version", number(5)),
                ("payload", Answer::text("[7]")),
                ("state", Answer::text("default")),
                ("audit", Answer::text(r#"{"batch":"batch 1"}"#)),
            ]),
        ),
        write(
            "batch.options",
            vec![put("batch.v", "1")],
            batch(
                r#"[{"op":"put","id":"batch.v","payload":2,"version":9,"state":"s","if_match":"etag of batch.v",
                     "audit":{"home":"h"}},
                    {"op":"put","id":"batch.n","payload":"text","if_absent":true},
                    {"op":"merge","id":"batch.m","patch":{"c":3},"version":20,"state":"t",
                     "if_match":"etag of batch.m","audit":{}}]"#,
            ),
            written(3, 0),
        ),
        read(
            "batch.options.read",
            vec![],
            get("batch.v"),
            Expect::Fields(vec![
                ("version", number(9)),
                ("state", Answer::text("s")),
                ("audit", Answer::text(r#"{"batch":"batch 1","home":"h"}"#)),
            ]),
        ),
        read(
            "batch.text.read",
            vec![],
            get("batch.n"),
            Expect::Fields(vec![("type", Answer::text("json")), ("payload", Answer::text(r#""text""#))]),
        ),
        write(
            "batch.scalars.are.json",
            vec![],
            batch(
                r#"[{"op":"put","id":"batch.j1","payload":1.50}, {"op":"put","id":"batch.j2","payload":null},
                    {"op":"put","id":"batch.j3","payload":false}]"#,
            ),
            written(3, 0),
        ),
        read("batch.number.read", vec![], get("batch.j1"), payload("1.5")),
        read("batch.null.read", vec![], get("batch.j2"), payload("null")),
        write(
            "batch.base64",
            vec![],
            batch(r#"[{"op":"put","id":"batch.b64","payload_base64":"AP8KDQ=="}]"#),
            written(1, 0),
        ),
        read(
            "batch.base64.read",
            vec![],
            get("batch.b64"),
            Expect::Fields(vec![("type", Answer::text("binary")), ("payload", Answer::text("hex:00ff0a0d"))]),
        ),
        write(
            "batch.base64.nothing",
            vec![],
            batch(r#"[{"op":"put","id":"batch.b0","payload_base64":""}]"#),
            written(1, 0),
        ),
        write(
            "batch.removal.options",
            vec![put("batch.r1", "1"), put("batch.r2", "1")],
            batch(
                r#"[{"op":"delete","id":"batch.r1","version":7,"audit":{"home":"h"}},
                    {"op":"delete","id":"batch.r2","if_match":"etag of batch.r2"}]"#,
            ),
            written(2, 0),
        ),
        write("batch.removal.counts.on", vec![], put("batch.r1", "1"), version(8, 1)),
        write(
            "batch.state.options",
            vec![],
            batch(
                r#"[{"op":"set_state","id":"batch.s","state":"x","if_match":"etag of batch.s",
                     "audit":{"home":"h"}}]"#,
            ),
            written(1, 0),
        ),
        write(
            "batch.audit",
            vec![],
            Request::Batch(
                r#"[{"op":"put","id":"batch.a1","payload":1}]"#.to_owned(),
                Some(format!("{{\"batch\":\"{GIVEN_BATCH}\",\"home\":\"all\"}}")),
            ),
            Expect::Fields(vec![("batch", Answer::text(GIVEN_BATCH))]),
        ),
        read(
            "batch.audit.read",
            vec![],
            get("batch.a1"),
            field("audit", r#"{"batch":"00000000-0000-4000-8000-000000000001","home":"all"}"#),
        ),
        write(
            "batch.big.number",
            vec![],
            batch(r#"[{"op":"put","id":"batch.big","payload":[12345678901234567890123, 1e400]}]"#),
            written(1, 0),
        ),
        read("batch.big.number.read", vec![], get("batch.big"), payload("[12345678901234567890123,1e400]")),
    ]
}

/// The operations, the code, and what the message says.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("not.array", r#"{"op":"delete","id":"batch.x"}"#, "INVALID", ""),
    ("scalar", "1", "INVALID", ""),
    ("not.object", r#"[{"op":"delete","id":"batch.x"}, 1]"#, "INVALID", "item 1 of the batch"),
    ("no.op", r#"[{"id":"batch.x"}]"#, "INVALID", "item 0 of the batch"),
    ("unknown.op", r#"[{"op":"move","id":"batch.x"}]"#, "INVALID", "item 0 of the batch"),
    ("op.number", r#"[{"op":1,"id":"batch.x"}]"#, "INVALID", "item 0 of the batch"),
    ("no.id", r#"[{"op":"delete"}]"#, "INVALID", "item 0 of the batch"),
    ("id.number", r#"[{"op":"delete","id":1}]"#, "INVALID", "item 0 of the batch"),
    ("id.empty", r#"[{"op":"delete","id":""}]"#, "INVALID", "item 0 of the batch (''): id is empty"),
    ("no.payload", r#"[{"op":"put","id":"batch.x"}]"#, "INVALID", "item 0 of the batch ('batch.x'): "),
    (
        "two.payloads",
        r#"[{"op":"put","id":"batch.x","payload":1,"payload_base64":""}]"#,
        "INVALID",
        "item 0 of the batch ('batch.x'): ",
    ),
    ("base64.bad", r#"[{"op":"put","id":"batch.x","payload_base64":"?"}]"#, "INVALID", "('batch.x')"),
    ("base64.number", r#"[{"op":"put","id":"batch.x","payload_base64":1}]"#, "INVALID", "('batch.x')"),
    ("no.patch", r#"[{"op":"merge","id":"batch.x"}]"#, "INVALID", "('batch.x')"),
    ("no.state", r#"[{"op":"set_state","id":"batch.x"}]"#, "INVALID", "('batch.x')"),
    ("state.empty", r#"[{"op":"set_state","id":"batch.x","state":""}]"#, "INVALID", "('batch.x')"),
    ("state.number", r#"[{"op":"put","id":"batch.x","payload":1,"state":1}]"#, "INVALID", "('batch.x')"),
    ("unknown.member", r#"[{"op":"put","id":"batch.x","payload":1,"ttl":1}]"#, "INVALID", "('batch.x')"),
    ("member.of.another", r#"[{"op":"delete","id":"batch.x","payload":1}]"#, "INVALID", "('batch.x')"),
    ("version.0", r#"[{"op":"put","id":"batch.x","payload":1,"version":0}]"#, "INVALID", "('batch.x')"),
    ("version.text", r#"[{"op":"put","id":"batch.x","payload":1,"version":"x"}]"#, "INVALID", "('batch.x')"),
    ("version.half", r#"[{"op":"put","id":"batch.x","payload":1,"version":1.5}]"#, "INVALID", "('batch.x')"),
    ("if_match.bad", r#"[{"op":"put","id":"batch.x","payload":1,"if_match":"x"}]"#, "INVALID", "('batch.x')"),
    (
        "if_absent.text",
        r#"[{"op":"put","id":"batch.x","payload":1,"if_absent":"x"}]"#,
        "INVALID",
        "('batch.x')",
    ),
    ("audit.array", r#"[{"op":"put","id":"batch.x","payload":1,"audit":[]}]"#, "INVALID", "('batch.x')"),
    (
        "audit.home",
        r#"[{"op":"put","id":"batch.x","payload":1,"audit":{"home":1}}]"#,
        "INVALID",
        "('batch.x')",
    ),
    ("state.absent", r#"[{"op":"set_state","id":"batch.x","state":"s"}]"#, "NOTFOUND", "('batch.x')"),
    (
        "stale",
        r#"[{"op":"put","id":"batch.x","payload":1}, {"op":"put","id":"batch.p","payload":1,"version":1}]"#,
        "STALE",
        "item 1 of the batch ('batch.p'): ",
    ),
    (
        "exists",
        r#"[{"op":"put","id":"batch.p","payload":1,"if_absent":true}]"#,
        "EXISTS",
        "item 0 of the batch ('batch.p'): ",
    ),
    (
        "exists.by.itself",
        r#"[{"op":"put","id":"batch.x","payload":1}, {"op":"put","id":"batch.x","payload":2,"if_absent":true}]"#,
        "EXISTS",
        "item 1 of the batch ('batch.x'): ",
    ),
    (
        "conflict",
        r#"[{"op":"put","id":"batch.x","payload":1},
            {"op":"delete","id":"batch.p","if_match":"0000000000000000000000000000000000000000000000000000000000000000"}]"#,
        "CONFLICT",
        "item 1 of the batch ('batch.p'): ",
    ),
    (
        "conflict.by.itself",
        r#"[{"op":"put","id":"batch.p","payload":1}, {"op":"put","id":"batch.p","payload":2,"if_match":"etag of batch.p"}]"#,
        "CONFLICT",
        "item 1 of the batch ('batch.p'): ",
    ),
    ("merge.binary", r#"[{"op":"merge","id":"batch.b64","patch":{}}]"#, "INVALID", "('batch.b64')"),
];

fn refused() -> Vec<Case> {
    let mut cases: Vec<Case> = REFUSED
        .iter()
        .map(|(name, ops, code, saying)| {
            read(format!("batch.refused.{name}"), vec![], batch(ops), Expect::RefusedSaying(code, saying))
        })
        .collect();
    let many = |count: usize| format!("[{}]", vec![r#"{"op":"delete","id":"batch.x"}"#; count].join(","));
    cases.extend([
        read("batch.nothing.done", vec![], get("batch.x"), is(Answer::Nothing)),
        read("batch.10000", vec![], batch(&many(10_000)), written(0, 10_000)),
        read("batch.10001", vec![], batch(&many(10_001)), Expect::Refused("INVALID")),
        read("batch.broken", vec![], batch("[{"), Expect::RefusedApart { sql: "22P02", redis: "BADJSON" }),
        read(
            "batch.audit.bad",
            vec![],
            Request::Batch(r#"[{"op":"delete","id":"batch.x"}]"#.to_owned(), Some("[]".to_owned())),
            Expect::Refused("INVALID"),
        ),
    ]);
    cases
}

fn arrays_of_items() -> Vec<Case> {
    let items =
        |items: &str, audit: Option<&str>| Request::PutItems(items.to_owned(), audit.map(str::to_owned));
    vec![
        write(
            "items.new",
            vec![],
            items(
                r#"[{"id":"items.a","payload":{"x":1},"state":"s"}, {"id":"items.b","payload_base64":"/w=="},
                    {"id":"items.c","payload":1,"version":4,"if_absent":true,"audit":{"home":"h"}}]"#,
                None,
            ),
            written(3, 0),
        ),
        read(
            "items.read",
            vec![],
            get("items.c"),
            Expect::Fields(vec![
                ("version", number(4)),
                ("audit", Answer::text(r#"{"batch":"batch 1","home":"h"}"#)),
            ]),
        ),
        read("items.same", vec![], items(r#"[{"id":"items.a","payload":{"x":1}}]"#, None), written(0, 1)),
        write(
            "items.audit",
            vec![],
            items(r#"[{"id":"items.a","payload":2}]"#, Some(r#"{"home":"z"}"#)),
            written(1, 0),
        ),
        read(
            "items.unknown.member",
            vec![],
            items(r#"[{"id":"items.a","payload":2,"ttl":1}]"#, None),
            Expect::RefusedSaying("INVALID", "item 0 of the batch ('items.a'): "),
        ),
        read(
            "items.conflict",
            vec![],
            items(r#"[{"id":"items.x","payload":2}, {"id":"items.a","payload":3,"if_absent":true}]"#, None),
            Expect::RefusedSaying("EXISTS", "item 1 of the batch ('items.a'): "),
        ),
        read("items.no.payload", vec![], items(r#"[{"id":"items.a"}]"#, None), Expect::Refused("INVALID")),
    ]
}
