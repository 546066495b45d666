//! Reading what is committed now inside a function, which by itself sees what was when its statement began.

use pgrx::pg_sys;

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

/// The same, unless the transaction is one that sees one moment only.
pub fn of_this_moment_if_it_may<T>(read: impl FnOnce() -> T) -> T {
    // SAFETY: a plain read of the backend's own transaction state.
    if unsafe { pg_sys::XactIsoLevel } > pg_sys::XACT_READ_COMMITTED as i32 {
        return read();
    }
    of_this_moment(read)
}
