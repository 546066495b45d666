//! This database as a replica of the shared search, and the exact fingerprint of any range.
//!
//! A range is the blocks that lie wholly inside it, less nothing, plus what the log holds of them that is not
//! folded yet, plus the items at its two edges. All three are read in one statement: only within one snapshot do
//! they add up, and in one snapshot they do so exactly, whatever has been folded.

use crate::error::Outcome;
use crate::fold::change;
use crate::planning;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::reconcile::{Entry, Replica};
use tandem_shared::{Digest, Error, Fingerprint};

/// Tries to read a range while folds move block boundaries under it.
const TRIES_MAX: usize = 20;

/// The items of this database.
pub struct Items;

/// The exact fingerprint of a range in the snapshot of one statement.
pub fn fingerprint(range: &Range) -> Outcome<Fingerprint> {
    if range.is_empty() {
        return Ok(Fingerprint::EMPTY);
    }
    for _ in 0..TRIES_MAX {
        if let Some(sum) = planning::by_index(|| Spi::connect(|client| try_fingerprint(client, range)))? {
            return Ok(sum);
        }
    }
    Err(Error::corrupt("table tandem.blocks", "its boundaries move at every reading").into())
}

fn try_fingerprint(client: &SpiClient<'_>, range: &Range) -> Outcome<Option<Fingerprint>> {
    let end = range.end.as_deref();
    let bounds = client.select(
        "SELECT (SELECT min(first) FROM tandem.blocks WHERE first >= $1), \
                (SELECT max(first) FROM tandem.blocks WHERE first <= $2)",
        None,
        &[range.start.as_str().into(), end.into()],
    )?;
    let (low, high) = bounds.first().get_two::<String, String>()?;
    let high = if end.is_none() { None } else { high };
    // Whole blocks reach from `low` to `high`; without a high bound they reach to the end.
    let inner = match (&low, &high, end) {
        (Some(low), Some(high), _) => low < high,
        (Some(_), None, None) => true,
        _ => false,
    };
    let first_edge_end = if inner { low.as_deref() } else { end };
    let rows = client.select(
        "SELECT 0, k.first, k.count, k.sum, NULL::bytea FROM tandem.blocks k \
         WHERE $5 AND k.first >= $3 AND ($4::text IS NULL OR k.first < $4) \
         UNION ALL SELECT 1, k.first, 0, NULL, NULL FROM tandem.blocks k WHERE $5 AND k.first = $4 \
         UNION ALL SELECT 2, i.id, 1, NULL, \
             tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
         FROM tandem.items i WHERE NOT i.local AND i.id >= $1 AND ($6::text IS NULL OR i.id < $6) \
         UNION ALL SELECT 2, i.id, 1, NULL, \
             tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
         FROM tandem.items i WHERE NOT i.local AND $5 AND $2::text IS NOT NULL AND i.id >= $4 AND i.id < $2 \
         UNION ALL SELECT 3, c.id, 0, c.old_digest, c.new_digest FROM tandem.changes c \
         WHERE $5 AND (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s) \
           AND c.id >= $3 AND ($4::text IS NULL OR c.id < $4)",
        None,
        &[
            range.start.as_str().into(),
            end.into(),
            low.as_deref().into(),
            high.as_deref().into(),
            inner.into(),
            first_edge_end.into(),
        ],
    )?;
    let mut sum = Fingerprint::EMPTY;
    let (mut low_is_bound, mut high_is_bound) = (!inner, !inner || high.is_none());
    for row in rows {
        let of_digest = |bytes: Option<&[u8]>| -> Outcome<Fingerprint> {
            Ok(Fingerprint::of(&Digest::from_slice(bytes.unwrap_or_default())?))
        };
        match row.get::<i32>(1)? {
            Some(0) => {
                low_is_bound |= row.get::<&str>(2)? == low.as_deref();
                let count = row.get::<i64>(3)?.unwrap_or(0) as u64;
                sum += Fingerprint::from_parts(count, row.get::<&[u8]>(4)?.unwrap_or_default())?;
            }
            Some(1) => high_is_bound = true,
            Some(2) => sum += of_digest(row.get(5)?)?,
            _ => {
                let change = change(row.get(2)?, row.get(4)?, row.get(5)?)?;
                sum += change.delta().fingerprint();
            }
        }
    }
    Ok((low_is_bound && high_is_bound).then_some(sum))
}

/// Texts that cut a range into about equal parts: block boundaries where there are enough, ids otherwise.
fn boundaries(client: &SpiClient<'_>, range: &Range, parts: usize) -> Outcome<Vec<String>> {
    let bounds = [range.start.as_str().into(), range.end.as_deref().into()];
    let rows = client.select(
        "SELECT k.first, k.count FROM tandem.blocks k \
         WHERE k.first > $1 AND ($2::text IS NULL OR k.first < $2) ORDER BY k.first",
        None,
        &bounds,
    )?;
    let mut weighted: Vec<(String, u64)> = Vec::new();
    for row in rows {
        let count = row.get::<i64>(2)?.unwrap_or(0).max(0) as u64;
        weighted.push((row.get::<String>(1)?.unwrap_or_default(), count));
    }
    if weighted.len() < parts {
        weighted.clear();
        let rows = client.select(
            "SELECT i.id FROM tandem.items i WHERE NOT i.local AND i.id > $1 AND ($2::text IS NULL OR i.id < $2) ORDER BY i.id",
            None,
            &bounds,
        )?;
        for row in rows {
            weighted.push((row.get::<String>(1)?.unwrap_or_default(), 1));
        }
    }
    let total: u64 = weighted.iter().map(|(_, weight)| weight).sum();
    let share = total.div_ceil(parts as u64).max(1);
    let (mut chosen, mut filled) = (Vec::new(), 0);
    for (bound, weight) in weighted {
        if filled >= share && chosen.len() + 1 < parts {
            chosen.push(bound);
            filled = 0;
        }
        filled += weight;
    }
    Ok(chosen)
}

impl Replica for Items {
    type Error = crate::error::Failure;

    fn fingerprints(&mut self, ranges: &[Range]) -> Outcome<Vec<Fingerprint>> {
        ranges.iter().map(fingerprint).collect()
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Outcome<Vec<Vec<Part>>> {
        let split = |range: &Range| -> Outcome<Vec<Part>> {
            let cuts = planning::by_index(|| Spi::connect(|client| boundaries(client, range, parts.max(2))))?;
            let starts = std::iter::once(range.start.clone()).chain(cuts.iter().cloned());
            let ends = cuts.iter().cloned().map(Some).chain([range.end.clone()]);
            starts
                .zip(ends)
                .map(|(start, end)| {
                    let range = Range::new(start, end);
                    Ok(Part { fingerprint: fingerprint(&range)?, range })
                })
                .collect()
        };
        ranges.iter().map(split).collect()
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Outcome<Vec<Vec<Entry>>> {
        ranges.iter().map(|range| list(range, limit_each)).collect()
    }
}

fn list(range: &Range, limit: usize) -> Outcome<Vec<Entry>> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT i.id, i.version, tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
             FROM tandem.items i WHERE NOT i.local AND i.id >= $1 AND ($2::text IS NULL OR i.id < $2) ORDER BY i.id LIMIT $3",
            None,
            &[range.start.as_str().into(), range.end.as_deref().into(), (limit as i64).into()],
        )?;
        let mut entries = Vec::new();
        for row in rows {
            entries.push(Entry {
                id: row.get::<String>(1)?.unwrap_or_default(),
                version: row.get::<i64>(2)?.unwrap_or(0) as u64,
                digest: Digest::from_slice(row.get::<&[u8]>(3)?.unwrap_or_default())?,
            });
        }
        Ok(entries)
    })
}
