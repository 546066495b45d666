//! Locks rows of items and reads their heads without a statement, which to begin and to end takes several times
//! as long as
//! to find a row and to lock it.
//!
//! Only where a statement would do no more than that: the role may read and write the whole table, no policy
//! hides a row, and
//! all items are in one table of the server's own kind. Elsewhere, and in transactions that see one moment only, the
//! statement in [`super::read`] does it.

use super::read::{Current, Stored, StoredLive, Wanted, payload_hash};
use crate::capture::{Columns, Row, Seen, Table, id_column, table_of_tandem, with_json_text};
use crate::error::Outcome;
use crate::snapshot;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use std::collections::HashMap;
use tandem_shared::id::utf8;
use tandem_shared::{ContentType, Error, Result};

/// Locks the rows of ids in their order and reads what is stored. None where a statement must do it.
pub fn lock(wanted: &[Wanted<'_>]) -> Outcome<Option<HashMap<String, Current>>> {
    if snapshot::is_of_one_moment() || !may_lock_all()? {
        return Ok(None);
    }
    let Some(table) = only_table()? else { return Ok(None) };
    let columns = Columns::of(table.0)?;
    let column = id_column(table.0)?;
    // SAFETY: inside a transaction that may write. What it has written itself is to be seen, as a statement would.
    unsafe { pg_sys::CommandCounterIncrement() };
    let seen = Seen::now();
    // SAFETY: the table is open; the slot is dropped below, or with the transaction after an error.
    let slot = unsafe { pg_sys::table_slot_create(table.0, std::ptr::null_mut()) };
    let mut current = HashMap::with_capacity(wanted.len());
    for wanted in wanted {
        let Some(id) = wanted.id.into_datum() else { continue };
        // SAFETY: a tuple that was found has a place.
        let place = table.find(column, id, seen.0, |tuple| Ok(unsafe { (*tuple).t_self }))?;
        let Some(place) = place else { continue };
        if let Some(row) = lock_row(&table, place, seen.0, slot)?
            && row.text(columns.id, "id")? == wanted.id
        {
            current.insert(wanted.id.to_owned(), current_of(&columns, &row, wanted)?);
        }
        // SAFETY: what was kept of the row is copied.
        unsafe { pg_sys::ExecClearTuple(slot) };
    }
    // SAFETY: made above.
    unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
    Ok(Some(current))
}

/// Whether the role may read and lock every row of the items.
fn may_lock_all() -> Result<bool> {
    let items = table_of_tandem(c"items")?;
    // SAFETY: looks at the catalog's cache; it is asked not to raise errors.
    unsafe {
        let role = pg_sys::GetUserId();
        let may = |right: u32| {
            pg_sys::pg_class_aclcheck(items, role, right as pg_sys::AclMode) == pg_sys::AclResult::ACLCHECK_OK
        };
        let policies = pg_sys::check_enable_rls(items, pg_sys::InvalidOid, true);
        let has_policies = policies as u32 == pg_sys::CheckEnableRlsResult::RLS_ENABLED;
        Ok(may(pg_sys::ACL_SELECT) && may(pg_sys::ACL_UPDATE) && !has_policies)
    }
}

/// The table that holds all items, if it is one and an ordinary one.
fn only_table() -> Result<Option<Table>> {
    let items = Table::of_tandem(c"items", pg_sys::RowShareLock)?;
    // SAFETY: the table is open and divided; what it is divided into lasts as long as it is open.
    let part = unsafe {
        let parts = pg_sys::RelationGetPartitionDesc(items.0, true);
        if parts.is_null() || (*parts).nparts != 1 || !*(*parts).is_leaf {
            return Ok(None);
        }
        *(*parts).oids
    };
    // SAFETY: a partition cannot be dropped while the whole is locked.
    unsafe {
        let table = Table::open(part, pg_sys::RowShareLock);
        let description = &*(*table.0).rd_rel;
        let is_ordinary = description.relkind as u8 == pg_sys::RELKIND_RELATION
            && description.relam == pg_sys::HEAP_TABLE_AM_OID
            && pg_sys::RelationGetPrimaryKeyIndex(table.0) != pg_sys::InvalidOid;
        Ok(is_ordinary.then_some(table))
    }
}

/// Locks the latest version of a row, as SELECT FOR UPDATE does. None where it has gone.
fn lock_row(
    table: &Table,
    mut place: pg_sys::ItemPointerData,
    seen: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
) -> Outcome<Option<Row>> {
    const FLAGS: u32 =
        pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS | pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: the table is open and locked, and the slot is one of it. The call goes to the server's own code,
    // whose errors
    // the guard turns into ours.
    unsafe {
        let Some(lock_tuple) = (*(*table.0).rd_tableam).tuple_lock else { return Ok(None) };
        let command = pg_sys::GetCurrentCommandId(true);
        let result = pg_guard_ffi_boundary(|| {
            lock_tuple(
                table.0,
                &mut place,
                seen,
                slot,
                command,
                pg_sys::LockTupleMode::LockTupleExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                FLAGS as u8,
                &mut failure,
            )
        });
        match result {
            pg_sys::TM_Result::TM_Ok => {}
            // By a trigger of this very command, or by others.
            pg_sys::TM_Result::TM_SelfModified | pg_sys::TM_Result::TM_Deleted => return Ok(None),
            _ => return Err(Error::raced("a row of items", "was changed while it was locked").into()),
        }
        let mut is_copy = false;
        let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut is_copy);
        Ok(Some(Row::of(tuple, (*table.0).rd_att)))
    }
}

fn current_of(columns: &Columns, row: &Row, wanted: &Wanted<'_>) -> Outcome<Current> {
    let text = |column| match row.datum(column) {
        Some(json) => with_json_text(json, |text| Ok(Some(utf8("JSON", text)?.to_owned()))),
        None => Ok(None),
    };
    let is_json = !row.is_null(columns.payload);
    let live = StoredLive {
        state: row.text(columns.state, "state")?.to_owned(),
        content_type: if is_json { ContentType::Json } else { ContentType::Binary },
        payload_hash: payload_hash(row.bytes(columns.payload_hash).unwrap_or_default())?,
        local: row.is_true(columns.local),
    };
    let (version, timestamp) = (row.number(columns.version), row.number(columns.timestamp));
    let stored = Stored::new(version, timestamp, text(columns.audit)?.as_deref(), Some(live))?;
    let content = if wanted.content { text(columns.payload)? } else { None };
    Ok(Current { live: Some(stored), tombstone: None, content })
}
