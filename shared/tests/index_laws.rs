//! The index against a plain sorted map.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use tandem_shared::id::Range;
use tandem_shared::index::Index;
use tandem_shared::reconcile::Model;
use tandem_shared::{Digest, Fingerprint, PayloadHash};

fn digest(number: u32) -> Digest {
    Digest(PayloadHash::of(&number.to_le_bytes()).0)
}

fn state(number: u32) -> &'static str {
    ["hot", "cold", "default"][number as usize % 3]
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d.]{1,3}", (0_u32..3000).prop_map(|number| format!("n{number:04}"))]
}

fn range() -> impl Strategy<Value = Range> {
    ("[a-n.0-9]{0,3}", prop::option::of("[a-n.0-9]{0,3}")).prop_map(|(start, end)| Range::new(start, end))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn index_equals_a_sorted_map(
        steps in prop::collection::vec((id(), prop::option::weighted(0.6, 0_u32..50)), 1..2500),
        ranges in prop::collection::vec(range(), 1..20),
        parts in 1_usize..40,
    ) {
        let mut index = Index::new();
        let mut model = Model::default();
        let mut states = std::collections::BTreeMap::new();
        for (id, value) in &steps {
            match value {
                Some(value) => {
                    states.insert(id.clone(), state(*value));
                    let old = model.items.insert(id.clone(), (0, digest(*value)));
                    prop_assert_eq!(index.insert(id, digest(*value), state(*value)), old.map(|(_, digest)| digest));
                }
                None => {
                    states.remove(id);
                    let old = model.items.remove(id);
                    prop_assert_eq!(index.remove(id), old.map(|(_, digest)| digest));
                }
            }
        }
        index.verify().unwrap();
        prop_assert_eq!(index.len(), model.items.len() as u64);
        prop_assert_eq!(index.root(), model.fingerprint(&Range::all()));
        for range in &ranges {
            prop_assert_eq!(index.fingerprint(range), model.fingerprint(range));
            let ids: Vec<_> = index.page(range, 7).map(|(id, _)| id.to_owned()).collect();
            let expected: Vec<_> =
                model.items.keys().filter(|id| range.contains(id)).take(7).cloned().collect();
            prop_assert_eq!(ids, expected);
            for wanted in ["hot", "cold", "none"] {
                let ids: Vec<_> =
                    index.page_in_state(range, wanted, 5).map(|(id, _)| id.to_owned()).collect();
                let has = |id: &&String| range.contains(id) && states.get(*id) == Some(&wanted);
                let expected: Vec<_> = model.items.keys().filter(has).take(5).cloned().collect();
                prop_assert_eq!(ids, expected);
            }
            let cut = index.split(range, parts);
            let sum: Fingerprint = cut.iter().map(|part| part.fingerprint).sum();
            prop_assert_eq!(sum, model.fingerprint(range));
            for part in &cut {
                prop_assert_eq!(part.fingerprint, model.fingerprint(&part.range));
            }
            let first = model.items.range(range.start.clone()..).next().map(|(id, _)| id.as_str());
            prop_assert_eq!(index.first_at_or_after(&range.start).map(|(id, _)| id), first);
        }
        for (id, _) in &steps {
            prop_assert_eq!(index.get(id), model.items.get(id).map(|(_, digest)| *digest));
        }
    }
}

#[test]
fn random_removals_leave_a_sound_tree() {
    let mut index = Index::new();
    for number in 0..20_000_u32 {
        index.insert(&format!("{:05}", number * 7919 % 20_000), digest(number), "default");
    }
    index.verify().unwrap();
    for number in 0..20_000_u32 {
        assert!(index.remove(&format!("{:05}", number * 104_729 % 20_000)).is_some());
        if number % 1000 == 0 {
            index.verify().unwrap();
        }
    }
    assert!(index.is_empty());
}

/// More states than a signature has bits: some share one, and pages are right all the same.
#[test]
fn many_states_share_bits_and_numbers_come_back() {
    let mut index = Index::new();
    for number in 0..3000_u32 {
        index.insert(&format!("{number:04}"), digest(number), &format!("s{}", number % 200));
    }
    index.verify().unwrap();
    let all = Range::all();
    let page: Vec<&str> = index.page_in_state(&all, "s7", 3).map(|(id, _)| id).collect();
    assert_eq!((page, index.count_state("s7")), (vec!["0007", "0207", "0407"], 15));
    for number in 0..3000_u32 {
        index.insert(&format!("{number:04}"), digest(number), "one");
    }
    index.verify().unwrap();
    assert_eq!(
        (index.states().count(), index.count_state("one"), index.state("0007")),
        (1, 3000, Some("one"))
    );
    assert_eq!(index.page_in_state(&all, "s7", 3).count(), 0);
}
