//! How a process of tandem begins: its connection, its signals, and settings of its own.

use super::transaction::transaction;
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Settings that the processes have whatever the cluster, the database or the role says, as the server's own processes
/// for replication do. Objects of users are never found under the names that our statements use; our transactions may
/// write, see what is committed, wait and take as long as they need, and fire triggers as ordinary ones do.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"role", c"none"),
    (c"session_replication_role", c"origin"),
    (c"row_security", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"lock_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"idle_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    (c"check_function_bodies", c"on"),
    (c"standard_conforming_strings", c"on"),
    (c"transform_null_equals", c"off"),
    (c"array_nulls", c"on"),
];

unsafe extern "C-unwind" {
    /// Postgres' own handler for SIGTERM, which also interrupts a running statement.
    fn die(signal: std::ffi::c_int);
}

/// Connects this process to a database.
pub fn begin(database: &str) {
    // SAFETY: `die` is the server's own handler. pgrx' one would only set a flag, and a worker that returns after
    // it counts as finished and is not started again.
    unsafe { pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die)) };
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    BackgroundWorker::connect_worker_to_spi(Some(database), None);
    let set = transaction(|| {
        for (name, value) in SETTINGS {
            // SAFETY: names and values are literals. What is set by override outlives a reload of the configuration.
            unsafe {
                pg_sys::SetConfigOption(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_SUSET,
                    pg_sys::GucSource::PGC_S_OVERRIDE,
                )
            };
        }
        Ok(())
    });
    if let Err(failed) = set {
        // Without them nothing of ours may run.
        pgrx::error!("tandem: {failed}");
    }
}

/// Handles a SIGTERM that came meanwhile, and a changed configuration.
pub fn interrupts() {
    pg_sys::check_for_interrupts!();
    if BackgroundWorker::sighup_received() {
        // SAFETY: called on the worker's main thread, as backends do it.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
}
