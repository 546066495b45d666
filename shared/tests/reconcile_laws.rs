//! The search finds exactly the symmetric difference, with work that follows the difference.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use tandem_shared::id::Range;
use tandem_shared::index::{Index, Part};
use tandem_shared::reconcile::{Entry, Model, Options, Replica, Search, SearchError, Union};
use tandem_shared::{Digest, Fingerprint, PayloadHash};

fn digest(number: u64) -> Digest {
    Digest(PayloadHash::of(&number.to_le_bytes()).0)
}

/// As in tandem, a digest covers the id: equal values under different ids must not look equal.
fn model(items: &BTreeMap<String, u64>) -> Model {
    let digest = |id: &str, value: u64| Digest(PayloadHash::of(format!("{value} {id}").as_bytes()).0);
    Model { items: items.iter().map(|(id, value)| (id.clone(), (*value, digest(id, *value)))).collect() }
}

fn differing(left: &Model, right: &Model) -> Vec<String> {
    let mut ids: Vec<String> = left
        .items
        .keys()
        .chain(right.items.keys())
        .filter(|id| left.items.get(*id).map(|item| item.1) != right.items.get(*id).map(|item| item.1))
        .cloned()
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

fn found(left: &mut impl Replica, right: &mut impl Replica, options: Options) -> (Vec<String>, Search) {
    let mut search = Search::new(Range::all(), options);
    let Ok(differences) = search.run(left, right) else { panic!("a model cannot fail") };
    let mut ids: Vec<String> = differences.into_iter().map(|difference| difference.id).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id is reported once");
    (ids, search)
}

fn items() -> impl Strategy<Value = BTreeMap<String, u64>> {
    prop::collection::btree_map("[a-c.]{1,4}", 0_u64..3, 0..150)
}

proptest! {
    #[test]
    fn shards_together_are_one_replica(
        left in items(),
        right in items(),
        shards in 1_usize..60,
        parts in 2_usize..9,
        list_max in 1_usize..9,
    ) {
        let (whole, mut right) = (model(&left), model(&right));
        let mut held = vec![Model::default(); shards];
        for (place, (id, item)) in whole.items.iter().enumerate() {
            held[place * 7 % shards].items.insert(id.clone(), *item);
        }
        let options = Options { parts, list_max, batch_ranges: 3 };
        let expected = differing(&whole, &right);
        prop_assert_eq!(&found(&mut Union(&mut held), &mut right, options).0, &expected);
        prop_assert_eq!(&found(&mut right, &mut Union(&mut held), options).0, &expected);
        let all = [Range::all()];
        let Ok(sums) = Union(&mut held).fingerprints(&all);
        prop_assert_eq!(sums, vec![whole.fingerprint(&all[0])]);
    }

    #[test]
    fn the_symmetric_difference_is_found(
        left in items(),
        right in items(),
        parts in 2_usize..9,
        list_max in 1_usize..9,
        batch_ranges in 1_usize..5,
    ) {
        let (mut left, mut right) = (model(&left), model(&right));
        let expected = differing(&left, &right);
        let options = Options { parts, list_max, batch_ranges };
        prop_assert_eq!(found(&mut left, &mut right, options).0, expected);
    }
}

/// The index as a replica, as the Redis engine uses it.
struct Indexed(Index);

impl Replica for Indexed {
    type Error = Infallible;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Infallible> {
        Ok(ranges.iter().map(|range| self.0.fingerprint(range)).collect())
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Infallible> {
        Ok(ranges.iter().map(|range| self.0.split(range, parts)).collect())
    }

    fn lists(&mut self, ranges: &[Range], limit: usize) -> Result<Vec<Vec<Entry>>, Infallible> {
        let list = |range: &Range| {
            self.0
                .page(range, limit)
                .map(|(id, digest)| Entry { id: id.to_owned(), version: 0, digest })
                .collect()
        };
        Ok(ranges.iter().map(list).collect())
    }
}

fn indexed(count: u64, drift: u64) -> Indexed {
    let mut index = Index::new();
    for number in 0..count {
        index.insert(&format!("item.{number:08}"), digest(number), "default");
    }
    for number in 0..drift {
        let id = format!("item.{:08}", (number * 7919 + 13) % count);
        match number % 3 {
            0 => index.remove(&id),
            1 => index.insert(&id, digest(count + number), "default"),
            _ => index.insert(&format!("{id}.new"), digest(number), "default"),
        };
    }
    Indexed(index)
}

#[test]
fn visited_ranges_follow_the_difference() {
    for drift in [1, 5, 20] {
        let mut visited = Vec::new();
        for count in [1_000, 10_000, 100_000] {
            let (mut left, mut right) = (indexed(count, 0), indexed(count, drift));
            let (ids, search) = found(&mut left, &mut right, Options::default());
            assert_eq!(ids.len() as u64, drift, "{ids:?}");
            let levels = (count as f64).log(16.0).ceil() as u64;
            assert!(
                search.ranges_compared <= 1 + 16 * drift * levels,
                "{} ranges for {drift} of {count}",
                search.ranges_compared
            );
            visited.push(search.ranges_compared);
        }
        assert!(visited[2] <= visited[0] * 4, "a hundred times the items: {visited:?}");
    }
}

#[test]
fn equal_replicas_need_one_comparison() {
    let (mut left, mut right) = (indexed(10_000, 0), indexed(10_000, 0));
    let (ids, search) = found(&mut left, &mut right, Options::default());
    assert_eq!((ids.len(), search.ranges_compared, search.rounds), (0, 1, 1));
}

#[test]
fn both_ends_and_an_empty_side_are_covered() {
    let (mut full, mut empty) = (indexed(5_000, 0), Indexed(Index::new()));
    assert_eq!(found(&mut full, &mut empty, Options::default()).0.len(), 5_000);
    assert_eq!(found(&mut empty, &mut full, Options::default()).0.len(), 5_000);
    let mut more = indexed(5_000, 0);
    more.0.insert("\u{1}", digest(1), "default");
    more.0.insert("\u{10FFFF}\u{10FFFF}", digest(2), "default");
    let (ids, _) = found(&mut full, &mut more, Options::default());
    assert_eq!(ids, ["\u{1}", "\u{10FFFF}\u{10FFFF}"]);
}

/// A replica that answers one range too few.
struct Short(Model);

impl Replica for Short {
    type Error = Infallible;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Infallible> {
        self.0.fingerprints(ranges.get(1..).unwrap_or_default())
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Infallible> {
        self.0.splits(ranges, parts)
    }

    fn lists(&mut self, ranges: &[Range], limit: usize) -> Result<Vec<Vec<Entry>>, Infallible> {
        self.0.lists(ranges, limit)
    }
}

#[test]
fn a_malformed_answer_is_an_error() {
    let mut search = Search::new(Range::all(), Options::default());
    let result = search.step(&mut Model::default(), &mut Short(Model::default()));
    assert_eq!(result, Err(SearchError::Malformed { expected: 1, actual: 0 }));
    assert!(!search.is_done());
}
