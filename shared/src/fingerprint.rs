//! Fingerprints of sets of items: (count, sum of the first 16 bytes of the digests modulo 2^128). Addition commutes
//! and can be undone, so an update is `sum - old + new` and the fingerprints of parts add up to that of the whole.
//! The multiset hash by addition is Bellare and Micciancio's AdHash ("A New Paradigm for Collision-Free Hashing",
//! 1997). The digests are keyed, so whoever does not know the secret cannot look for sets with equal sums; without a
//! secret he can, and no practical width of the sum would keep him from it (Wagner: "A Generalized Birthday
//! Problem", 2002). Two sets that nobody crafted have equal sums with a chance of 2^-128.

use crate::digest::{Digest, hex};
use crate::error::{Error, Result};
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

const NODE_CONTEXT: &str = "tandem node v2";
/// Bytes of a sum, and of each digest that are added up.
pub const SUM_BYTES: usize = 16;

/// Count and sum of a set of items.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Fingerprint {
    count: u64,
    /// The sum, lower half first: two words align as the count does, so that the index has 24 bytes for each and not
    /// 32.
    halves: [u64; 2],
}

impl Fingerprint {
    /// The fingerprint of no items.
    pub const EMPTY: Fingerprint = Fingerprint { count: 0, halves: [0; 2] };

    /// The fingerprint of one item.
    pub fn of(digest: &Digest) -> Fingerprint {
        let (head, _) = digest.0.split_first_chunk().unwrap_or((&[0; SUM_BYTES], &[]));
        Fingerprint { count: 1, halves: halves(u128::from_le_bytes(*head)) }
    }

    /// A fingerprint from its parts, as stored: the sum as 16 bytes, little-endian.
    pub fn from_parts(count: u64, sum: &[u8]) -> Result<Fingerprint> {
        let sum: [u8; SUM_BYTES] = sum.try_into().map_err(|_| {
            Error::corrupt("fingerprint", format!("its sum has {} bytes, not {SUM_BYTES}", sum.len()))
        })?;
        Ok(Fingerprint { count, halves: halves(u128::from_le_bytes(sum)) })
    }

    /// Number of items.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum as 16 bytes, little-endian.
    pub fn sum(&self) -> [u8; SUM_BYTES] {
        self.total().to_le_bytes()
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

    fn total(&self) -> u128 {
        let [low, high] = self.halves;
        (u128::from(high) << 64) | u128::from(low)
    }
}

fn halves(total: u128) -> [u64; 2] {
    [total as u64, (total >> 64) as u64]
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Fingerprint) {
        self.count = self.count.wrapping_add(other.count);
        self.halves = halves(self.total().wrapping_add(other.total()));
    }
}

impl SubAssign for Fingerprint {
    fn sub_assign(&mut self, other: Fingerprint) {
        self.count = self.count.wrapping_sub(other.count);
        self.halves = halves(self.total().wrapping_sub(other.total()));
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
    fn sums_wrap_and_carry_into_the_upper_half() {
        let most = Fingerprint::of(&Digest([0xff; 32]));
        let with_first = |bytes: &[(usize, u8)]| {
            let mut digest = [0; 32];
            bytes.iter().for_each(|(at, byte)| digest[*at] = *byte);
            Fingerprint::of(&Digest(digest))
        };
        let one = with_first(&[(0, 1)]);
        assert_eq!((most + one).sum(), [0; 16]);
        assert_eq!(most + one - one, most);
        assert_eq!((most + one).count(), 2);
        assert_eq!(Fingerprint::EMPTY - one + one, Fingerprint::EMPTY);
        let low_half = (0..8).fold(Vec::new(), |mut bytes, at| {
            bytes.push((at, 0xff));
            bytes
        });
        let carried = with_first(&low_half) + one;
        assert_eq!(carried.sum(), with_first(&[(8, 1)]).sum());
        assert_eq!((carried - one).sum(), with_first(&low_half).sum());
    }

    #[test]
    fn the_first_half_of_a_digest_counts() {
        let mut digest = [7; 32];
        let whole = Fingerprint::of(&Digest(digest));
        digest[16] = 8;
        assert_eq!(Fingerprint::of(&Digest(digest)), whole);
        digest[15] = 8;
        assert_ne!(Fingerprint::of(&Digest(digest)), whole);
        assert_eq!(Fingerprint::from_parts(1, &whole.sum()), Ok(whole));
        assert!(Fingerprint::from_parts(1, &[0; 32]).is_err());
    }

    #[test]
    fn no_items_have_no_hash() {
        assert_eq!(Fingerprint::EMPTY.node_hash(), None);
        assert!(Fingerprint::of(&Digest([0; 32])).node_hash().is_some());
    }
}
