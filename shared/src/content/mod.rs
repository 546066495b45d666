//! Content of an item: canonical JSON, or binary.

mod json;
mod merge;
mod number;

pub use json::{canonicalize, canonicalize_to};
pub use merge::merge;

use crate::digest::PayloadHash;
use crate::error::{Error, Result, shown};
use std::fmt;

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
    /// JSON text in any form. Errors: `BADJSON`; `TOOLARGE` for text or a canonical form above `limit_bytes`.
    pub fn json(text: &[u8], limit_bytes: usize) -> Result<Content> {
        check_size(text.len(), limit_bytes)?;
        let bytes = canonicalize(text)?;
        check_size(bytes.len(), limit_bytes)?;
        Ok(Content::hashed(ContentType::Json, bytes.into()))
    }

    /// Any bytes. Errors: `TOOLARGE`.
    pub fn binary(bytes: &[u8], limit_bytes: usize) -> Result<Content> {
        check_size(bytes.len(), limit_bytes)?;
        Ok(Content::hashed(ContentType::Binary, bytes.into()))
    }

    /// Content of a known type, as [`Content::json`] or [`Content::binary`] reads it.
    pub fn new(content_type: ContentType, bytes: &[u8], limit_bytes: usize) -> Result<Content> {
        match content_type {
            ContentType::Json => Content::json(bytes, limit_bytes),
            ContentType::Binary => Content::binary(bytes, limit_bytes),
        }
    }

    /// Content whose caller named no type: JSON if its first byte that is not a blank begins an object, an array or
    /// a string and all of it parses, else binary. Errors: `TOOLARGE`.
    pub fn detect(bytes: &[u8], limit_bytes: usize) -> Result<Content> {
        let first = bytes.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        if matches!(first, Some(b'{' | b'[' | b'"')) {
            check_size(bytes.len(), limit_bytes)?;
            match Content::json(bytes, limit_bytes) {
                Err(Error::BadJson { .. }) => {}
                other => return other,
            }
        }
        Content::binary(bytes, limit_bytes)
    }

    /// This JSON content with a merge patch applied, or the patch applied to nothing (RFC 7396). `current` is
    /// canonical JSON. Errors: `BADJSON`, `TOOLARGE`.
    pub fn merged(current: Option<&[u8]>, patch: &Content, limit_bytes: usize) -> Result<Content> {
        let bytes = merge(current, &patch.bytes)?;
        check_size(bytes.len(), limit_bytes)?;
        Ok(Content::hashed(ContentType::Json, bytes.into()))
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

fn check_size(actual_bytes: usize, limit_bytes: usize) -> Result<()> {
    if actual_bytes > limit_bytes {
        return Err(Error::TooLarge { what: "content", actual_bytes, limit_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_checked_at_its_boundary() {
        assert!(Content::binary(&[7; 10], 10).is_ok());
        assert!(matches!(
            Content::binary(&[7; 11], 10),
            Err(Error::TooLarge { actual_bytes: 11, limit_bytes: 10, .. })
        ));
        assert!(Content::json(b" [ 1 ] ", 6).is_err(), "white space counts: the text is read first");
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
            assert_eq!(Content::detect(bytes, 100).unwrap().content_type(), expected, "{bytes:?}");
        }
        assert!(matches!(Content::detect(b"[1,2]", 4), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn types_round_trip() {
        for content_type in [ContentType::Json, ContentType::Binary] {
            assert_eq!(ContentType::from_byte(content_type.to_byte()), Some(content_type));
        }
        assert_eq!(ContentType::from_byte(0), None);
    }
}
