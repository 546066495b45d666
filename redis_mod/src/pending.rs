//! What the links have not taken yet: the ids written here and not acknowledged, in order of their last write
//! (DESIGN section 6). Revisions join, so an id stands in the set once however often it was written, and its
//! current revision is read from the keyspace when a link pulls. What can no longer be read there (the copy was
//! dropped, or a foreign revision of the same version replaced it) is kept aside, encoded, until acknowledged.
//!
//! Each link has a queue of its own, of what it carries and is to be told. An id that is in no queue is not in the
//! set. A link takes what is in its queue in order, but it need not take all: what somebody is in the way of on the other
//! side stays in the queue behind what is acknowledged, and so does what can neither be read nor has left when it is
//! its turn, as Redis deletes no expired copy while it holds writes back.
//!
//! No Redis type here: the rules are tested without a server.

use crate::writers::Writers;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use tandem_shared::link::Scope;
use tandem_shared::{Range, Version};

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
    queue: BTreeMap<u64, Queued>,
    /// What waits for it, and could not be read when it was its turn. It gets another number, and is back in the queue, when
    /// that has changed.
    passed_over: BTreeMap<u64, Queued>,
    /// The numbers since which something waits for it, with those under which it waits now.
    owed: BTreeMap<u64, u64>,
    /// The numbers up to `acked` under which something waited for it when it was saved.
    open: BTreeSet<u64>,
    /// Number of the entry that is taken out of the set at present, and since when it waited for this link.
    held: Option<(u64, u64)>,
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
struct Queued {
    id: Rc<str>,
    /// The number under which it waited first. What was written under that has not been taken, however often the id
    /// was written again since.
    since: u64,
}

impl Link {
    fn new(scope: Scope, acked: u64) -> Link {
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
    fn has(&self, seq: u64) -> bool {
        self.queue.contains_key(&seq) || self.passed_over.contains_key(&seq)
    }

    /// Whether what has a number may wait for it.
    fn is_open(&self, seq: u64) -> bool {
        seq > self.acked || self.open.contains(&seq) || self.held.is_some_and(|(number, _)| number == seq)
    }

    fn into_queued(self) -> impl Iterator<Item = Queued> {
        self.queue.into_values().chain(self.passed_over.into_values())
    }

    /// An entry leaves the queue while it is changed.
    fn hold(&mut self, seq: u64) {
        let queued = self.queue.remove(&seq).or_else(|| self.passed_over.remove(&seq));
        self.held = queued.map(|queued| (seq, queued.since));
    }

    /// It comes back under another number, if it still concerns the link.
    fn release(&mut self, id: &Rc<str>, seq: u64, concerns: bool) {
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

    /// Whether a link has taken all that it takes of what has a number up to `seq`, as far as a client has to wait for it
    /// that has written some of it; `None` for one that nobody knows. What the link has gone past, because somebody is in
    /// its way, nobody waits for who has not written it.
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

    /// A link has taken everything up to `seq` that it was told of, but for what has the numbers `except` and for the ids
    /// refused. Returns how many entries nobody waits for any more.
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
    /// What a link brings over a copy that was dropped before it was taken is not what the id comes to have, which is what
    /// that copy and this make together: it is brought back all the same.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number.into()).unwrap()
    }

    /// A set with links that carry everything both ways, and were compared.
    fn with_links(names: &[&str]) -> Pending {
        let mut pending = Pending::default();
        for name in names {
            assert!(pending.attach(name, &Scope::everything(), false), "{name} is new");
            pending.link_mut(name).unwrap().is_compared = true;
        }
        pending
    }

    fn with_scope(words: [&str; 3]) -> Pending {
        let mut pending = Pending::default();
        pending.attach("pg", &Scope::parse(words[0], words[1], words[2]).unwrap(), false);
        pending.link_mut("pg").unwrap().is_compared = true;
        pending
    }

    fn ids(pending: &Pending, link: &str, after: u64) -> Vec<(u64, String)> {
        pending.after(link, after).map(|(id, waiting)| (waiting.seq, id.to_owned())).collect()
    }

    #[test]
    fn without_links_nothing_waits() {
        let mut pending = Pending::default();
        assert_eq!(pending.written("a", None, None), None);
        assert_eq!(pending.dropped("a", version(1), Vec::new), None);
        assert_eq!((pending.len(), pending.bytes(), pending.last_seq()), (0, 0, 0));
    }

    #[test]
    fn an_id_waits_once_in_order_of_its_last_write() {
        let mut pending = with_links(&["pg"]);
        assert!(!pending.attach("pg", &Scope::everything(), false), "as it was");
        for id in ["a", "b", "a"] {
            pending.written(id, None, None);
        }
        assert_eq!(ids(&pending, "pg", 0), [(2, "b".into()), (3, "a".into())]);
        assert_eq!(pending.acknowledge("pg", 2, &[], &[]), Some(1));
        assert_eq!(ids(&pending, "pg", 0), [(3, "a".into())]);
        pending.written("a", None, None);
        assert_eq!(pending.acknowledge("pg", 3, &[], &[]), Some(0), "written again after it was pulled");
        assert_eq!(pending.acknowledge("pg", 4, &[], &[]), Some(1));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
        assert_eq!(pending.acknowledge("other", 4, &[], &[]), None);
    }

    #[test]
    fn a_link_is_told_of_what_it_carries_and_takes() {
        let mut pending = with_scope(["a:", "mirror", "both"]);
        assert!(
            pending.written("a:1", None, None).is_some() && pending.written("tandem/x", None, None).is_some()
        );
        assert_eq!(pending.written("b", None, None), None);
        assert_eq!(pending.dropped("b", version(1), Vec::new), None);
        assert!(pending.is_taken("a:1") && !pending.is_taken("b"));

        let mut pending = with_scope(["", "mirror", "to_redis"]);
        assert_eq!(pending.written("a", None, None), None, "it takes nothing");
        assert!(pending.dropped("a", version(1), || unreachable!()).is_some(), "it brings the copy back");
        let mut pending = with_scope(["", "mirror", "from_redis"]);
        assert!(pending.written("a", None, None).is_some());
        pending.acknowledge("pg", 1, &[], &[]);
        assert_eq!(pending.dropped("a", version(1), || unreachable!()), None, "it brings nothing back");
        let mut pending = with_scope(["", "cache", "both"]);
        assert_eq!(
            pending.dropped("a", version(1), || unreachable!()),
            None,
            "a cache may drop what it likes"
        );
        pending.written("a", None, None);
        assert!(pending.dropped("a", version(2), || vec![1]).is_some(), "but what is not taken is kept");
        assert_eq!(pending.get("a").unwrap().dropped, None);
        assert!(pending.everything_dropped(version(2)).is_some());
    }

    #[test]
    fn the_slowest_link_decides_and_origins_are_told_apart() {
        let mut pending = with_links(&["one"]);
        assert_eq!(pending.written("a", Some("one"), None), None, "the only link knows it");
        pending.attach("two", &Scope::everything(), false);
        pending.written("a", Some("one"), None);
        assert!(!pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("three", "a"));
        pending.written("a", None, None);
        assert!(pending.waits("one", "a") && pending.waits("two", "a"));
        assert_eq!(pending.acknowledge("one", pending.last_seq(), &[], &[]), Some(0));
        assert!(!pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("two", "b"));
        assert!(pending.detach("two"));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn what_one_link_brought_is_kept_for_the_other() {
        let mut pending = with_links(&["one", "two"]);
        pending.written("a", Some("one"), None);
        pending.dropped("a", version(7), || vec![7]);
        let waiting = pending.get("a").unwrap();
        assert_eq!((waiting.aside.len(), waiting.dropped), (1, Some(version(7))));
        assert!(pending.waits("two", "a"));
    }

    #[test]
    fn dropped_copies_are_kept_aside_until_acknowledged() {
        let mut pending = with_links(&["pg"]);
        pending.written("a", None, None);
        pending.dropped("a", version(7), || vec![1, 2]);
        pending.dropped("b", version(3), || unreachable!("b was acknowledged"));
        assert_eq!(pending.get("a").unwrap().aside.len(), 1);
        assert_eq!(pending.dropped_version("a"), Some(version(7)));
        pending.written("a", None, None);
        assert_eq!(pending.get("a").unwrap().aside.len(), 1, "both revisions travel");
        pending.everything_dropped(version(9));
        assert_eq!(pending.dropped_version("zzz"), Some(version(9)));
        assert!(pending.has_dropped());
        pending.acknowledge("pg", pending.last_seq(), &[], &[]);
        assert!(!pending.has_dropped());
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn an_expired_copy_waits_only_as_long_as_it_is_not_taken() {
        let mut pending = with_links(&["pg"]);
        pending.dropped("a", version(7), || unreachable!("a was acknowledged"));
        pending.expired("a");
        assert_eq!((pending.len(), pending.bytes(), pending.has_dropped()), (0, 0, false));
        assert!(
            pending.has_taken(pending.link("pg").unwrap(), pending.last_seq(), None),
            "nobody waits for its number"
        );
        pending.written("a", None, None);
        pending.dropped("a", version(8), || vec![1]);
        pending.expired("a");
        let waiting = pending.get("a").unwrap();
        assert_eq!((waiting.aside.len(), waiting.dropped, pending.has_dropped()), (1, None, false));
        pending.expired("a");
        assert_eq!(pending.acknowledge("pg", pending.last_seq(), &[], &[]), Some(1));
    }

    #[test]
    fn a_write_is_taken_when_it_or_a_later_one_is() {
        let mut pending = with_links(&["pg"]);
        let taken = |pending: &Pending, seq| pending.has_taken(pending.link("pg").unwrap(), seq, None);
        let first = pending.written("a", None, None).unwrap();
        assert!(!taken(&pending, first));
        let second = pending.written("a", None, None).unwrap();
        assert!(!taken(&pending, first), "the id was written again; nothing of it was taken");
        pending.dropped("a", version(2), || vec![1]);
        assert!(!taken(&pending, first) && !taken(&pending, second));
        pending.acknowledge("pg", second, &[], &[]);
        assert!(!taken(&pending, first), "that number is not what waits");
        pending.acknowledge("pg", pending.last_seq(), &[], &[]);
        assert!(taken(&pending, first) && taken(&pending, second));
        let third = pending.written("a", None, None).unwrap();
        pending.written("a", Some("pg"), None);
        assert!(taken(&pending, third), "the link itself has gone on");
        pending.link_mut("pg").unwrap().is_compared = false;
        assert!(!taken(&pending, third), "nobody knows what the other side has");
    }

    #[test]
    fn an_acknowledgement_leaves_what_it_excepts() {
        let mut pending = with_links(&["pg"]);
        for (id, client) in [("a", 1), ("b", 2), ("c", 3)] {
            pending.written(id, None, None);
            pending.is_by(id, Some(client));
        }
        let taken = |pending: &Pending, seq, client| {
            pending.has_taken(pending.link("pg").unwrap(), seq, Some(client))
        };
        assert!((1..4).all(|client| !taken(&pending, 3, client)), "nothing is acknowledged");
        assert_eq!(pending.acknowledge("pg", 2, &[1], &[]), Some(1));
        assert!(!taken(&pending, 3, 2), "what comes after that may be anybody's");
        assert!(taken(&pending, 2, 2) && !taken(&pending, 2, 1));
        pending.acknowledge("pg", 3, &[1], &[]);
        assert_eq!(ids(&pending, "pg", 0), [(1, "a".into())]);
        assert!(!pending.link("pg").unwrap().has_after(3), "the session has it");
        assert!(taken(&pending, 3, 2) && !taken(&pending, 3, 1));
        assert!(!pending.has_taken(pending.link("pg").unwrap(), 3, None), "nobody knows whose it is");
        // One that says less again, or the same again, changes nothing.
        assert_eq!(pending.acknowledge("pg", 2, &[1], &[]), Some(0));
        assert_eq!(pending.acknowledge("pg", 3, &[1, 2], &[]), Some(0));
        assert_eq!((pending.link("pg").unwrap().acked, pending.len()), (3, 1));
        // It is written again while somebody is in the way of what was there before.
        pending.written("a", None, None);
        pending.is_by("a", Some(4));
        assert!(taken(&pending, 4, 2), "client 2 has nothing to do with it");
        assert!(!taken(&pending, 4, 4) && !taken(&pending, 3, 1));
        assert_eq!(pending.acknowledge("pg", 3, &[], &[]), Some(0), "that was not this one");
        assert_eq!(pending.acknowledge("pg", 4, &[], &[]), Some(1));
        assert!(taken(&pending, 4, 1) && taken(&pending, 4, 4));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn what_is_excepted_changes_as_anything_else_that_waits() {
        let mut pending = with_links(&["pg"]);
        for id in ["a", "b", "c"] {
            pending.written(id, None, None);
        }
        pending.acknowledge("pg", 3, &[1, 2, 3], &[]);
        pending.dropped("a", version(7), || vec![1]);
        assert_eq!(ids(&pending, "pg", 3), [(4, "a".into())], "the link is told that it is to come back");
        pending.dropped("b", version(7), || vec![1]);
        pending.expired("b");
        pending.written("c", Some("pg"), None);
        assert_eq!(ids(&pending, "pg", 3), [(4, "a".into()), (5, "b".into())]);
        pending.acknowledge("pg", 5, &[4, 5], &[]);
        let scope = Scope::parse("a", "mirror", "both").unwrap();
        assert!(pending.attach("pg", &scope, false), "it carries something else");
        assert_eq!(ids(&pending, "pg", 0), [(4, "a".into())]);
        pending.check();
        assert_eq!(pending.acknowledge("pg", 5, &[], &[]), Some(1));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_stays_owed() {
        let mut pending = with_links(&["pg", "other"]);
        for id in ["a", "b"] {
            pending.written(id, None, None);
            pending.is_by(id, Some(1));
        }
        pending.pass_over("pg", 1);
        pending.check();
        assert_eq!(ids(&pending, "pg", 0), [(2, "b".into())]);
        assert_eq!(ids(&pending, "other", 0).len(), 2, "the other link was not at it yet");
        assert!(pending.waits("pg", "a"));
        pending.acknowledge("pg", 2, &[], &[]);
        let link = pending.link("pg").unwrap();
        assert_eq!((link.len(), link.has_after(0), link.open_up_to(2)), (1, false, vec![1]));
        assert!(pending.has_taken(link, 2, Some(2)) && !pending.has_taken(link, 2, Some(1)));
        assert_eq!(link.passed_over().collect::<Vec<_>>(), [("a", 1)]);
        pending.acknowledge("other", 2, &[], &[]);
        // Redis deletes it at last.
        pending.dropped("a", version(1), || vec![1]);
        pending.expired("a");
        pending.check();
        assert_eq!(ids(&pending, "pg", 2), [(3, "a".into())]);
        assert_eq!(pending.get("a").unwrap().aside.len(), 1);
        assert!(pending.detach("other"));
        pending.pass_over("pg", 3);
        assert!(pending.detach("pg"));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    /// Else Redis keeps what the link has brought, and Postgres has what was aside.
    #[test]
    fn a_copy_that_was_dropped_untaken_is_brought_back_whatever_comes_meanwhile() {
        let mut pending = with_links(&["pg"]);
        pending.written("a", None, None);
        pending.dropped("a", version(7), || vec![1]);
        pending.written("a", Some("pg"), None);
        assert_eq!(pending.get("a").unwrap().dropped, Some(version(7)));
        assert_eq!(ids(&pending, "pg", 0), [(3, "a".into())]);
        pending.written("a", None, None);
        assert_eq!(pending.get("a").unwrap().dropped, None, "a client goes on from there");
        pending.acknowledge("pg", 4, &[], &[]);
        pending.dropped("a", version(8), || unreachable!("it was taken"));
        pending.written("a", Some("pg"), None);
        assert_eq!((pending.len(), pending.has_dropped()), (0, false), "it is back");
    }

    #[test]
    fn what_was_refused_is_known_until_it_is_written_again() {
        let mut pending = with_links(&["pg"]);
        let first = pending.written("a", None, None).unwrap();
        pending.written("b", None, None);
        pending.written("c", None, None);
        pending.dropped("a", version(1), || vec![1]);
        pending.written("c", None, None);
        pending.acknowledge("pg", 4, &[], &["a", "c"]);
        let refused = |pending: &Pending| pending.link("pg").unwrap().refused.clone();
        assert_eq!(refused(&pending), BTreeMap::from([("a".into(), first)]), "c was written since");
        assert!(pending.bytes() > 0);
        pending.written("a", None, None);
        assert!(refused(&pending).is_empty());
    }

    #[test]
    fn an_id_that_is_written_and_dropped_again_and_again_keeps_one_copy() {
        let mut pending = with_links(&["pg"]);
        pending.written("a", None, None);
        pending.keep_loser("a", vec![0; 10]);
        let mut sizes = Vec::new();
        for number in 1..5 {
            pending.written("a", None, None);
            pending.dropped("a", version(number), || vec![number as u8; 20]);
            sizes.push(pending.bytes());
        }
        pending.written("a", None, None);
        pending.keep_copy("a", vec![9; 20]);
        let aside: Vec<&[u8]> = pending.get("a").unwrap().aside.iter().map(AsRef::as_ref).collect();
        assert_eq!(aside, [&[9; 20][..], &[0; 10]]);
        assert!(sizes.iter().all(|size| *size == pending.bytes()), "{sizes:?}");
        pending.written("a", Some("pg"), None);
        pending.written("a", None, None);
        pending.dropped("a", version(9), || vec![7; 20]);
        assert_eq!(pending.get("a").unwrap().aside.len(), 3, "a link wrote in between");
    }

    #[test]
    fn a_link_that_carries_something_else_loses_nothing_that_is_aside() {
        let mut pending = with_links(&["pg"]);
        pending.written("a:1", None, None);
        pending.written("b:1", None, None);
        pending.dropped("a:1", version(1), || vec![1]);
        let scope = Scope::parse("a:", "mirror", "both").unwrap();
        assert!(pending.attach("pg", &scope, true));
        assert_eq!(pending.entries().map(|(id, _)| id).collect::<Vec<_>>(), ["a:1"]);
        assert!(pending.waits("pg", "a:1") && pending.bytes() > 0);
        let link = pending.link("pg").unwrap();
        assert!(!link.is_compared && link.owes_tombstone("a:2") && !link.owes_tombstone("b"));
        pending.acknowledge("pg", pending.last_seq(), &[], &[]);
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn replay_keeps_sequence_numbers() {
        let mut pending = with_links(&["pg"]);
        assert_eq!(pending.written("a", None, Some(10)), Some(10));
        assert_eq!(pending.written("b", None, Some(10)), Some(11), "a number is used once");
        assert_eq!(pending.last_seq(), 11);
    }

    #[test]
    fn what_is_restored_waits_for_whom_it_waited() {
        let mut pending = with_links(&["one", "two"]);
        for id in ["a", "b", "c"] {
            pending.written(id, None, None);
        }
        pending.written("d", Some("one"), None);
        pending.acknowledge("one", 2, &[1], &[]);
        pending.pass_over("one", 3);
        pending.acknowledge("one", 3, &[1], &[]);
        let mut again = Pending::default();
        for (name, link) in pending.links() {
            let open = link.open_up_to(link.acked).into_iter().collect();
            again.restore_link(name, Pending::saved_link(link.scope.clone(), link.acked, open));
        }
        for (id, waiting) in pending.entries() {
            again.restore(id, waiting.clone());
        }
        again.restore_seq(pending.last_seq());
        again.check();
        assert_eq!(ids(&again, "two", 0), ids(&pending, "two", 0));
        assert_eq!(ids(&again, "one", 0), [(1, "a".into()), (3, "c".into())], "also what was passed over");
        assert_eq!((again.bytes(), again.last_seq()), (pending.bytes(), pending.last_seq()));
    }

    impl Pending {
        /// Queues, counters and entries say the same.
        fn check(&self) {
            let bytes: usize = self.entries.iter().map(|(id, waiting)| waiting.cost(id)).sum();
            assert_eq!(self.bytes, bytes);
            assert_eq!(
                self.dropped,
                self.entries.values().filter(|waiting| waiting.dropped.is_some()).count()
            );
            for (id, waiting) in &self.entries {
                let queues = self.links.values().filter(|link| {
                    let queued = link.queue.get(&waiting.seq).or_else(|| link.passed_over.get(&waiting.seq));
                    queued.is_some_and(|queued| queued.id == *id)
                });
                assert!(waiting.takers > 0 && queues.count() == waiting.takers as usize, "{id}: {waiting:?}");
            }
            for link in self.links.values() {
                let all = || link.queue.iter().chain(&link.passed_over);
                let owed: BTreeMap<u64, u64> = all().map(|(seq, queued)| (queued.since, *seq)).collect();
                assert_eq!((&owed, owed.len()), (&link.owed, link.len()));
                for (seq, queued) in all() {
                    assert!(queued.since <= *seq && link.held.is_none());
                    assert_eq!(self.entries[&queued.id].seq, *seq);
                }
            }
        }
    }

    /// Whatever is written, dropped and acknowledged in whatever order: a link has taken a write only when it has
    /// acknowledged it or one over it, or has written over it itself.
    #[test]
    fn no_write_is_taken_too_early() {
        const LINKS: [(&str, [&str; 3]); 4] = [
            ("all", ["", "mirror", "both"]),
            ("some", ["a", "mirror", "both"]),
            ("cache", ["", "cache", "both"]),
            ("down", ["", "mirror", "to_redis"]),
        ];
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200 {
            let mut pending = Pending::default();
            let mut open: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
            for (name, words) in LINKS {
                let scope = Scope::parse(words[0], words[1], words[2]).unwrap();
                pending.attach(name, &scope, false);
                pending.link_mut(name).unwrap().is_compared = true;
            }
            for step in 0..60 {
                let id = ["a1", "a2", "b1", "b2"][next(4) as usize];
                let (name, _) = LINKS[next(4) as usize];
                match next(7) {
                    0 | 1 => {
                        let seq = pending.written(id, None, None);
                        for (name, link) in &pending.links {
                            let name = LINKS.iter().find(|(each, _)| *each == &**name).unwrap().0;
                            if takes(&link.scope, id) {
                                open.entry(name).or_default().push((seq.unwrap(), id.to_owned()));
                            }
                        }
                    }
                    2 if pending.link(name).unwrap().scope.to_redis() => {
                        let is_aside = pending.get(id).is_some_and(|waiting| !waiting.aside.is_empty());
                        pending.written(id, Some(name), None);
                        if !is_aside {
                            open.entry(name).or_default().retain(|(_, each)| each != id);
                        }
                    }
                    3 => drop(pending.dropped(id, version(step + 1), || vec![0; 10])),
                    4 => {
                        pending.dropped(id, version(step + 1), || vec![0; 10]);
                        pending.expired(id);
                    }
                    5 => {
                        if let Some(seq) = pending.get(id).map(|waiting| waiting.seq) {
                            pending.pass_over(name, seq);
                        }
                    }
                    _ => {
                        let seq = next(pending.last_seq() + 1);
                        let except: Vec<u64> = (0..next(3)).map(|_| next(seq + 1)).collect();
                        let link = pending.link(name).unwrap();
                        let unread: Vec<u64> = link.passed_over().map(|(_, number)| number).collect();
                        let before: BTreeMap<String, u64> =
                            pending.entries().map(|(id, waiting)| (id.to_owned(), waiting.seq)).collect();
                        pending.acknowledge(name, seq, &except, &[]);
                        let is_left = |number: &u64| except.contains(number) || unread.contains(number);
                        let is_taken = |id: &String| {
                            before.get(id).is_none_or(|number| *number <= seq && !is_left(number))
                        };
                        open.entry(name).or_default().retain(|(_, id)| !is_taken(id));
                    }
                }
                pending.check();
                for (name, writes) in &open {
                    for (seq, id) in writes {
                        assert!(
                            !pending.has_taken(pending.link(name).unwrap(), *seq, None),
                            "{name} has not taken {id}"
                        );
                    }
                }
            }
            for id in ["a1", "a2", "b1", "b2"] {
                pending.written(id, None, None);
            }
            for (name, _) in LINKS {
                pending.acknowledge(name, pending.last_seq(), &[], &[]);
                assert!(pending.has_taken(pending.link(name).unwrap(), pending.last_seq(), None));
            }
            assert_eq!((pending.len(), pending.bytes()), (0, 0));
        }
    }
}
