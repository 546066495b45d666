//! This database as a replica of the shared search, and the exact fingerprint of any range.
//!
//! A range is the blocks that lie wholly inside it, plus what the log holds of them that is not folded yet, plus the
//! items at its two edges. All of it is read in one statement: only within one snapshot does it add up, and in one
//! snapshot it does so exactly, whatever has been folded. One statement also serves all ranges of a call, and is
//! planned once.

use crate::error::Outcome;
use crate::log;
use crate::planning::{self, select_kept};
use crate::snapshot;
use pgrx::prelude::*;
use std::collections::HashMap;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::limits::ID_BYTES_MAX;
use tandem_shared::reconcile::{Entry, Piece, Replica, group};
use tandem_shared::{Digest, Fingerprint};

/// The items of this database.
pub struct Items;

/// The exact fingerprint of some ranges together, in the snapshot of one statement.
pub fn fingerprint(ranges: &[Range]) -> Outcome<Fingerprint> {
    if ranges == [Range::all()] {
        log::flush()?;
        let read = || snapshot::of_items(|| planning::by_index(total));
        if let Some(total) = snapshot::leaving_no_lock(read)? {
            return Ok(total);
        }
    }
    Ok(pieces(ranges)?.into_iter().flatten().map(|piece| piece.sum).sum())
}

/// A text after every id, as the end of a range that has none: a comparison with it can use an index, which a
/// "greater, or there is no end" cannot.
pub fn past_every_id() -> String {
    let widest = char::MAX.len_utf8();
    char::MAX.to_string().repeat(ID_BYTES_MAX / widest + 1)
}

/// Starts and ends of ranges as two arrays of a statement.
fn bounds(ranges: &[Range]) -> (Vec<&str>, Vec<Option<&str>>) {
    ranges.iter().map(|range| (range.start.as_str(), range.end.as_deref())).unzip()
}

/// Whole blocks reach from `low` to `high`; where there is none, both are the end of the range. A block that the
/// range enters or leaves is read item by item.
const PIECES: &str = "WITH asked AS MATERIALIZED ( \
        SELECT e.place, e.start, e.past, CASE WHEN e.low < e.high THEN e.low ELSE e.past END AS low, \
               CASE WHEN e.low < e.high THEN e.high ELSE e.past END AS high \
        FROM (SELECT a.place, a.start COLLATE \"C\" AS start, coalesce(a.past, $3) COLLATE \"C\" AS past, \
                     (SELECT min(k.first) FROM tandem.blocks k WHERE k.first >= a.start) AS low, \
                     CASE WHEN a.past IS NULL THEN $3 COLLATE \"C\" \
                          ELSE (SELECT max(k.first) FROM tandem.blocks k WHERE k.first <= a.past) END AS high \
              FROM unnest($1, $2) WITH ORDINALITY AS a (start, past, place)) e), \
    pending AS (SELECT c.id, c.count, c.sum FROM tandem.fold_state f \
        CROSS JOIN LATERAL tandem.changes_after(f.position) c WHERE c.count <> 0 OR c.sum <> $4) \
    SELECT 0, a.place, a.low, a.high, s.times_emptied, NULL::bytea, NULL::bytea FROM asked a, tandem.log_state s \
    UNION ALL SELECT 1, a.place, k.first, NULL, k.count, k.sum, NULL \
        FROM asked a JOIN tandem.blocks k ON k.first >= a.low AND k.first < a.high \
    UNION ALL SELECT 2, a.place, a.start, NULL, 1, NULL, \
            tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
        FROM asked a JOIN tandem.items i ON NOT i.local AND i.id >= a.start AND i.id < a.low \
    UNION ALL SELECT 2, a.place, a.high, NULL, 1, NULL, \
            tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
        FROM asked a JOIN tandem.items i ON NOT i.local AND i.id >= a.high AND i.id < a.past \
    UNION ALL SELECT 3, a.place, p.id, NULL, p.count, p.sum, NULL \
        FROM asked a JOIN pending p ON p.id >= a.low AND p.id < a.high";

/// The sum of all blocks, and what of the log is not in it.
const TOTAL: &str = "SELECT f.count, f.sum, s.times_emptied FROM tandem.fold_state f, tandem.log_state s \
    UNION ALL SELECT c.count, c.sum, NULL FROM tandem.fold_state f CROSS JOIN LATERAL tandem.changes_after(f.position) c";

/// The exact fingerprint of everything, without a look at the blocks; `None` where the log has been emptied since the
/// snapshot.
fn total() -> Outcome<Option<Fingerprint>> {
    let (mut total, mut times_emptied) = (Fingerprint::EMPTY, None);
    Spi::connect(|client| -> Outcome<()> {
        for row in select_kept(client, TOTAL, &[])? {
            let count = row.get::<i64>(1)?.unwrap_or(0);
            total += Fingerprint::from_parts(count as u64, row.get::<&[u8]>(2)?.unwrap_or_default())?;
            times_emptied = times_emptied.or(row.get::<i64>(3)?);
        }
        Ok(())
    })?;
    Ok((times_emptied == Some(log::times_emptied()?)).then_some(total))
}

/// The pieces of each range, in order.
fn pieces(ranges: &[Range]) -> Outcome<Vec<Vec<Piece>>> {
    log::flush()?;
    let read = || {
        let read = || snapshot::of_items(|| planning::by_index(|| pieces_of_blocks(ranges)));
        snapshot::leaving_no_lock(read)
    };
    // The log may be emptied between the snapshot and the look.
    for _ in 0..if snapshot::is_of_one_moment() { 1 } else { 3 } {
        if let Some(pieces) = read()? {
            return Ok(pieces);
        }
    }
    // The log was emptied of what this transaction, which sees an older moment, would have to add.
    let piece = |entry: Entry| Piece { first: entry.id, sum: Fingerprint::of(&entry.digest) };
    Ok(entries(ranges, None)?.into_iter().map(|entries| entries.into_iter().map(piece).collect()).collect())
}

/// The same from blocks and log; `None` where the log has been emptied since the snapshot.
fn pieces_of_blocks(ranges: &[Range]) -> Outcome<Option<Vec<Vec<Piece>>>> {
    let mut pieces: Vec<Vec<Piece>> = ranges.iter().map(|_| Vec::new()).collect();
    let (mut pending, mut times_emptied) = (Vec::new(), None);
    Spi::connect(|client| -> Outcome<()> {
        let (starts, pasts) = bounds(ranges);
        let nothing = Fingerprint::EMPTY.sum().to_vec();
        let args = [starts.into(), pasts.into(), past_every_id().into(), nothing.into()];
        for row in select_kept(client, PIECES, &args)? {
            let place = (row.get::<i64>(2)?.unwrap_or(0) as usize).saturating_sub(1);
            let count = row.get::<i64>(5)?.unwrap_or(0);
            let first = row.get::<String>(3)?.unwrap_or_default();
            let sum = match row.get::<i32>(1)? {
                Some(0) => {
                    times_emptied = Some(count);
                    continue;
                }
                Some(2) => Fingerprint::of(&Digest::from_slice(row.get::<&[u8]>(7)?.unwrap_or_default())?),
                kind => {
                    let sum =
                        Fingerprint::from_parts(count as u64, row.get::<&[u8]>(6)?.unwrap_or_default())?;
                    if kind == Some(3) {
                        pending.push((place, first, sum));
                        continue;
                    }
                    sum
                }
            };
            if let Some(pieces) = pieces.get_mut(place) {
                pieces.push(Piece { first, sum });
            }
        }
        Ok(())
    })?;
    if times_emptied != Some(log::times_emptied()?) && !ranges.is_empty() {
        return Ok(None);
    }
    for pieces in &mut pieces {
        pieces.sort_by(|a, b| a.first.cmp(&b.first));
        // The items of an edge make one piece.
        pieces.dedup_by(|piece, before| {
            let same = piece.first == before.first;
            if same {
                before.sum += piece.sum;
            }
            same
        });
    }
    for (place, id, sum) in pending {
        let Some(pieces) = pieces.get_mut(place) else { continue };
        let after = pieces.partition_point(|piece| piece.first <= id);
        if let Some(piece) = after.checked_sub(1).and_then(|at| pieces.get_mut(at)) {
            piece.sum += sum;
        }
    }
    Ok(Some(pieces))
}

const ENTRIES: &str = "SELECT a.place, f.id, f.version, f.digest \
    FROM unnest($1, $2) WITH ORDINALITY AS a (start, past, place) \
    CROSS JOIN LATERAL ( \
        SELECT i.id, i.version, tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) AS digest \
        FROM tandem.items i WHERE NOT i.local AND i.id >= a.start AND i.id < coalesce(a.past, $3) ORDER BY i.id LIMIT $4) f";

/// The first items of each range, in order; all of them without a limit.
fn entries(ranges: &[Range], limit_each: Option<usize>) -> Outcome<Vec<Vec<Entry>>> {
    let mut entries: Vec<Vec<Entry>> = ranges.iter().map(|_| Vec::new()).collect();
    if ranges.is_empty() {
        return Ok(entries);
    }
    let read = || {
        Spi::connect(|client| -> Outcome<()> {
            let (starts, pasts) = bounds(ranges);
            let limit = limit_each.map(|limit| limit as i64);
            let args = [starts.into(), pasts.into(), past_every_id().into(), limit.into()];
            for row in select_kept(client, ENTRIES, &args)? {
                let place = row.get::<i64>(1)?.unwrap_or(0) as usize;
                let entry = Entry {
                    id: row.get::<String>(2)?.unwrap_or_default(),
                    version: row.get::<i64>(3)?.unwrap_or(0) as u64,
                    digest: Digest::from_slice(row.get::<&[u8]>(4)?.unwrap_or_default())?,
                };
                if let Some(entries) = entries.get_mut(place.saturating_sub(1)) {
                    entries.push(entry);
                }
            }
            Ok(())
        })
    };
    snapshot::of_items(|| planning::by_index(read))?;
    for entries in &mut entries {
        entries.sort_by(|a, b| a.id.cmp(&b.id));
    }
    Ok(entries)
}

const DIGESTS: &str = "SELECT i.id, \
        tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
    FROM tandem.items i WHERE NOT i.local AND i.id = ANY($1)";

/// The digests of those of the ids that are there.
pub fn digests(ids: &[String]) -> Outcome<HashMap<String, Digest>> {
    let read = || {
        Spi::connect(|client| {
            let mut digests = HashMap::with_capacity(ids.len());
            for row in select_kept(client, DIGESTS, &[ids.to_vec().into()])? {
                let digest = Digest::from_slice(row.get::<&[u8]>(2)?.unwrap_or_default())?;
                digests.insert(row.get::<String>(1)?.unwrap_or_default(), digest);
            }
            Ok(digests)
        })
    };
    snapshot::of_items(|| planning::by_index(read))
}

impl Replica for Items {
    type Error = crate::error::Failure;

    fn fingerprints(&mut self, ranges: &[Range]) -> Outcome<Vec<Fingerprint>> {
        if ranges == [Range::all()] {
            return Ok(vec![fingerprint(ranges)?]);
        }
        let sum = |pieces: Vec<Piece>| pieces.into_iter().map(|piece| piece.sum).sum();
        Ok(pieces(ranges)?.into_iter().map(sum).collect())
    }

    /// Cuts at blocks, and what lies within one block at its items.
    fn splits(&mut self, ranges: &[Range], parts: usize) -> Outcome<Vec<Vec<Part>>> {
        let parts = parts.max(2);
        let mut cut = pieces(ranges)?;
        let narrow: Vec<(usize, Range)> = ranges
            .iter()
            .zip(&cut)
            .enumerate()
            .filter(|(_, (_, pieces))| pieces.len() < 2)
            .map(|(place, (range, _))| (place, range.clone()))
            .collect();
        let (places, narrow): (Vec<usize>, Vec<Range>) = narrow.into_iter().unzip();
        for (place, entries) in places.into_iter().zip(entries(&narrow, None)?) {
            if let Some(pieces) = cut.get_mut(place) {
                let piece = |entry: Entry| Piece { first: entry.id, sum: Fingerprint::of(&entry.digest) };
                *pieces = entries.into_iter().map(piece).collect();
            }
        }
        Ok(ranges.iter().zip(cut).map(|(range, pieces)| group(range, pieces, parts)).collect())
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Outcome<Vec<Vec<Entry>>> {
        entries(ranges, Some(limit_each))
    }
}
