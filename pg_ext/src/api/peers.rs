//! What a check asks of this Postgres when another one runs it: the functions `tandem.peer_…`, with their caller's
//! rights.

use super::arguments::given;
use super::reconcile::Within;
use crate::error::{Outcome, answer};
use crate::replica::Items;
use crate::store;
use crate::store::Page;
use crate::worker::{fetch_binding, join_here, key_check, read, waiting_here};
use pgrx::prelude::*;
use tandem_shared::codec::encode;
use tandem_shared::id::{Range, check_id};
use tandem_shared::limits::PAGE_ITEMS_MAX;
use tandem_shared::reconcile::Replica;
use tandem_shared::{Error, Fingerprint};

/// On whose behalf another Postgres joins here. No link has such a name, so every link is told.
const ORIGIN: &str = "peer://";

/// Whether digests are made here with the secret that has this check value (hex).
#[pg_extern(volatile, parallel_unsafe)]
fn peer_has_key(check: Option<&str>) -> bool {
    answer((|| Ok(given("check", check)? == key_check()))())
}

fn ranges(starts: Option<Vec<Option<String>>>, ends: Option<Vec<Option<String>>>) -> Outcome<Vec<Range>> {
    let (starts, ends) = (given("starts", starts)?, given("ends", ends)?);
    if starts.len() != ends.len() || starts.len() > PAGE_ITEMS_MAX {
        return Err(Error::invalid(
            format!("{} starts and {} ends", starts.len(), ends.len()),
            "are no ranges",
            format!("give as many of the one as of the other, at most {PAGE_ITEMS_MAX}"),
        )
        .into());
    }
    let starts = starts.into_iter().map(Option::unwrap_or_default);
    Ok(starts.zip(ends).map(|(start, end)| Range::new(start, end)).collect())
}

fn number(name: &str, value: Option<i64>, max: usize) -> Outcome<usize> {
    let value = given(name, value)?;
    usize::try_from(value).ok().filter(|value| (1..=max).contains(value)).ok_or_else(|| {
        Error::invalid(format!("{name} {value}"), "is out of range", format!("give 1 to {max}")).into()
    })
}

/// The place of a range among those asked for, as SQL counts.
fn placed<T>(answers: Vec<T>) -> impl Iterator<Item = (i64, T)> {
    (1_i64..).zip(answers)
}

fn parts_of(sum: &Fingerprint) -> (i64, Vec<u8>) {
    (sum.count() as i64, sum.sum().to_vec())
}

/// Count and sum of each range; an end that is NULL means no end. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn peer_fingerprints(
    starts: Option<Vec<Option<String>>>,
    ends: Option<Vec<Option<String>>>,
) -> TableIterator<'static, (name!(place, i64), name!(count, i64), name!(sum, Vec<u8>))> {
    let sums = answer(ranges(starts, ends).and_then(|ranges| Items.fingerprints(&ranges)));
    TableIterator::new(placed(sums).map(|(place, sum)| {
        let (count, sum) = parts_of(&sum);
        (place, count, sum)
    }))
}

/// Each range cut into at most `parts` pieces. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn peer_splits(
    parts: Option<i64>,
    starts: Option<Vec<Option<String>>>,
    ends: Option<Vec<Option<String>>>,
) -> TableIterator<
    'static,
    (
        name!(place, i64),
        name!(start, String),
        name!(past, Option<String>),
        name!(count, i64),
        name!(sum, Vec<u8>),
    ),
> {
    const PARTS_MAX: usize = 1024;
    let cut = answer((|| Items.splits(&ranges(starts, ends)?, number("parts", parts, PARTS_MAX)?))());
    TableIterator::new(placed(cut).flat_map(|(place, parts)| {
        parts.into_iter().map(move |part| {
            let (count, sum) = parts_of(&part.fingerprint);
            (place, part.range.start, part.range.end, count, sum)
        })
    }))
}

/// The first `lim` items of each range. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn peer_lists(
    lim: Option<i64>,
    starts: Option<Vec<Option<String>>>,
    ends: Option<Vec<Option<String>>>,
) -> TableIterator<'static, (name!(place, i64), name!(id, String), name!(version, i64), name!(digest, Vec<u8>))>
{
    let lists = answer((|| Items.lists(&ranges(starts, ends)?, number("lim", lim, PAGE_ITEMS_MAX)?))());
    TableIterator::new(placed(lists).flat_map(|(place, entries)| {
        entries.into_iter().map(move |entry| (place, entry.id, entry.version as i64, entry.digest.0.to_vec()))
    }))
}

fn ids(ids: Option<Vec<Option<String>>>) -> Outcome<Vec<String>> {
    let ids: Vec<String> = given("ids", ids)?.into_iter().map(Option::unwrap_or_default).collect();
    if ids.len() > PAGE_ITEMS_MAX {
        return Err(Error::invalid(
            format!("{} ids", ids.len()),
            "are too many",
            format!("give {PAGE_ITEMS_MAX} at most"),
        )
        .into());
    }
    ids.iter().try_for_each(|id| check_id(id))?;
    Ok(ids)
}

/// The current revisions of ids, encoded, without tombstones that may be dropped any moment; NULL of those that no
/// longer fit the answer, and of those that cannot be read, with the reason. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn peer_fetch(
    ids: Option<Vec<Option<String>>>,
) -> TableIterator<
    'static,
    (name!(id, String), name!(revision, Option<Vec<u8>>), name!(unreadable, Option<String>)),
> {
    let read = self::ids(ids).and_then(|ids| {
        read(&Within, &ids, fetch_binding).map_err(|broken| Error::corrupt("items", broken.0).into())
    });
    let Page { found, later, unreadable } = answer(read);
    let found = found.into_iter().map(|(id, revision)| (id, Some(encode(&revision)), None));
    let unreadable = unreadable.into_iter().map(|(id, reason)| (id, None, Some(reason)));
    TableIterator::new(found.chain(unreadable).chain(later.into_iter().map(|id| (id, None, None))))
}

/// Joins encoded revisions: `applied`, `unchanged` or `stale` of each in order, or why it is refused. Errors:
/// `INVALID`, `CORRUPT`.
#[pg_extern(volatile, parallel_unsafe)]
fn peer_join(
    ids: Option<Vec<Option<String>>>,
    revisions: Option<Array<'_, &[u8]>>,
) -> TableIterator<'static, (name!(outcome, Option<String>), name!(refused, Option<String>))> {
    let outcome = (|| {
        let (ids, revisions) = (self::ids(ids)?, given("revisions", revisions)?);
        if ids.len() != revisions.len() {
            return Err(Error::invalid(
                format!("{} ids and {} revisions", ids.len(), revisions.len()),
                "do not belong together",
                "give one revision an id",
            )
            .into());
        }
        let revisions = ids.iter().zip(revisions.iter()).enumerate().map(|(place, (id, revision))| {
            let revision = store::decode(revision.unwrap_or_default());
            Ok((id.as_str(), revision.map_err(|error| error.at_item(place, id))?))
        });
        let revisions = revisions.collect::<tandem_shared::Result<Vec<_>>>()?;
        join_here(&Within, ORIGIN, &revisions).map_err(|broken| Error::corrupt("join", broken.0).into())
    })();
    TableIterator::new(answer(outcome).into_iter().map(|answer| match answer {
        Ok(joined) => (Some(joined.as_str().to_owned()), None),
        Err(refusal) => (None, Some(refusal.reason)),
    }))
}

/// Those of the ids that the log still holds for a link. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn peer_waiting(ids: Option<Vec<Option<String>>>) -> SetOfIterator<'static, String> {
    let waiting = answer((|| {
        let ids = self::ids(ids)?;
        waiting_here(None, &ids.iter().map(String::as_str).collect::<Vec<_>>())
    })());
    SetOfIterator::new(waiting)
}
