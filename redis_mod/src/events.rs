//! Keyspace and server events keep index and books exactly the keyspace's: additions from the notifications
//! `new` and `loaded`, removals from the type's `unlink2` (the one callback that every removal by key passes),
//! wholesale changes from the server events FLUSHDB and SWAPDB.

use crate::engine;
use crate::guard::caught;
use crate::item::Item;
use crate::keys;
use crate::store::selected;
use crate::{blocked, pending, persist};
use redis_module::{Context, ContextFlags, NotifyEvent, RedisString, raw};
use tandem_shared::codec;

/// A key was added, or a copy expired.
pub fn on_keyspace(context: &Context, _: NotifyEvent, event: &str, key: &[u8]) {
    match event {
        "new" | "loaded" => caught("an added key", (), || added(context, key, event == "new")),
        "evicted" => caught("an evicted key", (), || evicted(key)),
        "expired" => caught("an expired key", (), || expired(context, key)),
        _ => {}
    }
}

fn added(context: &Context, key: &[u8], is_new: bool) {
    if !matches!(engine::with(|engine| engine.own_write), Ok(false)) {
        return;
    }
    let Ok(id) = std::str::from_utf8(key) else { return };
    let database = selected(context);
    let name = RedisString::create_from_slice(context.get_raw(), key);
    let found = keys::with_named_item(context, id, &name, keys::look(), |item| {
        engine::with(|engine| {
            let digest = item.revision.digest(&engine.key, id);
            let database = engine.databases.entry(database).or_default();
            if let Some(digest) = digest {
                database.inserted(id, &item.head(), digest);
            }
            if is_new && !item.local() {
                // RENAME, COPY, RESTORE and MOVE write under an id the links have not seen this revision of.
                database.pending.written(id, None, None);
            }
        })
    });
    if is_new && matches!(found, Ok(Some(_))) {
        blocked::wake(database);
    }
}

/// An expired copy is meant to be gone: no link needs to bring it back.
fn expired(context: &Context, key: &[u8]) {
    let Ok(id) = std::str::from_utf8(key) else { return };
    let _ = engine::with_database(selected(context), |database| {
        if let Some(version) = database.pending.get(id).and_then(|waiting| waiting.dropped) {
            database.expired(id, version);
        }
        database.pending.settled(id);
    });
}

/// Tells how much an evicted item was in use.
fn evicted(key: &[u8]) {
    let _ = engine::with(|engine| {
        if let Some((_, reads)) = engine.last_left.take().filter(|(id, _)| id.as_bytes() == key) {
            engine.evictions.items += 1;
            engine.evictions.unread += u64::from(reads == 0);
            engine.evictions.reads += reads;
        }
    });
}

/// An item leaves its key; its value is only looked at.
pub fn item_unlinked(database: i32, id: &str, item: &Item) {
    let waits = engine::with(|engine| {
        if engine.own_write {
            return false;
        }
        engine.last_left = Some((id.into(), item.accesses()));
        let database = engine.databases.entry(database).or_default();
        database.left(id, item.local());
        if item.local() {
            return false;
        }
        database.copy_left(id);
        if database.only_caches(id) && database.pending.get(id).is_none() {
            // The link has it, and need not bring it back.
            return false;
        }
        database.pending.dropped(id, item.revision.version, || codec::encode(&item.revision));
        database.pending.has_links()
    });
    if matches!(waits, Ok(true)) {
        blocked::wake(database);
    }
}

/// Subscribes to the server events that the crate's own handlers do not tell enough of. `None` if Redis refuses.
pub fn subscribe(context: &Context) -> Option<()> {
    let subscribe = (
        // SAFETY: the table of functions is filled when the module is loaded.
        unsafe { raw::RedisModule_SubscribeToServerEvent }
    )?;
    let events: [(u64, raw::RedisModuleEventCallback); 3] = [
        (raw::REDISMODULE_EVENT_FLUSHDB, Some(on_flush)),
        (raw::REDISMODULE_EVENT_SWAPDB, Some(on_swap)),
        (raw::REDISMODULE_EVENT_FORK_CHILD, Some(on_fork)),
    ];
    for (id, callback) in events {
        // SAFETY: the callbacks have the API's signature and live as long as the module.
        let status =
            unsafe { subscribe(context.get_raw(), raw::RedisModuleEvent { id, dataver: 1 }, callback) };
        if status != raw::Status::Ok as i32 {
            return None;
        }
    }
    Some(())
}

unsafe extern "C" fn on_flush(
    context: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut std::ffi::c_void,
) {
    if subevent != raw::REDISMODULE_SUBEVENT_FLUSHDB_START || data.is_null() {
        return;
    }
    // SAFETY: for this event and version the data is a RedisModuleFlushInfo.
    let number = unsafe { (*data.cast::<raw::RedisModuleFlushInfo>()).dbnum };
    caught("FLUSHDB", (), || {
        let context = Context::new(context);
        let databases = engine::with(|engine| engine.databases.keys().copied().collect::<Vec<_>>());
        for database in databases.unwrap_or_default() {
            if number == -1 || number == database {
                everything_leaves(&context, database);
            }
        }
    });
}

/// Before the keys of a database go: what no link has taken yet is kept aside.
fn everything_leaves(context: &Context, database: i32) {
    keep_waiting_aside(context, database, database);
    let _ = engine::with_database(database, |database| {
        let had_items = !database.index.is_empty();
        // Which ids leave is not looked at one by one.
        let mut had_filter = false;
        for reading in database.readings.values_mut() {
            had_filter |= reading.drop_filter();
            reading.is_whole = false;
        }
        database.index.clear();
        database.locals.clear();
        if let Some(version) = database.version_high.filter(|_| had_items || had_filter) {
            database.pending.everything_dropped(version);
        }
    });
    blocked::wake(database);
}

/// Keeps the revisions aside that wait in `database` and are to be found in the keyspace of `keyspace`.
fn keep_waiting_aside(context: &Context, database: i32, keyspace: i32) {
    let waiting = engine::with_database(database, |database| {
        let after = database.pending.after(0);
        let current = after.filter(|(_, waiting)| waiting.dropped.is_none() && waiting.origin.is_none());
        current.map(|(_, waiting)| waiting.id.to_string()).collect::<Vec<_>>()
    });
    let before = selected(context);
    select(context, keyspace);
    for id in waiting.unwrap_or_default() {
        let encoded = keys::with_item(context, &id, keys::look(), |item| codec::encode(&item.revision));
        if let Ok(Some(encoded)) = encoded {
            let _ = engine::with_database(database, |database| database.pending.keep_copy(&id, encoded));
        }
    }
    select(context, before);
}

fn select(context: &Context, number: i32) {
    // SAFETY: the context is that of the running callback.
    unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), number)) };
}

/// The child may rewrite the AOF, and without an RDB preamble the books go along with the first item. Where there is none
/// they begin the part of the log that Redis has just opened.
unsafe extern "C" fn on_fork(
    context: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut std::ffi::c_void,
) {
    if subevent != raw::REDISMODULE_SUBEVENT_FORK_CHILD_BORN {
        return;
    }
    caught("the start of a child", (), || {
        let context = Context::new(context);
        let flags = context.get_flags();
        if !flags.contains(ContextFlags::AOF | ContextFlags::MASTER) || flags.contains(ContextFlags::LOADING)
        {
            return;
        }
        let books = engine::with(|engine| engine.is_without_items().then(|| persist::save(engine)));
        if let Ok(Some(books)) = books {
            context.replicate("TANDEM.EFFECT", &[b"BOOKS".as_slice(), &books]);
        }
    });
}

unsafe extern "C" fn on_swap(
    context: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    _: u64,
    data: *mut std::ffi::c_void,
) {
    if data.is_null() {
        return;
    }
    // SAFETY: for this event and version the data is a RedisModuleSwapDbInfo.
    let (first, second) = unsafe {
        let info = &*data.cast::<raw::RedisModuleSwapDbInfo>();
        (info.dbnum_first, info.dbnum_second)
    };
    caught("SWAPDB", (), || {
        let context = Context::new(context);
        // The event comes after the swap: what waits in one database lies in the other's keyspace. Links stay
        // with the number they were made for, so their books stay too.
        keep_waiting_aside(&context, first, second);
        keep_waiting_aside(&context, second, first);
        let _ = engine::with(|engine| {
            let mut a = engine.databases.remove(&first).unwrap_or_default();
            let mut b = engine.databases.remove(&second).unwrap_or_default();
            std::mem::swap(&mut a.index, &mut b.index);
            std::mem::swap(&mut a.locals, &mut b.locals);
            std::mem::swap(&mut a.tombstones, &mut b.tombstones);
            let version_high = a.version_high.max(b.version_high);
            for database in [&mut a, &mut b] {
                database.version_high = version_high;
                for reading in database.readings.values_mut() {
                    reading.drop_filter();
                    reading.is_whole = false;
                }
                if let Some(version) = version_high {
                    database.pending.dropped(pending::EVERYTHING, version, Vec::new);
                }
            }
            engine.databases.insert(first, a);
            engine.databases.insert(second, b);
        });
        blocked::wake(first);
        blocked::wake(second);
    });
}
