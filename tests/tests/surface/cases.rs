//! The table. Each case has an id base of its own, its name; what went before is done on both sides first.

use tandem_shared::codec::encode;
use tandem_shared::{Body, Content, ContentType, Revision, State, Timestamp, Version};
use tandem_tests::answer::Answer;
use tandem_tests::request::{PutOption, Request};

/// What both engines must answer.
pub enum Expect {
    /// Exactly this.
    Answer(Answer),
    /// A record with at least these fields.
    Fields(Vec<(&'static str, Answer)>),
    /// Some text.
    Text,
    /// A list of items or children with these ids or paths; an empty one stands for an absent item.
    Ids(Vec<&'static str>),
    /// This code, and the same message.
    Refused(&'static str),
    /// Different codes, where an engine's own grammar refuses first.
    RefusedApart {
        /// SQLSTATE.
        sql: &'static str,
        /// Code word.
        redis: &'static str,
    },
}

/// A line of the table.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is done first.
    pub before: Vec<Request>,
    /// What is asked.
    pub request: Request,
    /// What must be answered.
    pub expect: Expect,
    writes: bool,
}

impl Case {
    /// Whether both engines must stand afterwards as before.
    pub fn changes_nothing(&self) -> bool {
        !self.writes
    }
}

fn read(name: &'static str, before: Vec<Request>, request: Request, expect: Expect) -> Case {
    Case { name, before, request, expect, writes: false }
}

fn write(name: &'static str, before: Vec<Request>, request: Request, expect: Expect) -> Case {
    Case { name, before, request, expect, writes: true }
}

fn put(id: &str, payload: &str) -> Request {
    put_with(id, payload, vec![])
}

fn put_with(id: &str, payload: &str, options: Vec<PutOption>) -> Request {
    Request::Put(id.to_owned(), payload.as_bytes().to_vec(), options)
}

fn get(id: &str) -> Request {
    Request::Get(id.to_owned())
}

fn remove(id: &str) -> Request {
    Request::Remove(id.to_owned(), vec![])
}

fn number(number: i64) -> Answer {
    Answer::Number(number)
}

fn is(answer: Answer) -> Expect {
    Expect::Answer(answer)
}

fn version(version: i64, changed: i64) -> Expect {
    Expect::Fields(vec![("version", number(version)), ("changed", number(changed))])
}

fn if_current() -> Vec<PutOption> {
    vec![PutOption::IfMatch("current".to_owned())]
}

fn revision(version: u64, timestamp: u64, payload: Option<&str>) -> Revision {
    let body = payload.map_or(Body::Tombstone, |payload| Body::Live {
        state: State::new("default").expect("a good state"),
        content: Content::new(ContentType::Json, payload.as_bytes(), 1 << 20).expect("good content"),
    });
    Revision {
        version: Version::new(version.into()).expect("a good version"),
        timestamp: Timestamp::new(timestamp.into()).expect("a good timestamp"),
        audit: None,
        body,
    }
}

fn apply(id: &str, version: u64, payload: Option<&str>) -> Request {
    Request::Apply(id.to_owned(), encode(&revision(version, 1_600_000_000_000, payload)))
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let tables = [
        puts(),
        preconditions(),
        removals(),
        reads(),
        pages(),
        trees(),
        applies(),
        bad_ids(),
        bad_content(),
        bad_options(),
    ];
    tables.into_iter().flatten().collect()
}

fn puts() -> Vec<Case> {
    let issue = r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#;
    vec![
        write("put.new", vec![], put("put.new", "{}"), version(1, 1)),
        write("put.again", vec![put("put.again", "1")], put("put.again", "2"), version(2, 1)),
        read("put.same", vec![put("put.same", "[1.0]")], put("put.same", " [ 10e-1 ] "), version(1, 0)),
        write(
            "put.version",
            vec![],
            put_with("put.version", issue, vec![PutOption::Version(7)]),
            version(7, 1),
        ),
        write(
            "put.version.largest",
            vec![],
            put_with("put.version.largest", "1", vec![PutOption::Version(i64::MAX)]),
            version(i64::MAX, 1),
        ),
        read(
            "put.no.version.left",
            vec![put_with("put.full", "1", vec![PutOption::Version(i64::MAX)])],
            put("put.full", "2"),
            Expect::Refused("INVALID"),
        ),
        read(
            "put.version.same.content",
            vec![put("put.idem", "1")],
            put_with("put.idem", "1", vec![PutOption::Version(1)]),
            version(1, 0),
        ),
        read(
            "put.version.taken",
            vec![put("put.taken", "1")],
            put_with("put.taken", "2", vec![PutOption::Version(1)]),
            Expect::Refused("STALE"),
        ),
        read(
            "put.version.old",
            vec![put_with("put.old", "1", vec![PutOption::Version(9)])],
            put_with("put.old", "2", vec![PutOption::Version(8)]),
            Expect::Refused("STALE"),
        ),
        write(
            "put.state",
            vec![],
            put_with("put.state", "1", vec![PutOption::State("pending".to_owned())]),
            version(1, 1),
        ),
        write(
            "put.state.kept",
            vec![put_with("put.kept", "1", vec![PutOption::State("base".to_owned())])],
            put("put.kept", "2"),
            version(2, 1),
        ),
        read(
            "put.state.kept.read",
            vec![],
            get("put.kept"),
            Expect::Fields(vec![("state", Answer::text("base"))]),
        ),
        write(
            "put.state.only",
            vec![put("put.restate", "1")],
            put_with("put.restate", "1", vec![PutOption::State("other".to_owned())]),
            version(2, 1),
        ),
        write(
            "put.binary",
            vec![],
            Request::Put("put.binary".to_owned(), vec![0, 255, 10, 13], vec![PutOption::Binary]),
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
            Request::Put("put.kind".to_owned(), b"{}".to_vec(), vec![PutOption::Binary]),
            version(2, 1),
        ),
        write(
            "put.empty.binary",
            vec![],
            Request::Put("put.empty".to_owned(), vec![], vec![PutOption::Binary]),
            version(1, 1),
        ),
        write(
            "put.audit",
            vec![],
            put_with("put.audit", "1", vec![PutOption::Audit(r#"{"trace":"t", "batch":null}"#.to_owned())]),
            version(1, 1),
        ),
        read(
            "put.audit.read",
            vec![],
            get("put.audit"),
            Expect::Fields(vec![("audit", Answer::text(r#"{"batch":null,"trace":"t"}"#))]),
        ),
        write(
            "put.after.removal",
            vec![put("put.back", "1"), remove("put.back")],
            put("put.back", "1"),
            version(3, 1),
        ),
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
    ]
}

fn preconditions() -> Vec<Case> {
    let wrong = || vec![PutOption::IfMatch("0".repeat(64))];
    vec![
        write("absent.new", vec![], put_with("absent.new", "1", vec![PutOption::IfAbsent]), version(1, 1)),
        read(
            "absent.there",
            vec![put("absent.there", "1")],
            put_with("absent.there", "2", vec![PutOption::IfAbsent]),
            Expect::Refused("EXISTS"),
        ),
        write(
            "absent.removed",
            vec![put("absent.removed", "1"), remove("absent.removed")],
            put_with("absent.removed", "2", vec![PutOption::IfAbsent]),
            version(3, 1),
        ),
        write(
            "match.right",
            vec![put("match.right", "1")],
            put_with("match.right", "2", if_current()),
            version(2, 1),
        ),
        read(
            "match.wrong",
            vec![put("match.wrong", "1")],
            put_with("match.wrong", "2", wrong()),
            Expect::Refused("CONFLICT"),
        ),
        read("match.nothing", vec![], put_with("match.nothing", "2", wrong()), Expect::Refused("CONFLICT")),
        read(
            "match.bad",
            vec![put("match.bad", "1")],
            put_with("match.bad", "2", vec![PutOption::IfMatch("xyz".to_owned())]),
            Expect::Refused("INVALID"),
        ),
        read(
            "match.and.absent",
            vec![],
            put_with("match.both", "2", vec![PutOption::IfAbsent, PutOption::IfMatch("0".repeat(64))]),
            Expect::Refused("INVALID"),
        ),
        write(
            "remove.match.right",
            vec![put("remove.match", "1")],
            Request::Remove("remove.match".to_owned(), if_current()),
            is(number(1)),
        ),
        read(
            "remove.match.wrong",
            vec![put("remove.wrong", "1")],
            Request::Remove("remove.wrong".to_owned(), wrong()),
            Expect::Refused("CONFLICT"),
        ),
        read(
            "remove.match.bad",
            vec![],
            Request::Remove("remove.bad".to_owned(), vec![PutOption::IfMatch("1".to_owned())]),
            Expect::Refused("INVALID"),
        ),
    ]
}

fn removals() -> Vec<Case> {
    vec![
        write("remove.there", vec![put("remove.there", "1")], remove("remove.there"), is(number(1))),
        read("remove.read", vec![], get("remove.there"), is(Answer::Nothing)),
        read("remove.exists", vec![], Request::Exists("remove.there".to_owned()), is(number(0))),
        read("remove.again", vec![], remove("remove.there"), is(number(0))),
        read("remove.never", vec![], remove("remove.never"), is(number(0))),
        write(
            "remove.audit",
            vec![put("remove.audit", "1")],
            Request::Remove("remove.audit".to_owned(), vec![PutOption::Audit("{}".to_owned())]),
            is(number(1)),
        ),
        read(
            "remove.audit.bad",
            vec![put("remove.audit.bad", "1")],
            Request::Remove("remove.audit.bad".to_owned(), vec![PutOption::Audit("[]".to_owned())]),
            Expect::Refused("INVALID"),
        ),
    ]
}

fn reads() -> Vec<Case> {
    let many = |ids: &[&str]| Request::GetMany(ids.iter().map(|id| (*id).to_owned()).collect());
    vec![
        read(
            "get.all.fields",
            vec![put_with(
                "get.it",
                r#"{"b":[true,null],"a":"\u00e9"}"#,
                vec![PutOption::Version(3), PutOption::State("s".to_owned())],
            )],
            get("get.it"),
            Expect::Fields(vec![
                ("id", Answer::text("get.it")),
                ("version", number(3)),
                ("timestamp", Answer::text("now")),
                ("state", Answer::text("s")),
                ("type", Answer::text("json")),
                ("payload", Answer::text(r#"{"a":"é","b":[true,null]}"#)),
                ("audit", Answer::Nothing),
            ]),
        ),
        read("get.absent", vec![], get("get.absent"), is(Answer::Nothing)),
        read("get.empty.id", vec![], get(""), Expect::Refused("INVALID")),
        read("exists.there", vec![], Request::Exists("get.it".to_owned()), is(number(1))),
        read("exists.long", vec![], Request::Exists("x".repeat(513)), Expect::Refused("INVALID")),
        read(
            "get.many",
            vec![put("get.one", "1"), put("get.two", "2")],
            many(&["get.two", "get.absent", "get.one", "get.two"]),
            Expect::Ids(vec!["get.two", "", "get.one", "get.two"]),
        ),
        read("get.many.bad", vec![], many(&["get.one", ""]), Expect::Refused("INVALID")),
        read("count.none", vec![], Request::Count("no.such".to_owned()), is(number(0))),
        read("count.prefix", vec![], Request::Count("get.".to_owned()), is(number(3))),
        read("count.long", vec![], Request::Count("x".repeat(513)), Expect::Refused("INVALID")),
        read("verify", vec![], Request::Verify, Expect::Fields(vec![("ok", number(1))])),
    ]
}

fn pages() -> Vec<Case> {
    let scan = |prefix: &str, after: Option<&str>, limit: Option<i64>| {
        Request::Scan(prefix.to_owned(), after.map(str::to_owned), limit)
    };
    let fill = || {
        ["scan.b", "scan.a", "scan.B", "scan.é", "scan.a.1", "scan-a", "scan.a%", "scan.a_"]
            .map(|id| put(id, "1"))
            .to_vec()
    };
    let all = vec!["scan.B", "scan.a", "scan.a%", "scan.a.1", "scan.a_", "scan.b", "scan.é"];
    vec![
        read("scan.bytes.order", fill(), scan("scan.", None, None), Expect::Ids(all.clone())),
        read("scan.after", vec![], scan("scan.", Some("scan.a"), None), Expect::Ids(all[2..].to_vec())),
        read(
            "scan.after.absent",
            vec![],
            scan("scan.", Some("scan.a!"), None),
            Expect::Ids(all[2..].to_vec()),
        ),
        read("scan.after.end", vec![], scan("scan.", Some("scan.é"), None), Expect::Ids(vec![])),
        read("scan.after.before", vec![], scan("scan.a", Some("a"), None), Expect::Ids(all[1..5].to_vec())),
        read("scan.limit", vec![], scan("scan.", None, Some(3)), Expect::Ids(all[..3].to_vec())),
        read("scan.limit.one", vec![], scan("scan.", Some("scan.b"), Some(1)), Expect::Ids(vec!["scan.é"])),
        read("scan.literal.prefix", vec![], scan("scan.a%", None, None), Expect::Ids(vec!["scan.a%"])),
        read("scan.none", vec![], scan("scan.nothing", None, None), Expect::Ids(vec![])),
        read("scan.limit.0", vec![], scan("scan.", None, Some(0)), Expect::Refused("INVALID")),
        read("scan.limit.negative", vec![], scan("scan.", None, Some(-1)), Expect::Refused("INVALID")),
        read("scan.limit.10001", vec![], scan("scan.", None, Some(10_001)), Expect::Refused("INVALID")),
        read("scan.limit.10000", vec![], scan("scan.a.", None, Some(10_000)), Expect::Ids(vec!["scan.a.1"])),
        read("scan.prefix.long", vec![], scan(&"x".repeat(513), None, None), Expect::Refused("INVALID")),
    ]
}

fn trees() -> Vec<Case> {
    let children = |path: &str, after: Option<&str>, limit: Option<i64>| {
        Request::Children(path.to_owned(), after.map(str::to_owned), limit)
    };
    let fill = || {
        ["tree", "tree.a", "tree.a.1", "tree.a.2", "tree.a-b", "tree.b.1.x", "tree.c", "tree-x", "treex"]
            .map(|id| put(id, "1"))
            .to_vec()
    };
    vec![
        read(
            "tree.children",
            fill(),
            children("tree", None, None),
            Expect::Ids(vec!["tree.a", "tree.a-b", "tree.b", "tree.c"]),
        ),
        read(
            "tree.children.below",
            vec![],
            children("tree.a", None, None),
            Expect::Ids(vec!["tree.a.1", "tree.a.2"]),
        ),
        read(
            "tree.children.after",
            vec![],
            children("tree", Some("tree.a"), None),
            Expect::Ids(vec!["tree.a-b", "tree.b", "tree.c"]),
        ),
        read(
            "tree.children.limit",
            vec![],
            children("tree", Some("tree.a"), Some(2)),
            Expect::Ids(vec!["tree.a-b", "tree.b"]),
        ),
        read("tree.children.none", vec![], children("tree.c", None, None), Expect::Ids(vec![])),
        read("tree.children.limit.0", vec![], children("tree", None, Some(0)), Expect::Refused("INVALID")),
        read("tree.hash", vec![], Request::Hash("tree".to_owned()), Expect::Text),
        read("tree.hash.leaf", vec![], Request::Hash("tree.c".to_owned()), Expect::Text),
        read("tree.hash.inner", vec![], Request::Hash("tree.b".to_owned()), Expect::Text),
        read("tree.hash.root", vec![], Request::Hash(String::new()), Expect::Text),
        read("tree.root", vec![], Request::Root, Expect::Text),
        read("tree.hash.none", vec![], Request::Hash("tree.nothing".to_owned()), is(Answer::Nothing)),
        read("tree.hash.long", vec![], Request::Hash("x".repeat(513)), Expect::Refused("INVALID")),
    ]
}

fn applies() -> Vec<Case> {
    let answer = |word: &str| is(Answer::text(word));
    let raw = |id: &str, bytes: &[u8]| Request::Apply(id.to_owned(), bytes.to_vec());
    let good = encode(&revision(4, 1_600_000_000_000, Some(r#"{"a":1}"#)));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        raw("apply.bad", &bytes)
    };
    let random: Vec<u8> = (0..200_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let loose = {
        let mut bytes = good.clone();
        let length = bytes.len();
        bytes[length - 7..].copy_from_slice(br#"{"a": }"#);
        bytes
    };
    vec![
        write("apply.new", vec![], apply("apply.new", 4, Some("[1]")), answer("applied")),
        read(
            "apply.new.read",
            vec![],
            get("apply.new"),
            Expect::Fields(vec![("version", number(4)), ("timestamp", number(1_600_000_000_000))]),
        ),
        read("apply.same", vec![], apply("apply.new", 4, Some("[1]")), answer("unchanged")),
        read("apply.older", vec![], apply("apply.new", 3, Some("[2]")), answer("stale")),
        write("apply.newer", vec![], apply("apply.new", 9, Some("[2]")), answer("applied")),
        write("apply.tombstone", vec![], apply("apply.new", 10, None), answer("applied")),
        read("apply.tombstone.read", vec![], get("apply.new"), is(Answer::Nothing)),
        read("apply.below.tombstone", vec![], apply("apply.new", 10, Some("[3]")), answer("stale")),
        write("apply.above.tombstone", vec![], apply("apply.new", 11, Some("[3]")), answer("applied")),
        write("apply.tombstone.first", vec![], apply("apply.gone", 3, None), answer("applied")),
        read("apply.tombstone.same", vec![], apply("apply.gone", 3, None), answer("unchanged")),
        write("apply.counts.on", vec![], put("apply.gone", "1"), version(4, 1)),
        read("apply.random", vec![], raw("apply.bad", &random), Expect::Refused("CORRUPT")),
        read("apply.nothing", vec![], raw("apply.bad", b""), Expect::Refused("CORRUPT")),
        read("apply.short", vec![], with(&|bytes| bytes.truncate(30)), Expect::Refused("CORRUPT")),
        read("apply.trailing", vec![], with(&|bytes| bytes.push(0)), Expect::Refused("CORRUPT")),
        read("apply.format", vec![], with(&|bytes| bytes[0] = 2), Expect::Refused("CORRUPT")),
        read("apply.kind", vec![], with(&|bytes| bytes[1] = 9), Expect::Refused("CORRUPT")),
        read("apply.version.0", vec![], with(&|bytes| bytes[2..10].fill(0)), Expect::Refused("CORRUPT")),
        read("apply.not.canonical", vec![], raw("apply.bad", &loose), Expect::Refused("CORRUPT")),
        read("apply.empty.id", vec![], raw("", &good), Expect::Refused("INVALID")),
    ]
}

fn bad_ids() -> Vec<Case> {
    let nul = Expect::RefusedApart { sql: "22021", redis: "INVALID" };
    let nul_too = Expect::RefusedApart { sql: "22021", redis: "INVALID" };
    vec![
        read("id.empty", vec![], put("", "1"), Expect::Refused("INVALID")),
        read("id.513", vec![], put(&"x".repeat(513), "1"), Expect::Refused("INVALID")),
        read("id.513.bytes", vec![], put(&format!("x{}", "é".repeat(256)), "1"), Expect::Refused("INVALID")),
        // Text in Postgres cannot hold NUL, so the protocol itself refuses it.
        read("id.nul", vec![], put("a\0b", "1"), nul),
        read("id.nul.get", vec![], get("a\0b"), nul_too),
        read("id.remove.empty", vec![], remove(""), Expect::Refused("INVALID")),
    ]
}

fn bad_content() -> Vec<Case> {
    let bad = |name: &'static str, payload: &str| {
        read(name, vec![], put("bad.content", payload), Expect::Refused("BADJSON"))
    };
    let large = " ".repeat(17 * 1024 * 1024 - 1) + "1";
    let large_binary =
        Request::Put("bad.content".to_owned(), vec![7; 17 * 1024 * 1024], vec![PutOption::Binary]);
    vec![
        bad("json.empty", ""),
        bad("json.broken", r#"{"a":"#),
        bad("json.trailing", "1 2"),
        bad("json.bare", "abc"),
        bad("json.single.quotes", "{'a':1}"),
        bad("json.comma", "[1,]"),
        bad("json.control", "\"\u{1}\""),
        bad("json.nul", r#""\u0000""#),
        bad("json.nul.key", r#"{"\u0000":1}"#),
        bad("json.lone.surrogate", r#""\ud800""#),
        bad("json.depth.129", &format!("{}{}", "[".repeat(129), "]".repeat(129))),
        bad("json.huge.number", "1e131072"),
        bad("json.fine.number", "1e-16384"),
        bad("json.not.a.number", "[NaN]"),
        bad("json.leading.zero", "01"),
        bad("json.plus", "+1"),
        read("content.17.MiB", vec![], put("bad.content", &large), Expect::Refused("TOOLARGE")),
        read("content.17.MiB.binary", vec![], large_binary, Expect::Refused("TOOLARGE")),
        read(
            "content.over.an.item",
            vec![put("bad.over", "1")],
            put("bad.over", "{"),
            Expect::Refused("BADJSON"),
        ),
    ]
}

fn bad_options() -> Vec<Case> {
    let with = |option: PutOption| put_with("bad.option", "1", vec![option]);
    let refused = Expect::Refused;
    vec![
        read("version.0", vec![], with(PutOption::Version(0)), refused("INVALID")),
        read("version.-1", vec![], with(PutOption::Version(-1)), refused("INVALID")),
        read("state.empty", vec![], with(PutOption::State(String::new())), refused("INVALID")),
        read("state.65", vec![], with(PutOption::State("s".repeat(65))), refused("INVALID")),
        read("audit.array", vec![], with(PutOption::Audit("[]".to_owned())), refused("INVALID")),
        read("audit.broken", vec![], with(PutOption::Audit("{".to_owned())), refused("BADJSON")),
        read(
            "audit.large",
            vec![],
            with(PutOption::Audit(format!("{{\"a\":\"{}\"}}", "x".repeat(1024)))),
            refused("TOOLARGE"),
        ),
        read(
            "option.unknown",
            vec![],
            Request::UnknownOption("bad.option".to_owned()),
            Expect::RefusedApart { sql: "42883", redis: "INVALID" },
        ),
        read(
            "arguments.few",
            vec![],
            Request::TooFewArguments("bad.option".to_owned()),
            Expect::RefusedApart { sql: "42883", redis: "INVALID" },
        ),
    ]
}
