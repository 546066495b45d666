//! Reading current revisions: the head of each under lock for a decision, or whole for a link.

use super::locking;
use crate::capture::{Removal, tombstones_of};
use crate::error::Outcome;
use crate::planning::{self, select_kept, update_kept};
use crate::snapshot;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use pgrx::{AnyElement, direct_function_call};
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use tandem_shared::limits::PAGE_BYTES_MAX;
use tandem_shared::{
    Audit, Body, Content, ContentType, Error, Head, LiveHead, PayloadHash, Result, Revision, State,
    Timestamp, Version,
};

/// What is stored under an id: a row of items, a tombstone, or a local row with a tombstone below it.
#[derive(Default)]
pub struct Current {
    /// The row of items.
    pub live: Option<Stored>,
    /// The tombstone; not read where a shared row lives.
    pub tombstone: Option<Stored>,
    /// The JSON content, where it was asked for.
    pub content: Option<String>,
}

impl Current {
    /// Whether the row of items, if there is one, stays in this tier.
    pub fn locality(&self) -> Option<bool> {
        Some(self.live.as_ref()?.live.as_ref()?.local)
    }

    /// Version and timestamp of the tombstone.
    pub fn buried(&self) -> Option<(Version, Timestamp)> {
        self.tombstone.as_ref().map(|tombstone| (tombstone.version, tombstone.timestamp))
    }

    /// The revision that a caller's operation meets.
    pub fn head(&self) -> Option<Head<'_>> {
        self.live.as_ref().or(self.tombstone.as_ref()).map(Stored::head)
    }

    /// The revision that a foreign one is joined with: what is local does not count.
    pub fn shared_head(&self) -> Option<Head<'_>> {
        match self.locality() {
            Some(false) => self.live.as_ref().map(Stored::head),
            _ => self.tombstone.as_ref().map(Stored::head),
        }
    }
}

/// A revision without its content.
pub struct Stored {
    version: Version,
    timestamp: Timestamp,
    audit: Option<Audit>,
    live: Option<StoredLive>,
}

/// What only a live one has.
pub struct StoredLive {
    /// The state.
    pub state: String,
    /// The type of the content.
    pub content_type: ContentType,
    /// Its hash.
    pub payload_hash: PayloadHash,
    /// Whether it stays in this tier.
    pub local: bool,
}

impl Stored {
    /// A revision as it is stored. Errors: what of it breaks a rule.
    pub fn new(
        version: Option<i64>,
        timestamp: Option<i64>,
        audit: Option<&str>,
        live: Option<StoredLive>,
    ) -> Result<Stored> {
        Ok(Stored {
            version: Version::new(version.unwrap_or(0).into())?,
            timestamp: Timestamp::new(timestamp.unwrap_or(0).into())?,
            audit: audit.map(Audit::stored).transpose()?,
            live,
        })
    }

    fn head(&self) -> Head<'_> {
        Head {
            version: self.version,
            timestamp: self.timestamp,
            audit: self.audit.as_ref().map(Audit::as_str),
            live: self.live.as_ref().map(|live| LiveHead {
                state: &live.state,
                content_type: live.content_type,
                payload_hash: live.payload_hash,
                local: live.local,
            }),
        }
    }
}

/// 32 bytes of a hash column. Errors: `CORRUPT`.
pub fn payload_hash(bytes: &[u8]) -> Result<PayloadHash> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Error::corrupt("payload_hash", format!("it has {} bytes, not 32", bytes.len())))?;
    Ok(PayloadHash(bytes))
}

/// An id to read.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The id.
    pub id: &'a str,
    /// Whether its JSON content is needed.
    pub content: bool,
    /// Whether a tombstone below a local row is needed.
    pub below: bool,
}

const LOCK: &str = "SELECT i.id, i.version, i.\"timestamp\", i.audit::text, i.state, i.payload IS NOT NULL, \
        i.payload_hash, i.local, CASE WHEN n.content THEN i.payload::text END \
    FROM unnest($1::text[], $2::boolean[]) AS n (id, content) JOIN tandem.items i ON i.id = n.id FOR UPDATE OF i";

/// A single id needs no join.
const LOCK_ONE: &str = "SELECT i.id, i.version, i.\"timestamp\", i.audit::text, i.state, i.payload IS NOT NULL, \
        i.payload_hash, i.local, CASE WHEN $2 THEN i.payload::text END \
    FROM tandem.items i WHERE i.id = $1 FOR UPDATE";

/// Reads the current revisions of ids and locks the rows of those that live, in the order of the ids, so that two
/// batches do not wait for each other. What is not there cannot be locked: the primary key decides between two
/// first writers.
pub fn lock(client: &mut SpiClient<'_>, mut wanted: Vec<Wanted<'_>>) -> Outcome<HashMap<String, Current>> {
    wanted.sort_unstable_by_key(|wanted| wanted.id);
    let mut current = match locking::lock(&wanted)? {
        Some(current) => current,
        None => lock_by_statement(client, &wanted)?,
    };
    let is_missing = |wanted: &&Wanted<'_>| match current.get(wanted.id).and_then(Current::locality) {
        None => true,
        Some(local) => local && wanted.below,
    };
    let missing: Vec<&str> = wanted.iter().filter(is_missing).map(|wanted| wanted.id).collect();
    for (id, Removal { version, timestamp, audit }) in tombstones_of(&missing)? {
        let stored = Stored::new(Some(version), Some(timestamp), audit.as_deref(), None)?;
        current.entry(id.to_owned()).or_default().tombstone = Some(stored);
    }
    Ok(current)
}

fn lock_by_statement(client: &mut SpiClient<'_>, wanted: &[Wanted<'_>]) -> Outcome<HashMap<String, Current>> {
    let rows = match wanted {
        [one] => update_kept(client, LOCK_ONE, &[one.id.into(), one.content.into()])?,
        all => {
            let (ids, contents): (Vec<&str>, Vec<bool>) =
                all.iter().map(|wanted| (wanted.id, wanted.content)).unzip();
            update_kept(client, LOCK, &[ids.into(), contents.into()])?
        }
    };
    let mut current = HashMap::with_capacity(wanted.len());
    for row in rows {
        let is_json = row.get::<bool>(6)? == Some(true);
        let live = StoredLive {
            state: row.get::<String>(5)?.unwrap_or_default(),
            content_type: if is_json { ContentType::Json } else { ContentType::Binary },
            payload_hash: payload_hash(row.get::<&[u8]>(7)?.unwrap_or_default())?,
            local: row.get::<bool>(8)? == Some(true),
        };
        let stored = Stored::new(row.get(2)?, row.get(3)?, row.get(4)?, Some(live))?;
        let found = Current { live: Some(stored), tombstone: None, content: row.get(9)? };
        current.insert(row.get::<String>(1)?.unwrap_or_default(), found);
    }
    Ok(current)
}

/// The shared revision (live or tombstone) of an id.
pub fn fetch_one(client: &SpiClient<'_>, id: &str) -> Outcome<Option<Revision>> {
    let mut page = fetch_with(client, vec![id])?;
    match page.unreadable.remove(id) {
        Some(reason) => Err(Error::corrupt("item", reason).into()),
        None => Ok(page.found.remove(id)),
    }
}

/// Revisions that were read together.
#[derive(Default)]
pub struct Page {
    /// The revisions.
    pub found: HashMap<String, Revision>,
    /// Ids that have one which no longer fitted: at least one does.
    pub later: HashSet<String>,
    /// Ids whose revision breaks a rule, as one that was written with triggers off may, with the reason.
    pub unreadable: HashMap<String, String>,
}

/// The shared revisions (live or tombstone) of ids, as many as fit a page; what is local does not leave this tier.
pub fn fetch(ids: &[String]) -> Outcome<Page> {
    snapshot::of_items(|| {
        planning::by_index(|| {
            Spi::connect(|client| fetch_with(client, ids.iter().map(String::as_str).collect()))
        })
    })
}

/// The columns of content are read as they are stored, which is a reference where they are long.
const FETCH: &str = "SELECT i.id, i.version, i.\"timestamp\", i.audit::text, i.state, i.payload, i.payload_blob \
    FROM tandem.items i WHERE i.id = ANY($1) AND NOT i.local \
    UNION ALL \
    SELECT t.id, t.version, t.\"timestamp\", t.audit::text, NULL, NULL::jsonb, NULL::bytea \
    FROM tandem.tombstones t WHERE t.id = ANY($1)";

fn fetch_with(client: &SpiClient<'_>, ids: Vec<&str>) -> Outcome<Page> {
    let mut page = Page::default();
    let mut bytes = 0;
    for row in select_kept(client, FETCH, &[ids.into()])? {
        let id = row.get::<String>(1)?.unwrap_or_default();
        let (json, blob) = (row.get::<AnyElement>(6)?, row.get::<AnyElement>(7)?);
        let stored = json.or(blob).map(|content| content.datum());
        // SAFETY: both columns are of variable length; only the header is read.
        let size = stored.map_or(0, |content| unsafe { pg_sys::toast_raw_datum_size(content) });
        if bytes + size > PAGE_BYTES_MAX && !page.found.is_empty() {
            page.later.insert(id);
            continue;
        }
        // JSON is longer as text than it is stored, where it has large numbers by far.
        bytes += size;
        match revision_of(&row, json, size, &mut bytes)? {
            Ok(revision) => drop(page.found.insert(id, revision)),
            Err(error) => drop(page.unreadable.insert(id, error.to_string())),
        }
    }
    Ok(page)
}

/// The revision of a row of [`FETCH`], or which rule it breaks. What its JSON takes as text beyond its size as it is
/// stored is added to `bytes`.
fn revision_of(
    row: &SpiHeapTupleData<'_>,
    json: Option<AnyElement>,
    size: usize,
    bytes: &mut usize,
) -> Outcome<Result<Revision>> {
    let content = match json {
        Some(json) => {
            // SAFETY: the column is jsonb, and its text is this function's until it is freed below.
            let text = unsafe { direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(json.datum())]) };
            let Some(text) = text else { return Ok(Err(Error::corrupt("item", "its content has no text"))) };
            *bytes += text.count_bytes().saturating_sub(size);
            let content = Content::stored(ContentType::Json, text.to_bytes());
            // SAFETY: it was made for this call, and the content is a copy.
            unsafe { pg_sys::pfree(text.as_ptr().cast_mut().cast()) };
            Some(content)
        }
        None => row.get::<&[u8]>(7)?.map(|blob| Content::stored(ContentType::Binary, blob)),
    };
    let (version, timestamp) = (row.get::<i64>(2)?.unwrap_or(0), row.get::<i64>(3)?.unwrap_or(0));
    let (audit, state) = (row.get::<&str>(4)?, row.get::<&str>(5)?.unwrap_or_default());
    Ok((|| {
        let body = match content {
            Some(content) => Body::Live { state: State::new(state)?, content: content? },
            None => Body::Tombstone,
        };
        let audit = audit.map(Audit::stored).transpose()?;
        Ok(Revision {
            version: Version::new(version.into())?,
            timestamp: Timestamp::new(timestamp.into())?,
            audit,
            body,
        })
    })())
}
