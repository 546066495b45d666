//! Replicas that hold a set of items together, as the masters of a Redis Cluster do: fingerprints add up.

use super::{Entry, Piece, Replica, group};
use crate::fingerprint::Fingerprint;
use crate::id::Range;
use crate::index::Part;
use std::collections::BTreeSet;

/// Several replicas as one. An id that two of them have, as one on its way from one to the other, counts twice in
/// fingerprints and is listed once.
pub struct Union<'a, R>(pub &'a mut [R]);

impl<R: Replica> Union<'_, R> {
    /// Ids to cut a range at: wherever any of the replicas would.
    fn cuts(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<BTreeSet<String>>, R::Error> {
        let mut cuts: Vec<BTreeSet<String>> = ranges.iter().map(|_| BTreeSet::new()).collect();
        for replica in self.0.iter_mut() {
            for (cuts, parts) in cuts.iter_mut().zip(replica.splits(ranges, parts)?) {
                cuts.extend(parts.into_iter().skip(1).map(|part| part.range.start));
            }
        }
        if cuts.iter().any(BTreeSet::is_empty) {
            // None has two items there, but all together may have many.
            let mut firsts: Vec<BTreeSet<String>> = ranges.iter().map(|_| BTreeSet::new()).collect();
            for replica in self.0.iter_mut() {
                for (firsts, entries) in firsts.iter_mut().zip(replica.lists(ranges, 1)?) {
                    firsts.extend(entries.into_iter().map(|entry| entry.id));
                }
            }
            for (cuts, mut firsts) in cuts.iter_mut().zip(firsts).filter(|(cuts, _)| cuts.is_empty()) {
                firsts.pop_first();
                cuts.extend(firsts);
            }
        }
        Ok(cuts)
    }
}

impl<R: Replica> Replica for Union<'_, R> {
    type Error = R::Error;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, R::Error> {
        let mut sums = vec![Fingerprint::EMPTY; ranges.len()];
        for replica in self.0.iter_mut() {
            for (sum, part) in sums.iter_mut().zip(replica.fingerprints(ranges)?) {
                *sum += part;
            }
        }
        Ok(sums)
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, R::Error> {
        let parts = parts.max(2);
        let mut pieces: Vec<Vec<Range>> = Vec::with_capacity(ranges.len());
        for (range, cuts) in ranges.iter().zip(self.cuts(ranges, parts)?) {
            let starts = std::iter::once(range.start.clone()).chain(cuts.iter().cloned());
            let ends = cuts.iter().cloned().map(Some).chain([range.end.clone()]);
            pieces.push(starts.zip(ends).map(|(start, end)| Range::new(start, end)).collect());
        }
        let mut sums = self.fingerprints(&pieces.concat())?.into_iter();
        let grouped = ranges.iter().zip(pieces).map(|(range, pieces)| {
            let pieces = pieces.into_iter().zip(&mut sums);
            let pieces = pieces.map(|(piece, sum)| Piece { first: piece.start, sum }).collect();
            group(range, pieces, parts)
        });
        Ok(grouped.collect())
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, R::Error> {
        let mut lists: Vec<Vec<Entry>> = ranges.iter().map(|_| Vec::new()).collect();
        for replica in self.0.iter_mut() {
            for (list, entries) in lists.iter_mut().zip(replica.lists(ranges, limit_each)?) {
                list.extend(entries);
            }
        }
        for list in &mut lists {
            list.sort_by(|a, b| a.id.cmp(&b.id).then(b.version.cmp(&a.version)));
            list.dedup_by(|later, first| later.id == first.id);
            list.truncate(limit_each);
        }
        Ok(lists)
    }
}
