//! What a caller asks for, checked when it is built. Both engines parse their arguments into these.

use crate::content::{Content, ContentType};
use crate::digest::Digest;
use crate::error::{Error, Result, shown};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::revision::{Audit, State, Version};

/// What must hold of the stored item for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// It has this etag.
    IfMatch(Digest),
    /// It does not exist.
    IfAbsent,
}

/// A put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    /// The new content.
    pub content: Content,
    /// The new state; without one an existing item keeps its own and a new one gets `default`.
    pub state: Option<State>,
    /// The version to write; without one it is the current version + 1.
    pub version: Option<Version>,
    /// What must hold.
    pub precondition: Precondition,
    /// Who writes and why.
    pub audit: Option<Audit>,
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoveRequest {
    /// What must hold.
    pub precondition: Precondition,
    /// Who removes and why.
    pub audit: Option<Audit>,
}

/// Options of a put as text, the same words in SQL and in Redis.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions<'a> {
    /// Kind of the content; JSON if not given.
    pub content_type: Option<ContentType>,
    /// Tag.
    pub state: Option<&'a str>,
    /// Version as decimal text.
    pub version: Option<&'a str>,
    /// Expected etag.
    pub if_match: Option<&'a str>,
    /// The item must not exist.
    pub if_absent: bool,
    /// Audit object as JSON.
    pub audit: Option<&'a str>,
}

impl PutRequest {
    /// Checks content and options. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(payload: &[u8], options: &PutOptions<'_>, limit_bytes: usize) -> Result<PutRequest> {
        let state = options.state.map(State::new).transpose()?;
        let version = options.version.map(Version::parse).transpose()?;
        let precondition = precondition(options.if_match, options.if_absent)?;
        let audit = options.audit.map(Audit::new).transpose()?;
        let content_type = options.content_type.unwrap_or(ContentType::Json);
        let content = Content::new(content_type, payload, limit_bytes)?;
        Ok(PutRequest { content, state, version, precondition, audit })
    }
}

impl RemoveRequest {
    /// Checks the options. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(if_match: Option<&str>, audit: Option<&str>) -> Result<RemoveRequest> {
        Ok(RemoveRequest {
            precondition: precondition(if_match, false)?,
            audit: audit.map(Audit::new).transpose()?,
        })
    }
}

fn precondition(if_match: Option<&str>, if_absent: bool) -> Result<Precondition> {
    match (if_match, if_absent) {
        (Some(_), true) => Err(Error::invalid(
            "option IFABSENT",
            "contradicts IFMATCH",
            "give one of the two: an absent item has no etag",
        )),
        (Some(etag), false) => Ok(Precondition::IfMatch(Digest::from_hex(etag)?)),
        (None, true) => Ok(Precondition::IfAbsent),
        (None, false) => Ok(Precondition::None),
    }
}

/// Checks the limit of a page: 1 to [`PAGE_ITEMS_MAX`], [`PAGE_ITEMS_DEFAULT`] if none is given.
/// Errors: `INVALID`.
pub fn page_limit(limit: Option<i64>) -> Result<usize> {
    let Some(limit) = limit else { return Ok(PAGE_ITEMS_DEFAULT) };
    match usize::try_from(limit) {
        Ok(limit @ 1..=PAGE_ITEMS_MAX) => Ok(limit),
        _ => Err(Error::invalid(
            format!("limit {limit}"),
            "is out of range",
            format!("give 1 to {PAGE_ITEMS_MAX} and go on with the last id as AFTER"),
        )),
    }
}

/// An integer option as text. Errors: `INVALID` naming `what`.
pub fn integer(what: &str, text: &str) -> Result<i64> {
    text.parse().map_err(|_| {
        Error::invalid(format!("{what} {}", shown(text)), "is not an integer", "give decimal digits")
    })
}
