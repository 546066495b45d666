//! Puts and removals of many: all or nothing, one batch id for all.

use super::*;

fn items(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(id, payload)| ((*id).to_owned(), (*payload).to_owned())).collect()
}

fn put_many(pairs: &[(&str, &str)], options: Vec<PutOption>) -> Request {
    Request::PutMany(items(pairs), options)
}

fn remove_many(list: &[&str]) -> Request {
    Request::RemoveMany(ids(list), vec![])
}

fn get_many(list: &[&str]) -> Request {
    Request::GetMany(ids(list))
}

/// Puts and removals of many.
pub fn cases() -> Vec<Case> {
    let mut cases = puts();
    cases.extend(refused_puts());
    cases.extend(removals());
    cases
}

fn puts() -> Vec<Case> {
    let json = || vec![PutOption::Json];
    vec![
        write("mput.new", vec![], put_many(&[("mput.a", "1"), ("mput.b", "2")], json()), written(2, 0)),
        read(
            "mput.stamps.all",
            vec![put_many(&[("mput.s1", "{}"), ("mput.s2", "{}")], vec![])],
            get_many(&["mput.s1", "mput.s2"]),
            Expect::Ids(vec!["mput.s1", "mput.s2"]),
        ),
        read(
            "mput.stamp",
            vec![put_many(&[("mput.stamp", "{}")], vec![])],
            get("mput.stamp"),
            field("audit", r#"{"batch":"batch 1"}"#),
        ),
        read("mput.same", vec![], put_many(&[("mput.a", "1.0"), ("mput.b", "2")], json()), written(0, 2)),
        write("mput.some", vec![], put_many(&[("mput.a", "1"), ("mput.c", "3")], json()), written(1, 1)),
        write(
            "mput.unchanged.among.written",
            vec![put("mput.old", "1")],
            put_many(&[("mput.old", "1"), ("mput.fresh", "1")], json()),
            written(1, 1),
        ),
        read(
            "mput.unchanged.is.not.stamped",
            vec![],
            get("mput.old"),
            Expect::Fields(vec![("audit", Answer::Nothing), ("version", number(1))]),
        ),
        write(
            "mput.audit",
            vec![],
            put_many(&[("mput.audit", "{}")], vec![audit_option(r#"{"home":"x"}"#)]),
            written(1, 0),
        ),
        read(
            "mput.audit.read",
            vec![],
            get("mput.audit"),
            field("audit", r#"{"batch":"batch 1","home":"x"}"#),
        ),
        write(
            "mput.audit.batch",
            vec![],
            put_many(
                &[("mput.given", "{}")],
                vec![audit_option(&format!("{{\"batch\":\"{GIVEN_BATCH}\"}}"))],
            ),
            Expect::Fields(vec![("batch", Answer::text(GIVEN_BATCH)), ("written", number(1))]),
        ),
        read(
            "mput.audit.batch.read",
            vec![],
            get("mput.given"),
            field("audit", r#"{"batch":"00000000-0000-4000-8000-000000000001"}"#),
        ),
        write(
            "mput.state",
            vec![],
            put_many(&[("mput.state", "{}")], vec![state_option("pending")]),
            written(1, 0),
        ),
        read("mput.state.read", vec![], get("mput.state"), field("state", "pending")),
        write(
            "mput.binary",
            vec![],
            put_many(&[("mput.binary", "{}")], vec![PutOption::BinaryText]),
            written(1, 0),
        ),
        read("mput.binary.read", vec![], get("mput.binary"), field("type", "binary")),
        write(
            "mput.detects.each",
            vec![],
            put_many(&[("mput.d1", "{}"), ("mput.d2", "1"), ("mput.d3", "{")], vec![]),
            written(3, 0),
        ),
        read("mput.detected.json", vec![], get("mput.d1"), field("type", "json")),
        read("mput.detected.binary", vec![], get("mput.d2"), field("type", "binary")),
        write(
            "mput.twice",
            vec![],
            put_many(&[("mput.twice", "1"), ("mput.twice", "2")], json()),
            written(2, 0),
        ),
        read(
            "mput.twice.read",
            vec![],
            get("mput.twice"),
            Expect::Fields(vec![("version", number(2)), ("payload", Answer::text("2"))]),
        ),
        write(
            "mput.twice.same",
            vec![],
            put_many(&[("mput.twice.same", "1"), ("mput.twice.same", "1")], json()),
            written(1, 1),
        ),
        write(
            "mput.there.and.back",
            vec![],
            put_many(&[("mput.twice", "3"), ("mput.twice", "2")], json()),
            written(2, 0),
        ),
        write(
            "mput.hundreds",
            vec![],
            Request::PutMany(
                (0..300).map(|n| (format!("mput.many.{n:03}"), "{}".to_owned())).collect(),
                vec![],
            ),
            written(300, 0),
        ),
    ]
}

fn refused_puts() -> Vec<Case> {
    let json = || vec![PutOption::Json];
    let good = |options: Vec<PutOption>| put_many(&[("mput.never", "{}")], options);
    vec![
        read(
            "mput.bad.json",
            vec![],
            put_many(&[("mput.x", "1"), ("mput.y", "{")], json()),
            Expect::RefusedSaying("BADJSON", "item 1 of the batch ('mput.y'): "),
        ),
        read("mput.bad.json.nothing.done", vec![], Request::Exists("mput.x".to_owned()), is(number(0))),
        read(
            "mput.bad.id",
            vec![],
            put_many(&[("", "1"), ("mput.y", "1")], json()),
            Expect::RefusedSaying("INVALID", "item 0 of the batch (''): id is empty"),
        ),
        read(
            "mput.long.id",
            vec![],
            put_many(&[("mput.x", "1"), ("mput.y", "1"), (&"x".repeat(513), "1")], json()),
            Expect::RefusedSaying("INVALID", "item 2 of the batch ('xxxx"),
        ),
        read(
            "mput.large",
            vec![],
            put_many(&[("mput.x", "1"), ("mput.y", &"x".repeat(17 * 1024 * 1024))], vec![]),
            Expect::RefusedSaying("TOOLARGE", "item 1 of the batch ('mput.y'): "),
        ),
        read("mput.state.bad", vec![], good(vec![state_option("")]), Expect::Refused("INVALID")),
        read("mput.audit.bad", vec![], good(vec![audit_option("[]")]), Expect::Refused("INVALID")),
        read("mput.audit.broken", vec![], good(vec![audit_option("{")]), Expect::Refused("BADJSON")),
        read(
            "mput.audit.batch.bad",
            vec![],
            good(vec![audit_option(r#"{"batch":"b1"}"#)]),
            Expect::Refused("INVALID"),
        ),
        read(
            "mput.nothing.done",
            vec![],
            get_many(&["mput.x", "mput.y", "mput.never"]),
            Expect::Ids(vec!["", "", ""]),
        ),
        read(
            "mput.uneven",
            vec![],
            Request::Odd(
                ids(&["TANDEM.MPUT", "2", "mput.x", "{}", "mput.y"]),
                "put_many(ARRAY['mput.x', 'mput.y'], ARRAY['{}'])".to_owned(),
            ),
            Expect::RefusedApart { sql: "INVALID", redis: "INVALID" },
        ),
        read(
            "mput.type.unknown",
            vec![],
            Request::Odd(
                ids(&["TANDEM.MPUT", "1", "mput.x", "{}", "XML"]),
                "put_many(ARRAY['mput.x'], ARRAY['{}'], type => 'xml')".to_owned(),
            ),
            Expect::RefusedApart { sql: "INVALID", redis: "INVALID" },
        ),
    ]
}

fn removals() -> Vec<Case> {
    let with = |list: &[&str], option: PutOption| Request::RemoveMany(ids(list), vec![option]);
    vec![
        write(
            "mremove.there",
            vec![put("mremove.a", "1"), put("mremove.b", "1"), put("mremove.c", "1")],
            remove_many(&["mremove.a", "mremove.never", "mremove.b"]),
            written(2, 1),
        ),
        read(
            "mremove.read",
            vec![],
            Request::ExistsMany(ids(&["mremove.a", "mremove.b", "mremove.c"])),
            is(Answer::List(vec![number(0), number(0), number(1)])),
        ),
        read("mremove.again", vec![], remove_many(&["mremove.a", "mremove.b"]), written(0, 2)),
        write("mremove.twice", vec![], remove_many(&["mremove.c", "mremove.c"]), written(1, 1)),
        write(
            "mremove.audit",
            vec![put("mremove.d", "1")],
            with(&["mremove.d"], audit_option(&format!("{{\"batch\":\"{GIVEN_BATCH}\"}}"))),
            Expect::Fields(vec![("written", number(1)), ("batch", Answer::text(GIVEN_BATCH))]),
        ),
        write("mremove.then.put", vec![], put("mremove.d", "1"), version(3, 1)),
        read(
            "mremove.bad.id",
            vec![],
            remove_many(&["mremove.d", ""]),
            Expect::RefusedSaying("INVALID", "item 1 of the batch (''): id is empty"),
        ),
        read(
            "mremove.audit.bad",
            vec![],
            with(&["mremove.d"], audit_option("[]")),
            Expect::Refused("INVALID"),
        ),
        read("mremove.nothing.done", vec![], Request::Exists("mremove.d".to_owned()), is(number(1))),
    ]
}
