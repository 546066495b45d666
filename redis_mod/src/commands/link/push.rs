//! What the link brings.

use super::{check_attached, link_name};
use crate::args::{Args, unknown_option};
use crate::engine;
use crate::reply::Reply;
use crate::store::{self, Writer, selected};
use redis_module::{CallOptionsBuilder, CallResult, Context, ContextFlags, RedisString, RedisValue};
use tandem_shared::codec::{Source, decode};
use tandem_shared::decide::Applied;
use tandem_shared::id::utf8;
use tandem_shared::{Error, Result};

pub(super) fn push(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let mut pairs = Vec::new();
    while args.left() > 0 {
        let id = args.bytes()?;
        pairs.push((id, args.bytes()?));
    }
    if context.get_flags().contains(ContextFlags::CLUSTER) {
        return Err(Error::invalid(
            "TANDEM.LINK PUSH",
            "has no keys by which a cluster could tell whose they are",
            "send TANDEM.JOIN (the worker does so where its user may ask CLUSTER SHARDS)",
        ));
    }
    check_attached(selected(context), name)?;
    // Asked once: the pushes of one command are bounded by its sender, and evictions wait until it is over.
    let is_full = is_full(context);
    let reply = Reply::new(context);
    reply.array(pairs.len());
    for (id, encoded) in pairs {
        let applied = (|| {
            let id = utf8("id", id)?;
            take(context, id, encoded, is_full, Writer::Link(name))
        })();
        match applied {
            Ok(applied) => reply.bulk(applied.outcome.as_str()),
            Err(error) => reply.error(&error),
        }
    }
    Ok(RedisValue::NoReply)
}

/// Joins an encoded revision that somebody else brings.
pub fn take(
    context: &Context,
    id: &str,
    encoded: &[u8],
    is_full: bool,
    writer: Writer<'_>,
) -> Result<Applied> {
    tandem_shared::id::check_id(id)?;
    let revision = decode(encoded, Source::Foreign)?;
    if is_full && !revision.head().is_tombstone() {
        check_room(selected(context), id)?;
    }
    store::apply(context, id, revision, writer)
}

/// TANDEM.JOIN: one pair of a PUSH as a command with a key, which a cluster redirects; without a link, all are told.
pub fn join(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.JOIN id revision [LINK name]";
    let mut args = Args::new(&args, USAGE);
    let (id, _) = args.id()?;
    let encoded = args.bytes()?;
    let writer = match args.left() {
        0 => Writer::Peer,
        _ => match args.text("option")?.to_ascii_uppercase().as_str() {
            "LINK" => Writer::Link(link_name(&mut args)?),
            other => return Err(unknown_option(other, USAGE)),
        },
    };
    args.end()?;
    if let Writer::Link(name) = writer {
        check_attached(selected(context), name)?;
    }
    let is_full = is_full(context);
    let applied = take(context, id, encoded, is_full, writer)?;
    Ok(RedisValue::SimpleStringStatic(applied.outcome.as_str()))
}

/// Beyond `maxmemory` nothing new is taken. What waits here for a link is: its copy is kept aside as long as the link
/// has not brought it back, so to refuse it would keep the memory full for ever.
fn check_room(database: i32, id: &str) -> Result<()> {
    let waits = engine::with_database(database, |database| database.pending.get(id).is_some())?;
    if waits { Ok(()) } else { Err(no_room()) }
}

/// Whether Redis would refuse a write for want of memory. More than `maxmemory` in use is not enough: where keys may
/// be evicted, they are before the next command.
pub fn is_full(context: &Context) -> bool {
    if !context.get_flags().contains(ContextFlags::OOM) {
        return false;
    }
    // Redis tells only who asks to write. This call is refused either way, for having no arguments if not for that.
    let options = CallOptionsBuilder::new().verify_oom().errors_as_replies().build();
    let none: &[&[u8]] = &[];
    match context.call_ext::<_, CallResult<'_>>("TANDEM.BATCH", &options, none) {
        Ok(_) => false,
        Err(refused) => refused.to_utf8_string().is_some_and(|text| text.starts_with("OOM")),
    }
}

/// Memory is full.
pub fn no_room() -> Error {
    // SAFETY: the table of functions is filled when the module is loaded.
    let ratio = unsafe { redis_module::raw::RedisModule_GetUsedMemoryRatio.map_or(1.0, |ratio| ratio()) };
    let what = "memory in use (per cent of maxmemory)";
    Error::Backpressure { what, actual: (ratio * 100.0).ceil() as usize, limit: 100 }
}
