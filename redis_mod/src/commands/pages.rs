//! Prefixes: TANDEM.SCAN, COUNT, REMOVEPREFIX.

use crate::acl::{self, Caller};
use crate::args::{Args, bulk, page};
use crate::engine;
use crate::item::Item;
use crate::keys::{self, Look};
use crate::reply::Reply;
use crate::store::{self, Asked, Ttl, digest_key, selected};
use redis_module::{Context, RedisString, RedisValue};
use tandem_shared::request::{Operation, RemoveRequest};
use tandem_shared::{Range, Result};

/// Items removed by one step of a bulk removal: bounds the memory that deciding all before the first write takes.
const REMOVAL_STEP: usize = 10_000;

/// Replies with a page of items that the caller may read, `one` for each. A copy that has expired is left out, and the
/// page goes on behind it: a page is empty only at the end.
pub fn reply_page(
    context: &Context,
    caller: &Caller,
    (mut range, limit): (Range, usize),
    state: Option<&str>,
    one: impl Fn(Reply, &str, &Item),
) -> Result<()> {
    let reply = Reply::new(context);
    let mut ids = readable(context, caller, &range, state, limit)?;
    reply.open_array();
    let mut count = 0;
    while let Some(last) = ids.last() {
        range = range.after(last);
        for id in &ids {
            let found = keys::with_item(context, id, Look::Unnoticed, |item| one(reply, id, item));
            count += usize::from(matches!(found, Ok(Some(()))));
        }
        // What comes behind cannot fail where the first page did not.
        ids = match limit - count {
            0 => Vec::new(),
            left => readable(context, caller, &range, state, left).unwrap_or_default(),
        };
    }
    reply.end_array(count);
    Ok(())
}

/// The same with the record of each item.
pub fn reply_items(
    context: &Context,
    caller: &Caller,
    page: (Range, usize),
    state: Option<&str>,
) -> Result<()> {
    let key = digest_key()?;
    reply_page(context, caller, page, state, |reply, id, item| reply.item(&key, id, item))
}

/// Ids looked at together for one who may not read all.
const LOOK_STEP: usize = 1000;

/// The next ids of a range, of one state if one is named, that the caller may read.
fn readable(
    context: &Context,
    caller: &Caller,
    range: &Range,
    state: Option<&str>,
    limit: usize,
) -> Result<Vec<String>> {
    let database = selected(context);
    let page =
        |range: &Range, limit| engine::with_database(database, |database| database.page(range, state, limit));
    if caller.is_trusted() {
        return page(range, limit);
    }
    let (mut readable, mut range) = (Vec::new(), range.clone());
    loop {
        let ids = page(&range, LOOK_STEP)?;
        let Some(last) = ids.last() else { return Ok(readable) };
        range = range.after(last);
        for id in ids {
            if caller.may_read(&keys::name(context, &id)) {
                readable.push(id);
                if readable.len() == limit {
                    return Ok(readable);
                }
            }
        }
    }
}

/// Whether the caller may write all of the ids that [`remove_range`] would remove.
pub fn may_remove(
    context: &Context,
    caller: &Caller,
    range: &Range,
    state: Option<&str>,
    limit: usize,
) -> Result<bool> {
    if caller.is_trusted() {
        return Ok(true);
    }
    let database = selected(context);
    let (mut seen, mut range) = (0, range.clone());
    while seen < limit {
        let step = REMOVAL_STEP.min(limit - seen);
        let ids = engine::with_database(database, |database| database.page_to_remove(&range, state, step))?;
        let Some(last) = ids.last() else { break };
        range = range.after(last);
        seen += ids.len();
        if !ids.iter().all(|id| caller.may_write(&keys::name(context, id))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the ids of a range, of one state if one is named, in byte order. Returns how many.
pub fn remove_range(
    context: &Context,
    range: Range,
    state: Option<&str>,
    limit: usize,
    request: &RemoveRequest,
) -> Result<i64> {
    let database = selected(context);
    let (mut removed, mut range) = (0, range);
    while removed < limit {
        let step = REMOVAL_STEP.min(limit - removed);
        let ids = engine::with_database(database, |database| database.page_to_remove(&range, state, step))?;
        let Some(last) = ids.last() else { break };
        range = range.after(last);
        let names: Vec<RedisString> = ids.iter().map(|id| keys::name(context, id)).collect();
        let asked = ids.iter().zip(&names).map(|(id, name)| Asked {
            id,
            name,
            operation: Operation::Remove(request.clone()),
            ttl: Ttl::Keep,
        });
        let answers = store::write_all(context, asked.collect())?;
        removed += answers.iter().filter(|answer| answer.changed).count();
    }
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

/// TANDEM.SCAN
pub fn scan(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.SCAN prefix [AFTER id] [LIMIT n]";
    let mut args = Args::new(&args, USAGE);
    let mut range = Range::of_prefix(args.text("prefix")?)?;
    let (after, limit) = page(&mut args, USAGE)?;
    if let Some(after) = after {
        range = range.after(after);
    }
    let caller = Caller::of(context, &["TANDEM.SCAN"]).unless_reads_all(context);
    reply_items(context, &caller, (range, limit), None)?;
    Ok(RedisValue::NoReply)
}

/// TANDEM.COUNT
pub fn count(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.COUNT [prefix]");
    let prefix = if args.left() > 0 { args.text("prefix")? } else { "" };
    args.end()?;
    let range = Range::of_prefix(prefix)?;
    let count = engine::with_database(selected(context), |database| {
        database.index.fingerprint(&range).count() + database.locals.fingerprint(&range).count()
    })?;
    Ok(RedisValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// TANDEM.REMOVEPREFIX
pub fn remove_prefix(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.REMOVEPREFIX prefix [LIMIT n] [AUDIT json]";
    let mut args = Args::new(&args, USAGE);
    let range = Range::of_prefix(args.text("prefix")?)?;
    let (limit, request) = bulk(&mut args, USAGE)?;
    let caller = Caller::of(context, &["TANDEM.REMOVEPREFIX"]).unless_writes_all(context);
    if !may_remove(context, &caller, &range, None, limit)? {
        return Ok(acl::refuse(context));
    }
    Ok(RedisValue::Integer(remove_range(context, range, None, limit, &request)?))
}
