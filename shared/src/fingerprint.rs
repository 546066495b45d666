//! Fingerprints of sets of items: (count, sum of digests modulo 2^256). Addition commutes and can be undone,
//! so an update is `sum - old + new` and the fingerprints of parts add up to that of the whole. The multiset
//! hash by addition is Bellare and Micciancio's AdHash ("A New Paradigm for Collision-Free Hashing", 1997);
//! the digests are keyed, which is what makes 256 bits enough against crafted sets.

use crate::digest::{Digest, hex};
use crate::error::{Error, Result};
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

const NODE_CONTEXT: &str = "tandem node v1";
const LIMBS: usize = 4;

/// Count and sum of a set of items.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Fingerprint {
    count: u64,
    sum: [u64; LIMBS],
}

impl Fingerprint {
    /// The fingerprint of no items.
    pub const EMPTY: Fingerprint = Fingerprint { count: 0, sum: [0; LIMBS] };

    /// The fingerprint of one item.
    pub fn of(digest: &Digest) -> Fingerprint {
        Fingerprint { count: 1, sum: limbs(&digest.0) }
    }

    /// A fingerprint from its parts, as stored: the sum as 32 bytes, little-endian.
    pub fn from_parts(count: u64, sum: &[u8]) -> Result<Fingerprint> {
        let sum: &[u8; 32] = sum
            .try_into()
            .map_err(|_| Error::corrupt("fingerprint", format!("its sum has {} bytes, not 32", sum.len())))?;
        Ok(Fingerprint { count, sum: limbs(sum) })
    }

    /// Number of items.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum as 32 bytes, little-endian.
    pub fn sum(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.sum) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The hash that users see of a node: BLAKE3 of count (u64, little-endian) and sum under its own context.
    /// `None` for no items.
    pub fn node_hash(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key(NODE_CONTEXT);
        hasher.update(&self.count.to_le_bytes());
        hasher.update(&self.sum());
        Some(hex(hasher.finalize().as_bytes()))
    }
}

fn limbs(bytes: &[u8; 32]) -> [u64; LIMBS] {
    let mut limbs = [0; LIMBS];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
        *limb = chunk.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
    }
    limbs
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Fingerprint) {
        self.count = self.count.wrapping_add(other.count);
        let mut carry = false;
        for (limb, addend) in self.sum.iter_mut().zip(other.sum) {
            let (partial, over_a) = limb.overflowing_add(addend);
            let (total, over_b) = partial.overflowing_add(u64::from(carry));
            *limb = total;
            carry = over_a || over_b;
        }
    }
}

impl SubAssign for Fingerprint {
    fn sub_assign(&mut self, other: Fingerprint) {
        self.count = self.count.wrapping_sub(other.count);
        let mut borrow = false;
        for (limb, subtrahend) in self.sum.iter_mut().zip(other.sum) {
            let (partial, under_a) = limb.overflowing_sub(subtrahend);
            let (total, under_b) = partial.overflowing_sub(u64::from(borrow));
            *limb = total;
            borrow = under_a || under_b;
        }
    }
}

impl Add for Fingerprint {
    type Output = Fingerprint;
    fn add(mut self, other: Fingerprint) -> Fingerprint {
        self += other;
        self
    }
}

impl Sub for Fingerprint {
    type Output = Fingerprint;
    fn sub(mut self, other: Fingerprint) -> Fingerprint {
        self -= other;
        self
    }
}

impl std::iter::Sum for Fingerprint {
    fn sum<I: Iterator<Item = Fingerprint>>(parts: I) -> Fingerprint {
        parts.fold(Fingerprint::EMPTY, Add::add)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.count, hex(&self.sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_wrap_and_carry_over_all_limbs() {
        let most = Fingerprint::of(&Digest([0xff; 32]));
        let mut one = [0; 32];
        one[0] = 1;
        let one = Fingerprint::of(&Digest(one));
        assert_eq!((most + one).sum(), [0; 32]);
        assert_eq!(most + one - one, most);
        assert_eq!((most + one).count(), 2);
        assert_eq!(Fingerprint::EMPTY - one + one, Fingerprint::EMPTY);
    }

    #[test]
    fn no_items_have_no_hash() {
        assert_eq!(Fingerprint::EMPTY.node_hash(), None);
        assert!(Fingerprint::of(&Digest([0; 32])).node_hash().is_some());
    }
}
