//! The rules of the surface over a map in memory, written a second time and as plainly as possible: what both
//! engines are held against. From the shared crate come the bytes only (canonical form, hashes, codec), none of
//! its decisions.

mod reads;
mod writes;

use crate::answer::Answer;
use crate::request::{PutOption, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::{Audit, DigestKey, Revision, Timestamp};

/// A refusal: its code word.
type Refusal = &'static str;

/// What stands under an id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    revision: Revision,
    local: bool,
}

impl Stored {
    fn is_live(&self) -> bool {
        self.revision.content().is_some()
    }

    fn state(&self) -> &str {
        self.revision.head().live.map_or("", |live| live.state)
    }

    fn etag(&self, id: &str) -> Option<String> {
        self.revision.digest(&DigestKey::new(b""), id).map(|digest| digest.to_hex())
    }
}

/// The model.
#[derive(Debug, Default)]
pub struct Model {
    /// What every tier may know: shared items and tombstones.
    shared: BTreeMap<String, Stored>,
    /// Local items. One may lie over a tombstone, which goes on counting.
    local: BTreeMap<String, Stored>,
    batches: usize,
}

impl Model {
    /// The etag of a live item.
    pub fn etag(&self, id: &str) -> Option<String> {
        self.live(id).and_then(|stored| stored.etag(id))
    }

    /// Whether any item is local.
    pub fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Does what is asked. What is refused changes nothing; of a refusal the message is left empty.
    pub fn ask(&mut self, request: &Request) -> Answer {
        let before = (self.shared.clone(), self.local.clone());
        let answer = match request {
            Request::Put(id, payload, options) => self.put(id, payload, options),
            Request::Merge(id, patch, options) => self.merge(id, patch, options),
            Request::Remove(id, options) => self.remove(id, options).map(|changed| number(changed.into())),
            Request::SetState(id, state, options) => self.set_state(id, None, state, options),
            Request::MoveState(id, [from, to], options) => self.set_state(id, Some(from), to, options),
            Request::Apply(id, revision) => self.apply(id, revision),
            Request::PutMany(items, options) => self.put_many(items, options),
            Request::RemoveMany(ids, options) => self.remove_many(ids, options),
            Request::Batch(ops, audit) => self.batch(ops, audit.as_deref()),
            Request::RemoveState(state, limit, _) => {
                self.remove_where(*limit, &|_, stored| stored.state() == state)
            }
            Request::RemovePrefix(prefix, limit, _) => {
                self.remove_where(*limit, &|id, _| id.starts_with(prefix.as_str()))
            }
            read => Ok(self.read(read)),
        };
        answer.unwrap_or_else(|code| {
            (self.shared, self.local) = before;
            Answer::refused(code, "")
        })
    }

    /// What a request about an id meets.
    fn current(&self, id: &str) -> Option<&Stored> {
        self.local.get(id).or_else(|| self.shared.get(id))
    }

    fn live(&self, id: &str) -> Option<&Stored> {
        self.current(id).filter(|stored| stored.is_live())
    }

    /// The live items that are chosen, in byte order of their ids.
    fn lives(&self, chosen: impl Fn(&str, &Stored) -> bool) -> Vec<(&str, &Stored)> {
        let ids: BTreeSet<&String> = self.shared.keys().chain(self.local.keys()).collect();
        let live = ids.into_iter().filter_map(|id| Some((id.as_str(), self.live(id)?)));
        live.filter(|(id, stored)| chosen(id, stored)).collect()
    }
}

/// The options of a write, each in its place.
#[derive(Debug, Default)]
struct Options {
    version: Option<i64>,
    state: Option<String>,
    if_match: Option<String>,
    if_absent: bool,
    audit: Option<Audit>,
    local: bool,
}

impl Options {
    fn of(options: &[PutOption]) -> Options {
        let mut sorted = Options::default();
        for option in options {
            match option {
                PutOption::Version(number) => sorted.version = Some(*number),
                PutOption::State(state) => sorted.state = Some(state.clone()),
                PutOption::IfMatch(etag) => sorted.if_match = Some(etag.clone()),
                PutOption::IfAbsent => sorted.if_absent = true,
                PutOption::Audit(audit) => sorted.audit = Some(audit_of(audit)),
                PutOption::Local => sorted.local = true,
                PutOption::Json | PutOption::Jsonb | PutOption::Binary | PutOption::BinaryText => {}
                PutOption::Ttl(_) => panic!("the model has no clock for {option:?}"),
            }
        }
        sorted
    }
}

fn audit_of(text: &str) -> Audit {
    Audit::new(text).expect("sequences have good audit objects")
}

fn number(number: i64) -> Answer {
    Answer::Number(number)
}

fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    Timestamp::new(elapsed.as_millis().try_into().expect("a near time")).expect("a good timestamp")
}
