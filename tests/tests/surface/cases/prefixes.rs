//! Pages, counts and removals by prefix.

use super::*;

pub fn cases() -> Vec<Case> {
    let mut cases = pages();
    cases.extend(counts());
    cases.extend(removals());
    cases
}

fn pages() -> Vec<Case> {
    let scan = |prefix: &str, page: Page| Request::Scan(prefix.to_owned(), page);
    let fill = || {
        ["scan.b", "scan.a", "scan.B", "scan.é", "scan.a.1", "scan-a", "scan.a%", "scan.a_"]
            .map(|id| put(id, "1"))
            .to_vec()
    };
    let seven = vec!["scan.B", "scan.a", "scan.a%", "scan.a.1", "scan.a_", "scan.b", "scan.é"];
    let mut cases = vec![
        read("scan.bytes.order", fill(), scan("scan.", all()), Expect::Ids(seven.clone())),
        read("scan.after", vec![], scan("scan.", after("scan.a")), Expect::Ids(seven[2..].to_vec())),
        read("scan.after.absent", vec![], scan("scan.", after("scan.a!")), Expect::Ids(seven[2..].to_vec())),
        read("scan.after.end", vec![], scan("scan.", after("scan.é")), Expect::Ids(vec![])),
        read("scan.after.before", vec![], scan("scan.a", after("a")), Expect::Ids(seven[1..5].to_vec())),
        read("scan.after.beyond", vec![], scan("scan.a", after("z")), Expect::Ids(vec![])),
        read("scan.limit", vec![], scan("scan.", limit(3)), Expect::Ids(seven[..3].to_vec())),
        read("scan.limit.one", vec![], scan("scan.", page("scan.b", 1)), Expect::Ids(vec!["scan.é"])),
        read("scan.literal.percent", vec![], scan("scan.a%", all()), Expect::Ids(vec!["scan.a%"])),
        read("scan.literal.line", vec![], scan("scan.a_", all()), Expect::Ids(vec!["scan.a_"])),
        read("scan.literal.star", vec![], scan("scan.*", all()), Expect::Ids(vec![])),
        read("scan.literal.bracket", vec![], scan("scan.[a]", all()), Expect::Ids(vec![])),
        read("scan.literal.backslash", vec![], scan("scan\\", all()), Expect::Ids(vec![])),
        read("scan.none", vec![], scan("scan.nothing", all()), Expect::Ids(vec![])),
        read("scan.whole.id", vec![], scan("scan.a.1", all()), Expect::Ids(vec!["scan.a.1"])),
        read("scan.limit.10000", vec![], scan("scan.a.", limit(10_000)), Expect::Ids(vec!["scan.a.1"])),
        read("scan.prefix.512", vec![], scan(&"x".repeat(512), all()), Expect::Ids(vec![])),
        read("scan.prefix.long", vec![], scan(&"x".repeat(513), all()), Expect::Refused("INVALID")),
        read(
            "scan.default.limit",
            (0..101).map(|n| put(&format!("page.{n:03}"), "1")).collect(),
            scan("page.", after("page.000")),
            Expect::Ids((1..101).map(|n| &*format!("page.{n:03}").leak()).collect()),
        ),
        read(
            "scan.default.limit.next",
            vec![],
            scan("page.", after("page.099")),
            Expect::Ids(vec!["page.100"]),
        ),
    ];
    cases.extend(bad_limits("scan", |page| scan("scan.", page)));
    cases
}

fn counts() -> Vec<Case> {
    let count = |prefix: &str| Request::Count(prefix.to_owned());
    vec![
        read("count.none", vec![], count("no.such"), is(number(0))),
        read("count.prefix", vec![], count("scan."), is(number(7))),
        read("count.literal", vec![], count("scan.a%"), is(number(1))),
        read("count.long", vec![], count(&"x".repeat(513)), Expect::Refused("INVALID")),
        read(
            "count.without.removed",
            vec![put("count.a", "1"), remove("count.a")],
            count("count."),
            is(number(0)),
        ),
    ]
}

fn removals() -> Vec<Case> {
    let with = |prefix: &str, limit: Option<i64>, options: Vec<PutOption>| {
        Request::RemovePrefix(prefix.to_owned(), limit, options)
    };
    let remove_prefix = |prefix: &str, limit: Option<i64>| with(prefix, limit, vec![]);
    let scan = |prefix: &str| Request::Scan(prefix.to_owned(), all());
    let fill = || {
        let ids = ["rp.c", "rp.a", "rp.d", "rp.b", "rp%x", "rpx", "rp.gone"];
        let mut fill: Vec<Request> = ids.iter().map(|id| put(id, "1")).collect();
        fill.push(remove("rp.gone"));
        fill
    };
    vec![
        write("prefix.remove.limit", fill(), remove_prefix("rp.", Some(2)), is(number(2))),
        read("prefix.remove.in.order", vec![], scan("rp."), Expect::Ids(vec!["rp.c", "rp.d"])),
        write("prefix.remove.all", vec![], remove_prefix("rp.", None), is(number(2))),
        read("prefix.remove.again", vec![], remove_prefix("rp.", None), is(number(0))),
        read("prefix.remove.others.stay", vec![], scan("rp"), Expect::Ids(vec!["rp%x", "rpx"])),
        write("prefix.remove.literal", vec![], remove_prefix("rp%", None), is(number(1))),
        read("prefix.remove.literal.read", vec![], scan("rp"), Expect::Ids(vec!["rpx"])),
        write("prefix.remove.tombstones", vec![], put("rp.a", "1"), version(3, 1)),
        read("prefix.remove.none", vec![], remove_prefix("rp.none", None), is(number(0))),
        write(
            "prefix.remove.audit",
            vec![],
            with("rp.", Some(10), vec![audit_option(r#"{"home":"h"}"#)]),
            is(number(1)),
        ),
        read(
            "prefix.remove.audit.bad",
            vec![],
            with("rp", None, vec![audit_option("[]")]),
            Expect::Refused("INVALID"),
        ),
        read("prefix.remove.limit.0", vec![], remove_prefix("rp", Some(0)), Expect::Refused("INVALID")),
        read("prefix.remove.limit.-1", vec![], remove_prefix("rp", Some(-1)), Expect::Refused("INVALID")),
        read("prefix.remove.long", vec![], remove_prefix(&"x".repeat(513), None), Expect::Refused("INVALID")),
    ]
}
