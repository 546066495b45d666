//! What a comparison of the two sides asks for.

use super::pull::current_revision;
use crate::args::Args;
use crate::engine;
use crate::keys::{self, Look};
use crate::moved;
use crate::reply::Reply;
use crate::store::{self, selected};
use redis_module::{Context, RedisValue};
use tandem_shared::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
use tandem_shared::{Fingerprint, Range, Result};

/// Pairs of bounds; an empty end means no end.
fn ranges(args: &mut Args<'_>) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    while args.left() > 0 {
        let start = args.text("start")?.to_owned();
        let end = args.text("end")?;
        ranges.push(Range::new(start, Some(end).filter(|end| !end.is_empty()).map(str::to_owned)));
    }
    Ok(ranges)
}

fn reply_sum(reply: Reply, sum: &Fingerprint) {
    reply.integer(sum.count());
    reply.bulk(sum.sum());
}

pub(super) fn fingerprint(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let ranges = ranges(args)?;
    moved::forget_ghosts(context)?;
    let sums = engine::with_database(selected(context), |database| {
        ranges.iter().map(|range| database.compared().fingerprint(range)).collect::<Vec<_>>()
    })?;
    let reply = Reply::new(context);
    reply.array(sums.len());
    for sum in sums {
        reply.array(2);
        reply_sum(reply, &sum);
    }
    Ok(RedisValue::NoReply)
}

pub(super) fn split(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    const PARTS_MAX: u64 = 1024;
    let parts = args.unsigned("parts")?.clamp(1, PARTS_MAX) as usize;
    let ranges = ranges(args)?;
    moved::forget_ghosts(context)?;
    let cut = engine::with_database(selected(context), |database| {
        ranges.iter().map(|range| database.compared().split(range, parts)).collect::<Vec<_>>()
    })?;
    let reply = Reply::new(context);
    reply.array(cut.len());
    for parts in cut {
        reply.array(parts.len() * 4);
        for part in parts {
            reply.bulk(&part.range.start);
            reply.bulk(part.range.end.as_deref().unwrap_or_default());
            reply_sum(reply, &part.fingerprint);
        }
    }
    Ok(RedisValue::NoReply)
}

pub(super) fn list_range(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let limit = args.unsigned("limit")?.clamp(1, PAGE_ITEMS_MAX as u64) as usize;
    let ranges = ranges(args)?;
    moved::forget_ghosts(context)?;
    let reply = Reply::new(context);
    reply.array(ranges.len());
    for range in ranges {
        let entries =
            engine::with_database(selected(context), |database| database.compared().page(&range, limit))?;
        reply.array(entries.len() * 3);
        for (id, digest) in entries {
            let version = keys::with_item(context, &id, Look::Still, |item| item.revision.version.get());
            reply.bulk(&id);
            reply.integer(version.ok().flatten().unwrap_or(0));
            reply.bulk(digest.0);
        }
    }
    Ok(RedisValue::NoReply)
}

pub(super) fn fetch(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while args.left() > 0 && bytes < PAGE_BYTES_MAX {
        let id = args.text("id")?;
        let revision = current_revision(context, id)?;
        if revision.is_none() {
            store::doubt(context, id)?;
        }
        bytes += revision.as_ref().map_or(0, Vec::len);
        found.push(revision);
    }
    let reply = Reply::new(context);
    reply.array(found.len());
    for revision in found {
        reply.bulk_or_null(revision);
    }
    Ok(RedisValue::NoReply)
}
