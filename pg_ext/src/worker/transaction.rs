//! Transactions of a worker that survive errors: a failed statement must not end the worker.

use crate::error::Outcome;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// Why a transaction was rolled back.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What the server said.
    pub message: String,
    /// Whether the data is at fault, so that trying again will not help.
    pub is_data: bool,
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
        let work = AssertUnwindSafe(move || crate::error::answer({ work }.0()));
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
        if failed.is_data { Err(failed) } else { error.rethrow() }
    }
}

/// Runs `work` so that data which the server refuses undo it and nothing before it; any other error goes on to the
/// caller. For functions, which run inside their caller's transaction.
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
    let state = report.sql_error_code();
    let is_data = matches!(
        state,
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            | PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION
            | PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER
            | PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE
            | PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
            | PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
            | PgSqlErrorCode::ERRCODE_CHECK_VIOLATION
            | PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION
            | PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION
            | PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION
            | PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION
            | PgSqlErrorCode::ERRCODE_DATA_CORRUPTED
    );
    Failed { message: report.message().to_owned(), is_data }
}
