//! Hashes of paths, children, leaves, and what is dirty once everything is folded. What is dirty before is
//! `tests/dirty.rs`: it differs by nature between an engine with a log and one without.

use super::*;

fn path_of(path: &str) -> String {
    path.to_owned()
}

pub fn cases() -> Vec<Case> {
    let mut cases = hashes();
    cases.extend(children());
    cases.extend(leaves());
    cases.extend(dirt());
    cases.extend(long_paths());
    cases
}

fn hashes() -> Vec<Case> {
    let hash = |path: &str| Request::Hash(path_of(path));
    let node = |path: &str| Request::Node(path_of(path));
    let fill = || {
        ["tree", "tree.a", "tree.a.1", "tree.a.2", "tree.a-b", "tree.b.1.x", "tree.c", "tree-x", "treex"]
            .map(|id| put(id, "1"))
            .to_vec()
    };
    let counted = |path: &str, count: i64| {
        Expect::Fields(vec![("path", Answer::text(path)), ("count", number(count)), ("pending", number(0))])
    };
    vec![
        read("tree.hash", fill(), hash("tree"), Expect::Text),
        read("tree.hash.leaf", vec![], hash("tree.c"), Expect::Text),
        read("tree.hash.inner", vec![], hash("tree.b"), Expect::Text),
        read("tree.hash.root", vec![], hash(""), Expect::Text),
        read("tree.root", vec![], Request::Root, Expect::Text),
        read("tree.hash.none", vec![], hash("tree.nothing"), is(Answer::Nothing)),
        read("tree.hash.unfolded", vec![put("tree.c", "2")], hash("tree.c"), Expect::Text),
        read("tree.root.folded", vec![put("tree.c", "3"), Request::Fold], Request::Root, Expect::Text),
        read("tree.node", vec![], node("tree"), counted("tree", 7)),
        read("tree.node.inner", vec![], node("tree.b"), counted("tree.b", 1)),
        read("tree.node.item", vec![], node("tree.a"), counted("tree.a", 3)),
        read(
            "tree.node.folded",
            vec![put("tree.c", "4"), Request::Fold],
            node("tree.c"),
            counted("tree.c", 1),
        ),
        read("tree.node.none", vec![], node("tree.nothing"), counted("tree.nothing", 0)),
        read(
            "tree.node.none.hash",
            vec![],
            node("tree.nothing"),
            Expect::Fields(vec![("hash", Answer::Nothing)]),
        ),
        read("tree.node.root", vec![], node(""), Expect::Fields(vec![("path", Answer::text(""))])),
    ]
}

fn children() -> Vec<Case> {
    let children = |path: &str, page: Page| Request::Children(path_of(path), page);
    let four = vec!["tree.a", "tree.a-b", "tree.b", "tree.c"];
    let mut cases = vec![
        read("tree.children", vec![], children("tree", all()), Expect::Ids(four.clone())),
        read(
            "tree.children.unfolded",
            vec![put("tree.c", "5")],
            children("tree", page("tree.a", 3)),
            Expect::Ids(four[1..].to_vec()),
        ),
        read(
            "tree.children.below",
            vec![],
            children("tree.a", all()),
            Expect::Ids(vec!["tree.a.1", "tree.a.2"]),
        ),
        read(
            "tree.children.after",
            vec![],
            children("tree", after("tree.a")),
            Expect::Ids(four[1..].to_vec()),
        ),
        read(
            "tree.children.page",
            vec![],
            children("tree", page("tree.a", 2)),
            Expect::Ids(four[1..3].to_vec()),
        ),
        read("tree.children.limit", vec![], children("tree", limit(1)), Expect::Ids(four[..1].to_vec())),
        read("tree.children.none", vec![], children("tree.c", all()), Expect::Ids(vec![])),
    ];
    cases.extend(bad_limits("tree.children", |page| children("tree", page)));
    cases
}

fn leaves() -> Vec<Case> {
    let leaves = |path: &str, page: Page| Request::Leaves(path_of(path), page);
    let seven = vec!["tree", "tree.a", "tree.a-b", "tree.a.1", "tree.a.2", "tree.b.1.x", "tree.c"];
    let mut cases = vec![
        read("tree.leaves", vec![], leaves("tree", all()), Expect::Ids(seven.clone())),
        read("tree.leaves.inner", vec![], leaves("tree.b", all()), Expect::Ids(vec!["tree.b.1.x"])),
        read(
            "tree.leaves.item.and.below",
            vec![],
            leaves("tree.a", all()),
            Expect::Ids(vec!["tree.a", "tree.a.1", "tree.a.2"]),
        ),
        read("tree.leaves.none", vec![], leaves("tree.nothing", all()), Expect::Ids(vec![])),
        read(
            "tree.leaves.after",
            vec![],
            leaves("tree", after("tree.a-b")),
            Expect::Ids(seven[3..].to_vec()),
        ),
        read(
            "tree.leaves.after.sibling",
            vec![],
            leaves("tree.a", after("tree.a-b")),
            Expect::Ids(vec!["tree.a.1", "tree.a.2"]),
        ),
        read("tree.leaves.limit", vec![], leaves("tree", limit(2)), Expect::Ids(seven[..2].to_vec())),
        read("tree.leaves.page", vec![], leaves("tree", page("tree", 2)), Expect::Ids(seven[1..3].to_vec())),
        read(
            "tree.leaves.of.everything",
            vec![],
            leaves("", page("tre", 2)),
            Expect::Ids(vec!["tree", "tree-x"]),
        ),
    ];
    cases.extend(bad_limits("tree.leaves", |page| leaves("tree", page)));
    cases
}

fn dirt() -> Vec<Case> {
    let folded = || vec![put("tree.c", "6"), put("tree.c", "7"), Request::Fold];
    let dirty = |prefix: &str, page: Page| Request::Dirty(prefix.to_owned(), page);
    let dirty_prefixes = |path: &str, page: Page| Request::DirtyPrefixes(path_of(path), page);
    let clean = |path: &str, page: Page| Request::Clean(path_of(path), page);
    let four = vec!["tree.a", "tree.a-b", "tree.b", "tree.c"];
    let mut cases = vec![
        read("dirty.none", folded(), dirty("tree", all()), Expect::Ids(vec![])),
        read("dirty.page", vec![], dirty("tree", page("tree", 10)), Expect::Ids(vec![])),
        read("dirty.count.none", vec![], Request::DirtyCount("tree".to_owned()), is(number(0))),
        read("dirty.prefixes.none", vec![], dirty_prefixes("tree", all()), Expect::Ids(vec![])),
        read("dirty.prefixes.page", vec![], dirty_prefixes("tree", page("tree.a", 10)), Expect::Ids(vec![])),
        read("clean.all", vec![], clean("tree", all()), Expect::Ids(four.clone())),
        read("clean.page", vec![], clean("tree", page("tree.a", 2)), Expect::Ids(four[1..3].to_vec())),
        read("clean.nothing", vec![], clean("tree.nothing", all()), Expect::Ids(vec![])),
        read("clean.is", vec![], Request::IsClean(path_of("tree")), is(number(1))),
        read("clean.is.everything", vec![], Request::IsClean(String::new()), is(number(1))),
        read("clean.is.nothing", vec![], Request::IsClean(path_of("tree.nothing")), is(number(1))),
    ];
    cases.extend(bad_limits("dirty", |page| dirty("tree", page)));
    cases.extend(bad_limits("dirty.prefixes", |page| dirty_prefixes("tree", page)));
    cases.extend(bad_limits("clean", |page| clean("tree", page)));
    cases
}

fn long_paths() -> Vec<Case> {
    let long = || "x".repeat(513);
    let requests = [
        ("hash", Request::Hash(long())),
        ("node", Request::Node(long())),
        ("children", Request::Children(long(), all())),
        ("leaves", Request::Leaves(long(), all())),
        ("dirty", Request::Dirty(long(), all())),
        ("dirty.count", Request::DirtyCount(long())),
        ("dirty.prefixes", Request::DirtyPrefixes(long(), all())),
        ("clean", Request::Clean(long(), all())),
        ("is.clean", Request::IsClean(long())),
    ];
    let case = |(name, request)| {
        read(format!("tree.long.{name}"), vec![], request, Expect::RefusedSaying("INVALID", "has 513 bytes"))
    };
    requests.into_iter().map(case).collect()
}
