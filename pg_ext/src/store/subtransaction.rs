//! Work that can be undone within the caller's transaction.

use crate::error::Outcome;
use pgrx::pg_sys;
use pgrx::prelude::PgTryBuilder;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction. What it did stays if it returns a value; with nothing or an error it is undone,
/// and the locks it took are let go.
pub fn undoable<T>(work: impl FnOnce() -> Outcome<Option<T>>) -> Outcome<Option<T>> {
    // SAFETY: plain reads of the backend's own state, which are put back below, as PL/pgSQL does around a block with
    // an exception clause.
    let (memory, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: a function runs inside a transaction; without a name the subtransaction has none.
    unsafe {
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
    }
    // SAFETY: ends the subtransaction begun above: `work` leaves none open, as each that it begins ends here too.
    let end = move |keep: bool| unsafe {
        pg_sys::MemoryContextSwitchTo(memory);
        if keep {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
    };
    // An error that left the subtransaction open would leave the session in it: Postgres takes it for a savepoint.
    let result = PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(|error| {
            end(false);
            error.rethrow()
        })
        .catch_rust_panic(|error| {
            end(false);
            error.rethrow()
        })
        .execute();
    end(matches!(result, Ok(Some(_))));
    result
}
