//! Compare-and-swap: IFMATCH and IFABSENT of every command that has them.

use super::*;

pub fn cases() -> Vec<Case> {
    let mut cases = puts();
    cases.extend(others());
    cases
}

fn both() -> Vec<PutOption> {
    vec![PutOption::IfAbsent, PutOption::IfMatch("0".repeat(64))]
}

fn if_match(etag: &str) -> Vec<PutOption> {
    vec![PutOption::IfMatch(etag.to_owned())]
}

fn puts() -> Vec<Case> {
    let absent = || vec![PutOption::IfAbsent];
    vec![
        write("absent.new", vec![], put_with("absent.new", "1", absent()), version(1, 1)),
        read(
            "absent.there",
            vec![put("absent.there", "1")],
            put_with("absent.there", "2", absent()),
            Expect::RefusedSaying("EXISTS", "item 'absent.there' exists already (etag "),
        ),
        read("absent.there.same", vec![], put_with("absent.there", "1", absent()), Expect::Refused("EXISTS")),
        write(
            "absent.removed",
            vec![put("absent.removed", "1"), remove("absent.removed")],
            put_with("absent.removed", "2", absent()),
            version(3, 1),
        ),
        write(
            "match.right",
            vec![put("match.right", "1")],
            put_with("match.right", "2", if_current()),
            version(2, 1),
        ),
        read("match.right.same", vec![], put_with("match.right", "2", if_current()), version(2, 0)),
        read(
            "match.wrong",
            vec![put("match.wrong", "1")],
            put_with("match.wrong", "2", if_wrong()),
            Expect::RefusedSaying("CONFLICT", "item 'match.wrong' has changed"),
        ),
        read(
            "match.wrong.same",
            vec![],
            put_with("match.wrong", "1", if_wrong()),
            Expect::Refused("CONFLICT"),
        ),
        read(
            "match.nothing",
            vec![],
            put_with("match.nothing", "2", if_wrong()),
            Expect::RefusedSaying("CONFLICT", "current is none"),
        ),
        read(
            "match.removed",
            vec![put("match.removed", "1"), remove("match.removed")],
            put_with("match.removed", "2", if_wrong()),
            Expect::RefusedSaying("CONFLICT", "current is none"),
        ),
        read(
            "match.before.version",
            vec![],
            put_with("match.wrong", "2", vec![PutOption::Version(1), PutOption::IfMatch("0".repeat(64))]),
            Expect::Refused("CONFLICT"),
        ),
        read(
            "match.right.version.old",
            vec![],
            put_with(
                "match.wrong",
                "2",
                vec![PutOption::Version(1), PutOption::IfMatch("current".to_owned())],
            ),
            Expect::Refused("STALE"),
        ),
        read("match.bad", vec![], put_with("match.wrong", "2", if_match("xyz")), Expect::Refused("INVALID")),
        read("match.empty", vec![], put_with("match.wrong", "2", if_match("")), Expect::Refused("INVALID")),
        read(
            "match.63.digits",
            vec![],
            put_with("match.wrong", "2", if_match(&"0".repeat(63))),
            Expect::Refused("INVALID"),
        ),
        read(
            "match.no.digit",
            vec![],
            put_with("match.wrong", "2", if_match(&"g".repeat(64))),
            Expect::Refused("INVALID"),
        ),
        read("match.and.absent", vec![], put_with("match.both", "2", both()), Expect::Refused("INVALID")),
    ]
}

fn others() -> Vec<Case> {
    let remove = |id: &str, options: Vec<PutOption>| Request::Remove(id.to_owned(), options);
    let set = |options: Vec<PutOption>| Request::SetState("match.set".to_owned(), "next".to_owned(), options);
    vec![
        write(
            "remove.match.right",
            vec![put("remove.match", "1")],
            remove("remove.match", if_current()),
            is(number(1)),
        ),
        read(
            "remove.match.nothing",
            vec![],
            remove("remove.match", if_wrong()),
            Expect::RefusedSaying("CONFLICT", "current is none"),
        ),
        read(
            "remove.match.wrong",
            vec![put("remove.wrong", "1")],
            remove("remove.wrong", if_wrong()),
            Expect::Refused("CONFLICT"),
        ),
        read("remove.match.bad", vec![], remove("remove.bad", if_match("1")), Expect::Refused("INVALID")),
        write(
            "merge.match.right",
            vec![put("match.merge", "{}")],
            merge_with("match.merge", r#"{"a":1}"#, if_current()),
            version(2, 1),
        ),
        read(
            "merge.match.wrong",
            vec![],
            merge_with("match.merge", r#"{"a":2}"#, if_wrong()),
            Expect::RefusedSaying("CONFLICT", "item 'match.merge' has changed"),
        ),
        read(
            "merge.match.nothing",
            vec![],
            merge_with("match.merge.nothing", "{}", if_wrong()),
            Expect::RefusedSaying("CONFLICT", "current is none"),
        ),
        read(
            "merge.match.bad",
            vec![],
            merge_with("match.merge", "{}", if_match("x")),
            Expect::Refused("INVALID"),
        ),
        read(
            "merge.absent.there",
            vec![],
            merge_with("match.merge", "{}", vec![PutOption::IfAbsent]),
            Expect::Refused("EXISTS"),
        ),
        write(
            "merge.absent.new",
            vec![],
            merge_with("match.merge.new", "{}", vec![PutOption::IfAbsent]),
            version(1, 1),
        ),
        read(
            "merge.match.and.absent",
            vec![],
            merge_with("match.merge", "{}", both()),
            Expect::Refused("INVALID"),
        ),
        write("set.match.right", vec![put("match.set", "1")], set(if_current()), version(2, 1)),
        read("set.match.right.same", vec![], set(if_current()), version(2, 0)),
        read("set.match.wrong", vec![], set(if_wrong()), Expect::Refused("CONFLICT")),
        read("set.match.bad", vec![], set(if_match("x")), Expect::Refused("INVALID")),
    ]
}
