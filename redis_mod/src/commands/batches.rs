//! All or nothing: TANDEM.MPUT, MREMOVE, BATCH.

use crate::acl::{self, Caller};
use crate::args::{Args, Takes, WriteOptions, write_options};
use crate::commands::items::need_of;
use crate::engine;
use crate::guard::Handler;
use crate::keys;
use crate::read_through::{self, Need};
use crate::reply::Reply;
use crate::store::{self, Asked, Ttl};
use redis_module::{Context, RedisString, RedisValue, raw};
use tandem_shared::id::{check_id, utf8};
use tandem_shared::request::{Operation, PutRequest, RemoveRequest};
use tandem_shared::{Audit, Error, Result, batch};

/// Runs the operations under one batch id, that of the audit object if it has one, and replies `written`, `unchanged`,
/// `batch`.
fn run(
    context: &Context,
    command: (&[RedisString], Handler),
    mut operations: Vec<(String, Operation)>,
    audit: Option<&Audit>,
    ttl: Ttl,
) -> Result<RedisValue> {
    let needs = operations.iter().filter_map(|(id, operation)| Some((id.as_str(), need(operation)?)));
    if read_through::waits(context, command, needs)? {
        return Ok(RedisValue::NoReply);
    }
    let named = audit.and_then(Audit::batch);
    let batch = named.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    batch::stamp(&mut operations, &batch)?;
    let names: Vec<RedisString> = operations.iter().map(|(id, _)| keys::name(context, id)).collect();
    let ids: Vec<String> = operations.iter().map(|(id, _)| id.clone()).collect();
    let asked = ids.iter().zip(&names).zip(operations).map(|((id, name), (_, operation))| {
        let ttl = if matches!(operation, Operation::Put(_)) { ttl } else { Ttl::Keep };
        Asked { id, name, operation, ttl }
    });
    let answers = store::write_all(context, asked.collect())?;
    let written = answers.iter().filter(|answer| answer.changed).count();
    let reply = Reply::new(context);
    reply.map(3);
    reply.bulk("written");
    reply.integer(written as u64);
    reply.bulk("unchanged");
    reply.integer((answers.len() - written) as u64);
    reply.bulk("batch");
    reply.bulk(batch);
    Ok(RedisValue::NoReply)
}

/// What an operation needs to know of its id.
fn need(operation: &Operation) -> Option<Need> {
    match operation {
        Operation::Put(request) if request.local => None,
        Operation::Put(request) => Some(need_of(request)),
        Operation::Apply(_) => None,
        _ => Some(Need::Decide),
    }
}

/// The number of items that follow, each of `words` arguments.
fn number_of_items(args: &mut Args<'_>, words: usize, usage: &'static str) -> Result<usize> {
    let number = args.unsigned("number of items")?;
    let count = usize::try_from(number).unwrap_or(usize::MAX);
    batch::check_count(count)?;
    if count == 0 || count.saturating_mul(words) > args.left() {
        return Err(Error::invalid(
            format!("number of items {number}"),
            format!("does not fit the {} arguments after it", args.left()),
            format!("usage: {usage}"),
        ));
    }
    Ok(count)
}

fn id<'a>(args: &mut Args<'a>) -> Result<&'a [u8]> {
    args.bytes()
}

/// The text of an id of a batch; a bad one is refused with its place.
fn checked_id(place: usize, bytes: &[u8]) -> Result<&str> {
    let lossy = || String::from_utf8_lossy(bytes).into_owned();
    let text = utf8("id", bytes).map_err(|error| error.at_item(place, &lossy()))?;
    check_id(text).map_err(|error| error.at_item(place, text))?;
    Ok(text)
}

/// Where MPUT has its keys. By a key spec with a number of keys Redis 7.0 gets the step between them wrong.
fn report_keys(context: &Context, args: &[RedisString]) {
    let count = args.get(1).and_then(|count| count.parse_unsigned_integer().ok()).unwrap_or(0);
    let places = (2..args.len().saturating_sub(1)).step_by(2).take(usize::try_from(count).unwrap_or(0));
    // As PUT has it: the key is written and its content not given away. Without flags Redis takes it for read as well.
    let flags = raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_UPDATE;
    for place in places {
        let place = i32::try_from(place).unwrap_or(i32::MAX);
        // SAFETY: Redis asks for the keys, and each place is one of the arguments.
        unsafe {
            if let Some(report) = raw::RedisModule_KeyAtPosWithFlags {
                report(context.get_raw(), place, flags as _);
            }
        }
    }
}

/// TANDEM.MPUT
pub fn mput(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.MPUT numitems id payload [id payload ...] [JSON|BINARY] [STATE s] \
                         [AUDIT json] [LOCAL]";
    if context.is_keys_position_request() {
        report_keys(context, &args);
        return Ok(RedisValue::NoReply);
    }
    let mut rest = Args::new(&args, USAGE);
    let count = number_of_items(&mut rest, 2, USAGE)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((id(&mut rest)?, rest.bytes()?));
    }
    let takes = Takes { content_type: true, state: true, ttl: false, condition: false };
    let WriteOptions { put: options, .. } = write_options(&mut rest, takes, USAGE)?;
    let audit = options.audit.map(Audit::new).transpose()?;
    let bounds = engine::with(|engine| engine.bounds)?;
    let mut operations = Vec::with_capacity(count);
    for (place, (id, payload)) in pairs.into_iter().enumerate() {
        let id = checked_id(place, id)?;
        let request = PutRequest::parse(payload, &options, bounds);
        let request = request.map_err(|error| error.at_item(place, id))?;
        operations.push((id.to_owned(), Operation::Put(request)));
    }
    run(context, (&args, mput), operations, audit.as_ref(), Ttl::Clear)
}

/// TANDEM.MREMOVE
pub fn mremove(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.MREMOVE numids id [id ...] [AUDIT json]";
    let mut rest = Args::new(&args, USAGE);
    let count = number_of_items(&mut rest, 1, USAGE)?;
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        ids.push(id(&mut rest)?);
    }
    let options = write_options(&mut rest, Takes::default(), USAGE)?.put;
    let request = RemoveRequest::parse(None, None, options.audit)?;
    let remove = |(place, id): (usize, &[u8])| {
        Ok((checked_id(place, id)?.to_owned(), Operation::Remove(request.clone())))
    };
    let operations = ids.into_iter().enumerate().map(remove).collect::<Result<Vec<_>>>()?;
    run(context, (&args, mremove), operations, request.audit.as_ref(), Ttl::Keep)
}

/// The ids of a batch are inside of one argument, where a cluster does not see them: each must be this node's own.
fn check_served<'a>(context: &Context, mut ids: impl Iterator<Item = (usize, &'a str)>) -> Result<()> {
    let Some((place, id)) = ids.find(|(_, id)| !keys::is_served(context, id)) else { return Ok(()) };
    let remedy = "send a batch to the node that has all of its ids, as under one {tag}";
    Err(keys::not_served(id, remedy).at_item(place, id))
}

/// TANDEM.BATCH
pub fn batch(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.BATCH json [AUDIT json]";
    let mut rest = Args::new(&args, USAGE);
    let json = rest.bytes()?;
    let options = write_options(&mut rest, Takes::default(), USAGE)?.put;
    let audit = options.audit.map(Audit::new).transpose()?;
    let bounds = engine::with(|engine| engine.bounds)?;
    let mut operations = batch::operations(json, bounds)?;
    let caller = Caller::of(context, &["TANDEM.BATCH"]).unless_writes_all(context);
    if !caller.is_trusted() && !operations.iter().all(|(id, _)| caller.may_write(&keys::name(context, id))) {
        return Ok(acl::refuse(context));
    }
    check_served(context, operations.iter().map(|(id, _)| id.as_str()).enumerate())?;
    if let Some(audit) = &audit {
        for (_, operation) in &mut operations {
            operation.audit_unless_given(audit);
        }
    }
    run(context, (&args, batch), operations, audit.as_ref(), Ttl::Clear)
}
