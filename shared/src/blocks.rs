//! The rules of Postgres' folded fingerprints: table `blocks` holds (first id, count, sum) for about 256 ids a
//! row, and the log of changes is added to it in batches (DESIGN section 4).
//!
//! A change adds `new - old` to the block that its id falls into. Addition commutes, so the log may be folded in
//! any order and in any pieces, and at every moment `items = blocks + changes not yet folded` holds in one
//! snapshot. A block is cut by the ids that are in the table now, and the folded part of each piece is therefore
//! its items less the changes not yet folded.
//!
//! The first block begins at the empty text, so that no id lies before it.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Ids a new piece gets when a block is cut.
pub const BLOCK_IDS_CUT: u64 = 192;
/// A block with more ids is cut.
pub const BLOCK_IDS_MAX: u64 = 512;
/// A block with fewer ids is merged with a neighbour if the two together stay small.
pub const BLOCK_IDS_MIN: u64 = 48;

const _: () = assert!(BLOCK_IDS_MIN * 2 < BLOCK_IDS_CUT, "a piece just cut must not be merged at once");
const _: () = assert!(BLOCK_IDS_CUT * 2 <= BLOCK_IDS_MAX, "a cut must leave room to grow");

/// A row of `blocks`: the ids from `first` to the next block's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Lower bound, included.
    pub first: String,
    /// Fingerprint of the folded changes.
    pub fingerprint: Fingerprint,
}

/// A change as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The id.
    pub id: String,
    /// What it adds to the fingerprint: the item after less the item before. The count of a removal wraps below zero,
    /// and the total is still correct.
    pub change: Fingerprint,
}

/// Adds changes to blocks that are sorted and hold every id concerned. Returns the positions of the blocks that
/// changed. Errors: `CORRUPT` when an id lies before the first block.
pub fn apply<'a>(blocks: &mut [Block], deltas: impl IntoIterator<Item = &'a Delta>) -> Result<Vec<usize>> {
    let mut changed = std::collections::BTreeSet::new();
    for delta in deltas {
        let after = blocks.partition_point(|block| block.first <= delta.id);
        let Some(at) = after.checked_sub(1) else {
            return Err(Error::corrupt("table tandem.blocks", format!("no block holds id {:?}", delta.id)));
        };
        if let Some(block) = blocks.get_mut(at) {
            block.fingerprint += delta.change;
            changed.insert(at);
        }
    }
    Ok(changed.into_iter().collect())
}

/// Blocks of [`BLOCK_IDS_CUT`] ids for items, the first of which begins at `first`. `entries` are the items of a
/// range, sorted, and `unfolded` the changes in it that are not in the blocks' sums, both of one snapshot.
pub fn blocks_of(first: &str, entries: &[(String, Digest)], unfolded: &[Delta]) -> Vec<Block> {
    let mut blocks: Vec<Block> = entries
        .chunks(BLOCK_IDS_CUT as usize)
        .map(|chunk| Block {
            first: chunk.first().map(|(id, _)| id.clone()).unwrap_or_default(),
            fingerprint: chunk.iter().map(|(_, digest)| Fingerprint::of(digest)).sum(),
        })
        .collect();
    match blocks.first_mut() {
        Some(block) => block.first = first.to_owned(),
        None => blocks.push(Block { first: first.to_owned(), fingerprint: Fingerprint::EMPTY }),
    }
    for delta in unfolded {
        let at = blocks.partition_point(|block| block.first <= delta.id).saturating_sub(1);
        if let Some(block) = blocks.get_mut(at) {
            block.fingerprint -= delta.change;
        }
    }
    blocks
}

/// Cuts pieces from the front of a block. `entries` and `unfolded`, as [`blocks_of`] takes them, reach up to `rest`,
/// where the block goes on; what is left of it comes last.
pub fn cut_front(block: &Block, entries: &[(String, Digest)], unfolded: &[Delta], rest: &str) -> Vec<Block> {
    let mut pieces = blocks_of(&block.first, entries, unfolded);
    let cut: Fingerprint = pieces.iter().map(|piece| piece.fingerprint).sum();
    pieces.push(Block { first: rest.to_owned(), fingerprint: block.fingerprint - cut });
    pieces
}

/// Cuts a block by all its items. Returns its pieces, and whether they add up to it: if they do not, the block was
/// wrong, and the pieces are right.
pub fn cut(block: &Block, entries: &[(String, Digest)], unfolded: &[Delta]) -> (Vec<Block>, bool) {
    let pieces = blocks_of(&block.first, entries, unfolded);
    let total: Fingerprint = pieces.iter().map(|piece| piece.fingerprint).sum();
    (pieces, total == block.fingerprint)
}

/// Whether a block is to be cut.
pub fn needs_cut(block: &Block) -> bool {
    block.fingerprint.count() > BLOCK_IDS_MAX
}

/// Whether the second of two neighbours is to be added to the first.
pub fn needs_merge(first: &Block, second: &Block) -> bool {
    let (a, b) = (first.fingerprint.count(), second.fingerprint.count());
    a.min(b) < BLOCK_IDS_MIN && a.saturating_add(b) <= BLOCK_IDS_CUT
}
