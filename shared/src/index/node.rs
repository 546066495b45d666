//! Nodes of the index. Leaves hold the ids; an inner node holds for each child the first id it may contain
//! (empty for the leftmost), the fingerprint of everything below, and a signature of the states below: bit `s mod
//! 64` is set where an item has state number `s` (superimposed coding, Roberts 1979). A walk for one state passes
//! by every subtree whose signature lacks its bit.
#![allow(
    clippy::indexing_slicing,
    reason = "the write path of Redis: positions come from a search of the same vector a line before"
)]

use super::run::{Keyed, Run};
use super::states::StateNumber;
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;

/// Entries of a full leaf; 32 keep a binary search at five comparisons and an insertion's move at 750 bytes.
const LEAF_MAX: usize = 32;
/// Children of a full inner node.
const INNER_MAX: usize = 32;
/// Nodes below this size are merged with a neighbour or refilled from it.
const LEAF_MIN: usize = LEAF_MAX / 8;
const INNER_MIN: usize = INNER_MAX / 8;

const _: () = assert!(LEAF_MIN >= 1 && INNER_MIN >= 2, "an inner node needs a neighbour to merge with");

#[derive(Debug)]
pub(super) struct Entry {
    id: Box<str>,
    digest: Digest,
    state: StateNumber,
}

/// What an entry says of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) digest: Digest,
    pub(super) state: StateNumber,
}

#[derive(Debug)]
pub(super) struct Child {
    low: Box<str>,
    fingerprint: Fingerprint,
    signature: u64,
    node: Box<Node>,
}

type Entries = Run<Entry, 0>;
type Children = Run<Child, 1>;

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Entries),
    Inner(Children),
}

impl Default for Node {
    fn default() -> Node {
        Node::Leaf(Entries::default())
    }
}

impl Keyed for Entry {
    fn key(&self) -> &str {
        &self.id
    }
}

impl Keyed for Child {
    fn key(&self) -> &str {
        &self.low
    }
}

impl Child {
    /// A child that begins at `low`.
    pub(super) fn new(low: Box<str>, node: Node) -> Child {
        Child { low, fingerprint: node.sum(), signature: node.signature(), node: Box::new(node) }
    }

    fn refresh(&mut self) {
        self.fingerprint = self.node.sum();
        self.signature = self.node.signature();
    }
}

fn child_of(children: &Children, id: &str) -> usize {
    match children.search(id) {
        Ok(at) => at,
        Err(at) => at.saturating_sub(1),
    }
}

/// The number of entries before an id, and whether it is among them.
fn place_of(entries: &Entries, id: &str) -> usize {
    entries.search(id).unwrap_or_else(|at| at)
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn is_underfull(&self) -> bool {
        match self {
            Node::Leaf(entries) => entries.len() < LEAF_MIN,
            Node::Inner(children) => children.len() < INNER_MIN,
        }
    }

    /// The fingerprint of the node from its own entries.
    fn sum(&self) -> Fingerprint {
        match self {
            Node::Leaf(entries) => entries.iter().map(|entry| Fingerprint::of(&entry.digest)).sum(),
            Node::Inner(children) => children.iter().map(|child| child.fingerprint).sum(),
        }
    }

    /// The signature of the node from its own entries.
    fn signature(&self) -> u64 {
        match self {
            Node::Leaf(entries) => entries.iter().fold(0, |bits, entry| bits | entry.state.bit()),
            Node::Inner(children) => children.iter().fold(0, |bits, child| bits | child.signature),
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Value> {
        let mut node = self;
        loop {
            match node {
                Node::Inner(children) => node = children[child_of(children, id)].node.as_ref(),
                Node::Leaf(entries) => {
                    let at = entries.search(id).ok()?;
                    let entry = &entries[at];
                    return Some(Value { digest: entry.digest, state: entry.state });
                }
            }
        }
    }

    /// Returns what was replaced and, if this node had to be split, its new right neighbour.
    pub(super) fn insert(&mut self, id: &str, value: Value) -> (Option<Value>, Option<Child>) {
        match self {
            Node::Leaf(entries) => insert_into_leaf(entries, id, value),
            Node::Inner(children) => {
                let at = child_of(children, id);
                let child = &mut children[at];
                let (old, split) = child.node.insert(id, value);
                match split {
                    None => {
                        child.fingerprint += Fingerprint::of(&value.digest);
                        match &old {
                            Some(old) => {
                                child.fingerprint -= Fingerprint::of(&old.digest);
                                if old.state != value.state {
                                    child.signature = child.node.signature();
                                }
                            }
                            None => child.signature |= value.state.bit(),
                        }
                        (old, None)
                    }
                    Some(right) => {
                        child.refresh();
                        (old, insert_child(children, at + 1, right))
                    }
                }
            }
        }
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Value> {
        match self {
            Node::Leaf(entries) => {
                let at = entries.search(id).ok()?;
                let entry = entries.remove(at);
                Some(Value { digest: entry.digest, state: entry.state })
            }
            Node::Inner(children) => {
                let at = child_of(children, id);
                let child = &mut children[at];
                let old = child.node.remove(id)?;
                child.fingerprint -= Fingerprint::of(&old.digest);
                child.signature = child.node.signature();
                if child.node.is_underfull() {
                    rebalance(children, at);
                }
                Some(old)
            }
        }
    }

    /// Replaces an inner root that has one child left by that child.
    pub(super) fn collapse(&mut self) {
        while let Node::Inner(children) = self
            && children.len() == 1
            && let Some(only) = children.pop()
        {
            *self = *only.node;
        }
    }

    /// The fingerprint of the ids before `bound`.
    pub(super) fn before(&self, bound: &str) -> Fingerprint {
        let mut sum = Fingerprint::EMPTY;
        let mut node = self;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, bound);
                    sum += children[..at].iter().map(|child| child.fingerprint).sum();
                    node = children[at].node.as_ref();
                }
                Node::Leaf(entries) => {
                    let at = place_of(entries, bound);
                    return sum + entries[..at].iter().map(|entry| Fingerprint::of(&entry.digest)).sum();
                }
            }
        }
    }

    /// The id with so many ids before it.
    pub(super) fn nth(&self, mut rank: u64) -> Option<&str> {
        let mut node = self;
        loop {
            match node {
                Node::Inner(children) => {
                    let next = children.iter().find(|child| {
                        let inside = rank < child.fingerprint.count();
                        if !inside {
                            rank -= child.fingerprint.count();
                        }
                        inside
                    })?;
                    node = next.node.as_ref();
                }
                Node::Leaf(entries) => {
                    return entries.get(usize::try_from(rank).ok()?).map(|entry| entry.id.as_ref());
                }
            }
        }
    }

    /// The entries from the first id that is not less than `start`, all of them or those of one state.
    pub(super) fn iter_from(&self, start: &str, state: Option<StateNumber>) -> Iter<'_> {
        let mut outer = Vec::new();
        let mut node = self;
        loop {
            match node {
                Node::Inner(children) => {
                    let at = child_of(children, start);
                    outer.push(children[at + 1..].iter());
                    node = children[at].node.as_ref();
                }
                Node::Leaf(entries) => {
                    let at = place_of(entries, start);
                    return Iter { outer, leaf: entries[at..].iter(), state };
                }
            }
        }
    }

    pub(super) fn depth(&self) -> usize {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(children) => 1 + children.first().map_or(0, |child| child.node.depth()),
        }
    }

    /// Checks the node and everything below; `last` is the id before it. Returns its recomputed fingerprint.
    pub(super) fn verify<'a>(
        &'a self,
        depth: usize,
        is_root: bool,
        last: &mut Option<&'a str>,
    ) -> Result<Fingerprint, String> {
        if !is_root && self.is_underfull() {
            return Err(format!("a node has only {} entries", self.len()));
        }
        match self {
            Node::Leaf(entries) => {
                if depth != 0 || entries.len() > LEAF_MAX {
                    return Err(format!("a leaf of {} entries lies {depth} too high", entries.len()));
                }
                entries.verify()?;
                for entry in entries.iter() {
                    if last.is_some_and(|last| last >= entry.id.as_ref()) {
                        return Err(format!("{:?} does not follow {last:?}", entry.id));
                    }
                    *last = Some(entry.id.as_ref());
                }
                Ok(self.sum())
            }
            Node::Inner(children) => {
                if depth == 0 || children.len() > INNER_MAX || children.len() < 2 {
                    return Err(format!("an inner node has {} children at {depth}", children.len()));
                }
                children.verify()?;
                let mut sum = Fingerprint::EMPTY;
                for (at, child) in children.iter().enumerate() {
                    if at > 0 && last.is_some_and(|last| last >= child.low.as_ref()) {
                        return Err(format!("bound {:?} does not follow {last:?}", child.low));
                    }
                    let below = child.node.verify(depth - 1, false, last)?;
                    if below != child.fingerprint {
                        return Err(format!("below {:?} the sum is {below:?}", child.low));
                    }
                    if child.signature != child.node.signature() {
                        return Err(format!("below {:?} the signature of states is wrong", child.low));
                    }
                    sum += below;
                }
                Ok(sum)
            }
        }
    }

    /// Memory of the node and everything below without the ids' text, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.capacity() * (size_of::<Entry>() + size_of::<u32>()),
            Node::Inner(children) => {
                let below: usize = children
                    .iter()
                    .map(|child| child.low.len() + size_of::<Node>() + child.node.memory_bytes())
                    .sum();
                children.capacity() * (size_of::<Child>() + size_of::<u32>()) + below
            }
        }
    }
}

fn insert_into_leaf(entries: &mut Entries, id: &str, value: Value) -> (Option<Value>, Option<Child>) {
    let Value { digest, state } = value;
    let at = match entries.search(id) {
        Ok(at) => {
            let entry = &mut entries[at];
            let old = Value { digest: entry.digest, state: entry.state };
            (entry.digest, entry.state) = (digest, state);
            return (Some(old), None);
        }
        Err(at) => at,
    };
    let entry = Entry { id: id.into(), digest, state };
    if entries.len() < LEAF_MAX {
        entries.insert(at, entry);
        return (None, None);
    }
    // Ids that come in ascending order always hit the end: leave the full leaf full. The few it gives away keep
    // the new one at its minimum.
    let cut = if at == entries.len() { LEAF_MAX - LEAF_MIN + 1 } else { LEAF_MAX / 2 };
    let mut right = entries.split_off(cut, LEAF_MAX);
    if at <= cut {
        entries.insert(at, entry);
    } else {
        right.insert(at - cut, entry);
    }
    let low = right[0].id.clone();
    (None, Some(Child::new(low, Node::Leaf(right))))
}

fn insert_child(children: &mut Children, at: usize, child: Child) -> Option<Child> {
    children.insert(at, child);
    if children.len() <= INNER_MAX {
        return None;
    }
    let cut = if at + 1 == children.len() { children.len() - INNER_MIN } else { children.len() / 2 };
    let right = children.split_off(cut, INNER_MAX + 1);
    let low = right[0].low.clone();
    Some(Child::new(low, Node::Inner(right)))
}

/// Merges the underfull child at `at` with a neighbour; what is too much for one node is dealt out evenly.
fn rebalance(children: &mut Children, at: usize) {
    if children.len() < 2 {
        return;
    }
    let left = at.saturating_sub(1);
    let right = children.remove(left + 1);
    let target = &mut children[left];
    let low = right.low;
    let split = match (target.node.as_mut(), *right.node) {
        (Node::Leaf(entries), Node::Leaf(more)) => {
            entries.append(more);
            (entries.len() > LEAF_MAX).then(|| {
                let more = entries.split_off(entries.len() / 2, LEAF_MAX);
                Child::new(more[0].id.clone(), Node::Leaf(more))
            })
        }
        (Node::Inner(inner), Node::Inner(mut more)) => {
            // The bound of what was the right node's first child: ids below it stay to the left.
            if let Some(first) = more.first_mut() {
                first.low = low;
            }
            inner.append(more);
            (inner.len() > INNER_MAX).then(|| {
                let more = inner.split_off(inner.len() / 2, INNER_MAX + 1);
                Child::new(more[0].low.clone(), Node::Inner(more))
            })
        }
        (_, other) => {
            debug_assert!(false, "neighbours lie at one depth");
            Some(Child::new(low, other))
        }
    };
    target.refresh();
    if let Some(split) = split {
        children.insert(left + 1, split);
    }
}

/// Walks entries in order.
pub(super) struct Iter<'a> {
    outer: Vec<std::slice::Iter<'a, Child>>,
    leaf: std::slice::Iter<'a, Entry>,
    state: Option<StateNumber>,
}

impl<'a> Iter<'a> {
    /// The next node that may hold what is wanted.
    fn next_node(&mut self) -> Option<&'a Node> {
        let bits = self.state.map_or(0, StateNumber::bit);
        loop {
            let siblings = self.outer.last_mut()?;
            match siblings.find(|child| child.signature & bits == bits) {
                Some(child) => return Some(child.node.as_ref()),
                None => self.outer.pop(),
            };
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, Digest);

    fn next(&mut self) -> Option<(&'a str, Digest)> {
        loop {
            let state = self.state;
            if let Some(entry) = self.leaf.find(|entry| state.is_none_or(|state| entry.state == state)) {
                return Some((entry.id.as_ref(), entry.digest));
            }
            match self.next_node()? {
                Node::Inner(children) => self.outer.push(children.iter()),
                Node::Leaf(entries) => self.leaf = entries.iter(),
            }
        }
    }
}
