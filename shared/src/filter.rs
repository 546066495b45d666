//! A filter of ids: "certainly not there" without asking, by a cuckoo filter (Fan et al., "Cuckoo Filter: Practically
//! Better Than Bloom", 2014).
//!
//! Ids go in as [`key`]s, so that a whole database of them travels in eight bytes each.

use scalable_cuckoo_filter::{DefaultHasher, ScalableCuckooFilter, ScalableCuckooFilterBuilder};

/// How often an id that is not there is taken for one that may be.
const FALSE_POSITIVES: f64 = 0.005;
/// A filter has room for at least so many ids.
const CAPACITY_MIN: usize = 4096;

/// What stands for an id: the first eight bytes of its BLAKE3 hash as a little-endian integer.
pub fn key(id: &str) -> u64 {
    blake3::hash(id.as_bytes())
        .as_bytes()
        .iter()
        .take(8)
        .rev()
        .fold(0, |key, byte| (key << 8) | u64::from(*byte))
}

/// A set of keys that answers "certainly not in it" or "may be in it". Nothing is taken out, and so a key that seems
/// to be in it need not be put in.
#[derive(Debug)]
pub struct IdFilter {
    keys: ScalableCuckooFilter<u64, DefaultHasher>,
}

impl IdFilter {
    /// A filter with room for this many ids, and half as many more; it grows beyond that.
    pub fn with_capacity(ids: u64) -> IdFilter {
        let ids = usize::try_from(ids).unwrap_or(usize::MAX).clamp(CAPACITY_MIN, usize::MAX / 4);
        let builder = ScalableCuckooFilterBuilder::new().initial_capacity(ids + ids / 2);
        IdFilter { keys: builder.false_positive_probability(FALSE_POSITIVES).finish() }
    }

    /// Puts a key in.
    pub fn insert(&mut self, key: u64) {
        self.keys.insert_if_not_contained(&key);
    }

    /// Whether an id may be in it; `false` is certain.
    pub fn may_contain(&self, id: &str) -> bool {
        self.keys.contains(&key(id))
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.keys.bits() / 8).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_the_first_bytes_of_the_hash() {
        assert_eq!(key("a"), u64::from_le_bytes(*blake3::hash(b"a").as_bytes().first_chunk().unwrap()));
        assert_ne!(key("a"), key("b"));
    }

    #[test]
    fn few_absent_ids_are_taken_for_present_ones() {
        for capacity in [50_000, 0] {
            let mut filter = IdFilter::with_capacity(capacity);
            (0..50_000).for_each(|number| filter.insert(key(&format!("in:{number}"))));
            assert!((0..50_000).all(|number| filter.may_contain(&format!("in:{number}"))));
            let wrong = (0..50_000).filter(|number| filter.may_contain(&format!("out:{number}"))).count();
            assert!(wrong < 500, "{wrong} of 50,000");
            assert!(filter.bytes() < 50_000 * 6, "{} bytes", filter.bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_in_it_is_never_denied(numbers in prop::collection::vec(0_u16..3000, 0..6000)) {
            let mut filter = IdFilter::with_capacity(0);
            for number in &numbers {
                filter.insert(key(&number.to_string()));
            }
            for number in &numbers {
                prop_assert!(filter.may_contain(&number.to_string()));
            }
        }
    }
}
