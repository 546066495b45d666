//! dirty, dirty_count, dirty_prefixes, clean_branches, is_clean: ids whose last change is not in the blocks yet.

use super::arguments::given;
use super::merkle::{Ids, Node, node};
use crate::error::{Failure, Outcome, answer};
use crate::log;
use crate::planning::{self, select_kept};
use crate::rows::end_or_last;
use crate::snapshot;
use pgrx::prelude::*;
use std::collections::BTreeSet;
use tandem_shared::paths::{OrderedIds, children, clean_children};
use tandem_shared::request::page_limit;
use tandem_shared::{Fingerprint, Path, Range};

/// Dirty ids as they stood in one snapshot.
struct Dirty(BTreeSet<String>);

impl OrderedIds for Dirty {
    type Error = Failure;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Outcome<Option<String>> {
        let Ok(first) = self.0.first_at_or_after(start, end);
        Ok(first)
    }

    fn contains(&mut self, id: &str) -> Outcome<bool> {
        Ok(self.0.contains(id))
    }
}

/// All of the log that is not folded; what changed no digest changed nothing.
const DIRTY: &str = "SELECT DISTINCT c.id FROM unnest($1::text[], $2::text[]) AS r (start, past) \
    CROSS JOIN tandem.fold_state f CROSS JOIN LATERAL tandem.changes_after(f.position) c \
    WHERE c.id >= r.start AND c.id < r.past AND (c.count <> 0 OR c.sum <> $3)";

fn dirty_in(ranges: Vec<Range>) -> Outcome<Dirty> {
    let (starts, ends): (Vec<String>, Vec<String>) =
        ranges.into_iter().map(|range| (range.start, end_or_last(range.end))).unzip();
    log::flush()?;
    let read = || {
        Spi::connect(|client| {
            let mut ids = BTreeSet::new();
            let nothing = Fingerprint::EMPTY.sum().to_vec();
            for row in select_kept(client, DIRTY, &[starts.into(), ends.into(), nothing.into()])? {
                ids.extend(row.get::<String>(1)?);
            }
            Ok(Dirty(ids))
        })
    };
    snapshot::leaving_no_lock(|| planning::by_index(read))
}

/// The dirty ids below a prefix, in byte order. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn dirty(
    prefix: default!(Option<&str>, "''"),
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> SetOfIterator<'static, String> {
    let outcome = (|| -> Outcome<Vec<String>> {
        let range = Range::of_prefix(given("prefix", prefix)?)?;
        let limit = page_limit(lim)?;
        let range = after.map_or(range.clone(), |after| range.after(after));
        Ok(dirty_in(vec![range])?.0.into_iter().take(limit).collect())
    })();
    SetOfIterator::new(answer(outcome))
}

/// The number of dirty ids below a prefix. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn dirty_count(prefix: default!(Option<&str>, "''")) -> i64 {
    answer((|| {
        let range = Range::of_prefix(given("prefix", prefix)?)?;
        Ok(dirty_in(vec![range])?.0.len() as i64)
    })())
}

/// The children of a path that hold dirty ids, and how many. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn dirty_prefixes(
    path: default!(Option<&str>, "''"),
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(path, String), name!(count, i64))> {
    let outcome = (|| -> Outcome<Vec<(String, i64)>> {
        let path = Path::new(given("path", path)?)?;
        let after = after.map(Path::new).transpose()?;
        let limit = page_limit(lim)?;
        let mut dirty = dirty_in(vec![path.below()])?;
        let found = children(&mut dirty, &path, after.as_ref(), limit)?;
        let count = |child: &Path| {
            let within = |range: Range| dirty.0.range(range.start..end_or_last(range.end)).count();
            child.ranges().into_iter().map(within).sum::<usize>() as i64
        };
        Ok(found.iter().map(|child| (child.as_str().to_owned(), count(child))).collect())
    })();
    TableIterator::new(answer(outcome))
}

/// The children of a path that hold no dirty id, with hash and number of items. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn clean_branches(
    path: default!(Option<&str>, "''"),
    after: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(path, String), name!(hash, Option<String>), name!(count, i64))> {
    let outcome = (|| -> Outcome<Vec<Node>> {
        let path = Path::new(given("path", path)?)?;
        let after = after.map(Path::new).transpose()?;
        let limit = page_limit(lim)?;
        let mut dirty = dirty_in(vec![path.below()])?;
        clean_children(&mut Ids, &mut dirty, &path, after.as_ref(), limit)?.iter().map(node).collect()
    })();
    TableIterator::new(answer(outcome))
}

/// Whether nothing in a subtree is dirty. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn is_clean(path: default!(Option<&str>, "''")) -> bool {
    answer((|| {
        let path = Path::new(given("path", path)?)?;
        Ok(dirty_in(path.ranges())?.0.is_empty())
    })())
}
