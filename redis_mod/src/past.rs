//! `EXPIRE x 0` and its kin. Where the time to live that is asked for has passed, Redis deletes the key and announces
//! it as it does DEL. But DEL drops a copy, which a mirror brings back, and this one is meant to be gone. So each
//! command is looked at before it runs, for its name.

use crate::guard::caught;
use redis_module::{Context, RedisString, raw};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time that is so near counts as passed: it may have when the command runs.
const NEAR_MS: i64 = 1000;
/// Keys of commands that may be waiting in a transaction.
const QUEUED_MAX: usize = 1000;

#[derive(Default)]
struct Seen {
    /// The key of the command that runs, if that ends a time to live.
    key: Option<Vec<u8>>,
    /// The command that runs is EXEC: what it runs was looked at when it was queued.
    is_exec: bool,
    /// Keys of such commands that were seen and may be in a queue.
    queued: BTreeSet<Vec<u8>>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Whether the command that runs has deleted this key because its time to live has passed.
pub fn has_passed(key: &[u8]) -> bool {
    SEEN.with_borrow_mut(|seen| {
        let is_it = seen.key.as_deref() == Some(key);
        let was_queued = (is_it || seen.is_exec) && seen.queued.remove(key);
        is_it || was_queued
    })
}

/// Looks at every command from now on. `None` if Redis refuses.
pub fn watch(context: &Context) -> Option<()> {
    // SAFETY: the callback has the API's signature and lives as long as the module.
    let filter = unsafe {
        raw::RedisModule_RegisterCommandFilter
            .map(|register| register(context.get_raw(), Some(on_command), 0))
    }?;
    (!filter.is_null()).then_some(())
}

unsafe extern "C" fn on_command(filter: *mut raw::RedisModuleCommandFilterCtx) {
    let argument = |place: c_int| {
        // SAFETY: the context is the running callback's; an argument that is not there is null.
        let string = unsafe { raw::RedisModule_CommandFilterArgGet.map(|get| get(filter, place)) };
        let string = string.filter(|string| !string.is_null())?;
        // SAFETY: the string lives as long as the callback.
        Some(RedisString::string_as_slice(string))
    };
    caught("looking at a command", (), || {
        let Some(name) = argument(0) else { return };
        let passed = is_named(name).and_then(|kind| Some((argument(1)?, kind.at(argument(2)?, now_ms())?)));
        let key =
            passed.filter(|(_, at)| *at <= now_ms().saturating_add(NEAR_MS)).map(|(key, _)| key.to_vec());
        SEEN.with_borrow_mut(|seen| {
            if let Some(key) = &key
                && seen.queued.len() < QUEUED_MAX
            {
                seen.queued.insert(key.clone());
            } else if key.is_some() {
                seen.queued.clear();
            }
            seen.key = key;
            seen.is_exec = name.eq_ignore_ascii_case(b"exec");
        });
    });
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// How a command names a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// Milliseconds of its unit.
    unit: i64,
    /// From now on, and not from the Unix epoch on.
    is_relative: bool,
}

impl Kind {
    /// The time in milliseconds since the Unix epoch.
    fn at(self, text: &[u8], now: i64) -> Option<i64> {
        let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        let at = number.saturating_mul(self.unit);
        Some(if self.is_relative { at.saturating_add(now) } else { at })
    }
}

/// The kind of a command that sets a time to live.
fn is_named(name: &[u8]) -> Option<Kind> {
    let kind = |unit, is_relative| Some(Kind { unit, is_relative });
    match name.len() {
        6 if name.eq_ignore_ascii_case(b"expire") => kind(1000, true),
        7 if name.eq_ignore_ascii_case(b"pexpire") => kind(1, true),
        8 if name.eq_ignore_ascii_case(b"expireat") => kind(1000, false),
        9 if name.eq_ignore_ascii_case(b"pexpireat") => kind(1, false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_the_command_means_it() {
        for (name, text, at) in [
            ("EXPIRE", "-1", Some(9000)),
            ("pexpire", "5", Some(10_005)),
            ("ExpireAt", "3", Some(3000)),
            ("PEXPIREAT", "3", Some(3)),
            ("EXPIRE", "9223372036854775807", Some(i64::MAX)),
            ("EXPIRE", "soon", None),
        ] {
            let kind = is_named(name.as_bytes()).unwrap();
            assert_eq!(kind.at(text.as_bytes(), 10_000), at, "{name} {text}");
        }
        assert!(is_named(b"PERSIST").is_none() && is_named(b"DEL").is_none());
    }
}
