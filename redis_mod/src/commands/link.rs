//! TANDEM.LINK: the half of a link that runs here. Postgres dials; these are the commands of its worker.

use crate::args::{Args, unknown_option};
use crate::blocked::{self, Awaited};
use crate::commands::fill;
use crate::datatype::key_check;
use crate::engine::{self, Database, Engine};
use crate::item::Item;
use crate::keys;
use crate::pending::{EVERYTHING, Waiting};
use crate::reading::{Mode, Reading};
use crate::reply::Reply;
use crate::store::{self, Writer, selected};
use redis_module::{CallOptionsBuilder, CallResult, Context, ContextFlags, RedisString, RedisValue};
use std::time::Instant;
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::decide::{Applied, Retention};
use tandem_shared::error::shown;
use tandem_shared::id::utf8;
use tandem_shared::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX, STATE_BYTES_MAX};
use tandem_shared::owner::Owner;
use tandem_shared::{Error, Fingerprint, Range, Result};

const USAGE: &str = "TANDEM.LINK ATTACH|READY|DETACH|PULL|ACK|PUSH|WANTED|FILL|HOLDS|FILTER|FINGERPRINT|SPLIT|LISTRANGE|FETCH|\
     PENDING|WAITS|LIST|HASKEY …";
/// Version of these commands.
const PROTOCOL: u64 = 1;
/// Longest time a pull blocks.
const BLOCK_MS_MAX: u64 = 60_000;

/// TANDEM.LINK
pub fn link(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, USAGE);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    match verb.as_str() {
        "ATTACH" => attach(context, &mut args),
        "READY" => fill::ready(context, &mut args),
        "WANTED" => fill::wanted(context, &mut args),
        "FILL" => fill::fill(context, &mut args),
        "HOLDS" => fill::holds(context, &mut args),
        "FILTER" => fill::filter(context, &mut args),
        "DETACH" => detach(context, &mut args),
        "PULL" => pull(context, &mut args),
        "ACK" => acknowledge(context, &mut args),
        "PUSH" => push(context, &mut args),
        "FINGERPRINT" => fingerprint(context, &mut args),
        "SPLIT" => split(context, &mut args),
        "LISTRANGE" => list_range(context, &mut args),
        "FETCH" => fetch(context, &mut args),
        "PENDING" => pending(context, &mut args),
        "WAITS" => waits(context, &mut args),
        "LIST" => list(context, &args),
        "HASKEY" => has_key(&mut args),
        other => Err(unknown_option(other, USAGE)),
    }
}

/// The name of a link.
pub fn link_name<'a>(args: &mut Args<'a>) -> Result<&'a str> {
    let name = args.text("link")?;
    if name.is_empty() || name.len() > STATE_BYTES_MAX {
        return Err(Error::invalid(
            format!("link {}", shown(name)),
            format!("has {} bytes", name.len()),
            format!("give 1 to {STATE_BYTES_MAX}"),
        ));
    }
    Ok(name)
}

fn attach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let check = args.text("key check")?;
    let retention = if args.left() > 0 { Some(Retention::of_ms(args.unsigned("retention")?)) } else { None };
    let owner = owner(args)?;
    // A link that does not write here is no source for readers: its mode is none.
    let source = if args.left() > 0 { Some((args.text("mode")?, args.text("prefix")?)) } else { None };
    if let Some((mode, _)) = source {
        Mode::parse(mode)?;
    }
    args.end()?;
    if check != key_check()? {
        return Err(Error::NoLink {
            what: format!("link {}", shown(name)),
            problem: "the digest secrets of the two sides differ".to_owned(),
            remedy: "set tandem.digest-secret in Redis and tandem.digest_secret in Postgres to one value"
                .to_owned(),
        });
    }
    let (fresh, changed, seq) = engine::with_database(selected(context), |database| {
        take_over(database, name, owner)?;
        if let Some(retention) = retention {
            database.peers.insert(name.into(), retention);
        }
        let fresh = database.attach(name);
        let changed = source.map(|(mode, prefix)| database.read_from(name, mode, prefix)).transpose();
        // The reader follows its session.
        if let Some(reading) = database.readings.get_mut(name) {
            reading.heard(Instant::now());
        }
        changed.map(|changed| (fresh, changed == Some(true), database.pending.last_seq()))
    })??;
    if fresh || changed {
        let mut effect = vec!["ATTACH", name];
        effect.extend(source.iter().flat_map(|(mode, prefix)| [*mode, *prefix]));
        context.replicate("TANDEM.EFFECT", effect.as_slice());
    }
    let run = engine::with(|engine| run_of(engine, selected(context), name))?;
    let reply = Reply::new(context);
    reply.map(4);
    reply.bulk("protocol");
    reply.integer(PROTOCOL);
    reply.bulk("run");
    reply.bulk(run);
    reply.bulk("fresh");
    reply.integer(u64::from(fresh));
    reply.bulk("seq");
    reply.integer(seq);
    Ok(RedisValue::NoReply)
}

/// The Postgres that a link's worker speaks for; none from a client that does not say.
fn owner(args: &mut Args<'_>) -> Result<Option<Owner>> {
    if args.left() == 0 { Ok(None) } else { server(args).map(Some) }
}

/// The Postgres that a worker speaks for.
fn server(args: &mut Args<'_>) -> Result<Owner> {
    let cluster = args.text("cluster")?.into();
    Ok(Owner { cluster, timeline: args.unsigned("timeline")? })
}

/// Refuses what is said for a link that is not attached, or by a server that does not have it.
pub fn check_owner(database: i32, name: &str, args: &mut Args<'_>) -> Result<()> {
    let server = server(args)?;
    check_attached(database, name)?;
    let is_its_own = engine::with_database(database, |database| {
        database.owners.get(name).is_none_or(|present| *present == server)
    })?;
    if is_its_own {
        return Ok(());
    }
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: "belongs to another server".to_owned(),
        remedy: "attach it first (the worker does so by itself)".to_owned(),
    })
}

/// Notes who has a link from now on. Errors: `NOLINK` where that one was replaced by the one that has it.
fn take_over(database: &mut Database, name: &str, owner: Option<Owner>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    if let Some(present) = database.owners.get(name).filter(|present| owner.is_replaced_by(present)) {
        return Err(Error::NoLink {
            what: format!("link {}", shown(name)),
            problem: format!(
                "belongs to a server that was promoted in the place of this one (timeline {}, this one writes {})",
                present.timeline, owner.timeline
            ),
            remedy: "stop this server, or make it a standby of that one".to_owned(),
        });
    }
    database.owners.insert(name.into(), owner);
    Ok(())
}

fn run_of(engine: &Engine, database: i32, name: &str) -> String {
    let database = engine.databases.get(&database);
    database.map_or_else(|| engine.run.clone(), |database| database.run_of(&engine.run, name))
}

fn detach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let owner = owner(args)?;
    args.end()?;
    let known = engine::with_database(selected(context), |database| {
        // One that is restored from another server's dump, or was replaced, has nothing here to detach.
        let is_anothers =
            owner.is_some_and(|owner| database.owners.get(name).is_some_and(|present| *present != owner));
        !is_anothers && database.detach(name)
    })?;
    if known {
        context.replicate("TANDEM.EFFECT", &["DETACH", name]);
        blocked::wake(selected(context));
        blocked::wake_readers(selected(context));
    }
    Ok(RedisValue::Integer(i64::from(known)))
}

/// A pull as asked for.
pub struct Pull {
    /// Entries after this sequence are wanted.
    pub after: u64,
    items_max: usize,
    bytes_max: usize,
}

fn check_link(database: i32, name: &str, run: &str) -> Result<()> {
    let (same_run, known) = engine::with(|engine| {
        let known = engine.databases.get(&database).is_some_and(|database| database.pending.has_link(name));
        (run_of(engine, database, name) == run, known)
    })?;
    if same_run && known {
        return Ok(());
    }
    let problem = if known {
        "the server was restarted, or another Postgres has attached it"
    } else {
        "it is not attached to this database"
    };
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: problem.to_owned(),
        remedy: "attach it (the worker does so by itself)".to_owned(),
    })
}

fn pull(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    check_link(database, name, args.text("run")?)?;
    let after = args.unsigned("after")?;
    let items_max = args.unsigned("max-items")?.clamp(1, PAGE_ITEMS_MAX as u64) as usize;
    let bytes_max = args.unsigned("max-bytes")?.max(1) as usize;
    let block_ms = args.unsigned("block-ms")?.min(BLOCK_MS_MAX);
    args.end()?;
    let pull = Pull { after, items_max, bytes_max };
    let ready = engine::with_database(database, |database| database.pending.after(after).next().is_some())?;
    if ready || block_ms == 0 || context.get_flags().contains(ContextFlags::DENY_BLOCKING) {
        answer_pull(context, &pull)?;
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
}

/// Answers a pull from the selected database.
pub fn answer_pull(context: &Context, pull: &Pull) -> Result<()> {
    let wanted: Vec<Wanted> = engine::with_database(selected(context), |database| {
        let mut aside_bytes = 0;
        let fits = |(_, waiting): &(u64, &Waiting)| {
            let had = aside_bytes;
            aside_bytes += waiting.aside.iter().map(|revision| revision.len()).sum::<usize>();
            had <= pull.bytes_max
        };
        let after = database.pending.after(pull.after).take(pull.items_max).take_while(fits);
        after
            .map(|(seq, waiting)| Wanted { seq, id: waiting.id.to_string(), aside: waiting.aside.clone() })
            .collect()
    })?;
    let reply = Reply::new(context);
    reply.open_array();
    let (mut count, mut bytes) = (0, 0);
    for wanted in wanted {
        if bytes > pull.bytes_max {
            break;
        }
        for revision in &wanted.aside {
            bytes += revision.len();
            reply_entry(reply, wanted.seq, &wanted.id, Some(revision));
            count += 1;
        }
        let current = if wanted.id == EVERYTHING { None } else { current_revision(context, &wanted.id)? };
        // Nothing here any more, for whatever reason: Postgres says what it has.
        bytes += current.as_ref().map_or(0, Vec::len);
        reply_entry(reply, wanted.seq, &wanted.id, current.as_deref());
        count += 1;
    }
    reply.end_array(count);
    Ok(())
}

fn reply_entry(reply: Reply, seq: u64, id: &str, revision: Option<&[u8]>) {
    reply.array(3);
    reply.integer(seq);
    reply.bulk(id);
    reply.bulk_or_null(revision);
}

/// The live revision or tombstone of an id, encoded.
fn current_revision(context: &Context, id: &str) -> Result<Option<Vec<u8>>> {
    let shared = |item: &Item| (!item.local()).then(|| encode(&item.revision));
    if let Ok(Some(Some(encoded))) = keys::with_item(context, id, keys::look(), shared) {
        return Ok(Some(encoded));
    }
    engine::with_database(selected(context), |database| database.tombstones.get(id).map(encode))
}

fn acknowledge(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let database = selected(context);
    check_link(database, name, args.text("run")?)?;
    let seq = args.unsigned("seq")?;
    args.end()?;
    let forgotten =
        engine::with_database(database, |database| database.pending.acknowledge(name, seq))?.unwrap_or(0);
    context.replicate("TANDEM.EFFECT", &["ACK", name, &seq.to_string()]);
    blocked::wake(database);
    blocked::wake_readers(database);
    Ok(RedisValue::Integer(i64::try_from(forgotten).unwrap_or(i64::MAX)))
}

fn push(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
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

/// Refuses what a link says that is not attached.
pub fn check_attached(database: i32, name: &str) -> Result<()> {
    if engine::with_database(database, |database| database.pending.has_link(name))? {
        return Ok(());
    }
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: "it is not attached to this database".to_owned(),
        remedy: "attach it first".to_owned(),
    })
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

/// Whether digests are made with the secret of this check value, without attaching anything.
fn has_key(args: &mut Args<'_>) -> Result<RedisValue> {
    let check = args.text("key check")?;
    args.end()?;
    Ok(RedisValue::Integer(i64::from(check == key_check()?)))
}

/// Beyond `maxmemory` nothing new is taken. What waits here for a link is: its copy is kept aside as long as the link
/// has not brought it back, so to refuse it would keep the memory full for ever.
fn check_room(database: i32, id: &str) -> Result<()> {
    let waits = engine::with_database(database, |database| database.pending.get(id).is_some())?;
    if waits { Ok(()) } else { Err(no_room()) }
}

/// Whether Redis would refuse a write for want of memory. More than `maxmemory` in use is not enough: where keys may be
/// evicted, they are before the next command.
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

fn fingerprint(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let ranges = ranges(args)?;
    let sums = engine::with_database(selected(context), |database| {
        ranges.iter().map(|range| database.index.fingerprint(range)).collect::<Vec<_>>()
    })?;
    let reply = Reply::new(context);
    reply.array(sums.len());
    for sum in sums {
        reply.array(2);
        reply_sum(reply, &sum);
    }
    Ok(RedisValue::NoReply)
}

fn split(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    const PARTS_MAX: u64 = 1024;
    let parts = args.unsigned("parts")?.clamp(1, PARTS_MAX) as usize;
    let ranges = ranges(args)?;
    let cut = engine::with_database(selected(context), |database| {
        ranges.iter().map(|range| database.index.split(range, parts)).collect::<Vec<_>>()
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

fn list_range(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let limit = args.unsigned("limit")?.clamp(1, PAGE_ITEMS_MAX as u64) as usize;
    let ranges = ranges(args)?;
    let reply = Reply::new(context);
    reply.array(ranges.len());
    for range in ranges {
        let entries = engine::with_database(selected(context), |database| {
            let page = database.index.page(&range, limit);
            page.map(|(id, digest)| (id.to_owned(), digest)).collect::<Vec<_>>()
        })?;
        reply.array(entries.len() * 3);
        for (id, digest) in entries {
            let version = keys::with_item(context, &id, keys::look(), |item| item.revision.version.get());
            reply.bulk(&id);
            reply.integer(version.ok().flatten().unwrap_or(0));
            reply.bulk(digest.0);
        }
    }
    Ok(RedisValue::NoReply)
}

fn fetch(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while args.left() > 0 && bytes < PAGE_BYTES_MAX {
        let revision = current_revision(context, args.text("id")?)?;
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

fn pending(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let reply = Reply::new(context);
    let database = selected(context);
    if args.left() == 0 {
        reply.integer(engine::with_database(database, |database| database.pending.len() as u64)?);
        return Ok(RedisValue::NoReply);
    }
    let mut waits = Vec::new();
    while args.left() > 0 {
        let id = args.text("id")?;
        waits.push(engine::with_database(database, |database| database.pending.get(id).is_some())?);
    }
    reply.array(waits.len());
    for waits in waits {
        reply.integer(u64::from(waits));
    }
    Ok(RedisValue::NoReply)
}

/// Which ids wait for one link; none waits for a link that is not attached.
fn waits(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let mut waits = Vec::new();
    while args.left() > 0 {
        let id = args.text("id")?;
        waits.push(engine::with_database(selected(context), |database| database.pending.waits(name, id))?);
    }
    let reply = Reply::new(context);
    reply.array(waits.len());
    for waits in waits {
        reply.integer(u64::from(waits));
    }
    Ok(RedisValue::NoReply)
}

fn list(context: &Context, args: &Args<'_>) -> Result<RedisValue> {
    args.end()?;
    let links = engine::with_database(selected(context), |database| {
        let pending = &database.pending;
        let of_link = |(name, acked): (&str, u64)| {
            let reading = database.readings.get(name);
            let mode = reading.map(|reading| (reading.mode.as_str(), reading.prefix.clone()));
            let fetching = reading.map_or(0, Reading::wanted);
            let filter = reading.map_or("none", |reading| reading.filter().0);
            (name.to_owned(), acked, pending.after(acked).count(), mode, fetching, filter)
        };
        pending.links().map(of_link).collect::<Vec<_>>()
    })?;
    let reply = Reply::new(context);
    reply.array(links.len());
    for (name, acked, waiting, mode, fetching, filter) in links {
        let (mode, prefix) = mode.unzip();
        reply.map(7);
        reply.bulk("name");
        reply.bulk(name);
        reply.bulk("acked");
        reply.integer(acked);
        reply.bulk("pending");
        reply.integer(waiting as u64);
        reply.bulk("mode");
        reply.bulk_or_null(mode);
        reply.bulk("prefix");
        reply.bulk_or_null(prefix.as_deref().map(str::as_bytes));
        reply.bulk("fetching");
        reply.integer(fetching as u64);
        reply.bulk("filter");
        reply.bulk(filter);
    }
    Ok(RedisValue::NoReply)
}
