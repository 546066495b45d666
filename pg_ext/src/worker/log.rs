//! What a session reads of the log and of the tombstones.

use crate::error::Outcome;
use crate::planning::{self, select_kept};
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tandem_shared::id::Range;

/// Rows of the log read at a time.
const LOG_ROWS: i64 = 2000;

/// A position in the log: transaction and sequence.
pub type Position = (i64, i64);

/// The position after everything that can be read.
pub fn end() -> Outcome<Position> {
    let (xid, seq) = Spi::get_two::<i64, i64>(
        "SELECT c.xid, c.seq FROM tandem.changes c WHERE c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
         UNION ALL SELECT 0, 0 ORDER BY 1 DESC, 2 DESC LIMIT 1",
    )?;
    Ok((xid.unwrap_or(0), seq.unwrap_or(0)))
}

/// The next ids of a range that have a tombstone, in byte order.
pub fn tombstone_ids(range: &Range, after: Option<&str>) -> Outcome<Vec<String>> {
    planning::by_index(|| {
        Spi::connect(|client| {
            let rows = client.select(
                "SELECT t.id FROM tandem.tombstones t WHERE t.id >= $1 AND ($2 IS NULL OR t.id < $2) \
                 AND ($3 IS NULL OR t.id > $3) ORDER BY t.id LIMIT 500",
                None,
                &[range.start.as_str().into(), range.end.as_deref().into(), after.into()],
            )?;
            let mut ids = Vec::new();
            for row in rows {
                ids.extend(row.get::<String>(1)?);
            }
            Ok(ids)
        })
    })
}

/// A part of the log.
pub struct Part {
    /// Ids changed by others than the link.
    pub ids: BTreeSet<String>,
    /// Ids that were not there before.
    pub come: BTreeSet<String>,
    /// The position after it.
    pub end: Option<Position>,
}

const READ: &str = "SELECT c.id, c.xid, c.seq, c.origin IS NOT DISTINCT FROM $4, c.old_digest IS NULL \
    FROM tandem.changes c \
    WHERE (c.xid, c.seq) > ($1, $2) AND c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
    ORDER BY c.xid, c.seq LIMIT $3";

/// The log after a position, up to a number of rows.
pub fn read(position: Position, link: &str) -> Outcome<Part> {
    planning::by_index(|| {
        Spi::connect(|client| {
            let args = [position.0.into(), position.1.into(), LOG_ROWS.into(), link.into()];
            let rows = select_kept(client, READ, &args)?;
            let mut part = Part { ids: BTreeSet::new(), come: BTreeSet::new(), end: None };
            for row in rows {
                let (id, xid) = (row.get::<String>(1)?.unwrap_or_default(), row.get::<i64>(2)?.unwrap_or(0));
                part.end = row.get::<i64>(3)?.map(|seq| (xid, seq));
                if row.get::<bool>(4)? != Some(true) {
                    part.ids.insert(id.clone());
                }
                if row.get::<bool>(5)? == Some(true) {
                    part.come.insert(id);
                }
            }
            Ok(part)
        })
    })
}
