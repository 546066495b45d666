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

/// A change as the log has it: digests before and after, none where there was or is no live item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta<'a> {
    /// The id.
    pub id: &'a str,
    /// Digest before.
    pub old: Option<Digest>,
    /// Digest after.
    pub new: Option<Digest>,
}

impl Delta<'_> {
    /// What it adds to a fingerprint; the count wraps below zero on its own and comes right in the sum.
    pub fn fingerprint(&self) -> Fingerprint {
        let of = |digest: Option<Digest>| digest.as_ref().map_or(Fingerprint::EMPTY, Fingerprint::of);
        of(self.new) - of(self.old)
    }
}

/// Adds changes to blocks that are sorted and hold every id concerned. Returns the positions of the blocks that
/// changed. Errors: `CORRUPT` when an id lies before the first block.
pub fn apply<'a>(blocks: &mut [Block], deltas: impl IntoIterator<Item = Delta<'a>>) -> Result<Vec<usize>> {
    let mut changed = std::collections::BTreeSet::new();
    for delta in deltas {
        let after = blocks.partition_point(|block| block.first.as_str() <= delta.id);
        let Some(at) = after.checked_sub(1) else {
            return Err(Error::corrupt("table tandem.blocks", format!("no block holds id {:?}", delta.id)));
        };
        if let Some(block) = blocks.get_mut(at) {
            block.fingerprint += delta.fingerprint();
            changed.insert(at);
        }
    }
    Ok(changed.into_iter().collect())
}

/// Cuts a block into pieces of [`BLOCK_IDS_CUT`] ids. `entries` are the items now in its range, sorted, and
/// `unfolded` the changes in its range that are not in the block's sum, both of one snapshot.
///
/// Errors: `CORRUPT` when items, block and log do not add up.
pub fn cut(block: &Block, entries: &[(String, Digest)], unfolded: &[Delta<'_>]) -> Result<Vec<Block>> {
    let mut pieces: Vec<Block> = entries
        .chunks(BLOCK_IDS_CUT as usize)
        .map(|chunk| Block {
            first: chunk.first().map(|(id, _)| id.clone()).unwrap_or_default(),
            fingerprint: chunk.iter().map(|(_, digest)| Fingerprint::of(digest)).sum(),
        })
        .collect();
    match pieces.first_mut() {
        Some(first) => first.first.clone_from(&block.first),
        None => pieces.push(Block { first: block.first.clone(), fingerprint: Fingerprint::EMPTY }),
    }
    for delta in unfolded {
        let at = pieces.partition_point(|piece| piece.first.as_str() <= delta.id).saturating_sub(1);
        if let Some(piece) = pieces.get_mut(at) {
            piece.fingerprint -= delta.fingerprint();
        }
    }
    let total: Fingerprint = pieces.iter().map(|piece| piece.fingerprint).sum();
    if total != block.fingerprint {
        return Err(Error::corrupt(
            "table tandem.blocks",
            format!("block {:?} holds {:?}, its items sum to {total:?}", block.first, block.fingerprint),
        ));
    }
    Ok(pieces)
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
