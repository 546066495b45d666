//! What stands at a key: a live revision, whether it stays in this tier, and how often it was read here.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::codec::{self, Source};
use tandem_shared::{Error, Head, Result, Revision};

const LOCAL: u8 = 1;

/// The value of a key of our type. Its revision is a live one.
#[derive(Debug, Clone)]
pub struct Item {
    /// The revision.
    pub revision: Revision,
    /// It stays here: not in the index of what is shared, not for links.
    pub local: bool,
    accesses: Cell<u32>,
    last_access_s: Cell<u32>,
}

impl Item {
    /// An item that nobody has read yet.
    pub fn new(revision: Revision, local: bool) -> Item {
        Item { revision, local, accesses: Cell::new(0), last_access_s: Cell::new(0) }
    }

    /// Counts a read. The counters are of this server only: never saved, replicated or hashed.
    pub fn touch(&self) {
        self.accesses.set(self.accesses.get().saturating_add(1));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.last_access_s.set(u32::try_from(now).unwrap_or(u32::MAX));
    }

    /// Number of reads.
    pub fn accesses(&self) -> u64 {
        self.accesses.get().into()
    }

    /// Time of the last read in milliseconds since the Unix epoch, to the second.
    pub fn last_access_ms(&self) -> Option<u64> {
        Some(u64::from(self.last_access_s.get()) * 1000).filter(|ms| *ms > 0)
    }

    /// Takes over the counters of the item that stood here before.
    pub fn accessed_like(&self, before: &Item) {
        self.accesses.set(before.accesses.get());
        self.last_access_s.set(before.last_access_s.get());
    }

    /// What decisions need of it.
    pub fn head(&self) -> Head<'_> {
        let mut head = self.revision.head();
        if let Some(live) = &mut head.live {
            live.local = self.local;
        }
        head
    }

    /// As RDB files, DUMP and the AOF hold it: a byte of flags (1: local) and the encoded revision.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = codec::encode(&self.revision);
        out.insert(0, if self.local { LOCAL } else { 0 });
        out
    }

    /// Reads what [`Item::encode`] wrote. Errors: `CORRUPT`.
    pub fn decode(bytes: &[u8]) -> Result<Item> {
        let Some((flags, encoded)) = bytes.split_first().filter(|(flags, _)| **flags <= LOCAL) else {
            return Err(Error::corrupt("item", "its flags are not known"));
        };
        let revision = codec::decode(encoded, Source::Own)?;
        if revision.head().is_tombstone() {
            return Err(Error::corrupt("item", "it is a tombstone"));
        }
        Ok(Item::new(revision, *flags == LOCAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_shared::{Body, Content, State, Timestamp, Version};

    #[test]
    fn items_round_trip() {
        let revision = Revision {
            version: Version::FIRST,
            timestamp: Timestamp::EPOCH,
            audit: None,
            body: Body::Live { state: State::default(), content: Content::json(b"[1]", 10).unwrap() },
        };
        for local in [false, true] {
            let item = Item::new(revision.clone(), local);
            item.touch();
            let again = Item::decode(&item.encode()).unwrap();
            assert_eq!((again.revision, again.local), (revision.clone(), local));
            assert_eq!((item.accesses(), again.accesses.get()), (1, 0));
            assert!(item.last_access_ms().is_some());
        }
        let mut bytes = Item::new(revision, false).encode();
        bytes[0] = 9;
        assert!(Item::decode(&bytes).is_err() && Item::decode(&[]).is_err());
    }
}
