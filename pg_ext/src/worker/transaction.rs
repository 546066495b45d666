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
        Ok(BackgroundWorker::transaction(work))
    }))
    .catch_others(|error| Err(rolled_back(&error)))
    .catch_rust_panic(|error| Err(rolled_back(&error)))
    .execute()
}

fn rolled_back(error: &CaughtError) -> Failed {
    // SAFETY: the transaction began in `transaction` and has failed; this is what a backend does after an error.
    unsafe { pg_sys::AbortCurrentTransaction() };
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
