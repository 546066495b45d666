//! Which revisions of Redis that came too late have lost, and which were here before.
//!
//! Redis sends again what it was not told to be taken: after a crash on either side, and as a new run of itself with
//! new numbers when it comes back from its files. Then Postgres may have gone on from what is sent, and nobody has
//! lost. The log tells: it holds what was joined, by version and time of writing. It reaches back over the last 16
//! MiB at least, and over ten minutes. What is older than that is taken for a loser, as no loss is to go without a
//! record.

use crate::error::Outcome;
use crate::log::Position;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use tandem_shared::Revision;

const JOINED: &str = "SELECT c.id, c.version, c.\"timestamp\" FROM tandem.changes c \
    WHERE c.id = ANY($1) AND c.origin IS NOT NULL";

const JOINED_SINCE: &str =
    "SELECT c.id, c.version FROM tandem.changes_after($2) c WHERE c.id = ANY($1) AND c.origin = $3";

/// Whether each of the revisions was joined here before.
pub fn joined_before(revisions: &[(&str, &Revision)]) -> Outcome<Vec<bool>> {
    if revisions.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = revisions.iter().map(|(id, _)| *id).collect();
    Spi::connect(|client| {
        let mut joined = HashSet::new();
        for row in client.select(JOINED, None, &[ids.into()])? {
            joined.insert((row.get::<String>(1)?, row.get::<i64>(2)?, row.get::<i64>(3)?));
        }
        let is_joined = |(id, revision): &(&str, &Revision)| {
            let (version, timestamp) = (revision.version.get() as i64, revision.timestamp.unix_ms() as i64);
            joined.contains(&(Some((*id).to_owned()), Some(version), Some(timestamp)))
        };
        Ok(revisions.iter().map(is_joined).collect())
    })
}

/// Whether a link has brought a revision that is not older than each of these since a position of the log. Redis had
/// gone on from those, and who did had seen them.
pub fn passed_since(since: &Position, link: &str, revisions: &[(&str, &Revision)]) -> Outcome<Vec<bool>> {
    let ids: Vec<&str> = revisions.iter().map(|(id, _)| *id).collect();
    Spi::connect(|client| {
        let mut last: HashMap<String, i64> = HashMap::new();
        for row in client.select(JOINED_SINCE, None, &[ids.into(), since.to_string().into(), link.into()])? {
            if let Some((id, version)) = row.get::<String>(1)?.zip(row.get::<i64>(2)?) {
                let known = last.entry(id).or_default();
                *known = version.max(*known);
            }
        }
        let is_passed = |(id, revision): &(&str, &Revision)| {
            last.get(*id).is_some_and(|last| revision.version.get() as i64 <= *last)
        };
        Ok(revisions.iter().map(is_passed).collect())
    })
}
