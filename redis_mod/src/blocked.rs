//! Links that wait in `TANDEM.LINK PULL`: a blocked client each, woken by the next write.
//!
//! Redis keeps a blocked client's handle alive after a time-out or a disconnect until it is unblocked once, so
//! whoever takes a handle out of the list here unblocks it, and nobody else does.

use crate::commands::link::{Pull, answer_pull};
use crate::engine;
use crate::guard::caught;
use crate::reply::Reply;
use redis_module::{Context, raw};
use std::cell::RefCell;
use std::ffi::{c_int, c_void};

struct Blocked {
    client: *mut raw::RedisModuleBlockedClient,
    database: i32,
    pull: Pull,
}

thread_local! {
    static BLOCKED: RefCell<Vec<Blocked>> = const { RefCell::new(Vec::new()) };
}

/// Blocks the client until something waits for its link or `block_ms` have passed.
pub fn block(context: &Context, database: i32, pull: Pull, block_ms: u64) {
    let timeout_ms = i64::try_from(block_ms).unwrap_or(i64::MAX);
    // SAFETY: the callbacks have the API's signatures and live as long as the module.
    let client = unsafe {
        raw::RedisModule_BlockClient.map(|block| {
            block(context.get_raw(), Some(on_reply), Some(on_timeout), Some(free_pull), timeout_ms)
        })
    };
    let Some(client) = client.filter(|client| !client.is_null()) else { return };
    // SAFETY: the handle was just made.
    unsafe { raw::RedisModule_SetDisconnectCallback.map(|set| set(client, Some(on_disconnect))) };
    BLOCKED.with_borrow_mut(|blocked| blocked.push(Blocked { client, database, pull }));
}

/// Wakes the links of a database that have something to take.
pub fn wake(database: i32) {
    let last_seq = engine::with_database(database, |database| database.pending.last_seq()).unwrap_or(0);
    let woken = BLOCKED.with_borrow_mut(|blocked| {
        if blocked.is_empty() {
            return Vec::new();
        }
        let (woken, kept) = std::mem::take(blocked)
            .into_iter()
            .partition(|client| client.database == database && client.pull.after < last_seq);
        *blocked = kept;
        woken
    });
    for Blocked { client, pull, .. } in woken {
        unblock(client, Box::into_raw(Box::new((database, pull))).cast());
    }
}

fn unblock(client: *mut raw::RedisModuleBlockedClient, private: *mut c_void) {
    // SAFETY: the handle was taken out of the list, so it is unblocked this once; the private data is null or a
    // box that `free_pull` takes back.
    unsafe { raw::RedisModule_UnblockClient.map(|unblock| unblock(client, private)) };
}

fn take(client: *mut raw::RedisModuleBlockedClient) -> bool {
    BLOCKED.with_borrow_mut(|blocked| {
        let position = blocked.iter().position(|entry| entry.client == client);
        position.map(|position| blocked.swap_remove(position)).is_some()
    })
}

unsafe extern "C" fn on_reply(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("answering a link", (), || {
        // SAFETY: Redis calls this for a client that was unblocked with private data of this type.
        let private = unsafe {
            raw::RedisModule_GetBlockedClientPrivateData.map(|get| get(context).cast::<(i32, Pull)>())
        };
        let reply = Reply::from_raw(context);
        // SAFETY: null or the box made in `wake`, alive until `free_pull`.
        let private = private.and_then(|private| unsafe { private.as_ref() });
        match private {
            Some((database, pull)) => {
                // SAFETY: the context is this callback's. It begins on database 0.
                unsafe { raw::RedisModule_SelectDb.map(|select| select(context, *database)) };
                if let Err(error) = answer_pull(&Context::new(context), pull) {
                    reply.error(&error);
                }
            }
            None => reply.array(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_timeout(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("a link's time-out", (), || {
        Reply::from_raw(context).array(0);
        // SAFETY: inside a time-out callback the context knows its handle.
        let client = unsafe { raw::RedisModule_GetBlockedClientHandle.map(|get| get(context)) };
        if let Some(client) = client.filter(|client| take(*client)) {
            unblock(client, std::ptr::null_mut());
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_disconnect(_: *mut raw::RedisModuleCtx, client: *mut raw::RedisModuleBlockedClient) {
    caught("a link's disconnect", (), || {
        if take(client) {
            unblock(client, std::ptr::null_mut());
        }
    });
}

unsafe extern "C" fn free_pull(_: *mut raw::RedisModuleCtx, private: *mut c_void) {
    if !private.is_null() {
        // SAFETY: non-null private data is the box made in `wake`.
        drop(unsafe { Box::from_raw(private.cast::<(i32, Pull)>()) });
    }
}
