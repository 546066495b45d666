//! The one error enum of tandem (DESIGN section 9). Redis shows `-CODE message`, Postgres the same message
//! with a SQLSTATE. Messages say what was wrong, with the value, and what to do; they are written here and
//! nowhere else.

use thiserror::Error;

/// Stable code words; clients match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// An id, state, option or number is not acceptable.
    Invalid,
    /// The content is not JSON that both engines can hold.
    BadJson,
    /// Something exceeds a limit.
    TooLarge,
    /// A Redis key holds another type than an item.
    WrongType,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    Exists,
    /// Etag or version did not match.
    Conflict,
    /// The write is older than what is stored.
    Stale,
    /// The content does not fit its schema.
    Schema,
    /// A name matches several things.
    Ambiguous,
    /// The thing is sealed.
    Sealed,
    /// A hash does not match or bytes cannot be decoded.
    Corrupt,
    /// A bound of what may wait is reached.
    Backpressure,
    /// Waiting took too long.
    Timeout,
    /// There is no link, or it is not usable.
    NoLink,
}

impl Code {
    /// The word that clients see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::Invalid => "INVALID",
            Code::BadJson => "BADJSON",
            Code::TooLarge => "TOOLARGE",
            Code::WrongType => "WRONGTYPE",
            Code::NotFound => "NOTFOUND",
            Code::Exists => "EXISTS",
            Code::Conflict => "CONFLICT",
            Code::Stale => "STALE",
            Code::Schema => "SCHEMA",
            Code::Ambiguous => "AMBIGUOUS",
            Code::Sealed => "SEALED",
            Code::Corrupt => "CORRUPT",
            Code::Backpressure => "BACKPRESSURE",
            Code::Timeout => "TIMEOUT",
            Code::NoLink => "NOLINK",
        }
    }
}

/// What can go wrong, with the values that a person needs to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is not acceptable: `what` names it, `problem` says why, `remedy` what to do.
    #[error("{what} {problem}; {remedy}")]
    Invalid {
        /// The argument and its value, shortened.
        what: String,
        /// Why it is refused.
        problem: String,
        /// What to do instead.
        remedy: String,
    },
    /// JSON text is refused at byte `offset`.
    #[error("{what} is refused at byte {offset}: {problem}; {remedy}")]
    BadJson {
        /// Whose text it is.
        what: &'static str,
        /// Position in the text that came in, in bytes from 0.
        offset: usize,
        /// What is wrong there.
        problem: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// `what` has `actual_bytes`, more than `limit_bytes`.
    #[error("{what} has {actual_bytes} bytes, at most {limit_bytes} are allowed; shorten it or split it")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        actual_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A Redis key holds another type: Redis' own code for it.
    #[error("key {key} holds another Redis type, not an item; delete it or choose another id")]
    WrongType {
        /// The key, shortened.
        key: String,
    },
    /// Nothing is stored under that name.
    #[error("{what} does not exist; create it first")]
    NotFound {
        /// The thing and its name.
        what: String,
    },
    /// Something is stored under that name already.
    #[error("{what} exists already (etag {etag}); read it and pass its etag, or choose another id")]
    Exists {
        /// The thing and its name.
        what: String,
        /// Etag of what is stored.
        etag: String,
    },
    /// The expected etag is not the current one.
    #[error("{what} has changed: expected etag {expected}, current is {current}; read it again and retry")]
    Conflict {
        /// The thing and its name.
        what: String,
        /// What the caller expected.
        expected: String,
        /// What is stored: an etag, or `none`.
        current: String,
    },
    /// Another transaction was first, and this one may not see what it did.
    #[error("{what} {happened} by another transaction meanwhile; run the transaction again")]
    Raced {
        /// The thing and its name.
        what: String,
        /// What happened to it: "was removed", "was put".
        happened: &'static str,
    },
    /// The item is in another state than the caller moves it from.
    #[error("{what} is in state {current}, not {expected}; read it again and retry")]
    StateConflict {
        /// The thing and its name.
        what: String,
        /// The state the caller expected, shortened.
        expected: String,
        /// The state it has, shortened.
        current: String,
    },
    /// The version offered does not exceed the stored one.
    #[error("{what} is at version {current}, version {offered} is not newer; use a higher version or none")]
    Stale {
        /// The thing and its name.
        what: String,
        /// Version stored.
        current: u64,
        /// Version offered.
        offered: u64,
    },
    /// The log no longer holds what follows a position.
    #[error(
        "the log reaches back to {first}, not to {position}; take a new position, read the items and go on from it"
    )]
    Truncated {
        /// The position asked for.
        position: String,
        /// The oldest position from which the log is complete.
        first: String,
    },
    /// Bytes cannot be decoded, or a hash does not match.
    #[error("{what} is corrupt: {problem}; send it again from its source")]
    Corrupt {
        /// What was decoded or checked.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A bound of what may wait is reached.
    #[error("{what} holds {actual}, the bound is {limit}; wait for the link to catch up or raise the bound")]
    Backpressure {
        /// The queue.
        what: &'static str,
        /// Its size now.
        actual: usize,
        /// Its bound.
        limit: usize,
    },
    /// Waiting took too long.
    #[error("{what} took longer than {limit_ms} ms; look at the link's state and retry")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The time limit.
        limit_ms: u64,
    },
    /// One item of a batch is refused, and with it the batch.
    #[error("item {place} of the batch ({id}): {error}")]
    AtItem {
        /// Its place, from 0.
        place: usize,
        /// Its id, shortened.
        id: String,
        /// Why.
        error: Box<Error>,
    },
    /// There is no such link, or it is not usable.
    #[error("{what}: {problem}; {remedy}")]
    NoLink {
        /// The link.
        what: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The stable code word.
    pub fn code(&self) -> Code {
        match self {
            Error::Invalid { .. } => Code::Invalid,
            Error::BadJson { .. } => Code::BadJson,
            Error::TooLarge { .. } => Code::TooLarge,
            Error::WrongType { .. } => Code::WrongType,
            Error::NotFound { .. } => Code::NotFound,
            Error::Exists { .. } => Code::Exists,
            Error::Conflict { .. } | Error::StateConflict { .. } | Error::Raced { .. } => Code::Conflict,
            Error::Stale { .. } | Error::Truncated { .. } => Code::Stale,
            Error::Corrupt { .. } => Code::Corrupt,
            Error::Backpressure { .. } => Code::Backpressure,
            Error::Timeout { .. } => Code::Timeout,
            Error::NoLink { .. } => Code::NoLink,
            Error::AtItem { error, .. } => error.code(),
        }
    }

    /// What to do about it, as the message ends.
    pub fn remedy(&self) -> Option<String> {
        self.to_string().rsplit_once("; ").map(|(_, remedy)| remedy.to_owned())
    }

    /// An argument is refused.
    pub fn invalid(what: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Invalid { what: what.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// JSON is refused at a byte.
    pub fn bad_json(offset: usize, problem: &'static str) -> Error {
        let (what, remedy) = ("JSON content", "mend the text or store it as BINARY");
        Error::BadJson { what, offset, problem, remedy }
    }

    /// The same of JSON that is no content, and so cannot be binary.
    #[must_use]
    pub fn in_json_of(self, what: &'static str) -> Error {
        match self {
            Error::BadJson { offset, problem, .. } => {
                Error::BadJson { what, offset, problem, remedy: "mend the text" }
            }
            other => other,
        }
    }

    /// This error as that of one item of a batch.
    pub fn at_item(self, place: usize, id: &str) -> Error {
        Error::AtItem { place, id: shown(id), error: Box::new(self) }
    }

    /// Another transaction was first.
    pub fn raced(what: impl Into<String>, happened: &'static str) -> Error {
        Error::Raced { what: what.into(), happened }
    }

    /// Bytes or a hash are wrong.
    pub fn corrupt(what: &'static str, problem: impl Into<String>) -> Error {
        Error::Corrupt { what, problem: problem.into() }
    }
}

/// A value for a message: quoted, control characters escaped, cut to 40 characters.
pub fn shown(value: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    let mut chars = value.chars();
    let head: String = chars.by_ref().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { format!("'{head}…'") } else { format!("'{head}'") }
}
