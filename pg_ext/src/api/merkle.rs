//! merkle_root, merkle_hash, merkle_children, verify.

use crate::error::{Failure, Outcome, answer};
use crate::fold;
use crate::replica::fingerprint;
use crate::settings;
use pgrx::prelude::*;
use tandem_shared::paths::{OrderedIds, children};
use tandem_shared::request::page_limit;
use tandem_shared::{Content, Digest, Error, Fingerprint, Path, Range};

struct Ids;

impl OrderedIds for Ids {
    type Error = Failure;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Outcome<Option<String>> {
        Ok(Spi::get_one_with_args(
            "SELECT min(i.id) FROM tandem.items i WHERE i.id >= $1 AND ($2::text IS NULL OR i.id < $2)",
            &[start.into(), end.into()],
        )?)
    }

    fn contains(&mut self, id: &str) -> Outcome<bool> {
        let found = Spi::get_one_with_args(
            "SELECT EXISTS (SELECT FROM tandem.items i WHERE i.id = $1)",
            &[id.into()],
        )?;
        Ok(found == Some(true))
    }
}

fn subtree(path: &Path) -> Outcome<Fingerprint> {
    path.ranges().iter().map(fingerprint).sum::<Outcome<Fingerprint>>()
}

/// The hash of all items, NULL without any.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_root() -> Option<String> {
    fold::before_reading();
    answer(fingerprint(&Range::all())).node_hash()
}

/// The hash of a path and everything below it, NULL without any item. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_hash(path: &str) -> Option<String> {
    fold::before_reading();
    answer((|| subtree(&Path::new(path)?))()).node_hash()
}

/// The children of a path with hash and number of items. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_children(
    path: &str,
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(path, String), name!(hash, Option<String>), name!(count, i64))> {
    fold::before_reading();
    let outcome = (|| -> Outcome<Vec<(String, Option<String>, i64)>> {
        let path = Path::new(path)?;
        let after = after.map(Path::new).transpose()?;
        let mut rows = Vec::new();
        for child in children(&mut Ids, &path, after.as_ref(), page_limit(lim)?)? {
            let sum = subtree(&child)?;
            rows.push((child.as_str().to_owned(), sum.node_hash(), sum.count() as i64));
        }
        Ok(rows)
    })();
    TableIterator::new(answer(outcome))
}

/// Most problems that a check lists.
const PROBLEMS_MAX: usize = 100;

/// Recounts every block against the items and hashes every payload again.
#[pg_extern(volatile, parallel_unsafe)]
fn verify() -> TableIterator<'static, (name!(ok, bool), name!(items, i64), name!(problems, Vec<String>))> {
    let outcome = (|| -> Outcome<(bool, i64, Vec<String>)> {
        let (items, mut problems) = recount()?;
        problems.truncate(PROBLEMS_MAX);
        Ok((problems.is_empty(), items, problems))
    })();
    TableIterator::once(answer(outcome))
}

fn recount() -> Outcome<(i64, Vec<String>)> {
    let mut problems = Vec::new();
    let mut blocks: Vec<(String, Fingerprint)> = Vec::new();
    let mut items = 0;
    let mut key_check = None;
    Spi::connect(|client| -> Outcome<()> {
        // One statement, one snapshot: blocks first, then what must add up to them.
        let rows = client.select(
            "SELECT 0 AS kind, k.first AS id, k.count, k.sum, NULL::bytea, NULL::text, NULL::bytea, s.key_check \
             FROM tandem.blocks k, tandem.log_state s \
             UNION ALL SELECT 1, i.id, 0, tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, i.payload_hash), \
                 i.payload_hash, i.payload::text, i.payload_blob, NULL FROM tandem.items i \
             UNION ALL SELECT 2, c.id, 0, c.old_digest, c.new_digest, NULL, NULL, NULL \
             FROM tandem.changes c WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s) \
             ORDER BY kind, id",
            None,
            &[],
        )?;
        for row in rows {
            let id = row.get::<String>(2)?.unwrap_or_default();
            let kind = row.get::<i32>(1)?.unwrap_or(0);
            if kind == 0 {
                key_check = row.get::<Vec<u8>>(8)?;
                let count = row.get::<i64>(3)?.unwrap_or(0) as u64;
                blocks.push((id, Fingerprint::from_parts(count, row.get::<&[u8]>(4)?.unwrap_or_default())?));
                continue;
            }
            let delta = if kind == 1 {
                items += 1;
                if let Some(problem) = check_payload(&id, row.get(5)?, row.get(6)?, row.get(7)?) {
                    problems.push(problem);
                }
                Fingerprint::of(&Digest::from_slice(row.get::<&[u8]>(4)?.unwrap_or_default())?)
            } else {
                let change = fold::change(None, row.get(4)?, row.get(5)?)?;
                Fingerprint::EMPTY - change.delta().fingerprint()
            };
            let at = blocks.partition_point(|(first, _)| *first <= id);
            match at.checked_sub(1).and_then(|at| blocks.get_mut(at)) {
                Some((_, sum)) => *sum -= delta,
                None => problems.push(format!("no block holds id {id}")),
            }
        }
        Ok(())
    })?;
    if key_check.is_some_and(|check| check != settings::digest_key().check()) {
        problems.push(
            "the blocks were made with another tandem.digest_secret; run tandem.rebuild_blocks()".into(),
        );
    }
    for (first, rest) in blocks {
        if rest != Fingerprint::EMPTY {
            problems.push(format!("block {first:?} and its items differ by {rest:?}"));
        }
    }
    Ok((items, problems))
}

fn check_payload(id: &str, hash: Option<&[u8]>, json: Option<&str>, blob: Option<&[u8]>) -> Option<String> {
    let content = match (json, blob) {
        (Some(text), _) => Content::json(text.as_bytes(), usize::MAX),
        (None, blob) => Content::binary(blob.unwrap_or_default(), usize::MAX),
    };
    match content {
        Ok(content) if hash == Some(content.payload_hash().0.as_slice()) => None,
        Ok(_) => Some(format!("item {id}: payload_hash is not the hash of its payload")),
        Err(error) => Some(format!("item {id}: {}", Error::to_string(&error))),
    }
}
