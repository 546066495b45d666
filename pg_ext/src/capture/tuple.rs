//! Rows of tables of items as a trigger meets them, read where they lie.

use crate::error::Outcome;
use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice, varsize_any};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use tandem_shared::id::utf8;
use tandem_shared::{Error, Result};

#[pg_guard]
unsafe extern "C-unwind" {
    /// The tables above a partition, the topmost last. `catalog/partition.h`, which pgrx leaves out.
    fn get_partition_ancestors(table: pg_sys::Oid) -> *mut pg_sys::List;
}

/// Hands out the text of a `jsonb` value.
pub fn with_json_text<T>(datum: pg_sys::Datum, work: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    // SAFETY: the value is a jsonb; its parts must be aligned, hence the whole header. The buffer lives until the
    // trigger's memory is reset after the row, longer than `work`.
    let text = unsafe {
        let json = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let buffer = pg_sys::makeStringInfo();
        pg_sys::JsonbToCString(buffer, &raw mut (*json).root, varsize_any(json.cast()) as i32);
        std::slice::from_raw_parts((*buffer).data.cast::<u8>(), (*buffer).len as usize)
    };
    work(text)
}

/// The bytes of a value of variable length.
///
/// # Safety
/// `datum` must point to one, that lives as long as the answer is used.
pub unsafe fn detoasted<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) }
}

/// Where the columns of a table of items are. They differ from table to table: one that was there before an update of
/// the extension has new columns at its end.
#[derive(Clone, Copy)]
pub struct Columns {
    pub id: i32,
    pub version: i32,
    pub timestamp: i32,
    pub payload_hash: i32,
    pub payload: i32,
    pub payload_blob: i32,
    pub audit: i32,
    pub state: i32,
    pub local: i32,
}

thread_local! {
    /// What is known of tables of items, until Postgres says that a table has changed.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Columns>> = RefCell::default();
    /// The same of tandem's own tables.
    static OWN: RefCell<Vec<OwnTable>> = const { RefCell::new(Vec::new()) };
}

/// A table of tandem's, and a number that was read from its one row.
struct OwnTable {
    name: &'static CStr,
    number: pg_sys::Oid,
    noted: Option<i64>,
}

/// Called by Postgres when the description of a table has changed, or of all.
#[pg_guard]
unsafe extern "C-unwind" fn forget_table(_argument: pg_sys::Datum, table: pg_sys::Oid) {
    KNOWN.with_borrow_mut(|known| {
        if table == pg_sys::InvalidOid {
            known.clear();
        } else {
            known.remove(&table);
        }
    });
    OWN.with_borrow_mut(|own| {
        own.retain(|own| table != pg_sys::InvalidOid && own.number != table);
    });
}

/// Has Postgres tell of changed tables. What is kept of them must not be kept before.
fn listen() {
    thread_local! {
        static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_LISTENING.replace(true) {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget_table), pg_sys::Datum::from(0)) };
    }
}

impl Columns {
    /// The columns of a table of items. Errors: `INVALID` where it is none, so that nobody can have tandem's
    /// triggers run over rows of his own.
    pub fn of(table: pg_sys::Relation) -> Result<Columns> {
        // SAFETY: the table is open.
        let oid = unsafe { (*table).rd_id };
        if let Some(columns) = KNOWN.with_borrow(|known| known.get(&oid).copied()) {
            return Ok(columns);
        }
        listen();
        if !is_items(table)? {
            return Err(Error::invalid(
                "this trigger function",
                "belongs to tandem.items and its partitions",
                "leave its triggers to tandem",
            ));
        }
        let columns = Columns::read(table)?;
        KNOWN.with_borrow_mut(|known| known.insert(oid, columns));
        Ok(columns)
    }

    fn read(table: pg_sys::Relation) -> Result<Columns> {
        let column = |name: &CStr, expected: pg_sys::Oid| {
            // SAFETY: table and name outlive the calls, and a number above 0 is one of its columns.
            unsafe {
                let shape = (*table).rd_att;
                let number = pg_sys::SPI_fnumber(shape, name.as_ptr());
                if number > 0 && pg_sys::SPI_gettypeid(shape, number) == expected {
                    return Ok(number);
                }
            }
            let problem = format!("it has no column {} of the type expected", name.to_string_lossy());
            Err(Error::corrupt("a table of items", problem))
        };
        Ok(Columns {
            id: column(c"id", pg_sys::TEXTOID)?,
            version: column(c"version", pg_sys::INT8OID)?,
            timestamp: column(c"timestamp", pg_sys::INT8OID)?,
            payload_hash: column(c"payload_hash", pg_sys::BYTEAOID)?,
            payload: column(c"payload", pg_sys::JSONBOID)?,
            payload_blob: column(c"payload_blob", pg_sys::BYTEAOID)?,
            audit: column(c"audit", pg_sys::JSONBOID)?,
            state: column(c"state", pg_sys::TEXTOID)?,
            local: column(c"local", pg_sys::BOOLOID)?,
        })
    }
}

/// Whether a table is `tandem.items` or a partition below it.
fn is_items(table: pg_sys::Relation) -> Result<bool> {
    let items = table_of_tandem(c"items")?;
    // SAFETY: the table is open; the list is one of table numbers, the topmost last.
    unsafe {
        if (*table).rd_id == items {
            return Ok(true);
        }
        if !(*(*table).rd_rel).relispartition {
            return Ok(false);
        }
        let above = get_partition_ancestors((*table).rd_id);
        let count = if above.is_null() { 0 } else { (*above).length };
        let last = usize::try_from(count).ok().and_then(|count| count.checked_sub(1));
        Ok(last.is_some_and(|last| (*(*above).elements.add(last)).oid_value == items))
    }
}

/// The number of one of tandem's own tables. Errors: `CORRUPT` where it is not there.
pub fn table_of_tandem(name: &'static CStr) -> Result<pg_sys::Oid> {
    let known = |own: &Vec<OwnTable>| own.iter().find(|own| own.name == name).map(|own| own.number);
    if let Some(number) = OWN.with_borrow(known) {
        return Ok(number);
    }
    listen();
    // SAFETY: looks names up.
    let table = unsafe {
        let schema = pg_sys::get_namespace_oid(c"tandem".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if table == pg_sys::InvalidOid {
        return Err(Error::corrupt("schema tandem", format!("it has no table {}", name.to_string_lossy())));
    }
    OWN.with_borrow_mut(|own| own.push(OwnTable { name, number: table, noted: None }));
    Ok(table)
}

/// The number of the id's column in a table of items.
pub fn id_column(table: pg_sys::Relation) -> Result<i16> {
    let column = Columns::of(table)?.id;
    i16::try_from(column).map_err(|_| Error::corrupt("a table of items", "it has too many columns"))
}

/// What `read` reads from a table of tandem's, read again only when Postgres has been told that the table has changed.
pub fn noted_of_table(name: &'static CStr, read: impl FnOnce() -> Outcome<i64>) -> Outcome<i64> {
    table_of_tandem(name)?;
    let noted = |own: &Vec<OwnTable>| own.iter().find(|own| own.name == name).and_then(|own| own.noted);
    if let Some(noted) = OWN.with_borrow(noted) {
        return Ok(noted);
    }
    let noted = read()?;
    OWN.with_borrow_mut(|own| {
        if let Some(own) = own.iter_mut().find(|own| own.name == name) {
            own.noted = Some(noted);
        }
    });
    Ok(noted)
}

/// A tuple of a table of items, taken apart once: a call of the server for each value that is looked at took as long
/// as all that is decided with them.
pub struct Row {
    pub tuple: pg_sys::HeapTuple,
    pub shape: pg_sys::TupleDesc,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// Takes a tuple apart. What it hands out lives as long as the tuple.
    ///
    /// # Safety
    /// The tuple must have this shape.
    pub unsafe fn of(tuple: pg_sys::HeapTuple, shape: pg_sys::TupleDesc) -> Row {
        // SAFETY: there is room for as many values as the shape has columns.
        unsafe {
            let count = usize::try_from((*shape).natts).unwrap_or(0);
            let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); count], vec![true; count]);
            pg_sys::heap_deform_tuple(tuple, shape, values.as_mut_ptr(), nulls.as_mut_ptr());
            Row { tuple, shape, values, nulls }
        }
    }

    pub fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let at = usize::try_from(column).ok()?.checked_sub(1)?;
        if *self.nulls.get(at)? { None } else { self.values.get(at).copied() }
    }

    pub fn is_null(&self, column: i32) -> bool {
        self.datum(column).is_none()
    }

    pub fn number(&self, column: i32) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    pub fn is_true(&self, column: i32) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() as u8 != 0)
    }

    pub fn bytes(&self, column: i32) -> Option<&[u8]> {
        // SAFETY: asked for columns of variable length only.
        self.datum(column).map(|datum| unsafe { detoasted(datum) })
    }

    pub fn text(&self, column: i32, what: &str) -> Result<&str> {
        utf8(what, self.bytes(column).unwrap_or_default())
    }
}

/// Whether a column of variable length is the same in both, as far as can be told without fetching what is stored
/// outside of the row. An UPDATE that leaves a long value alone carries the reference to it over.
pub fn same(old: &Row, new: &Row, column: i32) -> bool {
    let (old, new) = match (old.datum(column), new.datum(column)) {
        (Some(old), Some(new)) => (old, new),
        (None, None) => return true,
        _ => return false,
    };
    // SAFETY: asked for columns of variable length only; a value that is neither compressed nor elsewhere is in
    // the tuple as a whole.
    unsafe {
        let is_plain = |value: *const pg_sys::varlena| {
            varatt_is_4b_u(value) || (varatt_is_1b(value) && !varatt_is_1b_e(value))
        };
        let (old, new) = (old.cast_mut_ptr::<pg_sys::varlena>(), new.cast_mut_ptr::<pg_sys::varlena>());
        if is_plain(old) && is_plain(new) {
            return varlena_to_byte_slice(old) == varlena_to_byte_slice(new);
        }
        let whole =
            |value: *mut pg_sys::varlena| std::slice::from_raw_parts(value.cast::<u8>(), varsize_any(value));
        whole(old) == whole(new)
    }
}

/// A call of a trigger function, checked: what it was fired for is what the function is made for.
pub struct Call<'a> {
    data: &'a pg_sys::TriggerData,
    /// Where the columns are.
    pub columns: Columns,
}

impl Call<'_> {
    /// Reads a call. `kind` are the bits of the event that say when it fires and for what. Errors: `INVALID` for any
    /// other call.
    ///
    /// # Safety
    /// `info` must be what Postgres calls a function with.
    pub unsafe fn of<'a>(info: pg_sys::FunctionCallInfo, kind: u32) -> Result<Call<'a>> {
        let refusal = || {
            Err(Error::invalid("this function", "is for tandem's own triggers", "leave its calls to them"))
        };
        // SAFETY: a trigger's context is its TriggerData; anything else is refused before it is looked at.
        let data = unsafe {
            let node = if info.is_null() { std::ptr::null_mut() } else { (*info).context };
            if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_TriggerData {
                return refusal();
            }
            &*node.cast::<pg_sys::TriggerData>()
        };
        if data.tg_event & (pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK) != kind {
            return refusal();
        }
        Ok(Call { data, columns: Columns::of(data.tg_relation)? })
    }

    /// The table.
    pub fn table(&self) -> pg_sys::Relation {
        self.data.tg_relation
    }

    fn row(&self, tuple: pg_sys::HeapTuple) -> Row {
        // SAFETY: the relation is open for as long as its trigger runs, and the tuple is one of it.
        unsafe { Row::of(tuple, (*self.data.tg_relation).rd_att) }
    }

    fn event(&self) -> u32 {
        self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK
    }

    /// The row before, of an UPDATE or DELETE.
    pub fn old_row(&self) -> Option<Row> {
        (self.event() != pg_sys::TRIGGER_EVENT_INSERT).then(|| self.row(self.data.tg_trigtuple))
    }

    /// The row after, of an INSERT or UPDATE.
    pub fn new_row(&self) -> Option<Row> {
        match self.event() {
            pg_sys::TRIGGER_EVENT_INSERT => Some(self.row(self.data.tg_trigtuple)),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(self.row(self.data.tg_newtuple)),
            _ => None,
        }
    }

    /// The first BEFORE ROW trigger of others, if there is one, that may have edited the row; `after` tandem's own one
    /// only, or any.
    pub fn editor(&self, after_own: bool) -> Option<String> {
        const ROW_BEFORE: i16 = (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE) as i16;
        let event = match self.event() {
            pg_sys::TRIGGER_EVENT_INSERT => pg_sys::TRIGGER_TYPE_INSERT,
            pg_sys::TRIGGER_EVENT_UPDATE => pg_sys::TRIGGER_TYPE_UPDATE,
            _ => return None,
        } as i16;
        // SAFETY: the relation is open, and the list has as many entries as it says; names end with NUL.
        let triggers = unsafe {
            let all = (*self.data.tg_relation).trigdesc;
            if all.is_null() {
                return None;
            }
            std::slice::from_raw_parts((*all).triggers, usize::try_from((*all).numtriggers).unwrap_or(0))
        };
        // SAFETY: as above.
        let name = |trigger: &pg_sys::Trigger| unsafe { CStr::from_ptr(trigger.tgname) };
        triggers
            .iter()
            .filter(|trigger| {
                trigger.tgtype & ROW_BEFORE == ROW_BEFORE
                    && trigger.tgtype & event != 0
                    && trigger.tgenabled as u8 != b'D'
                    && name(trigger) != super::ROW_TRIGGER
                    && (!after_own || name(trigger) > super::ROW_TRIGGER)
            })
            .map(|trigger| name(trigger).to_string_lossy().into_owned())
            .next()
    }
}

/// Whether the session plays the part of a replica: what it writes was decided elsewhere and is not refused here.
pub fn is_replica() -> bool {
    // SAFETY: a plain read of the backend's own setting.
    unsafe { pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32 }
}
