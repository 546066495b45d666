//! Keyspace and server events keep index and books exactly the keyspace's: additions from the notifications
//! `new` and `loaded`, removals from the type's `unlink2` (the one callback that every removal by key passes),
//! wholesale changes from the server events FLUSHDB and SWAPDB.

use crate::engine::{self, Arrival, Engine, Left, Read, Remains};
use crate::guard::caught;
use crate::item::{self, Item};
use crate::keys::{self, Look};
use crate::store::{Gone, selected};
use crate::{arrivals, blocked, past, persist, retention};
use redis_module::{Context, ContextFlags, NotifyEvent, RedisString, raw};
use tandem_shared::codec;
use tandem_shared::id::id_of_key;

/// A key was added, or a copy expired.
pub fn on_keyspace(context: &Context, _: NotifyEvent, event: &str, key: &[u8]) {
    match event {
        "new" | "loaded" => caught("an added key", (), || added(context, key, event == "new")),
        "evicted" => caught("an evicted key", (), || evicted(context, key)),
        "expired" => caught("an expired key", (), || expired(context, key)),
        "del" => caught("a deleted key", (), || deleted(context, key)),
        _ => {}
    }
}

fn added(context: &Context, key: &[u8], is_new: bool) {
    if !matches!(engine::with(|engine| engine.own_write), Ok(false)) {
        return;
    }
    let Some(id) = id_of_key(key) else { return };
    let database = selected(context);
    let name = RedisString::create_from_slice(context.get_raw(), key);
    let found = keys::with_named_item(context, id, &name, Look::Still, |item| {
        engine::with(|engine| {
            let read = engine.read.take().filter(|read| read.database == database && *read.id == *id);
            let digest = match read {
                Some(read) => read.copy.map(|(digest, _)| digest),
                None => item.revision.digest(&engine.key, id),
            };
            let above = digest
                .filter(|_| is_new && !item.local())
                .and_then(|digest| arrivals::above(engine, database, id, (item.revision.version, digest)));
            let books = engine.databases.entry(database).or_default();
            if let Some(digest) = digest {
                books.inserted(id, &item.head(), digest);
            }
            if let Some(above) = above.filter(|_| !engine.is_loading && is_master(context)) {
                engine.arrivals.push(Arrival { database, id: id.into(), above });
                return true;
            }
            if is_new && !item.local() {
                // RENAME, COPY, RESTORE and MOVE write under an id the links have not seen this revision of.
                books.pending.written(id, None, None);
                books.pending.is_by(id, None);
                if above.is_none() {
                    books.tombstones.remove(id);
                }
            }
            false
        })
    });
    match found {
        Ok(Some(Ok(true))) => arrivals::settle_soon(context),
        Ok(Some(_)) if is_new => blocked::wake(database),
        _ => {}
    }
}

fn is_master(context: &Context) -> bool {
    context.get_flags().contains(ContextFlags::MASTER)
}

/// The item that has just left its key, if it is this one, and was shared.
fn take_left(database: i32, id: &str) -> Option<Remains> {
    let left =
        engine::with(|engine| engine.last_left.take_if(|left| left.database == database && *left.id == *id));
    left.ok().flatten().and_then(|left| left.shared)
}

/// An expired copy is meant to be gone: no link is to bring it back.
fn expired(context: &Context, key: &[u8]) {
    let Some(id) = id_of_key(key) else { return };
    let number = selected(context);
    let Some((version, copy)) = take_left(number, id) else { return };
    let told = engine::with_database(number, |database| {
        database.pending.expired(id);
        database.becomes_ghost(id, version, copy.as_ref().map(|(digest, state)| (*digest, state.as_ref())));
        database.pending.has_links().then(|| Gone::of(database, id, version).encode())
    });
    if let Ok(Some(gone)) = told {
        context.replicate("TANDEM.EFFECT", &[b"EXPIRED".as_slice(), id.as_bytes(), &gone]);
        blocked::wake(number);
    }
}

/// What was deleted because its time to live was set to one that has passed has expired.
fn deleted(context: &Context, key: &[u8]) {
    if past::has_passed(key) {
        expired(context, key);
    }
}

/// Tells how much an evicted item was in use.
fn evicted(context: &Context, key: &[u8]) {
    let number = selected(context);
    let _ = engine::with(|engine| {
        let is_it = |left: &mut Left| left.database == number && left.id.as_bytes() == key;
        if let Some(left) = engine.last_left.take_if(is_it) {
            engine.evictions.items += 1;
            engine.evictions.unread += u64::from(left.reads == 0);
            engine.evictions.reads += left.reads;
        }
    });
}

/// An item leaves its key; its value is only looked at.
pub fn item_unlinked(number: i32, id: &str, item: &Item) {
    let waits = engine::with(|engine| {
        if engine.own_write {
            return false;
        }
        if let Some(keeper) = engine.kept_for.filter(|_| !item.local()) {
            let keeper = engine.databases.entry(keeper).or_default();
            keeper.pending.keep_copy(id, codec::encode(&item.revision));
        }
        let database = engine.databases.entry(number).or_default();
        let digest = database.left(id, item.local());
        let state = item.head().live.map_or("", |live| live.state);
        let copy = digest.filter(|_| !item.local()).map(|digest| (digest, state));
        // An expiry, or an eviction, is announced afterwards, and what comes in its place.
        let remains = copy.map(|(digest, state)| (digest, state.into()));
        let shared = (!item.local()).then_some((item.revision.version, remains));
        engine.last_left = Some(Left { database: number, id: id.into(), reads: item.accesses(), shared });
        if item.local() {
            return false;
        }
        database.copy_left(id);
        let seq = database.pending.dropped(id, item.revision.version, || codec::encode(&item.revision));
        if !database.pending.is_brought_back(id) {
            database.becomes_ghost(id, item.revision.version, copy);
        }
        seq.is_some()
    });
    if matches!(waits, Ok(true)) {
        blocked::wake(number);
    }
}

/// An item was read from a file. If its time to live has passed it is thrown away, and nobody is told of that.
pub fn item_read(number: i32, id: &str, item: &Item) {
    let _ = engine::with(|engine| {
        if !engine.is_loading {
            return;
        }
        thrown_away(engine);
        if item.local() {
            return;
        }
        let digest = item.revision.digest(&engine.key, id);
        let state = item.head().live.map_or("", |live| live.state);
        let database = engine.databases.entry(number).or_default();
        let is_waited_for = database.pending.get(id).is_some_and(|waiting| waiting.is_written);
        engine.read = Some(Read {
            database: number,
            id: id.into(),
            version: item.revision.version,
            copy: digest.map(|digest| (digest, state.into())),
            encoded: is_waited_for.then(|| codec::encode(&item.revision)),
        });
    });
}

/// The item that was read last, if its key was not announced: it has expired.
fn thrown_away(engine: &mut Engine) {
    let Some(Read { database: number, id, version, copy: Some((digest, state)), encoded }) =
        engine.read.take()
    else {
        return;
    };
    let database = engine.databases.entry(number).or_default();
    if let Some(encoded) = encoded {
        database.pending.keep_copy(&id, encoded);
    }
    database.version_high = database.version_high.max(Some(version));
    database.becomes_ghost(&id, version, Some((digest, &state)));
    if database.pending.has_links() {
        engine.expired_unloaded.push((number, id));
    }
}

/// Tells replicas of what had expired when it was loaded: they hold it still, or hear of a deletion only.
fn tell_of_expired(context: &Context, expired: Vec<(i32, Box<str>)>) {
    if !retention::may_write(context) {
        return;
    }
    for (number, id) in expired {
        let gone = engine::with_database(number, |database| {
            let (version, _) = database.ghosts.get(&id)?;
            Some(Gone::of(database, &id, version).encode())
        });
        if let Ok(Some(gone)) = gone {
            select(context, number);
            context.replicate("TANDEM.EFFECT", &[b"EXPIRED".as_slice(), id.as_bytes(), &gone]);
        }
    }
}

unsafe extern "C" fn on_loading(
    context: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut std::ffi::c_void,
) {
    let is_end = matches!(
        subevent,
        raw::REDISMODULE_SUBEVENT_LOADING_ENDED | raw::REDISMODULE_SUBEVENT_LOADING_FAILED
    );
    caught("the loading of a file", (), || {
        let expired = engine::with(|engine| {
            engine.is_loading = !is_end;
            thrown_away(engine);
            if is_end { std::mem::take(&mut engine.expired_unloaded) } else { Vec::new() }
        });
        let expired = expired.unwrap_or_default();
        if !expired.is_empty() {
            // Not within the event: nothing can be replicated yet.
            Context::new(context).create_timer(std::time::Duration::ZERO, tell, expired);
        }
    });
}

fn tell(context: &Context, expired: Vec<(i32, Box<str>)>) {
    caught("telling of what has expired", (), || tell_of_expired(context, expired));
}

/// A client that is gone waits for nothing.
unsafe extern "C" fn on_client(
    _: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    data: *mut std::ffi::c_void,
) {
    if subevent != raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_DISCONNECTED || data.is_null() {
        return;
    }
    // SAFETY: for this event and version the data is a RedisModuleClientInfo.
    let client = unsafe { (*data.cast::<raw::RedisModuleClientInfo>()).id };
    caught("a client that has gone", (), || {
        let _ = engine::with(|engine| {
            engine.databases.values_mut().for_each(|database| database.clients.gone(client));
        });
    });
}

/// Subscribes to the server events that the crate's own handlers do not tell enough of. `None` if Redis refuses.
pub fn subscribe(context: &Context) -> Option<()> {
    let subscribe = (
        // SAFETY: the table of functions is filled when the module is loaded.
        unsafe { raw::RedisModule_SubscribeToServerEvent }
    )?;
    let events: [(u64, raw::RedisModuleEventCallback); 5] = [
        (raw::REDISMODULE_EVENT_FLUSHDB, Some(on_flush)),
        (raw::REDISMODULE_EVENT_SWAPDB, Some(on_swap)),
        (raw::REDISMODULE_EVENT_FORK_CHILD, Some(on_fork)),
        (raw::REDISMODULE_EVENT_LOADING, Some(on_loading)),
        (raw::REDISMODULE_EVENT_CLIENT_CHANGE, Some(on_client)),
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
        let version = database.version_high.filter(|_| had_items || had_filter);
        if let Some(version) = version.filter(|_| database.pending.has_links())
            && database.pending.everything_dropped(version).is_none()
        {
            // Nobody brings anything back, and nobody can be asked.
            database.ghosts.raise_floor(version);
        }
    });
    blocked::wake(database);
}

/// Keeps the revisions aside that wait in the books of `database` and are to be found in the keyspace of `keyspace`,
/// or among the tombstones that were moved with it.
fn keep_waiting_aside(context: &Context, database: i32, keyspace: i32) {
    let waiting = engine::with(|engine| {
        engine.kept_for = (database != keyspace).then_some(database);
        let Some(database) = engine.databases.get(&database) else { return Vec::new() };
        let written = database.pending.entries().filter(|(_, waiting)| waiting.is_written);
        written.map(|(id, _)| id.to_owned()).collect::<Vec<_>>()
    });
    let before = selected(context);
    select(context, keyspace);
    for id in waiting.unwrap_or_default() {
        // One that has expired is gone after this look, and was kept aside on its way.
        let shared = |item: &Item| (!item.local()).then(|| codec::encode(&item.revision));
        let live = keys::with_item(context, &id, Look::Unnoticed, shared).ok().flatten().flatten();
        let _ = engine::with(|engine| {
            let tombstone = || {
                let tombstones = &engine.databases.get(&keyspace)?.tombstones;
                tombstones.get(id.as_str()).filter(|_| database != keyspace).map(codec::encode)
            };
            if let Some(encoded) = live.or_else(tombstone) {
                let database = engine.databases.entry(database).or_default();
                if database.pending.get(&id).is_some_and(|waiting| waiting.is_written) {
                    database.pending.keep_copy(&id, encoded);
                }
            }
        });
    }
    select(context, before);
    let _ = engine::with(|engine| engine.kept_for = None);
}

fn select(context: &Context, number: i32) {
    // SAFETY: the context is that of the running callback.
    unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), number)) };
}

/// The child may rewrite the AOF, and without an RDB preamble the books go along with the first item. Where there is
/// none they begin the part of the log that Redis has just opened.
unsafe extern "C" fn on_fork(
    context: *mut raw::RedisModuleCtx,
    _: raw::RedisModuleEvent,
    subevent: u64,
    _: *mut std::ffi::c_void,
) {
    let is_born = subevent == raw::REDISMODULE_SUBEVENT_FORK_CHILD_BORN;
    item::is_saved(is_born);
    if !is_born {
        return;
    }
    caught("the start of a child", (), || {
        let context = Context::new(context);
        let flags = context.get_flags();
        if !flags.contains(ContextFlags::AOF | ContextFlags::MASTER) || flags.contains(ContextFlags::LOADING)
        {
            return;
        }
        let is_due = engine::with(|engine| {
            engine.books_are_due |= engine.is_without_items();
            engine.books_are_due
        });
        if is_due == Ok(true) {
            write_books(&context);
        }
    });
}

/// Writes the books into the AOF where they are due, unless Redis holds back whatever goes to replicas, as during
/// CLIENT PAUSE and a failover: then they are written afterwards.
pub fn write_books(context: &Context) {
    if !retention::may_write(context) {
        return;
    }
    let books =
        engine::with(|engine| std::mem::take(&mut engine.books_are_due).then(|| persist::save(engine)));
    if let Ok(Some(books)) = books {
        context.replicate("TANDEM.EFFECT", &[b"BOOKS".as_slice(), &books]);
    }
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
    if first == second {
        return;
    }
    caught("SWAPDB", (), || {
        let context = Context::new(context);
        let version_high = engine::with(|engine| {
            let mut a = engine.databases.remove(&first).unwrap_or_default();
            let mut b = engine.databases.remove(&second).unwrap_or_default();
            std::mem::swap(&mut a.index, &mut b.index);
            std::mem::swap(&mut a.locals, &mut b.locals);
            std::mem::swap(&mut a.tombstones, &mut b.tombstones);
            let version_high = a.version_high.max(b.version_high);
            (a.version_high, b.version_high) = (version_high, version_high);
            engine.databases.insert(first, a);
            engine.databases.insert(second, b);
            version_high
        });
        // The event comes after the swap: what waits in one database lies in the other's keyspace. Links stay
        // with the number they were made for, so their books stay too.
        keep_waiting_aside(&context, first, second);
        keep_waiting_aside(&context, second, first);
        for number in [first, second] {
            let _ = engine::with_database(number, |database| {
                for reading in database.readings.values_mut() {
                    reading.drop_filter();
                    reading.is_whole = false;
                }
                // What the other database has here now is here, and no ghost.
                let back = database.ghosts.iter().map(|(id, ..)| id);
                let back: Vec<Box<str>> =
                    back.filter(|id| database.index.get(id).is_some()).map(Into::into).collect();
                for id in back {
                    database.ghosts.remove(&id);
                }
                if let Ok(Some(version)) = version_high {
                    database.pending.everything_dropped(version);
                }
            });
            blocked::wake(number);
        }
    });
}
