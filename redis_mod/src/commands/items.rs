//! TANDEM.PUT, GET, MGET, EXISTS, REMOVE, SCAN, COUNT, APPLY.

use crate::args::{Args, Expiry, PUT_USAGE, page, put as read_put, remove as read_remove, unknown_option};
use crate::engine;
use crate::keys;
use crate::reply::Reply;
use crate::store::{self, Ttl, Writer, now, selected};
use redis_module::key::KeyFlags;
use redis_module::{Context, RedisString, RedisValue};
use tandem_shared::codec::{Source, decode};
use tandem_shared::decide::{decide_put, decide_remove};
use tandem_shared::{Digest, DigestKey, Range, Result, Revision};

fn digest_key() -> Result<DigestKey> {
    engine::with(|engine| engine.key.clone())
}

/// TANDEM.PUT
pub fn put(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, PUT_USAGE);
    let (id, name) = args.id()?;
    let (key, content_bytes_max) = engine::with(|engine| (engine.key.clone(), engine.content_bytes_max))?;
    let (request, expiry) = read_put(&mut args, content_bytes_max)?;
    let now = now()?;
    let ttl = match expiry {
        Expiry::Clear => Ttl::Clear,
        Expiry::Keep => Ttl::Keep,
        Expiry::After(milliseconds) => Ttl::After(milliseconds),
    };
    let reply = Reply::new(context);
    let answer = |revision: &Revision, changed: bool| reply_written(reply, &key, id, revision, changed);
    store::write(context, id, name, ttl, |current| decide_put(&key, id, current, request, now), answer)?;
    Ok(RedisValue::NoReply)
}

fn reply_written(reply: Reply, key: &DigestKey, id: &str, revision: &Revision, changed: bool) {
    reply.map(4);
    reply.bulk("version");
    reply.integer(revision.version.get());
    reply.bulk("etag");
    match revision.digest(key, id) {
        Some(digest) => reply.hex(&digest),
        None => reply.null(),
    }
    reply.bulk("hash");
    match revision.content() {
        Some(content) => reply.hex(&Digest(content.payload_hash().0)),
        None => reply.null(),
    }
    reply.bulk("changed");
    reply.integer(u64::from(changed));
}

/// TANDEM.GET
pub fn get(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.GET id [PAYLOAD]";
    let mut args = Args::new(&args, USAGE);
    let (id, name) = args.id()?;
    // A record is twenty replies where a cache wants one: PAYLOAD answers with the content alone.
    let payload_only = match args.option() {
        None => false,
        Some(word) if word == "PAYLOAD" => true,
        Some(word) => return Err(unknown_option(&word, USAGE)),
    };
    args.end()?;
    let (reply, key) = (Reply::new(context), digest_key()?);
    let found =
        keys::with_named_item(context, id, name, KeyFlags::empty(), |revision| match revision.content() {
            Some(content) if payload_only => reply.bulk(content.bytes()),
            _ => reply.item(&key, id, revision),
        })?;
    if found.is_none() {
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
        keys::with_named_item(context, id, name, keys::look(), |_| ())?;
    }
    let (reply, key) = (Reply::new(context), digest_key()?);
    reply.array(ids.len());
    for (id, name) in ids {
        let found = keys::with_named_item(context, id, name, KeyFlags::empty(), |revision| {
            reply.item(&key, id, revision);
        });
        if !matches!(found, Ok(Some(()))) {
            reply.null();
        }
    }
    Ok(RedisValue::NoReply)
}

/// TANDEM.EXISTS
pub fn exists(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut count = 0;
    for (id, name) in ids(&mut Args::new(&args, "TANDEM.EXISTS id [id ...]"))? {
        let found = keys::with_named_item(context, id, name, KeyFlags::NOTOUCH, |_| ())?;
        count += i64::from(found.is_some());
    }
    Ok(RedisValue::Integer(count))
}

/// TANDEM.REMOVE
pub fn remove(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.REMOVE id [IFMATCH etag] [AUDIT json]";
    let mut args = Args::new(&args, USAGE);
    let (id, name) = args.id()?;
    let request = read_remove(&mut args, USAGE)?;
    let (key, now) = (digest_key()?, now()?);
    let decide = |current: Option<&tandem_shared::Head<'_>>| decide_remove(&key, id, current, request, now);
    let removed = store::write(context, id, name, Ttl::Keep, decide, |_, written| written)?;
    Ok(RedisValue::Integer(i64::from(removed == Some(true))))
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
    let ids: Vec<String> = engine::with_database(selected(context), |database| {
        database.index.page(&range, limit).map(|(id, _)| id.to_owned()).collect()
    })?;
    let (reply, key) = (Reply::new(context), digest_key()?);
    reply.open_array();
    let mut count = 0;
    for id in ids {
        // A copy that expires at this look is left out.
        let found =
            keys::with_item(context, &id, KeyFlags::NOTOUCH, |revision| reply.item(&key, &id, revision));
        count += usize::from(matches!(found, Ok(Some(()))));
    }
    reply.end_array(count);
    Ok(RedisValue::NoReply)
}

/// TANDEM.COUNT
pub fn count(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.COUNT [prefix]");
    let prefix = if args.left() > 0 { args.text("prefix")? } else { "" };
    args.end()?;
    let range = Range::of_prefix(prefix)?;
    let count =
        engine::with_database(selected(context), |database| database.index.fingerprint(&range).count())?;
    Ok(RedisValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
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
