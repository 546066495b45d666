//! Content hash, the digest of a live item, and the key that digests are made with (DESIGN section 2).

#![allow(clippy::indexing_slicing, reason = "a byte cannot exceed the table of all bytes")]

use crate::content::ContentType;
use crate::error::{Error, Result, shown};
use std::fmt;

const DIGEST_CONTEXT: &str = "tandem digest v1";
const KEY_CHECK_CONTEXT: &str = "tandem key check v1";

/// BLAKE3-256 of the content bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadHash(pub [u8; 32]);

impl PayloadHash {
    /// Hashes content: canonical JSON, or the raw bytes of binary content.
    pub fn of(content_bytes: &[u8]) -> PayloadHash {
        PayloadHash(*blake3::hash(content_bytes).as_bytes())
    }

    /// Lower-case hex.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The 32 bytes that stand for one live item in fingerprints; in hex it is the etag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The etag: lower-case hex.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Writes the etag into a buffer without allocating.
    pub fn write_hex(self, out: &mut [u8; 64]) {
        write_hex(&self.0, out);
    }

    /// Reads an etag: 64 hex digits. Errors: `INVALID`.
    pub fn from_hex(text: &str) -> Result<Digest> {
        let refused = || {
            Error::invalid(
                format!("etag {}", shown(text)),
                "is not 64 hex digits",
                "pass the etag that a read returned",
            )
        };
        if text.len() != 64 {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = *pair else { return Err(refused()) };
            let (Some(high), Some(low)) = ((high as char).to_digit(16), (low as char).to_digit(16)) else {
                return Err(refused());
            };
            *byte = (high * 16 + low) as u8;
        }
        Ok(Digest(bytes))
    }

    /// Reads the 32 bytes of a digest. Errors: `CORRUPT`.
    pub fn from_slice(bytes: &[u8]) -> Result<Digest> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::corrupt("digest", format!("it has {} bytes, not 32", bytes.len())))?;
        Ok(Digest(bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Lower-case hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| HEX_PAIRS[usize::from(*byte)]).map(char::from).collect()
}

fn write_hex(bytes: &[u8; 32], out: &mut [u8; 64]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX_PAIRS[usize::from(*byte)]);
    }
}

/// The two digits of every byte: every reply carries an etag, and looking up is cheaper than computing.
static HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = *b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The key of all digests of one deployment, derived from the secret that both sides are configured with.
#[derive(Clone)]
pub struct DigestKey {
    key: [u8; 32],
}

impl DigestKey {
    /// Derives the key from the secret; an empty secret is the default.
    pub fn new(secret: &[u8]) -> DigestKey {
        DigestKey { key: blake3::derive_key(DIGEST_CONTEXT, secret) }
    }

    /// A value both sides compare to learn whether their secrets are equal; it tells nothing of the secret.
    pub fn check(&self) -> [u8; 32] {
        blake3::derive_key(KEY_CHECK_CONTEXT, &self.key)
    }

    /// The digest of a live item: keyed BLAKE3 over version (u64), id (u16 length, bytes), state (u8 length,
    /// bytes), content type (one byte) and payload hash (32 bytes); integers are little-endian.
    pub fn digest(
        &self,
        version: u64,
        id: &str,
        state: &str,
        content_type: ContentType,
        payload_hash: &PayloadHash,
    ) -> Digest {
        debug_assert!(id.len() <= crate::limits::ID_BYTES_MAX);
        debug_assert!(state.len() <= crate::limits::STATE_BYTES_MAX);
        const FIXED_BYTES: usize = 8 + 2 + 1 + 1 + 32;
        const MESSAGE_BYTES_MAX: usize =
            FIXED_BYTES + crate::limits::ID_BYTES_MAX + crate::limits::STATE_BYTES_MAX;
        let mut message = [0_u8; MESSAGE_BYTES_MAX];
        let mut used = 0;
        let mut append = |bytes: &[u8]| {
            if let Some(target) = message.get_mut(used..used + bytes.len()) {
                target.copy_from_slice(bytes);
            }
            used += bytes.len();
        };
        append(&version.to_le_bytes());
        append(&(id.len() as u16).to_le_bytes());
        append(id.as_bytes());
        append(&[state.len() as u8]);
        append(state.as_bytes());
        append(&[content_type.to_byte()]);
        append(&payload_hash.0);
        Digest(*blake3::keyed_hash(&self.key, message.get(..used).unwrap_or(&message)).as_bytes())
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_moves_the_digest() {
        let key = DigestKey::new(b"");
        let hash = PayloadHash::of(b"{}");
        let base = key.digest(1, "a", "default", ContentType::Json, &hash);
        let others = [
            key.digest(2, "a", "default", ContentType::Json, &hash),
            key.digest(1, "b", "default", ContentType::Json, &hash),
            key.digest(1, "a", "default2", ContentType::Json, &hash),
            key.digest(1, "adefault", "x", ContentType::Json, &hash),
            key.digest(1, "a", "default", ContentType::Binary, &hash),
            key.digest(1, "a", "default", ContentType::Json, &PayloadHash::of(b"[]")),
            DigestKey::new(b"secret").digest(1, "a", "default", ContentType::Json, &hash),
        ];
        for other in others {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn etags_round_trip() {
        let digest = DigestKey::new(b"").digest(1, "a", "s", ContentType::Json, &PayloadHash::of(b""));
        assert_eq!(Digest::from_hex(&digest.to_hex()).unwrap(), digest);
        assert_eq!(Digest::from_hex(&digest.to_hex().to_uppercase()).unwrap(), digest);
        assert!(Digest::from_hex("abc").is_err());
        assert!(Digest::from_hex(&"é".repeat(32)).is_err());
        let mut buffer = [0; 64];
        digest.write_hex(&mut buffer);
        assert_eq!(buffer, digest.to_hex().as_bytes());
    }
}
