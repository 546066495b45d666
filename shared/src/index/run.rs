//! A node's entries: sorted by id, searched without following a pointer for every comparison.
//!
//! Ids of one node have long beginnings in common, and each stands in memory of its own. So a run knows the length of
//! what all its ids begin with, and keeps of each the four bytes after that, side by side: a search compares those
//! and looks at an id itself only where they are equal (prefix truncation and poor man's normalized keys, Graefe:
//! "Modern B-Tree Techniques", 2011).

use std::ops::{Deref, DerefMut};

/// What has an id.
pub(super) trait Keyed {
    fn key(&self) -> &str;
}

/// Sorted entries. The first `UNBOUNDED` of them are less than any id whatever their key says: the leftmost child of
/// an inner node has no lower bound.
#[derive(Debug)]
pub(super) struct Run<T, const UNBOUNDED: usize> {
    /// Bytes that all keys begin with.
    shared: usize,
    /// Of each key the bytes after `shared`, zero where it ends: ids hold no NUL, so this orders them.
    heads: Vec<u32>,
    entries: Vec<T>,
}

impl<T, const UNBOUNDED: usize> Default for Run<T, UNBOUNDED> {
    fn default() -> Self {
        Run { shared: 0, heads: Vec::new(), entries: Vec::new() }
    }
}

impl<T, const UNBOUNDED: usize> Deref for Run<T, UNBOUNDED> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.entries
    }
}

/// For what is beside the key; a key is changed by [`Run::rekey`].
impl<T, const UNBOUNDED: usize> DerefMut for Run<T, UNBOUNDED> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.entries
    }
}

impl<T: Keyed, const UNBOUNDED: usize> Run<T, UNBOUNDED> {
    /// A run of sorted entries.
    pub(super) fn of(entries: Vec<T>) -> Self {
        let mut run = Run { shared: 0, heads: Vec::with_capacity(entries.capacity()), entries };
        run.rekey();
        run
    }

    /// Number of entries that memory is held for.
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Number of entries whose key is less than `key`, and whether one is equal.
    pub(super) fn search(&self, key: &str) -> Result<usize, usize> {
        let bounded = self.entries.get(UNBOUNDED..).unwrap_or_default();
        let Some(first) = bounded.first() else { return Err(self.entries.len().min(UNBOUNDED)) };
        let (key_bytes, first_bytes) = (key.as_bytes(), first.key().as_bytes());
        let begin = first_bytes.get(..self.shared).unwrap_or(first_bytes);
        if !key_bytes.starts_with(begin) {
            return Err(if key_bytes < begin { UNBOUNDED } else { self.entries.len() });
        }
        let head = head_of(key_bytes, self.shared);
        let heads = self.heads.get(UNBOUNDED..).unwrap_or_default();
        let low = heads.partition_point(|other| *other < head);
        let equal = heads.get(low..).unwrap_or_default().iter().take_while(|other| **other == head).count();
        let ties = bounded.get(low..low + equal).unwrap_or_default();
        let place = |at: usize| UNBOUNDED + low + at;
        ties.binary_search_by(|entry| entry.key().cmp(key)).map(place).map_err(place)
    }

    /// Adds an entry at the place that [`Run::search`] gave.
    pub(super) fn insert(&mut self, at: usize, entry: T) {
        self.entries.insert(at, entry);
        let Some(key) = self.entries.get(at).map(|entry| entry.key().as_bytes()) else { return };
        let neighbour = if at > UNBOUNDED { at - 1 } else { at + 1 };
        let keeps_shared = at >= UNBOUNDED
            && self.entries.get(neighbour).is_some_and(|neighbour| {
                let begin = neighbour.key().as_bytes().get(..self.shared);
                begin.is_some_and(|begin| key.starts_with(begin))
            });
        if keeps_shared {
            self.heads.insert(at, head_of(key, self.shared));
        } else {
            self.rekey();
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, at: usize) -> T {
        self.heads.remove(at);
        let entry = self.entries.remove(at);
        if at < UNBOUNDED {
            self.rekey();
        }
        entry
    }

    /// Takes the last entry out.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.heads.pop();
        self.entries.pop()
    }

    /// Takes the entries from `at` on away, as a run that may grow to `capacity`.
    pub(super) fn split_off(&mut self, at: usize, capacity: usize) -> Self {
        let mut right = Vec::with_capacity(capacity);
        right.extend(self.entries.drain(at..));
        self.rekey();
        Run::of(right)
    }

    /// Adds the entries of the run to the right of this one.
    pub(super) fn append(&mut self, right: Self) {
        self.entries.extend(right.entries);
        self.rekey();
    }

    /// Finds anew what the keys begin with, after one of them was changed.
    pub(super) fn rekey(&mut self) {
        let bounded = self.entries.get(UNBOUNDED..).unwrap_or_default();
        self.shared = match (bounded.first(), bounded.last()) {
            (Some(first), Some(last)) => common(first.key(), last.key()),
            _ => 0,
        };
        self.heads.clear();
        self.heads.extend(self.entries.iter().map(|entry| head_of(entry.key().as_bytes(), self.shared)));
    }

    /// Checks heads and what the keys begin with. Errors: what is wrong.
    pub(super) fn verify(&self) -> Result<(), String> {
        let shared = self.shared;
        let bounded = self.entries.get(UNBOUNDED..).unwrap_or_default();
        if let (Some(first), Some(last)) = (bounded.first(), bounded.last())
            && common(first.key(), last.key()) < shared
        {
            return Err(format!("{:?} and {:?} do not share {shared} bytes", first.key(), last.key()));
        }
        let heads = self.entries.iter().map(|entry| head_of(entry.key().as_bytes(), shared));
        if !heads.skip(UNBOUNDED).eq(self.heads.iter().copied().skip(UNBOUNDED))
            || self.heads.len() != self.entries.len()
        {
            return Err(format!("heads are not those of the {} keys", self.entries.len()));
        }
        Ok(())
    }
}

fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

fn head_of(key: &[u8], from: usize) -> u32 {
    let rest = key.get(from..).unwrap_or_default();
    match rest.first_chunk::<4>() {
        Some(chunk) => u32::from_be_bytes(*chunk),
        None => (0..4).fold(0, |head, at| (head << 8) | u32::from(rest.get(at).copied().unwrap_or(0))),
    }
}
