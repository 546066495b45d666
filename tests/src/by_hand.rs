//! A link's worker, played by a test: what nobody acknowledges waits in Redis.

use crate::redis::{ask, send};
use redis::{Connection, RedisResult, Value};
use tandem_shared::DigestKey;
use tandem_shared::decide::Retention;
use tandem_shared::digest::hex;
use tandem_shared::link::{Attachment, Scope};
use tandem_shared::owner::Owner;

/// What Redis says to an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The run of the link.
    pub run: String,
    /// Whether everything is to be compared.
    pub is_fresh: bool,
    /// The sequence number given last.
    pub seq: i64,
}

/// The attachment of a link that carries everything both ways, of a database that is nowhere, which keeps tombstones
/// as long as Redis does by default.
pub fn attachment(link: &str) -> Attachment {
    Attachment {
        link: link.to_owned(),
        key_check: hex(&DigestKey::new(b"").check()),
        retention: Retention::of_ms(7 * 24 * 3_600_000),
        owner: Owner { cluster: "a-test".into(), timeline: 1, database: 1 },
        scope: Scope::everything(),
        is_check: false,
    }
}

/// The same of a link that carries something else: prefix, mode and direction.
pub fn attachment_of(link: &str, [prefix, mode, direction]: [&str; 3]) -> Attachment {
    let scope = Scope::parse(prefix, mode, direction).expect("a scope");
    Attachment { scope, ..attachment(link) }
}

/// Sends an attachment, and takes the answer apart.
pub fn try_attach(redis: &mut Connection, attachment: &Attachment) -> RedisResult<Attached> {
    let mut words = vec!["TANDEM.LINK".to_owned()];
    words.extend(attachment.words());
    let Value::Array(words) = send(redis, &words)? else { panic!("ATTACH answers with a record") };
    let (Value::BulkString(run), Value::Int(fresh), Value::Int(seq)) = (&words[3], &words[5], &words[7])
    else {
        panic!("ATTACH answers {words:?}")
    };
    let run = String::from_utf8(run.clone()).expect("a run is text");
    Ok(Attached { run, is_fresh: *fresh == 1, seq: *seq })
}

/// Attaches a link that carries everything both ways; the run.
pub fn attach(redis: &mut Connection, link: &str) -> String {
    attach_as(redis, &attachment(link)).run
}

/// Attaches a link and says that both sides were compared.
pub fn attach_as(redis: &mut Connection, attachment: &Attachment) -> Attached {
    let attached = try_attach(redis, attachment).unwrap_or_else(|error| panic!("{attachment:?}: {error}"));
    ask(redis, &["TANDEM.LINK", "READY", &attachment.link]);
    attached
}

/// One entry of a pull: number, id, and the revision or none.
pub type Entry = (i64, String, Option<Vec<u8>>);

/// What waits for a link after a number, without blocking.
pub fn pull(redis: &mut Connection, link: &str, run: &str, after: i64) -> Vec<Entry> {
    let words = ["TANDEM.LINK", "PULL", link, run, &after.to_string(), "1000", "10000000", "0"];
    let Value::Array(entries) = ask(redis, &words) else { panic!("PULL answers with an array") };
    let entry = |entry: Value| match entry {
        Value::Array(fields) => match (&fields[0], &fields[1], &fields[2]) {
            (Value::Int(seq), Value::BulkString(id), Value::BulkString(revision)) => {
                (*seq, String::from_utf8_lossy(id).into_owned(), Some(revision.clone()))
            }
            (Value::Int(seq), Value::BulkString(id), Value::Nil) => {
                (*seq, String::from_utf8_lossy(id).into_owned(), None)
            }
            other => panic!("{other:?} is not an entry"),
        },
        other => panic!("{other:?} is not an entry"),
    };
    entries.into_iter().map(entry).collect()
}

/// Acknowledges everything up to a number.
pub fn acknowledge(redis: &mut Connection, link: &str, run: &str, seq: i64) -> i64 {
    crate::redis::ask_number(redis, &["TANDEM.LINK", "ACK", link, run, &seq.to_string()])
}
