//! Ghosts: ids whose copy has left a mirror for good, by expiry, while the other side has them still. What is put
//! there next counts on from the version that the copy had, and in a comparison a ghost stands for its copy, so that
//! nothing brings it back without its time to live. It does so only where the other side is known to have the copy:
//! else two sides would differ in something that neither of them has.
//!
//! They are bounded; of those that are forgotten the highest version stays, as a floor for what is put anywhere.
//!
//! No Redis type here: the rules are tested without a server.

use std::collections::BTreeMap;
use std::rc::Rc;
use tandem_shared::index::{Index, Part};
use tandem_shared::{Digest, Fingerprint, Range, Version};

/// Memory of a ghost, beside the text of its id.
const GHOST_BYTES: usize = 200;

#[derive(Debug)]
struct Ghost {
    version: Version,
    age: u64,
    /// Digest and state of a copy that the other side is not known to have.
    uncounted: Option<Box<(Digest, Box<str>)>>,
    /// A comparison has asked for it, as the other side has something else, and nothing was heard of it since.
    is_doubted: bool,
}

/// What a ghost keeps of its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy<'a> {
    /// Its digest.
    pub digest: Digest,
    /// Its state.
    pub state: &'a str,
    /// Whether the other side is known to have it, so that it stands for the copy in comparisons.
    pub is_counted: bool,
}

/// The ghosts of one database.
#[derive(Debug, Default)]
pub struct Ghosts {
    by_id: BTreeMap<Rc<str>, Ghost>,
    by_age: BTreeMap<u64, Rc<str>>,
    /// Digests and states of those that the other side has.
    index: Index,
    floor: Option<Version>,
    last_age: u64,
    bytes: usize,
}

impl Ghosts {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.floor.is_none()
    }

    /// Number of ghosts.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Estimated memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The highest version among those that were forgotten.
    pub fn floor(&self) -> Option<Version> {
        self.floor
    }

    /// Makes the floor at least a version.
    pub fn raise_floor(&mut self, version: Version) {
        self.floor = self.floor.max(Some(version));
    }

    /// An id becomes a ghost. The oldest are forgotten beyond `bytes_max`.
    pub fn insert(&mut self, id: &str, version: Version, copy: Option<Copy<'_>>, bytes_max: usize) {
        let version = self.remove(id).map_or(version, |before| before.max(version));
        self.last_age += 1;
        let id: Rc<str> = id.into();
        self.bytes += GHOST_BYTES + id.len();
        self.by_age.insert(self.last_age, id.clone());
        let mut uncounted = None;
        match copy {
            Some(copy) if copy.is_counted => drop(self.index.insert(&id, copy.digest, copy.state)),
            Some(copy) => uncounted = Some(Box::new((copy.digest, copy.state.into()))),
            None => {}
        }
        self.by_id.insert(id, Ghost { version, age: self.last_age, uncounted, is_doubted: false });
        while self.bytes > bytes_max
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            let oldest = oldest.clone();
            if let Some(version) = self.remove(&oldest) {
                self.raise_floor(version);
            }
        }
    }

    /// An id is no ghost any more; the version that it had.
    pub fn remove(&mut self, id: &str) -> Option<Version> {
        if self.by_id.is_empty() {
            return None;
        }
        let ghost = self.by_id.remove(id)?;
        self.by_age.remove(&ghost.age);
        self.index.remove(id);
        self.bytes = self.bytes.saturating_sub(GHOST_BYTES + id.len());
        Some(ghost.version)
    }

    /// The version of a ghost, and what it keeps of its copy.
    pub fn get(&self, id: &str) -> Option<(Version, Option<Copy<'_>>)> {
        if self.by_id.is_empty() {
            return None;
        }
        let ghost = self.by_id.get(id)?;
        let counted = || {
            let (digest, state) = self.index.get(id).zip(self.index.state(id))?;
            Some(Copy { digest, state, is_counted: true })
        };
        let uncounted = ghost.uncounted.as_deref();
        let uncounted = uncounted.map(|(digest, state)| Copy { digest: *digest, state, is_counted: false });
        Some((ghost.version, uncounted.or_else(counted)))
    }

    /// A comparison asks for a ghost, which has no revision to give. Where it does so twice, and the other side has
    /// brought nothing, that has nothing: the ghost stands for no copy any more. Returns whether it has changed.
    pub fn doubt(&mut self, id: &str) -> bool {
        if self.index.get(id).is_none() {
            return false;
        }
        let Some(ghost) = self.by_id.get_mut(id) else { return false };
        if !std::mem::replace(&mut ghost.is_doubted, true) {
            return false;
        }
        let copy = self.index.get(id).zip(self.index.state(id));
        ghost.uncounted = copy.map(|(digest, state)| Box::new((digest, state.into())));
        self.index.remove(id);
        true
    }

    /// No ghosts any more, and a floor above all of them.
    pub fn forgotten(&self) -> Ghosts {
        let highest = self.by_id.values().map(|ghost| ghost.version).max();
        Ghosts { floor: self.floor.max(highest), ..Ghosts::default() }
    }

    /// The version that an absent id had here, or may have had.
    pub fn version(&self, id: &str) -> Option<Version> {
        self.by_id.get(id).map(|ghost| ghost.version).or(self.floor)
    }

    /// Digests and states of those that stand for a copy.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// All of them, the oldest first: id, version, and what is kept of the copy.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Version, Option<Copy<'_>>)> {
        self.by_age.values().filter_map(|id| {
            let (version, copy) = self.get(id)?;
            Some((id.as_ref(), version, copy))
        })
    }
}

/// What a comparison sees: the copies and the ghosts together, which have no id in common.
#[derive(Clone, Copy)]
pub struct Both<'a>(pub &'a Index, pub &'a Index);

impl Both<'_> {
    /// The fingerprint of all.
    pub fn root(&self) -> Fingerprint {
        self.0.root() + self.1.root()
    }

    /// The fingerprint of a range.
    pub fn fingerprint(&self, range: &Range) -> Fingerprint {
        if self.1.is_empty() {
            return self.0.fingerprint(range);
        }
        self.0.fingerprint(range) + self.1.fingerprint(range)
    }

    /// Cuts a range into at most `parts` consecutive pieces, or two, that cover it exactly. Each is a fraction of it,
    /// whether it holds copies or ghosts.
    pub fn split(&self, range: &Range, parts: usize) -> Vec<Part> {
        if self.1.fingerprint(range).is_empty() {
            return self.0.split(range, parts);
        }
        let half = (parts / 2).max(2);
        let cuts = |index: &Index| {
            index.split(range, half).into_iter().skip(1).map(|part| part.range.start).collect::<Vec<_>>()
        };
        let mut cut = [cuts(self.0), cuts(self.1)].concat();
        cut.sort_unstable();
        cut.dedup();
        let mut start = range.start.clone();
        let mut split = Vec::with_capacity(cut.len() + 1);
        for end in cut.into_iter().map(Some).chain([range.end.clone()]) {
            let next = end.clone().unwrap_or_default();
            let range = Range::new(std::mem::replace(&mut start, next), end);
            split.push(Part { fingerprint: self.fingerprint(&range), range });
        }
        split
    }

    /// The first ids of a range with their digests, in order.
    pub fn page(&self, range: &Range, limit: usize) -> Vec<(String, Digest)> {
        let of = |index: &Index| -> Vec<(String, Digest)> {
            index.page(range, limit).map(|(id, digest)| (id.to_owned(), digest)).collect()
        };
        let mut page = of(self.0);
        if !self.1.is_empty() {
            page.extend(of(self.1));
            page.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            page.truncate(limit);
        }
        page
    }

    /// The first id that is not less than `id`.
    pub fn first_at_or_after(&self, id: &str) -> Option<&str> {
        let first = |(id, _)| id;
        let (copy, ghost) =
            (self.0.first_at_or_after(id).map(first), self.1.first_at_or_after(id).map(first));
        match (copy, ghost) {
            (Some(copy), Some(ghost)) => Some(copy.min(ghost)),
            (one, other) => one.or(other),
        }
    }

    /// Whether an id is among them.
    pub fn contains(&self, id: &str) -> bool {
        self.0.get(id).is_some() || self.1.get(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number.into()).unwrap()
    }

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn copy(number: u8, is_counted: bool) -> Option<Copy<'static>> {
        Some(Copy { digest: digest(number), state: "default", is_counted })
    }

    #[test]
    fn only_what_the_other_side_has_is_counted() {
        let mut ghosts = Ghosts::default();
        ghosts.insert("a", version(1), copy(1, true), 10_000);
        ghosts.insert("b", version(2), copy(2, false), 10_000);
        assert_eq!((ghosts.len(), ghosts.index().len()), (2, 1));
        assert_eq!(ghosts.get("b"), Some((version(2), copy(2, false))));
        assert!(!ghosts.doubt("a") && !ghosts.doubt("b") && !ghosts.doubt("c"));
        ghosts.insert("a", version(1), copy(1, true), 10_000);
        assert!(!ghosts.doubt("a"), "the other side has brought it since");
        assert!(ghosts.doubt("a") && !ghosts.doubt("a"));
        assert_eq!((ghosts.get("a"), ghosts.index().len()), (Some((version(1), copy(1, false))), 0));
    }

    #[test]
    fn the_oldest_are_forgotten_and_their_highest_version_stays() {
        let mut ghosts = Ghosts::default();
        let room = 3 * (GHOST_BYTES + 1);
        for (id, number) in [("z", 9), ("a", 2), ("m", 5), ("b", 1)] {
            ghosts.insert(id, version(number), copy(1, true), room);
        }
        assert_eq!((ghosts.len(), ghosts.bytes(), ghosts.floor()), (3, room, Some(version(9))));
        assert_eq!((ghosts.version("a"), ghosts.version("z")), (Some(version(2)), Some(version(9))));
        assert_eq!(ghosts.version("new"), Some(version(9)), "it may have been one of those");
        ghosts.insert("a", version(1), None, room);
        assert_eq!(ghosts.get("a"), Some((version(2), None)), "a version never goes down");
        ghosts.insert("c", version(3), None, room);
        assert!(ghosts.get("m").is_none(), "the oldest now");
        for id in ["a", "b", "c"] {
            assert!(ghosts.remove(id).is_some());
        }
        assert_eq!((ghosts.len(), ghosts.bytes(), ghosts.index().len()), (0, 0, 0));
        assert!(!ghosts.is_empty(), "the floor is left");
    }

    #[test]
    fn copies_and_ghosts_are_compared_as_one() {
        let (mut copies, mut ghosts, mut all) = (Index::new(), Index::new(), Index::new());
        for number in 0_u16..2000 {
            let (id, digest) = (format!("{number:04}"), digest(number as u8));
            // Ghosts alone at the end.
            let index = if number % 3 == 0 && number < 1000 { &mut copies } else { &mut ghosts };
            index.insert(&id, digest, "");
            all.insert(&id, digest, "");
        }
        let both = Both(&copies, &ghosts);
        assert_eq!(both.root(), all.root());
        for (start, end) in
            [("", None), ("0100", Some("0900")), ("1500", None), ("zz", None), ("0001", Some("0002"))]
        {
            let range = Range::new(start, end.map(str::to_owned));
            let count = all.fingerprint(&range).count();
            assert_eq!(both.fingerprint(&range), all.fingerprint(&range));
            let parts = both.split(&range, 16);
            assert!(!parts.is_empty() && parts.len() <= 16, "{} parts of {range:?}", parts.len());
            assert_eq!(
                (&parts[0].range.start, &parts[parts.len() - 1].range.end),
                (&range.start, &range.end)
            );
            for pair in parts.windows(2) {
                assert_eq!(pair[0].range.end.as_deref(), Some(pair[1].range.start.as_str()));
            }
            for part in &parts {
                assert_eq!(part.fingerprint, all.fingerprint(&part.range));
                assert!(part.fingerprint.count() <= count.div_ceil(2).max(1), "{part:?} of {count}");
            }
            let page: Vec<(String, Digest)> =
                all.page(&range, 10).map(|(id, digest)| (id.to_owned(), digest)).collect();
            assert_eq!(both.page(&range, 10), page);
        }
        assert_eq!(both.first_at_or_after("0001"), Some("0001"));
        assert!(both.contains("0003") && both.contains("0004") && !both.contains("x"));
    }
}
