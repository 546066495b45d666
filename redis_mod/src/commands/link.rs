//! TANDEM.LINK: the half of a link that runs here. Postgres dials; these are the commands of its worker.

use crate::acl::{self, Caller};
use crate::args::{Args, unknown_option};
use crate::blocked::{self, Awaited};
use crate::commands::fill;
use crate::datatype::key_check;
use crate::engine::{self, Database, Engine};
use crate::item::Item;
use crate::keys;
use crate::moved;
use crate::pending::{EVERYTHING, TombstonePage, Waiting, takes};
use crate::reading::Reading;
use crate::reply::Reply;
use crate::store::{self, Writer, selected};
use redis_module::key::KeyFlags;
use redis_module::{CallOptionsBuilder, CallResult, Context, ContextFlags, RedisString, RedisValue};
use std::ops::Bound;
use std::time::Instant;
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::decide::Applied;
use tandem_shared::error::shown;
use tandem_shared::id::utf8;
use tandem_shared::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_MAX};
use tandem_shared::link::{Acknowledgement, Attachment, PROTOCOL, check_name};
use tandem_shared::owner::Owner;
use tandem_shared::{Error, Fingerprint, Range, Result};

const USAGE: &str = "TANDEM.LINK ATTACH|READY|DETACH|PULL|ACK|PUSH|WANTED|FILL|HOLDS|FILTER|FINGERPRINT|SPLIT|LISTRANGE|\
     FETCH|PENDING|WAITS|LIST|HASKEY …";
/// Copies that were passed over and are looked at once more in a pull.
const LOOKS_MAX: usize = 1000;
/// Longest time a pull blocks.
const BLOCK_MS_MAX: u64 = 60_000;

/// TANDEM.LINK
pub fn link(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, USAGE);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    // A link reads and writes what it likes, and its books are about every id.
    if !Caller::of(context, &["TANDEM.LINK"]).may_everything(context) {
        return Ok(acl::refuse(context));
    }
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
    check_name(name)?;
    Ok(name)
}

/// The arguments that are left, as text.
pub fn words<'a>(args: &mut Args<'a>) -> Result<Vec<&'a str>> {
    let mut words = Vec::with_capacity(args.left());
    while args.left() > 0 {
        words.push(args.text("argument")?);
    }
    Ok(words)
}

fn attach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let Attachment { link: name, key_check: check, retention, owner, scope, is_check } =
        Attachment::parse(&words(args)?)?;
    if check != key_check()? {
        return Err(Error::NoLink {
            what: format!("link {}", shown(&name)),
            problem: "the digest secrets of the two sides differ".to_owned(),
            remedy: "set tandem.digest-secret in Redis and what tandem.digest_secret_file names in Postgres to one value"
                .to_owned(),
        });
    }
    let (is_fresh, is_new_owner, seq) = engine::with_database(selected(context), |database| {
        check_takes_over(database, &name, &owner)?;
        database.peers.insert(name.as_str().into(), retention);
        let is_new_owner = database.owners.get(name.as_str()) != Some(&owner);
        let is_fresh = database.attach(&name, &scope, Some(&owner));
        if let Some(reading) = database.readings.get_mut(name.as_str()).filter(|_| !is_check) {
            // The reader follows its session, and what was missed meanwhile is not in its filter.
            reading.drop_filter();
            reading.heard(Instant::now());
        }
        Ok::<_, Error>((is_fresh, is_new_owner, database.pending.last_seq()))
    })??;
    if is_fresh || is_new_owner {
        let owner = owner.words();
        let mut effect = vec!["ATTACH", name.as_str()];
        effect.extend(scope.words());
        effect.extend(owner.iter().map(String::as_str));
        context.replicate("TANDEM.EFFECT", effect.as_slice());
    }
    let run = engine::with(|engine| run_of(engine, selected(context), &name))?;
    let reply = Reply::new(context);
    reply.map(4);
    reply.bulk("protocol");
    reply.integer(PROTOCOL);
    reply.bulk("run");
    reply.bulk(run);
    reply.bulk("fresh");
    reply.integer(u64::from(is_fresh));
    reply.bulk("seq");
    reply.integer(seq);
    Ok(RedisValue::NoReply)
}

/// The database that a worker speaks for.
fn owner(args: &mut Args<'_>) -> Result<Owner> {
    Owner::parse([args.text("cluster")?, args.text("timeline")?, args.text("database")?])
}

/// Refuses what is said for a link that is not attached, or by a server that does not have it.
pub fn check_owner(database: i32, name: &str, args: &mut Args<'_>) -> Result<()> {
    let owner = owner(args)?;
    check_attached(database, name)?;
    let is_its_own = engine::with_database(database, |database| {
        database.owners.get(name).is_none_or(|present| *present == owner)
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

/// Checks that a link may be another one's from now on. Errors: `NOLINK` for who was replaced by the one that has it,
/// and for another database beside that one.
fn check_takes_over(database: &Database, name: &str, owner: &Owner) -> Result<()> {
    let Some(present) = database.owners.get(name) else { return Ok(()) };
    let refused = |problem: String, remedy: &str| {
        let (what, remedy) = (format!("link {}", shown(name)), remedy.to_owned());
        Err(Error::NoLink { what, problem, remedy })
    };
    if owner.is_replaced_by(present) {
        let problem = format!(
            "belongs to a server that was promoted in the place of this one (timeline {}, this one writes {})",
            present.timeline, owner.timeline
        );
        return refused(problem, "stop this server, or make it a standby of that one");
    }
    if owner.is_beside(present) {
        let problem = format!(
            "belongs to another database of the same cluster (oid {}, this one has {})",
            present.database, owner.database
        );
        return refused(
            problem,
            "unlink it in one of the two and link it under another name; if the other database is gone, \
             TANDEM.LINK DETACH with the link's name frees it in Redis",
        );
    }
    Ok(())
}

fn run_of(engine: &Engine, database: i32, name: &str) -> String {
    let database = engine.databases.get(&database);
    database.map_or_else(|| engine.run.clone(), |database| database.run_of(&engine.run, name))
}

fn detach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let owner = if args.left() > 0 { Some(owner(args)?) } else { None };
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

fn check_link(database: i32, name: &str, run: &str) -> Result<()> {
    let (same_run, known) = engine::with(|engine| {
        let known =
            engine.databases.get(&database).is_some_and(|database| database.pending.link(name).is_some());
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

/// Looks once more at what was passed over. Where Redis may delete what has expired it does so at this look, and what is
/// kept of that waits under another number; the rest gets one here, unless it is as it was.
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
fn current_revision(context: &Context, id: &str) -> Result<Option<Vec<u8>>> {
    let shared = |item: &Item| (!item.local()).then(|| encode(&item.revision));
    if let Ok(Some(Some(encoded))) = keys::with_item(context, id, KeyFlags::NOTOUCH, shared) {
        return Ok(Some(encoded));
    }
    engine::with_database(selected(context), |database| database.tombstones.get(id).map(encode))
}

fn acknowledge(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
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
    if engine::with_database(database, |database| database.pending.link(name).is_some())? {
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

fn split(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
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

fn list_range(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
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

fn pending(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let reply = Reply::new(context);
    let database = selected(context);
    if args.left() == 0 {
        let count = engine::with_database(database, |database| {
            let owed = database.pending.links().map(|(_, link)| database.owed_tombstones(link)).max();
            database.pending.len() + owed.unwrap_or(0)
        })?;
        reply.integer(count as u64);
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
        waits.push(engine::with_database(selected(context), |database| database.waits(name, id))?);
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
    let reply = Reply::new(context);
    engine::with_database(selected(context), |database| {
        reply.array(database.pending.links().count());
        for (name, link) in database.pending.links() {
            let reading = database.readings.get(name);
            reply.map(10);
            reply.bulk("name");
            reply.bulk(name);
            reply.bulk("acked");
            reply.integer(link.acked);
            reply.bulk("pending");
            reply.integer((link.len() + database.owed_tombstones(link)) as u64);
            for (name, word) in ["prefix", "mode", "direction"].iter().zip(link.scope.words()) {
                reply.bulk(name);
                reply.bulk(word);
            }
            reply.bulk("compared");
            reply.integer(u64::from(link.is_compared));
            reply.bulk("refused");
            reply.integer(link.refused.len() as u64);
            reply.bulk("fetching");
            reply.integer(reading.map_or(0, Reading::wanted) as u64);
            reply.bulk("filter");
            reply.bulk(reading.map_or("none", |reading| reading.filter().0));
        }
    })?;
    Ok(RedisValue::NoReply)
}
