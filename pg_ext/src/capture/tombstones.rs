//! Table `tandem.tombstones` as capture reads and writes it: without SPI, which would cost as much as all else in a
//! trigger together, and as tandem itself, whoever writes the item.
//!
//! A row and a tombstone of one id must not both stay. Who brings a row under an id that had none looks for a
//! tombstone
//! after the row is in, also at those of transactions that are still running, and waits for these; who stores a
//! tombstone of an id that has no row looks for rows after it, likewise. So at least one of two that meet sees the
//! other.

use super::lookup::{Seen, Table};
use super::tuple::{id_column, with_json_text};
use crate::error::Outcome;
use crate::planning;
use crate::snapshot;
use pgrx::prelude::*;
use std::cell::Cell;
use std::num::NonZeroUsize;
use tandem_shared::error::shown;
use tandem_shared::id::utf8;
use tandem_shared::{Audit, Error, Result, Version};

/// The column of the id in the table of tombstones.
const ID: i16 = 1;

fn table(lock: u32) -> Result<Table> {
    Table::of_tandem(c"tombstones", lock)
}

/// The tombstone of an id in a snapshot.
fn find(table: &Table, id: pg_sys::Datum, snapshot: pg_sys::Snapshot) -> Outcome<Option<Tombstone>> {
    // SAFETY: the table is made by this extension and has (id text, version bigint, timestamp bigint, audit
    // jsonb); what is
    // kept of the tuple is copied.
    table.find(ID, id, snapshot, |tuple| unsafe {
        let value = |column| {
            let column = NonZeroUsize::new(column)?;
            pgrx::htup::heap_getattr_raw(tuple, column, (*table.0).rd_att)
        };
        let number = |column| value(column).map_or(0, |value| value.value() as i64);
        let header = &*(*tuple).t_data;
        let is_frozen = u32::from(header.t_infomask) & pg_sys::HEAP_XMIN_FROZEN == pg_sys::HEAP_XMIN_FROZEN;
        let audit = value(4)
            .map(|audit| with_json_text(audit, |text| Ok(utf8("audit", text)?.to_owned())))
            .transpose()?;
        Ok(Tombstone {
            version: number(2),
            timestamp: number(3),
            audit,
            place: (*tuple).t_self,
            made_by: (!is_frozen).then_some(header.t_choice.t_heap.t_xmin),
        })
    })
}

struct Tombstone {
    version: i64,
    timestamp: i64,
    audit: Option<String>,
    place: pg_sys::ItemPointerData,
    /// The transaction that has stored it, unless that is long ago.
    made_by: Option<pg_sys::TransactionId>,
}

impl Tombstone {
    fn is_own(&self) -> bool {
        // SAFETY: looks at the backend's own transaction.
        self.made_by.is_some_and(|made_by| unsafe { pg_sys::TransactionIdIsCurrentTransactionId(made_by) })
    }

    /// Whether the transaction, being one that sees one moment only, cannot see it.
    fn is_hidden(&self) -> bool {
        // SAFETY: inside a transaction; the snapshot is the transaction's own.
        unsafe {
            pg_sys::XactIsoLevel > pg_sys::XACT_READ_COMMITTED as i32
                && !self.is_own()
                && self
                    .made_by
                    .is_some_and(|by| pg_sys::XidInMVCCSnapshot(by, pg_sys::GetTransactionSnapshot()))
        }
    }
}

fn snapshot_of(kind: pg_sys::SnapshotType::Type) -> pg_sys::SnapshotData {
    pg_sys::SnapshotData { snapshot_type: kind, ..Default::default() }
}

/// A removal that this transaction sees.
pub struct Removal {
    /// The version.
    pub version: i64,
    /// The timestamp.
    pub timestamp: i64,
    /// The audit object as text.
    pub audit: Option<String>,
}

/// The tombstones of ids, each beside its id.
pub fn of_ids<'a>(ids: &[&'a str]) -> Outcome<Vec<(&'a str, Removal)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let table = table(pg_sys::AccessShareLock)?;
    if table.is_empty() {
        return Ok(Vec::new());
    }
    let seen = Seen::now();
    let mut removals = Vec::new();
    for id in ids {
        let Some(datum) = id.into_datum() else { continue };
        if let Some(Tombstone { version, timestamp, audit, .. }) = find(&table, datum, seen.0)? {
            removals.push((*id, Removal { version, timestamp, audit }));
        }
    }
    Ok(removals)
}

thread_local! {
    /// The transaction that has found the table empty, 0 for none.
    static EMPTY_IN: Cell<u32> = const { Cell::new(0) };
}

/// The number of the present transaction in this session, which it has from its beginning on.
fn transaction() -> u32 {
    // SAFETY: a plain read of the backend's own entry.
    unsafe {
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return (*pg_sys::MyProc).vxid.lxid;
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        return (*pg_sys::MyProc).lxid;
    }
}

/// The version of the tombstone of an id (a text), for a row that is about to come. Whether
/// there is any tombstone at all is looked up once a transaction: what is removed meanwhile is found once the
/// row is in.
pub fn version_of(id: pg_sys::Datum) -> Outcome<Option<i64>> {
    let transaction = transaction();
    if EMPTY_IN.get() == transaction {
        return Ok(None);
    }
    let table = table(pg_sys::AccessShareLock)?;
    if table.is_empty() {
        EMPTY_IN.set(transaction);
        return Ok(None);
    }
    Ok(find(&table, id, Seen::now().0)?.map(|found| found.version))
}

/// Whoever is making or ending the row that a look at everything has found.
fn running(dirty: &pg_sys::SnapshotData) -> Option<pg_sys::TransactionId> {
    [dirty.xmin, dirty.xmax].into_iter().find(|xid| *xid != pg_sys::InvalidTransactionId)
}

/// What a row that has come must do for the tombstone of its id.
pub enum Settled {
    /// There is none any more.
    Nothing,
    /// Its version must be this one, to be newer than a removal that it had not seen.
    CountOn(i64),
}

/// A row that has come.
pub struct Arrival<'a> {
    /// Its id, and the same as a text of Postgres.
    pub id: &'a str,
    /// The id as a datum.
    pub datum: pg_sys::Datum,
    /// Its version.
    pub version: i64,
    /// Version and timestamp of the tombstone that it is known to win against.
    pub over: Option<(i64, i64)>,
    /// Whether its version stands for it on another side, too.
    pub is_joined: bool,
    /// Whether it wins whatever the version, as what a replica is told does.
    pub always_wins: bool,
}

/// Ends the tombstone of an id to which a row has come. Errors: a failed serialization where the row may not count on
/// from it.
pub fn settle(arrival: &Arrival<'_>) -> Outcome<Settled> {
    let table = table(pg_sys::RowExclusiveLock)?;
    if table.is_empty() {
        return Ok(Settled::Nothing);
    }
    loop {
        let Some(found) = committed(&table, arrival.datum)? else { return Ok(Settled::Nothing) };
        let wins = arrival.always_wins
            || found.version < arrival.version
            || arrival.over == Some((found.version, found.timestamp));
        if !arrival.always_wins && (found.is_hidden() || (!wins && arrival.is_joined)) {
            return Err(Error::raced(format!("item {}", shown(arrival.id)), "was removed").into());
        }
        if !delete(&table, found.place) {
            continue;
        }
        if wins {
            return Ok(Settled::Nothing);
        }
        let next = Version::new(found.version.into())?.next().get() as i64;
        return Ok(Settled::CountOn(next));
    }
}

/// The tombstone of an id once nobody is making or ending one.
fn committed(table: &Table, id: pg_sys::Datum) -> Outcome<Option<Tombstone>> {
    loop {
        let mut dirty = snapshot_of(pg_sys::SnapshotType::SNAPSHOT_DIRTY);
        let Some(found) = find(table, id, &mut dirty)? else { return Ok(None) };
        let Some(running) = running(&dirty) else { return Ok(Some(found)) };
        wait_for(running, table.0, found.place);
    }
}

/// Waits until a transaction ends.
pub fn wait_for(
    transaction: pg_sys::TransactionId,
    table: pg_sys::Relation,
    mut place: pg_sys::ItemPointerData,
) {
    let what = pg_sys::XLTW_Oper::XLTW_InsertIndex;
    // SAFETY: table and place are used for the text of an error only.
    unsafe { pg_sys::XactLockTableWait(transaction, table, &mut place, what) };
}

/// Deletes a row. False if somebody else has changed or deleted it meanwhile.
fn delete(table: &Table, mut place: pg_sys::ItemPointerData) -> bool {
    let mut failure = pg_sys::TM_FailureData::default();
    // SAFETY: the table is open and locked. What this command has stored itself can be deleted by the next one only.
    let result = unsafe {
        pg_sys::CommandCounterIncrement();
        let command = pg_sys::GetCurrentCommandId(true);
        let none = std::ptr::null_mut();
        pg_sys::heap_delete(table.0, &mut place, command, none, true, &mut failure, false)
    };
    result == pg_sys::TM_Result::TM_Ok
}

/// Stores the tombstone of an item whose row is deleted in this transaction.
pub fn put(id: pg_sys::Datum, version: i64, timestamp: i64, audit: Option<&Audit>) -> Outcome<()> {
    let table = table(pg_sys::RowExclusiveLock)?;
    EMPTY_IN.set(0);
    let mut own = snapshot_of(pg_sys::SnapshotType::SNAPSHOT_SELF);
    let before = if table.is_empty() { None } else { find(&table, id, &mut own)? };
    if before.as_ref().is_some_and(|before| before.version >= version) {
        return Ok(());
    }
    let audit = audit.and_then(|audit| jsonb(audit.as_str()));
    let mut values = [id, version.into(), timestamp.into(), audit.unwrap_or_else(|| pg_sys::Datum::from(0))];
    let mut nulls = [false, false, false, audit.is_none()];
    // SAFETY: the table has these four columns; what another command of this transaction stored is seen by the next.
    unsafe {
        let tuple = pg_sys::heap_form_tuple((*table.0).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        match before {
            Some(mut before) => {
                pg_sys::CommandCounterIncrement();
                pg_sys::CatalogTupleUpdate(table.0, &mut before.place, tuple);
            }
            None => pg_sys::CatalogTupleInsert(table.0, tuple),
        }
        pg_sys::heap_freetuple(tuple);
    }
    Ok(())
}

/// A text that is JSON as a `jsonb` datum.
fn jsonb(text: &str) -> Option<pg_sys::Datum> {
    let text = std::ffi::CString::new(text).ok()?;
    // SAFETY: the input function of jsonb takes a C string, which lives as long as the call.
    unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[text.as_c_str().into_datum()]) }
}

const PUT_ABSENT: &str = "INSERT INTO tandem.tombstones AS t (id, version, \"timestamp\", audit) \
    VALUES ($1, $2, $3, $4::jsonb) ON CONFLICT (id) DO UPDATE \
    SET version = excluded.version, \"timestamp\" = excluded.\"timestamp\", audit = excluded.audit \
    WHERE (t.version, t.\"timestamp\") < (excluded.version, excluded.\"timestamp\") RETURNING true";

/// Stores the tombstone of an id that has no row, unless there is a greater one. Returns whether it is stored.
pub fn put_absent(id: &str, version: i64, timestamp: i64, audit: Option<&Audit>) -> Outcome<bool> {
    planning::as_owner(|| {
        Spi::connect_mut(|client| {
            let args = [id.into(), version.into(), timestamp.into(), audit.map(Audit::as_str).into()];
            Ok(!planning::update_kept(client, PUT_ABSENT, &args)?.is_empty())
        })
    })
}

/// Whether an id has a row, in whichever partition, once nobody is bringing or taking one. Errors: a failed
/// serialization if there is one that the transaction cannot see.
pub fn has_row(id: &str) -> Outcome<bool> {
    let Some(datum) = id.into_datum() else { return Ok(false) };
    for table in tables_of_items()? {
        if has_row_in(table, id, datum)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The tables that hold items, without those that are only divided further.
fn tables_of_items() -> Outcome<Vec<pg_sys::Oid>> {
    const TABLES: &str =
        "SELECT p.relid::oid FROM pg_catalog.pg_partition_tree('tandem.items') p WHERE p.isleaf";
    planning::by_index(|| {
        Spi::connect(|client| {
            let mut tables = Vec::new();
            for row in planning::select_kept(client, TABLES, &[])? {
                tables.extend(row.get::<pg_sys::Oid>(1)?);
            }
            Ok(tables)
        })
    })
}

fn has_row_in(table: pg_sys::Oid, id: &str, datum: pg_sys::Datum) -> Outcome<bool> {
    // SAFETY: the table was just found; one that is dropped meanwhile is an error.
    let table = unsafe { Table::open(table, pg_sys::AccessShareLock) };
    let column = id_column(table.0)?;
    loop {
        let mut dirty = snapshot_of(pg_sys::SnapshotType::SNAPSHOT_DIRTY);
        // SAFETY: a tuple that was found has a place.
        let Some(place) = table.find(column, datum, &mut dirty, |tuple| Ok(unsafe { (*tuple).t_self }))?
        else {
            return Ok(false);
        };
        match running(&dirty) {
            Some(running) => wait_for(running, table.0, place),
            None if snapshot::is_of_one_moment() => {
                return Err(Error::raced(format!("item {}", shown(id)), "was put").into());
            }
            None => return Ok(true),
        }
    }
}
