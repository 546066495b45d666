//! The fold: adds the log to the blocks in batches (rules in `tandem_shared::blocks`).
//!
//! Rows are taken in (transaction, sequence) order below the oldest transaction that is still running, so no row
//! can appear behind the position once it has moved on.

use crate::error::{Outcome, answer};
use crate::planning;
use crate::replica::past_every_id;
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use tandem_shared::blocks::{BLOCK_IDS_MAX, Block, Delta, apply, cut, needs_cut, needs_merge};
use tandem_shared::{Digest, Fingerprint, Result};

/// Rows folded in one batch unless the caller says otherwise.
const BATCH_ROWS: i64 = 50_000;
/// The advisory lock that one fold at a time holds.
const FOLD_LOCK: i64 = 0x7461_6e64_656d_0001;

/// A row of the log without what the fold does not need.
pub struct Change {
    /// The id.
    pub id: String,
    /// Digest before.
    pub old: Option<Digest>,
    /// Digest after.
    pub new: Option<Digest>,
}

impl Change {
    /// As the shared rules take it.
    pub fn delta(&self) -> Delta<'_> {
        Delta { id: &self.id, old: self.old, new: self.new }
    }
}

/// Folds pending changes, at most `max_rows`, and returns how many. 0 if another session is folding.
#[pg_extern(volatile, parallel_unsafe, security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn fold(max_rows: default!(Option<i64>, "NULL")) -> i64 {
    store::refuse_read_only(c"tandem.fold()");
    let max_rows = max_rows.unwrap_or(BATCH_ROWS).clamp(1, 1_000_000);
    answer(planning::by_index(|| Spi::connect_mut(|client| fold_batch(client, max_rows))))
}

/// Folds before a reading, if this transaction may: merely for speed, as readings add what is not folded.
pub fn before_reading() {
    // SAFETY: plain reads of the backend's own transaction state.
    let (isolation, read_only) = unsafe { (pg_sys::XactIsoLevel, pg_sys::XactReadOnly) };
    // SAFETY: no argument, reads shared state.
    let recovering = unsafe { pg_sys::RecoveryInProgress() };
    if isolation <= pg_sys::XACT_READ_COMMITTED as i32 && !read_only && !recovering {
        let _ = Spi::get_one::<i64>("SELECT tandem.fold()");
    }
}

pub(crate) fn fold_batch(client: &mut SpiClient<'_>, max_rows: i64) -> Outcome<i64> {
    // As an update: until a transaction has written, reads share the snapshot of the caller's statement, and one from
    // before the lock would show the blocks and the position as they were before the fold that held it.
    let locked = client.update("SELECT pg_try_advisory_xact_lock($1)", None, &[FOLD_LOCK.into()])?;
    if locked.first().get::<bool>(1)? != Some(true) {
        return Ok(0);
    }
    let rows = client.select(
        "SELECT c.id, c.old_digest, c.new_digest, c.xid, c.seq FROM tandem.changes c \
         WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s) \
           AND c.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
         ORDER BY c.xid, c.seq LIMIT $1",
        None,
        &[(max_rows + 1).into()],
    )?;
    let mut changes = Vec::new();
    let mut position = None;
    // One row more than is folded tells whether this batch ends the backlog.
    let more_follow = rows.len() as i64 > max_rows;
    for row in rows.take(max_rows as usize) {
        changes.push(change(row.get(1)?, row.get(2)?, row.get(3)?)?);
        position = row.get::<i64>(4)?.zip(row.get::<i64>(5)?);
    }
    let Some((xid, seq)) = position else { return Ok(0) };
    let count = changes.len() as i64;
    changes.sort_by(|a, b| a.id.cmp(&b.id));
    let mut blocks = touched_blocks(client, &changes)?;
    let changed = apply(&mut blocks, changes.iter().map(Change::delta))?;
    let changed: Vec<Block> = changed.into_iter().filter_map(|at| blocks.get(at).cloned()).collect();
    store_blocks(client, &changed)?;
    client.update(
        "UPDATE tandem.log_state SET folded_xid = $1, folded_seq = $2, key_check = $3",
        None,
        &[xid.into(), seq.into(), settings::digest_key().check().to_vec().into()],
    )?;
    // A cut reads what is not folded yet. While more is waiting that would be the whole backlog for each block, so
    // the batch that ends a backlog cuts what all before it made too large.
    if !more_follow {
        cut_large(client)?;
    }
    merge_small(client, &changed)?;
    Ok(count)
}

fn cut_large(client: &mut SpiClient<'_>) -> Outcome<()> {
    let rows = client.select(
        "SELECT k.first, k.count, k.sum FROM tandem.blocks k WHERE k.count > $1 ORDER BY k.first",
        None,
        &[(BLOCK_IDS_MAX as i64).into()],
    )?;
    let mut large = Vec::new();
    for row in rows {
        large.push(block(row.get(1)?, row.get(2)?, row.get(3)?)?);
    }
    large.iter().filter(|block| needs_cut(block)).try_for_each(|block| cut_block(client, block))
}

pub(crate) fn change(id: Option<String>, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<Change> {
    Ok(Change {
        id: id.unwrap_or_default(),
        old: old.map(Digest::from_slice).transpose()?,
        new: new.map(Digest::from_slice).transpose()?,
    })
}

/// The blocks that sorted changes fall into.
fn touched_blocks(client: &SpiClient<'_>, changes: &[Change]) -> Outcome<Vec<Block>> {
    // Looking a block up for each id is cheap for a small batch; a large one touches most blocks between its ends.
    const LOOKUP_ROWS_MAX: usize = 2000;
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Ok(Vec::new()) };
    let rows = if changes.len() <= LOOKUP_ROWS_MAX {
        let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
        client.select(
            "SELECT DISTINCT ON (b.first) b.first, b.count, b.sum FROM unnest($1::text[]) AS c (id) \
             CROSS JOIN LATERAL (SELECT * FROM tandem.blocks k WHERE k.first <= c.id ORDER BY k.first DESC LIMIT 1) b \
             ORDER BY b.first",
            None,
            &[ids.into()],
        )?
    } else {
        client.select(
            "SELECT k.first, k.count, k.sum FROM tandem.blocks k \
             WHERE k.first >= (SELECT max(f.first) FROM tandem.blocks f WHERE f.first <= $1) AND k.first <= $2 \
             ORDER BY k.first",
            None,
            &[first.id.as_str().into(), last.id.as_str().into()],
        )?
    };
    let mut blocks = Vec::new();
    for row in rows {
        blocks.push(block(row.get(1)?, row.get(2)?, row.get(3)?)?);
    }
    Ok(blocks)
}

fn block(first: Option<String>, count: Option<i64>, sum: Option<&[u8]>) -> Result<Block> {
    let fingerprint = Fingerprint::from_parts(count.unwrap_or(0) as u64, sum.unwrap_or_default())?;
    Ok(Block { first: first.unwrap_or_default(), fingerprint })
}

fn store_blocks(client: &mut SpiClient<'_>, blocks: &[Block]) -> Outcome<()> {
    let firsts: Vec<&str> = blocks.iter().map(|block| block.first.as_str()).collect();
    let counts: Vec<i64> = blocks.iter().map(|block| block.fingerprint.count() as i64).collect();
    let sums: Vec<Vec<u8>> = blocks.iter().map(|block| block.fingerprint.sum().to_vec()).collect();
    client.update(
        "INSERT INTO tandem.blocks AS b SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) \
         ON CONFLICT (first) DO UPDATE SET count = excluded.count, sum = excluded.sum",
        None,
        &[firsts.into(), counts.into(), sums.into()],
    )?;
    Ok(())
}

/// Cuts a block by the items that are in its range now. Items and log are read in one statement, as only within
/// one snapshot do they add up.
fn cut_block(client: &mut SpiClient<'_>, block: &Block) -> Outcome<()> {
    // An end for the last block too: without one each block would be read to the end of the items.
    let rows = client.select(
        "WITH bound AS MATERIALIZED ( \
             SELECT coalesce(min(k.first), $2) AS past FROM tandem.blocks k WHERE k.first > $1) \
         SELECT true, i.id, NULL::bytea, \
                tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) \
         FROM tandem.items i WHERE NOT i.local AND i.id >= $1 AND i.id < (SELECT b.past FROM bound b) \
         UNION ALL \
         SELECT false, c.id, c.old_digest, c.new_digest FROM tandem.changes c \
         WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s) \
           AND c.id >= $1 AND c.id < (SELECT b.past FROM bound b)",
        None,
        &[block.first.as_str().into(), past_every_id().into()],
    )?;
    let (mut entries, mut unfolded) = (Vec::new(), Vec::new());
    for row in rows {
        let change = change(row.get(2)?, row.get(3)?, row.get(4)?)?;
        match (row.get::<bool>(1)?, change.new) {
            (Some(true), Some(digest)) => entries.push((change.id, digest)),
            (Some(true), None) => {}
            _ => unfolded.push(change),
        }
    }
    entries.sort();
    let deltas: Vec<Delta<'_>> = unfolded.iter().map(Change::delta).collect();
    store_blocks(client, &cut(block, &entries, &deltas)?)
}

/// Adds small blocks to the one before them.
fn merge_small(client: &mut SpiClient<'_>, changed: &[Block]) -> Outcome<()> {
    for touched in changed {
        let rows = client.select(
            "(SELECT first, count, sum FROM tandem.blocks WHERE first < $1 ORDER BY first DESC LIMIT 1) \
             UNION ALL SELECT first, count, sum FROM tandem.blocks WHERE first = $1 AND count < 48 \
             AND first <> ''",
            None,
            &[touched.first.as_str().into()],
        )?;
        let mut pair = Vec::new();
        for row in rows {
            pair.push(block(row.get(1)?, row.get(2)?, row.get(3)?)?);
        }
        if let [before, small] = pair.as_slice()
            && needs_merge(before, small)
        {
            let sum = before.fingerprint + small.fingerprint;
            client.update(
                "DELETE FROM tandem.blocks WHERE first = $1",
                None,
                &[small.first.as_str().into()],
            )?;
            store_blocks(client, &[Block { first: before.first.clone(), fingerprint: sum }])?;
        }
    }
    Ok(())
}

/// Makes the blocks anew from the items, as after a change of the digest secret.
#[pg_extern(volatile, parallel_unsafe)]
fn rebuild_blocks() -> i64 {
    store::refuse_read_only(c"tandem.rebuild_blocks()");
    let outcome = Spi::connect_mut(|client| -> Outcome<i64> {
        client.update("LOCK TABLE tandem.items IN SHARE MODE", None, &[])?;
        client.update("SELECT pg_advisory_xact_lock($1)", None, &[FOLD_LOCK.into()])?;
        let rows = client.select(
            "SELECT tandem.digest(version, id, state, payload IS NOT NULL, payload_hash) FROM tandem.items \
             WHERE NOT local",
            None,
            &[],
        )?;
        let mut sum = Fingerprint::EMPTY;
        for row in rows {
            sum += Fingerprint::of(&Digest::from_slice(row.get::<&[u8]>(1)?.unwrap_or_default())?);
        }
        client.update("DELETE FROM tandem.blocks", None, &[])?;
        // With writers locked out every row of the log is visible: all of it is in the sum.
        client.update(
            "UPDATE tandem.log_state SET key_check = $1, (folded_xid, folded_seq) = \
             (SELECT coalesce(max(xid), 0), 9223372036854775807 FROM tandem.changes)",
            None,
            &[settings::digest_key().check().to_vec().into()],
        )?;
        let whole = Block { first: String::new(), fingerprint: sum };
        store_blocks(client, std::slice::from_ref(&whole))?;
        if needs_cut(&whole) {
            cut_block(client, &whole)?;
        }
        Ok(sum.count() as i64)
    });
    answer(outcome)
}
