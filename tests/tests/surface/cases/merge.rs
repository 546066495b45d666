//! Merges: RFC 7396 and the options of a put.

use super::*;

/// What is stored, the patch, and what comes out: the examples of RFC 7396, appendix A, and some of our own.
const MERGED: &[(&str, &str, &str)] = &[
    (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
    (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
    (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
    (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
    (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
    (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
    (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
    (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
    (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
    (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
    (r#"{"a":"foo"}"#, "null", "null"),
    (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
    (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
    ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
    ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ("1", "2.50", "2.5"),
    (r#"{"a":{"b":1}}"#, r#"{"a":{"c":[null,{"d":null}]}}"#, r#"{"a":{"b":1,"c":[null,{"d":null}]}}"#),
    (
        r#"{"n":12345678901234567890123,"é":1}"#,
        r#"{"m":0.1000000000000000055511151231257827}"#,
        r#"{"m":0.1000000000000000055511151231257827,"n":12345678901234567890123,"é":1}"#,
    ),
    (r#"{"a":{"b":{"c":{"d":1,"e":2}}}}"#, r#"{"a":{"b":{"c":{"d":null}}}}"#, r#"{"a":{"b":{"c":{"e":2}}}}"#),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (place, (stored, patch, merged)) in MERGED.iter().enumerate() {
        let id = format!("merge.rfc.{place:02}");
        cases.push(write(id.clone(), vec![put(&id, stored)], merge(&id, patch), version(2, 1)));
        let fields = vec![("payload", Answer::text(merged)), ("type", Answer::text("json"))];
        cases.push(read(format!("{id}.read"), vec![], get(&id), Expect::Fields(fields)));
    }
    cases.extend(absent());
    cases.extend(options());
    cases
}

fn absent() -> Vec<Case> {
    vec![
        write("merge.absent", vec![], merge("merge.absent", r#"{"a":1,"b":null}"#), version(1, 1)),
        read("merge.absent.read", vec![], get("merge.absent"), payload(r#"{"a":1}"#)),
        write("merge.absent.empty", vec![], merge("merge.empty", "{}"), version(1, 1)),
        read("merge.absent.empty.read", vec![], get("merge.empty"), payload("{}")),
        write("merge.absent.value", vec![], merge("merge.value", "[1]"), version(1, 1)),
        write(
            "merge.removed",
            vec![put("merge.removed", r#"{"old":1}"#), remove("merge.removed")],
            merge("merge.removed", r#"{"new":1}"#),
            version(3, 1),
        ),
        read("merge.removed.read", vec![], get("merge.removed"), payload(r#"{"new":1}"#)),
        read(
            "merge.same",
            vec![put("merge.same", r#"{"a":1,"b":2}"#)],
            merge("merge.same", r#"{"a":1.0}"#),
            version(1, 0),
        ),
        read("merge.same.nothing", vec![], merge("merge.same", "{}"), version(1, 0)),
        read("merge.same.null", vec![], merge("merge.same", r#"{"c":null}"#), version(1, 0)),
    ]
}

fn options() -> Vec<Case> {
    let with = |option: PutOption| merge_with("merge.it", r#"{"a":2}"#, vec![option]);
    vec![
        write(
            "merge.version",
            vec![put_state("merge.it", r#"{"a":1}"#, "kept")],
            merge_with("merge.it", r#"{"a":3}"#, vec![PutOption::Version(6)]),
            version(6, 1),
        ),
        read("merge.version.read", vec![], get("merge.it"), field("state", "kept")),
        read("merge.version.old", vec![], with(PutOption::Version(6)), Expect::Refused("STALE")),
        read("merge.version.0", vec![], with(PutOption::Version(0)), Expect::Refused("INVALID")),
        write("merge.state", vec![], merge_with("merge.it", "{}", vec![state_option("s")]), version(7, 1)),
        read("merge.state.read", vec![], get("merge.it"), field("state", "s")),
        read("merge.state.empty", vec![], with(state_option("")), Expect::Refused("INVALID")),
        write("merge.audit", vec![], with(audit_option(r#"{"home":"x"}"#)), version(8, 1)),
        read("merge.audit.read", vec![], get("merge.it"), field("audit", r#"{"home":"x"}"#)),
        read("merge.audit.bad", vec![], with(audit_option("1")), Expect::Refused("INVALID")),
        write(
            "merge.jsonb",
            vec![],
            merge_with("merge.it", r#"{"a":null}"#, vec![PutOption::Jsonb]),
            version(9, 1),
        ),
        read("merge.jsonb.read", vec![], get("merge.it"), payload("{}")),
        write(
            "merge.ttl",
            vec![],
            merge_with("merge.it", r#"{"t":1}"#, vec![PutOption::Ttl(vec!["EX", "5000"])]),
            version(10, 1),
        ),
        read("merge.bad.json", vec![], merge("merge.it", r#"{"a":"#), Expect::Refused("BADJSON")),
        read("merge.nothing", vec![], merge("merge.it", ""), Expect::Refused("BADJSON")),
        read("merge.word", vec![], merge("merge.it", "abc"), Expect::Refused("BADJSON")),
        read(
            "merge.deep",
            vec![],
            merge("merge.it", &format!("{}1{}", r#"{"a":"#.repeat(129), "}".repeat(129))),
            Expect::Refused("BADJSON"),
        ),
        read(
            "merge.large",
            vec![],
            merge("merge.it", &format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024 * 1024))),
            Expect::Refused("TOOLARGE"),
        ),
        read(
            "merge.binary",
            vec![put_raw("merge.binary", b"{}", vec![PutOption::Binary])],
            merge("merge.binary", r#"{"a":1}"#),
            Expect::Refused("INVALID"),
        ),
        read("merge.binary.value", vec![], merge("merge.binary", "[1]"), Expect::Refused("INVALID")),
    ]
}
