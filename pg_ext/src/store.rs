//! The write path: a batch of operations locks and reads the current revisions, asks the shared rules, and stores
//! what they decide in one statement a kind. A single put is a batch of one.

use crate::error::Outcome;
use crate::planning;
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::codec::{self, Source};
use tandem_shared::decide::{Decision, Outcome as Joined, decide_apply, decide_put, decide_remove};
use tandem_shared::error::shown;
use tandem_shared::request::{PutRequest, RemoveRequest};
use tandem_shared::{
    Audit, Body, Content, ContentType, DigestKey, Error, Head, LiveHead, PayloadHash, Result, Revision,
    State, Timestamp, Version,
};

thread_local! {
    static OWN_WRITE: Cell<bool> = const { Cell::new(false) };
    static ORIGIN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether this module is writing.
pub fn is_own_write() -> bool {
    OWN_WRITE.get()
}

/// The link on whose behalf this process writes.
pub fn origin() -> Option<String> {
    ORIGIN.with_borrow(Clone::clone)
}

/// Runs `work` on behalf of a link; a server error ends it too, by unwinding.
pub fn on_behalf_of<T>(link: &str, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ORIGIN.with_borrow_mut(|origin| *origin = None);
        }
    }
    ORIGIN.with_borrow_mut(|origin| *origin = Some(link.to_owned()));
    let _reset = Reset;
    work()
}

struct OwnWrite;

impl OwnWrite {
    fn begin() -> OwnWrite {
        OWN_WRITE.set(true);
        OwnWrite
    }
}

impl Drop for OwnWrite {
    fn drop(&mut self) {
        OWN_WRITE.set(false);
    }
}

/// Runs `work`, whose rows the row trigger leaves as they are.
pub fn as_own_write<T>(work: impl FnOnce() -> T) -> T {
    let _own = OwnWrite::begin();
    work()
}

/// The server's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i128);
    // A clock that cannot be read, or one from before 1970, counts as the epoch: versions decide first.
    Timestamp::new(since).or_else(|_| Timestamp::new(0)).unwrap_or(Timestamp::EPOCH)
}

/// 32 bytes of a hash column. Errors: `CORRUPT`.
pub fn payload_hash(bytes: &[u8]) -> Result<PayloadHash> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Error::corrupt("payload_hash", format!("it has {} bytes, not 32", bytes.len())))?;
    Ok(PayloadHash(bytes))
}

/// What to do with an id.
#[derive(Clone)]
pub enum Operation {
    /// Put.
    Put(PutRequest),
    /// Remove.
    Remove(RemoveRequest),
    /// Join a revision from elsewhere.
    Apply(Revision),
}

/// What came of an operation.
#[derive(Debug, Clone)]
pub struct Done {
    /// The id's version now, 0 where nothing is stored.
    pub version: u64,
    /// Etag of the live revision.
    pub etag: Option<String>,
    /// Hash of its content, in hex.
    pub hash: Option<String>,
    /// Whether something was written.
    pub changed: bool,
    /// Where a joined revision stood.
    pub joined: Option<Joined>,
}

/// A current revision without its content.
#[derive(Debug, Clone)]
struct Stored {
    version: Version,
    timestamp: Timestamp,
    audit: Option<String>,
    live: Option<(String, ContentType, PayloadHash)>,
}

impl Stored {
    fn head(&self) -> Head<'_> {
        Head {
            version: self.version,
            timestamp: self.timestamp,
            audit: self.audit.as_deref(),
            live: self.live.as_ref().map(|(state, content_type, payload_hash)| LiveHead {
                state,
                content_type: *content_type,
                payload_hash: *payload_hash,
            }),
        }
    }
}

/// Runs operations in order and returns what came of each. All or nothing: an error ends the transaction.
pub fn run(operations: Vec<(String, Operation)>) -> Outcome<Vec<Done>> {
    let mut done: Vec<Option<Done>> = operations.iter().map(|_| None).collect();
    let mut rest: Vec<(usize, String, Operation)> =
        operations.into_iter().enumerate().map(|(place, (id, operation))| (place, id, operation)).collect();
    // An id that occurs twice is decided twice, the second time on what the first left.
    while !rest.is_empty() {
        let mut met = HashSet::new();
        let (round, later): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(_, id, _)| met.insert(id.clone()));
        rest = later;
        let mut again = Vec::new();
        for (place, result) in run_round(round, &mut again)? {
            if let Some(slot) = done.get_mut(place) {
                *slot = Some(result);
            }
        }
        again.append(&mut rest);
        rest = again;
    }
    Ok(done.into_iter().flatten().collect())
}

type Placed = (usize, String, Operation);

/// Runs operations on distinct ids. Those that lost a race for a first put are added to `again`: their id is there
/// now, and they are to be decided on what is there.
fn run_round(round: Vec<Placed>, again: &mut Vec<Placed>) -> Outcome<Vec<(usize, Done)>> {
    let key = settings::digest_key();
    let now = now();
    planning::uncompiled(|| {
        Spi::connect_mut(|client| {
            let ids: Vec<&str> = round.iter().map(|(_, id, _)| id.as_str()).collect();
            let current = lock(client, ids)?;
            let mut done = Vec::with_capacity(round.len());
            let mut writes = Vec::new();
            let mut firsts: HashMap<String, (usize, Operation)> = HashMap::new();
            for (place, id, operation) in round {
                let stored = current.get(&id);
                let is_first = stored.is_none_or(|stored| stored.live.is_none());
                let kept = is_first.then(|| operation.clone());
                let (result, write) = decide(client, &key, &id, stored, operation, now)?;
                done.push((place, result));
                if let Some(revision) = write {
                    firsts.extend(kept.map(|operation| (id.clone(), (place, operation))));
                    writes.push((id, revision));
                }
            }
            for id in write(client, &current, writes)? {
                if let Some((place, operation)) = firsts.remove(&id) {
                    again.push((place, id, operation));
                }
            }
            Ok(done)
        })
    })
}

fn decide(
    client: &mut SpiClient<'_>,
    key: &DigestKey,
    id: &str,
    stored: Option<&Stored>,
    operation: Operation,
    now: Timestamp,
) -> Outcome<(Done, Option<Revision>)> {
    let head = stored.map(Stored::head);
    let (decision, joined) = match operation {
        Operation::Put(request) => (decide_put(key, id, head.as_ref(), request, now)?, None),
        Operation::Remove(request) => (decide_remove(key, id, head.as_ref(), request, now)?, None),
        Operation::Apply(revision) => {
            let applied = decide_apply(key, id, head.as_ref(), &revision.head());
            if applied.conflict {
                let loser = match applied.outcome {
                    Joined::Applied => fetch_one(client, id)?,
                    _ => Some(revision.clone()),
                };
                record_conflict(client, id, loser)?;
            }
            match applied.outcome {
                Joined::Applied => (Decision::Write(revision), Some(Joined::Applied)),
                other => (Decision::Unchanged, Some(other)),
            }
        }
    };
    let describe = |head: Option<&Head<'_>>, changed| Done {
        version: head.map_or(0, |head| head.version.get()),
        etag: head.and_then(|head| head.digest(key, id)).map(|digest| digest.to_hex()),
        hash: head.and_then(|head| head.live).map(|live| live.payload_hash.to_hex()),
        changed,
        joined,
    };
    Ok(match decision {
        Decision::Write(revision) => (describe(Some(&revision.head()), true), Some(revision)),
        Decision::Unchanged => (describe(head.as_ref(), false), None),
    })
}

/// Reads the current revisions of ids and locks the rows of those that live. What is not there cannot be locked:
/// the primary key decides between two first writers.
fn lock(client: &mut SpiClient<'_>, ids: Vec<&str>) -> Outcome<HashMap<String, Stored>> {
    let mut current = HashMap::new();
    let rows = client.update(
        "SELECT i.id, i.version, i.\"timestamp\", i.audit::text, i.state, i.payload IS NOT NULL, i.payload_hash \
         FROM tandem.items i WHERE i.id = ANY($1) FOR UPDATE",
        None,
        &[ids.clone().into()],
    )?;
    for row in rows {
        let content_type =
            if row.get::<bool>(6)? == Some(true) { ContentType::Json } else { ContentType::Binary };
        let hash = payload_hash(row.get::<&[u8]>(7)?.unwrap_or_default())?;
        let live = Some((row.get::<String>(5)?.unwrap_or_default(), content_type, hash));
        let (id, stored) = stored(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, live)?;
        current.insert(id, stored);
    }
    let missing: Vec<&str> = ids.into_iter().filter(|id| !current.contains_key(*id)).collect();
    if missing.is_empty() {
        return Ok(current);
    }
    let rows = client.update(
        "SELECT t.id, t.version, t.\"timestamp\", t.audit::text FROM tandem.tombstones t WHERE t.id = ANY($1)",
        None,
        &[missing.into()],
    )?;
    for row in rows {
        let (id, stored) = stored(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, None)?;
        current.insert(id, stored);
    }
    Ok(current)
}

fn stored(
    id: Option<String>,
    version: Option<i64>,
    timestamp: Option<i64>,
    audit: Option<String>,
    live: Option<(String, ContentType, PayloadHash)>,
) -> Result<(String, Stored)> {
    let audit = audit.as_deref().map(Audit::new).transpose()?;
    let stored = Stored {
        version: Version::new(version.unwrap_or(0).into())?,
        timestamp: Timestamp::new(timestamp.unwrap_or(0).into())?,
        audit: audit.map(|audit| audit.as_str().to_owned()),
        live,
    };
    Ok((id.unwrap_or_default(), stored))
}

/// Columns of live revisions to write.
#[derive(Default)]
struct Columns {
    ids: Vec<String>,
    versions: Vec<i64>,
    timestamps: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    payloads: Vec<Option<String>>,
    blobs: Vec<Option<Vec<u8>>>,
    audits: Vec<Option<String>>,
    states: Vec<String>,
}

impl Columns {
    fn push(&mut self, id: String, revision: Revision) -> Result<()> {
        let Body::Live { state, content } = revision.body else { return Ok(()) };
        self.ids.push(id);
        self.versions.push(revision.version.get() as i64);
        self.timestamps.push(revision.timestamp.unix_ms() as i64);
        self.hashes.push(content.payload_hash().0.to_vec());
        let (payload, blob) = match content.content_type() {
            ContentType::Json => (Some(json_text(&content)?), None),
            ContentType::Binary => (None, Some(content.bytes().to_vec())),
        };
        self.payloads.push(payload);
        self.blobs.push(blob);
        self.audits.push(revision.audit.map(|audit| audit.as_str().to_owned()));
        self.states.push(state.as_str().to_owned());
        Ok(())
    }

    /// Runs a statement over the columns; returns the ids that it wrote.
    fn run(self, client: &mut SpiClient<'_>, statement: &str) -> Outcome<HashSet<String>> {
        let mut written = HashSet::with_capacity(self.ids.len());
        if self.ids.is_empty() {
            return Ok(written);
        }
        let rows = client.update(
            statement,
            None,
            &[
                self.ids.into(),
                self.versions.into(),
                self.timestamps.into(),
                self.hashes.into(),
                self.payloads.into(),
                self.blobs.into(),
                self.audits.into(),
                self.states.into(),
            ],
        )?;
        for row in rows {
            written.extend(row.get::<String>(1)?);
        }
        Ok(written)
    }
}

fn json_text(content: &Content) -> Result<String> {
    String::from_utf8(content.bytes().to_vec()).map_err(|_| Error::corrupt("JSON content", "it is not UTF-8"))
}

const INSERT: &str = "INSERT INTO tandem.items \
    (id, version, \"timestamp\", payload_hash, payload, payload_blob, audit, state) \
    SELECT n.id, n.version, n.at, n.hash, n.payload::jsonb, n.blob, n.audit::jsonb, n.state \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[], $7::text[], $8::text[]) \
    AS n (id, version, at, hash, payload, blob, audit, state) \
    ON CONFLICT (id) DO NOTHING RETURNING items.id";

const UPDATE: &str = "UPDATE tandem.items i SET version = n.version, \"timestamp\" = n.at, \
    payload_hash = n.hash, payload = n.payload::jsonb, payload_blob = n.blob, audit = n.audit::jsonb, state = n.state \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[], $7::text[], $8::text[]) \
    AS n (id, version, at, hash, payload, blob, audit, state) WHERE i.id = n.id RETURNING i.id";

/// Stores revisions. Returns the ids for which another writer was first.
fn write(
    client: &mut SpiClient<'_>,
    current: &HashMap<String, Stored>,
    writes: Vec<(String, Revision)>,
) -> Outcome<Vec<String>> {
    let (mut inserts, mut updates) = (Columns::default(), Columns::default());
    let mut removed: Vec<(String, Revision)> = Vec::new();
    let mut put: Vec<(String, i64)> = Vec::new();
    for (id, revision) in writes {
        let is_live = current.get(&id).is_some_and(|stored| stored.live.is_some());
        match (revision.head().is_tombstone(), is_live) {
            (true, true) => removed.push((id, revision)),
            (true, false) => {
                inserts.push(id.clone(), placeholder(&revision)?)?;
                removed.push((id, revision));
            }
            (false, true) => updates.push(id, revision)?,
            (false, false) => {
                put.push((id.clone(), revision.version.get() as i64));
                inserts.push(id, revision)?;
            }
        }
    }
    let asked = inserts.ids.clone();
    let _own = OwnWrite::begin();
    let first = inserts.run(client, INSERT)?;
    updates.run(client, UPDATE)?;
    check_removals(client, put)?;
    let late: Vec<String> = asked.into_iter().filter(|id| !first.contains(id)).collect();
    removed.retain(|(id, _)| !late.contains(id));
    remove(client, removed)?;
    Ok(late)
}

/// A tombstone for an id that is not here is stored by putting and removing an item under it: the primary key then
/// makes other first writers of the id wait, and the log tells of the removal as of any other.
fn placeholder(tombstone: &Revision) -> Result<Revision> {
    Ok(Revision {
        version: Version::FIRST,
        timestamp: tombstone.timestamp,
        audit: None,
        body: Body::Live { state: State::default(), content: Content::json(b"null", 4)? },
    })
}

/// An id may have been put and removed by another between our reading and our insert. Its tombstone is then newer
/// than what was decided, and stays: the caller is to try again.
fn check_removals(client: &mut SpiClient<'_>, put: Vec<(String, i64)>) -> Outcome<()> {
    if put.is_empty() {
        return Ok(());
    }
    let (ids, versions): (Vec<String>, Vec<i64>) = put.into_iter().unzip();
    let newer = client.update(
        "SELECT t.id FROM unnest($1::text[], $2::bigint[]) AS n (id, version) \
         JOIN tandem.tombstones t ON t.id = n.id AND t.version >= n.version LIMIT 1",
        None,
        &[ids.into(), versions.into()],
    )?;
    match newer.into_iter().next() {
        None => Ok(()),
        Some(row) => {
            let id = row.get::<String>(1)?.unwrap_or_default();
            Err(Error::Conflict {
                what: format!("item {}", shown(&id)),
                expected: "none".to_owned(),
                current: "a removal by another writer".to_owned(),
            }
            .into())
        }
    }
}

fn remove(client: &mut SpiClient<'_>, removed: Vec<(String, Revision)>) -> Outcome<()> {
    if removed.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = removed.iter().map(|(id, _)| id.as_str()).collect();
    client.update("DELETE FROM tandem.items WHERE id = ANY($1)", None, &[ids.clone().into()])?;
    let versions: Vec<i64> = removed.iter().map(|(_, revision)| revision.version.get() as i64).collect();
    let timestamps: Vec<i64> =
        removed.iter().map(|(_, revision)| revision.timestamp.unix_ms() as i64).collect();
    let audits: Vec<Option<&str>> =
        removed.iter().map(|(_, revision)| revision.audit.as_ref().map(Audit::as_str)).collect();
    client.update(
        "UPDATE tandem.tombstones t SET version = n.version, \"timestamp\" = n.at, audit = n.audit::jsonb \
         FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS n (id, version, at, audit) \
         WHERE t.id = n.id AND t.version <= n.version",
        None,
        &[ids.into(), versions.into(), timestamps.into(), audits.into()],
    )?;
    Ok(())
}

fn record_conflict(client: &mut SpiClient<'_>, id: &str, loser: Option<Revision>) -> Outcome<()> {
    let Some(loser) = loser else { return Ok(()) };
    client.update(
        "INSERT INTO tandem.conflicts (id, version, loser, origin) SELECT $1, $2, $3, tandem.origin() \
         WHERE NOT EXISTS (SELECT FROM tandem.conflicts c WHERE c.id = $1 AND c.version = $2 AND c.loser = $3)",
        None,
        &[id.into(), (loser.version.get() as i64).into(), codec::encode(&loser).into()],
    )?;
    Ok(())
}

fn fetch_one(client: &SpiClient<'_>, id: &str) -> Outcome<Option<Revision>> {
    Ok(fetch_with(client, vec![id])?.remove(id))
}

/// The current revisions (live or tombstone) of ids.
pub fn fetch(ids: &[String]) -> Outcome<HashMap<String, Revision>> {
    planning::uncompiled(|| {
        Spi::connect(|client| fetch_with(client, ids.iter().map(String::as_str).collect()))
    })
}

fn fetch_with(client: &SpiClient<'_>, ids: Vec<&str>) -> Outcome<HashMap<String, Revision>> {
    let rows = client.select(
        "SELECT i.id, i.version, i.\"timestamp\", i.audit::text, i.state, i.payload::text, i.payload_blob \
         FROM tandem.items i WHERE i.id = ANY($1) \
         UNION ALL \
         SELECT t.id, t.version, t.\"timestamp\", t.audit::text, NULL, NULL, NULL \
         FROM tandem.tombstones t WHERE t.id = ANY($1)",
        None,
        &[ids.into()],
    )?;
    let mut found = HashMap::new();
    for row in rows {
        let limit = tandem_shared::limits::CONTENT_BYTES_MAX;
        let content = match (row.get::<&str>(6)?, row.get::<&[u8]>(7)?) {
            (Some(text), _) => Some(Content::json(text.as_bytes(), text.len().max(limit))?),
            (None, Some(blob)) => Some(Content::binary(blob, limit)?),
            (None, None) => None,
        };
        let body = match content {
            Some(content) => {
                Body::Live { state: State::new(row.get::<&str>(5)?.unwrap_or_default())?, content }
            }
            None => Body::Tombstone,
        };
        let revision = Revision {
            version: Version::new(row.get::<i64>(2)?.unwrap_or(0).into())?,
            timestamp: Timestamp::new(row.get::<i64>(3)?.unwrap_or(0).into())?,
            audit: row.get::<&str>(4)?.map(Audit::new).transpose()?,
            body,
        };
        found.insert(row.get::<String>(1)?.unwrap_or_default(), revision);
    }
    Ok(found)
}

/// Decodes a revision that comes from outside. Errors: `CORRUPT`.
pub fn decode(bytes: &[u8]) -> Result<Revision> {
    codec::decode(bytes, Source::Foreign)
}
