//! What a session reads of the log and of the tombstones.

use super::Position;
use crate::error::Outcome;
use crate::planning::{self, select_kept};
use crate::snapshot;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tandem_shared::id::Range;
use tandem_shared::log::Snapshot;

/// Rows of the log read at a time.
const LOG_ROWS: usize = 2000;

/// The position after everything that is committed at this moment.
pub fn end() -> Outcome<Position> {
    snapshot::of_this_moment(|| {
        Spi::connect(|client| {
            let rows = client.select("SELECT pg_catalog.pg_current_snapshot()::text", None, &[])?;
            let seen = rows.first().get_one::<String>()?.unwrap_or_default();
            Ok(Position::of(&Snapshot::parse(&seen)?))
        })
    })
}

const NEWS: &str = "SELECT pg_catalog.pg_current_snapshot()::text, \
    EXISTS (SELECT FROM tandem.changes c WHERE c.xid >= $1) \
    OR EXISTS (SELECT FROM unnest($2::bigint[], $3::integer[]) o (xid, seq) \
        JOIN tandem.changes c ON c.xid = o.xid AND c.seq > o.seq)";

/// Whether anything has come since a position, and the position after everything that is committed at this moment.
pub fn news(since: &Position) -> Outcome<(bool, Position)> {
    let read = || {
        Spi::connect(|client| {
            let (below, open, done) = columns_of(since);
            let rows = select_kept(client, NEWS, &[below.into(), open.into(), done.into()])?;
            let (seen, is_new) = rows.first().get_two::<String, bool>()?;
            let end = since.advance(&Snapshot::parse(&seen.unwrap_or_default())?, None);
            Ok((is_new == Some(true), end))
        })
    };
    snapshot::of_this_moment(|| planning::by_index(read))
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
    pub end: Position,
    /// Rows read.
    pub rows: usize,
}

/// The rows that a position does not cover, in order, each beside the statement's snapshot; the snapshot alone if
/// there is none. Rows of transactions that were open come first: their numbers are below the bound.
const READ: &str = "SELECT s.seen, c.xid, c.seq, c.id, c.origin IS NOT DISTINCT FROM $5, c.count > 0 \
    FROM (SELECT pg_catalog.pg_current_snapshot()::text AS seen) s LEFT JOIN LATERAL ( \
        (SELECT c.xid, c.seq, c.id, c.origin, c.count FROM unnest($2::bigint[], $3::integer[]) o (xid, seq) \
            JOIN tandem.changes c ON c.xid = o.xid AND c.seq > o.seq ORDER BY c.xid, c.seq LIMIT $4) \
        UNION ALL \
        (SELECT c.xid, c.seq, c.id, c.origin, c.count FROM tandem.changes c WHERE c.xid >= $1 \
            ORDER BY c.xid, c.seq LIMIT $4) \
        ORDER BY 1, 2 LIMIT $4) c ON true ORDER BY c.xid, c.seq";

/// The log after a position, up to a number of rows.
pub fn read(position: &Position, link: &str) -> Outcome<Part> {
    let read = || {
        Spi::connect(|client| {
            let (below, open, done) = columns_of(position);
            // One row more than is taken tells whether there is more.
            let limit = LOG_ROWS as i64 + 1;
            let args = [below.into(), open.into(), done.into(), limit.into(), link.into()];
            let rows = select_kept(client, READ, &args)?;
            let is_cut = rows.len() > LOG_ROWS;
            let (mut ids, mut come, mut last, mut seen, mut count) =
                (BTreeSet::new(), BTreeSet::new(), None, None, 0);
            for row in rows.take(LOG_ROWS) {
                seen = row.get::<String>(1)?;
                let (Some(xid), Some(seq)) = (row.get::<i64>(2)?, row.get::<i32>(3)?) else { break };
                (last, count) = (Some((xid as u64, seq as u32)), count + 1);
                let id = row.get::<String>(4)?.unwrap_or_default();
                if row.get::<bool>(5)? != Some(true) {
                    ids.insert(id.clone());
                }
                if row.get::<bool>(6)? == Some(true) {
                    come.insert(id);
                }
            }
            let snapshot = Snapshot::parse(&seen.unwrap_or_default())?;
            let end = position.advance(&snapshot, last.filter(|_| is_cut));
            Ok(Part { ids, come, end, rows: count })
        })
    };
    snapshot::of_this_moment(|| planning::by_index(read))
}

/// A position as three arguments of a statement: the bound, and the open transactions with the rows of each that are
/// read.
pub fn columns_of(position: &Position) -> (i64, Vec<i64>, Vec<i32>) {
    let (open, done) = position.open().map(|(number, rows)| (number as i64, rows as i32)).unzip();
    (position.below() as i64, open, done)
}
