//! The slots of the log: three tables of which one is written, the one before it is what readers look back on for ten
//! minutes more, and the third is emptied when everybody is past it, and then written next.

use crate::capture::{noted_of_table, table_of_tandem};
use crate::error::Outcome;
use crate::planning;
use crate::snapshot;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// Number of slots.
const SLOTS: i16 = 3;
/// A slot of so many bytes is followed by the next one.
const SLOT_BYTES: i64 = 16 * 1024 * 1024;

/// The slot that is written. A look that is a moment old does no harm: a slot may have rows at any time, and is
/// emptied only if nobody has written it and not ended yet.
pub fn present_slot() -> Outcome<i16> {
    // Read by every transaction that writes, so kept until `rotate` says that it is another.
    Ok(noted_of_table(c"log_state", || latest_state(2))? as i16)
}

/// How often the log was emptied, as of now and not of the transaction's snapshot.
pub fn times_emptied() -> Outcome<i64> {
    latest_state(4)
}

/// The highest transaction whose rows were emptied out of the log, as of now.
pub fn emptied() -> Outcome<u64> {
    Ok(u64::try_from(latest_state(3)?).unwrap_or(0))
}

/// A number of the one row of `tandem.log_state`, as of now.
fn latest_state(column: usize) -> Outcome<i64> {
    let number = table_of_tandem(c"log_state")?;
    // SAFETY: the table is this extension's, with the column, which is a smallint or a bigint; the scan ends here.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::table_open(number, lock);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan =
            pg_sys::systable_beginscan(table, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
        let tuple = pg_sys::systable_getnext(scan);
        let value = NonZeroUsize::new(column)
            .filter(|_| !tuple.is_null())
            .and_then(|column| pgrx::htup::heap_getattr_raw(tuple, column, (*table).rd_att));
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(table, lock);
        Ok(value.map_or(
            0,
            |value| if column == 2 { i64::from(value.value() as i16) } else { value.value() as i64 },
        ))
    }
}

/// The table of a slot.
pub fn table_of(slot: i16) -> &'static CStr {
    match slot {
        0 => c"changes_0",
        1 => c"changes_1",
        _ => c"changes_2",
    }
}

/// Goes on to the next slot of the log when the present one is full, and empties those that everybody is past. The
/// worker does it every few seconds.
#[pg_extern(volatile, parallel_unsafe)]
fn rotate_log() {
    crate::store::refuse_read_only(c"tandem.rotate_log()");
    crate::error::answer(rotate());
}

/// Goes on to the next slot when the present one is full, and empties those that everybody is past. Run by the
/// manager in a transaction of its own.
pub fn rotate() -> Outcome<()> {
    let present = present_slot()?;
    let next = (present + 1) % SLOTS;
    let before = (present + SLOTS - 1) % SLOTS;
    planning::by_index(|| {
        Spi::connect_mut(|client| {
            let mut is_free = size(client, next)? == 0;
            if !is_free {
                is_free = empty(client, next)?;
            }
            if size(client, before)? > 0 && is_old(client)? {
                empty(client, before)?;
            }
            if is_free && size(client, present)? > SLOT_BYTES {
                client.update(
                    "UPDATE tandem.log_state SET slot = $1, slot_since = now()",
                    None,
                    &[next.into()],
                )?;
                // SAFETY: the table is there, and locked by the statement before. All are told when this commits.
                unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table_of_tandem(c"log_state")?) };
            }
            Ok(())
        })
    })
}

fn size(client: &SpiClient<'_>, slot: i16) -> Outcome<i64> {
    let table = format!("tandem.changes_{slot}");
    let rows = client.select("SELECT pg_relation_size($1::regclass)", None, &[table.into()])?;
    Ok(rows.first().get_one::<i64>()?.unwrap_or(0))
}

/// Whether the present slot is written for so long that nobody needs to look back to the one before it.
fn is_old(client: &SpiClient<'_>) -> Outcome<bool> {
    const OLD: &str = "SELECT s.slot_since < now() - interval '10 minutes' FROM tandem.log_state s";
    let rows = client.select(OLD, None, &[])?;
    Ok(rows.first().get_one::<bool>()? == Some(true))
}

/// Empties a slot, if everybody is past all of it and nobody reads or writes it at this moment.
fn empty(client: &mut SpiClient<'_>, slot: i16) -> Outcome<bool> {
    // Before the lock, which takes a number of a transaction and is told to standbys.
    if !snapshot::of_this_moment(|| is_read(client, slot))? {
        return Ok(false);
    }
    let number = table_of_tandem(table_of(slot))?;
    // SAFETY: the table is there. Whoever wrote it and has not ended yet holds it.
    let is_locked = unsafe {
        pg_sys::ConditionalLockRelationOid(number, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE)
    };
    if !is_locked || !snapshot::of_this_moment(|| is_read(client, slot))? {
        return Ok(false);
    }
    let noted = format!(
        "UPDATE tandem.log_state s SET emptied = greatest(s.emptied, coalesce((SELECT max(c.xid) \
         FROM tandem.changes_{slot} c), 0)), times_emptied = s.times_emptied + 1"
    );
    client.update(noted.as_str(), None, &[])?;
    client.update(format!("TRUNCATE tandem.changes_{slot}").as_str(), None, &[])?;
    Ok(true)
}

/// Whether the fold and every link that writes to Redis are past all rows of a slot.
fn is_read(client: &SpiClient<'_>, slot: i16) -> Outcome<bool> {
    let unread = format!(
        "SELECT NOT EXISTS (SELECT FROM ( \
            SELECT f.position FROM tandem.fold_state f \
            UNION ALL SELECT l.log_position FROM tandem.links l WHERE l.direction <> 'from_redis') r (position) \
         WHERE EXISTS (SELECT FROM tandem.changes_{slot} c WHERE c.xid >= tandem.position_below(r.position)) \
            OR EXISTS (SELECT FROM unnest(tandem.position_open(r.position), tandem.position_done(r.position)) o (xid, seq) \
                JOIN tandem.changes_{slot} c ON c.xid = o.xid AND c.seq > o.seq))"
    );
    let rows = client.select(unread.as_str(), None, &[])?;
    Ok(rows.first().get_one::<bool>()? == Some(true))
}
