//! Ids, prefixes and paths, and the contiguous ranges of the byte order that they stand for.

use crate::error::{Error, Result, shown};
use crate::limits::ID_BYTES_MAX;
use std::fmt;

/// The id of an item: UTF-8, 1 to 512 bytes, no NUL; ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// Checks an id. Errors: `INVALID`.
    pub fn new(text: &str) -> Result<Id> {
        check_id(text)?;
        Ok(Id(text.into()))
    }

    /// Checks an id that comes as bytes. Errors: `INVALID`, also for bytes that are not UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<Id> {
        Id::new(utf8("id", bytes)?)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Id {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Checks an id without taking a copy. Errors: `INVALID`.
pub fn check_id(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid("id", "is empty", format!("give 1 to {ID_BYTES_MAX} bytes")));
    }
    check_name("id", text)
}

/// The id that a key's name is, if it is one. A key may be named in ways that no id can be: not UTF-8, empty, too
/// long, with a NUL byte. What stands at such a key is nobody's item.
pub fn id_of_key(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|text| check_id(text).is_ok())
}

/// Checks a prefix: as an id, but it may be empty. Errors: `INVALID`.
pub fn check_prefix(text: &str) -> Result<()> {
    check_name("prefix", text)
}

fn check_name(what: &str, text: &str) -> Result<()> {
    if text.len() > ID_BYTES_MAX {
        return Err(Error::invalid(
            format!("{what} {}", shown(text)),
            format!("has {} bytes", text.len()),
            format!("at most {ID_BYTES_MAX} are allowed"),
        ));
    }
    if text.as_bytes().contains(&0) {
        return Err(Error::invalid(format!("{what} {}", shown(text)), "contains a NUL byte", "remove it"));
    }
    Ok(())
}

/// Bytes as text. Errors: `INVALID` naming `what` when they are not UTF-8.
pub fn utf8<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        Error::invalid(
            format!("{what} {}", shown(&String::from_utf8_lossy(bytes))),
            format!("is not UTF-8 at byte {}", error.valid_up_to()),
            "encode it as UTF-8",
        )
    })
}

/// A half-open range of ids in byte order: `start` included, `end` excluded, no `end` means to the last id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Range {
    /// First text of the range.
    pub start: String,
    /// First text after the range.
    pub end: Option<String>,
}

impl Range {
    /// Every id.
    pub fn all() -> Range {
        Range::default()
    }

    /// From `start` to before `end`.
    pub fn new(start: impl Into<String>, end: Option<String>) -> Range {
        Range { start: start.into(), end }
    }

    /// Ids that begin with `prefix`. Errors: `INVALID`.
    pub fn of_prefix(prefix: &str) -> Result<Range> {
        check_prefix(prefix)?;
        Ok(Range { start: prefix.to_owned(), end: after_prefix(prefix) })
    }

    /// Whether `id` lies in the range.
    pub fn contains(&self, id: &str) -> bool {
        id >= self.start.as_str() && self.end.as_deref().is_none_or(|end| id < end)
    }

    /// Whether no id can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= self.start.as_str())
    }

    /// The part that lies in both.
    pub fn intersection(&self, other: &Range) -> Range {
        let start = self.start.as_str().max(other.start.as_str()).to_owned();
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        };
        Range { start, end }
    }

    /// The part after `id`, exclusive: where a page that ended with `id` goes on.
    pub fn after(&self, id: &str) -> Range {
        let next = successor(id);
        Range { start: if next > self.start { next } else { self.start.clone() }, end: self.end.clone() }
    }
}

/// The smallest text greater than `id` that can begin an id (ids hold no NUL).
pub fn successor(id: &str) -> String {
    format!("{id}\u{1}")
}

/// The smallest text greater than everything that begins with `prefix`, `None` if there is none. UTF-8 orders
/// by code point, so raising the last raisable character is enough, and the result stays UTF-8, which Postgres
/// needs of a bound.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut head = prefix.to_owned();
    while let Some(last) = head.pop() {
        let raised = match last {
            char::MAX => None,
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(other as u32 + 1),
        };
        if let Some(raised) = raised {
            head.push(raised);
            return Some(head);
        }
    }
    None
}

/// A node of the tree that dots make of ids. The empty path is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// Checks a path. Errors: `INVALID`.
    pub fn new(text: &str) -> Result<Path> {
        check_name("path", text)?;
        Ok(Path(text.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of the subtree: the path itself, and everything below it. Between the two lie ids of siblings
    /// (`a-b` sorts between `a` and `a.b`), so there are two ranges.
    pub fn ranges(&self) -> Vec<Range> {
        if self.is_root() {
            return vec![Range::all()];
        }
        vec![Range::new(self.0.clone(), Some(successor(&self.0))), self.below()]
    }

    /// The ids strictly below the path: `[path + ".", path + "/")`, everything for the root.
    pub fn below(&self) -> Range {
        if self.is_root() {
            return Range::all();
        }
        Range::new(format!("{}.", self.0), Some(format!("{}/", self.0)))
    }

    /// The child of this path that `id`, an id below it, belongs to.
    pub fn child_of(&self, id: &str) -> Option<Path> {
        let skip = if self.is_root() { 0 } else { self.0.len() + 1 };
        let rest = id.get(skip..)?;
        let segment = rest.find('.').map_or(rest, |dot| rest.get(..dot).unwrap_or(rest));
        Some(Path(format!("{}{segment}", id.get(..skip)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded() {
        assert!(Id::new("").is_err());
        assert!(Id::new(&"x".repeat(512)).is_ok());
        assert!(Id::new(&"x".repeat(513)).is_err());
        assert!(Id::new("a\0b").is_err());
        assert!(Id::from_bytes(b"a\xff").is_err());
    }

    #[test]
    fn prefix_range_ends_at_the_next_text() {
        assert_eq!(Range::of_prefix("ab").unwrap().end.as_deref(), Some("ac"));
        assert_eq!(Range::of_prefix("").unwrap(), Range::all());
        assert_eq!(Range::of_prefix("a\u{10FFFF}").unwrap().end.as_deref(), Some("b"));
        assert_eq!(Range::of_prefix("\u{10FFFF}").unwrap().end, None);
        assert_eq!(Range::of_prefix("\u{D7FF}").unwrap().end.as_deref(), Some("\u{E000}"));
        assert!(Range::of_prefix("a%").unwrap().contains("a%b"));
        assert!(!Range::of_prefix("a%").unwrap().contains("ab"));
    }

    #[test]
    fn paths_skip_their_siblings() {
        let path = Path::new("uk.nhs").unwrap();
        let inside = |id: &str| path.ranges().iter().any(|range| range.contains(id));
        assert!(inside("uk.nhs") && inside("uk.nhs.patient"));
        assert!(!inside("uk.nhs-x") && !inside("uk.nhsx") && !inside("uk"));
        assert_eq!(path.child_of("uk.nhs.patient.1").unwrap().as_str(), "uk.nhs.patient");
        assert_eq!(Path::new("").unwrap().child_of("uk.nhs").unwrap().as_str(), "uk");
    }
}
