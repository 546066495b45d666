//! Transactions of a worker that survive errors: a failed statement must not end the worker.

use crate::error::Outcome;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// Why a transaction was rolled back.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What the server said.
    pub message: String,
    /// Whether trying again may help.
    pub kind: FailureKind,
    /// Somebody has cancelled the statement.
    is_cancel: bool,
}

/// What an error says of another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The data is refused, and will be again.
    Data,
    /// Code of a user, as a trigger, says of this data that somebody is in the way or that the server cannot do it.
    /// It may say so for ever.
    Claimed,
    /// Somebody else is in the way, of this data and maybe of no other.
    Lock,
    /// The server cannot do it at present.
    Passing,
}

impl FailureKind {
    /// Of an SQLSTATE, and of whether the server itself gives it. Whatever is not known to pass does not: triggers,
    /// constraints and functions of users may give any.
    fn of(sql_state: &str, is_of_server: bool) -> FailureKind {
        let kind = match sql_state {
            // Lock not available. Deadlock, and other ways of two transactions to be in each other's way.
            "55P03" => FailureKind::Lock,
            state if state.starts_with("40") => FailureKind::Lock,
            // A standby, or a server that was made to be read only.
            "25006" => FailureKind::Passing,
            // Connections (of foreign tables), resources, operators' interventions, the system.
            state if ["08", "53", "57", "58"].iter().any(|class| state.starts_with(class)) => {
                FailureKind::Passing
            }
            _ => FailureKind::Data,
        };
        if kind == FailureKind::Data || is_of_server { kind } else { FailureKind::Claimed }
    }

    /// Whether it says something of the data, and of nothing else.
    pub fn is_of_data(self) -> bool {
        matches!(self, FailureKind::Data | FailureKind::Claimed)
    }
}

impl Failed {
    /// Whether the data is at fault, as far as can be told from one try.
    pub fn is_of_data(&self) -> bool {
        self.kind.is_of_data()
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Runs `work` in a transaction of its own; any error or panic rolls it back.
pub fn transaction<T>(work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
    let work = AssertUnwindSafe(work);
    PgTryBuilder::new(AssertUnwindSafe(move || {
        let work = AssertUnwindSafe(move || {
            hold_extension();
            crate::error::answer({ work }.0())
        });
        let value = BackgroundWorker::transaction(work);
        // Vacuum and analyze go by what every process tells; backends do so when they become idle.
        // SAFETY: no transaction is open.
        let _ = unsafe { pg_sys::pgstat_report_stat(false) };
        Ok(value)
    }))
    .catch_others(|error| Err(rolled_back(&error)))
    .catch_rust_panic(|error| Err(rolled_back(&error)))
    .execute()
}

/// Keeps the extension from being dropped until the present transaction ends. DROP EXTENSION locks the extension
/// first and then one table after another; a worker that has a table then would wait for the next one, and one of the
/// two would have to fail.
fn hold_extension() {
    // SAFETY: inside a transaction, of which this is the first lock; whoever drops the extension is waited for.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"tandem".as_ptr(), true);
        if extension != pg_sys::InvalidOid {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, lock);
        }
    }
}

/// As [`transaction`], for what is acknowledged elsewhere when it has committed: it is on this server's disk then,
/// whatever the settings say, and with it everything that it saw. It waits for a lock no longer than so long.
pub fn durable<T>(lock_timeout: &CStr, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
    let value = transaction(|| {
        set_local(c"lock_timeout", lock_timeout);
        let value = work()?;
        // Not through synchronous_commit, which a trigger may set.
        // SAFETY: a flag of the present transaction.
        unsafe { pg_sys::ForceSyncCommit() };
        Ok(value)
    })?;
    // What was found to be there already may be of a transaction that did not wait for the disk.
    flush_log();
    Ok(value)
}

/// Gives a setting a value for the present transaction.
fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: inside a transaction, whose end gives the setting its value back.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        )
    };
}

/// Returns when everything that this process has seen is on the server's disk.
fn flush_log() {
    // SAFETY: the server is not in recovery, where no worker of ours runs. The place where the next record would begin
    // lies behind the header of a page if the log ends with the page before it; there is nothing to flush in a header.
    unsafe {
        let next = pg_sys::GetXLogInsertRecPtr();
        let into_page = next % u64::from(pg_sys::XLOG_BLCKSZ);
        let header = if (next - into_page).is_multiple_of(pg_sys::wal_segment_size as u64) {
            LONG_HEADER
        } else {
            HEADER
        };
        pg_sys::XLogFlush(if into_page == header { next - into_page } else { next });
    }
}

/// Bytes of the header of a page of the log.
const HEADER: u64 = size_of::<pg_sys::XLogPageHeaderData>() as u64;
/// Bytes of that of the first page of a file.
const LONG_HEADER: u64 = size_of::<pg_sys::XLogLongPageHeaderData>() as u64;

/// What a subtransaction changes and does not put back.
#[derive(Clone, Copy)]
struct Before {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Before {
    /// Begins a subtransaction.
    fn begin() -> Before {
        // SAFETY: inside a transaction; as the server's own languages do around code that may fail.
        unsafe {
            let before = Before { memory: pg_sys::CurrentMemoryContext, owner: pg_sys::CurrentResourceOwner };
            pg_sys::BeginInternalSubTransaction(std::ptr::null());
            pg_sys::MemoryContextSwitchTo(before.memory);
            before
        }
    }

    fn end(self, is_kept: bool) {
        // SAFETY: the subtransaction is the innermost one; memory and owner are older than it and live on.
        unsafe {
            if is_kept {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
            pg_sys::MemoryContextSwitchTo(self.memory);
            pg_sys::CurrentResourceOwner = self.owner;
        }
    }

    fn undo<T>(self, error: CaughtError) -> Result<T, Failed> {
        self.end(false);
        let failed = described(&error);
        if failed.is_cancel { error.rethrow() } else { Err(failed) }
    }
}

/// Runs `work` so that an error undoes it and nothing before it; that somebody cancels it goes on to the caller. For
/// functions, which run inside their caller's transaction.
pub fn savepoint<T>(work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
    let before = &AssertUnwindSafe(Before::begin());
    let work = AssertUnwindSafe(work);
    PgTryBuilder::new(AssertUnwindSafe(move || {
        let value = crate::error::answer({ work }.0());
        before.end(true);
        Ok(value)
    }))
    .catch_others(move |error| before.undo(error))
    .catch_rust_panic(move |error| before.undo(error))
    .execute()
}

fn rolled_back(error: &CaughtError) -> Failed {
    // SAFETY: the transaction began in `transaction` and has failed; this is what a backend does after an error.
    unsafe { pg_sys::AbortCurrentTransaction() };
    described(error)
}

fn described(error: &CaughtError) -> Failed {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = error;
    let state = report.sql_error_code() as i32;
    // SAFETY: gives a text of the server's own memory, which the next call overwrites.
    let state = unsafe { CStr::from_ptr(pg_sys::unpack_sql_state(state)) }.to_string_lossy().into_owned();
    // What a statement of a language raises has the language's name as its domain, and what a library of C raises the
    // server's.
    let is_of_server = report.domain().is_none_or(|domain| !domain.starts_with("pl"));
    let kind = FailureKind::of(&state, is_of_server);
    Failed { message: report.message().to_owned(), kind, is_cancel: is_of_server && state == "57014" }
}
