//! A decided change goes into keyspace, index, tombstones and the links' books, and out to replicas and the AOF
//! as its effect.

mod join;
mod replay;
mod told;

pub use join::{apply, doubt, recall, with_recalled};
pub use replay::{replay, replay_expiry, restore};
pub use told::{Effect, Gone};

use crate::blocked;
use crate::cdc;
use crate::decide::{Answer, Change, Current, Planned, plan, plan_removal_of_gone};
use crate::engine::{self, OwnWrite};
use crate::keys::{self, Look, WritableKey};
use crate::pending::takes;
use redis_module::{Context, NotifyEvent, RedisString, raw};
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::codec;
use tandem_shared::request::Operation;
use tandem_shared::{DigestKey, Error, Head, LiveHead, Result, Revision, Timestamp, Version};

/// Who brings a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer<'a> {
    /// A client of this server.
    Client,
    /// A link; it needs not be told.
    Link(&'a str),
    /// Nobody who waits for it: what a client's command has left is put right afterwards.
    Server,
    /// A check between peers: it brings what others wrote, and every link is told.
    Peer,
}

/// What a write does to the key's time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// As it was.
    Keep,
    /// None afterwards.
    Clear,
    /// So many milliseconds from now.
    After(u64),
}

/// The number of the selected database.
pub fn selected(context: &Context) -> i32 {
    // SAFETY: the context is that of the running command or callback.
    unsafe { raw::RedisModule_GetSelectedDb.map_or(0, |selected| selected(context.get_raw())) }
}

/// The number of the client whose command runs.
pub fn client_id(context: &Context) -> u64 {
    // SAFETY: the context is that of the running command.
    unsafe { raw::RedisModule_GetClientId.map_or(0, |id| id(context.get_raw())) }
}

/// The same if it is a client with a connection. A script, and another module, write in the name of a client of their
/// own.
pub fn known_client(context: &Context) -> Option<u64> {
    let client = client_id(context);
    // SAFETY: the call is allowed without a place for the answer, and says then whether there is such a client.
    let status = unsafe { raw::RedisModule_GetClientInfoById.map(|get| get(std::ptr::null_mut(), client)) };
    (status == Some(raw::Status::Ok as i32)).then_some(client)
}

/// The server's clock.
pub fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::new(since.map_or(0, |since| since.as_millis() as i128))
}

/// One operation on one id.
pub struct Asked<'a> {
    /// The id.
    pub id: &'a str,
    /// The key's name.
    pub name: &'a RedisString,
    /// What to do.
    pub operation: Operation,
    /// What becomes of the time to live.
    pub ttl: Ttl,
}

/// Where a change is to happen.
#[derive(Clone, Copy)]
struct Place<'a> {
    context: &'a Context,
    database: i32,
    id: &'a str,
    name: &'a RedisString,
}

/// Decides and stores one operation.
pub fn write(context: &Context, asked: Asked<'_>) -> Result<Answer> {
    let database = selected(context);
    let place = Place { context, database, id: asked.id, name: asked.name };
    let (digest_key, now) = (digest_key()?, now()?);
    let mut key = WritableKey::open(context, asked.id, asked.name)?;
    let (planned, answer) = match key.item() {
        Some(item) => plan(&digest_key, asked.id, Current::Item(item), asked.operation, now)?,
        None => plan_absent(database, asked.id, &digest_key, asked.operation, now)?,
    };
    match planned {
        None => refresh_ttl(place, &mut key, asked.ttl),
        Some(planned) => {
            // What stays here waits for no link.
            if !matches!(&planned.change, Change::Store(item) if item.local()) {
                check_backpressure(database, std::iter::once(asked.id))?;
            }
            if commit(place, &mut key, planned, asked.ttl, Writer::Client)? {
                blocked::wake(database);
            }
        }
    }
    Ok(answer)
}

/// Decides all operations before the first is stored: a refusal, which names the operation, changes nothing. An id
/// that occurs twice is decided the second time on what the first leaves.
pub fn write_all(context: &Context, batch: Vec<Asked<'_>>) -> Result<Vec<Answer>> {
    let database = selected(context);
    let (digest_key, now) = (digest_key()?, now()?);
    check_backpressure(database, batch.iter().map(|asked| asked.id))?;
    let mut answers = Vec::with_capacity(batch.len());
    let mut changes: Vec<(&str, &RedisString, Ttl, Planned)> = Vec::new();
    let mut unchanged: Vec<(&str, &RedisString, Ttl)> = Vec::new();
    // Places in `changes` of what an operation before this one leaves of the id.
    let mut latest: HashMap<&str, usize> = HashMap::new();
    for (index, asked) in batch.into_iter().enumerate() {
        let Asked { id, name, operation, ttl } = asked;
        let before = latest.get(id).and_then(|at| changes.get(*at)).map(|(_, _, _, planned)| &planned.change);
        let decided = match before {
            Some(Change::Store(item)) => plan(&digest_key, id, Current::Item(item), operation, now),
            Some(Change::Remove(tombstone)) => {
                plan(&digest_key, id, Current::Absent(Some(&tombstone.head())), operation, now)
            }
            Some(Change::Drop) => plan_absent(database, id, &digest_key, operation, now),
            None => decide_stored(context, database, (id, name), &digest_key, operation, now),
        };
        let (planned, answer) = decided.map_err(|error| error.at_item(index, id))?;
        answers.push(answer);
        match planned {
            Some(planned) => {
                latest.insert(id, changes.len());
                changes.push((id, name, ttl, planned));
            }
            None => unchanged.push((id, name, ttl)),
        }
    }
    let mut waits = false;
    for (id, name, ttl, planned) in changes {
        let mut key = WritableKey::open(context, id, name)?;
        waits |= commit(Place { context, database, id, name }, &mut key, planned, ttl, Writer::Client)?;
    }
    for (id, name, ttl) in unchanged.into_iter().filter(|(_, _, ttl)| *ttl != Ttl::Keep) {
        let mut key = WritableKey::open(context, id, name)?;
        refresh_ttl(Place { context, database, id, name }, &mut key, ttl);
    }
    if waits {
        blocked::wake(database);
    }
    Ok(answers)
}

/// Decides on what the keyspace holds.
fn decide_stored(
    context: &Context,
    database: i32,
    (id, name): (&str, &RedisString),
    digest_key: &DigestKey,
    operation: Operation,
    now: Timestamp,
) -> Result<(Option<Planned>, Answer)> {
    let mut operation = Some(operation);
    let found = keys::with_named_item(context, id, name, Look::Unnoticed, |item| {
        operation.take().map(|operation| plan(digest_key, id, Current::Item(item), operation, now))
    })?;
    match (found.flatten(), operation) {
        (Some(decided), _) => decided,
        (None, Some(operation)) => plan_absent(database, id, digest_key, operation, now),
        (None, None) => Err(Error::corrupt("batch", "an operation was decided twice")),
    }
}

/// Gives the item at a key that has arrived there without a command of ours the version after `above`, unless it has a
/// later one.
pub fn count_on(context: &Context, id: &str, above: Version) -> Result<()> {
    let database = selected(context);
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    let Some(item) = key.item().filter(|item| !item.local() && item.revision.version <= above) else {
        return Ok(());
    };
    let revision = Revision { version: above.next(), timestamp: now()?, ..item.revision.clone() };
    let planned = Planned::of(&digest_key()?, id, revision, false);
    let place = Place { context, database, id, name: &name };
    if commit(place, &mut key, planned, Ttl::Keep, Writer::Server)? {
        blocked::wake(database);
    }
    Ok(())
}

/// Decides on what is known of an id that is not in the keyspace.
fn plan_absent(
    number: i32,
    id: &str,
    key: &DigestKey,
    operation: Operation,
    now: Timestamp,
) -> Result<(Option<Planned>, Answer)> {
    let mut operation = Some(operation);
    let recalled = with_recalled(number, id, |item| {
        operation.take().map(|operation| plan(key, id, Current::Item(item), operation, now))
    })?;
    match (recalled.flatten(), operation) {
        (Some(decided), _) => decided,
        (None, Some(Operation::Remove(request))) if is_gone(number, id)? => {
            let version = engine::with_database(number, |database| database.absent_version(id))?;
            plan_removal_of_gone(key, id, version, request, now)
        }
        (None, Some(operation)) => {
            with_absent(number, id, |head| plan(key, id, Current::Absent(head), operation, now))?
        }
        (None, None) => Err(Error::corrupt("write", "an operation was decided twice")),
    }
}

/// Whether the copy of an id has left for good while the other side has it.
fn is_gone(number: i32, id: &str) -> Result<bool> {
    engine::with_database(number, |database| {
        !database.tombstones.contains_key(id)
            && database.ghosts.get(id).is_some_and(|(_, copy)| copy.is_some())
    })
}

/// Key of all digests.
pub fn digest_key() -> Result<DigestKey> {
    engine::with(|engine| engine.key.clone())
}

/// Gives `work` what is known of an id that is not in the keyspace: its tombstone, or the version that the copy had
/// which has left, from which a new write counts on; else it would lose against what the link already took.
fn with_absent<T>(database: i32, id: &str, work: impl FnOnce(Option<&Head<'_>>) -> T) -> Result<T> {
    engine::with_database(database, |database| {
        if let Some(tombstone) = database.tombstones.get(id) {
            return work(Some(&tombstone.head()));
        }
        match database.absent_version(id) {
            Some(version) => {
                let timestamp = Timestamp::EPOCH;
                work(Some(&Head { version, timestamp, audit: None, live: None::<LiveHead<'_>> }))
            }
            None => work(None),
        }
    })
}

/// Stores a change and tells of it. Returns whether a link waits for it.
fn commit(
    place: Place<'_>,
    key: &mut WritableKey<'_>,
    planned: Planned,
    ttl: Ttl,
    writer: Writer<'_>,
) -> Result<bool> {
    let Place { context, database, id, name } = place;
    let (kind, encoded) = match &planned.change {
        Change::Store(item) if item.local() => (c"LOCAL", codec::encode(&item.revision)),
        Change::Store(item) => (kind_of(writer), codec::encode(&item.revision)),
        Change::Remove(tombstone) => (kind_of(writer), codec::encode(tombstone)),
        Change::Drop => {
            put_in_place(database, id, key, planned)?;
            context.replicate("DEL", &[name.as_slice()]);
            return Ok(false);
        }
    };
    let local = kind == c"LOCAL";
    let live = matches!(planned.change, Change::Store(_));
    put_in_place(database, id, key, planned)?;
    if live {
        set_ttl(key, ttl);
    }
    let origin = origin_of(writer);
    let seq = if local {
        None
    } else {
        let client = (writer == Writer::Client).then(|| (client_id(context), known_client(context)));
        engine::with_database(database, |database| {
            let seq = database.pending.written(id, origin, None);
            if let Some((client, known)) = client.filter(|_| database.pending.has_links()) {
                database.pending.is_by(id, known);
                let lacking = database.pending.links().filter(|(_, link)| !takes(&link.scope, id));
                database.clients.wrote(client, seq, lacking.map(|(name, _)| name));
            }
            seq
        })?
    };
    let expires_at = if live && ttl != Ttl::Clear { key.expires_at() } else { -1 };
    replicate(place, kind, &encoded, &Effect { seq: seq.unwrap_or(0), expires_at, origin });
    let event = if live { c"tandem.put" } else { c"tandem.remove" };
    // SAFETY: the context is the running command's, the strings outlive the call.
    unsafe {
        raw::RedisModule_NotifyKeyspaceEvent
            .map(|notify| notify(context.get_raw(), NotifyEvent::MODULE.bits(), event.as_ptr(), name.inner))
    };
    if !local {
        cdc::append(context, id, &encoded, origin);
    }
    Ok(seq.is_some())
}

/// Keyspace, index and tombstones.
fn put_in_place(database: i32, id: &str, key: &mut WritableKey<'_>, planned: Planned) -> Result<()> {
    let own = OwnWrite::begin()?;
    let before_local = key.item().map(|item| item.local());
    let Planned { change, digest } = planned;
    let tombstone = match change {
        Change::Store(item) => {
            // The head is gone with the item once the key has it.
            let digest = digest.unwrap_or_default();
            engine::with_database(database, |database| {
                database.inserted(id, &item.head(), digest);
                if !item.local() && !database.tombstones.is_empty() {
                    database.tombstones.remove(id);
                }
            })?;
            let stored = key.set(item);
            if stored.is_err() {
                engine::with_database(database, |database| {
                    database.left(id, false);
                    database.left(id, true);
                })?;
            }
            return stored;
        }
        Change::Remove(tombstone) => Some(tombstone),
        Change::Drop => None,
    };
    if before_local.is_some() {
        key.delete();
    }
    drop(own);
    engine::with_database(database, |database| {
        database.left(id, before_local == Some(true));
        if let Some(tombstone) = tombstone {
            database.version_high = database.version_high.max(Some(tombstone.version));
            database.tombstones.insert(id.into(), tombstone);
            database.is_known(id);
        }
    })
}

fn set_ttl(key: &mut WritableKey<'_>, ttl: Ttl) {
    match ttl {
        Ttl::Keep => {}
        Ttl::Clear if key.expires_at() < 0 => {}
        Ttl::Clear => key.expire_after(None),
        Ttl::After(milliseconds) => key.expire_after(Some(milliseconds)),
    }
}

/// A write that changed nothing has set the time to live all the same.
fn refresh_ttl(place: Place<'_>, key: &mut WritableKey<'_>, ttl: Ttl) {
    let had = key.expires_at();
    let changes = matches!(ttl, Ttl::After(_)) || (ttl == Ttl::Clear && had >= 0);
    if key.item().is_none() || !changes {
        return;
    }
    set_ttl(key, ttl);
    match key.expires_at() {
        at if at < 0 => place.context.replicate("PERSIST", &[place.name.as_slice()]),
        at => place.context.replicate("PEXPIREAT", &[place.name.as_slice(), at.to_string().as_bytes()]),
    }
}

fn origin_of(writer: Writer<'_>) -> Option<&str> {
    match writer {
        Writer::Client | Writer::Server | Writer::Peer => None,
        Writer::Link(name) => Some(name),
    }
}

fn kind_of(writer: Writer<'_>) -> &'static std::ffi::CStr {
    match writer {
        Writer::Client | Writer::Server => c"WRITE",
        Writer::Link(_) | Writer::Peer => c"JOIN",
    }
}

/// What no link takes waits for none.
fn check_backpressure<'a>(database: i32, mut ids: impl Iterator<Item = &'a str>) -> Result<()> {
    engine::with(|engine| {
        let limit = engine.pending_bytes_max;
        let Some(database) = engine.databases.get(&database) else { return Ok(()) };
        let actual = database.pending.bytes();
        if actual > limit && ids.any(|id| database.pending.is_taken(id)) {
            engine.refused_writes += 1;
            return Err(Error::Backpressure { what: "the set waiting for links (bytes)", actual, limit });
        }
        Ok(())
    })?
}

/// Replicas and AOF get the effect, never the request: their clocks and settings do not matter.
fn replicate(place: Place<'_>, kind: &std::ffi::CStr, encoded: &[u8], effect: &Effect<'_>) {
    let effect = effect.encode();
    // By the raw call: the crate's makes a string object of every argument first.
    // SAFETY: `c` takes a C string, `s` a string object, `b` a pointer and a size_t; all outlive the call.
    unsafe {
        if let Some(replicate) = raw::RedisModule_Replicate {
            replicate(
                place.context.get_raw(),
                c"TANDEM.EFFECT".as_ptr(),
                c"csbb".as_ptr(),
                kind.as_ptr(),
                place.name.inner,
                effect.as_ptr(),
                effect.len(),
                encoded.as_ptr(),
                encoded.len(),
            );
        }
    }
}
