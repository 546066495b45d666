//! merkle_root, merkle_hash, merkle_node, merkle_children, merkle_leaves, verify.

use super::arguments::given;
use crate::error::{Failure, Outcome, answer};
use crate::log;
use crate::planning::{self, select_kept};
use crate::replica::{Items, fingerprint};
use crate::rows::end_or_last;
use crate::settings;
use crate::snapshot;
use pgrx::prelude::*;
use tandem_shared::paths::{OrderedIds, children};
use tandem_shared::reconcile::Replica;
use tandem_shared::request::page_limit;
use tandem_shared::{Content, ContentType, Error, Fingerprint, Path, Range};

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
    fingerprint(&path.ranges())
}

/// The hash of all items, NULL without any.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_root() -> Option<String> {
    answer(fingerprint(&[Range::all()])).node_hash()
}

/// The hash of a path and everything below it, NULL without any item. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_hash(path: Option<&str>) -> Option<String> {
    let path = answer(given("path", path).and_then(Path::new).map_err(Into::into));
    answer(subtree(&path)).node_hash()
}

const PENDING: &str = "SELECT count(*) FROM tandem.fold_state f CROSS JOIN LATERAL tandem.changes_after(f.position) c \
    WHERE c.id >= $1 AND c.id < $2";

fn pending(range: Range) -> Outcome<i64> {
    let read = || {
        Spi::connect(|client| {
            let args = [range.start.into(), end_or_last(range.end).into()];
            Ok(select_kept(client, PENDING, &args)?.first().get_one::<i64>()?.unwrap_or(0))
        })
    };
    snapshot::leaving_no_lock(|| planning::by_index(read))
}

/// A path with its hash, its number of items and the number of changes below it that are not folded yet.
/// Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn merkle_node(
    path: Option<&str>,
) -> TableIterator<
    'static,
    (name!(path, String), name!(hash, Option<String>), name!(count, i64), name!(pending, i64)),
> {
    let outcome = (|| -> Outcome<(String, Option<String>, i64, i64)> {
        let path = Path::new(given("path", path)?)?;
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
) -> TableIterator<'static, (name!(path, String), name!(hash, Option<String>), name!(count, i64))> {
    let outcome = (|| -> Outcome<Vec<Node>> {
        let path = Path::new(given("path", path)?)?;
        let after = after.map(Path::new).transpose()?;
        let limit = page_limit(lim)?;
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

/// Recounts every block against the items and hashes every payload again; also names what is not captured.
#[pg_extern(volatile, parallel_unsafe)]
fn verify() -> TableIterator<'static, (name!(ok, bool), name!(items, i64), name!(problems, Vec<String>))> {
    let outcome = (|| -> Outcome<(bool, i64, Vec<String>)> {
        log::flush()?;
        let mut problems = uncaptured()?;
        problems.extend(coexisting()?);
        let items = check_payloads(&mut problems)?;
        let (wrong, count) = log::wrong_blocks(PROBLEMS_MAX)?;
        problems.extend(wrong.into_iter().map(|log::Wrong { first, stored, right, .. }| {
            format!(
                "block {first:?} says {stored:?}, its items say {right:?}; tandem.rebuild_blocks() mends it"
            )
        }));
        if count > PROBLEMS_MAX {
            problems.push(format!("{count} blocks do not add up"));
        }
        problems.truncate(PROBLEMS_MAX);
        Ok((problems.is_empty(), items, problems))
    })();
    TableIterator::once(answer(outcome))
}

const UNCAPTURED: &str = "SELECT format('table %s: trigger %s is not enabled always, so rows may have been written without \
        tandem; ALTER TABLE … ENABLE ALWAYS TRIGGER and then tandem.rebuild_blocks() mend it', p.relid::regclass, t.name) \
    FROM pg_catalog.pg_partition_tree('tandem.items') p \
    CROSS JOIN (VALUES ('zz_tandem_row'), ('_tandem_capture'), ('_tandem_truncate')) t (name) \
    WHERE (p.isleaf OR t.name <> '_tandem_truncate') AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g \
        WHERE g.tgrelid = p.relid AND g.tgname = t.name AND g.tgenabled = 'A') \
    UNION ALL SELECT 'the secret in tandem.digest_secret_file is not the one that the blocks were made with; run tandem.rebuild_blocks()' \
        FROM tandem.fold_state f WHERE f.key_check <> $1 \
    UNION ALL SELECT 'the sum of all blocks counts ' || f.count || ' items, the blocks count ' || k.count \
            || '; tandem.rebuild_blocks() mends it' \
        FROM tandem.fold_state f, (SELECT coalesce(sum(b.count), 0) AS count FROM tandem.blocks b) k WHERE f.count <> k.count \
    UNION ALL SELECT tandem.doubtful()";

/// Tables whose triggers do not all fire, and blocks of another secret.
fn uncaptured() -> Outcome<Vec<String>> {
    texts(UNCAPTURED, settings::digest_key().check().to_vec().into())
}

const COEXISTING: &str = "SELECT format('item %s has a tombstone as well', i.id) FROM tandem.tombstones t \
    JOIN tandem.items i ON i.id = t.id WHERE NOT i.local LIMIT $1";

/// Ids that have a row and a tombstone.
fn coexisting() -> Outcome<Vec<String>> {
    texts(COEXISTING, (PROBLEMS_MAX as i64).into())
}

fn texts(statement: &'static str, argument: pgrx::datum::DatumWithOid<'_>) -> Outcome<Vec<String>> {
    planning::by_index(|| {
        Spi::connect(|client| {
            let mut found = Vec::new();
            for row in client.select(statement, None, &[argument])? {
                found.extend(row.get::<String>(1)?);
            }
            Ok(found)
        })
    })
}

/// Items whose content is read at a time.
const PAYLOADS: i64 = 500;

const PAYLOAD: &str = "SELECT i.id, i.payload_hash, i.payload::text, i.payload_blob, i.local FROM tandem.items i \
    WHERE i.id > $1 ORDER BY i.id LIMIT $2";

/// Hashes every payload. Returns the number of shared items.
fn check_payloads(problems: &mut Vec<String>) -> Outcome<i64> {
    let (mut after, mut items) = (String::new(), 0);
    loop {
        pg_sys::check_for_interrupts!();
        let page = |after: &str| -> Outcome<Option<(String, i64, Vec<String>)>> {
            Spi::connect(|client| {
                let (mut last, mut shared, mut found) = (None, 0, Vec::new());
                for row in select_kept(client, PAYLOAD, &[after.into(), PAYLOADS.into()])? {
                    let id = row.get::<String>(1)?.unwrap_or_default();
                    shared += i64::from(row.get::<bool>(5)? == Some(false));
                    found.extend(check_payload(&id, row.get(2)?, row.get(3)?, row.get(4)?));
                    last = Some(id);
                }
                Ok(last.map(|last| (last, shared, found)))
            })
        };
        let Some((last, shared, found)) = planning::by_index(|| page(&after))? else { return Ok(items) };
        (after, items) = (last, items + shared);
        problems.extend(found);
        problems.truncate(PROBLEMS_MAX);
    }
}

fn check_payload(id: &str, hash: Option<&[u8]>, json: Option<&str>, blob: Option<&[u8]>) -> Option<String> {
    let content = match (json, blob) {
        (Some(text), _) => Content::stored(ContentType::Json, text.as_bytes()),
        (None, blob) => Content::stored(ContentType::Binary, blob.unwrap_or_default()),
    };
    match content {
        Ok(content) if hash == Some(content.payload_hash().0.as_slice()) => None,
        Ok(_) => Some(format!("item {id}: payload_hash is not the hash of its payload")),
        Err(error) => Some(format!("item {id}: {}", Error::to_string(&error))),
    }
}
