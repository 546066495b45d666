//! The half of read-through that a link's workers speak: `TANDEM.LINK READY|WANTED|FILL|HOLDS|FILTER`.

use crate::args::{Args, unknown_option};
use crate::blocked::{self, Awaited};
use crate::commands::link::{check_attached, check_owner, is_full, link_name, take};
use crate::engine;
use crate::keys::{self, Look};
use crate::reading::{Reading, Wanted};
use crate::reply::Reply;
use crate::store::{self, Writer, selected};
use redis_module::{Context, ContextFlags, RedisValue};
use std::time::Instant;
use tandem_shared::decide::Outcome;
use tandem_shared::error::shown;
use tandem_shared::id::utf8;
use tandem_shared::limits::PAGE_ITEMS_MAX;
use tandem_shared::{Error, Result};

const FILTER_USAGE: &str = "TANDEM.LINK FILTER link BEGIN ids|ADD keys|COMPLETE";
/// Ids that a filter has room for at its beginning, whatever is announced (some 10 MB): it grows with what comes.
const FILTER_IDS_MAX: u64 = 1 << 22;
/// Longest time a reader blocks.
const BLOCK_MS_MAX: u64 = 60_000;

/// Runs `work` on a link as a source for readers. Errors: `NOLINK`.
fn with_reading<T>(database: i32, name: &str, work: impl FnOnce(&mut Reading) -> T) -> Result<T> {
    engine::with_database(database, |database| database.readings.get_mut(name).map(work))?.ok_or_else(|| {
        Error::NoLink {
            what: format!("link {}", shown(name)),
            problem: "is no source for readers here".to_owned(),
            remedy: "attach it with a direction that brings something here (the worker does so by itself)"
                .to_owned(),
        }
    })
}

/// TANDEM.LINK READY: everything was compared, or, with NOT, is to be compared again.
pub fn ready(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    let is_compared = match args.option().as_deref() {
        None => true,
        Some("NOT") => false,
        Some(word) => return Err(unknown_option(word, "TANDEM.LINK READY link [NOT]")),
    };
    args.end()?;
    check_attached(database, name)?;
    if engine::with_database(database, |database| database.compared_by(name, is_compared))? {
        context.replicate("TANDEM.EFFECT", &["COMPARED", name]);
    }
    blocked::wake(database);
    Ok(RedisValue::SimpleStringStatic("OK"))
}

/// TANDEM.LINK WANTED: the next ids to fetch; blocks until there are any.
pub fn wanted(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.LINK WANTED link cluster timeline database max-ids block-ms [ANEW]";
    let name = link_name(args)?;
    let database = selected(context);
    check_owner(database, name, args)?;
    let max = args.unsigned("max-ids")?.clamp(1, PAGE_ITEMS_MAX as u64) as usize;
    let block_ms = args.unsigned("block-ms")?.min(BLOCK_MS_MAX);
    let is_anew = match args.option().as_deref() {
        None => false,
        Some("ANEW") => true,
        Some(word) => return Err(unknown_option(word, USAGE)),
    };
    args.end()?;
    with_reading(database, name, |reading| {
        reading.heard(Instant::now());
        if is_anew {
            reading.ask_again();
        }
    })?;
    let ids = next_wants(database, name, max)?;
    if ids.is_empty() && block_ms > 0 && !context.get_flags().contains(ContextFlags::DENY_BLOCKING) {
        blocked::block(context, database, Awaited::Wants(name.into(), max), block_ms);
    } else {
        reply_wants(context, &ids);
    }
    Ok(RedisValue::NoReply)
}

/// Answers a reader that was woken.
pub fn answer_wanted(context: &Context, name: &str, max: usize) -> Result<()> {
    reply_wants(context, &next_wants(selected(context), name, max)?);
    Ok(())
}

/// Ids whose revision here the link has yet to take are held back: Postgres would answer with an older one.
fn next_wants(database: i32, name: &str, max: usize) -> Result<Vec<Wanted>> {
    engine::with_database(database, |database| {
        let Some(mut reading) = database.readings.remove(name) else { return Vec::new() };
        let next = reading.next_wants(max, Instant::now(), |id| !database.is_ahead(name, id));
        database.readings.insert(name.into(), reading);
        next
    })
}

/// Each id, and after it what is to be stored where Postgres has nothing, or nil.
fn reply_wants(context: &Context, wants: &[Wanted]) {
    let reply = Reply::new(context);
    reply.array(2 * wants.len());
    for (id, offer) in wants {
        reply.bulk(id.as_bytes());
        reply.bulk_or_null(offer.as_deref());
    }
}

/// TANDEM.LINK FILL: what Postgres has of ids that were wanted; an empty revision says that it has nothing.
pub fn fill(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    check_owner(database, name, args)?;
    let mut pairs = Vec::new();
    while args.left() > 0 {
        pairs.push((utf8("id", args.bytes()?)?, args.bytes()?));
    }
    let is_full = is_full(context);
    // Before the header: an error after it would be one of the elements, and the rest would never come.
    with_reading(database, name, |_| ())?;
    let reply = Reply::new(context);
    reply.array(pairs.len());
    for (id, encoded) in pairs {
        if !with_reading(database, name, |reading| reading.wants(id))? {
            // Asked for before a restart, or answered already: it may be older than what was here meanwhile.
            reply.bulk("unwanted");
            continue;
        }
        // It was asked for before a copy was written here, and has left: Postgres is asked again when it has that.
        let is_behind = with_reading(database, name, |reading| reading.is_overtaken(id))?
            || !matches!(keys::with_item(context, id, Look::Unnoticed, |_| ()), Ok(Some(())))
                && engine::with_database(database, |database| database.is_ahead(name, id))?;
        if is_behind {
            with_reading(database, name, |reading| reading.postpone(id))?;
            reply.bulk("behind");
            continue;
        }
        let joined = if !keys::is_served(context, id) {
            // The slot has moved while it was fetched. Those who wait are told so when they are woken.
            Err(keys::not_served(id, "nothing: it is asked for where its slot is now"))
        } else if encoded.is_empty() {
            engine::with_database(database, |database| database.is_known(id))?;
            Ok("absent")
        } else {
            take(context, id, encoded, is_full, Writer::Link(name)).and_then(|applied| {
                if applied.outcome == Outcome::Unchanged {
                    store::recall(database, id, encoded)?;
                }
                Ok(applied.outcome.as_str())
            })
        };
        let is_there =
            !encoded.is_empty() || matches!(keys::with_item(context, id, Look::Still, |_| ()), Ok(Some(())));
        engine::with(|engine| {
            let memory = engine.absent_memory;
            engine.fetches.found += u64::from(is_there);
            engine.fetches.absent += u64::from(!is_there);
            let reading =
                engine.databases.get_mut(&database).and_then(|database| database.readings.get_mut(name));
            if let Some(reading) = reading {
                reading.fetched(id, is_there, Instant::now(), memory);
            }
        })?;
        match joined {
            Ok(outcome) => reply.bulk(outcome),
            Err(error) => reply.error(&error),
        }
    }
    blocked::wake_readers(database);
    blocked::forget_recalled(database);
    Ok(RedisValue::NoReply)
}

/// TANDEM.LINK HOLDS: for each id whether its new revisions are to be sent.
pub fn holds(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    check_attached(database, name)?;
    let mut held = Vec::with_capacity(args.left());
    while args.left() > 0 {
        let id = args.text("id")?;
        let is_here = matches!(keys::with_item(context, id, Look::Still, |_| ()), Ok(Some(())));
        held.push(
            is_here
                || engine::with_database(database, |database| {
                    let cares = |reading: &Reading| reading.cares(id);
                    database.tombstones.contains_key(id) || database.readings.get(name).is_none_or(cares)
                })?,
        );
    }
    let reply = Reply::new(context);
    reply.array(held.len());
    held.into_iter().for_each(|held| reply.integer(u64::from(held)));
    Ok(RedisValue::NoReply)
}

/// TANDEM.LINK FILTER: the keys of all ids that Postgres has or has removed, in parts, then of those that come.
pub fn filter(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    let verb = args.option().unwrap_or_default();
    let is_there = match verb.as_str() {
        "BEGIN" => {
            let ids = args.unsigned("ids")?.min(FILTER_IDS_MAX);
            args.end()?;
            with_reading(database, name, |reading| reading.begin_filter(ids))?;
            true
        }
        "ADD" => {
            let keys = keys_of(args.bytes()?)?;
            args.end()?;
            with_reading(database, name, |reading| reading.add_to_filter(keys.into_iter()))?
        }
        "COMPLETE" => {
            args.end()?;
            with_reading(database, name, Reading::complete_filter)?;
            true
        }
        other => return Err(unknown_option(other, FILTER_USAGE)),
    };
    Ok(RedisValue::Integer(is_there.into()))
}

/// Keys of ids, eight bytes each, little-endian.
fn keys_of(bytes: &[u8]) -> Result<Vec<u64>> {
    let (keys, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Error::invalid(
            format!("filter keys of {} bytes", bytes.len()),
            "do not divide by eight",
            FILTER_USAGE,
        ));
    }
    Ok(keys.iter().map(|key| u64::from_le_bytes(*key)).collect())
}
