//! Capture: whatever way items are written, version, timestamp and hash come out right and the log is complete.
//!
//! Three trigger functions in C, always enabled, on `tandem.items` and all that is below it. The one before a row is
//! stored ([`row`]) sees to its version, timestamp and hash. The one after it sees what is stored in the end, whatever
//! triggers of others have made of it, and notes the change in the log and the tombstones. TRUNCATE shows no rows, so
//! they are read from the table before it is emptied.

mod jsonb;
mod lookup;
mod row;
mod tombstones;
mod tuple;

use crate::error::{Outcome, answer};
use crate::log::{self, Change};
use crate::planning;
use crate::settings;
use crate::store;
pub use lookup::{Seen, Table};
use pgrx::prelude::*;
use std::ffi::CStr;
use std::rc::Rc;
use tandem_shared::{ContentType, Digest, Error, Fingerprint, Version};
use tombstones::{Arrival, Settled};
pub use tombstones::{Removal, of_ids as tombstones_of};
use tuple::{Call, is_replica, same};
pub use tuple::{Columns, Row, id_column, noted_of_table, table_of_tandem, with_json_text};

/// The trigger before a row is stored. Triggers fire in the order of their names, and it is to be the last.
pub const ROW_TRIGGER: &CStr = c"zz_tandem_row";

/// Marks `tandem_capture_row` as a function of the present calling convention.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_tandem_capture_row() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

/// Marks `tandem_capture_change` as a function of the present calling convention.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_tandem_capture_change() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

/// Marks `tandem_capture_truncate` as a function of the present calling convention.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_tandem_capture_truncate() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

/// The trigger function BEFORE INSERT OR UPDATE FOR EACH ROW.
///
/// # Safety
/// Postgres calls it, with `info` as it calls any function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tandem_capture_row(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    const KIND: u32 = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE;
    // SAFETY: as Postgres calls it.
    let call = unsafe { Call::of(info, KIND) };
    answer(call.map_err(Into::into).and_then(|call| row::written(&call))).into()
}

/// The trigger function AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
///
/// # Safety
/// As [`tandem_capture_row`].
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tandem_capture_change(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    const KIND: u32 = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_AFTER;
    // SAFETY: as Postgres calls it.
    let call = unsafe { Call::of(info, KIND) };
    answer(call.map_err(Into::into).and_then(|call| changed(&call)));
    pg_sys::Datum::from(0)
}

/// The trigger function BEFORE TRUNCATE FOR EACH STATEMENT, on tables that have rows.
///
/// # Safety
/// As [`tandem_capture_row`].
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tandem_capture_truncate(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as Postgres calls it.
    let call = unsafe { Call::of(info, pg_sys::TRIGGER_EVENT_BEFORE) };
    answer(call.map_err(Into::into).and_then(|call| emptied(&call)));
    pg_sys::Datum::from(0)
}

/// A stored row that links carry, taken apart.
struct Shared<'a> {
    row: &'a Row,
    id: &'a str,
    version: i64,
    timestamp: i64,
    digest: Digest,
}

impl<'a> Shared<'a> {
    /// None if it stays in this tier.
    fn of(columns: &Columns, row: &'a Row) -> Outcome<Option<Shared<'a>>> {
        if row.is_true(columns.local) {
            return Ok(None);
        }
        let id = row.text(columns.id, "id")?;
        let (version, timestamp) = (row.number(columns.version), row.number(columns.timestamp));
        let hash = store::payload_hash(row.bytes(columns.payload_hash).unwrap_or_default())?;
        let content_type = if row.is_null(columns.payload) { ContentType::Binary } else { ContentType::Json };
        let state = row.text(columns.state, "state")?;
        let number = Version::new(version.unwrap_or(0).into())?.get();
        let digest = settings::digest_key().digest(number, id, state, content_type, &hash);
        Ok(Some(Shared { row, id, version: version.unwrap_or(0), timestamp: timestamp.unwrap_or(0), digest }))
    }
}

fn changed(call: &Call<'_>) -> Outcome<()> {
    let columns = &call.columns;
    let (old, new) = (call.old_row(), call.new_row());
    if let (Some(new), Some(editor)) = (&new, call.editor(true)) {
        check_hash(columns, new, &editor)?;
    }
    let was = old.as_ref().map_or(Ok(None), |old| Shared::of(columns, old))?;
    let is = new.as_ref().map_or(Ok(None), |new| Shared::of(columns, new))?;
    match (was, is) {
        (Some(was), Some(is)) if was.id == is.id => {
            if was.digest != is.digest
                || was.timestamp != is.timestamp
                || !same(was.row, is.row, columns.audit)
            {
                let delta = Fingerprint::of(&is.digest) - Fingerprint::of(&was.digest);
                note_put(&is, delta)?;
            }
            Ok(())
        }
        (was, is) => {
            if let Some(was) = was {
                removed(columns, &was)?;
            }
            is.map_or(Ok(()), |is| arrived(columns, &is))
        }
    }
}

/// Refuses a row that a trigger has edited after its hash was made.
fn check_hash(columns: &Columns, new: &Row, editor: &str) -> Outcome<()> {
    if row::hash_of_content(columns, new)?.0.as_slice() == new.bytes(columns.payload_hash).unwrap_or_default()
    {
        return Ok(());
    }
    Err(Error::invalid(
        format!("trigger {editor}"),
        "edits payload after tandem has hashed it",
        format!("give it a name that sorts before {}", ROW_TRIGGER.to_string_lossy()),
    )
    .into())
}

/// A row that has gone: removed, moved to another id, or taken out of sharing.
fn removed(columns: &Columns, was: &Shared<'_>) -> Outcome<()> {
    let (version, timestamp, audit, origin) = match store::take_removal(was.id) {
        Some((removal, origin)) => {
            let timestamp = removal.timestamp.unix_ms() as i64;
            (removal.version.get() as i64, timestamp, removal.audit.clone(), origin)
        }
        None => {
            let version = Version::new(was.version.into())?.next().get() as i64;
            (version, store::now().unix_ms() as i64, None, None)
        }
    };
    if let Some(id) = was.row.datum(columns.id) {
        tombstones::put(id, version, timestamp, audit.as_ref())?;
    }
    let delta = Fingerprint::EMPTY - Fingerprint::of(&was.digest);
    log::append(Change { id: was.id.to_owned(), is_put: false, version, timestamp, delta, origin })
}

/// A row under an id that links knew none of.
fn arrived(columns: &Columns, is: &Shared<'_>) -> Outcome<()> {
    let Some(datum) = is.row.datum(columns.id) else { return Ok(()) };
    let handed = store::as_decided(is.id, is.version, is.timestamp).map(|(became, _)| became);
    let arrival = Arrival {
        id: is.id,
        datum,
        version: is.version,
        over: handed.as_ref().and_then(|handed| handed.over),
        is_joined: handed.as_ref().is_some_and(|handed| handed.is_joined),
        always_wins: is_replica(),
    };
    let settled = tombstones::settle(&arrival)?;
    note_put(is, Fingerprint::of(&is.digest))?;
    if let Settled::CountOn(version) = settled {
        store::counts_on(is.id, version);
        count_on(is.id, version)?;
    }
    Ok(())
}

fn note_put(is: &Shared<'_>, delta: Fingerprint) -> Outcome<()> {
    let origin = store::as_decided(is.id, is.version, is.timestamp).and_then(|(_, origin)| origin);
    let (id, version, timestamp) = (is.id.to_owned(), is.version, is.timestamp);
    log::append(Change { id, is_put: true, version, timestamp, delta, origin })
}

/// Gives a row that has come over a newer tombstone a version above that.
fn count_on(id: &str, version: i64) -> Outcome<()> {
    const COUNT_ON: &str = "UPDATE tandem.items i SET version = $2 WHERE i.id = $1";
    planning::as_owner(|| {
        Spi::connect_mut(|client| {
            planning::update_kept(client, COUNT_ON, &[id.into(), version.into()])?;
            Ok(())
        })
    })
}

/// Notes the removal of every row of a table that is about to be emptied. TRUNCATE empties it of all rows, also of
/// those that its transaction cannot see.
fn emptied(call: &Call<'_>) -> Outcome<()> {
    let (columns, table) = (&call.columns, call.table());
    // SAFETY: the table is open and locked against everybody; the scan ends here, and an error ends the transaction.
    unsafe {
        if (*(*table).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            return Ok(());
        }
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(table, snapshot, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            pg_sys::check_for_interrupts!();
            let row = Row::of(tuple, (*table).rd_att);
            if let Some(was) = Shared::of(columns, &row)? {
                removed(columns, &was)?;
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
    }
    Ok(())
}

/// Stores the tombstone of an id that has no row here, and notes it in the log. False if a row of that id has come
/// meanwhile: it is to be decided anew.
pub fn bury(id: &str, tombstone: &tandem_shared::Revision, origin: Option<Rc<str>>) -> Outcome<bool> {
    let (version, timestamp) = (tombstone.version.get() as i64, tombstone.timestamp.unix_ms() as i64);
    if !tombstones::put_absent(id, version, timestamp, tombstone.audit.as_ref())? {
        return Ok(true);
    }
    if tombstones::has_row(id)? {
        return Ok(false);
    }
    log::append(Change {
        id: id.to_owned(),
        is_put: false,
        version,
        timestamp,
        delta: Fingerprint::EMPTY,
        origin,
    })?;
    Ok(true)
}
