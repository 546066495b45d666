//! Local items: seen by reads, in no hash, and without a tombstone.

use super::revisions::apply;
use super::*;

fn put_local(id: &str, payload: &str) -> Request {
    put_local_with(id, payload, vec![])
}

fn put_local_with(id: &str, payload: &str, mut options: Vec<PutOption>) -> Request {
    options.push(PutOption::Local);
    put_with(id, payload, options)
}

fn no_hash(path: &str) -> (Request, Expect) {
    (Request::Hash(path.to_owned()), is(Answer::Nothing))
}

pub fn cases() -> Vec<Case> {
    let mut cases = kept_here();
    cases.extend(shared_or_not());
    cases
}

fn kept_here() -> Vec<Case> {
    let (hash, none) = no_hash("local.it");
    let (hash_of_all, none_at_all) = no_hash("local");
    vec![
        write(
            "local.new",
            vec![],
            put_local_with("local.it", "1", vec![state_option("mine")]),
            version(1, 1),
        ),
        read("local.hash", vec![], hash, none),
        read("local.hash.parent", vec![], hash_of_all, none_at_all),
        read("local.read", vec![], get("local.it"), payload("1")),
        read("local.exists", vec![], Request::Exists("local.it".to_owned()), is(number(1))),
        read("local.counted", vec![], Request::Count("local.".to_owned()), is(number(1))),
        read(
            "local.scanned",
            vec![],
            Request::Scan("local.".to_owned(), all()),
            Expect::Ids(vec!["local.it"]),
        ),
        read(
            "local.state",
            vec![],
            Request::ListState("mine".to_owned(), all()),
            Expect::Ids(vec!["local.it"]),
        ),
        read("local.state.count", vec![], Request::CountState("mine".to_owned()), is(number(1))),
        read(
            "local.in.state",
            vec![],
            Request::InState("local.it".to_owned(), "mine".to_owned()),
            is(number(1)),
        ),
        read("local.leaves", vec![], Request::Leaves("local".to_owned(), all()), Expect::Ids(vec![])),
        read("local.dirty", vec![], Request::DirtyCount("local.".to_owned()), is(number(0))),
        read("local.same", vec![], put_local_with("local.it", "1", vec![]), version(1, 0)),
        write("local.again", vec![], put_local("local.it", "2"), version(2, 1)),
        read(
            "local.match.wrong",
            vec![],
            put_local_with("local.it", "3", if_wrong()),
            Expect::Refused("CONFLICT"),
        ),
        write("local.match.right", vec![], put_local_with("local.it", "3", if_current()), version(3, 1)),
        read(
            "local.absent.there",
            vec![],
            put_local_with("local.it", "4", vec![PutOption::IfAbsent]),
            Expect::Refused("EXISTS"),
        ),
        write(
            "local.binary",
            vec![],
            put_raw("local.bytes", &[255], vec![PutOption::Binary, PutOption::Local]),
            version(1, 1),
        ),
        write("local.removed", vec![], remove("local.it"), is(number(1))),
        read("local.removed.read", vec![], get("local.it"), is(Answer::Nothing)),
        read(
            "local.leaves.no.tombstone",
            vec![],
            Request::Status("local.it".to_owned()),
            field("status", "missing"),
        ),
        write("local.new.again", vec![], put_local("local.it", "1"), version(1, 1)),
        write(
            "local.removed.by.prefix",
            vec![],
            Request::RemovePrefix("local.it".to_owned(), None, vec![]),
            is(number(1)),
        ),
        write(
            "local.mput",
            vec![],
            Request::PutMany(
                vec![("local.m1".to_owned(), "1".to_owned()), ("local.m2".to_owned(), "{}".to_owned())],
                vec![PutOption::Local],
            ),
            written(2, 0),
        ),
        read("local.mput.status", vec![], Request::Status("local.m1".to_owned()), field("status", "local")),
        write(
            "local.mremove",
            vec![],
            Request::RemoveMany(ids(&["local.m1", "local.m2"]), vec![]),
            written(2, 0),
        ),
        write(
            "local.batch",
            vec![],
            batch(r#"[{"op":"put","id":"local.b1","payload":1,"local":true}]"#),
            written(1, 0),
        ),
        read("local.batch.status", vec![], Request::Status("local.b1".to_owned()), field("status", "local")),
        read("local.hash.at.the.end", vec![], no_hash("local").0, is(Answer::Nothing)),
        write(
            "local.removed.at.the.end",
            vec![],
            Request::RemovePrefix("local.".to_owned(), None, vec![]),
            is(number(2)),
        ),
    ]
}

fn shared_or_not() -> Vec<Case> {
    let changed = || Expect::Fields(vec![("changed", number(1))]);
    let hash = |id: &str| Request::Hash(id.to_owned());
    let status = |id: &str| Request::Status(id.to_owned());
    vec![
        read(
            "local.over.shared",
            vec![put("lshared.it", "1")],
            put_local("lshared.it", "2"),
            Expect::Refused("INVALID"),
        ),
        read("local.over.shared.same", vec![], put_local("lshared.it", "1"), Expect::Refused("INVALID")),
        read(
            "local.mput.over.shared",
            vec![],
            Request::PutMany(
                vec![("lshared.new".to_owned(), "1".to_owned()), ("lshared.it".to_owned(), "2".to_owned())],
                vec![PutOption::Local],
            ),
            Expect::RefusedSaying("INVALID", "item 1 of the batch ('lshared.it'): "),
        ),
        write("local.is.shared", vec![put_local("lshared.a", "1")], put("lshared.a", "2"), changed()),
        read("local.is.shared.hash", vec![], hash("lshared.a"), Expect::Text),
        read("local.is.shared.status", vec![], status("lshared.a"), field("status", "unlinked")),
        write(
            "local.is.shared.as.it.is",
            vec![put_local("lshared.b", "1")],
            put("lshared.b", "1"),
            changed(),
        ),
        read("local.is.shared.as.it.is.hash", vec![], hash("lshared.b"), Expect::Text),
        write(
            "local.gives.way",
            vec![put_local_with("lshared.c", "1", vec![PutOption::Version(9)])],
            apply("lshared.c", 1, Some("[7]")),
            is(Answer::text("applied")),
        ),
        read("local.gives.way.read", vec![], get("lshared.c"), payload("[7]")),
        read("local.gives.way.hash", vec![], hash("lshared.c"), Expect::Text),
        write(
            "local.gives.way.to.a.tombstone",
            vec![put_local("lshared.d", "1")],
            apply("lshared.d", 3, None),
            is(Answer::text("applied")),
        ),
        read("local.gives.way.to.a.tombstone.read", vec![], get("lshared.d"), is(Answer::Nothing)),
        read("local.verify", vec![], Request::Verify, Expect::Fields(vec![("ok", number(1))])),
    ]
}
