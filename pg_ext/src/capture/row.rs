//! The row trigger before a row is stored: what plain DML and COPY write gets its version, timestamp and hash,
//! and what
//! tandem's own functions write is checked to be what they decided. It runs once a row, and for an upsert
//! twice; so it
//! reads the tuple where it lies, hashes only content that is new to the row, and remembers the content hashed last.

use super::jsonb;
use super::tombstones;
use super::tuple::{Call, Columns, Row, detoasted, is_replica, same, with_json_text};
use crate::error::Outcome;
use crate::settings;
use crate::store::{self, Became, Decided};
use pgrx::prelude::*;
use std::cell::RefCell;
use tandem_shared::content::{Bounds, Builder};
use tandem_shared::decide::{check_locality, decide_row};
use tandem_shared::id::{check_id, utf8};
use tandem_shared::limits::JSON_DEPTH_MAX;
use tandem_shared::{
    Audit, Content, ContentType, Error, Head, LiveHead, PayloadHash, Result, State, Timestamp, Version,
};

/// What is put into the row instead of what its writer gave.
#[derive(Default)]
struct Written {
    version: Option<i64>,
    timestamp: Option<i64>,
    payload_hash: Option<PayloadHash>,
}

impl Written {
    fn into_tuple(self, columns: &Columns, row: &Row) -> pg_sys::HeapTuple {
        let hash = self.payload_hash.and_then(|hash| hash.0.as_slice().into_datum());
        let values = [
            (columns.version, self.version.map(pg_sys::Datum::from)),
            (columns.timestamp, self.timestamp.map(pg_sys::Datum::from)),
            (columns.payload_hash, hash),
        ];
        let set = values.iter().filter_map(|(column, value)| value.map(|value| (*column, value)));
        let (mut numbers, mut values): (Vec<i32>, Vec<pg_sys::Datum>) = set.unzip();
        if numbers.is_empty() {
            return row.tuple;
        }
        let mut nulls = vec![false; numbers.len()];
        // SAFETY: the arrays are of one length, and the numbers are columns of this shape.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                row.tuple,
                row.shape,
                numbers.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    }
}

/// The row that is to be stored.
pub fn written(call: &Call<'_>) -> Outcome<pg_sys::HeapTuple> {
    let columns = &call.columns;
    let Some(new) = call.new_row() else {
        return Err(
            Error::invalid("this trigger", "fires for INSERT and UPDATE", "leave it to tandem").into()
        );
    };
    let old = call.old_row();
    let written = match handed_over(call, old.as_ref(), &new)? {
        Some(written) => written,
        None if is_replica() => replicated(columns, old.as_ref(), &new)?,
        None => match &old {
            Some(old) => updated(columns, old, &new)?,
            None => inserted(columns, None, &new)?,
        },
    };
    Ok(written.into_tuple(columns, &new))
}

/// A row that one of tandem's functions has handed over. It is stored as it is if nobody has edited it on its way;
/// an edited one that was joined becomes a revision of its own, as its version stands for other content elsewhere.
fn handed_over(call: &Call<'_>, old: Option<&Row>, new: &Row) -> Outcome<Option<Written>> {
    let columns = &call.columns;
    let (Some(version), Some(timestamp)) = (new.number(columns.version), new.number(columns.timestamp))
    else {
        return Ok(None);
    };
    let id = new.text(columns.id, "id")?;
    let Some(decided) = store::take_decided(id, version, timestamp) else { return Ok(None) };
    let (over, is_joined) = (decided.over, decided.is_joined);
    let mut became = Became { version, timestamp, is_as_decided: true, is_joined, over };
    if call.editor(false).is_none() || is_as_decided(columns, &decided, old, new)? {
        store::became(id, became);
        return Ok(Some(Written::default()));
    }
    check_locality(id, old.map(|old| old.is_true(columns.local)), new.is_true(columns.local))?;
    check_state_and_audit(columns, new)?;
    let payload_hash = hash_of_content(columns, new)?;
    let mut written = Written { payload_hash: Some(payload_hash), ..Written::default() };
    if decided.is_joined {
        (became.version, became.timestamp) = (next(version)?, store::now().unix_ms() as i64);
        (written.version, written.timestamp) = (Some(became.version), Some(became.timestamp));
    }
    became.is_as_decided = false;
    store::became(id, became);
    Ok(Some(written))
}

fn is_as_decided(columns: &Columns, decided: &Decided, old: Option<&Row>, new: &Row) -> Result<bool> {
    if new.text(columns.state, "state")? != decided.state || new.is_true(columns.local) != decided.local {
        return Ok(false);
    }
    let audit = match new.datum(columns.audit) {
        Some(audit) => Some(with_json_text(audit, |text| Audit::stored(utf8("audit", text)?))?),
        None => None,
    };
    if audit != decided.audit {
        return Ok(false);
    }
    let expected = match (decided.payload_hash, old) {
        (Some(hash), _) => hash,
        (None, Some(old)) if has_same_content(columns, old, new) => return Ok(true),
        (None, Some(old)) => stored_hash(columns, old)?,
        (None, None) => return Ok(false),
    };
    // What tandem has decided was measured where it was given.
    Ok(hash_within(columns, new, Bounds::NONE)? == expected)
}

fn has_same_content(columns: &Columns, old: &Row, new: &Row) -> bool {
    same(old, new, columns.payload) && same(old, new, columns.payload_blob)
}

fn stored_hash(columns: &Columns, row: &Row) -> Result<PayloadHash> {
    store::payload_hash(row.bytes(columns.payload_hash).unwrap_or_default())
}

fn next(version: i64) -> Result<i64> {
    Ok(Version::new(version.into())?.next().get() as i64)
}

/// A row under an id that had none: an INSERT, or an UPDATE of the id itself from `old`.
fn inserted(columns: &Columns, old: Option<&Row>, new: &Row) -> Outcome<Written> {
    let id = new.text(columns.id, "id")?;
    check_id(id)?;
    check_locality(id, old.map(|old| old.is_true(columns.local)), new.is_true(columns.local))?;
    check_state_and_audit(columns, new)?;
    let payload_hash = hash_of_content(columns, new)?;
    let mut given = new.number(columns.version);
    if let Some(old) = old
        && given == old.number(columns.version)
    {
        given = None;
    }
    let version = row_version(id, below(columns, new)?, given, true)?;
    let timestamp = match new.number(columns.timestamp) {
        Some(given) if old.is_none() => given,
        _ => store::now().unix_ms() as i64,
    };
    Ok(Written { version, timestamp: Some(timestamp), payload_hash: Some(payload_hash) })
}

/// The version of the tombstone under a row's id.
fn below(columns: &Columns, row: &Row) -> Outcome<Option<i64>> {
    row.datum(columns.id).map_or(Ok(None), tombstones::version_of)
}

fn updated(columns: &Columns, old: &Row, new: &Row) -> Outcome<Written> {
    if !same(old, new, columns.id) {
        return inserted(columns, Some(old), new);
    }
    let id = new.text(columns.id, "id")?;
    let (was_local, is_local) = (old.is_true(columns.local), new.is_true(columns.local));
    check_locality(id, Some(was_local), is_local)?;
    let is_shared_now = was_local && !is_local;
    let same_state = same(old, new, columns.state);
    if !same_state || !same(old, new, columns.audit) {
        check_state_and_audit(columns, new)?;
    }
    let stored = stored_hash(columns, old)?;
    let payload_hash =
        if has_same_content(columns, old, new) { stored } else { hash_of_content(columns, new)? };
    let same_type = old.is_null(columns.payload) == new.is_null(columns.payload);
    let current = old.number(columns.version);
    let given = new.number(columns.version).filter(|given| Some(*given) != current);
    let changed = payload_hash != stored || !same_state || !same_type || is_shared_now;
    // A removal by others may lie below a local item; what is shared must be newer.
    let below = if is_shared_now { below(columns, new)? } else { None };
    let version = row_version(id, current.max(below), given, changed)?;
    let (old_timestamp, new_timestamp) = (old.number(columns.timestamp), new.number(columns.timestamp));
    let timestamp = match version {
        None => old_timestamp,
        Some(_) if new_timestamp.is_none() || new_timestamp == old_timestamp => {
            Some(store::now().unix_ms() as i64)
        }
        Some(_) => new_timestamp,
    };
    let version = version.or(current);
    let is_kept = new.bytes(columns.payload_hash) == Some(payload_hash.0.as_slice());
    Ok(Written {
        version: version.filter(|version| new.number(columns.version) != Some(*version)),
        timestamp: timestamp.filter(|timestamp| new_timestamp != Some(*timestamp)),
        payload_hash: if is_kept { None } else { Some(payload_hash) },
    })
}

/// A row that is written in the part of a replica, as logical replication does: it has version and timestamp
/// from where
/// it was decided and is refused for neither. Its hash is made here, so that it is that of the content; and where the
/// content is new and the version is not, nobody has decided: it counts on.
fn replicated(columns: &Columns, old: Option<&Row>, new: &Row) -> Outcome<Written> {
    let old = old.filter(|old| same(old, new, columns.id));
    let payload_hash = match old {
        Some(old) if has_same_content(columns, old, new) => stored_hash(columns, old)?,
        _ => hash_of_content(columns, new)?,
    };
    let given = new.number(columns.version);
    let changed = match old {
        Some(old) => stored_hash(columns, old)? != payload_hash || !same(old, new, columns.state),
        None => true,
    };
    let now = || store::now().unix_ms() as i64;
    let (version, timestamp) = match (old.and_then(|old| old.number(columns.version)), given) {
        (Some(current), given) if changed && given.is_none_or(|given| given == current) => {
            (Some(next(current)?), Some(now()))
        }
        (None, None) => {
            let below = below(columns, new)?;
            (Some(below.map_or(Ok(1), next)?), new.number(columns.timestamp).or_else(|| Some(now())))
        }
        _ => (None, None),
    };
    let is_kept = new.bytes(columns.payload_hash) == Some(payload_hash.0.as_slice());
    Ok(Written { version, timestamp, payload_hash: if is_kept { None } else { Some(payload_hash) } })
}

/// The version of a row; `current` is the old row's or the tombstone's, `given` what the statement sets. None if
/// nothing that has a version changes.
fn row_version(id: &str, current: Option<i64>, given: Option<i64>, changed: bool) -> Result<Option<i64>> {
    let version = |number: i64| Version::new(number.into());
    let given = given.map(version).transpose()?;
    // The rule looks at the version alone: what differs is said by `changed`.
    let live = LiveHead {
        state: "",
        content_type: ContentType::Json,
        payload_hash: PayloadHash([0; 32]),
        local: false,
    };
    let head = current.map(version).transpose()?.map(|version| Head {
        version,
        timestamp: Timestamp::EPOCH,
        audit: None,
        live: Some(live),
    });
    Ok(decide_row(id, head.as_ref(), given, changed)?.map(|version| version.get() as i64))
}

fn check_state_and_audit(columns: &Columns, row: &Row) -> Result<()> {
    State::new(row.text(columns.state, "state")?)?;
    if let Some(audit) = row.datum(columns.audit) {
        with_json_text(audit, |text| Audit::new(utf8("audit", text)?).map(drop))?;
    }
    Ok(())
}

/// The content hashed last, as it lay in the row. An upsert shows it twice: before the insert, and before the update
/// that takes its place.
struct Hashed {
    is_json: bool,
    bounds: Bounds,
    content: Vec<u8>,
    hash: PayloadHash,
}

/// Content longer than this is not remembered: hashing it again costs less than what storing it does.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

/// Errors: `BADJSON`, `TOOLARGE`, `INVALID` unless there is exactly one content.
pub fn hash_of_content(columns: &Columns, row: &Row) -> Result<PayloadHash> {
    hash_within(columns, row, settings::content_bounds())
}

/// The hash of a `jsonb`, read where it lies; through its text what is nested too deep, to be refused where
/// that is, and
/// the rare number that is long.
fn hash_of_json(datum: pg_sys::Datum, content: &[u8], bounds: Bounds) -> Result<PayloadHash> {
    thread_local! {
        static BUILDER: RefCell<Option<Builder>> = const { RefCell::new(None) };
    }
    let mut builder = BUILDER.take().unwrap_or_else(|| Builder::new(JSON_DEPTH_MAX, content.len()));
    builder.restart();
    let hash = jsonb::write(content, &mut builder).map(|()| builder.payload_hash(bounds));
    if content.len() <= REMEMBERED_BYTES_MAX {
        BUILDER.set(Some(builder));
    }
    hash.unwrap_or_else(|| with_json_text(datum, |text| Ok(*Content::of_jsonb(text, bounds)?.payload_hash())))
}

fn hash_within(columns: &Columns, row: &Row, bounds: Bounds) -> Result<PayloadHash> {
    thread_local! {
        static LAST: RefCell<Option<Hashed>> = const { RefCell::new(None) };
    }
    let (is_json, datum) = match (row.datum(columns.payload), row.datum(columns.payload_blob)) {
        (Some(payload), None) => (true, payload),
        (None, Some(blob)) => (false, blob),
        _ => {
            return Err(Error::invalid(
                "item",
                "needs exactly one of payload and payload_blob",
                "set one of the two columns and leave the other NULL",
            ));
        }
    };
    // SAFETY: both columns are of variable length.
    let content = unsafe { detoasted(datum) };
    let known = LAST.with_borrow(|last| {
        last.as_ref()
            .filter(|last| last.is_json == is_json && last.bounds == bounds && last.content == content)
            .map(|last| last.hash)
    });
    if let Some(hash) = known {
        return Ok(hash);
    }
    let hash = if is_json {
        hash_of_json(datum, content, bounds)?
    } else {
        *Content::binary(content, bounds)?.payload_hash()
    };
    if content.len() <= REMEMBERED_BYTES_MAX {
        LAST.with_borrow_mut(|last| {
            let mut kept = last.take().map(|last| last.content).unwrap_or_default();
            kept.clear();
            kept.extend_from_slice(content);
            *last = Some(Hashed { is_json, bounds, content: kept, hash });
        });
    }
    Ok(hash)
}
