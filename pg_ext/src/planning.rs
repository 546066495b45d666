//! Planner settings for tandem's own statements. They look up a few rows in a log and in blocks that were never
//! analysed; by its default estimates the planner reads the whole log and compiles the statement, 40 ms and more
//! where going through the index takes less than one.

use pgrx::pg_sys;
use std::ffi::CStr;

struct Saved(i32);

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: ends the level begun in `with`, as Postgres does for a function with a SET clause.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}

/// Runs `work` without just-in-time compilation.
pub fn uncompiled<T>(work: impl FnOnce() -> T) -> T {
    with(&[c"jit"], work)
}

/// Runs `work` without compilation and through indexes.
pub fn by_index<T>(work: impl FnOnce() -> T) -> T {
    with(&[c"jit", c"enable_seqscan"], work)
}

/// Runs `work` with settings off, and gives the caller its own back.
fn with<T>(off: &[&CStr], work: impl FnOnce() -> T) -> T {
    // SAFETY: begins a level that `Saved` ends.
    let _saved = Saved(unsafe { pg_sys::NewGUCNestLevel() });
    for name in off {
        // SAFETY: the names are literals of settings that every user may change.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                c"off".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            )
        };
    }
    work()
}
