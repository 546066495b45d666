//! What changes nothing leaves nothing behind: no version, no row in Postgres' change log, nothing that waits for a
//! link in Redis, and nothing dirty. Dirty is what really changed, until it is folded or acknowledged.

use ::redis::{Connection, Value};
use postgres::Client;
use tandem_shared::codec::encode;
use tandem_shared::content::Bounds;
use tandem_shared::{Body, Content, ContentType, Revision, State, Timestamp, Version};
use tandem_tests::answer::Answer;
use tandem_tests::by_hand;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_number};
use tandem_tests::request::{Page, PutOption, Request};
use tandem_tests::sql;

fn put(id: &str, payload: &str, options: Vec<PutOption>) -> Request {
    Request::Put(id.to_owned(), payload.as_bytes().to_vec(), options)
}

fn revision(version: u64) -> Vec<u8> {
    let content = Content::new(ContentType::Json, b"[1]", Bounds::MAX).expect("good content");
    encode(&Revision {
        version: Version::new(version.into()).expect("a good version"),
        timestamp: Timestamp::new(1_600_000_000_000).expect("a good timestamp"),
        audit: None,
        body: Body::Live { state: State::default(), content },
    })
}

/// What is there before.
fn first() -> Vec<Request> {
    vec![
        put("u.json", r#"{"a":[1]}"#, vec![PutOption::State("s".to_owned())]),
        put("u.binary", "1", vec![]),
        Request::Apply("u.applied".to_owned(), revision(5)),
        put("u.gone", "{}", vec![]),
        Request::Remove("u.gone".to_owned(), vec![]),
    ]
}

/// What changes nothing of it.
fn idle() -> Vec<Request> {
    let owned = |text: &str| text.to_owned();
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(id, payload)| (owned(id), owned(payload))).collect::<Vec<_>>()
    };
    let audit = || PutOption::Audit(owned(r#"{"home":"another"}"#));
    vec![
        put("u.json", r#" { "a" : [ 1.0 ] } "#, vec![]),
        put("u.json", r#"{"a":[1]}"#, vec![PutOption::State(owned("s")), audit()]),
        put("u.json", r#"{"a":[1]}"#, vec![PutOption::Jsonb, PutOption::Version(1)]),
        put("u.binary", "1", vec![]),
        put("u.binary", "1", vec![PutOption::Binary]),
        Request::Merge(owned("u.json"), owned("{}"), vec![]),
        Request::Merge(owned("u.json"), owned(r#"{"a":[1],"b":null}"#), vec![audit()]),
        Request::SetState(owned("u.json"), owned("s"), vec![audit()]),
        Request::MoveState(owned("u.json"), [owned("s"), owned("s")], vec![]),
        Request::Remove(owned("u.gone"), vec![]),
        Request::Remove(owned("u.never"), vec![audit()]),
        Request::RemoveMany(vec![owned("u.gone"), owned("u.never")], vec![]),
        Request::RemovePrefix(owned("u.g"), None, vec![]),
        Request::RemoveState(owned("no such state"), None, vec![]),
        Request::PutMany(pairs(&[("u.json", r#"{"a":[1]}"#), ("u.binary", "1")]), vec![]),
        Request::Batch(
            owned(
                r#"[{"op":"put","id":"u.json","payload":{"a":[1]}}, {"op":"merge","id":"u.json","patch":{}},
                    {"op":"set_state","id":"u.json","state":"s"}, {"op":"delete","id":"u.gone"}]"#,
            ),
            None,
        ),
        Request::Apply(owned("u.applied"), revision(5)),
        Request::Apply(owned("u.applied"), revision(4)),
        // A write that is refused and one that stays in its tier are no changes either.
        put("u.json", "{", vec![PutOption::Json]),
        put("u.local", "1", vec![PutOption::Local]),
        Request::Remove(owned("u.local"), vec![]),
    ]
}

fn dirty(id: &str) -> [Request; 4] {
    [
        Request::Dirty("u.".to_owned(), Page::default()),
        Request::DirtyCount("u.".to_owned()),
        Request::DirtyPrefixes("u".to_owned(), Page::default()),
        Request::IsClean(id.to_owned()),
    ]
}

fn ids(ids: &[&str]) -> Answer {
    Answer::List(ids.iter().map(|id| Answer::text(id)).collect())
}

/// What the requests of [`dirty`] answer when nothing is.
fn clean() -> Vec<Answer> {
    vec![ids(&[]), Answer::Number(0), Answer::List(vec![]), Answer::Number(1)]
}

/// What they answer when these children of `u` are, each with one dirty id.
fn dirty_children(children: &[&str]) -> Vec<Answer> {
    let records = children.iter().map(|child| {
        let fields = [("path".to_owned(), Answer::text(child)), ("count".to_owned(), Answer::Number(1))];
        Answer::Record(fields.to_vec())
    });
    let count = children.len().try_into().expect("a small number");
    vec![ids(children), Answer::Number(count), Answer::List(records.collect()), Answer::Number(0)]
}

/// Does what changes nothing and then some changes, one after the other. `behind` is what a change leaves behind,
/// and `carry` carries it on.
fn hold(
    ask: &mut dyn FnMut(&Request) -> Answer,
    carry: &mut dyn FnMut(),
    behind: &mut dyn FnMut() -> i64,
    when: &str,
) {
    let mut all = |requests: &[Request]| -> Vec<Answer> { requests.iter().map(&mut *ask).collect() };
    for answer in all(&first()) {
        assert!(!matches!(answer, Answer::Refused { .. }), "{when}: {answer:?}");
    }
    assert_eq!(all(&dirty("u.gone"))[1], Answer::Number(4), "{when}: four ids changed");
    carry();
    assert_eq!(all(&dirty("u")), clean(), "{when}: everything is carried on");
    let get = [Request::Get("u.json".to_owned()), Request::Get("u.applied".to_owned())];
    let (items, count) = (all(&get), behind());
    for request in idle() {
        let answer = all(std::slice::from_ref(&request));
        assert_eq!(behind(), count, "{when}: {request:?} leaves nothing behind; it answers {answer:?}");
        assert_eq!(all(&dirty("u")), clean(), "{when}: {request:?} makes nothing dirty");
        assert_eq!(all(&get), items, "{when}: {request:?} makes no version");
    }
    let changes = [
        put("u.binary", "2", vec![]),
        Request::SetState("u.json".to_owned(), "t".to_owned(), vec![]),
        Request::Remove("u.applied".to_owned(), vec![]),
    ];
    all(&changes);
    assert_ne!(behind(), count, "{when}: changes leave something behind");
    let children = ["u.applied", "u.binary", "u.json"];
    assert_eq!(all(&dirty("u.json")), dirty_children(&children), "{when}: what changed is dirty");
    let page = Page { after: Some("u.applied".to_owned()), limit: Some(1) };
    let paged = [Request::Dirty("u.".to_owned(), page.clone()), Request::DirtyPrefixes("u".to_owned(), page)];
    let answers = all(&paged);
    assert_eq!(answers[0], ids(&["u.binary"]), "{when}: pages of dirty ids");
    assert_eq!(answers[1], dirty_children(&["u.binary"])[2], "{when}: pages of dirty children");
    let new = all(&[put("u.new", "{}", vec![]), Request::IsClean("u.new".to_owned())]);
    assert_eq!(new[1], Answer::Number(0), "{when}: what is new is dirty");
    carry();
    assert_eq!(all(&dirty("u")), clean(), "{when}: everything is carried on again");
}

#[test]
fn what_changes_nothing_leaves_no_row_in_the_log() {
    // Folded by hand alone, so that what is dirty stays so until it is looked at.
    let quiet = vec!["autovacuum = off".to_owned()];
    let options = pg::Options { preload: false, settings: quiet, ..pg::Options::default() };
    let server = Postgres::with_extension(&options);
    let (mut client, mut folder, mut counter) = (server.connect(), server.connect(), server.connect());
    hold(
        &mut |request| request.ask_sql(&mut client),
        &mut || sql::run(&mut folder, "SELECT tandem.fold()"),
        &mut || sql::value(&mut counter, "SELECT count(*) FROM tandem.changes"),
        "in Postgres",
    );
    a_clean_path_is_exact_without_folding(&mut client);
}

/// What is not folded counts in the exact answer, and is said.
fn a_clean_path_is_exact_without_folding(client: &mut Client) {
    put("u.pending", "{}", vec![]).ask_sql(client);
    let node = Request::Node("u".to_owned());
    let unfolded = node.ask_sql(client);
    assert_eq!(unfolded.field("pending"), Some(&Answer::Number(1)), "{unfolded:?}");
    Request::Fold.ask_sql(client);
    let folded = node.ask_sql(client);
    assert_eq!(folded.field("pending"), Some(&Answer::Number(0)), "{folded:?}");
    assert_eq!(folded.text_field("hash"), unfolded.text_field("hash"), "the hash is exact all the same");
}

/// A link of our own, attached by hand: nothing is acknowledged but by us.
struct Worker {
    connection: Connection,
    run: String,
}

const LINK: &str = "by hand";

impl Worker {
    fn attach(mut connection: Connection) -> Worker {
        let run = by_hand::attach(&mut connection, LINK);
        Worker { connection, run }
    }

    fn acknowledge_all(&mut self) {
        let pull = ["TANDEM.LINK", "PULL", LINK, &self.run, "0", "1000", "1000000", "0"];
        let Value::Array(entries) = ask(&mut self.connection, &pull) else { panic!("PULL answers a list") };
        let last = entries.iter().map(|entry| match entry {
            Value::Array(fields) => match fields[0] {
                Value::Int(seq) => seq,
                _ => panic!("a sequence is a number"),
            },
            _ => panic!("an entry is a list"),
        });
        if let Some(seq) = last.max() {
            ask(&mut self.connection, &["TANDEM.LINK", "ACK", LINK, &self.run, &seq.to_string()]);
        }
    }
}

#[test]
fn what_changes_nothing_waits_for_no_link() {
    let server = Redis::start(redis::Options::in_memory());
    let (mut connection, mut counter) = (server.connect(), server.connect());
    let mut worker = Worker::attach(server.connect());
    hold(
        &mut |request| request.ask_redis(&mut connection),
        &mut || worker.acknowledge_all(),
        &mut || ask_number(&mut counter, &["TANDEM.LINK", "PENDING"]),
        "in Redis",
    );
}
