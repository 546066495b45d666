//! What a caller asks for, checked when it is built. Both engines parse their arguments into these.

use crate::content::{Bounds, Content, ContentType};
use crate::digest::Digest;
use crate::error::{Error, Result, shown};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, WAIT_MS_MAX};
use crate::revision::{Audit, Body, Revision, State, Timestamp, Version};
use std::time::Duration;

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
    /// The item is to stay in its tier.
    pub local: bool,
}

impl PutRequest {
    /// The first revision of an item, as this puts it.
    pub fn into_first(self, timestamp: Timestamp) -> Revision {
        let state = self.state.unwrap_or_default();
        Revision {
            version: Version::FIRST,
            timestamp,
            audit: self.audit,
            body: Body::Live { state, content: self.content },
        }
    }

    /// The put of a live revision's content where there is no item. Errors: `INVALID` for a tombstone.
    pub fn if_absent(revision: Revision) -> Result<PutRequest> {
        let Body::Live { state, content } = revision.body else {
            return Err(Error::invalid("revision", "is a tombstone", "offer a live one"));
        };
        Ok(PutRequest {
            content,
            state: Some(state),
            version: None,
            precondition: Precondition::IfAbsent,
            audit: revision.audit,
            local: false,
        })
    }
}

/// A merge patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRequest {
    /// The patch (RFC 7396).
    pub patch: Content,
    /// The new state; without one an existing item keeps its own and a new one gets `default`.
    pub state: Option<State>,
    /// The version to write; without one it is the current version + 1.
    pub version: Option<Version>,
    /// What must hold.
    pub precondition: Precondition,
    /// Who writes and why.
    pub audit: Option<Audit>,
    /// How large the content may be that comes of it.
    pub bounds: Bounds,
}

/// A change of the state alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRequest {
    /// The new state.
    pub state: State,
    /// The state it must have now.
    pub from: Option<State>,
    /// What must hold.
    pub precondition: Precondition,
    /// Who writes and why.
    pub audit: Option<Audit>,
}

/// A removal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoveRequest {
    /// The tombstone's version; without one it is the current version + 1.
    pub version: Option<Version>,
    /// What must hold.
    pub precondition: Precondition,
    /// Who removes and why.
    pub audit: Option<Audit>,
}

/// Options of a put as text, the same words in SQL and in Redis.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions<'a> {
    /// Kind of the content; detected if not given ([`Content::detect`]).
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
    /// The item is to stay in its tier.
    pub local: bool,
}

impl PutRequest {
    /// Checks content and options. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(payload: &[u8], options: &PutOptions<'_>, bounds: Bounds) -> Result<PutRequest> {
        let state = options.state.map(State::new).transpose()?;
        let version = options.version.map(Version::parse).transpose()?;
        let precondition = precondition(options.if_match, options.if_absent)?;
        let audit = options.audit.map(Audit::new).transpose()?;
        let content = match options.content_type {
            Some(content_type) => Content::new(content_type, payload, bounds)?,
            None => Content::detect(payload, bounds)?,
        };
        Ok(PutRequest { content, state, version, precondition, audit, local: options.local })
    }
}

impl MergeRequest {
    /// Checks patch and options; `content_type` and `local` of the options are not looked at.
    /// Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(patch: &[u8], options: &PutOptions<'_>, bounds: Bounds) -> Result<MergeRequest> {
        Ok(MergeRequest {
            state: options.state.map(State::new).transpose()?,
            version: options.version.map(Version::parse).transpose()?,
            precondition: precondition(options.if_match, options.if_absent)?,
            audit: options.audit.map(Audit::new).transpose()?,
            patch: Content::json(patch, bounds).map_err(|error| error.in_json_of("the patch"))?,
            bounds,
        })
    }
}

impl StateRequest {
    /// Checks the options. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(
        state: &str,
        from: Option<&str>,
        if_match: Option<&str>,
        audit: Option<&str>,
    ) -> Result<StateRequest> {
        Ok(StateRequest {
            state: State::new(state)?,
            from: from.map(State::new).transpose()?,
            precondition: precondition(if_match, false)?,
            audit: audit.map(Audit::new).transpose()?,
        })
    }
}

impl RemoveRequest {
    /// Checks the options. Errors: `INVALID`, `BADJSON`, `TOOLARGE`.
    pub fn parse(
        version: Option<&str>,
        if_match: Option<&str>,
        audit: Option<&str>,
    ) -> Result<RemoveRequest> {
        Ok(RemoveRequest {
            version: version.map(Version::parse).transpose()?,
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

/// What is asked of one id; both engines run batches of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Put.
    Put(PutRequest),
    /// Apply a merge patch.
    Merge(MergeRequest),
    /// Remove.
    Remove(RemoveRequest),
    /// Change the state.
    SetState(StateRequest),
    /// Join a revision from elsewhere.
    Apply(Revision),
}

impl Operation {
    /// Names the batch in the audit object. Errors: `TOOLARGE`.
    pub fn stamp(&mut self, batch: &str) -> Result<()> {
        if let Some(audit) = self.audit() {
            *audit = Some(Audit::of_batch(audit.as_ref(), batch)?);
        }
        Ok(())
    }

    /// Gives the audit object of the whole batch to an operation that has none of its own.
    pub fn audit_unless_given(&mut self, of_batch: &Audit) {
        if let Some(audit) = self.audit() {
            audit.get_or_insert_with(|| of_batch.clone());
        }
    }

    fn audit(&mut self) -> Option<&mut Option<Audit>> {
        match self {
            Operation::Put(request) => Some(&mut request.audit),
            Operation::Merge(request) => Some(&mut request.audit),
            Operation::Remove(request) => Some(&mut request.audit),
            Operation::SetState(request) => Some(&mut request.audit),
            Operation::Apply(_) => None,
        }
    }
}

/// The most items a bulk removal takes: `None` for all. Errors: `INVALID` for a limit below 1.
pub fn bulk_limit(limit: Option<i64>) -> Result<Option<usize>> {
    match limit.map(usize::try_from) {
        None => Ok(None),
        Some(Ok(limit)) if limit > 0 => Ok(Some(limit)),
        _ => Err(Error::invalid(
            format!("limit {}", limit.unwrap_or_default()),
            "is out of range",
            "give 1 or more, or none to remove all",
        )),
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

/// How long to wait for the links, `None` for ever (0). Errors: `INVALID`.
pub fn check_wait(timeout_ms: i64) -> Result<Option<Duration>> {
    match u64::try_from(timeout_ms) {
        Ok(0) => Ok(None),
        Ok(timeout @ 1..=WAIT_MS_MAX) => Ok(Some(Duration::from_millis(timeout))),
        _ => Err(Error::invalid(
            format!("timeout {timeout_ms}"),
            "is out of range",
            format!("give milliseconds up to {WAIT_MS_MAX}, or 0 to wait for ever"),
        )),
    }
}

/// An integer option as text. Errors: `INVALID` naming `what`.
pub fn integer(what: &str, text: &str) -> Result<i64> {
    text.parse().map_err(|_| {
        Error::invalid(format!("{what} {}", shown(text)), "is not an integer", "give decimal digits")
    })
}
