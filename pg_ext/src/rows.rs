//! Small functions that the SQL in `sql/` calls for each row: checks, hashes, digests, bounds.

use crate::error::{Outcome, answer};
use crate::log;
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use tandem_shared::error::shown;
use tandem_shared::id::{check_id as check_id_rule, check_prefix as check_prefix_rule};
use tandem_shared::limits::ID_BYTES_MAX;
use tandem_shared::log::{Position, Snapshot};
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

/// A position in the log. Errors: `INVALID`.
fn position(text: Option<&str>) -> Position {
    answer(Position::parse(text.unwrap_or_default()).map_err(Into::into))
}

/// The bound of a position: transactions from there on are unread. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn position_below(position: Option<&str>) -> i64 {
    self::position(position).below() as i64
}

/// The transactions below the bound of which not all is read, in order. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn position_open(position: Option<&str>) -> Vec<i64> {
    self::position(position).open().map(|(number, _)| number as i64).collect()
}

/// How many rows of each of those are read. Errors: `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn position_done(position: Option<&str>) -> Vec<i32> {
    self::position(position).open().map(|(_, rows)| rows as i32).collect()
}

/// What a statement of this transaction sees of the log. What the transaction itself has written is not committed.
fn seen(snapshot: Option<&str>) -> Result<Snapshot> {
    // SAFETY: a plain read of the backend's own transaction.
    let own = unsafe { pg_sys::GetTopFullTransactionIdIfAny().value };
    let snapshot = Snapshot::parse(snapshot.unwrap_or_default())?;
    Ok(if own == 0 { snapshot } else { snapshot.with_running(own) })
}

/// The position after a row that a reader has come to. Errors: `INVALID`.
#[pg_extern(stable, parallel_unsafe)]
fn position_after(since: Option<&str>, snapshot: Option<&str>, xid: Option<i64>, seq: Option<i32>) -> String {
    let since = position(since);
    let snapshot = answer(seen(snapshot).map_err(Into::into));
    let row = xid.zip(seq).map(|(xid, seq)| (xid as u64, seq as u32));
    since.advance(&snapshot, row).to_string()
}

/// The position after everything that a snapshot sees.
#[pg_extern(stable, parallel_unsafe)]
fn position_of(snapshot: Option<&str>) -> String {
    Position::of(&answer(seen(snapshot).map_err(Into::into))).to_string()
}

/// True if the log reaches back to a position. Errors: `STALE`, `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn check_position(since: Option<&str>, snapshot: Option<&str>) -> bool {
    answer((|| {
        let Some(since) = since else { return Ok(true) };
        let (position, emptied) = (Position::parse(since)?, log::emptied()?);
        let snapshot = Snapshot::parse(snapshot.unwrap_or_default())?;
        // One from beyond this cluster's transactions is of another life of the database, as before a restore.
        if position.is_truncated(emptied, &snapshot) || !position.is_of(&snapshot) {
            return Err(Error::Truncated { position: shown(since), first: emptied.to_string() }.into());
        }
        Ok(true)
    })())
}

/// Writes what this transaction has changed into the log, for whoever reads the log in it.
#[pg_extern(volatile, parallel_unsafe)]
fn flush_log() {
    answer(log::flush());
}
