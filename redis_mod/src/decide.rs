//! From an operation and what stands at its id to what is to be stored: the shared rules, asked for this engine.

use crate::item::Item;
use tandem_shared::decide::{Decision, decide_merge, decide_put, decide_remove, decide_state};
use tandem_shared::gone::decide_remove_gone;
use tandem_shared::request::{Operation, RemoveRequest};
use tandem_shared::{
    Body, Content, Digest, DigestKey, Error, Head, PayloadHash, Result, Revision, Timestamp, Version,
};

/// What stands at an id.
#[derive(Clone, Copy)]
pub enum Current<'a> {
    /// An item.
    Item(&'a Item),
    /// None; what is known of the id: its tombstone, or the version a dropped copy had.
    Absent(Option<&'a Head<'a>>),
}

/// What is to happen to a key.
pub enum Change {
    /// It holds this item.
    Store(Item),
    /// Its item is removed and leaves this tombstone.
    Remove(Revision),
    /// Its item, a local one, is gone.
    Drop,
}

/// A change that was decided.
pub struct Planned {
    /// What is to happen.
    pub change: Change,
    /// Digest of the item to store.
    pub digest: Option<Digest>,
}

impl Planned {
    /// A revision that takes its id; a live one may be `local`.
    pub fn of(key: &DigestKey, id: &str, revision: Revision, local: bool) -> Planned {
        let digest = revision.digest(key, id);
        let change = match revision.body {
            Body::Live { .. } => Change::Store(Item::new(revision, local)),
            Body::Tombstone => Change::Remove(revision),
        };
        Planned { change, digest }
    }
}

/// What a write is answered with.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The version now, 0 where nothing was ever stored.
    pub version: u64,
    /// Etag of the item.
    pub etag: Option<Digest>,
    /// Hash of its content.
    pub hash: Option<PayloadHash>,
    /// Whether something was written.
    pub changed: bool,
}

/// Decides an operation. Nothing to do is `None`.
pub fn plan(
    key: &DigestKey,
    id: &str,
    current: Current<'_>,
    operation: Operation,
    now: Timestamp,
) -> Result<(Option<Planned>, Answer)> {
    let of_item;
    let (head, item) = match current {
        Current::Item(item) => {
            of_item = item.head();
            (Some(&of_item), Some(item))
        }
        Current::Absent(head) => (head, None),
    };
    let decision = match operation {
        Operation::Put(request) => decide_put(key, id, head, request, now)?,
        Operation::Merge(request) => {
            let content = item.and_then(|item| item.revision.content()).map(Content::bytes);
            decide_merge(key, id, head, content, request, now)?
        }
        Operation::Remove(request) => decide_remove(key, id, head, request, now)?,
        Operation::SetState(request) => decide_state(key, id, head, request, now)?,
        Operation::Apply(_) => return Err(Error::corrupt("batch", "a join is not decided here")),
    };
    let change = match decision {
        Decision::Write(revision) => return Ok(written(Planned::of(key, id, revision, false))),
        Decision::WriteLocal(revision) => return Ok(written(Planned::of(key, id, revision, true))),
        Decision::Restate(restated) => {
            let Some((item, content)) = item.and_then(|item| Some((item, item.revision.content()?))) else {
                return Err(Error::corrupt("item", "a state was decided for what has no content"));
            };
            let revision = Revision {
                version: restated.version,
                timestamp: restated.timestamp,
                audit: restated.audit,
                body: Body::Live { state: restated.state, content: content.clone() },
            };
            Change::Store(Item::new(revision, item.local()))
        }
        Decision::Drop => Change::Drop,
        Decision::Unchanged => return Ok((None, unchanged(key, id, head))),
    };
    let digest = match &change {
        Change::Store(item) => item.revision.digest(key, id),
        _ => None,
    };
    Ok(written(Planned { change, digest }))
}

/// Decides the removal of an item of which only the version is known: its copy has left here, and the other side has
/// it.
pub fn plan_removal_of_gone(
    key: &DigestKey,
    id: &str,
    version: Option<Version>,
    request: RemoveRequest,
    now: Timestamp,
) -> Result<(Option<Planned>, Answer)> {
    match decide_remove_gone(id, version, request, now)? {
        Some(tombstone) => Ok(written(Planned::of(key, id, tombstone, false))),
        None => Ok((None, unchanged(key, id, None))),
    }
}

fn written(planned: Planned) -> (Option<Planned>, Answer) {
    let (version, hash) = match &planned.change {
        Change::Store(item) => {
            (item.revision.version.get(), item.revision.content().map(|content| *content.payload_hash()))
        }
        Change::Remove(tombstone) => (tombstone.version.get(), None),
        Change::Drop => (0, None),
    };
    let answer = Answer { version, etag: planned.digest, hash, changed: true };
    (Some(planned), answer)
}

fn unchanged(key: &DigestKey, id: &str, head: Option<&Head<'_>>) -> Answer {
    Answer {
        version: head.map_or(0, |head| head.version.get()),
        etag: head.and_then(|head| head.digest(key, id)),
        hash: head.and_then(|head| head.live).map(|live| live.payload_hash),
        changed: false,
    }
}
