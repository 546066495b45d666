//! Small functions that the SQL in `sql/` calls for each row: checks, hashes, digests, bounds.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use tandem_shared::id::{check_id as check_id_rule, check_prefix as check_prefix_rule};
use tandem_shared::request::page_limit as page_limit_rule;
use tandem_shared::{ContentType, Range, Version};

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

/// The link on whose behalf this session writes; NULL for everybody else.
#[pg_extern(volatile, parallel_unsafe)]
fn origin() -> Option<String> {
    store::origin()
}
