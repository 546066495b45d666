//! The item's data type: how Redis saves, loads, copies, frees and measures it, and the auxiliary data that
//! keeps tombstones and the links' books in RDB files. Everything goes through the shared codec.

use crate::engine;
use crate::events;
use crate::guard::caught;
use crate::item::Item;
use crate::persist;
use redis_module::native_types::RedisType;
use redis_module::{RedisString, logging, raw};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, Ordering};
use tandem_shared::codec::Source;
use tandem_shared::digest;
use tandem_shared::id::id_of_key;

/// Format of what follows in RDB; each one ever shipped keeps its reader.
const ENCODING: i32 = 1;

/// The native type of items.
pub static ITEM_TYPE: RedisType = RedisType::new(
    "tandem-it",
    ENCODING,
    raw::RedisModuleTypeMethods {
        version: raw::REDISMODULE_TYPE_METHOD_VERSION as u64,
        rdb_load: Some(rdb_load),
        rdb_save: Some(rdb_save),
        aof_rewrite: Some(aof_rewrite),
        free: Some(free),
        digest: Some(debug_digest),
        aux_load: Some(aux_load),
        aux_save: Some(aux_save),
        aux_save_triggers: raw::Aux::Before as i32,
        unlink2: Some(unlink2),
        copy2: Some(copy2),
        mem_usage2: Some(mem_usage2),
        free_effort2: Some(free_effort2),
        // The plain forms are superseded by those that know the key.
        mem_usage: None,
        free_effort: None,
        unlink: None,
        copy: None,
        // Without a cursor a value is one box and its parts; Redis' own defragmentation of the box is enough.
        defrag: None,
        // Known to 7.2 and later only; 7.0 needs aux_save.
        aux_save2: None,
    },
);

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encoding: c_int) -> *mut c_void {
    caught("loading an item", null_mut(), || {
        if encoding != ENCODING {
            logging::log_warning(format!("tandem: item encoding {encoding} is newer than this module"));
            return null_mut();
        }
        let Ok(buffer) = raw::load_string_buffer(io) else { return null_mut() };
        // What RESTORE brings is a client's word; what a file or a full synchronisation brings was written by a
        // server.
        let is_loading = engine::with(|engine| engine.is_loading).unwrap_or_default();
        match Item::decode(buffer.as_ref(), if is_loading { Source::Own } else { Source::Foreign }) {
            Ok(item) => {
                // SAFETY: the names that Redis gives live as long as the callback.
                let (name, database) = unsafe {
                    (
                        raw::RedisModule_GetKeyNameFromIO.map(|get| get(io)),
                        raw::RedisModule_GetDbIdFromIO.map_or(0, |get| get(io)),
                    )
                };
                if let Some(name) = name.filter(|name| !name.is_null())
                    && let Some(id) = id_of_key(RedisString::string_as_slice(name))
                {
                    events::item_read(database, id, &item);
                }
                Box::into_raw(Box::new(item)).cast()
            }
            Err(error) => {
                logging::log_warning(format!("tandem: {error}"));
                null_mut()
            }
        }
    })
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: values of this type are boxed items, alive during the callback.
    let item = unsafe { &*value.cast::<Item>() };
    caught("saving an item", (), || raw::save_slice(io, &item.encode()));
}

unsafe extern "C" fn free(value: *mut c_void) {
    // SAFETY: Redis hands the box back for good. It may run on a background thread: a pure drop.
    drop(unsafe { Box::from_raw(value.cast::<Item>()) });
}

/// The child that rewrites the AOF, so that each one writes the books once.
static REWRITER: AtomicI64 = AtomicI64::new(0);

unsafe extern "C" fn aof_rewrite(
    aof: *mut raw::RedisModuleIO,
    key: *mut raw::RedisModuleString,
    value: *mut c_void,
) {
    // SAFETY: as in `rdb_save`.
    let item = unsafe { &*value.cast::<Item>() };
    caught("rewriting an item", (), || {
        let process = i64::from(std::process::id());
        if REWRITER.swap(process, Ordering::Relaxed) != process {
            persist::rewrite_books(aof);
        }
        persist::emit(aof, &[b"RESTORE", RedisString::string_as_slice(key), &item.encode()]);
    });
}

unsafe extern "C" fn debug_digest(sink: *mut raw::RedisModuleDigest, value: *mut c_void) {
    // SAFETY: as in `rdb_save`.
    let item = unsafe { &*value.cast::<Item>() };
    caught("DEBUG DIGEST", (), || {
        let encoded = item.encode();
        // SAFETY: the sink is Redis', the buffer outlives the call.
        unsafe {
            if let Some(add) = raw::RedisModule_DigestAddStringBuffer {
                add(sink, encoded.as_ptr().cast(), encoded.len());
            }
            if let Some(end) = raw::RedisModule_DigestEndSequence {
                end(sink);
            }
        }
    });
}

unsafe extern "C" fn unlink2(options: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) {
    // SAFETY: as in `rdb_save`. After RENAME and MOVE the value lives on, so it is only read.
    let item = unsafe { &*value.cast::<Item>() };
    // SAFETY: the context is Redis'; the name lives as long as the callback.
    let (name, database) = unsafe {
        (
            raw::RedisModule_GetKeyNameFromOptCtx.map(|get| get(options)),
            raw::RedisModule_GetDbIdFromOptCtx.map_or(0, |get| get(options)),
        )
    };
    caught("dropping an item", (), || {
        let Some(name) = name.filter(|name| !name.is_null()) else { return };
        if let Some(id) = id_of_key(RedisString::string_as_slice(name)) {
            events::item_unlinked(database, id, item);
        }
    });
}

unsafe extern "C" fn copy2(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> *mut c_void {
    // SAFETY: as in `rdb_save`.
    let item = unsafe { &*value.cast::<Item>() };
    caught("copying an item", null_mut(), || Box::into_raw(Box::new(item.clone())).cast())
}

unsafe extern "C" fn mem_usage2(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void, _: usize) -> usize {
    // SAFETY: as in `rdb_save`.
    let item = unsafe { &*value.cast::<Item>() };
    let revision = &item.revision;
    let content = revision.content().map_or(0, |content| content.bytes().len());
    let audit = revision.audit.as_ref().map_or(0, |audit| audit.as_str().len());
    let state = revision.head().live.map_or(0, |live| live.state.len());
    size_of::<Item>() + content + audit + state
}

/// Freeing is a few calls, but giving back a large content may be worth a background thread: one unit a page.
unsafe extern "C" fn free_effort2(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> usize {
    // SAFETY: as in `rdb_save`.
    let item = unsafe { &*value.cast::<Item>() };
    1 + item.revision.content().map_or(0, |content| content.bytes().len()) / 4096
}

unsafe extern "C" fn aux_save(io: *mut raw::RedisModuleIO, _when: c_int) {
    caught("saving tandem's books", (), || {
        if let Ok(books) = engine::with(persist::save) {
            raw::save_slice(io, &books);
        }
    });
}

unsafe extern "C" fn aux_load(io: *mut raw::RedisModuleIO, encoding: c_int, _when: c_int) -> c_int {
    caught("loading tandem's books", raw::Status::Err as c_int, || {
        let loaded = (|| {
            if encoding != ENCODING {
                return Err(format!("its encoding {encoding} is newer than this module"));
            }
            let buffer = raw::load_string_buffer(io).map_err(|error| error.to_string())?;
            let books = persist::load(buffer.as_ref()).map_err(|error| error.to_string())?;
            engine::with(|engine| persist::install(engine, books)).map_err(|error| error.to_string())
        })();
        match loaded {
            Ok(()) => raw::Status::Ok as c_int,
            Err(problem) => {
                logging::log_warning(format!("tandem: the RDB's auxiliary data is refused: {problem}"));
                raw::Status::Err as c_int
            }
        }
    })
}

/// Hex of the digest key's check value, which links compare.
pub fn key_check() -> tandem_shared::Result<String> {
    engine::with(|engine| digest::hex(&engine.key.check()))
}
