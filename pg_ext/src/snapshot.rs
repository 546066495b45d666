//! Reading what is committed now inside a function, which by itself sees what was when its statement began.

use crate::capture::table_of_tandem;
use crate::error::Outcome;
use crate::store::undoable;
use pgrx::prelude::*;
use tandem_shared::Error;

#[pg_guard]
unsafe extern "C-unwind" {
    /// Locks a table and all below it, and returns their numbers. `catalog/pg_inherits.h`, which pgrx leaves out.
    fn find_all_inheritors(
        table: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// Reads with a snapshot of this moment, whatever the isolation of the transaction.
pub fn of_this_moment<T>(read: impl FnOnce() -> T) -> T {
    struct Pushed;
    impl Drop for Pushed {
        fn drop(&mut self) {
            // SAFETY: pops the snapshot that was pushed below.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
    // SAFETY: inside a transaction; the snapshot is copied as it is pushed.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let _pushed = Pushed;
    read()
}

/// Whether the transaction sees one moment only.
pub fn is_of_one_moment() -> bool {
    // SAFETY: a plain read of the backend's own transaction state.
    unsafe { pg_sys::XactIsoLevel > pg_sys::XACT_READ_COMMITTED as i32 }
}

/// The same as [`of_this_moment`], unless the transaction is one that sees one moment only.
pub fn of_this_moment_if_it_may<T>(read: impl FnOnce() -> T) -> T {
    if is_of_one_moment() { read() } else { of_this_moment(read) }
}

/// Reads the log without keeping its tables locked until the transaction ends: they could not be emptied for so long.
/// What is read is the caller's; a transaction that has read a hash stays out of everybody's way.
pub fn leaving_no_lock<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let mut value = None;
    // A subtransaction that is undone lets go of the locks that it took.
    undoable(|| {
        value = Some(read()?);
        Ok(None::<()>)
    })?;
    value.ok_or_else(|| Error::corrupt("the log", "reading it gave no answer").into())
}

/// Reads items as they are at this moment, unless the transaction is one that sees one moment only. Their tables are
/// locked first: a command that writes a table anew, as ALTER TABLE or CLUSTER may, makes its rows those of its own
/// transaction, and a snapshot from before its end sees none of them.
pub fn of_items<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let items = table_of_tandem(c"items")?;
    // SAFETY: locks tables in the order that the server itself locks them in.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        pg_sys::LockRelationOid(items, lock);
        let tables = find_all_inheritors(items, lock, std::ptr::null_mut());
        pg_sys::list_free(tables);
    }
    of_this_moment_if_it_may(read)
}
