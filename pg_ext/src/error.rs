//! Errors as Postgres shows them: the shared message, a SQLSTATE of its own for each code, and the code word in
//! DETAIL. The only file that reports.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};
use tandem_shared::{Code, Error};

/// What can go wrong inside a function of this extension.
#[derive(Debug)]
pub enum Failure {
    /// A rule of tandem refuses.
    Rule(Error),
    /// The server refuses a statement of ours.
    Spi(pgrx::spi::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Rule(error)
    }
}

impl From<pgrx::spi::Error> for Failure {
    fn from(error: pgrx::spi::Error) -> Failure {
        Failure::Spi(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Rule(error) => error.fmt(f),
            Failure::Spi(error) => error.fmt(f),
        }
    }
}

/// Result inside this extension.
pub type Outcome<T> = Result<T, Failure>;

/// Gives the value to the caller or ends the statement with the error.
pub fn answer<T>(outcome: Outcome<T>) -> T {
    match outcome {
        Ok(value) => value,
        Err(Failure::Rule(error)) => raise(&error),
        Err(Failure::Spi(error)) => raise(&Error::corrupt("tandem's tables", error.to_string())),
    }
}

fn raise(error: &Error) -> ! {
    let report = ErrorReport::new(sql_state(error.code()), error.to_string(), "tandem")
        .set_detail(format!("code {}", error.code().as_str()));
    match error.remedy() {
        Some(remedy) => report.set_hint(remedy),
        None => report,
    }
    .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// The SQLSTATE of a code; each one has its own, so that clients can tell them apart.
fn sql_state(code: Code) -> PgSqlErrorCode {
    match code {
        Code::BadJson => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        Code::TooLarge => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        Code::NotFound => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        Code::Exists => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        Code::Conflict => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        Code::Stale => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        Code::Schema => PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
        Code::Ambiguous => PgSqlErrorCode::ERRCODE_CARDINALITY_VIOLATION,
        Code::Sealed => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        Code::Corrupt => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        Code::Backpressure => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        Code::Timeout => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        Code::NoLink => PgSqlErrorCode::ERRCODE_CONNECTION_DOES_NOT_EXIST,
        // INVALID, and codes that a newer shared crate may add.
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    }
}
