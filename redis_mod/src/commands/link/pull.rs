//! What was written here goes to the link, and is acknowledged.

use super::{check_link, link_name, words};
use crate::args::Args;
use crate::blocked::{self, Awaited};
use crate::engine::{self, Database};
use crate::item::Item;
use crate::keys::{self, Look};
use crate::pending::{EVERYTHING, TombstonePage, Waiting, takes};
use crate::reply::Reply;
use crate::store::selected;
use redis_module::{Context, ContextFlags, RedisValue};
use std::ops::Bound;
use tandem_shared::Result;
use tandem_shared::codec::encode;
use tandem_shared::limits::PAGE_ITEMS_MAX;
use tandem_shared::link::Acknowledgement;

/// Copies that were passed over and are looked at once more in a pull.
const LOOKS_MAX: usize = 1000;

/// Longest time a pull blocks.
const BLOCK_MS_MAX: u64 = 60_000;

/// A pull as asked for.
pub struct Pull {
    link: Box<str>,
    /// Entries after this sequence are wanted.
    after: u64,
    items_max: usize,
    bytes_max: usize,
}

impl Pull {
    /// Whether there is something to answer with; there is also where the link is gone meanwhile.
    pub fn is_there(&self, database: &Database) -> bool {
        database.pending.link(&self.link).is_none_or(|link| link.has_after(self.after))
    }
}

pub(super) fn pull(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    check_link(database, name, args.text("run")?)?;
    let after = args.unsigned("after")?;
    let items_max = args.unsigned("max-items")?.clamp(1, PAGE_ITEMS_MAX as u64) as usize;
    let bytes_max = args.unsigned("max-bytes")?.max(1) as usize;
    let block_ms = args.unsigned("block-ms")?.min(BLOCK_MS_MAX);
    args.end()?;
    look_again(context, database, name)?;
    let pull = Pull { link: name.into(), after, items_max, bytes_max };
    let is_ready = engine::with_database(database, |database| pull.is_there(database))?;
    if is_ready || block_ms == 0 || context.get_flags().contains(ContextFlags::DENY_BLOCKING) {
        answer_pull(context, &pull, true)?;
    } else {
        blocked::block(context, database, Awaited::Pull(pull), block_ms);
    }
    Ok(RedisValue::NoReply)
}

/// One entry of a pull before its current revision is read.
struct Wanted {
    seq: u64,
    id: String,
    aside: Vec<Box<[u8]>>,
    is_written: bool,
    is_dropped: bool,
}

impl Wanted {
    fn of(id: &str, waiting: &Waiting) -> Wanted {
        Wanted {
            seq: waiting.seq,
            id: id.to_owned(),
            aside: waiting.aside.clone(),
            is_written: waiting.is_written,
            is_dropped: waiting.dropped.is_some(),
        }
    }
}

/// Looks once more at what was passed over. Where Redis may delete what has expired it does so at this look, and what
/// is kept of that waits under another number; the rest gets one here, unless it is as it was.
fn look_again(context: &Context, number: i32, name: &str) -> Result<()> {
    let passed_over = engine::with_database(number, |database| {
        let link = database.pending.link(name);
        let passed_over = link.into_iter().flat_map(|link| link.passed_over());
        passed_over.take(LOOKS_MAX).map(|(id, seq)| (id.to_owned(), seq)).collect::<Vec<_>>()
    })?;
    for (id, seq) in passed_over {
        let is_unread = current_revision(context, &id)?.is_none();
        let again = engine::with_database(number, |database| {
            let is_as_it_was = database.pending.get(&id).is_none_or(|waiting| waiting.seq != seq)
                || (is_unread && database.is_in_limbo(&id));
            if is_as_it_was { None } else { database.pending.written(&id, None, None) }
        })?;
        if let Some(seq) = again {
            context.replicate("TANDEM.EFFECT", &["QUEUE", &id, &seq.to_string()]);
        }
    }
    Ok(())
}

/// Answers a pull from the selected database. `is_running`: by the command itself, and not later when it was blocked;
/// only then replicas can be told of the number that owed tombstones get.
pub fn answer_pull(context: &Context, pull: &Pull, is_running: bool) -> Result<()> {
    let number = selected(context);
    let wanted: Vec<Wanted> = engine::with_database(number, |database| {
        let mut aside_bytes = 0;
        let fits = |(_, waiting): &(&str, &Waiting)| {
            let had = aside_bytes;
            aside_bytes += waiting.aside.iter().map(|revision| revision.len()).sum::<usize>();
            had <= pull.bytes_max
        };
        let after = database.pending.after(&pull.link, pull.after).take(pull.items_max).take_while(fits);
        after.map(|(id, waiting)| Wanted::of(id, waiting)).collect()
    })?;
    let reply = Reply::new(context);
    reply.open_array();
    let (mut count, mut bytes) = (0, 0);
    for wanted in wanted {
        if bytes > pull.bytes_max {
            break;
        }
        let current = if wanted.is_written { current_revision(context, &wanted.id)? } else { None };
        let is_still = |waiting: &Waiting| waiting.seq == wanted.seq;
        if engine::with_database(number, |database| !database.pending.get(&wanted.id).is_some_and(is_still))?
        {
            // It has expired at this look, and what is left of it waits under another number.
            continue;
        }
        let is_unread = wanted.is_written && current.is_none();
        if is_unread && engine::with_database(number, |database| database.is_in_limbo(&wanted.id))? {
            engine::with_database(number, |database| database.pending.pass_over(&pull.link, wanted.seq))?;
            continue;
        }
        for revision in wanted.aside.iter().map(AsRef::as_ref).chain(current.as_deref()) {
            bytes += revision.len();
            reply_entry(reply, wanted.seq, &wanted.id, Some(revision));
            count += 1;
        }
        // Where nothing is here any more, for whatever reason, Postgres says what it has.
        let is_lost = wanted.is_written && wanted.aside.is_empty() && current.is_none();
        if wanted.is_dropped || wanted.id == EVERYTHING || is_lost {
            reply_entry(reply, wanted.seq, &wanted.id, None);
            count += 1;
        }
    }
    if is_running {
        count += reply_tombstones(context, pull, (pull.items_max.saturating_sub(count), bytes))?;
    }
    reply.end_array(count);
    Ok(())
}

/// Adds to a pull what is owed of the tombstones from before the link was attached, under one number.
fn reply_tombstones(context: &Context, pull: &Pull, (room, mut bytes): (usize, usize)) -> Result<usize> {
    let page = engine::with_database(selected(context), |database| {
        let link = database.pending.link(&pull.link)?;
        let mut after = link.tombstones_after.as_deref().filter(|_| room > 0)?;
        if let Some(page) = link.tombstone_page.as_ref().filter(|page| page.seq <= pull.after) {
            // Those are taken, and will be acknowledged.
            after = &page.last;
        }
        let start = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        let (mut page, mut is_end) = (Vec::new(), true);
        let all = database.tombstones.range::<str, _>((start, Bound::Unbounded));
        for (id, tombstone) in all.filter(|(id, _)| takes(&link.scope, id)) {
            if page.len() >= room || bytes > pull.bytes_max {
                is_end = false;
                break;
            }
            let encoded = encode(tombstone);
            bytes += encoded.len();
            page.push((id.clone(), encoded));
        }
        let Some((last, _)) = page.last() else {
            // None is left, but for a page that was not acknowledged yet.
            database.pending.tombstones_done(&pull.link);
            return None;
        };
        let last = last.clone();
        let seq = database.pending.take_number();
        let under_way = TombstonePage { seq, last: last.clone(), is_end };
        database.pending.tombstones_under_way(&pull.link, under_way);
        Some((seq, page, last, is_end))
    })?;
    let Some((seq, page, last, is_end)) = page else { return Ok(0) };
    for (id, encoded) in &page {
        reply_entry(Reply::new(context), seq, id, Some(encoded));
    }
    let is_end = if is_end { "1" } else { "0" };
    context.replicate("TANDEM.EFFECT", &["TOMBSTONES", &pull.link, &seq.to_string(), &last, is_end]);
    Ok(page.len())
}

fn reply_entry(reply: Reply, seq: u64, id: &str, revision: Option<&[u8]>) {
    reply.array(3);
    reply.integer(seq);
    reply.bulk(id);
    reply.bulk_or_null(revision);
}

/// The live revision or tombstone of an id, encoded. A copy that has expired is gone afterwards.
pub(super) fn current_revision(context: &Context, id: &str) -> Result<Option<Vec<u8>>> {
    let shared = |item: &Item| (!item.local()).then(|| encode(&item.revision));
    if let Ok(Some(Some(encoded))) = keys::with_item(context, id, Look::Unnoticed, shared) {
        return Ok(Some(encoded));
    }
    engine::with_database(selected(context), |database| database.tombstones.get(id).map(encode))
}

pub(super) fn acknowledge(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let taken = Acknowledgement::parse(&words(args)?)?;
    let database = selected(context);
    check_link(database, &taken.link, &taken.run)?;
    let (forgotten, open) = engine::with_database(database, |database| {
        let forgotten = database.acknowledge(&taken);
        // What was passed over here is open too, which a replica does not know.
        let link = database.pending.link(&taken.link);
        (forgotten, link.map_or_else(Vec::new, |link| link.open_up_to(taken.seq)))
    })?;
    let effect = Acknowledgement { except: open, ..taken }.words();
    context.replicate("TANDEM.EFFECT", effect.iter().map(String::as_str).collect::<Vec<_>>().as_slice());
    blocked::wake(database);
    blocked::wake_readers(database);
    Ok(RedisValue::Integer(i64::try_from(forgotten).unwrap_or(i64::MAX)))
}
