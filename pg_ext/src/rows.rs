//! Small functions that the SQL in `sql/` calls for each row: checks, hashes, digests, bounds.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use tandem_shared::error::shown;
use tandem_shared::id::{check_id as check_id_rule, check_prefix as check_prefix_rule};
use tandem_shared::limits::ID_BYTES_MAX;
use tandem_shared::request::page_limit as page_limit_rule;
use tandem_shared::{ContentType, Error, Range, Result, State, Version};

/// The id if it is one. Errors: `INVALID`.
#[pg_extern(immutable, strict, parallel_safe)]
fn check_id(id: &str) -> &str {
    answer(check_id_rule(id).map_err(Into::into));
    id
}

/// The prefix if it is one. Errors: `INVALID`.
#[pg_extern(immutable, strict, parallel_safe)]
fn check_prefix(prefix: &str) -> &str {
    answer(check_prefix_rule(prefix).map_err(Into::into));
    prefix
}

/// The smallest text after everything that begins with a prefix, or a text after every id: unlike "less, or there is
/// no end", a comparison with it goes through an index. Errors: `INVALID`.
#[pg_extern(immutable, strict, parallel_safe)]
fn range_end(prefix: &str) -> String {
    end_or_last(answer(Range::of_prefix(prefix).map_err(Into::into)).end)
}

/// The end of a range, or a text after every id.
pub fn end_or_last(end: Option<String>) -> String {
    end.unwrap_or_else(|| char::MAX.to_string().repeat(ID_BYTES_MAX / char::MAX.len_utf8() + 1))
}

/// The state if it is one. Errors: `INVALID`.
#[pg_extern(immutable, strict, parallel_safe)]
fn check_state(state: &str) -> &str {
    answer(State::new(state).map_err(Into::into));
    state
}

/// The limit of a page, 100 for NULL. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn page_limit(lim: Option<i64>) -> i64 {
    answer(page_limit_rule(lim).map_err(Into::into)) as i64
}

/// Milliseconds since the Unix epoch by this server's clock.
#[pg_extern(volatile, parallel_safe)]
fn now_ms() -> i64 {
    store::now().unix_ms() as i64
}

/// The digest of a live item, NULL if any argument is.
#[pg_extern(stable, strict, parallel_safe)]
fn digest(version: i64, id: &str, state: &str, is_json: bool, payload_hash: &[u8]) -> Vec<u8> {
    let outcome = (|| -> Outcome<Vec<u8>> {
        let content_type = if is_json { ContentType::Json } else { ContentType::Binary };
        let hash = store::payload_hash(payload_hash)?;
        let version = Version::new(version.into())?.get();
        Ok(settings::digest_key().digest(version, id, state, content_type, &hash).0.to_vec())
    })();
    answer(outcome)
}

/// The version of the tombstone of a deleted row: what the function that deletes has decided, else the next one.
#[pg_extern(volatile, strict, parallel_unsafe)]
fn removed_version(id: &str, version: i64) -> i64 {
    let next = || Ok(Version::new(version.into())?.next()?.get() as i64);
    store::removals::version(id).unwrap_or_else(|| answer(next()))
}

/// The link on whose behalf this session writes; NULL for everybody else.
#[pg_extern(volatile, parallel_unsafe)]
fn origin() -> Option<String> {
    store::origin()
}

/// Whether one of tandem's own functions is writing, which has decided already what capture would decide.
#[pg_extern(volatile, parallel_unsafe)]
fn is_own_write() -> bool {
    store::is_own_write()
}

/// A position in the log: transaction and sequence. Errors: `INVALID`.
fn position(text: &str) -> Result<(i64, i64)> {
    let parse = |number: &str| number.parse::<i64>().ok().filter(|number| *number >= 0);
    let parts = text.split_once('-').and_then(|(xid, seq)| parse(xid).zip(parse(seq)));
    parts.ok_or_else(|| {
        Error::invalid(
            format!("position {}", shown(text)),
            "is not one of the log",
            "pass the pos of a change or what tandem.log_position() gives",
        )
    })
}

/// The transaction of a position, 0 for the beginning. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn position_xid(since: Option<&str>) -> i64 {
    answer(since.map_or(Ok((0, 0)), position).map_err(Into::into)).0
}

/// The sequence of a position, 0 for the beginning. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn position_seq(since: Option<&str>) -> i64 {
    answer(since.map_or(Ok((0, 0)), position).map_err(Into::into)).1
}

/// True if the log, emptied up to a position, reaches back to another one. Errors: `STALE`, `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn check_position(since: Option<&str>, truncated_xid: Option<i64>, truncated_seq: Option<i64>) -> bool {
    let (truncated_xid, truncated_seq) = (truncated_xid.unwrap_or(0), truncated_seq.unwrap_or(0));
    let check = |since: &str| -> Result<bool> {
        if position(since)? >= (truncated_xid, truncated_seq) {
            return Ok(true);
        }
        let first = format!("{truncated_xid}-{truncated_seq}");
        Err(Error::Truncated { position: shown(since), first })
    };
    answer(since.map_or(Ok(true), check).map_err(Into::into))
}
