//! Just-in-time compilation, off for tandem's own statements: they are estimated over logs and blocks that were
//! never analysed and look dear enough to compile, which takes 70 ms, where running them takes one.

use pgrx::pg_sys;

struct Saved(i32);

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: ends the level begun in `without`, as Postgres does for a function with a SET clause.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}

/// Runs `work` with `jit = off` and gives the caller its own setting back.
pub fn without<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the names are literals with their NUL; `jit` is a setting that every user may change.
    let _saved = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"jit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        Saved(level)
    };
    work()
}
