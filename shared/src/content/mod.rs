//! Content of an item: canonical JSON, or binary.

mod builder;
mod json;
mod merge;
mod number;

pub use builder::{Builder, Canonical, Key, Object};
pub use json::{canonicalize, measure};
pub use merge::merge;

use crate::digest::PayloadHash;
use crate::error::{Error, Result, shown};
use crate::limits::{CONTENT_BYTES_MAX, JSON_DEPTH_MAX, PRINTED_BYTES_MAX};
use std::fmt;

/// How large content may be that a writer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the canonical form, or of binary content.
    pub content_bytes: usize,
    /// Bytes of JSON as Postgres prints it.
    pub printed_bytes: usize,
}

impl Bounds {
    /// The widest that a setting can be.
    pub const MAX: Bounds = Bounds { content_bytes: CONTENT_BYTES_MAX, printed_bytes: PRINTED_BYTES_MAX };

    /// None: of what was measured already.
    pub const NONE: Bounds = Bounds { content_bytes: usize::MAX, printed_bytes: usize::MAX };

    fn check(self, actual_bytes: usize) -> Result<()> {
        check_size("content", actual_bytes, self.content_bytes)
    }

    fn check_printed(self, actual_bytes: usize) -> Result<()> {
        check_size(
            "content as Postgres prints it, with every number in full,",
            actual_bytes,
            self.printed_bytes,
        )
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds::MAX
    }
}

/// The two kinds of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentType {
    /// Canonical JSON.
    Json,
    /// Any bytes.
    Binary,
}

impl ContentType {
    /// The name users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            ContentType::Json => "json",
            ContentType::Binary => "binary",
        }
    }

    /// Reads the name of [`ContentType::as_str`]. Errors: `INVALID`.
    pub fn parse(name: &str) -> Result<ContentType> {
        match name {
            "json" => Ok(ContentType::Json),
            "binary" => Ok(ContentType::Binary),
            _ => Err(Error::invalid(
                format!("type {}", shown(name)),
                "is not known",
                "give json or binary, or none to have it detected",
            )),
        }
    }

    /// The byte that stands for it in digests and in the codec; it never changes.
    pub const fn to_byte(self) -> u8 {
        match self {
            ContentType::Json => 1,
            ContentType::Binary => 2,
        }
    }

    /// Reads the byte of [`ContentType::to_byte`].
    pub const fn from_byte(byte: u8) -> Option<ContentType> {
        match byte {
            1 => Some(ContentType::Json),
            2 => Some(ContentType::Binary),
            _ => None,
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Content that was checked: JSON is canonical, and the hash is that of the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    content_type: ContentType,
    bytes: Box<[u8]>,
    payload_hash: PayloadHash,
}

impl Content {
    /// JSON text in any form. Errors: `BADJSON`; `TOOLARGE` for what exceeds a bound in its canonical form, however
    /// long the text is.
    pub fn json(text: &[u8], bounds: Bounds) -> Result<Content> {
        let canonical = measure(text, JSON_DEPTH_MAX)?;
        bounds.check(canonical.bytes.len())?;
        bounds.check_printed(canonical.printed_bytes)?;
        Ok(Content::hashed(ContentType::Json, canonical.bytes.into()))
    }

    /// JSON as a `jsonb` prints it that is stored as it is and not in its canonical form: numbers there keep the zeros
    /// that a writer gave them, so the text itself is measured. Errors: `BADJSON`, `TOOLARGE`.
    pub fn of_jsonb(text: &[u8], bounds: Bounds) -> Result<Content> {
        bounds.check_printed(text.len())?;
        Content::json(text, Bounds { printed_bytes: usize::MAX, ..bounds })
    }

    /// Any bytes. Errors: `TOOLARGE`.
    pub fn binary(bytes: &[u8], bounds: Bounds) -> Result<Content> {
        bounds.check(bytes.len())?;
        Ok(Content::hashed(ContentType::Binary, bytes.into()))
    }

    /// Content of a known type, as [`Content::json`] or [`Content::binary`] reads it.
    pub fn new(content_type: ContentType, bytes: &[u8], bounds: Bounds) -> Result<Content> {
        match content_type {
            ContentType::Json => Content::json(bytes, bounds),
            ContentType::Binary => Content::binary(bytes, bounds),
        }
    }

    /// Content as it is stored, JSON in any form: it was measured when it was written, and a bound that is lower now
    /// must not make it unreadable. Errors: `BADJSON`.
    pub fn stored(content_type: ContentType, bytes: &[u8]) -> Result<Content> {
        let bytes = match content_type {
            ContentType::Json => canonicalize(bytes)?,
            ContentType::Binary => bytes.to_vec(),
        };
        Ok(Content::hashed(content_type, bytes.into()))
    }

    /// Content whose caller named no type: JSON if its first byte that is not a blank begins an object, an array or
    /// a string and all of it parses, else binary. Errors: `TOOLARGE`.
    pub fn detect(bytes: &[u8], bounds: Bounds) -> Result<Content> {
        let first = bytes.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        if matches!(first, Some(b'{' | b'[' | b'"')) {
            match Content::json(bytes, bounds) {
                Err(Error::BadJson { .. }) => {}
                other => return other,
            }
        }
        Content::binary(bytes, bounds)
    }

    /// This JSON content with a merge patch applied, or the patch applied to nothing (RFC 7396). `current` is
    /// canonical JSON. Errors: `BADJSON`, `TOOLARGE`.
    pub fn merged(current: Option<&[u8]>, patch: &Content, bounds: Bounds) -> Result<Content> {
        Content::json(merge(current, &patch.bytes)?.as_bytes(), bounds)
    }

    /// Bytes that this crate made canonical earlier, as they come out of tandem's own storage.
    pub(crate) fn hashed(content_type: ContentType, bytes: Box<[u8]>) -> Content {
        let payload_hash = PayloadHash::of(&bytes);
        Content { content_type, bytes, payload_hash }
    }

    /// Its type.
    pub fn content_type(&self) -> ContentType {
        self.content_type
    }

    /// Canonical JSON, or the raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3-256 of the bytes.
    pub fn payload_hash(&self) -> &PayloadHash {
        &self.payload_hash
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.content_type, crate::error::shown(&String::from_utf8_lossy(&self.bytes)))
    }
}

fn check_size(what: &'static str, actual_bytes: usize, limit_bytes: usize) -> Result<()> {
    if actual_bytes > limit_bytes {
        return Err(Error::TooLarge { what, actual_bytes, limit_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bounds(content_bytes: usize, printed_bytes: usize) -> Bounds {
        Bounds { content_bytes, printed_bytes }
    }

    fn refused_with(content: Result<Content>) -> (usize, usize) {
        match content {
            Err(Error::TooLarge { actual_bytes, limit_bytes, .. }) => (actual_bytes, limit_bytes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn size_is_checked_at_its_boundary() {
        assert!(Content::binary(&[7; 10], bounds(10, 0)).is_ok());
        assert_eq!(refused_with(Content::binary(&[7; 11], bounds(10, 0))), (11, 10));
        assert!(
            Content::json(b" [ 1 , 2.00 ] ", bounds(5, 6)).is_ok(),
            "the canonical form counts, not the text"
        );
        assert_eq!(refused_with(Content::json(b"[1,2]", bounds(4, 6))), (5, 4));
        assert_eq!(refused_with(Content::json(b"[1,2]", bounds(5, 5))), (6, 5));
        assert_eq!(refused_with(Content::json(b"1e30", bounds(4, 30))), (31, 30));
        assert_eq!(refused_with(Content::merged(None, &patch(br#"{"a":1e30}"#), bounds(100, 37))), (38, 37));
    }

    fn patch(text: &[u8]) -> Content {
        Content::json(text, Bounds::MAX).unwrap()
    }

    #[test]
    fn what_is_stored_is_read_whatever_its_size() {
        let text = format!("[{}]", vec!["1e131071"; 1000].join(","));
        assert_eq!(refused_with(Content::json(text.as_bytes(), Bounds::MAX)), (131_074_000, 64 << 20));
        assert_eq!(Content::stored(ContentType::Json, text.as_bytes()).unwrap().bytes(), text.as_bytes());
        assert!(Content::of_jsonb(b"[1.00, 2]", bounds(5, 9)).is_ok());
        assert_eq!(refused_with(Content::of_jsonb(b"[1.00, 2]", bounds(5, 8))), (9, 8));
        assert_eq!(refused_with(Content::of_jsonb(b"[1.00, 2]", bounds(4, 9))), (5, 4));
    }

    #[test]
    fn types_are_detected() {
        for (bytes, expected) in [
            (&b" {\"a\": 1}"[..], ContentType::Json),
            (b"[]", ContentType::Json),
            (b"\n\"text\"", ContentType::Json),
            (b"1", ContentType::Binary),
            (b"null", ContentType::Binary),
            (b"{\"a\":", ContentType::Binary),
            (b"[] []", ContentType::Binary),
            (b"\"\\u0000\"", ContentType::Binary),
            (b"", ContentType::Binary),
            (b"[\xff]", ContentType::Binary),
        ] {
            assert_eq!(Content::detect(bytes, Bounds::MAX).unwrap().content_type(), expected, "{bytes:?}");
        }
        assert!(matches!(Content::detect(b"[1,2]", bounds(4, 100)), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn types_round_trip() {
        for content_type in [ContentType::Json, ContentType::Binary] {
            assert_eq!(ContentType::from_byte(content_type.to_byte()), Some(content_type));
        }
        assert_eq!(ContentType::from_byte(0), None);
    }
}
