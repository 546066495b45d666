//! Status of an item, without a link. What a link makes of it is `tests/status.rs`.

use super::revisions::apply;
use super::*;

fn status(id: &str) -> Request {
    Request::Status(id.to_owned())
}

fn says(status: &str, tiers: &str, version: Option<i64>) -> Expect {
    Expect::Fields(vec![
        ("status", Answer::text(status)),
        ("tiers", Answer::text(tiers)),
        ("direction", Answer::Nothing),
        ("version", version.map_or(Answer::Nothing, number)),
    ])
}

pub fn cases() -> Vec<Case> {
    vec![
        read("status.missing", vec![], status("status.never"), says("missing", "none", None)),
        read(
            "status.missing.fields",
            vec![],
            status("status.never"),
            Expect::Fields(vec![("id", Answer::text("status.never")), ("etag", Answer::Nothing)]),
        ),
        read(
            "status.unlinked",
            vec![put("status.it", "1")],
            status("status.it"),
            says("unlinked", "here", Some(1)),
        ),
        read(
            "status.unlinked.again",
            vec![put("status.it", "2")],
            status("status.it"),
            says("unlinked", "here", Some(2)),
        ),
        read(
            "status.removed",
            vec![remove("status.it")],
            status("status.it"),
            says("removed", "none", Some(3)),
        ),
        read(
            "status.removed.fields",
            vec![],
            status("status.it"),
            Expect::Fields(vec![("id", Answer::text("status.it")), ("etag", Answer::Nothing)]),
        ),
        read(
            "status.back",
            vec![put("status.it", "3")],
            status("status.it"),
            says("unlinked", "here", Some(4)),
        ),
        read(
            "status.applied",
            vec![apply("status.applied", 5, Some("1"))],
            status("status.applied"),
            says("unlinked", "here", Some(5)),
        ),
        read(
            "status.applied.tombstone",
            vec![apply("status.gone", 5, None)],
            status("status.gone"),
            says("removed", "none", Some(5)),
        ),
        read(
            "status.local",
            vec![put_with("status.local", "1", vec![PutOption::Local])],
            status("status.local"),
            says("local", "here", Some(1)),
        ),
        write("status.local.removed", vec![], remove("status.local"), is(number(1))),
        read("status.local.leaves.nothing", vec![], status("status.local"), says("missing", "none", None)),
    ]
}
