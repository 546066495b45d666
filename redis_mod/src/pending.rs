//! What the links have not taken yet: the ids written here and not acknowledged, in order of their last write
//! (DESIGN section 6). Revisions join, so an id stands in the set once however often it was written, and its
//! current revision is read from the keyspace when a link pulls. What can no longer be read there (the copy was
//! dropped, or a foreign revision of the same version replaced it) is kept aside, encoded, until acknowledged.
//!
//! No Redis type here: the rules are tested without a server.

use std::collections::BTreeMap;
use std::ops::Bound;
use tandem_shared::{Range, Version};

/// The id under which "every copy was dropped" waits: no item can have it.
pub const EVERYTHING: &str = "";

/// Fixed cost of a waiting id in the books, beside its text and what is kept aside.
const ENTRY_BYTES: usize = 160;

/// One id that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The id, or [`EVERYTHING`].
    pub id: Box<str>,
    /// Encoded revisions that the keyspace no longer holds.
    pub aside: Vec<Box<[u8]>>,
    /// The first of them is of a copy that was dropped: a later one takes its place, as a later write does in the
    /// keyspace.
    pub copy_is_aside: bool,
    /// The copy here was dropped (not removed) when it had this version.
    pub dropped: Option<Version>,
    /// The link that brought the revision, which needs not be told.
    pub origin: Option<Box<str>>,
}

impl Waiting {
    fn keep_copy(&mut self, encoded: Vec<u8>) {
        match self.aside.first_mut().filter(|_| self.copy_is_aside) {
            Some(copy) => *copy = encoded.into(),
            None => self.aside.insert(0, encoded.into()),
        }
        self.copy_is_aside = true;
    }
}

/// The waiting ids of one database and the links they wait for.
#[derive(Debug, Default)]
pub struct Pending {
    last_seq: u64,
    by_seq: BTreeMap<u64, Waiting>,
    by_id: BTreeMap<Box<str>, u64>,
    links: BTreeMap<Box<str>, u64>,
    bytes: usize,
    dropped: usize,
}

impl Pending {
    /// The sequence number given last.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Number of waiting ids.
    pub fn len(&self) -> usize {
        self.by_seq.len()
    }

    /// Estimated memory of the set, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The links and the sequence each has acknowledged.
    pub fn links(&self) -> impl Iterator<Item = (&str, u64)> {
        self.links.iter().map(|(name, acked)| (name.as_ref(), *acked))
    }

    /// Whether any link is attached.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether this link is attached.
    pub fn has_link(&self, name: &str) -> bool {
        self.links.contains_key(name)
    }

    /// Whether the copy of any id was dropped and is still waiting.
    pub fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// The sequence number under which an id waits.
    pub fn seq(&self, id: &str) -> Option<u64> {
        self.by_id.get(id).copied()
    }

    /// What a link has acknowledged.
    pub fn acknowledged(&self, name: &str) -> Option<u64> {
        self.links.get(name).copied()
    }

    /// The waiting entry of an id.
    pub fn get(&self, id: &str) -> Option<&Waiting> {
        self.by_seq.get(self.by_id.get(id)?)
    }

    /// Whether a link has still to take an id; a drop of everything waits for each.
    pub fn waits(&self, link: &str, id: &str) -> bool {
        let Some(acked) = self.links.get(link) else { return false };
        let seq = |id: &str| self.by_id.get(id).is_some_and(|seq| seq > acked);
        seq(id) || seq(EVERYTHING)
    }

    /// Ids that wait, in byte order.
    pub fn ids(&self, range: &Range) -> impl Iterator<Item = &str> {
        let start = range.start.as_str().max("\u{1}");
        let ids = self.by_id.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        let end = range.end.clone();
        ids.map(|(id, _)| id.as_ref()).take_while(move |id| end.as_deref().is_none_or(|end| *id < end))
    }

    /// All entries after `seq`, in order.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = (u64, &Waiting)> {
        let start = seq.saturating_add(1);
        self.by_seq.range(start..).map(|(seq, waiting)| (*seq, waiting))
    }

    /// Attaches a link. What is in the keyspace before is compared, not queued. True if the name is new.
    pub fn attach(&mut self, name: &str) -> bool {
        if self.links.contains_key(name) {
            return false;
        }
        self.links.insert(name.into(), self.last_seq);
        true
    }

    /// Forgets a link and what waited for it only. False if it was not attached.
    pub fn detach(&mut self, name: &str) -> bool {
        let known = self.links.remove(name).is_some();
        self.forget_acknowledged();
        known
    }

    /// A link has taken everything up to `seq`. Returns how many entries nobody waits for any more.
    pub fn acknowledge(&mut self, name: &str, seq: u64) -> Option<usize> {
        let last_seq = self.last_seq;
        let acked = self.links.get_mut(name)?;
        *acked = (*acked).max(seq.min(last_seq));
        Some(self.forget_acknowledged())
    }

    /// An id was written here, or by `origin`. `seq` replays a given number (replica, AOF). Returns its sequence
    /// number, or `None` when no link waits for it.
    pub fn written(&mut self, id: &str, origin: Option<&str>, seq: Option<u64>) -> Option<u64> {
        if origin.is_some() {
            // What comes over a link was not written over the copy that was dropped, and does not stand for it.
            self.change(id, |waiting| waiting.copy_is_aside = false);
        }
        if !self.links.keys().any(|name| Some(name.as_ref()) != origin) {
            self.settled(id);
            return None;
        }
        let mut waiting = self.take(id);
        waiting.dropped = None;
        waiting.origin = origin.map(Into::into);
        Some(self.put(waiting, seq))
    }

    /// The revision of an id came from the only link, or it expired: nobody needs to be told of the current one.
    pub fn settled(&mut self, id: &str) {
        let Some(seq) = self.by_id.get(id).copied() else { return };
        match self.by_seq.get_mut(&seq) {
            Some(waiting) if !waiting.aside.is_empty() => {
                self.dropped -= usize::from(waiting.dropped.take().is_some());
            }
            _ => {
                self.take(id);
            }
        }
    }

    /// The copy of an id was dropped. Its revision is kept aside if a link still waits for it; the link then
    /// decides whether to bring the copy back. Does nothing without links.
    pub fn dropped(&mut self, id: &str, version: Version, encoded: impl FnOnce() -> Vec<u8>) {
        if !self.has_links() {
            return;
        }
        let waits = self.by_id.contains_key(id);
        let mut waiting = self.take(id);
        if waits && waiting.dropped.is_none() && waiting.origin.is_none() {
            waiting.keep_copy(encoded());
        }
        waiting.dropped = Some(version);
        waiting.origin = None;
        self.put(waiting, None);
    }

    /// Every copy was dropped; `version_high` is the highest version there was.
    pub fn everything_dropped(&mut self, version_high: Version) {
        self.dropped(EVERYTHING, version_high, Vec::new);
    }

    /// Keeps a revision aside whose place another one of its version took, and that no link has taken.
    pub fn keep_loser(&mut self, id: &str, encoded: Vec<u8>) {
        self.change(id, |waiting| waiting.aside.push(encoded.into()));
    }

    /// Keeps the revision aside that an id has in a keyspace which is about to be emptied.
    pub fn keep_copy(&mut self, id: &str, encoded: Vec<u8>) {
        self.change(id, |waiting| waiting.keep_copy(encoded));
    }

    /// Changes what waits under an id, if anything does.
    fn change(&mut self, id: &str, change: impl FnOnce(&mut Waiting)) {
        if let Some(waiting) = self.by_id.get(id).and_then(|seq| self.by_seq.get_mut(seq)) {
            self.bytes = self.bytes.saturating_sub(cost(waiting));
            change(waiting);
            self.bytes += cost(waiting);
        }
    }

    /// The version an absent id had before its copy was dropped, so that the next write goes on counting.
    pub fn dropped_version(&self, id: &str) -> Option<Version> {
        let of_id = self.get(id).and_then(|waiting| waiting.dropped);
        of_id.or_else(|| self.get(EVERYTHING).and_then(|waiting| waiting.dropped))
    }

    /// Restores an entry as it was saved.
    pub fn restore(&mut self, seq: u64, waiting: Waiting) {
        self.take(&waiting.id.clone());
        self.put(waiting, Some(seq));
    }

    /// Restores a link as it was saved.
    pub fn restore_link(&mut self, name: &str, acked: u64) {
        self.links.insert(name.into(), acked);
    }

    /// Restores the counter as it was saved.
    pub fn restore_seq(&mut self, last_seq: u64) {
        self.last_seq = self.last_seq.max(last_seq);
    }

    fn take(&mut self, id: &str) -> Waiting {
        let taken = self.by_id.remove(id).and_then(|seq| self.by_seq.remove(&seq));
        match taken {
            Some(waiting) => {
                self.bytes = self.bytes.saturating_sub(cost(&waiting));
                self.dropped -= usize::from(waiting.dropped.is_some());
                waiting
            }
            None => Waiting { id: id.into(), ..Waiting::default() },
        }
    }

    fn put(&mut self, waiting: Waiting, seq: Option<u64>) -> u64 {
        let seq = match seq {
            Some(seq) if !self.by_seq.contains_key(&seq) => seq,
            _ => self.last_seq.saturating_add(1),
        };
        self.last_seq = self.last_seq.max(seq);
        self.bytes += cost(&waiting);
        self.dropped += usize::from(waiting.dropped.is_some());
        self.by_id.insert(waiting.id.clone(), seq);
        self.by_seq.insert(seq, waiting);
        seq
    }

    fn forget_acknowledged(&mut self) -> usize {
        let acked = self.links.values().copied().min().unwrap_or(self.last_seq);
        let kept = self.by_seq.split_off(&acked.saturating_add(1));
        let forgotten = std::mem::replace(&mut self.by_seq, kept);
        for (seq, waiting) in &forgotten {
            if self.by_id.get(&waiting.id) == Some(seq) {
                self.by_id.remove(&waiting.id);
            }
            self.bytes = self.bytes.saturating_sub(cost(waiting));
            self.dropped -= usize::from(waiting.dropped.is_some());
        }
        forgotten.len()
    }
}

fn cost(waiting: &Waiting) -> usize {
    let aside: usize = waiting.aside.iter().map(|bytes| bytes.len()).sum();
    ENTRY_BYTES + 2 * waiting.id.len() + aside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number.into()).unwrap()
    }

    fn ids(pending: &Pending, after: u64) -> Vec<(u64, String)> {
        pending.after(after).map(|(seq, waiting)| (seq, waiting.id.to_string())).collect()
    }

    #[test]
    fn without_links_nothing_waits() {
        let mut pending = Pending::default();
        assert_eq!(pending.written("a", None, None), None);
        pending.dropped("a", version(1), Vec::new);
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn an_id_waits_once_in_order_of_its_last_write() {
        let mut pending = Pending::default();
        assert!(pending.attach("pg") && !pending.attach("pg"));
        for id in ["a", "b", "a"] {
            pending.written(id, None, None);
        }
        assert_eq!(ids(&pending, 0), [(2, "b".into()), (3, "a".into())]);
        assert_eq!(pending.acknowledge("pg", 2), Some(1));
        assert_eq!(ids(&pending, 0), [(3, "a".into())]);
        pending.written("a", None, None);
        assert_eq!(pending.acknowledge("pg", 3), Some(0), "written again after it was pulled");
        assert_eq!(pending.acknowledge("pg", 4), Some(1));
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
        assert_eq!(pending.acknowledge("other", 4), None);
    }

    #[test]
    fn the_slowest_link_decides_and_origins_are_told_apart() {
        let mut pending = Pending::default();
        pending.attach("one");
        assert_eq!(pending.written("a", Some("one"), None), None, "the only link knows it");
        pending.attach("two");
        pending.written("a", Some("one"), None);
        assert_eq!(pending.get("a").unwrap().origin.as_deref(), Some("one"));
        assert!(pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("three", "a"));
        assert_eq!(pending.acknowledge("one", 1), Some(0));
        assert!(!pending.waits("one", "a") && pending.waits("two", "a") && !pending.waits("two", "b"));
        assert!(pending.detach("two"));
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn dropped_copies_are_kept_aside_until_acknowledged() {
        let mut pending = Pending::default();
        pending.attach("pg");
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
        pending.acknowledge("pg", pending.last_seq());
        assert!(!pending.has_dropped());
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn an_id_that_is_written_and_dropped_again_and_again_keeps_one_copy() {
        let mut pending = Pending::default();
        pending.attach("pg");
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
    fn replay_keeps_sequence_numbers() {
        let mut pending = Pending::default();
        pending.attach("pg");
        assert_eq!(pending.written("a", None, Some(10)), Some(10));
        assert_eq!(pending.written("b", None, Some(10)), Some(11), "a number is used once");
        assert_eq!(pending.last_seq(), 11);
    }
}
