//! Items that arrive at keys by RENAME, COPY, RESTORE and MOVE, without a command of ours. They come with the
//! versions that they had elsewhere, and what is known of the ids where they arrive may be later: then they would
//! lose against what the other side has. So they count on from there, as a put would, before anybody asks tandem for
//! them: Redis allows no write within the notification, hence before the next command of ours, or a moment later by a
//! timer.

use crate::engine::{self, Arrival, Engine};
use crate::guard::caught;
use crate::retention;
use crate::store::{self, selected};
use redis_module::{Context, ContextFlags, raw};
use std::time::Duration;
use tandem_shared::{Digest, Version};

/// The version after which an arriving item must come, `None` if it does so already, or is what has just stood there.
pub fn above(
    engine: &Engine,
    number: i32,
    id: &str,
    (version, digest): (Version, Digest),
) -> Option<Version> {
    let left = engine.last_left.as_ref().filter(|left| left.database == number && *left.id == *id);
    let left = left.and_then(|left| left.shared.as_ref());
    if left.is_some_and(|(before, copy)| {
        *before == version && copy.as_ref().is_some_and(|(copy, _)| *copy == digest)
    }) {
        return None;
    }
    let known = engine.databases.get(&number).and_then(|database| database.version_besides(id));
    known.max(left.map(|(version, _)| *version)).filter(|known| *known >= version)
}

/// Lets the arrivals count on once the command that brought them is done.
pub fn settle_soon(context: &Context) {
    context.create_timer(Duration::ZERO, on_timer, ());
}

fn on_timer(context: &Context, (): ()) {
    caught("items that have arrived", (), || {
        if !settle(context) {
            // Redis holds writes back for a while.
            context.create_timer(Duration::from_millis(10), on_timer, ());
        }
    });
}

/// Lets the arrivals count on. False if Redis does not allow it at present.
pub fn settle(context: &Context) -> bool {
    let waits = engine::with(|engine| !engine.arrivals.is_empty());
    if waits != Ok(true) || context.is_keys_position_request() {
        return true;
    }
    if !context.get_flags().contains(ContextFlags::MASTER) {
        // The master tells what became of them.
        let _ = engine::with(|engine| engine.arrivals.clear());
        return true;
    }
    if !retention::may_write(context) {
        return false;
    }
    let arrivals = engine::with(|engine| std::mem::take(&mut engine.arrivals)).unwrap_or_default();
    let before = selected(context);
    for Arrival { database, id, above } in arrivals {
        select(context, database);
        if let Err(error) = store::count_on(context, &id, above) {
            context.log_warning(&format!("tandem: what arrived at {id:?} keeps its version: {error}"));
        }
    }
    select(context, before);
    true
}

fn select(context: &Context, number: i32) {
    // SAFETY: the context is that of the running command or timer.
    unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), number)) };
}
