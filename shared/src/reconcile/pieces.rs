//! How a replica that keeps sums of consecutive ids cuts a range.

use crate::fingerprint::Fingerprint;
use crate::id::Range;
use crate::index::Part;

/// Consecutive ids of a range and their sum, as far as one block or one edge of the range reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Lower bound, included; the next piece's is the end.
    pub first: String,
    /// Sum of what is in it.
    pub sum: Fingerprint,
}

/// Joins neighbouring pieces of a range into at most so many parts of about equal counts; two pieces or more never
/// come to a single part, or a search would ask for the same range for ever.
pub fn group(range: &Range, pieces: Vec<Piece>, parts: usize) -> Vec<Part> {
    // The count of a block runs below zero while what was removed is folded and what was put is not.
    let weight = |sum: &Fingerprint| (sum.count() as i64).max(1) as u128;
    let total: u128 = pieces.iter().map(|piece| weight(&piece.sum)).sum();
    let mut grouped: Vec<Part> = Vec::with_capacity(parts);
    let (mut before, mut slot_before) = (0, None);
    for piece in pieces {
        let own = weight(&piece.sum);
        // The part in which the middle of the piece falls.
        let slot = Some((2 * before + own) * parts as u128 / (2 * total));
        before += own;
        match grouped.last_mut() {
            Some(last) if slot == slot_before => last.fingerprint += piece.sum,
            Some(last) => {
                last.range.end = Some(piece.first.clone());
                let range = Range::new(piece.first, range.end.clone());
                grouped.push(Part { range, fingerprint: piece.sum });
            }
            None => grouped.push(Part { range: range.clone(), fingerprint: piece.sum }),
        }
        slot_before = slot;
    }
    if grouped.is_empty() {
        grouped.push(Part { range: range.clone(), fingerprint: Fingerprint::EMPTY });
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces_of(counts: &[u64]) -> Vec<Piece> {
        let sum = |count| Fingerprint::from_parts(count, &[0; 16]).unwrap();
        counts
            .iter()
            .enumerate()
            .map(|(at, count)| Piece { first: format!("{at:03}"), sum: sum(*count) })
            .collect()
    }

    #[test]
    fn parts_cover_the_range_and_are_never_one_alone() {
        let range = Range::new("000", None);
        for counts in
            [&[1, 192][..], &[0, 0], &[192, 1], &[0, 0, 500, 0], &[1; 100], &[192; 20], &[u64::MAX, 192]]
        {
            for parts in [2, 16] {
                let cut = group(&range, pieces_of(counts), parts);
                assert!((2..=parts).contains(&cut.len()), "{counts:?} in {parts}: {cut:?}");
                assert_eq!(cut.first().map(|part| part.range.start.as_str()), Some("000"));
                assert_eq!(cut.last().and_then(|part| part.range.end.clone()), None);
                for pair in cut.windows(2) {
                    assert_eq!(pair[0].range.end.as_deref(), Some(pair[1].range.start.as_str()));
                }
                let sum: Fingerprint = cut.iter().map(|part| part.fingerprint).sum();
                assert_eq!(sum, pieces_of(counts).into_iter().map(|piece| piece.sum).sum());
            }
        }
    }
}
