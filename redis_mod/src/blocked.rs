//! Clients that are blocked: links in `TANDEM.LINK PULL` until the next write, and users in `TANDEM.WAIT` until the
//! links have taken what was written before.
//!
//! Redis keeps a blocked client's handle alive after a time-out or a disconnect until it is unblocked once, so
//! whoever takes a handle out of the list here unblocks it, and nobody else does.

use crate::commands::link::{Pull, answer_pull};
use crate::engine;
use crate::guard::caught;
use crate::pending::Pending;
use crate::reply::Reply;
use redis_module::{Context, raw};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};

/// What a client waits for.
pub enum Awaited {
    /// Something to take.
    Pull(Pull),
    /// That all links have acknowledged this sequence number.
    Acknowledged(u64),
}

struct Blocked {
    client: *mut raw::RedisModuleBlockedClient,
    database: i32,
    awaited: Awaited,
}

thread_local! {
    static BLOCKED: RefCell<Vec<Blocked>> = const { RefCell::new(Vec::new()) };
}

/// How many links have acknowledged a sequence number, and whether all have.
pub fn caught_up(pending: &Pending, seq: u64) -> (u64, bool) {
    let count = pending.links().filter(|(_, acked)| *acked >= seq).count();
    (count as u64, count == pending.links().count())
}

impl Awaited {
    fn is_there(&self, pending: &Pending) -> bool {
        match self {
            Awaited::Pull(pull) => pull.after < pending.last_seq(),
            Awaited::Acknowledged(seq) => caught_up(pending, *seq).1,
        }
    }

    /// The answer when it is there.
    fn reply(&self, context: &Context, database: i32) {
        // SAFETY: the context is that of the running callback. It begins on database 0.
        unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), database)) };
        match self {
            Awaited::Pull(pull) => {
                if let Err(error) = answer_pull(context, pull) {
                    Reply::new(context).error(&error);
                }
            }
            Awaited::Acknowledged(seq) => reply_count(context, database, *seq),
        }
    }

    /// The answer when it did not come in time.
    fn reply_late(&self, context: &Context, database: i32) {
        match self {
            Awaited::Pull(_) => Reply::new(context).array(0),
            Awaited::Acknowledged(seq) => reply_count(context, database, *seq),
        }
    }
}

fn reply_count(context: &Context, database: i32, seq: u64) {
    let count = engine::with_database(database, |database| caught_up(&database.pending, seq).0);
    Reply::new(context).integer(count.unwrap_or(0));
}

/// Blocks the client until what it waits for is there or the time has passed; 0 waits for ever.
pub fn block(context: &Context, database: i32, awaited: Awaited, timeout_ms: u64) {
    let timeout_ms = i64::try_from(timeout_ms).unwrap_or(i64::MAX);
    // SAFETY: the callbacks have the API's signatures and live as long as the module.
    let client = unsafe {
        raw::RedisModule_BlockClient.map(|block| {
            block(context.get_raw(), Some(on_reply), Some(on_timeout), Some(free_blocked), timeout_ms)
        })
    };
    let Some(client) = client.filter(|client| !client.is_null()) else { return };
    // SAFETY: the handle was just made.
    unsafe { raw::RedisModule_SetDisconnectCallback.map(|set| set(client, Some(on_disconnect))) };
    BLOCKED.with_borrow_mut(|blocked| blocked.push(Blocked { client, database, awaited }));
}

/// Wakes the clients of a database that have what they wait for: after a write, and after a link acknowledged or went.
pub fn wake(database: i32) {
    let woken = BLOCKED.with_borrow_mut(|blocked| {
        if blocked.is_empty() {
            return Vec::new();
        }
        let is_woken = |client: &Blocked| {
            let is_there =
                engine::with_database(database, |database| client.awaited.is_there(&database.pending));
            client.database == database && is_there.unwrap_or(true)
        };
        let (woken, kept) = std::mem::take(blocked).into_iter().partition(is_woken);
        *blocked = kept;
        woken
    });
    for blocked in woken {
        let client = blocked.client;
        unblock(client, Box::into_raw(Box::new(blocked)).cast());
    }
}

fn unblock(client: *mut raw::RedisModuleBlockedClient, private: *mut c_void) {
    // SAFETY: the handle was taken out of the list, so it is unblocked this once; the private data is null or a
    // box that `free_blocked` takes back.
    unsafe { raw::RedisModule_UnblockClient.map(|unblock| unblock(client, private)) };
}

fn take(client: *mut raw::RedisModuleBlockedClient) -> Option<Blocked> {
    BLOCKED.with_borrow_mut(|blocked| {
        let position = blocked.iter().position(|entry| entry.client == client);
        position.map(|position| blocked.swap_remove(position))
    })
}

unsafe extern "C" fn on_reply(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("answering a blocked client", (), || {
        // SAFETY: Redis calls this for a client that was unblocked with private data of this type: null, or the box
        // made in `wake`, alive until `free_blocked`.
        let private = unsafe {
            raw::RedisModule_GetBlockedClientPrivateData
                .and_then(|get| get(context).cast::<Blocked>().as_ref())
        };
        match private {
            Some(blocked) => blocked.awaited.reply(&Context::new(context), blocked.database),
            None => Reply::from_raw(context).array(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_timeout(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("a blocked client's time-out", (), || {
        // SAFETY: inside a time-out callback the context knows its handle.
        let client = unsafe { raw::RedisModule_GetBlockedClientHandle.map(|get| get(context)) };
        match client.and_then(take) {
            Some(blocked) => {
                blocked.awaited.reply_late(&Context::new(context), blocked.database);
                unblock(blocked.client, std::ptr::null_mut());
            }
            None => Reply::from_raw(context).array(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_disconnect(_: *mut raw::RedisModuleCtx, client: *mut raw::RedisModuleBlockedClient) {
    caught("a blocked client's disconnect", (), || {
        if take(client).is_some() {
            unblock(client, std::ptr::null_mut());
        }
    });
}

unsafe extern "C" fn free_blocked(_: *mut raw::RedisModuleCtx, private: *mut c_void) {
    if !private.is_null() {
        // SAFETY: non-null private data is the box made in `wake`.
        drop(unsafe { Box::from_raw(private.cast::<Blocked>()) });
    }
}
