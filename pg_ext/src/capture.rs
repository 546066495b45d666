//! The row trigger of `items`: what plain DML and COPY write gets its version, timestamp and hash here, before it
//! is stored. It runs once a row, and for an upsert twice; so it reads the tuple where it lies, hashes only content
//! that is new to the row, and remembers the content hashed last.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use pgrx::varlena::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, varlena_to_byte_slice, varsize_any};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use tandem_shared::decide::{check_locality, decide_row};
use tandem_shared::id::{check_id, utf8};
use tandem_shared::{
    Audit, Content, ContentType, Error, Head, LiveHead, PayloadHash, Result, State, Timestamp, Version,
};

/// Marks `tandem_capture_row` as a function of the present calling convention.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_tandem_capture_row() -> &'static pg_sys::Pg_finfo_record {
    &pg_sys::Pg_finfo_record { api_version: 1 }
}

/// The trigger function, BEFORE INSERT OR UPDATE FOR EACH ROW.
///
/// # Safety
/// Postgres calls it, with `info` as it calls any function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tandem_capture_row(info: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: a trigger's context is its TriggerData; anything else is refused before it is looked at.
    let call = unsafe {
        let node = if info.is_null() { std::ptr::null_mut() } else { (*info).context };
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_TriggerData {
            let refusal =
                Error::invalid("capture_row", "is a trigger function", "leave its calls to the triggers");
            return answer(Err(refusal.into()));
        }
        &*node.cast::<pg_sys::TriggerData>()
    };
    answer(captured(call)).into()
}

fn captured(call: &pg_sys::TriggerData) -> Outcome<*mut pg_sys::HeapTupleData> {
    let is_update = call.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
    let new = if is_update { call.tg_newtuple } else { call.tg_trigtuple };
    // tandem's own functions have decided already.
    if store::is_own_write() {
        return Ok(new);
    }
    let columns = Columns::of(call.tg_relation)?;
    // SAFETY: the relation is open for as long as its trigger runs.
    let shape = unsafe { (*call.tg_relation).rd_att };
    let row = |tuple| Row { tuple, shape };
    let written = if is_update {
        updated(&columns, &row(call.tg_trigtuple), &row(new))?
    } else {
        inserted(&columns, None, &row(new))?
    };
    Ok(written.into_tuple(&columns, new, shape))
}

/// What is put into the row instead of what its writer gave.
#[derive(Default)]
struct Written {
    version: Option<i64>,
    timestamp: Option<i64>,
    payload_hash: Option<PayloadHash>,
}

impl Written {
    fn into_tuple(
        self,
        columns: &Columns,
        tuple: *mut pg_sys::HeapTupleData,
        shape: pg_sys::TupleDesc,
    ) -> *mut pg_sys::HeapTupleData {
        let hash = self.payload_hash.and_then(|hash| hash.0.as_slice().into_datum());
        let values = [
            (columns.version, self.version.map(pg_sys::Datum::from)),
            (columns.timestamp, self.timestamp.map(pg_sys::Datum::from)),
            (columns.payload_hash, hash),
        ];
        let set = values.iter().filter_map(|(column, value)| value.map(|value| (*column, value)));
        let (mut numbers, mut values): (Vec<i32>, Vec<pg_sys::Datum>) = set.unzip();
        if numbers.is_empty() {
            return tuple;
        }
        let mut nulls = vec![false; numbers.len()];
        // SAFETY: the arrays are of one length, and the numbers are columns of this shape.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                tuple,
                shape,
                numbers.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    }
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
    let version = row_version(id, tombstone(columns, new), given, true)?;
    let timestamp = match new.number(columns.timestamp) {
        Some(given) if old.is_none() => given,
        _ => store::now().unix_ms() as i64,
    };
    Ok(Written { version, timestamp: Some(timestamp), payload_hash: Some(payload_hash) })
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
    let stored_hash = old.bytes(columns.payload_hash).unwrap_or_default();
    let stored = store::payload_hash(stored_hash)?;
    let payload_hash = if same(old, new, columns.payload) && same(old, new, columns.payload_blob) {
        stored
    } else {
        hash_of_content(columns, new)?
    };
    let same_type = old.is_null(columns.payload) == new.is_null(columns.payload);
    let current = old.number(columns.version);
    let given = new.number(columns.version).filter(|given| Some(*given) != current);
    let changed = payload_hash != stored || !same_state || !same_type || is_shared_now;
    // A removal by others may lie below a local item; what is shared must be newer.
    let below = if is_shared_now { tombstone(columns, new) } else { None };
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
    limit_bytes: usize,
    content: Vec<u8>,
    hash: PayloadHash,
}

/// Content longer than this is not remembered: hashing it again costs less than what storing it does.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

/// Errors: `BADJSON`, `TOOLARGE`, `INVALID` unless there is exactly one content.
fn hash_of_content(columns: &Columns, row: &Row) -> Result<PayloadHash> {
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
    let limit_bytes = settings::content_bytes_max();
    let known = LAST.with_borrow(|last| {
        last.as_ref()
            .filter(|last| {
                last.is_json == is_json && last.limit_bytes == limit_bytes && last.content == content
            })
            .map(|last| last.hash)
    });
    if let Some(hash) = known {
        return Ok(hash);
    }
    let hash = if is_json {
        with_json_text(datum, |text| Ok(*Content::json(text, limit_bytes)?.payload_hash()))?
    } else {
        *Content::binary(content, limit_bytes)?.payload_hash()
    };
    if content.len() <= REMEMBERED_BYTES_MAX {
        LAST.with_borrow_mut(|last| {
            let mut kept = last.take().map(|last| last.content).unwrap_or_default();
            kept.clear();
            kept.extend_from_slice(content);
            *last = Some(Hashed { is_json, limit_bytes, content: kept, hash });
        });
    }
    Ok(hash)
}

/// Hands out the text of a `jsonb` value.
fn with_json_text<T>(datum: pg_sys::Datum, work: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
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
unsafe fn detoasted<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) }
}

/// Where the columns are. They differ from table to table: one that was there before an update of the extension
/// has new columns at its end.
#[derive(Clone, Copy)]
struct Columns {
    id: i32,
    version: i32,
    timestamp: i32,
    payload_hash: i32,
    payload: i32,
    payload_blob: i32,
    audit: i32,
    state: i32,
    local: i32,
}

impl Columns {
    fn of(table: pg_sys::Relation) -> Result<Columns> {
        thread_local! {
            // A column keeps its number for as long as its table lives.
            static KNOWN: RefCell<HashMap<pg_sys::Oid, Columns>> = RefCell::default();
        }
        // SAFETY: the table is open.
        let (oid, shape) = unsafe { ((*table).rd_id, (*table).rd_att) };
        if let Some(columns) = KNOWN.with_borrow(|known| known.get(&oid).copied()) {
            return Ok(columns);
        }
        let column = |name: &CStr| {
            // SAFETY: both outlive the call.
            let number = unsafe { pg_sys::SPI_fnumber(shape, name.as_ptr()) };
            if number > 0 {
                return Ok(number);
            }
            Err(Error::corrupt("table of items", format!("it has no column {}", name.to_string_lossy())))
        };
        let columns = Columns {
            id: column(c"id")?,
            version: column(c"version")?,
            timestamp: column(c"timestamp")?,
            payload_hash: column(c"payload_hash")?,
            payload: column(c"payload")?,
            payload_blob: column(c"payload_blob")?,
            audit: column(c"audit")?,
            state: column(c"state")?,
            local: column(c"local")?,
        };
        KNOWN.with_borrow_mut(|known| known.insert(oid, columns));
        Ok(columns)
    }
}

/// A tuple of a table of items.
struct Row {
    tuple: pg_sys::HeapTuple,
    shape: pg_sys::TupleDesc,
}

impl Row {
    fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let number = usize::try_from(column).ok().and_then(NonZeroUsize::new)?;
        // SAFETY: the tuple has this shape, and the number is one of its columns.
        unsafe { pgrx::htup::heap_getattr_raw(self.tuple, number, self.shape) }
    }

    fn is_null(&self, column: i32) -> bool {
        self.datum(column).is_none()
    }

    fn number(&self, column: i32) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    fn is_true(&self, column: i32) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() as u8 != 0)
    }

    fn bytes(&self, column: i32) -> Option<&[u8]> {
        // SAFETY: asked for columns of variable length only.
        self.datum(column).map(|datum| unsafe { detoasted(datum) })
    }

    fn text(&self, column: i32, what: &str) -> Result<&str> {
        utf8(what, self.bytes(column).unwrap_or_default())
    }
}

/// Whether a column of variable length is the same in both, as far as can be told without fetching what is stored
/// outside of the row. An UPDATE that leaves a long value alone carries the reference to it over.
fn same(old: &Row, new: &Row, column: i32) -> bool {
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

/// The version of the tombstone under a row's id.
///
/// Read without SPI, which would cost as much as all else in this trigger together; and not at all while the table
/// has no page, as there can be no row then.
fn tombstone(columns: &Columns, row: &Row) -> Option<i64> {
    let id = row.datum(columns.id)?;
    // SAFETY: the table and its primary key are made by this extension and hold (id text, version bigint, …) in
    // this order; what is opened is closed again, by the transaction's end in case of an error.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"tandem".as_ptr(), false);
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::table_open(pg_sys::get_relname_relid(c"tombstones".as_ptr(), schema), lock);
        let is_empty = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM) == 0;
        let version = if is_empty { None } else { lookup(table, id) };
        pg_sys::table_close(table, lock);
        version
    }
}

/// The second column of the row with this text as its key, in the newest snapshot that the transaction may use.
///
/// # Safety
/// `table` must be open, with a primary key of one text in the C collation and a bigint as second column.
unsafe fn lookup(table: pg_sys::Relation, id: pg_sys::Datum) -> Option<i64> {
    // SAFETY: as the caller says; scan and snapshot end here.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
        pg_sys::ScanKeyInit(&mut key, 1, equal, pg_sys::Oid::from(pg_sys::F_TEXTEQ), id);
        key.sk_collation = pg_sys::C_COLLATION_OID;
        let index = pg_sys::RelationGetPrimaryKeyIndex(table);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let scan = pg_sys::systable_beginscan(table, index, true, snapshot, 1, &mut key);
        let found = pg_sys::systable_getnext(scan);
        let version = NonZeroUsize::new(2)
            .filter(|_| !found.is_null())
            .and_then(|second| pgrx::htup::heap_getattr_raw(found, second, (*table).rd_att))
            .map(|version| version.value() as i64);
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        version
    }
}
