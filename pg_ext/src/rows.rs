//! Small functions that the SQL in `sql/` calls for each row: checks, hashes, digests, bounds.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use tandem_shared::decide::decide_row;
use tandem_shared::id::{check_id as check_id_rule, check_prefix as check_prefix_rule};
use tandem_shared::request::page_limit as page_limit_rule;
use tandem_shared::{
    Audit, Content, ContentType, Error, Head, LiveHead, PayloadHash, Range, State, Timestamp, Version,
};

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

/// The smallest text after everything that begins with a prefix, NULL if there is none.
#[pg_extern(immutable, strict, parallel_safe)]
fn prefix_end(prefix: &str) -> Option<String> {
    answer(Range::of_prefix(prefix).map_err(Into::into)).end
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

/// Checks a row as its writer gave it and hashes its content. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
#[pg_extern(immutable, parallel_safe)]
fn row_hash(
    id: Option<&str>,
    state: Option<&str>,
    payload: Option<&str>,
    payload_blob: Option<&[u8]>,
    audit: Option<&str>,
) -> Vec<u8> {
    let outcome = (|| -> Outcome<Vec<u8>> {
        check_id_rule(id.unwrap_or_default())?;
        check_state_and_audit(state, audit)?;
        let limit = settings::content_bytes_max();
        let content = match (payload, payload_blob) {
            (Some(payload), None) => Content::json(payload.as_bytes(), limit)?,
            (None, Some(blob)) => Content::binary(blob, limit)?,
            _ => {
                return Err(Error::invalid(
                    "item",
                    "needs exactly one of payload and payload_blob",
                    "set one of the two columns and leave the other NULL",
                )
                .into());
            }
        };
        Ok(content.payload_hash().0.to_vec())
    })();
    answer(outcome)
}

/// Checks state and audit of a row whose content stays. Errors: `INVALID`, `TOOLARGE`.
#[pg_extern(immutable, parallel_safe)]
fn check_row(state: Option<&str>, audit: Option<&str>) {
    answer(check_state_and_audit(state, audit));
}

fn check_state_and_audit(state: Option<&str>, audit: Option<&str>) -> Outcome<()> {
    State::new(state.unwrap_or_default())?;
    audit.map(Audit::new).transpose()?;
    Ok(())
}

/// The version of a row that plain DML writes: `current` is the old row's or the tombstone's, `given` what the
/// statement sets. NULL if nothing that has a version changes. Errors: `STALE`, `INVALID`.
#[pg_extern(immutable, parallel_safe)]
fn row_version(id: &str, current: Option<i64>, given: Option<i64>, changed: bool) -> Option<i64> {
    let outcome = (|| -> Outcome<Option<i64>> {
        let given = given.map(|given| Version::new(given.into())).transpose()?;
        let live = LiveHead {
            state: "",
            content_type: ContentType::Json,
            payload_hash: PayloadHash([0; 32]),
            local: false,
        };
        let head = match current {
            Some(current) => Some(Head {
                version: Version::new(current.into())?,
                timestamp: Timestamp::new(0)?,
                audit: None,
                live: Some(live),
            }),
            None => None,
        };
        Ok(decide_row(id, head.as_ref(), given, changed)?.map(|version| version.get() as i64))
    })();
    answer(outcome)
}

/// Whether tandem's own functions are writing, which have decided the row already.
#[pg_extern(volatile, parallel_unsafe)]
fn is_own_write() -> bool {
    store::is_own_write()
}

/// The link on whose behalf this session writes; NULL for everybody else.
#[pg_extern(volatile, parallel_unsafe)]
fn origin() -> Option<String> {
    store::origin()
}
