//! Tombstones are dropped when they are old enough and no link waits for them: by a timer, in small steps, on the
//! master only. Replicas and the AOF are told which ids, so that their clocks and settings do not matter.

use crate::engine::{self, Database};
use crate::events;
use crate::guard::caught;
use crate::store::now;
use redis_module::{Context, ContextFlags, raw};
use std::ops::Bound;
use std::time::Duration;
use tandem_shared::Timestamp;

/// Pause between steps.
const PAUSE: Duration = Duration::from_millis(500);
/// Tombstones looked at in a step, of each database.
const STEP: usize = 2000;

/// How far the walk through the tombstones is: by database, the id looked at last.
type Places = std::collections::HashMap<i32, Box<str>>;

/// Starts the timer.
pub fn start(context: &Context) {
    context.create_timer(PAUSE, step, Places::new());
}

fn step(context: &Context, mut places: Places) {
    caught("writing the books", (), || events::write_books(context));
    caught("forgetting tombstones", (), || {
        if may_write(context) {
            forget(context, &mut places);
        }
    });
    context.create_timer(PAUSE, step, places);
}

/// Not on a replica, not while loading, and not while a failover holds writes back.
pub fn may_write(context: &Context) -> bool {
    let flags = context.get_flags();
    // SAFETY: takes no argument.
    let is_held = unsafe { raw::RedisModule_AvoidReplicaTraffic.is_some_and(|avoid| avoid() != 0) };
    flags.contains(ContextFlags::MASTER) && !flags.contains(ContextFlags::LOADING) && !is_held
}

fn forget(context: &Context, places: &mut Places) {
    let Ok(now) = now() else { return };
    let due = engine::with(|engine| {
        let due = |(number, database): (&i32, &Database)| {
            let before = database.kept(engine.retention).kept_since(now);
            (before > Timestamp::EPOCH && !database.tombstones.is_empty()).then_some((*number, before))
        };
        engine.databases.iter().filter_map(due).collect::<Vec<_>>()
    });
    for (number, before) in due.unwrap_or_default() {
        let Ok(gone) = forget_in(number, places, before) else { continue };
        if gone.is_empty() {
            continue;
        }
        // SAFETY: the context is the timer's own.
        unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), number)) };
        let words: Vec<&str> = std::iter::once("FORGET").chain(gone.iter().map(AsRef::as_ref)).collect();
        context.replicate("TANDEM.EFFECT", words.as_slice());
    }
}

/// Takes one step through the tombstones of a database. Returns the ids that are forgotten.
fn forget_in(number: i32, places: &mut Places, before: Timestamp) -> tandem_shared::Result<Vec<Box<str>>> {
    engine::with_database(number, |database| {
        let after = places.remove(&number);
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let part: Vec<_> =
            database.tombstones.range::<str, _>((start, Bound::Unbounded)).take(STEP).collect();
        if part.len() == STEP
            && let Some((last, _)) = part.last()
        {
            places.insert(number, (*last).clone());
        }
        let is_owed = |id: &str| database.pending.links().any(|(_, link)| link.owes_tombstone(id));
        let is_old =
            |id: &str, at: Timestamp| at < before && database.pending.get(id).is_none() && !is_owed(id);
        let gone: Vec<Box<str>> = part
            .into_iter()
            .filter(|(id, tombstone)| is_old(id, tombstone.timestamp))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            database.tombstones.remove(id);
        }
        gone
    })
}
