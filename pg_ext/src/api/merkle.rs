//! merkle_root, merkle_hash, merkle_node, merkle_children, merkle_leaves, verify.

use super::arguments::given;
use crate::error::{Failure, Outcome, answer};
use crate::fold;
use crate::planning::{self, select_kept};
use crate::replica::{Items, fingerprint};
use crate::rows::end_or_last;
use crate::settings;
use pgrx::prelude::*;
use tandem_shared::paths::{OrderedIds, children};
use tandem_shared::reconcile::Replica;
use tandem_shared::request::page_limit;
use tandem_shared::{Content, Digest, Error, Fingerprint, Path, Range};

/// The ids of shared items, for a walk through the tree that their dots make.
pub struct Ids;

const FIRST: &str = "SELECT i.id FROM tandem.items i WHERE i.id >= $1 AND i.id < $2 AND NOT i.local \
    ORDER BY i.id LIMIT 1";

impl OrderedIds for Ids {
    type Error = Failure;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Outcome<Option<String>> {
        let end = end_or_last(end.map(str::to_owned));
        planning::by_index(|| {
            Spi::connect(|client| {
                let rows = select_kept(client, FIRST, &[start.into(), end.into()])?;
                Ok(rows.into_iter().next().map(|row| row.get::<String>(1)).transpose()?.flatten())
            })
        })
    }

    fn contains(&mut self, id: &str) -> Outcome<bool> {
        const CONTAINS: &str = "SELECT FROM tandem.items i WHERE i.id = $1 AND NOT i.local";
        planning::by_index(|| {
            Spi::connect(|client| Ok(!select_kept(client, CONTAINS, &[id.into()])?.is_empty()))
        })
    }
}

/// The exact fingerprint of a path and everything below it.
pub fn subtree(path: &Path) -> Outcome<Fingerprint> {
    path.ranges().iter().map(fingerprint).sum::<Outcome<Fingerprint>>()
}

fn fold_if(fold: Option<bool>) {
    if fold.unwrap_or(true) {
        fold::before_reading();
    }
}

/// The hash of all items, NULL without any. Without folding it is the same, only dearer.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_root(fold: default!(Option<bool>, "true")) -> Option<String> {
    fold_if(fold);
    answer(fingerprint(&Range::all())).node_hash()
}

/// The hash of a path and everything below it, NULL without any item. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_hash(path: Option<&str>, fold: default!(Option<bool>, "true")) -> Option<String> {
    let path = answer(given("path", path).and_then(Path::new).map_err(Into::into));
    fold_if(fold);
    answer(subtree(&path)).node_hash()
}

const PENDING: &str = "SELECT count(*) FROM tandem.changes c \
    WHERE (c.xid, c.seq) > (SELECT s.folded_xid, s.folded_seq FROM tandem.log_state s) \
      AND c.old_digest IS DISTINCT FROM c.new_digest AND c.id >= $1 AND c.id < $2";

fn pending(range: Range) -> Outcome<i64> {
    planning::by_index(|| {
        Spi::connect(|client| {
            let args = [range.start.into(), end_or_last(range.end).into()];
            Ok(select_kept(client, PENDING, &args)?.first().get_one::<i64>()?.unwrap_or(0))
        })
    })
}

/// A path with its hash, its number of items and the number of changes below it that are not folded yet.
/// Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_node(
    path: Option<&str>,
    fold: default!(Option<bool>, "true"),
) -> TableIterator<
    'static,
    (name!(path, String), name!(hash, Option<String>), name!(count, i64), name!(pending, i64)),
> {
    let outcome = (|| -> Outcome<(String, Option<String>, i64, i64)> {
        let path = Path::new(given("path", path)?)?;
        fold_if(fold);
        let sum = subtree(&path)?;
        let pending = path.ranges().into_iter().map(pending).sum::<Outcome<i64>>()?;
        Ok((path.as_str().to_owned(), sum.node_hash(), sum.count() as i64, pending))
    })();
    TableIterator::once(answer(outcome))
}

/// The children of a path with hash and number of items. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_children(
    path: Option<&str>,
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
    fold: default!(Option<bool>, "true"),
) -> TableIterator<'static, (name!(path, String), name!(hash, Option<String>), name!(count, i64))> {
    let outcome = (|| -> Outcome<Vec<Node>> {
        let path = Path::new(given("path", path)?)?;
        let after = after.map(Path::new).transpose()?;
        let limit = page_limit(lim)?;
        fold_if(fold);
        children(&mut Ids, &path, after.as_ref(), limit)?.iter().map(node).collect()
    })();
    TableIterator::new(answer(outcome))
}

/// A path, its hash and its number of items.
pub type Node = (String, Option<String>, i64);

/// Reads the fingerprint of a path.
pub fn node(path: &Path) -> Outcome<Node> {
    let sum = subtree(path)?;
    Ok((path.as_str().to_owned(), sum.node_hash(), sum.count() as i64))
}

/// The items of a subtree in byte order. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_leaves(
    path: Option<&str>,
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(id, String), name!(etag, String))> {
    let outcome = (|| -> Outcome<Vec<(String, String)>> {
        let path = Path::new(given("path", path)?)?;
        let limit = page_limit(lim)?;
        let mut leaves = Vec::new();
        for range in path.ranges() {
            let range = after.map_or(range.clone(), |after| range.after(after));
            if range.is_empty() || leaves.len() == limit {
                continue;
            }
            for entry in Items.lists(&[range], limit - leaves.len())?.into_iter().flatten() {
                leaves.push((entry.id, entry.digest.to_hex()));
            }
        }
        Ok(leaves)
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
                 i.payload_hash, i.payload::text, i.payload_blob, NULL FROM tandem.items i WHERE NOT i.local \
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
