//! The fold: adds the log to the blocks in batches (rules in `tandem_shared::blocks`).
//!
//! A change adds to the sum of its block whatever it comes after, so the fold takes what has become visible since its
//! last position, in any order. One session folds at a time: it holds the row of `tandem.fold_state`, which nobody but
//! tandem may lock.
//!
//! A block that does not add up is mended from the items, counted and named in `tandem.fold_state`; it stops nothing.

use super::Position;
use super::read::columns_of;
use crate::error::{Outcome, answer};
use crate::planning::{self, select_kept, update_kept};
use crate::replica::past_every_id;
use crate::settings;
use crate::snapshot;
use crate::store;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use tandem_shared::blocks::{
    BLOCK_IDS_CUT, BLOCK_IDS_MAX, BLOCK_IDS_MIN, Block, Delta, apply, cut, cut_front, needs_cut, needs_merge,
};
use tandem_shared::id::Range;
use tandem_shared::log::Snapshot;
use tandem_shared::{Digest, Fingerprint, Result};

/// Rows folded in one batch unless the caller says otherwise.
const BATCH_ROWS: i64 = 50_000;
/// Items read at a time to cut a block or to count it again: a page takes some ten megabytes.
const PAGE_ITEMS: i64 = 50_000;
/// Pages that one fold cuts at most: after a bulk load the rest waits for the folds that follow.
const PAGES_MAX: usize = 20;

/// Folds pending changes, at most `max_rows`, and returns how many. 0 if another session is folding.
#[pg_extern(volatile, parallel_unsafe)]
fn fold(max_rows: default!(Option<i64>, "NULL")) -> i64 {
    store::refuse_read_only(c"tandem.fold()");
    let max_rows = max_rows.unwrap_or(BATCH_ROWS).clamp(1, 1_000_000);
    answer(super::flush());
    answer(planning::as_owner(|| fold_batch(max_rows)))
}

/// Folds what is pending, a batch of it. Takes no number of a transaction where there is nothing to do.
pub fn fold_pending() -> Outcome<i64> {
    const PENDING: &str = "SELECT EXISTS (SELECT FROM tandem.fold_state f \
        CROSS JOIN LATERAL tandem.changes_after(f.position)) OR (SELECT f.has_large FROM tandem.fold_state f)";
    let is_pending = planning::by_index(|| {
        Spi::connect(|client| {
            let rows = select_kept(client, PENDING, &[])?;
            Ok::<_, crate::error::Failure>(rows.first().get_one::<bool>()? == Some(true))
        })
    })?;
    if is_pending { planning::as_owner(|| fold_batch(BATCH_ROWS)) } else { Ok(0) }
}

/// Where the fold stands, with its row locked; `None` if another session folds.
fn lock_state(client: &mut SpiClient<'_>, wait: bool) -> Outcome<Option<State>> {
    let lock = if wait {
        "SELECT f.position, f.has_large, f.count, f.sum FROM tandem.fold_state f FOR UPDATE"
    } else {
        "SELECT f.position, f.has_large, f.count, f.sum FROM tandem.fold_state f FOR UPDATE SKIP LOCKED"
    };
    let Some(row) = update_kept(client, lock, &[])?.next() else { return Ok(None) };
    let position = Position::parse(row.get::<&str>(1)?.unwrap_or_default())?;
    let total = block(None, row.get(3)?, row.get(4)?)?.fingerprint;
    Ok(Some(State { position, has_large: row.get::<bool>(2)? == Some(true), total }))
}

/// The row of `tandem.fold_state`.
struct State {
    /// What is in the blocks.
    position: Position,
    /// A fold has left blocks that are to be cut.
    has_large: bool,
    /// The sum of all blocks.
    total: Fingerprint,
}

/// What this transaction has changed itself is left for the folds that follow: more of it may come.
const UNFOLDED: &str = "SELECT s.seen, c.xid, c.seq, c.id, c.count, c.sum \
    FROM (SELECT pg_catalog.pg_current_snapshot()::text AS seen) s LEFT JOIN LATERAL ( \
        (SELECT c.xid, c.seq, c.id, c.count, c.sum FROM unnest($2::bigint[], $3::integer[]) o (xid, seq) \
            JOIN tandem.changes c ON c.xid = o.xid AND c.seq > o.seq WHERE c.xid <> $5 ORDER BY c.xid, c.seq LIMIT $4) \
        UNION ALL \
        (SELECT c.xid, c.seq, c.id, c.count, c.sum FROM tandem.changes c WHERE c.xid >= $1 AND c.xid <> $5 \
            ORDER BY c.xid, c.seq LIMIT $4) \
        ORDER BY 1, 2 LIMIT $4) c ON true ORDER BY c.xid, c.seq";

/// What is not folded: changes, the position after them, and whether there is more.
struct Unfolded {
    changes: Vec<Delta>,
    end: Position,
    is_cut: bool,
}

fn unfolded(client: &SpiClient<'_>, position: &Position, max_rows: i64) -> Outcome<Unfolded> {
    let (below, open, done) = columns_of(position);
    // SAFETY: inside a transaction; it has a number, as it holds the row of the fold.
    let own = unsafe { pg_sys::GetTopFullTransactionId().value };
    let args = [below.into(), open.into(), done.into(), (max_rows + 1).into(), (own as i64).into()];
    let rows = select_kept(client, UNFOLDED, &args)?;
    let is_cut = rows.len() as i64 > max_rows;
    let (mut changes, mut last, mut seen) = (Vec::new(), None, None);
    for row in rows.take(max_rows as usize) {
        seen = row.get::<String>(1)?;
        let (Some(xid), Some(seq)) = (row.get::<i64>(2)?, row.get::<i32>(3)?) else { break };
        last = Some((xid as u64, seq as u32));
        changes.push(delta(row.get(4)?, row.get(5)?, row.get(6)?)?);
    }
    let seen = Snapshot::parse(&seen.unwrap_or_default())?.with_running(own);
    Ok(Unfolded { changes, end: position.advance(&seen, last.filter(|_| is_cut)), is_cut })
}

/// A row of the log as the rules take it.
pub fn delta(id: Option<String>, count: Option<i16>, sum: Option<&[u8]>) -> Result<Delta> {
    let change = Fingerprint::from_parts(i64::from(count.unwrap_or(0)) as u64, sum.unwrap_or_default())?;
    Ok(Delta { id: id.unwrap_or_default(), change })
}

const FOLDED: &str =
    "UPDATE tandem.fold_state SET position = $1, key_check = $2, has_large = $3, count = $4, sum = $5";

fn fold_batch(max_rows: i64) -> Outcome<i64> {
    Spi::connect_mut(|client| {
        let Some(State { position, mut has_large, total }) = lock_state(client, false)? else { return Ok(0) };
        let Unfolded { mut changes, end, is_cut } = unfolded(client, &position, max_rows)?;
        if changes.is_empty() && !has_large {
            return Ok(0);
        }
        let count = changes.len() as i64;
        changes.sort_by(|a, b| a.id.cmp(&b.id));
        let mut blocks = touched_blocks(client, &changes)?;
        let changed = apply(&mut blocks, &changes)?;
        let changed: Vec<Block> = changed.into_iter().filter_map(|at| blocks.get(at).cloned()).collect();
        store_blocks(client, &changed)?;
        has_large |= changed.iter().any(needs_cut);
        let total = total + changes.iter().map(|delta| delta.change).sum();
        let args = [
            end.to_string().into(),
            settings::digest_key().check().to_vec().into(),
            has_large.into(),
            (total.count() as i64).into(),
            total.sum().to_vec().into(),
        ];
        update_kept(client, FOLDED, &args)?;
        // A cut reads what is not folded yet. While more is waiting that would be the whole backlog for each block, so
        // the batch that ends a backlog cuts what all before it made too large.
        if has_large && !is_cut && cut_large(client)? {
            client.update("UPDATE tandem.fold_state SET has_large = false", None, &[])?;
        }
        merge_small(client, &changed)?;
        Ok(count)
    })
}

fn store_total(client: &mut SpiClient<'_>, total: Fingerprint) -> Outcome<()> {
    client.update(
        "UPDATE tandem.fold_state SET count = $1, sum = $2",
        None,
        &[(total.count() as i64).into(), total.sum().to_vec().into()],
    )?;
    Ok(())
}

/// Adds all blocks up anew, after some were mended. Returns their sum.
fn add_up(client: &mut SpiClient<'_>) -> Outcome<Fingerprint> {
    let mut total = Fingerprint::EMPTY;
    for row in client.select("SELECT k.count, k.sum FROM tandem.blocks k", None, &[])? {
        total += block(None, row.get(1)?, row.get(2)?)?.fingerprint;
    }
    store_total(client, total)?;
    Ok(total)
}

/// Cuts blocks that are too large, some pages of them. Returns whether none is left.
fn cut_large(client: &mut SpiClient<'_>) -> Outcome<bool> {
    for _ in 0..PAGES_MAX {
        pg_sys::check_for_interrupts!();
        let rows = client.select(
            "SELECT k.first, k.count, k.sum FROM tandem.blocks k WHERE k.count > $1 ORDER BY k.first LIMIT 1",
            None,
            &[(BLOCK_IDS_MAX as i64).into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(true) };
        let block = block(row.get(1)?, row.get(2)?, row.get(3)?)?;
        cut_block(client, &block)?;
    }
    Ok(false)
}

/// The blocks that sorted changes fall into.
fn touched_blocks(client: &SpiClient<'_>, changes: &[Delta]) -> Outcome<Vec<Block>> {
    // Looking a block up for each id is cheap for a small batch; a large one touches most blocks between its ends.
    const LOOKUP_ROWS_MAX: usize = 2000;
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return Ok(Vec::new()) };
    let rows = if changes.len() <= LOOKUP_ROWS_MAX {
        let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
        select_kept(
            client,
            "SELECT DISTINCT ON (b.first) b.first, b.count, b.sum FROM unnest($1::text[]) AS c (id) \
             CROSS JOIN LATERAL (SELECT * FROM tandem.blocks k WHERE k.first <= c.id ORDER BY k.first DESC LIMIT 1) b \
             ORDER BY b.first",
            &[ids.into()],
        )?
    } else {
        select_kept(
            client,
            "SELECT k.first, k.count, k.sum FROM tandem.blocks k \
             WHERE k.first >= (SELECT max(f.first) FROM tandem.blocks f WHERE f.first <= $1) AND k.first <= $2 \
             ORDER BY k.first",
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
    update_kept(
        client,
        "INSERT INTO tandem.blocks AS b SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) \
         ON CONFLICT (first) DO UPDATE SET count = excluded.count, sum = excluded.sum",
        &[firsts.into(), counts.into(), sums.into()],
    )?;
    Ok(())
}

/// Items of a range of whole blocks, and what of it is not folded: read in one statement, as only within one snapshot
/// they and the blocks add up. A page ends before the item after its last one, or where the range does.
const PAGE: &str = "WITH page AS MATERIALIZED ( \
        SELECT i.id, tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash) AS digest \
        FROM tandem.items i WHERE NOT i.local AND i.id >= $1 AND i.id < $2 ORDER BY i.id LIMIT $3 + 1), \
    edge AS MATERIALIZED (SELECT CASE WHEN count(*) > $3 THEN max(p.id) ELSE $2 END AS past FROM page p) \
    SELECT 0, e.past, NULL::smallint, NULL::bytea, NULL::bytea, NULL::bigint FROM edge e \
    UNION ALL SELECT 1, k.first, NULL, k.sum, NULL, k.count FROM tandem.blocks k, edge e \
        WHERE k.first >= $1 AND k.first < e.past \
    UNION ALL SELECT 2, p.id, NULL, NULL, p.digest, NULL FROM page p, edge e WHERE p.id < e.past \
    UNION ALL SELECT 3, c.id, c.count, c.sum, NULL, NULL \
        FROM tandem.fold_state f CROSS JOIN LATERAL tandem.changes_after(f.position) c, edge e \
        WHERE c.id >= $1 AND c.id < e.past";

#[derive(Default)]
struct Page {
    /// Where it ends.
    past: String,
    /// The blocks that begin in it.
    blocks: Vec<Block>,
    /// Its items.
    entries: Vec<(String, Digest)>,
    /// What of it is not folded.
    unfolded: Vec<Delta>,
}

fn page(client: &SpiClient<'_>, first: &str, past: &str) -> Outcome<Page> {
    let mut page = Page::default();
    for row in select_kept(client, PAGE, &[first.into(), past.into(), PAGE_ITEMS.into()])? {
        let id = row.get::<String>(2)?;
        match row.get::<i32>(1)? {
            Some(0) => page.past = id.unwrap_or_default(),
            Some(1) => page.blocks.push(block(id, row.get(6)?, row.get(4)?)?),
            Some(2) => {
                let digest = Digest::from_slice(row.get::<&[u8]>(5)?.unwrap_or_default())?;
                page.entries.push((id.unwrap_or_default(), digest));
            }
            _ => page.unfolded.push(delta(id, row.get(3)?, row.get(4)?)?),
        }
    }
    page.entries.sort();
    page.blocks.sort_by(|a, b| a.first.cmp(&b.first));
    Ok(page)
}

/// The end of a block: the first id of the next one.
fn end_of(client: &SpiClient<'_>, first: &str) -> Outcome<String> {
    let rows = client.select(
        "SELECT min(k.first) FROM tandem.blocks k WHERE k.first > $1",
        None,
        &[first.into()],
    )?;
    Ok(rows.first().get_one::<String>()?.unwrap_or_else(past_every_id))
}

/// Cuts a block, or a page of it from its front.
fn cut_block(client: &mut SpiClient<'_>, block: &Block) -> Outcome<()> {
    let past = end_of(client, &block.first)?;
    let page = page(client, &block.first, &past)?;
    if page.past < past {
        return store_blocks(client, &cut_front(block, &page.entries, &page.unfolded, &page.past));
    }
    let (pieces, adds_up) = cut(block, &page.entries, &page.unfolded);
    store_blocks(client, &pieces)?;
    if adds_up { Ok(()) } else { note_mended(client, &block.first, 1) }
}

fn note_mended(client: &mut SpiClient<'_>, first: &str, count: i64) -> Outcome<()> {
    pgrx::warning!(
        "tandem: {count} blocks of fingerprints did not add up to their items, from {first:?} on; they are mended"
    );
    client.update(
        "UPDATE tandem.fold_state SET mended = mended + $1, mended_at = clock_timestamp(), mended_block = $2",
        None,
        &[count.into(), first.into()],
    )?;
    add_up(client).map(drop)
}

/// A block that is not the sum of its items less what is not folded.
pub struct Wrong {
    /// Its first id.
    pub first: String,
    /// What it says.
    pub stored: Fingerprint,
    /// What it should say.
    pub right: Fingerprint,
    /// Whether it has more items than a page, so that it was not counted in one snapshot.
    pub is_of_pages: bool,
}

/// Counts the blocks that a range touches again, page by page, each in a snapshot of its own. Hands out those that are
/// wrong.
fn recount(
    client: &mut SpiClient<'_>,
    range: &Range,
    mut wrong: impl FnMut(&mut SpiClient<'_>, Wrong) -> Outcome<()>,
) -> Outcome<()> {
    let rows = client.select(
        "SELECT max(k.first) FROM tandem.blocks k WHERE k.first <= $1",
        None,
        &[range.start.as_str().into()],
    )?;
    let mut first = rows.first().get_one::<String>()?.unwrap_or_default();
    let end = range.end.clone().unwrap_or_else(past_every_id);
    let rows = client.select(
        "SELECT min(k.first) FROM tandem.blocks k WHERE k.first >= $1",
        None,
        &[end.as_str().into()],
    )?;
    let end = rows.first().get_one::<String>()?.unwrap_or_else(past_every_id);
    let mut carried = Fingerprint::EMPTY;
    let mut under: Option<Block> = None;
    while first < end {
        pg_sys::check_for_interrupts!();
        let Page { past, blocks, entries, unfolded } = page(client, &first, &end)?;
        // A block may have more items than a page: then it goes on in the next one.
        let mut is_of_pages = under.is_some();
        let mut starts: Vec<Block> = under.take().into_iter().collect();
        starts.extend(blocks);
        let place = |id: &str| starts.partition_point(|block| block.first.as_str() <= id).saturating_sub(1);
        let mut sums = vec![Fingerprint::EMPTY; starts.len()];
        for (id, digest) in &entries {
            if let Some(sum) = sums.get_mut(place(id)) {
                *sum += Fingerprint::of(digest);
            }
        }
        for change in &unfolded {
            if let Some(sum) = sums.get_mut(place(&change.id)) {
                *sum -= change.change;
            }
        }
        if let Some(sum) = sums.first_mut() {
            *sum += carried;
        }
        let is_last = past == end;
        if !is_last && let Some(sum) = sums.pop() {
            (carried, under) = (sum, starts.pop());
        }
        for (block, right) in starts.into_iter().zip(sums) {
            if block.fingerprint != right {
                let (first, stored) = (block.first, block.fingerprint);
                wrong(client, Wrong { first, stored, right, is_of_pages })?;
            }
            is_of_pages = false;
        }
        first = past;
    }
    Ok(())
}

/// The blocks that are wrong, at most `max`, and how many. One that is still to be cut is not judged.
pub fn wrong_blocks(max: usize) -> Outcome<(Vec<Wrong>, usize)> {
    let (mut found, mut count) = (Vec::new(), 0);
    planning::by_index(|| {
        Spi::connect_mut(|client| {
            recount(client, &Range::all(), |_, wrong| {
                if wrong.is_of_pages {
                    return Ok(());
                }
                count += 1;
                if found.len() < max {
                    found.push(wrong);
                }
                Ok(())
            })
        })
    })?;
    Ok((found, count))
}

/// Counts the blocks that a range touches again and mends those that are wrong. Returns how many; `None` where another
/// session folds at this moment and `wait` says not to wait for it.
pub fn mend(range: &Range, wait: bool) -> Outcome<Option<u64>> {
    super::flush()?;
    planning::as_owner(|| {
        Spi::connect_mut(|client| {
            let Some(State { total, .. }) = lock_state(client, wait)? else { return Ok(None) };
            let (mut count, mut first) = (0, None);
            recount(client, range, |client, wrong| {
                count += 1;
                first.get_or_insert_with(|| wrong.first.clone());
                store_blocks(client, &[Block { first: wrong.first, fingerprint: wrong.right }])
            })?;
            // Every block is right here, and so is their sum.
            if first.is_none() && *range == Range::all() && add_up(client)? != total {
                (count, first) = (1, Some(String::new()));
            }
            if let Some(first) = first {
                note_mended(client, &first, count)?;
            }
            Ok(Some(count as u64))
        })
    })
}

/// Adds small blocks to the one before them.
fn merge_small(client: &mut SpiClient<'_>, changed: &[Block]) -> Outcome<()> {
    for touched in changed.iter().filter(|block| block.fingerprint.count() < BLOCK_IDS_MIN) {
        let rows = select_kept(
            client,
            "(SELECT first, count, sum FROM tandem.blocks WHERE first < $1 ORDER BY first DESC LIMIT 1) \
             UNION ALL SELECT first, count, sum FROM tandem.blocks WHERE first = $1 AND first <> ''",
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
            update_kept(
                client,
                "DELETE FROM tandem.blocks WHERE first = $1",
                &[small.first.as_str().into()],
            )?;
            store_blocks(client, &[Block { first: before.first.clone(), fingerprint: sum }])?;
        }
    }
    Ok(())
}

/// Counts the blocks below a prefix again and mends those that do not add up to their items; how many those were.
/// Nobody waits for it but folds. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn mend_blocks(prefix: default!(Option<&str>, "''")) -> i64 {
    store::refuse_read_only(c"tandem.mend_blocks()");
    answer((|| {
        let range = Range::of_prefix(prefix.unwrap_or_default())?;
        Ok(mend(&range, true)?.unwrap_or(0) as i64)
    })())
}

/// Items fetched at a time for new blocks.
const REBUILT_ITEMS: std::ffi::c_long = 10_000;

const ALL: &str = "SELECT i.id, tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), \
        pg_catalog.pg_current_snapshot()::text FROM tandem.items i WHERE NOT i.local ORDER BY i.id";

/// Makes the blocks anew from the items, as after a change of the digest secret. Nobody waits for it but folds.
#[pg_extern(volatile, parallel_unsafe)]
fn rebuild_blocks() -> i64 {
    store::refuse_read_only(c"tandem.rebuild_blocks()");
    answer(rebuild())
}

fn rebuild() -> Outcome<i64> {
    if snapshot::is_of_one_moment() {
        let (what, problem) = ("tandem.rebuild_blocks()", "needs to see what is committed while it waits");
        return Err(tandem_shared::Error::invalid(what, problem, "run it at READ COMMITTED").into());
    }
    super::flush()?;
    if super::has_written() {
        let (what, problem) = ("tandem.rebuild_blocks()", "cannot follow writes of items in one transaction");
        return Err(tandem_shared::Error::invalid(what, problem, "commit first").into());
    }
    planning::as_owner(|| {
        Spi::connect_mut(|client| {
            lock_state(client, true)?;
            let (mut blocks, mut seen, mut count) =
                (vec![Block { first: String::new(), fingerprint: Fingerprint::EMPTY }], None, 0);
            snapshot::of_items(|| {
                let mut cursor = client.open_cursor(ALL, &[]);
                loop {
                    let rows = cursor.fetch(REBUILT_ITEMS)?;
                    if rows.is_empty() {
                        return Ok(());
                    }
                    for row in rows {
                        count += 1;
                        seen = row.get::<String>(3)?;
                        let digest = Digest::from_slice(row.get::<&[u8]>(2)?.unwrap_or_default())?;
                        add(&mut blocks, row.get::<String>(1)?.unwrap_or_default(), &digest);
                    }
                }
            })?;
            // SAFETY: inside a transaction that holds the row of the fold, and so has a number.
            let own = unsafe { pg_sys::GetTopFullTransactionId().value };
            let position = match seen {
                Some(seen) => Position::of(&Snapshot::parse(&seen)?.with_running(own)),
                None => super::end()?,
            };
            client.update("DELETE FROM tandem.blocks", None, &[])?;
            client.update("DELETE FROM tandem.doubts", None, &[])?;
            for page in blocks.chunks(10_000) {
                store_blocks(client, page)?;
            }
            store_total(client, blocks.iter().map(|block| block.fingerprint).sum())?;
            client.update(
                "UPDATE tandem.fold_state SET position = $1, key_check = $2",
                None,
                &[position.to_string().into(), settings::digest_key().check().to_vec().into()],
            )?;
            Ok(count)
        })
    })
}

/// Adds an item to the last of some blocks, or begins the next one.
fn add(blocks: &mut Vec<Block>, id: String, digest: &Digest) {
    let is_full = blocks.last().is_none_or(|block| block.fingerprint.count() >= BLOCK_IDS_CUT);
    if is_full {
        blocks.push(Block { first: id, fingerprint: Fingerprint::EMPTY });
    }
    if let Some(block) = blocks.last_mut() {
        block.fingerprint += Fingerprint::of(digest);
    }
}
