//! States: lists, counts, changes and removals by state.

use super::*;

fn list(state: &str, page: Page) -> Request {
    Request::ListState(state.to_owned(), page)
}

fn items(state: &str, page: Page) -> Request {
    Request::GetState(state.to_owned(), page)
}

fn count(state: &str) -> Request {
    Request::CountState(state.to_owned())
}

fn in_state(id: &str, state: &str) -> Request {
    Request::InState(id.to_owned(), state.to_owned())
}

fn set(id: &str, state: &str, options: Vec<PutOption>) -> Request {
    Request::SetState(id.to_owned(), state.to_owned(), options)
}

fn change(id: &str, from: &str, to: &str) -> Request {
    change_with(id, from, to, vec![])
}

fn change_with(id: &str, from: &str, to: &str, options: Vec<PutOption>) -> Request {
    Request::MoveState(id.to_owned(), [from.to_owned(), to.to_owned()], options)
}

pub fn cases() -> Vec<Case> {
    let mut cases = lists();
    cases.extend(changes());
    cases.extend(moves());
    cases.extend(removals());
    cases.extend(bad_states());
    cases
}

fn lists() -> Vec<Case> {
    let fill = || {
        let mut fill: Vec<Request> =
            ["s.b", "s.a", "s.B", "s.é", "s.a.1"].iter().map(|id| put_state(id, "{}", "st1")).collect();
        fill.extend([put_state("s.other", "{}", "st2"), put_state("s.gone", "{}", "st1"), remove("s.gone")]);
        fill
    };
    let five = vec!["s.B", "s.a", "s.a.1", "s.b", "s.é"];
    let mut cases = vec![
        read("state.list", fill(), list("st1", all()), Expect::Ids(five.clone())),
        read("state.list.after", vec![], list("st1", after("s.a")), Expect::Ids(five[2..].to_vec())),
        read("state.list.after.other", vec![], list("st1", after("s.a0")), Expect::Ids(five[3..].to_vec())),
        read("state.list.after.end", vec![], list("st1", after("s.é")), Expect::Ids(vec![])),
        read("state.list.limit", vec![], list("st1", limit(2)), Expect::Ids(five[..2].to_vec())),
        read("state.list.page", vec![], list("st1", page("s.a", 2)), Expect::Ids(five[2..4].to_vec())),
        read("state.list.limit.10000", vec![], list("st1", limit(10_000)), Expect::Ids(five.clone())),
        read("state.list.none", vec![], list("no such state", all()), Expect::Ids(vec![])),
        read("state.list.one", vec![], list("st2", all()), Expect::Ids(vec!["s.other"])),
        read("state.get", vec![], items("st1", all()), Expect::Ids(five.clone())),
        read("state.get.page", vec![], items("st1", page("s.a", 2)), Expect::Ids(five[2..4].to_vec())),
        read("state.get.limit", vec![], items("st1", limit(1)), Expect::Ids(five[..1].to_vec())),
        read("state.get.after", vec![], items("st1", after("s.b")), Expect::Ids(five[4..].to_vec())),
        read("state.get.none", vec![], items("no such state", all()), Expect::Ids(vec![])),
        read("state.count", vec![], count("st1"), is(number(5))),
        read("state.count.none", vec![], count("no such state"), is(number(0))),
        read("state.has", vec![], in_state("s.a", "st1"), is(number(1))),
        read("state.has.other", vec![], in_state("s.other", "st1"), is(number(0))),
        read("state.has.removed", vec![], in_state("s.gone", "st1"), is(number(0))),
        read("state.has.never", vec![], in_state("s.never", "st1"), is(number(0))),
        read("state.has.default", vec![put("s.plain", "1")], in_state("s.plain", "default"), is(number(1))),
        write("state.leaves", vec![], put_state("s.a.1", "{}", "st2"), version(2, 1)),
        read("state.left", vec![], list("st1", all()), Expect::Ids(vec!["s.B", "s.a", "s.b", "s.é"])),
        read("state.joined", vec![], list("st2", all()), Expect::Ids(vec!["s.a.1", "s.other"])),
        read(
            "state.hundred",
            (0..101).map(|n| put_state(&format!("s.many.{n:03}"), "{}", "many")).collect(),
            list("many", after("s.many.099")),
            Expect::Ids(vec!["s.many.100"]),
        ),
        read("state.hundred.count", vec![], count("many"), is(number(101))),
    ];
    cases.extend(bad_limits("state.list", |page| list("st1", page)));
    cases.extend(bad_limits("state.get", |page| items("st1", page)));
    cases
}

fn changes() -> Vec<Case> {
    vec![
        write("state.set", vec![put("set.it", r#"{"a":1}"#)], set("set.it", "done", vec![]), version(2, 1)),
        read(
            "state.set.read",
            vec![],
            get("set.it"),
            Expect::Fields(vec![
                ("state", Answer::text("done")),
                ("payload", Answer::text(r#"{"a":1}"#)),
                ("audit", Answer::Nothing),
            ]),
        ),
        read("state.set.same", vec![], set("set.it", "done", vec![]), version(2, 0)),
        read(
            "state.set.same.audit",
            vec![],
            set("set.it", "done", vec![audit_option(r#"{"home":"h"}"#)]),
            version(2, 0),
        ),
        write(
            "state.set.audit",
            vec![],
            set("set.it", "more", vec![audit_option(r#"{"home":"h"}"#)]),
            version(3, 1),
        ),
        read("state.set.audit.read", vec![], get("set.it"), field("audit", r#"{"home":"h"}"#)),
        write("state.set.clears.audit", vec![], set("set.it", "less", vec![]), version(4, 1)),
        read(
            "state.set.clears.audit.read",
            vec![],
            get("set.it"),
            Expect::Fields(vec![("audit", Answer::Nothing)]),
        ),
        write(
            "state.set.binary",
            vec![put_raw("set.binary", &[255, 0], vec![PutOption::Binary])],
            set("set.binary", "done", vec![]),
            version(2, 1),
        ),
        read("state.set.binary.read", vec![], get("set.binary"), payload("hex:ff00")),
        read(
            "state.set.never",
            vec![],
            set("set.never", "done", vec![]),
            Expect::RefusedSaying("NOTFOUND", "'set.never'"),
        ),
        read(
            "state.set.removed",
            vec![put("set.gone", "1"), remove("set.gone")],
            set("set.gone", "done", vec![]),
            Expect::Refused("NOTFOUND"),
        ),
        read(
            "state.set.audit.bad",
            vec![],
            set("set.it", "x", vec![audit_option("[]")]),
            Expect::Refused("INVALID"),
        ),
        write(
            "state.set.after.the.largest",
            vec![put_with("set.full", "1", vec![PutOption::Version(1 << 62)])],
            set("set.full", "x", vec![]),
            version((1 << 62) + 1, 1),
        ),
    ]
}

fn moves() -> Vec<Case> {
    vec![
        write("state.move", vec![put_state("move.it", "1", "a")], change("move.it", "a", "b"), version(2, 1)),
        read("state.move.read", vec![], in_state("move.it", "b"), is(number(1))),
        read("state.move.same", vec![], change("move.it", "b", "b"), version(2, 0)),
        read(
            "state.move.from.other",
            vec![],
            change("move.it", "a", "c"),
            Expect::RefusedSaying("CONFLICT", "b"),
        ),
        read("state.move.never", vec![], change("move.never", "a", "b"), Expect::Refused("NOTFOUND")),
        read(
            "state.move.removed",
            vec![put_state("move.gone", "1", "a"), remove("move.gone")],
            change("move.gone", "a", "b"),
            Expect::Refused("NOTFOUND"),
        ),
        write(
            "state.move.audit",
            vec![],
            change_with("move.it", "b", "c", vec![audit_option(r#"{"home":"h"}"#)]),
            version(3, 1),
        ),
        read("state.move.audit.read", vec![], get("move.it"), field("audit", r#"{"home":"h"}"#)),
        read(
            "state.move.audit.bad",
            vec![],
            change_with("move.it", "c", "d", vec![audit_option("{")]),
            Expect::Refused("BADJSON"),
        ),
    ]
}

fn removals() -> Vec<Case> {
    let remove_state =
        |state: &str, limit: Option<i64>| Request::RemoveState(state.to_owned(), limit, vec![]);
    let fill = || {
        let ids = ["sr.c", "sr.a", "sr.d", "sr.b"];
        let mut fill: Vec<Request> = ids.iter().map(|id| put_state(id, "1", "old")).collect();
        fill.extend([put_state("sr.gone", "1", "old"), remove("sr.gone"), put_state("sr.kept", "1", "new")]);
        fill
    };
    vec![
        write("state.remove.limit", fill(), remove_state("old", Some(2)), is(number(2))),
        read("state.remove.in.order", vec![], list("old", all()), Expect::Ids(vec!["sr.c", "sr.d"])),
        write("state.remove.all", vec![], remove_state("old", None), is(number(2))),
        read("state.remove.again", vec![], remove_state("old", None), is(number(0))),
        read("state.remove.others.stay", vec![], list("new", all()), Expect::Ids(vec!["sr.kept"])),
        read("state.remove.none", vec![], remove_state("no such state", None), is(number(0))),
        write("state.remove.tombstones", vec![], put("sr.a", "1"), version(3, 1)),
        write(
            "state.remove.audit",
            vec![],
            Request::RemoveState("new".to_owned(), Some(10), vec![audit_option(r#"{"home":"h"}"#)]),
            is(number(1)),
        ),
        read(
            "state.remove.audit.bad",
            vec![],
            Request::RemoveState("new".to_owned(), None, vec![audit_option("[]")]),
            Expect::Refused("INVALID"),
        ),
        read("state.remove.limit.0", vec![], remove_state("new", Some(0)), Expect::Refused("INVALID")),
        read("state.remove.limit.-1", vec![], remove_state("new", Some(-1)), Expect::Refused("INVALID")),
    ]
}

fn bad_states() -> Vec<Case> {
    let long = "s".repeat(65);
    let mut cases = Vec::new();
    for (what, state) in [("empty", ""), ("65", long.as_str())] {
        let requests = [
            ("list", list(state, all())),
            ("get", items(state, all())),
            ("count", count(state)),
            ("has", in_state("set.it", state)),
            ("set", set("set.it", state, vec![])),
            ("move.from", change("set.it", state, "x")),
            ("move.to", change("set.it", "less", state)),
            ("remove", Request::RemoveState(state.to_owned(), None, vec![])),
        ];
        cases.extend(requests.into_iter().map(|(name, request)| {
            read(format!("state.{what}.{name}"), vec![], request, Expect::RefusedSaying("INVALID", "state"))
        }));
    }
    cases
}
