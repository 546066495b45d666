//! Single items: TANDEM.PUT, MERGE, GET, MGET, EXISTS, MEXISTS, REMOVE, STATUS, APPLY.

use crate::args::{Args, PUT_USAGE, Takes, unknown_option, write_options};
use crate::engine::{self, Database};
use crate::guard::Handler;
use crate::item::Item;
use crate::keys::{self, Look};
use crate::pending::takes;
use crate::read_through::{self, Need};
use crate::reply::Reply;
use crate::store::{self, Asked, Ttl, Writer, digest_key, now, selected};
use redis_module::{Context, RedisString, RedisValue};
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::content::Bounds;
use tandem_shared::request::{MergeRequest, Operation, Precondition, PutRequest, RemoveRequest};
use tandem_shared::{Result, Version};

/// What a put needs to know of its id.
pub fn need_of(request: &PutRequest) -> Need {
    if request.version.is_none() && request.precondition == Precondition::None {
        Need::Overwrite
    } else {
        Need::Decide
    }
}

fn bounds() -> Result<Bounds> {
    engine::with(|engine| engine.bounds)
}

/// TANDEM.PUT
pub fn put(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut rest = Args::new(&args, PUT_USAGE);
    let (id, name) = rest.id()?;
    let payload = rest.bytes()?;
    let takes = Takes { content_type: true, state: true, ttl: true, condition: true };
    let options = write_options(&mut rest, takes, PUT_USAGE)?;
    let request = PutRequest::parse(payload, &options.put, bounds()?)?;
    if !request.local && read_through::waits(context, (&args, put), [(id, need_of(&request))])? {
        return Ok(RedisValue::NoReply);
    }
    // As after SET, nothing is left of an earlier time to live unless it is asked for.
    let ttl = options.ttl.unwrap_or(Ttl::Clear);
    let answer = store::write(context, Asked { id, name, operation: Operation::Put(request), ttl })?;
    Reply::new(context).answer(&answer);
    Ok(RedisValue::NoReply)
}

/// TANDEM.GETORPUT
pub fn get_or_put(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str =
        "TANDEM.GETORPUT id payload [JSON|BINARY] [STATE s] [EX s|PX ms] [AUDIT json] [LOCAL]";
    let mut rest = Args::new(&args, USAGE);
    let (id, name) = rest.id()?;
    let payload = rest.bytes()?;
    let takes = Takes { content_type: true, state: true, ttl: true, condition: false };
    let options = write_options(&mut rest, takes, USAGE)?;
    let request = PutRequest::parse(payload, &options.put, bounds()?)?;
    if !request.local {
        let offer = || Ok(encode(&request.clone().into_first(now()?)));
        if read_through::waits_for_first(context, (&args, get_or_put), id, offer)? {
            return Ok(RedisValue::NoReply);
        }
    } else if read_through::waits(context, (&args, get_or_put), [(id, Need::Decide)])? {
        return Ok(RedisValue::NoReply);
    }
    let (reply, key) = (Reply::new(context), digest_key()?);
    let answer = |item: &Item| {
        item.touch();
        reply.item(&key, id, item);
    };
    if keys::with_named_item(context, id, name, Look::Access, answer)?.is_some() {
        return Ok(RedisValue::NoReply);
    }
    // Of what has expired here Postgres has said what it has. It stays away all the same.
    let recalled = store::with_recalled(selected(context), id, |item| reply.item(&key, id, item))?;
    if recalled.is_none() {
        let ttl = options.ttl.unwrap_or(Ttl::Clear);
        store::write(context, Asked { id, name, operation: Operation::Put(request), ttl })?;
        keys::with_named_item(context, id, name, Look::Still, |item| reply.item(&key, id, item))?;
    }
    Ok(RedisValue::NoReply)
}

/// TANDEM.MERGE
pub fn merge(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.MERGE id patch [VERSION n] [STATE s] [EX s|PX ms|KEEPTTL] \
                         [IFMATCH etag|IFABSENT] [AUDIT json]";
    let mut rest = Args::new(&args, USAGE);
    let (id, name) = rest.id()?;
    let patch = rest.bytes()?;
    let takes = Takes { content_type: false, state: true, ttl: true, condition: true };
    let options = write_options(&mut rest, takes, USAGE)?;
    let request = MergeRequest::parse(patch, &options.put, bounds()?)?;
    if read_through::waits(context, (&args, merge), [(id, Need::Decide)])? {
        return Ok(RedisValue::NoReply);
    }
    let ttl = options.ttl.unwrap_or(Ttl::Keep);
    let answer = store::write(context, Asked { id, name, operation: Operation::Merge(request), ttl })?;
    Reply::new(context).answer(&answer);
    Ok(RedisValue::NoReply)
}

/// TANDEM.GET
pub fn get(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.GET id [PAYLOAD]";
    let mut rest = Args::new(&args, USAGE);
    let (id, name) = rest.id()?;
    // A record is twenty replies where a cache wants one: PAYLOAD answers with the content alone.
    let payload_only = match rest.option() {
        None => false,
        Some(word) if word == "PAYLOAD" => true,
        Some(word) => return Err(unknown_option(&word, USAGE)),
    };
    rest.end()?;
    let (reply, key) = (Reply::new(context), digest_key()?);
    let found = keys::with_named_item(context, id, name, Look::Access, |item| {
        item.touch();
        match item.revision.content() {
            Some(content) if payload_only => reply.bulk(content.bytes()),
            _ => reply.item(&key, id, item),
        }
    })?;
    if found.is_none() && !read_through::waits(context, (&args, get), [(id, Need::Read)])? {
        reply.null();
    }
    Ok(RedisValue::NoReply)
}

/// The ids among the arguments, all checked before the first is answered.
fn ids<'a>(args: &mut Args<'a>) -> Result<Vec<(&'a str, &'a RedisString)>> {
    let mut ids = vec![args.id()?];
    while args.left() > 0 {
        ids.push(args.id()?);
    }
    Ok(ids)
}

/// TANDEM.MGET
pub fn mget(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let ids = ids(&mut Args::new(&args, "TANDEM.MGET id [id ...]"))?;
    for (id, name) in &ids {
        keys::with_named_item(context, id, name, Look::Still, |_| ())?;
    }
    if read_through::waits(context, (&args, mget), read_through::all(&ids, Need::Read))? {
        return Ok(RedisValue::NoReply);
    }
    let (reply, key) = (Reply::new(context), digest_key()?);
    reply.array(ids.len());
    for (id, name) in ids {
        let found = keys::with_named_item(context, id, name, Look::Access, |item| {
            item.touch();
            reply.item(&key, id, item);
        });
        if !matches!(found, Ok(Some(()))) {
            reply.null();
        }
    }
    Ok(RedisValue::NoReply)
}

/// Which of the ids exist; none is said while the client waits for some.
fn exist(
    context: &Context,
    args: &[RedisString],
    handler: Handler,
    usage: &'static str,
) -> Result<Option<Vec<bool>>> {
    let ids = ids(&mut Args::new(args, usage))?;
    if read_through::waits(context, (args, handler), read_through::all(&ids, Need::Read))? {
        return Ok(None);
    }
    let exists = |(id, name): (&str, &RedisString)| {
        let found = keys::with_named_item(context, id, name, Look::Presence, |_| ())?;
        Ok(found.is_some())
    };
    ids.into_iter().map(exists).collect::<Result<_>>().map(Some)
}

/// TANDEM.EXISTS
pub fn exists(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let found = exist(context, &args, exists, "TANDEM.EXISTS id [id ...]")?;
    Ok(found.map_or(RedisValue::NoReply, |found| RedisValue::Integer(found.into_iter().map(i64::from).sum())))
}

/// TANDEM.MEXISTS
pub fn mexists(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let found = exist(context, &args, mexists, "TANDEM.MEXISTS id [id ...]")?;
    Ok(found.map_or(RedisValue::NoReply, |found| {
        RedisValue::Array(found.into_iter().map(|found| RedisValue::Integer(found.into())).collect())
    }))
}

/// TANDEM.REMOVE
pub fn remove(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.REMOVE id [VERSION n] [IFMATCH etag] [AUDIT json]";
    let mut rest = Args::new(&args, USAGE);
    let (id, name) = rest.id()?;
    let options = write_options(&mut rest, Takes { condition: true, ..Takes::default() }, USAGE)?.put;
    let request = RemoveRequest::parse(options.version, options.if_match, options.audit)?;
    if read_through::waits(context, (&args, remove), [(id, Need::Decide)])? {
        return Ok(RedisValue::NoReply);
    }
    let asked = Asked { id, name, operation: Operation::Remove(request), ttl: Ttl::Keep };
    let answer = store::write(context, asked)?;
    Ok(RedisValue::Integer(answer.changed.into()))
}

/// TANDEM.APPLY
pub fn apply(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.APPLY id revision");
    let (id, _) = args.id()?;
    let revision = decode(args.bytes()?, Source::Foreign)?;
    args.end()?;
    let applied = store::apply(context, id, revision, Writer::Client)?;
    Ok(RedisValue::SimpleStringStatic(applied.outcome.as_str()))
}

/// Where an item stands, as far as this side knows.
struct Standing {
    status: &'static str,
    tiers: &'static str,
    direction: Option<&'static str>,
}

fn standing(database: &Database, id: &str, item: Option<&Item>) -> Standing {
    const TO_POSTGRES: Option<&str> = Some("to_postgres");
    let takers = || database.pending.links().filter(|(_, link)| takes(&link.scope, id));
    let is_on_its_way = || takers().any(|(name, link)| !link.is_compared || database.waits(name, id));
    let waits = database.pending.get(id);
    let is_aside = || waits.is_some_and(|waiting| !waiting.aside.is_empty());
    let is_dropped = || waits.is_some_and(|waiting| waiting.dropped.is_some());
    let (status, tiers, direction) = match item {
        Some(item) if item.local() => ("local", "redis", None),
        Some(_) if takers().next().is_none() => ("unlinked", "redis", None),
        Some(_) if is_on_its_way() => ("pending", "redis", TO_POSTGRES),
        Some(_) if takers().any(|(_, link)| link.refused.contains_key(id)) => ("refused", "redis", None),
        Some(_) => ("synced", "both", None),
        None if database.tombstones.contains_key(id) => {
            ("removed", "none", TO_POSTGRES.filter(|_| waits.is_some()))
        }
        None if is_aside() => ("pending", "redis", TO_POSTGRES),
        None if database.ghosts.get(id).is_some() => ("expired", "postgres", None),
        None if is_dropped() => ("dropped", "postgres", Some("to_redis")),
        None if database.withheld.contains_key(id) => ("dropped", "postgres", None),
        None => ("missing", "none", None),
    };
    Standing { status, tiers, direction }
}

/// TANDEM.STATUS
pub fn status(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.STATUS id");
    let (id, name) = args.id()?;
    args.end()?;
    let (database, key) = (selected(context), digest_key()?);
    let item = keys::with_named_item(context, id, name, Look::Still, |item| {
        let standing = engine::with_database(database, |database| standing(database, id, Some(item)));
        let etag = item.revision.digest(&key, id);
        (standing, item.revision.version, etag, item.accesses(), item.last_access_ms())
    })?;
    let (standing, version, etag, accesses, last_access_ms) = match item {
        Some((standing, version, etag, accesses, last)) => (standing?, Some(version), etag, accesses, last),
        None => engine::with_database(database, |database| {
            let removed = database.tombstones.get(id).map(|tombstone| tombstone.version);
            let expired = || database.ghosts.get(id).map(|(version, _)| version);
            let dropped = || database.pending.get(id).and_then(|waiting| waiting.dropped);
            let version = removed.or_else(expired).or_else(dropped);
            (standing(database, id, None), version, None, 0, None)
        })?,
    };
    let reply = Reply::new(context);
    reply.map(8);
    reply.bulk("id");
    reply.bulk(id);
    reply.bulk("status");
    reply.bulk(standing.status);
    reply.bulk("tiers");
    reply.bulk(standing.tiers);
    reply.bulk("direction");
    reply.bulk_or_null(standing.direction);
    reply.bulk("version");
    reply.integer_or_null(version.map(Version::get));
    reply.bulk("etag");
    reply.hex_or_null(etag.as_ref());
    reply.bulk("access_count");
    reply.integer(accesses);
    reply.bulk("last_accessed");
    reply.integer_or_null(last_access_ms);
    Ok(RedisValue::NoReply)
}
