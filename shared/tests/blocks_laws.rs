//! Folding the log into blocks in any order gives the sums of the items.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use std::collections::BTreeMap;
use tandem_shared::blocks::{Block, Delta, apply, cut, cut_front, needs_cut, needs_merge};
use tandem_shared::{Digest, Fingerprint, PayloadHash};

fn digest(number: u32) -> Digest {
    Digest(PayloadHash::of(&number.to_le_bytes()).0)
}

/// What the log holds of a change from one digest to another.
fn delta((id, old, new): &(String, Option<Digest>, Option<Digest>)) -> Delta {
    let of = |digest: &Option<Digest>| digest.as_ref().map_or(Fingerprint::EMPTY, Fingerprint::of);
    Delta { id: id.clone(), change: of(new) - of(old) }
}

fn fold(blocks: &mut [Block], log: &[(String, Option<Digest>, Option<Digest>)]) {
    apply(blocks, &log.iter().map(delta).collect::<Vec<_>>()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn folded_blocks_equal_the_items(
        writes in prop::collection::vec((0_u32..2500, prop::option::weighted(0.8, 0_u32..9)), 1..4000),
        folded in 0_usize..4000,
        seed in any::<u64>(),
        pages in any::<prop::sample::Index>(),
    ) {
        let mut items: BTreeMap<String, Digest> = BTreeMap::new();
        let mut log = Vec::new();
        for (number, value) in writes {
            let id = format!("i{number:05}");
            let new = value.map(|value| digest(value + number * 16));
            let old = match new {
                Some(new) => items.insert(id.clone(), new),
                None => items.remove(&id),
            };
            log.push((id, old, new));
        }
        let (early, late) = log.split_at(folded.min(log.len()));
        let mut early = early.to_vec();
        early.sort_by_key(|(id, _, _)| PayloadHash::of(format!("{seed}{id}").as_bytes()).0);
        let mut blocks = vec![Block { first: String::new(), fingerprint: Fingerprint::EMPTY }];
        fold(&mut blocks, &early);

        let now: Vec<(String, Digest)> = items.iter().map(|(id, digest)| (id.clone(), *digest)).collect();
        let unfolded: Vec<Delta> = late.iter().map(delta).collect();
        // In two steps, as a block that holds more than fits into one page.
        let middle = pages.index(now.len() + 1);
        let rest = now.get(middle).map_or("~".to_owned(), |(id, _)| id.clone());
        let (front, back): (Vec<Delta>, Vec<Delta>) = unfolded.into_iter().partition(|delta| delta.id < rest);
        let mut pieces = cut_front(&blocks[0], &now[..middle], &front, &rest);
        let (more, adds_up) = cut(&pieces.pop().unwrap(), &now[middle..], &back);
        prop_assert!(adds_up);
        blocks = pieces;
        blocks.extend(more);
        fold(&mut blocks, late);

        for (at, block) in blocks.iter().enumerate() {
            let end = blocks.get(at + 1).map(|next| next.first.clone());
            let sum: Fingerprint = items
                .range(block.first.clone()..)
                .take_while(|(id, _)| end.as_ref().is_none_or(|end| *id < end))
                .map(|(_, digest)| Fingerprint::of(digest))
                .sum();
            prop_assert_eq!(block.fingerprint, sum);
        }
    }
}

#[test]
fn a_block_that_does_not_add_up_is_told_from_one_that_does() {
    let block = Block { first: String::new(), fingerprint: Fingerprint::of(&digest(1)) };
    let right = Block { fingerprint: Fingerprint::of(&digest(2)), ..block.clone() };
    assert_eq!(cut(&block, &[("a".into(), digest(2))], &[]), (vec![right], false));
    assert_eq!(cut(&block, &[("a".into(), digest(1))], &[]), (vec![block.clone()], true));
}

#[test]
fn ids_before_the_first_block_are_refused() {
    let mut blocks = [Block { first: "m".into(), fingerprint: Fingerprint::EMPTY }];
    let change = Fingerprint::of(&digest(1));
    assert!(apply(&mut blocks, &[Delta { id: "a".into(), change }]).is_err());
}

#[test]
fn sizes_decide_cuts_and_merges() {
    let block = |count: u32| Block {
        first: String::new(),
        fingerprint: (0..count).map(|number| Fingerprint::of(&digest(number))).sum(),
    };
    assert!(needs_cut(&block(513)) && !needs_cut(&block(512)));
    assert!(needs_merge(&block(3), &block(100)) && !needs_merge(&block(100), &block(90)));
}
