//! TANDEM.STATE and its subcommands, each a command of its own for Redis, with its own keys and rights.

use super::pages::{may_remove, remove_range, reply_items, reply_page};
use crate::acl::{self, Caller};
use crate::args::{Args, Takes, bulk, page, write_options};
use crate::engine;
use crate::guard::{Handler, run_raw};
use crate::keys::{self, Look};
use crate::read_through::{self, Need};
use crate::reply::Reply;
use crate::store::{self, Asked, Ttl, selected};
use redis_module::{Context, RedisString, RedisValue, raw};
use std::ffi::{CStr, c_int};
use tandem_shared::request::{Operation, StateRequest};
use tandem_shared::{Range, Result, State};

/// The arguments after the subcommand's name.
fn after_name<'a>(args: &'a [RedisString], usage: &'static str) -> Args<'a> {
    let mut args = Args::new(args, usage);
    args.option();
    args
}

/// State, range and limit of a page.
fn paged<'a>(args: &mut Args<'a>, usage: &'static str) -> Result<(&'a str, Range, usize)> {
    let state = args.text("state")?;
    State::new(state)?;
    let (after, limit) = page(args, usage)?;
    let range = after.map_or_else(Range::all, |after| Range::all().after(after));
    Ok((state, range, limit))
}

fn list(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.STATE LIST state [AFTER id] [LIMIT n]";
    let (state, range, limit) = paged(&mut after_name(&args, USAGE), USAGE)?;
    let caller = Caller::of(context, &["TANDEM.STATE", "LIST"]).unless_reads_all(context);
    reply_page(context, &caller, (range, limit), Some(state), |reply, id, _| reply.bulk(id))?;
    Ok(RedisValue::NoReply)
}

fn get(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.STATE GET state [AFTER id] [LIMIT n]";
    let (state, range, limit) = paged(&mut after_name(&args, USAGE), USAGE)?;
    let caller = Caller::of(context, &["TANDEM.STATE", "GET"]).unless_reads_all(context);
    reply_items(context, &caller, (range, limit), Some(state))?;
    Ok(RedisValue::NoReply)
}

fn count(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = after_name(&args, "TANDEM.STATE COUNT state");
    let state = args.text("state")?;
    args.end()?;
    State::new(state)?;
    let count = engine::with_database(selected(context), |database| {
        database.index.count_state(state) + database.locals.count_state(state)
    })?;
    Ok(RedisValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn has(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut rest = after_name(&args, "TANDEM.STATE HAS id state");
    let (id, name) = rest.id()?;
    let state = rest.text("state")?;
    rest.end()?;
    State::new(state)?;
    if read_through::waits(context, (&args, has), [(id, Need::Read)])? {
        return Ok(RedisValue::NoReply);
    }
    let found = keys::with_named_item(context, id, name, Look::Presence, |item| {
        item.head().live.is_some_and(|live| live.state == state)
    })?;
    Ok(RedisValue::Integer((found == Some(true)).into()))
}

fn change(
    context: &Context,
    command: (&[RedisString], Handler),
    (id, name): (&str, &RedisString),
    request: StateRequest,
) -> Result<RedisValue> {
    if read_through::waits(context, command, [(id, Need::Decide)])? {
        return Ok(RedisValue::NoReply);
    }
    let asked = Asked { id, name, operation: Operation::SetState(request), ttl: Ttl::Keep };
    let answer = store::write(context, asked)?;
    Reply::new(context).answer(&answer);
    Ok(RedisValue::NoReply)
}

fn set(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.STATE SET id state [IFMATCH etag] [AUDIT json]";
    let mut rest = after_name(&args, USAGE);
    let (id, name) = rest.id()?;
    let state = rest.text("state")?;
    let (mut if_match, mut audit) = (None, None);
    while let Some(word) = rest.option() {
        match word.as_str() {
            "IFMATCH" => if_match = Some(rest.text("etag")?),
            "AUDIT" => audit = Some(rest.text("audit")?),
            other => return Err(crate::args::unknown_option(other, USAGE)),
        }
    }
    change(context, (&args, set), (id, name), StateRequest::parse(state, None, if_match, audit)?)
}

fn move_to(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.STATE MOVE id from to [AUDIT json]";
    let mut rest = after_name(&args, USAGE);
    let (id, name) = rest.id()?;
    let (from, to) = (rest.text("state")?, rest.text("state")?);
    let options = write_options(&mut rest, Takes::default(), USAGE)?.put;
    change(context, (&args, move_to), (id, name), StateRequest::parse(to, Some(from), None, options.audit)?)
}

fn remove(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    const USAGE: &str = "TANDEM.STATE REMOVE state [LIMIT n] [AUDIT json]";
    let mut args = after_name(&args, USAGE);
    let state = args.text("state")?;
    State::new(state)?;
    let (limit, request) = bulk(&mut args, USAGE)?;
    let caller = Caller::of(context, &["TANDEM.STATE", "REMOVE"]).unless_writes_all(context);
    if !may_remove(context, &caller, &Range::all(), Some(state), limit)? {
        return Ok(acl::refuse(context));
    }
    Ok(RedisValue::Integer(remove_range(context, Range::all(), Some(state), limit, &request)?))
}

/// What TANDEM.STATE HELP says, as Redis' own containers do.
const HELP: [&str; 8] = [
    "TANDEM.STATE <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "LIST state [AFTER id] [LIMIT n]: the ids that have a state in byte order",
    "GET state [AFTER id] [LIMIT n]: the items that have a state in byte order of their ids",
    "COUNT state: how many items have a state",
    "HAS id state: whether an item has a state",
    "SET id state [IFMATCH etag] [AUDIT json]: gives an item another state",
    "MOVE id from to [AUDIT json]: moves an item from one state to another, if it is in the one",
    "REMOVE state [LIMIT n] [AUDIT json]: deletes the items that have a state",
];

fn help(_: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    after_name(&args, "TANDEM.STATE HELP").end()?;
    Ok(RedisValue::Array(HELP.into_iter().map(RedisValue::SimpleStringStatic).collect()))
}

/// Makes a callback of a handler: Redis wants a function of its own for each subcommand.
macro_rules! callback {
    ($name:ident, $handler:expr) => {
        unsafe extern "C" fn $name(
            context: *mut raw::RedisModuleCtx,
            argv: *mut *mut raw::RedisModuleString,
            argc: c_int,
        ) -> c_int {
            const HANDLER: Handler = $handler;
            run_raw(context, argv, argc, HANDLER)
        }
    };
}

callback!(on_list, list);
callback!(on_get, get);
callback!(on_count, count);
callback!(on_has, has);
callback!(on_set, set);
callback!(on_move, move_to);
callback!(on_remove, remove);
callback!(on_help, help);

type Callback =
    unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut *mut raw::RedisModuleString, c_int) -> c_int;

/// Name, callback, flags and, where it has one, the position of the key.
const SUBCOMMANDS: [(&CStr, Callback, &CStr, c_int); 8] = [
    (c"list", on_list, c"readonly", 0),
    (c"get", on_get, c"readonly", 0),
    (c"count", on_count, c"readonly fast", 0),
    (c"has", on_has, c"readonly fast", 2),
    (c"set", on_set, c"write deny-oom", 2),
    (c"move", on_move, c"write deny-oom", 2),
    (c"remove", on_remove, c"write", 0),
    (c"help", on_help, c"readonly fast", 0),
];

/// Registers the container and its subcommands; the crate's own table knows none. False if Redis refuses.
pub fn register(context: &Context) -> bool {
    let name = c"tandem.state";
    // SAFETY: called while the module loads; the strings are literals, and a container has no function.
    let parent = unsafe {
        let made = raw::RedisModule_CreateCommand
            .map(|create| create(context.get_raw(), name.as_ptr(), None, c"".as_ptr(), 0, 0, 0));
        if made != Some(raw::Status::Ok as c_int) {
            return false;
        }
        raw::RedisModule_GetCommand.map(|get| get(context.get_raw(), name.as_ptr()))
    };
    let Some(parent) = parent.filter(|parent| !parent.is_null()) else { return false };
    SUBCOMMANDS.iter().all(|(name, callback, flags, key)| {
        // SAFETY: the parent was just made; the callback lives as long as the module.
        let made = unsafe {
            raw::RedisModule_CreateSubcommand.map(|create| {
                create(parent, name.as_ptr(), Some(*callback), flags.as_ptr(), *key, *key, (*key).min(1))
            })
        };
        made == Some(raw::Status::Ok as c_int)
    })
}
