//! The binary form of a revision: RDB, AOF, replication and the link carry it.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | format: 1 |
//! | 1 | kind: 0 tombstone, 1 JSON, 2 binary (the content type's byte) |
//! | 8 | version, u64 little-endian |
//! | 8 | timestamp, u64 little-endian, milliseconds since the Unix epoch |
//! | 2 + n | audit: u16 little-endian length and canonical JSON; length 0 means none |
//! | 1 + n | state: u8 length and UTF-8 (live revisions only) |
//! | 4 + n | content: u32 little-endian length and bytes (live revisions only) |
//!
//! Nothing may follow. Every length is checked against the bytes that are there before anything is copied.

use crate::content::{Bounds, Content, ContentType};
use crate::error::{Error, Result};
use crate::limits::{AUDIT_STORED_BYTES_MAX, STATE_BYTES_MAX};
use crate::revision::{Audit, Body, Revision, State, Timestamp, Version};

/// The first byte of what [`encode`] writes.
pub const FORMAT: u8 = 1;

const KIND_TOMBSTONE: u8 = 0;
const FIXED_BYTES: usize = 1 + 1 + 8 + 8 + 2;

/// Where bytes come from, which decides what is checked of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The network or a user: JSON must prove to be canonical, and nothing may exceed what a writer may give.
    Foreign,
    /// This engine's own storage, protected by its checksum: JSON is taken as canonical and sizes as acceptable, which
    /// they were when it was written. Loading a large RDB would otherwise parse every document again.
    Own,
}

/// The bytes of a revision.
pub fn encode(revision: &Revision) -> Vec<u8> {
    let (kind, state, content): (u8, &str, &[u8]) = match &revision.body {
        Body::Tombstone => (KIND_TOMBSTONE, "", &[]),
        Body::Live { state, content } => (content.content_type().to_byte(), state.as_str(), content.bytes()),
    };
    let audit = revision.audit.as_ref().map_or("", Audit::as_str);
    let mut out = Vec::with_capacity(FIXED_BYTES + audit.len() + 1 + state.len() + 4 + content.len());
    out.extend([FORMAT, kind]);
    out.extend(revision.version.get().to_le_bytes());
    out.extend(revision.timestamp.unix_ms().to_le_bytes());
    out.extend((audit.len() as u16).to_le_bytes());
    out.extend(audit.as_bytes());
    if kind != KIND_TOMBSTONE {
        out.push(state.len() as u8);
        out.extend(state.as_bytes());
        out.extend((content.len() as u32).to_le_bytes());
        out.extend(content);
    }
    out
}

/// Reads the bytes of [`encode`]. Errors: `CORRUPT` for anything else; from elsewhere `TOOLARGE` for a content or
/// audit object, and `INVALID` for a version, that is beyond what is accepted.
pub fn decode(bytes: &[u8], source: Source) -> Result<Revision> {
    let mut reader = Reader { rest: bytes };
    match reader.byte("format")? {
        FORMAT => {}
        other => {
            return Err(corrupt(format!("format {other} is not known, this version reads format {FORMAT}")));
        }
    }
    let kind = reader.byte("kind")?;
    let version = Version::new(reader.u64("version")?.into()).map_err(inner)?;
    if source == Source::Foreign {
        version.check_carried()?;
    }
    let timestamp = Timestamp::new(reader.u64("timestamp")?.into()).map_err(inner)?;
    let audit = reader.audit(source)?;
    let body = match ContentType::from_byte(kind) {
        Some(content_type) => reader.live(content_type, source)?,
        None if kind == KIND_TOMBSTONE => Body::Tombstone,
        None => return Err(corrupt(format!("kind {kind} is not known"))),
    };
    if !reader.rest.is_empty() {
        return Err(corrupt(format!("{} bytes follow its end", reader.rest.len())));
    }
    Ok(Revision { version, timestamp, audit, body })
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, field: &str, length: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(length) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(corrupt(format!("it ends in field {field}: {} of {length} bytes", self.rest.len()))),
        }
    }

    fn byte(&mut self, field: &str) -> Result<u8> {
        Ok(self.integer(field, 1)? as u8)
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        self.integer(field, 8)
    }

    /// A little-endian integer of `width` bytes.
    fn integer(&mut self, field: &str, width: usize) -> Result<u64> {
        Ok(self.take(field, width)?.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn text(&mut self, field: &str, length: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(field, length)?)
            .map_err(|_| corrupt(format!("field {field} is not UTF-8")))
    }

    fn bounded(&mut self, field: &str, width: usize, limit: usize) -> Result<usize> {
        let length = self.integer(field, width)? as usize;
        if length > limit {
            return Err(corrupt(format!("field {field} has {length} bytes, the limit is {limit}")));
        }
        Ok(length)
    }

    fn audit(&mut self, source: Source) -> Result<Option<Audit>> {
        let length = self.bounded("audit", 2, AUDIT_STORED_BYTES_MAX)?;
        if length == 0 {
            return Ok(None);
        }
        let text = self.text("audit", length)?;
        if source == Source::Own {
            return Audit::stored(text).map(Some).map_err(inner);
        }
        let audit = Audit::new(text).map_err(unless_too_large)?;
        if audit.as_str() != text {
            return Err(corrupt("field audit is not canonical JSON".to_owned()));
        }
        Ok(Some(audit))
    }

    fn live(&mut self, content_type: ContentType, source: Source) -> Result<Body> {
        let length = self.bounded("state", 1, STATE_BYTES_MAX)?;
        let state = State::new(self.text("state", length)?).map_err(inner)?;
        let length = self.integer("content", 4)? as usize;
        let bytes = self.take("content", length)?;
        let content = match source {
            Source::Own => Content::hashed(content_type, bytes.into()),
            Source::Foreign => {
                let content = Content::new(content_type, bytes, Bounds::MAX).map_err(unless_too_large)?;
                if content.bytes() != bytes {
                    return Err(corrupt("field content is not canonical JSON".to_owned()));
                }
                content
            }
        };
        Ok(Body::Live { state, content })
    }
}

fn corrupt(problem: String) -> Error {
    Error::corrupt("encoded revision", problem)
}

fn inner(error: Error) -> Error {
    corrupt(error.to_string())
}

/// What is too large says so; anything else that is refused makes the bytes corrupt.
fn unless_too_large(error: Error) -> Error {
    match error {
        Error::TooLarge { .. } => error,
        other => inner(other),
    }
}
