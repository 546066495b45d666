//! What the links have not taken yet: the ids written here and not acknowledged, in order of their last write
//! (DESIGN section 6). Revisions join, so an id stands in the set once however often it was written, and its
//! current revision is read from the keyspace when a link pulls. What can no longer be read there (the copy was
//! dropped, or a foreign revision of the same version replaced it) is kept aside, encoded, until acknowledged.
//!
//! Each link has a queue of its own, of what it carries and is to be told. An id that is in no queue is not in the
//! set. A link takes what is in its queue in order, but it need not take all: what somebody is in the way of on the
//! other side stays in the queue behind what is acknowledged, and so does what can neither be read nor has left when
//! it is its turn, as Redis deletes no expired copy while it holds writes back.
//!
//! No Redis type here: the rules are tested without a server.

mod queue;
#[cfg(test)]
mod tests;
mod writers;

pub use queue::{Link, TombstonePage};

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use tandem_shared::link::Scope;
use tandem_shared::{Range, Version};
use writers::Writers;

/// The id under which "every copy was dropped" waits: no item can have it.
pub const EVERYTHING: &str = "";

/// Fixed cost of a waiting id in the books, beside its text and what is kept aside.
const ENTRY_BYTES: usize = 192;
/// Cost of an id in the queue of one link.
const QUEUED_BYTES: usize = 48;

/// One id that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Its number: a link that has acknowledged it has taken what waits here.
    pub seq: u64,
    /// Encoded revisions that the keyspace no longer holds.
    pub aside: Vec<Box<[u8]>>,
    /// The first of them is of a copy that was dropped: a later one takes its place, as a later write does in the
    /// keyspace.
    pub copy_is_aside: bool,
    /// The revision in the keyspace, or the tombstone, has still to be taken.
    pub is_written: bool,
    /// The copy here was dropped (not removed) when it had this version, and a link is to bring it back.
    pub dropped: Option<Version>,
    /// The link that brought the revision, which needs not be told.
    pub origin: Option<Box<str>>,
    /// The number of the last write among what waits.
    pub written_seq: u64,
    /// The clients that wrote it.
    writers: Writers,
    /// Queues that it is in.
    takers: u32,
}

impl Waiting {
    fn keep_copy(&mut self, encoded: Vec<u8>) {
        match self.aside.first_mut().filter(|_| self.copy_is_aside) {
            Some(copy) => *copy = encoded.into(),
            None => self.aside.insert(0, encoded.into()),
        }
        self.copy_is_aside = true;
    }

    /// Whether a link has to be told of it.
    fn concerns(&self, id: &str, name: &str, scope: &Scope) -> bool {
        if id == EVERYTHING {
            return scope.to_redis();
        }
        let is_new = self.is_written && self.origin.as_deref() != Some(name);
        ((is_new || !self.aside.is_empty()) && takes(scope, id))
            || (self.dropped.is_some() && brings_back(scope, id))
    }

    fn cost(&self, id: &str) -> usize {
        let aside: usize = self.aside.iter().map(|bytes| bytes.len()).sum();
        ENTRY_BYTES + id.len() + aside + QUEUED_BYTES * self.takers as usize
    }
}

/// Whether a link takes what is written under an id.
pub fn takes(scope: &Scope, id: &str) -> bool {
    scope.to_postgres() && scope.carries(id)
}

/// Whether a link brings a copy back that was dropped.
pub fn brings_back(scope: &Scope, id: &str) -> bool {
    scope.to_redis() && scope.mirrors(id)
}

/// The waiting ids of one database and the links they wait for.
#[derive(Debug, Default)]
pub struct Pending {
    last_seq: u64,
    entries: BTreeMap<Rc<str>, Waiting>,
    links: BTreeMap<Box<str>, Link>,
    bytes: usize,
    dropped: usize,
}

impl Pending {
    /// The sequence number given last.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Tombstones from before a link was attached are on their way to it.
    pub fn tombstones_under_way(&mut self, name: &str, page: TombstonePage) {
        self.restore_seq(page.seq);
        if let Some(link) = self.links.get_mut(name).filter(|link| link.tombstones_after.is_some()) {
            // What was under way before was taken, or is on its way once more.
            link.tombstone_page = Some(page);
        }
    }

    /// Gives a number to something that waits outside of the set.
    pub fn take_number(&mut self) -> u64 {
        self.last_seq = self.last_seq.saturating_add(1);
        self.last_seq
    }

    /// Number of waiting ids.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Estimated memory of the set, in bytes.
    pub fn bytes(&self) -> usize {
        let refused = |link: &Link| link.refused.keys().map(|id| QUEUED_BYTES + id.len()).sum::<usize>();
        self.bytes + self.links.values().map(refused).sum::<usize>()
    }

    /// The links and their names.
    pub fn links(&self) -> impl Iterator<Item = (&str, &Link)> {
        self.links.iter().map(|(name, link)| (name.as_ref(), link))
    }

    /// A link.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.get(name)
    }

    /// A link, to be changed.
    pub fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.get_mut(name)
    }

    /// Whether any link is attached.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether any link takes what is written under an id.
    pub fn is_taken(&self, id: &str) -> bool {
        self.links.values().any(|link| takes(&link.scope, id))
    }

    /// Whether any link brings a copy of an id back that was dropped.
    pub fn is_brought_back(&self, id: &str) -> bool {
        self.links.values().any(|link| brings_back(&link.scope, id))
    }

    /// Whether the copy of any id was dropped and is still waiting.
    pub fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// The waiting entry of an id.
    pub fn get(&self, id: &str) -> Option<&Waiting> {
        self.entries.get(id)
    }

    /// Whether a link has still to be told of an id; a drop of everything waits for each.
    pub fn waits(&self, name: &str, id: &str) -> bool {
        let Some(link) = self.links.get(name) else { return false };
        let is_queued = |id: &str| self.entries.get(id).is_some_and(|waiting| link.has(waiting.seq));
        is_queued(id) || is_queued(EVERYTHING)
    }

    /// Ids that wait, in byte order.
    pub fn ids(&self, range: &Range) -> impl Iterator<Item = &str> {
        let start = range.start.as_str().max("\u{1}");
        let ids = self.entries.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        let end = range.end.clone();
        ids.map(|(id, _)| id.as_ref()).take_while(move |id| end.as_deref().is_none_or(|end| *id < end))
    }

    /// Whether a link has taken all that it takes of what has a number up to `seq`, as far as a client has to wait
    /// for it that has written some of it; `None` for one that nobody knows. What the link has gone past, because
    /// somebody is in its way, nobody waits for who has not written it.
    pub fn has_taken(&self, link: &Link, seq: u64, client: Option<u64>) -> bool {
        let is_foreign = |number: &u64| {
            let queued = link.queue.get(number).or_else(|| link.passed_over.get(number));
            let waiting = queued.and_then(|queued| self.entries.get(&queued.id));
            waiting.is_none_or(|waiting| !waiting.writers.may_include(client))
        };
        link.is_compared
            && link.tombstones_after.is_none()
            && link.owed.range(..=seq).all(|(since, number)| *since <= link.acked && is_foreign(number))
    }

    /// All entries, in byte order of their ids.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Waiting)> {
        self.entries.iter().map(|(id, waiting)| (id.as_ref(), waiting))
    }

    /// What waits for a link after `seq`, in order.
    pub fn after(&self, name: &str, seq: u64) -> impl Iterator<Item = (&str, &Waiting)> {
        let queue = self.links.get(name).map(|link| link.queue.range(seq.saturating_add(1)..));
        queue
            .into_iter()
            .flatten()
            .filter_map(|(_, queued)| Some((queued.id.as_ref(), self.entries.get(&queued.id)?)))
    }

    /// Attaches a link, or changes what it carries. What is in the keyspace before is compared, not queued;
    /// `has_tombstones`: those are in no comparison, so it is told of them. True if its name is new or it carries
    /// something else than before.
    pub fn attach(&mut self, name: &str, scope: &Scope, has_tombstones: bool) -> bool {
        if self.links.get(name).is_some_and(|link| link.scope == *scope) {
            return false;
        }
        let before = self.links.remove(name);
        let mut link = Link::new(scope.clone(), before.as_ref().map_or(self.last_seq, |link| link.acked));
        link.tombstones_after = (has_tombstones && scope.to_postgres()).then(|| "".into());
        link.open = before.iter().flat_map(|before| before.open_up_to(before.acked)).collect();
        // Into its queue first: what is in no queue is forgotten, and what is kept aside with it.
        self.restore_link(name, link);
        for queued in before.into_iter().flat_map(Link::into_queued) {
            self.leave_queue(&queued.id);
        }
        true
    }

    /// Forgets a link and what waited for it only. False if it was not attached.
    pub fn detach(&mut self, name: &str) -> bool {
        let Some(link) = self.links.remove(name) else { return false };
        for queued in link.into_queued() {
            self.leave_queue(&queued.id);
        }
        true
    }

    /// A link has taken everything up to `seq` that it was told of, but for what has the numbers `except` and for the
    /// ids refused. Returns how many entries nobody waits for any more.
    pub fn acknowledge(&mut self, name: &str, seq: u64, except: &[u64], refused: &[&str]) -> Option<usize> {
        let seq = seq.min(self.last_seq);
        let link = self.links.get_mut(name)?;
        link.acked = link.acked.max(seq);
        for id in refused {
            // One that was written again since is not the one that was refused.
            let (number, written) =
                self.entries.get(*id).map_or((seq, seq), |waiting| (waiting.seq, waiting.written_seq));
            if number <= seq {
                link.refused.insert((*id).into(), written);
            }
        }
        if let Some(page) = link.tombstone_page.take_if(|page| page.seq <= seq) {
            link.tombstones_after = link.tombstones_after.take().map(|_| page.last).filter(|_| !page.is_end);
        }
        let later = link.queue.split_off(&seq.saturating_add(1));
        let mut taken = std::mem::replace(&mut link.queue, later);
        for number in except {
            if let Some(queued) = taken.remove(number) {
                link.queue.insert(*number, queued);
            }
        }
        for queued in taken.values() {
            link.owed.remove(&queued.since);
        }
        Some(taken.into_values().filter(|queued| self.leave_queue(&queued.id)).count())
    }

    /// What has this number in the queue of a link could not be read when it was its turn, and has not left either: it
    /// waits, and keeps nothing else from being taken.
    pub fn pass_over(&mut self, name: &str, seq: u64) {
        if let Some(link) = self.links.get_mut(name)
            && let Some(queued) = link.queue.remove(&seq)
        {
            link.passed_over.insert(seq, queued);
        }
    }

    /// Every tombstone from before a link was attached is with it, or on its way.
    pub fn tombstones_done(&mut self, name: &str) {
        if let Some(link) = self.links.get_mut(name) {
            (link.tombstones_after, link.tombstone_page) = (None, None);
        }
    }

    /// An id was written here, or by `origin`. `seq` replays a given number (replica, AOF). Returns its sequence
    /// number, or `None` when no link waits for it.
    ///
    /// What a link brings over a copy that was dropped before it was taken is not what the id comes to have, which is
    /// what that copy and this make together: it is brought back all the same.
    pub fn written(&mut self, id: &str, origin: Option<&str>, seq: Option<u64>) -> Option<u64> {
        for link in self.links.values_mut().filter(|link| !link.refused.is_empty()) {
            link.refused.remove(id);
        }
        if self.links.is_empty() {
            return None;
        }
        let (id, mut waiting) = self.take(id);
        // What comes over a link was not written over the copy that was dropped, and does not stand for it.
        waiting.copy_is_aside &= origin.is_none();
        if origin.is_none() || waiting.aside.is_empty() {
            waiting.dropped = None;
        }
        waiting.is_written = true;
        waiting.origin = origin.map(Into::into);
        self.put(id, waiting, seq)
    }

    /// A client has written what waits under an id; `None` for one that nobody knows.
    pub fn is_by(&mut self, id: &str, client: Option<u64>) {
        if let Some(waiting) = self.entries.get_mut(id) {
            waiting.writers.add(client);
        }
    }

    /// The copy of an id was dropped. Its revision is kept aside if a link has still to take it; a link that mirrors
    /// the id then brings the copy back. Returns its sequence number, or `None` when no link is to be told.
    pub fn dropped(&mut self, id: &str, version: Version, encoded: impl FnOnce() -> Vec<u8>) -> Option<u64> {
        if self.links.is_empty() {
            return None;
        }
        let (id, mut waiting) = self.take(id);
        if std::mem::take(&mut waiting.is_written) {
            waiting.keep_copy(encoded());
        }
        let is_brought_back = &*id == EVERYTHING || self.is_brought_back(&id);
        waiting.dropped = is_brought_back.then_some(version);
        waiting.origin = None;
        self.put(id, waiting, None)
    }

    /// Every copy was dropped; `version_high` is the highest version there was.
    pub fn everything_dropped(&mut self, version_high: Version) -> Option<u64> {
        self.dropped(EVERYTHING, version_high, Vec::new)
    }

    /// A copy that was just dropped has expired, and is meant to be gone: no link is to bring it back. What of it was
    /// not taken yet waits all the same.
    pub fn expired(&mut self, id: &str) {
        let Some(waiting) = self.entries.get(id) else { return };
        if waiting.dropped.is_none() {
            return;
        }
        let seq = waiting.seq;
        let (id, mut waiting) = self.take(id);
        waiting.dropped = None;
        self.put(id, waiting, Some(seq));
    }

    /// Keeps a revision aside whose place another one of its version took, and that no link has taken.
    pub fn keep_loser(&mut self, id: &str, encoded: Vec<u8>) {
        self.change(id, |waiting| waiting.aside.push(encoded.into()));
    }

    /// Keeps the revision aside that an id has in a keyspace which is about to be emptied, or had in one that was.
    pub fn keep_copy(&mut self, id: &str, encoded: Vec<u8>) {
        self.change(id, |waiting| {
            waiting.is_written = false;
            waiting.keep_copy(encoded);
        });
    }

    /// Changes what waits under an id, if anything does.
    fn change(&mut self, id: &str, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = self.entries.get_mut(id) {
            self.bytes = self.bytes.saturating_sub(waiting.cost(id));
            change(waiting);
            self.bytes += waiting.cost(id);
        }
    }

    /// The version an absent id had before its copy was dropped, so that the next write goes on counting.
    pub fn dropped_version(&self, id: &str) -> Option<Version> {
        let of = |id: &str| self.get(id).and_then(|waiting| waiting.dropped);
        of(id).or_else(|| of(EVERYTHING))
    }

    /// Restores an entry as it was saved. Its links were restored before it.
    pub fn restore(&mut self, id: &str, waiting: Waiting) {
        let (id, _) = self.take(id);
        let (seq, waiting) = (waiting.seq, Waiting { takers: 0, ..waiting });
        self.put(id, waiting, Some(seq));
    }

    /// Restores a link. What it has not taken of the entries that are there waits for it.
    pub fn restore_link(&mut self, name: &str, mut link: Link) {
        for (id, waiting) in &mut self.entries {
            if link.is_open(waiting.seq) && waiting.concerns(id, name, &link.scope) {
                self.bytes = self.bytes.saturating_sub(waiting.cost(id));
                waiting.takers += 1;
                self.bytes += waiting.cost(id);
                link.release(id, waiting.seq, true);
            }
        }
        self.links.insert(name.into(), link);
    }

    /// A link as it was saved: what has a number up to `acked` waits for it only where that is among `open`.
    pub fn saved_link(scope: Scope, acked: u64, open: BTreeSet<u64>) -> Link {
        Link { open, ..Link::new(scope, acked) }
    }

    /// Makes the counter at least what it was elsewhere.
    pub fn restore_seq(&mut self, last_seq: u64) {
        self.last_seq = self.last_seq.max(last_seq);
    }

    /// Takes an entry out of the set; an empty one if there is none.
    fn take(&mut self, id: &str) -> (Rc<str>, Waiting) {
        let Some((id, mut waiting)) = self.entries.remove_entry(id) else {
            self.links.values_mut().for_each(|link| link.held = None);
            return (id.into(), Waiting::default());
        };
        self.bytes = self.bytes.saturating_sub(waiting.cost(&id));
        self.dropped -= usize::from(waiting.dropped.is_some());
        for link in self.links.values_mut() {
            link.hold(waiting.seq);
        }
        waiting.takers = 0;
        (id, waiting)
    }

    /// Puts an entry into the queues of those whom it concerns, under a new number unless one is given.
    fn put(&mut self, id: Rc<str>, mut waiting: Waiting, seq: Option<u64>) -> Option<u64> {
        let seq = match seq {
            Some(seq) if self.links.values().all(|link| !link.has(seq)) => seq,
            _ => self.last_seq.saturating_add(1),
        };
        waiting.seq = seq;
        waiting.written_seq = if waiting.is_written { seq } else { waiting.written_seq };
        for (name, link) in &mut self.links {
            let concerns = link.is_open(seq) && waiting.concerns(&id, name, &link.scope);
            link.release(&id, seq, concerns);
            waiting.takers += u32::from(concerns);
        }
        if waiting.takers == 0 {
            return None;
        }
        self.last_seq = self.last_seq.max(seq);
        self.bytes += waiting.cost(&id);
        self.dropped += usize::from(waiting.dropped.is_some());
        self.entries.insert(id, waiting);
        Some(seq)
    }

    /// An entry is in one queue less. Returns whether nobody waits for it any more.
    fn leave_queue(&mut self, id: &Rc<str>) -> bool {
        let Some(waiting) = self.entries.get_mut(id) else { return false };
        self.bytes = self.bytes.saturating_sub(waiting.cost(id));
        waiting.takers = waiting.takers.saturating_sub(1);
        if waiting.takers > 0 {
            self.bytes += waiting.cost(id);
            return false;
        }
        self.dropped -= usize::from(waiting.dropped.is_some());
        self.entries.remove(id);
        true
    }
}
