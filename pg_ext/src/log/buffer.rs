//! Changes of the present transaction that are not in the log yet.

use crate::capture::table_of_tandem;
use crate::error::{Outcome, answer};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;
use tandem_shared::{Error, Fingerprint};

/// Changes collected before they are written in the middle of a transaction.
const CHANGES_MAX: usize = 1000;
/// Changes written by one call of the server: about a page of them.
const WRITTEN_TOGETHER: usize = 64;

/// A change of an item that links carry.
pub struct Change {
    /// The id.
    pub id: String,
    /// Whether it was put; else it was removed.
    pub is_put: bool,
    /// The version that it has now, of a removed one that of its tombstone.
    pub version: i64,
    /// The timestamp of that revision.
    pub timestamp: i64,
    /// What it adds to the fingerprint of all items.
    pub delta: Fingerprint,
    /// The link on whose behalf it was written.
    pub origin: Option<Rc<str>>,
}

struct Entry {
    change: Change,
    /// Its number in the transaction.
    seq: i32,
    /// The subtransaction that it belongs to.
    owner: pg_sys::SubTransactionId,
    /// The subtransaction in which it was written, if that is another one: were that undone, it would have to be
    /// written again.
    written_in: Option<pg_sys::SubTransactionId>,
}

#[derive(Default)]
struct Buffer {
    entries: Vec<Entry>,
    /// Entries that are not written.
    unwritten: usize,
    /// The number given out last.
    last_seq: i32,
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::default();
}

/// Has Postgres tell of the ends of transactions. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
    }
}

/// Adds a change to the log of this transaction. Errors: `INVALID` where the transaction has changed too much.
pub fn append(change: Change) -> Outcome<()> {
    let is_full = BUFFER.with_borrow_mut(|buffer| {
        let Some(seq) = buffer.last_seq.checked_add(1) else { return Err(too_much()) };
        buffer.last_seq = seq;
        // SAFETY: a plain read of the backend's own state.
        let owner = unsafe { pg_sys::GetCurrentSubTransactionId() };
        buffer.entries.push(Entry { change, seq, owner, written_in: None });
        buffer.unwritten += 1;
        Ok(buffer.unwritten >= CHANGES_MAX)
    })?;
    if is_full {
        flush()?;
    }
    Ok(())
}

fn too_much() -> Error {
    Error::invalid("this transaction", "changes more items than a log of one holds", "commit in between")
}

/// Whether this transaction has changed items.
pub fn has_written() -> bool {
    BUFFER.with_borrow(|buffer| buffer.last_seq > 0)
}

/// Writes what was collected, for whoever reads the log now.
pub fn flush() -> Outcome<()> {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.unwritten == 0 {
            return Ok(());
        }
        let unwritten: Vec<&Entry> =
            buffer.entries.iter().filter(|entry| entry.written_in.is_none()).collect();
        write(&unwritten)?;
        // SAFETY: a plain read of the backend's own state.
        let present = unsafe { pg_sys::GetCurrentSubTransactionId() };
        buffer.entries.retain_mut(|entry| {
            entry.written_in.get_or_insert(present);
            entry.written_in != Some(entry.owner)
        });
        buffer.unwritten = 0;
        Ok(())
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as Event;
    match event {
        Event::XACT_EVENT_PRE_COMMIT | Event::XACT_EVENT_PRE_PREPARE => answer(flush()),
        Event::XACT_EVENT_COMMIT | Event::XACT_EVENT_ABORT | Event::XACT_EVENT_PREPARE => {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.entries.clear();
                (buffer.unwritten, buffer.last_seq) = (0, 0);
            });
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.entries.is_empty() {
            return;
        }
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                buffer.entries.retain_mut(|entry| {
                    entry.written_in = entry.written_in.filter(|written_in| *written_in != own);
                    entry.owner != own
                });
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
                buffer.entries.retain_mut(|entry| {
                    if entry.owner == own {
                        entry.owner = parent;
                    }
                    if entry.written_in == Some(own) {
                        entry.written_in = Some(parent);
                    }
                    entry.written_in != Some(entry.owner)
                });
            }
            _ => return,
        }
        buffer.unwritten = buffer.entries.iter().filter(|entry| entry.written_in.is_none()).count();
    });
}

/// Writes changes into the present slot. Where this transaction has dropped the extension there is none, nor any item.
fn write(entries: &[&Entry]) -> Outcome<()> {
    if table_of_tandem(c"log_state").is_err() {
        return Ok(());
    }
    let slot = super::rotate::present_slot()?;
    let number = table_of_tandem(super::rotate::table_of(slot))?;
    // SAFETY: inside a transaction that writes; the table is one of this extension's with the columns below. What is
    // opened is closed at the end, or by the transaction's end after an error.
    unsafe {
        let table = pg_sys::table_open(number, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        let shape = (*table).rd_att;
        let transaction = pg_sys::GetTopFullTransactionId().value as i64;
        let now = pg_sys::GetCurrentTimestamp();
        let indexes = pg_sys::CatalogOpenIndexes(table);
        let new_slot = |_| pg_sys::MakeSingleTupleTableSlot(shape, &raw const pg_sys::TTSOpsHeapTuple);
        let mut slots: Vec<_> = (0..entries.len().min(WRITTEN_TOGETHER)).map(new_slot).collect();
        for entries in entries.chunks(WRITTEN_TOGETHER) {
            for (filled, entry) in slots.iter().zip(entries) {
                pg_sys::ExecClearTuple(*filled);
                fill(*filled, slot, transaction, now, entry)?;
                pg_sys::ExecStoreVirtualTuple(*filled);
            }
            pg_sys::CatalogTuplesMultiInsertWithInfo(
                table,
                slots.as_mut_ptr(),
                entries.len() as i32,
                indexes,
            );
        }
        for filled in slots {
            pg_sys::ExecDropSingleTupleTableSlot(filled);
        }
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
    Ok(())
}

/// Puts a change into a slot of a tuple: slot, xid, version, timestamp, logged_at, seq, count, op, id, sum, origin,
/// in the order of table `tandem.changes`.
///
/// # Safety
/// `filled` must be an empty slot of that table's shape.
unsafe fn fill(
    filled: *mut pg_sys::TupleTableSlot,
    slot: i16,
    transaction: i64,
    now: pg_sys::TimestampTz,
    entry: &Entry,
) -> Outcome<()> {
    let Change { id, is_put, version, timestamp, delta, origin } = &entry.change;
    let op = if *is_put { b'p' } else { b'r' };
    let columns: [Option<pg_sys::Datum>; 11] = [
        Some(transaction.into()),
        Some((*version).into()),
        Some((*timestamp).into()),
        Some(now.into()),
        Some(entry.seq.into()),
        Some(slot.into()),
        Some((delta.count() as i16).into()),
        Some(pg_sys::Datum::from(op as i8)),
        id.as_str().into_datum(),
        delta.sum().as_slice().into_datum(),
        origin.as_deref().and_then(IntoDatum::into_datum),
    ];
    // SAFETY: the slot has room for as many values as its shape has columns, which is checked.
    unsafe {
        if (*(*filled).tts_tupleDescriptor).natts as usize != columns.len() {
            return Err(Error::corrupt(
                "table tandem.changes",
                "it has other columns than this version writes",
            )
            .into());
        }
        for (at, column) in columns.into_iter().enumerate() {
            *(*filled).tts_isnull.add(at) = column.is_none();
            *(*filled).tts_values.add(at) = column.unwrap_or_else(|| pg_sys::Datum::from(0));
        }
    }
    Ok(())
}
