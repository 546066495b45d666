//! Live revisions as columns: a batch is stored by one statement over arrays.

use crate::error::Outcome;
use crate::planning::update_kept;
use pgrx::spi::SpiClient;
use std::collections::HashSet;
use tandem_shared::id::utf8;
use tandem_shared::{Audit, Body, Content, ContentType, Result, Revision};

/// A live revision to store under an id.
pub struct Row {
    /// The id.
    pub id: String,
    /// What is stored.
    pub revision: Revision,
    /// Whether it stays in this tier.
    pub local: bool,
    /// Whether it is a revision of another side.
    pub is_joined: bool,
    /// Version and timestamp of the tombstone that it was decided over.
    pub over: Option<(i64, i64)>,
}

/// The columns of rows, borrowed from them.
struct Columns<'a> {
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    timestamps: Vec<i64>,
    hashes: Vec<&'a [u8]>,
    payloads: Vec<Option<&'a str>>,
    blobs: Vec<Option<&'a [u8]>>,
    audits: Vec<Option<&'a str>>,
    states: Vec<&'a str>,
    locals: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [Row]) -> Result<Columns<'a>> {
        let room = rows.len();
        let mut columns = Columns {
            ids: Vec::with_capacity(room),
            versions: Vec::with_capacity(room),
            timestamps: Vec::with_capacity(room),
            hashes: Vec::with_capacity(room),
            payloads: Vec::with_capacity(room),
            blobs: Vec::with_capacity(room),
            audits: Vec::with_capacity(room),
            states: Vec::with_capacity(room),
            locals: Vec::with_capacity(room),
        };
        for Row { id, revision, local, .. } in rows {
            let Body::Live { state, content } = &revision.body else { continue };
            let (payload, blob) = text_or_bytes(content)?;
            columns.ids.push(id);
            columns.versions.push(revision.version.get() as i64);
            columns.timestamps.push(revision.timestamp.unix_ms() as i64);
            columns.hashes.push(&content.payload_hash().0);
            columns.payloads.push(payload);
            columns.blobs.push(blob);
            columns.audits.push(revision.audit.as_ref().map(Audit::as_str));
            columns.states.push(state.as_str());
            columns.locals.push(*local);
        }
        Ok(columns)
    }
}

const INSERT: &str = "INSERT INTO tandem.items \
    (id, version, \"timestamp\", payload_hash, payload, payload_blob, audit, state, local) \
    SELECT n.id, n.version, n.at, n.hash, n.payload::jsonb, n.blob, n.audit::jsonb, n.state, n.local \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[], $7::text[], $8::text[], \
        $9::boolean[]) AS n (id, version, at, hash, payload, blob, audit, state, local) \
    ON CONFLICT (id) DO NOTHING RETURNING items.id";

const UPDATE: &str = "UPDATE tandem.items i SET version = n.version, \"timestamp\" = n.at, \
    payload_hash = n.hash, payload = n.payload::jsonb, payload_blob = n.blob, audit = n.audit::jsonb, state = n.state, \
    local = n.local \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[], $7::text[], $8::text[], \
        $9::boolean[]) AS n (id, version, at, hash, payload, blob, audit, state, local) WHERE i.id = n.id";

/// A batch of one takes no detour through arrays: to set up their scan and join takes longer than to write a row.
const INSERT_ONE: &str = "INSERT INTO tandem.items \
    (id, version, \"timestamp\", payload_hash, payload, payload_blob, audit, state, local) \
    VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7::jsonb, $8, $9) ON CONFLICT (id) DO NOTHING RETURNING items.id";

const UPDATE_ONE: &str = "UPDATE tandem.items i SET version = $2, \"timestamp\" = $3, payload_hash = $4, \
    payload = $5::jsonb, payload_blob = $6, audit = $7::jsonb, state = $8, local = $9 WHERE i.id = $1";

/// Inserts rows. Returns the ids for which another writer was first.
pub fn insert(client: &mut SpiClient<'_>, rows: &[Row]) -> Outcome<HashSet<String>> {
    let inserted = run(client, INSERT, INSERT_ONE, rows)?;
    if inserted.len() == rows.len() {
        return Ok(HashSet::new());
    }
    let mut late: HashSet<String> = rows.iter().map(|row| row.id.clone()).collect();
    for id in inserted {
        late.remove(&id);
    }
    Ok(late)
}

/// Updates rows that are there and locked.
pub fn update(client: &mut SpiClient<'_>, rows: &[Row]) -> Outcome<()> {
    run(client, UPDATE, UPDATE_ONE, rows).map(drop)
}

fn run(
    client: &mut SpiClient<'_>,
    statement: &'static str,
    statement_for_one: &'static str,
    rows: &[Row],
) -> Outcome<Vec<String>> {
    let returned = match rows {
        [] => return Ok(Vec::new()),
        [row] => {
            let Body::Live { state, content } = &row.revision.body else { return Ok(Vec::new()) };
            let (payload, blob) = text_or_bytes(content)?;
            let hash: &[u8] = &content.payload_hash().0;
            let args = [
                row.id.as_str().into(),
                (row.revision.version.get() as i64).into(),
                (row.revision.timestamp.unix_ms() as i64).into(),
                hash.into(),
                payload.into(),
                blob.into(),
                row.revision.audit.as_ref().map(Audit::as_str).into(),
                state.as_str().into(),
                row.local.into(),
            ];
            update_kept(client, statement_for_one, &args)?
        }
        rows => {
            let columns = Columns::of(rows)?;
            let args = [
                columns.ids.into(),
                columns.versions.into(),
                columns.timestamps.into(),
                columns.hashes.into(),
                columns.payloads.into(),
                columns.blobs.into(),
                columns.audits.into(),
                columns.states.into(),
                columns.locals.into(),
            ];
            update_kept(client, statement, &args)?
        }
    };
    let mut ids = Vec::new();
    for row in returned {
        ids.extend(row.get::<String>(1)?);
    }
    Ok(ids)
}

/// Content as the two columns for it.
fn text_or_bytes(content: &Content) -> Result<(Option<&str>, Option<&[u8]>)> {
    Ok(match content.content_type() {
        ContentType::Json => (Some(utf8("JSON content", content.bytes())?), None),
        ContentType::Binary => (None, Some(content.bytes())),
    })
}
