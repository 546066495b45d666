//! Finding where two replicas differ with work proportional to the difference: compare fingerprints of ranges,
//! split where they are unequal, list where little is left. This is range-based set reconciliation (Aljoscha
//! Meyer, "Range-Based Set Reconciliation", 2023), the successor of comparing Merkle trees as Dynamo does
//! (DeCandia et al., 2007); boundaries are chosen by one side at a time, so the replicas' own block or node
//! boundaries need not agree.
//!
//! Every call to a replica carries many ranges: over a network it is one round trip, in SQL one statement. The
//! search is depth-first in batches, so that its memory is bounded however different the replicas are.

mod drift;
mod model;
mod pieces;

pub use drift::{Drift, Verdict};
pub use model::Model;
pub use pieces::{Piece, group};

use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::id::Range;
use crate::index::Part;
use std::cmp::Ordering;

/// One item of a listed range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
}

/// What a replica must answer. Each method answers all ranges in order, one answer a range.
pub trait Replica {
    /// What can go wrong in asking it.
    type Error;

    /// The fingerprint of each range.
    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Self::Error>;

    /// Each range cut into at most `parts` consecutive pieces that cover it exactly.
    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Self::Error>;

    /// The first `limit_each` items of each range, in order.
    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Self::Error>;
}

/// An id whose live revisions differ; a side that has none is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The id.
    pub id: String,
    /// Version and digest on the left.
    pub left: Option<(u64, Digest)>,
    /// Version and digest on the right.
    pub right: Option<(u64, Digest)>,
}

/// What went wrong in a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchError<L, R> {
    /// The left replica failed.
    Left(L),
    /// The right replica failed.
    Right(R),
    /// A replica answered another number of ranges than it was asked for.
    Malformed {
        /// Answers expected.
        expected: usize,
        /// Answers given.
        actual: usize,
    },
}

/// Bounds of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Pieces an unequal range is cut into.
    pub parts: usize,
    /// A range is listed when neither side has more items in it.
    pub list_max: usize,
    /// Ranges asked for in one call.
    pub batch_ranges: usize,
}

impl Default for Options {
    /// 16 pieces and lists of 32 keep a difference among a million items at about 5 rounds and 80 ranges.
    fn default() -> Options {
        Options { parts: 16, list_max: 32, batch_ranges: 256 }
    }
}

/// A search in progress.
#[derive(Debug)]
pub struct Search {
    options: Options,
    /// Ranges known to be unequal, with the counts of both sides; the next one last.
    unequal: Vec<(Range, u64, u64)>,
    /// The whole range, until it is compared.
    first: Option<Range>,
    differences: Vec<Difference>,
    /// Ranges whose fingerprints were compared.
    pub ranges_compared: u64,
    /// Batches asked for.
    pub rounds: u64,
    /// Items listed on both sides together.
    pub entries_listed: u64,
}

impl Search {
    /// A search of `range`.
    pub fn new(range: Range, options: Options) -> Search {
        Search {
            options: Options {
                parts: options.parts.max(2),
                list_max: options.list_max.max(1),
                batch_ranges: options.batch_ranges.max(1),
            },
            unequal: Vec::new(),
            first: Some(range),
            differences: Vec::new(),
            ranges_compared: 0,
            rounds: 0,
            entries_listed: 0,
        }
    }

    /// Whether the search is at its end.
    pub fn is_done(&self) -> bool {
        self.first.is_none() && self.unequal.is_empty()
    }

    /// The differences found since the last call.
    pub fn take_differences(&mut self) -> Vec<Difference> {
        std::mem::take(&mut self.differences)
    }

    /// Runs to the end.
    pub fn run<L: Replica + ?Sized, R: Replica + ?Sized>(
        &mut self,
        left: &mut L,
        right: &mut R,
    ) -> Result<Vec<Difference>, SearchError<L::Error, R::Error>> {
        while !self.step(left, right)? {}
        Ok(self.take_differences())
    }

    /// Compares, lists or splits one batch. Returns whether the search is at its end. After an error the same
    /// step can be tried again.
    pub fn step<L: Replica + ?Sized, R: Replica + ?Sized>(
        &mut self,
        left: &mut L,
        right: &mut R,
    ) -> Result<bool, SearchError<L::Error, R::Error>> {
        if let Some(range) = self.first.clone() {
            let ranges = [range];
            let of_left = left.fingerprints(&ranges).map_err(SearchError::Left)?;
            let of_right = right.fingerprints(&ranges).map_err(SearchError::Right)?;
            check_length(1, of_left.len())?;
            check_length(1, of_right.len())?;
            self.compared(ranges, &of_left, &of_right);
            self.first = None;
            self.rounds += 1;
            return Ok(self.is_done());
        }
        let from = self.unequal.len().saturating_sub(self.options.batch_ranges);
        let batch = self.unequal.get(from..).unwrap_or_default().to_vec();
        let small = self.options.list_max as u64;
        let (listed, wide): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|(_, left, right)| *left <= small && *right <= small);
        let (by_left, by_right): (Vec<_>, Vec<_>) =
            wide.into_iter().partition(|(_, left, right)| left >= right);
        let found = self.list(left, right, &ranges_of(&listed))?;
        let mut deeper = Search::new(Range::all(), self.options);
        deeper.split(left, right, &ranges_of(&by_left), |error| error)?;
        let of_right = deeper.unequal.len();
        deeper.split(right, left, &ranges_of(&by_right), flipped)?;
        for (_, left, right) in deeper.unequal.iter_mut().skip(of_right) {
            std::mem::swap(left, right);
        }
        // Only now, with every answer in hand, does the search move on: a failed step can be repeated.
        self.unequal.truncate(from);
        self.unequal.append(&mut deeper.unequal);
        self.differences.extend(found);
        self.ranges_compared += deeper.ranges_compared;
        self.rounds += 1;
        Ok(self.is_done())
    }

    fn list<L: Replica + ?Sized, R: Replica + ?Sized>(
        &mut self,
        left: &mut L,
        right: &mut R,
        ranges: &[Range],
    ) -> Result<Vec<Difference>, SearchError<L::Error, R::Error>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        // The lists may be longer than the counts said, where writers go on; twice the bound covers what can be
        // told apart here, and the next check finds the rest.
        let limit = self.options.list_max * 2;
        let of_left = left.lists(ranges, limit).map_err(SearchError::Left)?;
        let of_right = right.lists(ranges, limit).map_err(SearchError::Right)?;
        check_length(ranges.len(), of_left.len())?;
        check_length(ranges.len(), of_right.len())?;
        let mut found = Vec::new();
        for (left, right) in of_left.iter().zip(&of_right) {
            self.entries_listed += (left.len() + right.len()) as u64;
            merge(left, right, limit, &mut found);
        }
        Ok(found)
    }

    /// Cuts ranges where `cutter` has more items and compares the pieces.
    fn split<A: Replica + ?Sized, B: Replica + ?Sized, L, R>(
        &mut self,
        cutter: &mut A,
        other: &mut B,
        ranges: &[Range],
        error: impl Fn(SearchError<A::Error, B::Error>) -> SearchError<L, R>,
    ) -> Result<(), SearchError<L, R>> {
        if ranges.is_empty() {
            return Ok(());
        }
        let cut = cutter.splits(ranges, self.options.parts).map_err(SearchError::Left).map_err(&error)?;
        check_length(ranges.len(), cut.len())?;
        let parts: Vec<Part> = cut.into_iter().flatten().collect();
        let pieces: Vec<Range> = parts.iter().map(|part| part.range.clone()).collect();
        let sums: Vec<Fingerprint> = parts.iter().map(|part| part.fingerprint).collect();
        let of_other = other.fingerprints(&pieces).map_err(SearchError::Right).map_err(&error)?;
        check_length(pieces.len(), of_other.len())?;
        self.compared(pieces, &sums, &of_other);
        Ok(())
    }

    /// Keeps the unequal ones with the counts of both sides.
    fn compared(
        &mut self,
        ranges: impl IntoIterator<Item = Range>,
        left: &[Fingerprint],
        right: &[Fingerprint],
    ) {
        for ((range, left), right) in ranges.into_iter().zip(left).zip(right) {
            self.ranges_compared += 1;
            if left != right {
                self.unequal.push((range, left.count(), right.count()));
            }
        }
    }
}

fn ranges_of(batch: &[(Range, u64, u64)]) -> Vec<Range> {
    batch.iter().map(|(range, _, _)| range.clone()).collect()
}

fn flipped<L, R>(error: SearchError<R, L>) -> SearchError<L, R> {
    match error {
        SearchError::Left(error) => SearchError::Right(error),
        SearchError::Right(error) => SearchError::Left(error),
        SearchError::Malformed { expected, actual } => SearchError::Malformed { expected, actual },
    }
}

fn check_length<L, R>(expected: usize, actual: usize) -> Result<(), SearchError<L, R>> {
    if expected == actual { Ok(()) } else { Err(SearchError::Malformed { expected, actual }) }
}

/// Merges two sorted lists and keeps what differs. A list that reached its limit says nothing of ids after its
/// end, so the merge stops there.
fn merge(left: &[Entry], right: &[Entry], limit: usize, found: &mut Vec<Difference>) {
    let known_to = |list: &[Entry]| match list.last() {
        Some(last) if list.len() >= limit => Some(last.id.clone()),
        _ => None,
    };
    let (left_to, right_to) = (known_to(left), known_to(right));
    let known = |id: &str| {
        left_to.as_deref().is_none_or(|to| id <= to) && right_to.as_deref().is_none_or(|to| id <= to)
    };
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.id.cmp(&b.id),
        };
        let a = if order == Ordering::Greater { None } else { left.next() };
        let b = if order == Ordering::Less { None } else { right.next() };
        let Some(id) = a.or(b).map(|entry| entry.id.clone()) else { return };
        let (a, b) = (a.map(|e| (e.version, e.digest)), b.map(|e| (e.version, e.digest)));
        if a.map(|(_, digest)| digest) != b.map(|(_, digest)| digest) && known(&id) {
            found.push(Difference { id, left: a, right: b });
        }
    }
}
