//! What a replica, and the AOF, must know of a change beside the revision.

use crate::engine::Database;
use crate::ghosts::Copy;
use tandem_shared::{Digest, Error, Result, Version};

/// What a replica must know of a write beside the revision: `TANDEM.EFFECT kind id effect revision`. Sequence number
/// (u64) and time of expiry (i64, milliseconds since the Unix epoch, -1 for none), little-endian, and the name of
/// the link that brought it.
pub struct Effect<'a> {
    /// Number in the links' books, 0 for none.
    pub seq: u64,
    /// When the copy expires.
    pub expires_at: i64,
    /// The link that brought it.
    pub origin: Option<&'a str>,
}

impl<'a> Effect<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend(self.seq.to_le_bytes());
        out.extend(self.expires_at.to_le_bytes());
        out.extend(self.origin.unwrap_or_default().as_bytes());
        out
    }

    /// Reads what `encode` wrote. Errors: `CORRUPT`.
    pub fn decode(bytes: &'a [u8]) -> Result<Effect<'a>> {
        let refused = || Error::corrupt("effect", "it is cut short or no text");
        let (seq, rest) = bytes.split_first_chunk::<8>().ok_or_else(refused)?;
        let (expires_at, origin) = rest.split_first_chunk::<8>().ok_or_else(refused)?;
        let origin = std::str::from_utf8(origin).map_err(|_| refused())?;
        Ok(Effect {
            seq: u64::from_le_bytes(*seq),
            expires_at: i64::from_le_bytes(*expires_at),
            origin: Some(origin).filter(|origin| !origin.is_empty()),
        })
    }
}

/// What a replica must know of a copy that has left for good: `TANDEM.EFFECT EXPIRED id gone`. Version and last
/// sequence number (u64, u64), little-endian; and where they are known one byte, 1 if the other side has the copy, 32
/// bytes of digest, and the state.
pub struct Gone<'a> {
    /// The version that the copy had.
    pub version: Version,
    /// The number that was given last in the links' books.
    pub last_seq: u64,
    /// What is kept of the copy.
    pub copy: Option<Copy<'a>>,
}

impl<'a> Gone<'a> {
    /// What is to be said of a ghost.
    pub fn of(database: &'a Database, id: &str, version: Version) -> Gone<'a> {
        let copy = database.ghosts.get(id).and_then(|(_, copy)| copy);
        Gone { version, last_seq: database.pending.last_seq(), copy }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        out.extend(self.version.get().to_le_bytes());
        out.extend(self.last_seq.to_le_bytes());
        if let Some(copy) = self.copy {
            out.push(copy.is_counted.into());
            out.extend(copy.digest.0);
            out.extend(copy.state.as_bytes());
        }
        out
    }

    /// Reads what `encode` wrote. Errors: `CORRUPT`.
    pub fn decode(bytes: &'a [u8]) -> Result<Gone<'a>> {
        let refused = || Error::corrupt("expiry", "it is cut short or no text");
        let (version, rest) = bytes.split_first_chunk::<8>().ok_or_else(refused)?;
        let (last_seq, copy) = rest.split_first_chunk::<8>().ok_or_else(refused)?;
        let copy = match copy.split_first() {
            None => None,
            Some((is_counted, copy)) => {
                let (digest, state) = copy.split_first_chunk::<32>().ok_or_else(refused)?;
                let state = std::str::from_utf8(state).map_err(|_| refused())?;
                Some(Copy { digest: Digest(*digest), state, is_counted: *is_counted == 1 })
            }
        };
        let version = Version::new(u64::from_le_bytes(*version).into())?;
        Ok(Gone { version, last_seq: u64::from_le_bytes(*last_seq), copy })
    }
}
