//! The ordered fingerprint index: ids in byte order, each with its digest, in a B-tree whose inner nodes carry
//! the fingerprint of what is below them (DESIGN section 4). One structure answers scans, counts, hashes,
//! children and differences; every operation is O(log n).

mod node;
mod run;
mod states;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::id::Range;
use node::{Child, Node, Value};
use run::Run;
use states::States;

/// A piece of a range with its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The ids it covers.
    pub range: Range,
    /// Their fingerprint.
    pub fingerprint: Fingerprint,
}

/// An ordered map from id to digest that knows the fingerprint of any range.
#[derive(Debug, Default)]
pub struct Index {
    root: Node,
    total: Fingerprint,
    id_bytes: usize,
    states: States,
}

impl Index {
    /// An empty index.
    pub fn new() -> Index {
        Index::default()
    }

    /// Number of ids.
    pub fn len(&self) -> u64 {
        self.total.count()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.total.is_empty()
    }

    /// Removes every id.
    pub fn clear(&mut self) {
        *self = Index::default();
    }

    /// Sets digest and state of an id. Returns the digest it had.
    pub fn insert(&mut self, id: &str, digest: Digest, state: &str) -> Option<Digest> {
        let value = Value { digest, state: self.states.enter(state) };
        let (old, split) = self.root.insert(id, value);
        if let Some(right) = split {
            let left = std::mem::take(&mut self.root);
            self.root = Node::Inner(Run::of(vec![Child::new(String::new().into(), left), right]));
        }
        match &old {
            Some(old) => {
                self.total -= Fingerprint::of(&old.digest);
                self.states.leave(old.state);
            }
            None => self.id_bytes += id.len(),
        }
        self.total += Fingerprint::of(&digest);
        old.map(|old| old.digest)
    }

    /// Removes an id. Returns the digest it had.
    pub fn remove(&mut self, id: &str) -> Option<Digest> {
        let old = self.root.remove(id)?;
        self.total -= Fingerprint::of(&old.digest);
        self.states.leave(old.state);
        self.id_bytes -= id.len();
        self.root.collapse();
        Some(old.digest)
    }

    /// The digest of an id.
    pub fn get(&self, id: &str) -> Option<Digest> {
        self.root.get(id).map(|value| value.digest)
    }

    /// The state of an id.
    pub fn state(&self, id: &str) -> Option<&str> {
        self.root.get(id).and_then(|value| self.states.name(value.state))
    }

    /// Number of ids that have a state, O(1).
    pub fn count_state(&self, state: &str) -> u64 {
        self.states.count(state)
    }

    /// The states that ids have, with their numbers of ids, in no order.
    pub fn states(&self) -> impl Iterator<Item = (&str, u64)> {
        self.states.iter()
    }

    /// The first `limit` ids of a range that have a state, in order. Subtrees without the state are passed by, so the
    /// cost is about that of the page and not of what lies between its ids, as long as no more than 64 states are in
    /// use.
    pub fn page_in_state<'a>(
        &'a self,
        range: &'a Range,
        state: &str,
        limit: usize,
    ) -> impl Iterator<Item = (&'a str, Digest)> + 'a {
        let walk = self.states.number(state).map(|number| self.root.iter_from(&range.start, Some(number)));
        walk.into_iter()
            .flatten()
            .take_while(|(id, _)| range.end.as_deref().is_none_or(|end| *id < end))
            .take(limit)
    }

    /// The fingerprint of all ids, O(1).
    pub fn root(&self) -> Fingerprint {
        self.total
    }

    /// The fingerprint, and with it the count, of the ids in a range.
    pub fn fingerprint(&self, range: &Range) -> Fingerprint {
        if range.is_empty() {
            return Fingerprint::EMPTY;
        }
        self.before(range.end.as_deref()) - self.before(Some(&range.start))
    }

    /// The first id that is not less than `id`.
    pub fn first_at_or_after(&self, id: &str) -> Option<(&str, Digest)> {
        self.root.iter_from(id, None).next()
    }

    /// The first `limit` ids of a range, in order.
    pub fn page<'a>(
        &'a self,
        range: &'a Range,
        limit: usize,
    ) -> impl Iterator<Item = (&'a str, Digest)> + 'a {
        self.root
            .iter_from(&range.start, None)
            .take_while(|(id, _)| range.end.as_deref().is_none_or(|end| *id < end))
            .take(limit)
    }

    /// Cuts a range into at most `parts` consecutive pieces of about equal counts that cover it exactly; every
    /// inner boundary is an id of the index.
    pub fn split(&self, range: &Range, parts: usize) -> Vec<Part> {
        let first = self.before(Some(&range.start));
        let count = self.fingerprint(range).count();
        let pieces = count.clamp(1, parts.max(1) as u64);
        let mut cut = Vec::with_capacity(pieces as usize);
        let (mut start, mut below) = (range.start.clone(), first);
        for piece in 1..pieces {
            let rank = u128::from(first.count()) + u128::from(count) * u128::from(piece) / u128::from(pieces);
            let Some(id) = self.root.nth(rank as u64) else { break };
            let next = self.before(Some(id));
            let range = Range::new(std::mem::replace(&mut start, id.to_owned()), Some(id.to_owned()));
            cut.push(Part { range, fingerprint: next - below });
            below = next;
        }
        let last = Range::new(start, range.end.clone());
        let fingerprint = self.fingerprint(&last);
        cut.push(Part { range: last, fingerprint });
        cut
    }

    /// Checks order, fill, sums and counts of every node. Errors: `CORRUPT` with what is wrong.
    pub fn verify(&self) -> Result<()> {
        let mut last = None;
        let depth = self.root.depth();
        let total = self
            .root
            .verify(depth, true, &mut last)
            .map_err(|problem| Error::corrupt("fingerprint index", problem))?;
        if total != self.total {
            return Err(Error::corrupt(
                "fingerprint index",
                format!("its total is {:?}, the nodes sum to {total:?}", self.total),
            ));
        }
        let mut counted = 0;
        for (state, count) in self.states.iter() {
            counted += count;
            let found = self.page_in_state(&Range::all(), state, usize::MAX).count() as u64;
            if found != count {
                let problem = format!("{found} ids have state {state:?}, {count} are counted");
                return Err(Error::corrupt("fingerprint index", problem));
            }
        }
        if counted != self.len() {
            let problem = format!("{counted} ids have a state, there are {}", self.len());
            return Err(Error::corrupt("fingerprint index", problem));
        }
        Ok(())
    }

    /// Estimated memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Index>() + self.id_bytes + self.root.memory_bytes()
    }

    /// The fingerprint of the ids before `bound`, of all for `None`.
    fn before(&self, bound: Option<&str>) -> Fingerprint {
        match bound {
            None => self.total,
            Some("") => Fingerprint::EMPTY,
            Some(bound) => self.root.before(bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        Digest(crate::digest::PayloadHash::of(&number.to_le_bytes()).0)
    }

    fn filled(count: u64) -> Index {
        let mut index = Index::new();
        for number in 0..count {
            index.insert(&format!("{number:06}"), digest(number), "default");
        }
        index
    }

    #[test]
    fn ascending_ids_fill_their_nodes() {
        let index = filled(10_000);
        index.verify().unwrap();
        let overhead = index.memory_bytes() / 10_000;
        assert!(overhead < 80, "{overhead} bytes an entry with 6 bytes of id and 32 of digest");
    }

    #[test]
    fn a_split_covers_its_range() {
        let index = filled(1000);
        for (start, end) in
            [("", None), ("000100", Some("000900")), ("zzz", None), ("000001", Some("000002"))]
        {
            let range = Range::new(start, end.map(str::to_owned));
            let parts = index.split(&range, 16);
            assert!(!parts.is_empty() && parts.len() <= 16);
            assert_eq!(parts[0].range.start, range.start);
            assert_eq!(parts[parts.len() - 1].range.end, range.end);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].range.end.as_deref(), Some(pair[1].range.start.as_str()));
            }
            for part in &parts {
                assert_eq!(part.fingerprint, index.fingerprint(&part.range));
            }
            let sum: Fingerprint = parts.iter().map(|part| part.fingerprint).sum();
            assert_eq!(sum, index.fingerprint(&range));
        }
    }

    #[test]
    fn emptied_trees_shrink() {
        let mut index = filled(5000);
        for number in (0..5000).rev() {
            assert!(index.remove(&format!("{number:06}")).is_some());
        }
        index.verify().unwrap();
        assert!(index.is_empty() && index.remove("x").is_none());
        assert_eq!(index.root(), Fingerprint::EMPTY);
    }
}
