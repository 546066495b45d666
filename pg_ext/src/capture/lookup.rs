//! The row of an id in a table, found by its primary key without a statement: that would cost as much as all
//! else in a
//! trigger together.

use super::tuple::table_of_tandem;
use crate::error::Outcome;
use pgrx::prelude::*;
use std::ffi::CStr;
use tandem_shared::Result;

/// A table whose primary key is an id, open and locked until the end of the transaction.
pub struct Table(pub pg_sys::Relation);

impl Table {
    /// Opens one of tandem's own tables. Errors: `CORRUPT` where it is not there.
    pub fn of_tandem(name: &'static CStr, lock: u32) -> Result<Table> {
        // SAFETY: the table is there.
        Ok(unsafe { Table::open(table_of_tandem(name)?, lock) })
    }

    /// Opens a table.
    ///
    /// # Safety
    /// There must be one of this number.
    pub unsafe fn open(number: pg_sys::Oid, lock: u32) -> Table {
        // SAFETY: as the caller says; it is closed on drop, and by the transaction's end after an error.
        Table(unsafe { pg_sys::table_open(number, lock as pg_sys::LOCKMODE) })
    }

    /// Whether the table has no page: there can be no row then.
    pub fn is_empty(&self) -> bool {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0, pg_sys::ForkNumber::MAIN_FORKNUM) == 0 }
    }

    /// Looks at the row of an id, a text, in a snapshot. `column` is the number of the id's column. What `look`
    /// hands out must
    /// not point into the row.
    pub fn find<T>(
        &self,
        column: i16,
        id: pg_sys::Datum,
        snapshot: pg_sys::Snapshot,
        look: impl FnOnce(pg_sys::HeapTuple) -> Outcome<T>,
    ) -> Outcome<Option<T>> {
        // SAFETY: the table is one of ids, whose primary key is on that column in the C collation; the scan
        // ends here,
        // or with the transaction after an error.
        unsafe {
            let mut key = pg_sys::ScanKeyData::default();
            let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&mut key, column, equal, pg_sys::Oid::from(pg_sys::F_TEXTEQ), id);
            key.sk_collation = pg_sys::C_COLLATION_OID;
            let index = pg_sys::RelationGetPrimaryKeyIndex(self.0);
            let scan = pg_sys::systable_beginscan(self.0, index, true, snapshot, 1, &mut key);
            let tuple = pg_sys::systable_getnext(scan);
            let found = if tuple.is_null() { None } else { Some(look(tuple)) };
            pg_sys::systable_endscan(scan);
            found.transpose()
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: opened in `open`; the lock stays until the transaction ends.
        unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) };
    }
}

/// The newest snapshot that the transaction may use.
pub struct Seen(pub pg_sys::Snapshot);

impl Seen {
    /// It as of now.
    pub fn now() -> Seen {
        // SAFETY: inside a transaction; released on drop, and by the transaction's end after an error.
        Seen(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) })
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        // SAFETY: registered in `now`.
        unsafe { pg_sys::UnregisterSnapshot(self.0) };
    }
}
