//! Planner settings for tandem's own statements. They look up a few rows in a log and in blocks that were never
//! analysed; by its default estimates the planner reads the whole log and compiles the statement, 40 ms and more
//! where going through the index takes less than one.

use crate::capture::table_of_tandem;
use crate::error::Outcome;
use pgrx::spi::{OwnedPreparedStatement, PreparedStatement, SpiClient, SpiTupleTable};
use pgrx::{FromDatum, IntoDatum, Spi, pg_sys};
use pgrx::{datum::DatumWithOid, pg_sys::PgOid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use tandem_shared::{Error, Result};

struct Saved(i32);

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: ends the level begun in `with`, as Postgres does for a function with a SET clause.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
    }
}

/// Runs `work` without compilation and through indexes. Not in parallel either: to start two workers for a log that
/// has grown took 10 ms a range, and so most of the time of a check among a million items.
pub fn by_index<T>(work: impl FnOnce() -> T) -> T {
    let settings = [
        // No object of a user's is ever taken for one of ours or the server's.
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"jit", c"off"),
        (c"enable_seqscan", c"off"),
        (c"max_parallel_workers_per_gather", c"0"),
        // For kept statements, whose ranges come as arrays: another plan for other values would be the same one.
        (c"plan_cache_mode", c"force_generic_plan"),
    ];
    with(&settings, work)
}

/// Runs `work` with the rights of the owner of tandem's tables, past every row-level policy: for what tandem alone
/// writes, on behalf of whoever writes an item. Only statements of this library may run in it, and triggers that they
/// fire run with these rights, too.
pub fn as_owner<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    struct Before(pg_sys::Oid, i32);
    impl Drop for Before {
        fn drop(&mut self) {
            // SAFETY: gives back what was read below.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) };
        }
    }
    let owner = owner_of(table_of_tandem(c"items")?)?;
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads and sets the backend's own state, as the server does for foreign keys.
    let _before = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let own = context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as i32;
        pg_sys::SetUserIdAndSecContext(owner, own);
        Before(user, context)
    };
    by_index(work)
}

/// The owner of a table. Errors: `CORRUPT` where it is not there.
fn owner_of(table: pg_sys::Oid) -> Result<pg_sys::Oid> {
    // SAFETY: a row of the catalog's cache is released after it was read.
    unsafe {
        let key = pg_sys::Datum::from(table);
        let row = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, key);
        if row.is_null() {
            return Err(Error::corrupt("schema tandem", "its tables are gone"));
        }
        let header = (*row).t_data;
        let form = header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_class>();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(row);
        Ok(owner)
    }
}

/// The one value of a statement that only reads. pgrx' own functions for one value take a number of a transaction,
/// which costs a record in the WAL and a row's worth of age for nothing.
pub fn read_one<T: FromDatum + IntoDatum>(statement: &str, args: &[DatumWithOid<'_>]) -> Outcome<Option<T>> {
    Spi::connect(|client| {
        let rows = client.select(statement, Some(1), args)?;
        Ok(if rows.is_empty() { None } else { rows.first().get_one::<T>()? })
    })
}

/// Reads with a statement that this process parses and plans once, as planning takes longer than reading.
pub fn select_kept<'conn>(
    client: &SpiClient<'conn>,
    statement: &'static str,
    args: &[DatumWithOid<'_>],
) -> std::result::Result<SpiTupleTable<'conn>, pgrx::spi::Error> {
    let prepared = kept(statement, args, |types| client.prepare(statement, types))?;
    client.select(prepared, None, args)
}

/// Writes, or reads what others have just written, with a statement that this process parses and plans once.
pub fn update_kept<'conn>(
    client: &mut SpiClient<'conn>,
    statement: &'static str,
    args: &[DatumWithOid<'_>],
) -> std::result::Result<SpiTupleTable<'conn>, pgrx::spi::Error> {
    let prepared = kept(statement, args, |types| client.prepare_mut(statement, types))?;
    client.update(prepared, None, args)
}

/// The kept plan of a statement. Postgres itself plans it anew when a table or the search path has changed.
fn kept<'conn>(
    statement: &'static str,
    args: &[DatumWithOid<'_>],
    prepare: impl FnOnce(&[PgOid]) -> std::result::Result<PreparedStatement<'conn>, pgrx::spi::Error>,
) -> std::result::Result<&'static OwnedPreparedStatement, pgrx::spi::Error> {
    thread_local! {
        // Never freed: the statements are literals of this library, and few. A literal is known by its address.
        static KEPT: RefCell<HashMap<(usize, usize), &'static OwnedPreparedStatement>> = RefCell::default();
    }
    let address = (statement.as_ptr() as usize, statement.len());
    if let Some(known) = KEPT.with_borrow(|kept| kept.get(&address).copied()) {
        return Ok(known);
    }
    let types: Vec<PgOid> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
    let prepared = &*Box::leak(Box::new(prepare(&types)?.keep()));
    KEPT.with_borrow_mut(|kept| kept.insert(address, prepared));
    Ok(prepared)
}

/// Runs `work` so that it fails rather than wait for a lock for long: as long as the caller says, or a few seconds.
pub fn waiting_for_locks<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a plain value of this backend.
    let is_unlimited = unsafe { pg_sys::LockTimeout } == 0;
    if is_unlimited { with(&[(c"lock_timeout", c"5s")], work) } else { work() }
}

/// Runs `work` without the ordinary triggers of the tables that it writes. For rows that change their place and
/// nothing else.
pub fn without_triggers<T>(work: impl FnOnce() -> T) -> T {
    with(&[(c"session_replication_role", c"replica")], work)
}

/// Runs `work` with settings of ours, and gives the caller its own back.
fn with<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: begins a level that `Saved` ends.
    let _saved = Saved(unsafe { pg_sys::NewGUCNestLevel() });
    for (name, value) in settings {
        // SAFETY: names and values are literals. Who calls may not be allowed to change each of them; the statements
        // that run under them are this library's.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            )
        };
    }
    work()
}
