//! Clients in `TANDEM.WAIT`: blocked until the links have taken what was written before. Handles are treated as in
//! [`crate::blocked`]: whoever takes one out of the list unblocks it.

use crate::engine;
use crate::guard::caught;
use crate::pending::Pending;
use crate::reply::Reply;
use redis_module::{Context, raw};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};

/// What a client waits for.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// Its database.
    pub database: i32,
    /// The sequence number that all links must have acknowledged.
    pub seq: u64,
}

struct Waiter {
    client: *mut raw::RedisModuleBlockedClient,
    wait: Wait,
}

thread_local! {
    static WAITERS: RefCell<Vec<Waiter>> = const { RefCell::new(Vec::new()) };
}

/// How many links have acknowledged a sequence number, and whether all have.
pub fn caught_up(pending: &Pending, seq: u64) -> (u64, bool) {
    let count = pending.links().filter(|(_, acked)| *acked >= seq).count();
    (count as u64, count == pending.links().count())
}

/// Blocks the client until all links have caught up or the time has passed; 0 waits for ever.
pub fn block(context: &Context, wait: Wait, timeout_ms: u64) {
    let timeout_ms = i64::try_from(timeout_ms).unwrap_or(i64::MAX);
    // SAFETY: the callbacks have the API's signatures and live as long as the module.
    let client = unsafe {
        raw::RedisModule_BlockClient.map(|block| {
            block(context.get_raw(), Some(on_reply), Some(on_timeout), Some(free_wait), timeout_ms)
        })
    };
    let Some(client) = client.filter(|client| !client.is_null()) else { return };
    // SAFETY: the handle was just made.
    unsafe { raw::RedisModule_SetDisconnectCallback.map(|set| set(client, Some(on_disconnect))) };
    WAITERS.with_borrow_mut(|waiters| waiters.push(Waiter { client, wait }));
}

/// Answers the clients that need wait no longer, after a link acknowledged or was detached.
pub fn wake(database: i32) {
    let done = WAITERS.with_borrow_mut(|waiters| {
        if waiters.is_empty() {
            return Vec::new();
        }
        let is_done = |waiter: &Waiter| {
            let caught_up =
                engine::with_database(database, |database| caught_up(&database.pending, waiter.wait.seq).1);
            waiter.wait.database == database && caught_up.unwrap_or(true)
        };
        let (done, kept) = std::mem::take(waiters).into_iter().partition(is_done);
        *waiters = kept;
        done
    });
    for Waiter { client, wait } in done {
        unblock(client, Box::into_raw(Box::new(wait)).cast());
    }
}

fn unblock(client: *mut raw::RedisModuleBlockedClient, private: *mut c_void) {
    // SAFETY: the handle was taken out of the list, so it is unblocked this once; the private data is null or a box
    // that `free_wait` takes back.
    unsafe { raw::RedisModule_UnblockClient.map(|unblock| unblock(client, private)) };
}

fn take(client: *mut raw::RedisModuleBlockedClient) -> Option<Wait> {
    WAITERS.with_borrow_mut(|waiters| {
        let position = waiters.iter().position(|waiter| waiter.client == client);
        position.map(|position| waiters.swap_remove(position).wait)
    })
}

fn reply_count(context: *mut raw::RedisModuleCtx, wait: Wait) {
    let count = engine::with_database(wait.database, |database| caught_up(&database.pending, wait.seq).0);
    Reply::from_raw(context).integer(count.unwrap_or(0));
}

unsafe extern "C" fn on_reply(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("answering a wait", (), || {
        // SAFETY: Redis calls this for a client that was unblocked with private data of this type.
        let wait = unsafe {
            raw::RedisModule_GetBlockedClientPrivateData.and_then(|get| get(context).cast::<Wait>().as_ref())
        };
        match wait {
            Some(wait) => reply_count(context, *wait),
            None => Reply::from_raw(context).integer(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_timeout(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("a wait's time-out", (), || {
        // SAFETY: inside a time-out callback the context knows its handle.
        let client = unsafe { raw::RedisModule_GetBlockedClientHandle.map(|get| get(context)) };
        match client.and_then(|client| take(client).map(|wait| (client, wait))) {
            Some((client, wait)) => {
                reply_count(context, wait);
                unblock(client, std::ptr::null_mut());
            }
            None => Reply::from_raw(context).integer(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_disconnect(_: *mut raw::RedisModuleCtx, client: *mut raw::RedisModuleBlockedClient) {
    caught("a waiting client's disconnect", (), || {
        if take(client).is_some() {
            unblock(client, std::ptr::null_mut());
        }
    });
}

unsafe extern "C" fn free_wait(_: *mut raw::RedisModuleCtx, private: *mut c_void) {
    if !private.is_null() {
        // SAFETY: non-null private data is the box made in `wake`.
        drop(unsafe { Box::from_raw(private.cast::<Wait>()) });
    }
}
