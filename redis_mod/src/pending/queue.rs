//! A link, as far as it takes: what waits for it, in order.
//!
//! No Redis type here: the rules are tested without a server.

use super::takes;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tandem_shared::link::Scope;

/// A link, as far as it takes.
#[derive(Debug)]
pub struct Link {
    /// What it carries.
    pub scope: Scope,
    /// It has taken everything up to this number, but for what waits for it under such a number all the same.
    pub acked: u64,
    /// Both sides were compared since it was attached. Until then nobody knows what the other side has.
    pub is_compared: bool,
    /// They were once, also before a restart: what was not to be taken then, nor since, is there or was.
    pub was_compared: bool,
    /// Ids whose last revision from here the other side has refused, and the numbers that those had.
    pub refused: BTreeMap<Box<str>, u64>,
    /// Tombstones after this id are still to be told of: those from before it was attached.
    pub tombstones_after: Option<Box<str>>,
    /// The tombstones that are under way.
    pub tombstone_page: Option<TombstonePage>,
    /// What waits for it, by number.
    pub(super) queue: BTreeMap<u64, Queued>,
    /// What waits for it, and could not be read when it was its turn. It gets another number, and is back in the
    /// queue, when that has changed.
    pub(super) passed_over: BTreeMap<u64, Queued>,
    /// The numbers since which something waits for it, with those under which it waits now.
    pub(super) owed: BTreeMap<u64, u64>,
    /// The numbers up to `acked` under which something waited for it when it was saved.
    pub(super) open: BTreeSet<u64>,
    /// Number of the entry that is taken out of the set at present, and since when it waited for this link.
    pub(super) held: Option<(u64, u64)>,
}

/// Tombstones from before a link was attached, on their way under one number.
#[derive(Debug)]
pub struct TombstonePage {
    /// The number.
    pub seq: u64,
    /// The last of their ids.
    pub last: Box<str>,
    /// There are none after it.
    pub is_end: bool,
}

/// An id in the queue of a link.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) id: Rc<str>,
    /// The number under which it waited first. What was written under that has not been taken, however often the id
    /// was written again since.
    pub(super) since: u64,
}

impl Link {
    pub(super) fn new(scope: Scope, acked: u64) -> Link {
        Link {
            scope,
            acked,
            is_compared: false,
            was_compared: false,
            refused: BTreeMap::new(),
            tombstones_after: None,
            tombstone_page: None,
            queue: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            owed: BTreeMap::new(),
            open: BTreeSet::new(),
            held: None,
        }
    }

    /// Number of ids that wait for it.
    pub fn len(&self) -> usize {
        self.queue.len() + self.passed_over.len()
    }

    /// Whether something after a number waits to be pulled.
    pub fn has_after(&self, seq: u64) -> bool {
        self.queue.range(seq.saturating_add(1)..).next().is_some() || self.tombstones_after.is_some()
    }

    /// The numbers up to `seq`, in order, under which something waits for it.
    pub fn open_up_to(&self, seq: u64) -> Vec<u64> {
        let mut open: Vec<u64> = self
            .queue
            .range(..=seq)
            .chain(self.passed_over.range(..=seq))
            .map(|(number, _)| *number)
            .collect();
        open.sort_unstable();
        open
    }

    /// What was passed over, the first first: ids and numbers.
    pub fn passed_over(&self) -> impl Iterator<Item = (&str, u64)> {
        self.passed_over.iter().map(|(number, queued)| (queued.id.as_ref(), *number))
    }

    /// Whether what has a number waits for it.
    pub(super) fn has(&self, seq: u64) -> bool {
        self.queue.contains_key(&seq) || self.passed_over.contains_key(&seq)
    }

    /// Whether what has a number may wait for it.
    pub(super) fn is_open(&self, seq: u64) -> bool {
        seq > self.acked || self.open.contains(&seq) || self.held.is_some_and(|(number, _)| number == seq)
    }

    pub(super) fn into_queued(self) -> impl Iterator<Item = Queued> {
        self.queue.into_values().chain(self.passed_over.into_values())
    }

    /// An entry leaves the queue while it is changed.
    pub(super) fn hold(&mut self, seq: u64) {
        let queued = self.queue.remove(&seq).or_else(|| self.passed_over.remove(&seq));
        self.held = queued.map(|queued| (seq, queued.since));
    }

    /// It comes back under another number, if it still concerns the link.
    pub(super) fn release(&mut self, id: &Rc<str>, seq: u64, concerns: bool) {
        let since = self.held.take().map(|(_, since)| since);
        if concerns {
            let since = since.unwrap_or(seq);
            self.owed.insert(since, seq);
            self.queue.insert(seq, Queued { id: id.clone(), since });
        } else if let Some(since) = since {
            self.owed.remove(&since);
        }
    }

    /// Whether a tombstone of this id, from before it was attached, is still to be told of.
    pub fn owes_tombstone(&self, id: &str) -> bool {
        takes(&self.scope, id) && self.tombstones_after.as_deref().is_some_and(|after| id > after)
    }
}
