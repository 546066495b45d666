//! The tables. Each case has an id base of its own, its name or its topic; what goes before is done on both
//! sides first. A case may stand on what the case above it left.

mod audit;
mod bad;
mod batches;
mod cas;
mod content;
mod local;
mod merge;
mod merkle;
mod operations;
mod prefixes;
mod puts;
mod reads;
mod revisions;
mod states;
mod status;

use tandem_tests::answer::Answer;
use tandem_tests::request::{Page, PutOption, Request};

/// What both engines must answer.
pub enum Expect {
    /// Exactly this.
    Answer(Answer),
    /// A record with at least these fields.
    Fields(Vec<(&'static str, Answer)>),
    /// Some text.
    Text,
    /// A list of items, children or ids in this order; an empty text stands for an absent item.
    Ids(Vec<&'static str>),
    /// This code, and the same message.
    Refused(&'static str),
    /// This code, and the same message, which says this.
    RefusedSaying(&'static str, &'static str),
    /// Different codes, where an engine's own grammar refuses first.
    RefusedApart {
        /// SQLSTATE or code word.
        sql: &'static str,
        /// Code word.
        redis: &'static str,
    },
}

/// A line of the table.
pub struct Case {
    /// Its name.
    pub name: String,
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

/// Every case.
pub fn cases() -> Vec<Case> {
    let tables = [
        puts::cases(),
        cas::cases(),
        content::cases(),
        reads::cases(),
        merge::cases(),
        batches::cases(),
        operations::cases(),
        states::cases(),
        prefixes::cases(),
        revisions::cases(),
        audit::cases(),
        status::cases(),
        merkle::cases(),
        local::cases(),
        bad::ids(),
        bad::content(),
        bad::options(),
    ];
    tables.into_iter().flatten().collect()
}

fn read(name: impl Into<String>, before: Vec<Request>, request: Request, expect: Expect) -> Case {
    Case { name: name.into(), before, request, expect, writes: false }
}

fn write(name: impl Into<String>, before: Vec<Request>, request: Request, expect: Expect) -> Case {
    Case { name: name.into(), before, request, expect, writes: true }
}

/// A put of JSON.
fn put(id: &str, payload: &str) -> Request {
    put_with(id, payload, vec![])
}

/// A put of JSON with further options.
fn put_with(id: &str, payload: &str, mut options: Vec<PutOption>) -> Request {
    options.insert(0, PutOption::Json);
    put_raw(id, payload.as_bytes(), options)
}

/// A put with no word about the kind of content but what is in the options.
fn put_raw(id: &str, payload: &[u8], options: Vec<PutOption>) -> Request {
    Request::Put(id.to_owned(), payload.to_vec(), options)
}

fn put_state(id: &str, payload: &str, state: &str) -> Request {
    put_with(id, payload, vec![state_option(state)])
}

fn state_option(state: &str) -> PutOption {
    PutOption::State(state.to_owned())
}

fn audit_option(audit: &str) -> PutOption {
    PutOption::Audit(audit.to_owned())
}

fn get(id: &str) -> Request {
    Request::Get(id.to_owned())
}

fn remove(id: &str) -> Request {
    Request::Remove(id.to_owned(), vec![])
}

fn merge(id: &str, patch: &str) -> Request {
    merge_with(id, patch, vec![])
}

fn merge_with(id: &str, patch: &str, options: Vec<PutOption>) -> Request {
    Request::Merge(id.to_owned(), patch.to_owned(), options)
}

fn batch(ops: &str) -> Request {
    Request::Batch(ops.to_owned(), None)
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

fn written(written: i64, unchanged: i64) -> Expect {
    Expect::Fields(vec![("written", number(written)), ("unchanged", number(unchanged))])
}

fn field(name: &'static str, text: &str) -> Expect {
    Expect::Fields(vec![(name, Answer::text(text))])
}

fn payload(text: &str) -> Expect {
    field("payload", text)
}

/// A batch id that a caller gives.
const GIVEN_BATCH: &str = "00000000-0000-4000-8000-000000000001";

/// The item's current etag, whatever it is when the request is sent.
fn if_current() -> Vec<PutOption> {
    vec![PutOption::IfMatch("current".to_owned())]
}

/// An etag that no item has.
fn if_wrong() -> Vec<PutOption> {
    vec![PutOption::IfMatch("0".repeat(64))]
}

fn all() -> Page {
    Page::default()
}

fn after(id: &str) -> Page {
    Page { after: Some(id.to_owned()), limit: None }
}

fn limit(number: i64) -> Page {
    Page { after: None, limit: Some(number) }
}

fn page(after: &str, limit: i64) -> Page {
    Page { after: Some(after.to_owned()), limit: Some(limit) }
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Every page request of a kind with a limit out of range.
fn bad_limits(name: &str, request: impl Fn(Page) -> Request) -> Vec<Case> {
    [0, -1, 10_001]
        .into_iter()
        .map(|number| {
            let name = format!("{name}.limit.{number}");
            read(name, vec![], request(limit(number)), Expect::RefusedSaying("INVALID", "limit"))
        })
        .collect()
}
