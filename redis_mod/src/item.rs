//! What stands at a key: a live revision, whether it stays in this tier, and how often it was read here.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tandem_shared::codec::{self, Source};
use tandem_shared::{Error, Head, Result, Revision};

const LOCAL: u8 = 1;

/// The value of a key of our type. Its revision is a live one.
#[derive(Debug, Clone)]
pub struct Item {
    /// The revision.
    pub revision: Revision,
    /// Whether it is local (1 bit), its reads (31 bits) and the second of the last one (32 bits): in one word, the
    /// item fits the allocator's class of 112 bytes.
    word: Cell<u64>,
}

/// A child of this server saves. It shares the memory, and each page that is written meanwhile is copied.
static IS_SAVED: AtomicBool = AtomicBool::new(false);

/// Says that a child saves, or does no more: reads are not counted while one does, as Redis leaves its own times of
/// the last access alone then.
pub fn is_saved(is_saved: bool) {
    IS_SAVED.store(is_saved, Ordering::Relaxed);
}

const LOCAL_BIT: u64 = 1 << 63;
const READS_MAX: u64 = (1 << 31) - 1;

impl Item {
    /// An item that nobody has read yet.
    pub fn new(revision: Revision, local: bool) -> Item {
        Item { revision, word: Cell::new(if local { LOCAL_BIT } else { 0 }) }
    }

    /// Whether it stays here: not in the index of what is shared, not for links.
    pub fn local(&self) -> bool {
        self.word.get() & LOCAL_BIT != 0
    }

    /// Counts a read. The counters are of this server only: never saved, replicated or hashed.
    pub fn touch(&self) {
        if IS_SAVED.load(Ordering::Relaxed) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let reads = (self.accesses() + 1).min(READS_MAX);
        let second = now.min(u32::MAX.into());
        self.word.set((self.word.get() & LOCAL_BIT) | (reads << 32) | second);
    }

    /// Number of reads.
    pub fn accesses(&self) -> u64 {
        (self.word.get() >> 32) & READS_MAX
    }

    /// Time of the last read in milliseconds since the Unix epoch, to the second.
    pub fn last_access_ms(&self) -> Option<u64> {
        Some((self.word.get() & u64::from(u32::MAX)) * 1000).filter(|ms| *ms > 0)
    }

    /// Takes over the counters of the item that stood here before.
    pub fn accessed_like(&self, before: &Item) {
        self.word.set((self.word.get() & LOCAL_BIT) | (before.word.get() & !LOCAL_BIT));
    }

    /// What decisions need of it.
    pub fn head(&self) -> Head<'_> {
        let mut head = self.revision.head();
        if let Some(live) = &mut head.live {
            live.local = self.local();
        }
        head
    }

    /// As RDB files, DUMP and the AOF hold it: a byte of flags (1: local) and the encoded revision.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = codec::encode(&self.revision);
        out.insert(0, if self.local() { LOCAL } else { 0 });
        out
    }

    /// Reads what [`Item::encode`] wrote. Errors: `CORRUPT`; from elsewhere also `TOOLARGE` and `INVALID`.
    pub fn decode(bytes: &[u8], source: Source) -> Result<Item> {
        let Some((flags, encoded)) = bytes.split_first().filter(|(flags, _)| **flags <= LOCAL) else {
            return Err(Error::corrupt("item", "its flags are not known"));
        };
        let revision = codec::decode(encoded, source)?;
        if revision.head().is_tombstone() {
            return Err(Error::corrupt("item", "it is a tombstone"));
        }
        Ok(Item::new(revision, *flags == LOCAL))
    }
}

const _: () = assert!(size_of::<Item>() <= 112, "an item takes one step more of memory");

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_shared::content::Bounds;
    use tandem_shared::{Body, Content, State, Timestamp, Version};

    #[test]
    fn items_round_trip() {
        let revision = Revision {
            version: Version::FIRST,
            timestamp: Timestamp::EPOCH,
            audit: None,
            body: Body::Live {
                state: State::default(),
                content: Content::json(b"[1]", Bounds::MAX).unwrap(),
            },
        };
        for local in [false, true] {
            let item = Item::new(revision.clone(), local);
            item.touch();
            let again = Item::decode(&item.encode(), Source::Own).unwrap();
            assert_eq!((again.revision.clone(), again.local()), (revision.clone(), local));
            assert_eq!((item.accesses(), again.accesses()), (1, 0));
            assert!(item.last_access_ms().is_some());
        }
        let mut bytes = Item::new(revision, false).encode();
        bytes[0] = 9;
        assert!(Item::decode(&bytes, Source::Own).is_err() && Item::decode(&[], Source::Own).is_err());
    }
}
