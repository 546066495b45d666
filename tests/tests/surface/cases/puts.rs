//! Puts and removals.

use super::*;

pub fn cases() -> Vec<Case> {
    let mut cases = puts();
    cases.extend(removals());
    cases
}

fn puts() -> Vec<Case> {
    let issue = r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#;
    vec![
        write("put.new", vec![], put("put.new", "{}"), version(1, 1)),
        write("put.again", vec![put("put.again", "1")], put("put.again", "2"), version(2, 1)),
        read("put.same", vec![put("put.same", "[1.0]")], put("put.same", " [ 10e-1 ] "), version(1, 0)),
        read(
            "put.same.state",
            vec![put_state("put.same.state", "1", "x")],
            put_state("put.same.state", "1", "x"),
            version(1, 0),
        ),
        read(
            "put.same.binary",
            vec![put_raw("put.same.binary", &[0, 255], vec![PutOption::Binary])],
            put_raw("put.same.binary", &[0, 255], vec![PutOption::Binary]),
            version(1, 0),
        ),
        write(
            "put.version",
            vec![],
            put_with("put.version", issue, vec![PutOption::Version(7)]),
            version(7, 1),
        ),
        read(
            "put.version.read",
            vec![],
            get("put.version"),
            payload(r#"{"a":[1,1,12345678901234567890123],"b":1}"#),
        ),
        write(
            "put.version.largest",
            vec![],
            put_with("put.version.largest", "1", vec![PutOption::Version(1 << 62)]),
            version(1 << 62, 1),
        ),
        read(
            "put.version.too.large",
            vec![],
            put_with("put.version.largest", "2", vec![PutOption::Version((1 << 62) + 1)]),
            Expect::RefusedSaying("INVALID", "give an integer from 1 to 4611686018427387904"),
        ),
        read(
            "put.version.63.bits",
            vec![],
            put_with("put.version.largest", "2", vec![PutOption::Version(i64::MAX)]),
            Expect::RefusedSaying("INVALID", "give an integer from 1 to 4611686018427387904"),
        ),
        write("put.after.the.largest", vec![], put("put.version.largest", "2"), version((1 << 62) + 1, 1)),
        write("remove.after.the.largest", vec![], remove("put.version.largest"), is(number(1))),
        write(
            "put.again.after.the.largest",
            vec![],
            put("put.version.largest", "2"),
            version((1 << 62) + 3, 1),
        ),
        read(
            "put.version.same.content",
            vec![put("put.idem", "1")],
            put_with("put.idem", "1", vec![PutOption::Version(1)]),
            version(1, 0),
        ),
        write(
            "put.version.newer.same.content",
            vec![],
            put_with("put.idem", "1", vec![PutOption::Version(5)]),
            version(5, 1),
        ),
        read(
            "put.version.older.same.content",
            vec![],
            put_with("put.idem", "1", vec![PutOption::Version(4)]),
            Expect::Refused("STALE"),
        ),
        read(
            "put.version.taken",
            vec![put("put.taken", "1")],
            put_with("put.taken", "2", vec![PutOption::Version(1)]),
            Expect::RefusedSaying("STALE", "is at version 1"),
        ),
        read(
            "put.version.old",
            vec![put_with("put.old", "1", vec![PutOption::Version(9)])],
            put_with("put.old", "2", vec![PutOption::Version(8)]),
            Expect::RefusedSaying("STALE", "is at version 9, version 8 is not newer"),
        ),
        write("put.state", vec![], put_state("put.state", "1", "pending"), version(1, 1)),
        read("put.state.default", vec![], get("put.new"), field("state", "default")),
        write(
            "put.state.kept",
            vec![put_state("put.kept", "1", "base")],
            put("put.kept", "2"),
            version(2, 1),
        ),
        read("put.state.kept.read", vec![], get("put.kept"), field("state", "base")),
        write(
            "put.state.only",
            vec![put("put.restate", "1")],
            put_state("put.restate", "1", "other"),
            version(2, 1),
        ),
        write("put.state.longest", vec![], put_state("put.state.64", "1", &"é".repeat(32)), version(1, 1)),
        write(
            "put.binary",
            vec![],
            put_raw("put.binary", &[0, 255, 10, 13], vec![PutOption::Binary]),
            version(1, 1),
        ),
        read(
            "put.binary.read",
            vec![],
            get("put.binary"),
            Expect::Fields(vec![("type", Answer::text("binary")), ("payload", Answer::text("hex:00ff0a0d"))]),
        ),
        write(
            "put.binary.over.json",
            vec![put("put.kind", "{}")],
            put_raw("put.kind", b"{}", vec![PutOption::Binary]),
            version(2, 1),
        ),
        write("put.json.over.binary", vec![], put("put.kind", "{}"), version(3, 1)),
        write("put.empty.binary", vec![], put_raw("put.empty", b"", vec![PutOption::Binary]), version(1, 1)),
        write("put.jsonb", vec![], put_raw("put.jsonb", b"[1.0]", vec![PutOption::Jsonb]), version(1, 1)),
        read("put.jsonb.same", vec![], put("put.jsonb", "[1]"), version(1, 0)),
        write(
            "put.jsonb.options",
            vec![],
            put_raw(
                "put.jsonb",
                b"7",
                vec![
                    PutOption::Jsonb,
                    PutOption::Version(8),
                    state_option("s"),
                    PutOption::IfMatch("current".to_owned()),
                    audit_option(r#"{"home":"h"}"#),
                ],
            ),
            version(8, 1),
        ),
        write(
            "put.binary.options",
            vec![],
            put_raw(
                "put.binary",
                &[1, 255],
                vec![
                    PutOption::Binary,
                    PutOption::Version(6),
                    state_option("s"),
                    PutOption::IfMatch("current".to_owned()),
                    audit_option(r#"{"home":"h"}"#),
                ],
            ),
            version(6, 1),
        ),
        read(
            "put.binary.absent",
            vec![],
            put_raw("put.binary", &[1, 255], vec![PutOption::Binary, PutOption::IfAbsent]),
            Expect::Refused("EXISTS"),
        ),
        write(
            "put.all.options",
            vec![],
            put_with(
                "put.all",
                "1",
                vec![PutOption::Version(3), state_option("s"), PutOption::IfAbsent, audit_option("{}")],
            ),
            version(3, 1),
        ),
        write(
            "put.after.removal",
            vec![put("put.back", "1"), remove("put.back")],
            put("put.back", "1"),
            version(3, 1),
        ),
        write(
            "put.state.after.removal",
            vec![put_state("put.fresh", "1", "old"), remove("put.fresh")],
            put("put.fresh", "1"),
            version(3, 1),
        ),
        read("put.state.after.removal.read", vec![], get("put.fresh"), field("state", "default")),
        read(
            "put.below.tombstone",
            vec![put_with("put.below", "1", vec![PutOption::Version(5)]), remove("put.below")],
            put_with("put.below", "1", vec![PutOption::Version(6)]),
            Expect::Refused("STALE"),
        ),
        write("put.longest.id", vec![], put(&"é".repeat(256), "1"), version(1, 1)),
        write("put.strange.id", vec![], put("put. *?[\\%_'\"\n\u{10FFFF}", "1"), version(1, 1)),
        write(
            "put.deepest",
            vec![],
            put("put.deepest", &format!("{}{}", "[".repeat(128), "]".repeat(128))),
            version(1, 1),
        ),
        write("put.exponent", vec![], put("put.exponent", "[1e131071, 1e-16383]"), version(1, 1)),
        write(
            "put.ttl.ex",
            vec![],
            put_with("put.ttl", "1", vec![PutOption::Ttl(vec!["EX", "5000"])]),
            version(1, 1),
        ),
        write(
            "put.ttl.px",
            vec![],
            put_with("put.ttl", "2", vec![PutOption::Ttl(vec!["PX", "5000000"])]),
            version(2, 1),
        ),
        write(
            "put.ttl.keep",
            vec![],
            put_with("put.ttl", "3", vec![PutOption::Ttl(vec!["KEEPTTL"])]),
            version(3, 1),
        ),
    ]
}

fn removals() -> Vec<Case> {
    let with = |id: &str, option: PutOption| Request::Remove(id.to_owned(), vec![option]);
    vec![
        write("remove.there", vec![put("remove.there", "1")], remove("remove.there"), is(number(1))),
        read("remove.read", vec![], get("remove.there"), is(Answer::Nothing)),
        read("remove.exists", vec![], Request::Exists("remove.there".to_owned()), is(number(0))),
        read("remove.again", vec![], remove("remove.there"), is(number(0))),
        read("remove.never", vec![], remove("remove.never"), is(number(0))),
        write(
            "remove.binary",
            vec![put_raw("remove.binary", &[255], vec![PutOption::Binary])],
            remove("remove.binary"),
            is(number(1)),
        ),
        write(
            "remove.audit",
            vec![put("remove.audit", "1")],
            with("remove.audit", audit_option("{}")),
            is(number(1)),
        ),
        write(
            "remove.version",
            vec![put("remove.version", "1")],
            with("remove.version", PutOption::Version(10)),
            is(number(1)),
        ),
        write("remove.version.counts.on", vec![], put("remove.version", "1"), version(11, 1)),
        read(
            "remove.version.taken",
            vec![],
            with("remove.version", PutOption::Version(11)),
            Expect::RefusedSaying("STALE", "is at version 11"),
        ),
        read(
            "remove.version.old",
            vec![],
            with("remove.version", PutOption::Version(1)),
            Expect::Refused("STALE"),
        ),
        read(
            "remove.version.0",
            vec![],
            with("remove.version", PutOption::Version(0)),
            Expect::Refused("INVALID"),
        ),
        read("remove.version.never", vec![], with("remove.never", PutOption::Version(4)), is(number(0))),
    ]
}
