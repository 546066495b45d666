//! The only file that opens keys. Values of our type are boxed [`Item`]s.

use crate::datatype::ITEM_TYPE;
use crate::item::Item;
use redis_module::{CallOptionsBuilder, CallResult, Context, ContextFlags, RedisString, raw};
use std::ptr::NonNull;
use tandem_shared::error::shown;
use tandem_shared::{Error, Result};

/// A key open for writing. What was changed is announced (WATCH, client tracking) when it is closed, and nothing is
/// where nothing was.
pub struct WritableKey<'a> {
    context: &'a Context,
    name: &'a RedisString,
    key: *mut raw::RedisModuleKey,
    is_changed: bool,
}

/// Why a key is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A client reads it: that is a hit or a miss, and moves the time of the last access.
    Access,
    /// A client asks whether it is there: that is a hit or a miss.
    Presence,
    /// For tandem's own purposes: counts nothing and tells nobody. A copy that has expired is gone afterwards.
    Unnoticed,
    /// The same, and a copy that has expired stays where Redis lets it stay, which is from 7.2 on.
    Still,
}

impl Look {
    /// How Redis opens a key for it. It counts hits and misses, and fires `keymiss`, for each key that is opened for
    /// reading, and 7.0 has no flag against that: what is to count nothing is opened for writing.
    fn mode(self) -> i32 {
        const READ: u32 = raw::REDISMODULE_READ;
        const TOUCHLESS: u32 = raw::REDISMODULE_OPEN_KEY_NOTOUCH;
        (match self {
            Look::Access => READ,
            Look::Presence => READ | TOUCHLESS,
            Look::Unnoticed => READ | raw::REDISMODULE_WRITE | TOUCHLESS,
            Look::Still => READ | raw::REDISMODULE_WRITE | TOUCHLESS | raw::REDISMODULE_OPEN_KEY_NOEXPIRE,
        }) as i32
    }
}

/// Whether this node of a cluster serves an id at this moment; every id outside of one. Redis looks at the keys of a
/// command before it runs; this is for ids that it does not see.
pub fn is_served(context: &Context, id: &str) -> bool {
    if !context.get_flags().contains(ContextFlags::CLUSTER) {
        return true;
    }
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    // Redis lets a module not so much as look at a key that another node serves.
    context.call_ext::<_, CallResult<'_>>("EXISTS", &options, &[id]).is_ok()
}

/// The refusal of an id that another node serves.
pub fn not_served(id: &str, remedy: &str) -> Error {
    Error::invalid(format!("id {}", shown(id)), "is served by another node of the cluster", remedy)
}

/// What stands at a key.
enum Kind {
    Empty,
    Item,
}

impl<'a> WritableKey<'a> {
    /// Opens a key; a copy that has expired is gone afterwards. Errors: `WRONGTYPE` when it holds another type.
    pub fn open(context: &'a Context, id: &str, name: &'a RedisString) -> Result<WritableKey<'a>> {
        let mode = raw::KeyMode::READ | raw::KeyMode::WRITE;
        let key = raw::open_key(context.get_raw(), name.inner, mode);
        let key = WritableKey { context, name, key, is_changed: false };
        kind_of(key.key, id)?;
        Ok(key)
    }

    /// The item stored.
    pub fn item(&self) -> Option<&Item> {
        // SAFETY: `open` checked that the key is empty or of our type; the value lives until the key is changed,
        // which takes `&mut self`.
        unsafe { value_of(self.key).map(|value| &*value) }
    }

    /// Stores an item: in place over an existing one (no callback fires and the time to live stays), as a new value
    /// otherwise.
    pub fn set(&mut self, item: Item) -> Result<()> {
        self.is_changed = true;
        // SAFETY: as in `item`; `&mut self` makes this the only reference.
        if let Some(value) = unsafe { value_of(self.key).map(|value| &mut *value) } {
            item.accessed_like(value);
            *value = item;
            return Ok(());
        }
        let value = Box::into_raw(Box::new(item));
        let raw_type = *ITEM_TYPE.raw_type.borrow();
        // SAFETY: the key is open for writing and empty, the type is registered; on success Redis owns the value.
        let status = unsafe {
            raw::RedisModule_ModuleTypeSetValue.map(|set_value| set_value(self.key, raw_type, value.cast()))
        };
        if status == Some(raw::Status::Ok as i32) {
            return Ok(());
        }
        // SAFETY: Redis did not take it.
        drop(unsafe { Box::from_raw(value) });
        Err(Error::corrupt("key", "Redis refused to store the value"))
    }

    /// Deletes the key.
    pub fn delete(&mut self) {
        self.is_changed = true;
        // SAFETY: the key is open for writing.
        unsafe { raw::RedisModule_DeleteKey.map(|delete| delete(self.key)) };
    }

    /// Sets the time to live in milliseconds from now, `None` clears it.
    pub fn expire_after(&mut self, milliseconds: Option<u64>) {
        self.is_changed = true;
        let milliseconds = match milliseconds {
            Some(milliseconds) => i64::try_from(milliseconds).unwrap_or(i64::MAX),
            None => i64::from(raw::REDISMODULE_NO_EXPIRE),
        };
        raw::set_expire(self.key, milliseconds);
    }

    /// Sets the Unix time in milliseconds at which the copy expires.
    pub fn expire_at(&mut self, unix_ms: i64) {
        self.is_changed = true;
        // SAFETY: the key is open for writing.
        unsafe { raw::RedisModule_SetAbsExpire.map(|set| set(self.key, unix_ms)) };
    }

    /// The Unix time in milliseconds at which the copy expires, -1 for never.
    pub fn expires_at(&self) -> i64 {
        // SAFETY: the key is open.
        unsafe { raw::RedisModule_GetAbsExpire.map_or(-1, |get| get(self.key)) }
    }
}

impl Drop for WritableKey<'_> {
    fn drop(&mut self) {
        if self.is_changed {
            // SAFETY: context and name outlive the key, and the context is that of the running command or callback.
            unsafe {
                raw::RedisModule_SignalModifiedKey
                    .map(|signal| signal(self.context.get_raw(), self.name.inner))
            };
        }
        raw::close_key(self.key);
    }
}

/// Runs `work` on the item at a key. `None` if the key is empty. Errors: `WRONGTYPE` when it holds another type.
pub fn with_item<T>(
    context: &Context,
    id: &str,
    look: Look,
    work: impl FnOnce(&Item) -> T,
) -> Result<Option<T>> {
    let name = RedisString::create_from_slice(context.get_raw(), id.as_bytes());
    with_named_item(context, id, &name, look, work)
}

/// As [`with_item`] where the caller has the key's name as Redis keeps it.
pub fn with_named_item<T>(
    context: &Context,
    id: &str,
    name: &RedisString,
    look: Look,
    work: impl FnOnce(&Item) -> T,
) -> Result<Option<T>> {
    // The crate's key closes itself when it is taken apart (2.0.8), so the raw call it is.
    let mode = look.mode();
    // SAFETY: context and name are the running callback's.
    let raw_key = unsafe {
        raw::RedisModule_OpenKey
            .map_or(std::ptr::null_mut(), |open| open(context.get_raw(), name.inner, mode).cast())
    };
    let raw_key: *mut raw::RedisModuleKey = raw_key;
    if raw_key.is_null() {
        return Ok(None);
    }
    let result = match kind_of(raw_key, id) {
        Ok(Kind::Item) => {
            // SAFETY: the key is of our type.
            let value = unsafe { value_of(raw_key) };
            // SAFETY: the key stays open until the end of this function, and nothing changes it meanwhile: `work`
            // gets a shared reference and Redis runs commands one at a time.
            Ok(value.map(|value| work(unsafe { &*value })))
        }
        Ok(Kind::Empty) => Ok(None),
        Err(error) => Err(error),
    };
    raw::close_key(raw_key);
    result
}

/// The name of a key as Redis wants it.
pub fn name(context: &Context, id: &str) -> RedisString {
    RedisString::create(NonNull::new(context.get_raw()), id)
}

fn kind_of(key: *mut raw::RedisModuleKey, id: &str) -> Result<Kind> {
    // SAFETY: the key is open or null, which the API takes for an empty one.
    let key_type = unsafe { raw::RedisModule_KeyType.map_or(0, |key_type| key_type(key)) };
    if key_type == raw::REDISMODULE_KEYTYPE_EMPTY as i32 {
        return Ok(Kind::Empty);
    }
    // SAFETY: the key is open.
    let module_type = unsafe { raw::RedisModule_ModuleTypeGetType.map(|get| get(key)) };
    if module_type == Some(*ITEM_TYPE.raw_type.borrow()) {
        return Ok(Kind::Item);
    }
    Err(Error::WrongType { key: shown(id) })
}

/// # Safety
/// The key must be open and empty or of our type.
unsafe fn value_of(key: *mut raw::RedisModuleKey) -> Option<*mut Item> {
    // SAFETY: values of our type are boxed items (`WritableKey::set`, `datatype::rdb_load`).
    let value = unsafe { raw::RedisModule_ModuleTypeGetValue.map(|get| get(key)) }?;
    if value.is_null() { None } else { Some(value.cast()) }
}
