//! A decided revision goes into keyspace, index, tombstones and the links' books, and out to replicas and the
//! AOF as its effect.

use crate::blocked;
use crate::engine::{self, OwnWrite};
use crate::keys::{self, WritableKey};
use redis_module::{Context, NotifyEvent, RedisString, raw};
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::codec;
use tandem_shared::decide::{Applied, Decision, Outcome, decide_apply};
use tandem_shared::{Digest, Error, Head, Result, Revision, Timestamp};

/// Who brings a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer<'a> {
    /// A client of this server.
    Client,
    /// A link; it needs not be told.
    Link(&'a str),
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

/// The server's clock.
pub fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::new(since.map_or(0, |since| since.as_millis() as i128))
}

/// Decides and stores a put or a removal of one id. `decide` gets the current revision, a tombstone, or the
/// version that a dropped copy had. Returns the revision now current and whether it was written.
pub fn write<T>(
    context: &Context,
    id: &str,
    name: &RedisString,
    ttl: Ttl,
    decide: impl FnOnce(Option<&Head<'_>>) -> Result<Decision>,
    answer: impl FnOnce(&Revision, bool) -> T,
) -> Result<Option<T>> {
    let database = selected(context);
    let mut key = WritableKey::open(context, id, name)?;
    let decision = match key.revision() {
        Some(revision) => decide(Some(&revision.head()))?,
        None => with_absent_head(database, id, decide)??,
    };
    match decision {
        Decision::WriteLocal(_) | Decision::Restate(_) | Decision::Drop => Ok(None),
        Decision::Unchanged => {
            let had = key.expires_at();
            if key.revision().is_some() && (matches!(ttl, Ttl::After(_)) || (ttl == Ttl::Clear && had >= 0)) {
                set_ttl(&mut key, ttl);
                replicate_expiry(context, name, &key);
            }
            Ok(key.revision().map(|revision| answer(revision, false)))
        }
        Decision::Write(revision) => {
            check_backpressure(database)?;
            let result = answer(&revision, true);
            store(context, database, (id, name), &mut key, revision, ttl, Writer::Client)?;
            Ok(Some(result))
        }
    }
}

/// Joins a revision. Errors: `INVALID` when the key holds another type.
pub fn apply(context: &Context, id: &str, revision: Revision, writer: Writer<'_>) -> Result<Applied> {
    let database = selected(context);
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    let digest_key = engine::with(|engine| engine.key.clone())?;
    let applied = match key.revision() {
        Some(current) => decide_apply(&digest_key, id, Some(&current.head()), &revision.head()),
        None => engine::with_database(database, |database| {
            let current = database.tombstones.get(id).map(Revision::head);
            decide_apply(&digest_key, id, current.as_ref(), &revision.head())
        })?,
    };
    match applied.outcome {
        Outcome::Applied => {
            if applied.conflict && writer != Writer::Client {
                keep_loser(database, id, &key)?;
            }
            store(context, database, (id, &name), &mut key, revision, Ttl::Keep, writer)?;
        }
        Outcome::Stale => {
            // The link offers less than is here: it must have missed this revision.
            engine::with_database(database, |database| database.pending.written(id, None, None))?;
            blocked::wake(database);
        }
        Outcome::Unchanged => {}
    }
    Ok(applied)
}

/// Stores the effect of a command that ran on the master or before the restart: nothing is decided again.
pub fn replay(
    context: &Context,
    id: &str,
    revision: Revision,
    seq: Option<u64>,
    writer: Writer<'_>,
) -> Result<()> {
    let database = selected(context);
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    put_in_place(database, id, &mut key, revision)?;
    let origin = origin_of(writer);
    engine::with_database(database, |database| database.pending.written(id, origin, seq))?;
    Ok(())
}

/// Puts an item into the keyspace as a file had it, with no word to the links.
pub fn restore(context: &Context, id: &str, revision: Revision) -> Result<()> {
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    put_in_place(selected(context), id, &mut key, revision)
}

fn with_absent_head<T>(
    database: i32,
    id: &str,
    decide: impl FnOnce(Option<&Head<'_>>) -> Result<T>,
) -> Result<Result<T>> {
    engine::with_database(database, |database| {
        if let Some(tombstone) = database.tombstones.get(id) {
            return decide(Some(&tombstone.head()));
        }
        // A dropped copy counts on, else the new write would lose against what the link already took.
        match database.pending.dropped_version(id) {
            Some(version) => {
                let timestamp = Timestamp::new(0)?;
                decide(Some(&Head { version, timestamp, audit: None, live: None }))
            }
            None => decide(None),
        }
    })
}

fn store(
    context: &Context,
    database: i32,
    (id, name): (&str, &RedisString),
    key: &mut WritableKey,
    revision: Revision,
    ttl: Ttl,
    writer: Writer<'_>,
) -> Result<()> {
    let encoded = codec::encode(&revision);
    let live = !revision.head().is_tombstone();
    put_in_place(database, id, key, revision)?;
    if live {
        set_ttl(key, ttl);
    }
    let origin = origin_of(writer);
    let seq = engine::with_database(database, |database| database.pending.written(id, origin, None))?;
    replicate(context, name, &encoded, seq, writer, key, live && ttl != Ttl::Clear);
    let event = if live { c"tandem.put" } else { c"tandem.remove" };
    // SAFETY: the context is the running command's, the strings outlive the call.
    unsafe {
        raw::RedisModule_NotifyKeyspaceEvent
            .map(|notify| notify(context.get_raw(), NotifyEvent::MODULE.bits(), event.as_ptr(), name.inner))
    };
    if seq.is_some() {
        blocked::wake(database);
    }
    Ok(())
}

/// Keyspace, index and tombstones.
fn put_in_place(database: i32, id: &str, key: &mut WritableKey, revision: Revision) -> Result<()> {
    let version = revision.version;
    let digest: Option<Digest> = engine::with(|engine| revision.digest(&engine.key, id))?;
    let state = revision.head().live.map(|live| live.state.to_owned()).unwrap_or_default();
    let own = OwnWrite::begin()?;
    let tombstone = match digest {
        Some(_) => {
            key.set(revision)?;
            None
        }
        None => {
            if key.revision().is_some() {
                key.delete();
            }
            Some(revision)
        }
    };
    drop(own);
    engine::with_database(database, |database| match (digest, tombstone) {
        (Some(digest), _) => {
            database.inserted(id, version, digest, &state);
            if !database.tombstones.is_empty() {
                database.tombstones.remove(id);
            }
        }
        (None, Some(tombstone)) => {
            database.index.remove(id);
            database.version_high = database.version_high.max(Some(version));
            database.tombstones.insert(id.into(), tombstone);
        }
        (None, None) => {}
    })
}

fn keep_loser(database: i32, id: &str, key: &WritableKey) -> Result<()> {
    let current = key.revision().map(codec::encode);
    engine::with_database(database, |database| {
        let loser = current.or_else(|| database.tombstones.get(id).map(codec::encode));
        if let Some(loser) = loser {
            database.pending.keep_aside(id, loser);
        }
    })
}

fn set_ttl(key: &mut WritableKey, ttl: Ttl) {
    match ttl {
        Ttl::Keep => {}
        Ttl::Clear if key.expires_at() < 0 => {}
        Ttl::Clear => key.expire_after(None),
        Ttl::After(milliseconds) => key.expire_after(Some(milliseconds)),
    }
}

fn origin_of(writer: Writer<'_>) -> Option<&str> {
    match writer {
        Writer::Client => None,
        Writer::Link(name) => Some(name),
    }
}

fn check_backpressure(database: i32) -> Result<()> {
    engine::with(|engine| {
        let limit = engine.pending_bytes_max;
        let actual = engine.databases.get(&database).map_or(0, |database| database.pending.bytes());
        if actual > limit {
            return Err(Error::Backpressure { what: "the set waiting for links (bytes)", actual, limit });
        }
        Ok(())
    })?
}

/// Replicas and AOF get the effect, never the request: their clocks and settings do not matter.
fn replicate(
    context: &Context,
    name: &RedisString,
    encoded: &[u8],
    seq: Option<u64>,
    writer: Writer<'_>,
    key: &WritableKey,
    may_expire: bool,
) {
    let (kind, origin) = match writer {
        Writer::Client => ("WRITE", ""),
        Writer::Link(link) => ("JOIN", link),
    };
    let seq = seq.unwrap_or(0).to_string();
    let expires_at = if may_expire { key.expires_at() } else { -1 }.to_string();
    let arguments: [&[u8]; 6] =
        [kind.as_bytes(), name.as_slice(), encoded, seq.as_bytes(), origin.as_bytes(), expires_at.as_bytes()];
    context.replicate("TANDEM.EFFECT", &arguments);
}

fn replicate_expiry(context: &Context, name: &RedisString, key: &WritableKey) {
    match key.expires_at() {
        at if at < 0 => context.replicate("PERSIST", &[name.as_slice()]),
        at => context.replicate("PEXPIREAT", &[name.as_slice(), at.to_string().as_bytes()]),
    }
}
