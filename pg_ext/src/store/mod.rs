//! The write path: a batch of operations locks and reads the current revisions, asks the shared rules, and stores
//! what they decide in one statement a kind. A single put is a batch of one.

mod columns;
mod context;
mod locking;
mod read;
mod subtransaction;
mod write;

pub use context::{
    Became, Decided, as_decided, became, counts_on, on_behalf_of, origin, take_decided, take_removal,
};
pub use read::{Page, fetch, payload_hash};

use crate::error::{Failure, Outcome};
use crate::planning;
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use read::{Current, Wanted, fetch_one, lock};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::CStr;
use std::time::{SystemTime, UNIX_EPOCH};
pub use subtransaction::undoable;
use tandem_shared::codec::{self, Source};
use tandem_shared::content::canonicalize;
use tandem_shared::decide::{
    Decision, Outcome as Joined, decide_apply, decide_merge, decide_put, decide_remove, decide_state,
};
use tandem_shared::error::shown;
use tandem_shared::request::Operation;
use tandem_shared::{Digest, DigestKey, Error, Head, PayloadHash, Result, Revision, Timestamp};
use write::{Outcomes, Writes, record_conflict};

/// Ends a transaction that may only read, as on a standby, before it locks anything: that would fail there with an
/// error of the server's inner workings.
pub fn refuse_read_only(command: &CStr) {
    // SAFETY: raises an error, or reads the transaction's state.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// The server's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i128);
    // A clock that cannot be read, or one from before 1970, counts as the epoch: versions decide first.
    Timestamp::new(since).or_else(|_| Timestamp::new(0)).unwrap_or(Timestamp::EPOCH)
}

/// What came of an operation.
#[derive(Debug, Clone)]
pub struct Done {
    /// The id's version now, 0 where nothing is stored.
    pub version: u64,
    /// Digest of the live revision.
    pub digest: Option<Digest>,
    /// Hash of its content.
    pub payload_hash: Option<PayloadHash>,
    /// Whether something was written.
    pub changed: bool,
    /// Where a joined revision stood.
    pub joined: Option<Joined>,
}

/// An operation and its place in the batch.
struct Placed {
    place: usize,
    id: String,
    operation: Operation,
}

impl Placed {
    /// Whether it joins a tombstone: that is stored before rows of its id are looked for.
    fn is_tombstone(&self) -> bool {
        matches!(&self.operation, Operation::Apply(revision) if revision.head().is_tombstone())
    }
}

/// Runs operations in order and returns what came of each. All or nothing: an error ends the transaction. It names
/// the operation at fault.
pub fn run(operations: Vec<(String, Operation)>) -> Outcome<Vec<Done>> {
    run_all(operations, |failure, place, id| match failure {
        Failure::Rule(error) => error.at_item(place, id).into(),
        other => other,
    })
}

/// Runs a single operation.
pub fn run_one(id: &str, operation: Operation) -> Outcome<Done> {
    let done = run_all(vec![(id.to_owned(), operation)], |failure, _, _| failure)?.pop();
    done.ok_or_else(|| Error::corrupt("batch", "it gave no answer").into())
}

/// Attempts to come first with an id, or to see who did. Nobody is that unlucky: a policy hides the row.
const ATTEMPTS_MAX: usize = 100;

type Name = fn(Failure, usize, &str) -> Failure;

fn run_all(operations: Vec<(String, Operation)>, name: Name) -> Outcome<Vec<Done>> {
    refuse_read_only(c"a write of tandem");
    let operations: Vec<Placed> = operations
        .into_iter()
        .enumerate()
        .map(|(place, (id, operation))| Placed { place, id, operation })
        .collect();
    // The place of an operation that came second.
    let second = Cell::new(0);
    for _ in 0..ATTEMPTS_MAX {
        // A batch that came second to a new id begins again, without the locks it has: with them it could wait in a
        // ring with others. A single operation has stored nothing then.
        let done = match operations.as_slice() {
            [single] if !single.is_tombstone() => attempt(&operations, name, &second)?,
            all => undoable(|| attempt(all, name, &second))?,
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
    let place = second.get();
    let id = operations.get(place).map_or("", |placed| placed.id.as_str());
    let refusal = Error::invalid(
        format!("id {}", shown(id)),
        "is taken by an item that this role may not see",
        "choose another id, or ask for the right to see it",
    );
    Err(name(refusal.into(), place, id))
}

/// Runs operations in order. None if another writer was first with an id: it is there now, and all is to be decided
/// anew.
fn attempt(operations: &[Placed], name: Name, second: &Cell<usize>) -> Outcome<Option<Vec<Done>>> {
    let mut done = Vec::with_capacity(operations.len());
    let mut rest = operations;
    // An id that occurs twice is decided twice, the second time on what the first left.
    while !rest.is_empty() {
        let (round, later) = rest.split_at(distinct(rest));
        match run_round(round, name, second)? {
            Some(results) => done.extend(results),
            None => return Ok(None),
        }
        rest = later;
    }
    Ok(Some(done))
}

/// The number of operations before the first on an id that has occurred: they are decided in order, so that the first
/// that is at fault is the one that is named.
fn distinct(operations: &[Placed]) -> usize {
    let mut met = HashSet::with_capacity(operations.len());
    let cut = operations.iter().position(|placed| !met.insert(placed.id.as_str()));
    cut.unwrap_or(operations.len())
}

/// Runs operations on distinct ids. None if another writer was first with one of them.
fn run_round(round: &[Placed], name: Name, second: &Cell<usize>) -> Outcome<Option<Vec<Done>>> {
    let key = settings::digest_key();
    let now = now();
    planning::by_index(|| {
        Spi::connect_mut(|client| {
            let current = lock(client, round.iter().map(wanted).collect())?;
            let absent = Current::default();
            let mut done = Vec::with_capacity(round.len());
            let mut writes = Writes::default();
            for Placed { place, id, operation } in round {
                let stored = current.get(id).unwrap_or(&absent);
                let (result, decision) = decide(client, &key, id, stored, operation.clone(), now)
                    .map_err(|failure| name(failure, *place, id))?;
                done.push(result);
                writes.add(id, decision, stored, matches!(operation, Operation::Apply(_)));
            }
            let Outcomes { late, altered } = writes.store(client)?;
            if let Some(placed) = round.iter().find(|placed| late.contains(&placed.id)) {
                second.set(placed.place);
                return Ok(None);
            }
            if !altered.is_empty() {
                describe_again(client, &key, round, &altered, &mut done)?;
            }
            Ok(Some(done))
        })
    })
}

/// Says of rows that are not what was decided what they are.
fn describe_again(
    client: &mut SpiClient<'_>,
    key: &DigestKey,
    round: &[Placed],
    altered: &HashSet<String>,
    done: &mut [Done],
) -> Outcome<()> {
    let again = round.iter().zip(done).filter(|(placed, _)| altered.contains(&placed.id));
    let again: Vec<(&Placed, &mut Done)> = again.collect();
    let current = lock(client, again.iter().map(|(placed, _)| wanted(placed)).collect())?;
    for (Placed { id, .. }, done) in again {
        let head = current.get(id).and_then(Current::head);
        *done = describe(key, id, head.as_ref(), true, done.joined);
    }
    Ok(())
}

fn wanted(placed: &Placed) -> Wanted<'_> {
    Wanted {
        id: &placed.id,
        content: matches!(placed.operation, Operation::Merge(_)),
        below: matches!(placed.operation, Operation::Apply(_)),
    }
}

fn decide(
    client: &mut SpiClient<'_>,
    key: &DigestKey,
    id: &str,
    stored: &Current,
    operation: Operation,
    now: Timestamp,
) -> Outcome<(Done, Decision)> {
    let head = stored.head();
    let (decision, joined) = match operation {
        Operation::Put(request) => (decide_put(key, id, head.as_ref(), request, now)?, None),
        Operation::Merge(request) => {
            let content = stored.content.as_ref().map(|text| canonicalize(text.as_bytes())).transpose()?;
            (decide_merge(key, id, head.as_ref(), content.as_deref(), request, now)?, None)
        }
        Operation::SetState(request) => (decide_state(key, id, head.as_ref(), request, now)?, None),
        Operation::Remove(request) => (decide_remove(key, id, head.as_ref(), request, now)?, None),
        Operation::Apply(revision) => join(client, key, id, stored, revision)?,
    };
    let done = match &decision {
        Decision::Write(revision) | Decision::WriteLocal(revision) => {
            describe(key, id, Some(&revision.head()), true, joined)
        }
        Decision::Restate(restated) => {
            let live = head.and_then(|head| head.live);
            let restated = head.map(|head| Head {
                version: restated.version,
                live: live.map(|live| tandem_shared::LiveHead { state: restated.state.as_str(), ..live }),
                ..head
            });
            describe(key, id, restated.as_ref(), true, joined)
        }
        Decision::Drop => describe(key, id, None, true, joined),
        Decision::Unchanged => describe(key, id, head.as_ref(), false, joined),
    };
    Ok((done, decision))
}

fn describe(
    key: &DigestKey,
    id: &str,
    head: Option<&Head<'_>>,
    changed: bool,
    joined: Option<Joined>,
) -> Done {
    Done {
        version: head.map_or(0, |head| head.version.get()),
        digest: head.and_then(|head| head.digest(key, id)),
        payload_hash: head.and_then(|head| head.live).map(|live| live.payload_hash),
        changed,
        joined,
    }
}

fn join(
    client: &mut SpiClient<'_>,
    key: &DigestKey,
    id: &str,
    stored: &Current,
    revision: Revision,
) -> Outcome<(Decision, Option<Joined>)> {
    let mut current = stored.shared_head();
    if let Some(head) = &current
        && origin().is_some()
        && !is_binding(id, head)?
    {
        current = None;
    }
    let applied = decide_apply(key, id, current.as_ref(), &revision.head());
    if applied.conflict {
        let loser = match applied.outcome {
            Joined::Applied => fetch_one(client, id)?,
            _ => Some(revision.clone()),
        };
        record_conflict(client, id, loser)?;
    }
    Ok(match applied.outcome {
        Joined::Applied => (Decision::Write(revision), Some(Joined::Applied)),
        other => (Decision::Unchanged, Some(other)),
    })
}

/// Whether what is stored binds who joins on behalf of a link: all but a tombstone that may be dropped any moment.
/// Whether links have taken it is looked up for an old one only.
pub fn is_binding(id: &str, head: &Head<'_>) -> Outcome<bool> {
    if !head.is_tombstone() || head.timestamp >= settings::tombstone_retention().bound_since(now()) {
        return Ok(true);
    }
    // A plain read: it must not take a number of a transaction, which a standby has none of.
    let is_taken = Spi::connect(|client| {
        let rows = client.select("SELECT tandem.is_taken($1)", None, &[id.into()])?;
        rows.first().get_one::<bool>()
    })?;
    Ok(is_taken != Some(true))
}

/// Records a revision that lost against another one of its version elsewhere.
pub fn keep_loser(id: &str, loser: &Revision) -> Outcome<()> {
    Spi::connect_mut(|client| record_conflict(client, id, Some(loser.clone())))
}

/// Decodes a revision that comes from outside. Errors: `CORRUPT`.
pub fn decode(bytes: &[u8]) -> Result<Revision> {
    codec::decode(bytes, Source::Foreign)
}
