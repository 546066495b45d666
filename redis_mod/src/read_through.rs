//! Commands that need an id that is not here wait until the link's reader has brought it, and run then.

use crate::blocked::{self, Awaited};
use crate::commands::link::{is_full, no_room};
use crate::engine::{self, Database};
use crate::guard::Handler;
use crate::keys::{self, Look};
use crate::reading::{Lookup, Reading};
use crate::store::selected;
use redis_module::{Context, ContextFlags, RedisString};
use std::cell::Cell;
use std::time::{Duration, Instant};
use tandem_shared::error::shown;
use tandem_shared::{Error, Result};

/// What a command needs to know of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Its item, to answer with it.
    Read,
    /// Its current revision, which decides what is written.
    Decide,
    /// At most its version, to count on from: a put without a condition.
    Overwrite,
}

/// A command to run again when what it waits for is there.
pub struct Waiting {
    /// The ids it waits for.
    pub ids: Vec<Box<str>>,
    /// Its handler.
    pub handler: Handler,
    /// Its arguments, the command's name first.
    pub args: Vec<Vec<u8>>,
}

thread_local! {
    /// A command that waited runs now: it does not wait again.
    static RESUMED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` as the rest of a command that has waited.
pub fn resumed<T>(work: impl FnOnce() -> T) -> T {
    RESUMED.set(true);
    let done = work();
    RESUMED.set(false);
    done
}

/// True if the client is blocked until its ids were fetched; the handler then returns without a reply, and is run
/// again. Ids that are here, or known to be nowhere, need no fetching. Errors: `NOLINK` where only Postgres knows and
/// nobody can ask it, `TIMEOUT`, `BACKPRESSURE`.
pub fn waits<'a>(
    context: &Context,
    (args, handler): (&[RedisString], Handler),
    ids: impl IntoIterator<Item = (&'a str, Need)>,
) -> Result<bool> {
    let database = selected(context);
    let (is_active, has_ghosts) = (is_active(database)?, has_ghosts(database)?);
    if !is_active && !has_ghosts {
        return Ok(false);
    }
    let now = Instant::now();
    let is_resumed = RESUMED.get();
    if !context.get_flags().contains(ContextFlags::MASTER) {
        // No link speaks to a replica; what it learned while it was a master is old.
        engine::with_database(database, |database| database.readings.values_mut().for_each(Reading::forget))?;
    }
    let may_wait = !is_resumed && !context.get_flags().contains(ContextFlags::DENY_BLOCKING);
    let mut fetched: Vec<Box<str>> = Vec::new();
    for (id, need) in ids {
        if !is_active && need != Need::Decide {
            continue;
        }
        if !matches!(keys::with_item(context, id, Look::Still, |_| ()), Ok(None)) {
            continue;
        }
        match standing(database, id, need, may_wait, now)? {
            Standing::Known => {}
            Standing::Fetch => fetched.push(id.into()),
            // It was brought, and found no room.
            Standing::Unknown if is_resumed && is_full(context) => return Err(no_room()),
            Standing::Unknown if is_resumed => return Err(late_for(id)?),
            Standing::Unknown => return Err(unserved(id)),
        }
    }
    if fetched.is_empty() {
        return Ok(false);
    }
    block(context, database, (args, handler), fetched, None)?;
    Ok(true)
}

/// As [`waits`] for a command that writes an item only where there is none: through a link in cache mode Postgres
/// decides whose item it is, so that all who ask at once, on both sides, see the same one. `offer`: the item,
/// encoded.
pub fn waits_for_first(
    context: &Context,
    command: (&[RedisString], Handler),
    id: &str,
    offer: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<bool> {
    let database = selected(context);
    let now = Instant::now();
    let may_wait = !RESUMED.get() && !context.get_flags().contains(ContextFlags::DENY_BLOCKING);
    let is_absent = || matches!(keys::with_item(context, id, Look::Still, |_| ()), Ok(None));
    if may_wait && is_active(database)? && is_absent() {
        let is_cached = engine::with_database(database, |database| {
            database.readings_of(id).any(|reading| !reading.mirrors(id) && reading.is_served(now))
        })?;
        if is_cached {
            block(context, database, command, vec![id.into()], Some(offer()?))?;
            return Ok(true);
        }
    }
    waits(context, command, [(id, Need::Decide)])
}

/// Blocks the client until the ids are fetched.
fn block(
    context: &Context,
    database: i32,
    (args, handler): (&[RedisString], Handler),
    fetched: Vec<Box<str>>,
    mut offer: Option<Vec<u8>>,
) -> Result<()> {
    let now = Instant::now();
    let timeout_ms = engine::with(|engine| {
        let (limit, memory, patience) = (engine.fetch_ids_max, engine.absent_memory, engine.fetch_timeout);
        let Some(database) = engine.databases.get_mut(&database) else { return Ok(0) };
        for id in &fetched {
            let dropped = database.is_away(id) || may_be_ghost(database, id);
            for reading in database.readings_of(id) {
                let decides = offer.is_some() && !reading.mirrors(id) && reading.is_served(now);
                if decides || reading.look_up(id, dropped, now, memory) == Lookup::Ask {
                    let offer = if decides { offer.take() } else { None };
                    reading.want(id, offer.as_deref(), limit, (now, patience))?;
                }
            }
        }
        engine.fetches.asked += fetched.len() as u64;
        Ok(engine.fetch_timeout.as_millis() as u64)
    })??;
    let args = args.iter().map(|arg| arg.as_slice().to_vec()).collect();
    let waiting = Waiting { ids: fetched, handler, args };
    blocked::block(context, database, Awaited::Fetched(waiting), timeout_ms.max(1));
    blocked::wake_askers(database);
    Ok(())
}

/// Whether the copy of an id may have left for good while Postgres has it.
fn may_be_ghost(database: &Database, id: &str) -> bool {
    database.ghosts.version(id).is_some()
}

fn has_ghosts(database: i32) -> Result<bool> {
    engine::with(|engine| engine.databases.get(&database).is_some_and(|database| !database.ghosts.is_empty()))
}

fn is_active(database: i32) -> Result<bool> {
    engine::with(|engine| {
        engine.databases.get(&database).is_some_and(|database| {
            let dropped = database.pending.has_dropped() || !database.withheld.is_empty();
            database.readings.values().any(|reading| reading.is_active(dropped))
        })
    })
}

enum Standing {
    Known,
    Fetch,
    Unknown,
}

/// What is to be done about an id that is not here.
fn standing(database: i32, id: &str, need: Need, may_wait: bool, now: Instant) -> Result<Standing> {
    engine::with(|engine| {
        // Who has waited goes by the answer, however long ago it came.
        let memory = if RESUMED.get() { Duration::MAX } else { engine.absent_memory };
        let Some(database) = engine.databases.get(&database) else { return Standing::Known };
        if database.tombstones.contains_key(id) {
            return Standing::Known;
        }
        let is_ghost = database.ghosts.get(id).is_some();
        // Who decides over a ghost decides over what Postgres has. Nobody else asks: what has expired is gone.
        let is_decided_over = need == Need::Decide && may_be_ghost(database, id);
        if is_decided_over && database.recalled.contains_key(id) {
            return Standing::Known;
        }
        let is_counted = database.absent_version(id).is_some();
        let dropped = database.is_away(id) || is_decided_over;
        let (mut fetch, mut unknown) = (false, false);
        for reading in database.readings.values().filter(|reading| reading.covers(id)) {
            let is_known = match need {
                Need::Read => is_ghost,
                // The version to count on from is known.
                Need::Overwrite => is_counted,
                Need::Decide => false,
            };
            if is_known && reading.mirrors(id) {
                continue;
            }
            match reading.look_up(id, dropped, now, memory) {
                Lookup::Absent => engine.fetches.denied += u64::from(!RESUMED.get()),
                Lookup::Ask => fetch = true,
                // A mirror that nobody serves answers with what it has, as before the link was there; but a copy that
                // was dropped is no item that is nowhere.
                Lookup::Unserved if reading.mirrors(id) => unknown |= dropped,
                Lookup::Unserved => unknown = true,
            }
        }
        match (fetch, unknown) {
            (true, _) if may_wait => Standing::Fetch,
            (true, _) | (_, true) => Standing::Unknown,
            (false, false) => Standing::Known,
        }
    })
}

fn unserved(id: &str) -> Error {
    Error::NoLink {
        what: format!("id {}", shown(id)),
        problem: "is not here, and Postgres cannot be asked for it now".to_owned(),
        remedy: "retry when the link is up, outside MULTI and scripts, or read it before them".to_owned(),
    }
}

/// What a command is told that has waited too long.
pub fn late(waiting: &Waiting) -> Result<Error> {
    late_for(waiting.ids.first().map_or("", |id| id))
}

fn late_for(id: &str) -> Result<Error> {
    let limit_ms = engine::with(|engine| {
        engine.fetches.late += 1;
        engine.fetch_timeout.as_millis() as u64
    })?;
    Ok(Error::Timeout { what: format!("fetching {} from Postgres", shown(id)), limit_ms })
}

/// Ids that are all needed for the same.
pub fn all<'a>(ids: &'a [(&'a str, &'a RedisString)], need: Need) -> impl Iterator<Item = (&'a str, Need)> {
    ids.iter().map(move |(id, _)| (*id, need))
}

impl Waiting {
    /// Whether each of the ids is here, or is not being fetched any more.
    pub fn is_there(&self, database: &Database) -> bool {
        let is_fetched = |id: &str| database.readings.values().any(|reading| reading.wants(id));
        self.ids.iter().all(|id| database.index.get(id).is_some() || !is_fetched(id))
    }
}
