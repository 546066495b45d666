//! What a link lends this server's readers: an id that is not here is fetched from Postgres before anybody is told
//! that it is not there (DESIGN section 7). Kept here are the ids that are being fetched, those that Postgres was
//! just found not to have, and a filter of all ids that it has, or has removed: those have versions too.
//!
//! No Redis type here: the rules are tested without a server, and the clock is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};
use tandem_shared::filter::{self, IdFilter};
use tandem_shared::limits::PAGE_BYTES_MAX;
use tandem_shared::link::Scope;
use tandem_shared::{Error, Result};

/// A link whose reader was silent for so long is taken for lost: nobody waits for it any more.
const LOST: Duration = Duration::from_secs(10);
/// Ids that were found absent are remembered up to this number.
const ABSENT_MAX: usize = 100_000;
/// How long they are kept at least, for the commands that waited for them.
const ABSENT_KEPT: Duration = Duration::from_secs(60);
/// Bytes of items that may wait for Postgres to store them where it has none.
const OFFER_BYTES_MAX: usize = 64 << 20;
/// The filter of the ids in Postgres.
#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    /// The worker is sending the ids.
    Loading(IdFilter),
    /// All were sent; an id that is not in it is not in Postgres, and was not.
    Complete(IdFilter),
}

/// Whether an id that is not here may be in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It is not: the answer is known.
    Absent,
    /// It may be, and the link will say.
    Ask,
    /// It may be, and nobody is there to say.
    Unserved,
}

#[derive(Debug)]
struct Want {
    /// When the reader was told.
    asked: Option<Instant>,
    /// It was told before, and what it brings then is too old.
    is_overtaken: bool,
    /// What Postgres is to store if it has nothing, encoded.
    offer: Option<Box<[u8]>>,
}

/// An id for the reader, and what is to be stored where Postgres has nothing.
pub type Wanted = (Box<str>, Option<Box<[u8]>>);

/// One link, as a source for readers.
#[derive(Debug)]
pub struct Reading {
    /// What the link carries.
    pub scope: Scope,
    /// Everything was compared since this server started, so that a mirror misses nothing but what was dropped since.
    pub is_whole: bool,
    heard: Option<Instant>,
    wants: BTreeMap<Box<str>, Want>,
    /// Ids in the order in which they were wanted first; some are fetched already.
    queue: VecDeque<Box<str>>,
    absent: HashMap<Box<str>, Instant>,
    /// The same by time; some have come meanwhile.
    absent_since: VecDeque<(Instant, Box<str>)>,
    offer_bytes: usize,
    known: Known,
}

impl Reading {
    /// A link that nobody has been heard of yet.
    pub fn new(scope: Scope) -> Reading {
        Reading {
            scope,
            is_whole: false,
            heard: None,
            wants: BTreeMap::new(),
            queue: VecDeque::new(),
            absent: HashMap::new(),
            absent_since: VecDeque::new(),
            offer_bytes: 0,
            known: Known::Nothing,
        }
    }

    /// Whether the link carries an id.
    pub fn covers(&self, id: &str) -> bool {
        self.scope.carries(id)
    }

    /// Whether any id may have to be asked for; `dropped`: copies were dropped that are not back yet.
    pub fn is_active(&self, dropped: bool) -> bool {
        self.scope.is_cache() || !self.is_whole || dropped
    }

    /// Whether all the ids under it should be here.
    pub fn mirrors(&self, id: &str) -> bool {
        self.scope.mirrors(id)
    }

    /// The link's reader asked for work.
    pub fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// The reader's connection is gone.
    pub fn lost(&mut self) {
        self.heard = None;
    }

    /// Nothing that was learned counts any more.
    pub fn forget(&mut self) {
        self.lost();
        self.drop_filter();
        self.is_whole = false;
    }

    /// Whether the link's reader is there.
    pub fn is_served(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.duration_since(heard) < LOST)
    }

    /// What is known of an id that is not here and has left no tombstone. `dropped`: its copy was, and is not back,
    /// or is aside until Postgres has it.
    pub fn look_up(&self, id: &str, dropped: bool, now: Instant, memory: Duration) -> Lookup {
        let is_known = !dropped && if self.mirrors(id) { self.is_whole } else { self.is_denied(id) };
        let is_remembered = || self.absent.get(id).is_some_and(|at| now.duration_since(*at) < memory);
        if is_known || is_remembered() {
            Lookup::Absent
        } else if self.is_served(now) {
            Lookup::Ask
        } else {
            Lookup::Unserved
        }
    }

    fn is_denied(&self, id: &str) -> bool {
        matches!(&self.known, Known::Complete(filter) if !filter.may_contain(id))
    }

    /// An id is wanted; the first `offer` is to be stored if Postgres has nothing. The reader is told again of what
    /// it was told of `patience` ago. Errors: `BACKPRESSURE` when `limit` ids are wanted already, or too much is
    /// offered.
    pub fn want(
        &mut self,
        id: &str,
        offer: Option<&[u8]>,
        limit: usize,
        (now, patience): (Instant, Duration),
    ) -> Result<()> {
        let bytes = offer.map_or(0, <[u8]>::len);
        if bytes > 0 && self.offer_bytes + bytes > OFFER_BYTES_MAX {
            let what = "the first items that wait for Postgres (bytes)";
            return Err(Error::Backpressure {
                what,
                actual: self.offer_bytes + bytes,
                limit: OFFER_BYTES_MAX,
            });
        }
        if let Some(want) = self.wants.get_mut(id) {
            let is_new = want.offer.is_none() && offer.is_some();
            if is_new {
                want.offer = offer.map(Into::into);
                self.offer_bytes += bytes;
            }
            let is_lost = want.asked.is_some_and(|asked| now.duration_since(asked) >= patience);
            if (is_new || is_lost) && want.asked.take().is_some() {
                self.queue.push_back(id.into());
            }
            return Ok(());
        }
        if self.wants.len() >= limit {
            let what = "the queue of ids to be fetched (ids)";
            return Err(Error::Backpressure { what, actual: self.wants.len(), limit });
        }
        self.offer_bytes += bytes;
        self.wants.insert(id.into(), Want { asked: None, is_overtaken: false, offer: offer.map(Into::into) });
        self.queue.push_back(id.into());
        Ok(())
    }

    /// Whether an id is being fetched.
    pub fn wants(&self, id: &str) -> bool {
        self.wants.contains_key(id)
    }

    /// Number of ids that are being fetched.
    pub fn wanted(&self) -> usize {
        self.wants.len()
    }

    /// Whether there is something to ask for that the reader was not told of.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next ids for the reader; `is_due` holds back those that cannot be fetched yet.
    pub fn next_wants(&mut self, max: usize, now: Instant, is_due: impl Fn(&str) -> bool) -> Vec<Wanted> {
        let (mut next, mut bytes) = (Vec::new(), 0);
        let mut later = VecDeque::new();
        while next.len() < max && bytes < PAGE_BYTES_MAX {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(want) = self.wants.get_mut(&id).filter(|want| want.asked.is_none()) else { continue };
            if is_due(&id) {
                (want.asked, want.is_overtaken) = (Some(now), false);
                bytes += want.offer.as_ref().map_or(0, |offer| offer.len());
                next.push((id, want.offer.clone()));
            } else {
                later.push_back(id);
            }
        }
        later.append(&mut self.queue);
        self.queue = later;
        next
    }

    /// What the reader is about to bring of an id is too old: it is asked again.
    pub fn postpone(&mut self, id: &str) {
        let Some(want) = self.wants.get_mut(id) else { return };
        if want.asked.take().is_some() {
            want.is_overtaken = true;
            self.queue.push_back(id.into());
        }
    }

    /// Whether a copy of an id has left since the reader was told of it, and it was not told again.
    pub fn is_overtaken(&self, id: &str) -> bool {
        self.wants.get(id).is_some_and(|want| want.is_overtaken)
    }

    /// The reader begins anew: what it was told of may be lost.
    pub fn ask_again(&mut self) {
        self.queue = self.wants.keys().cloned().collect();
        self.wants.values_mut().for_each(|want| want.asked = None);
    }

    /// Postgres has answered for an id. `is_there`: it has it, or its tombstone.
    pub fn fetched(&mut self, id: &str, is_there: bool, now: Instant, memory: Duration) {
        let asks_more = |want: &Want| want.offer.is_some() && want.asked.is_none();
        if !is_there && self.wants.get(id).is_some_and(asks_more) {
            // An offer came after the reader had been told of the id.
            return;
        }
        let want = self.wants.remove(id);
        self.offer_bytes -= want.and_then(|want| want.offer).map_or(0, |offer| offer.len());
        if is_there {
            self.absent.remove(id);
            return;
        }
        // Also where nothing is to be remembered: the commands that waited learn it from here.
        self.absent.insert(id.into(), now);
        self.absent_since.push_back((now, id.into()));
        let kept = memory.max(ABSENT_KEPT);
        while let Some((since, _)) = self.absent_since.front()
            && (self.absent_since.len() > ABSENT_MAX || now.duration_since(*since) > kept)
            && let Some((since, id)) = self.absent_since.pop_front()
        {
            if self.absent.get(&id) == Some(&since) {
                self.absent.remove(&id);
            }
        }
    }

    /// Whether the link has to send a new revision of an id that has no copy here.
    pub fn cares(&self, id: &str) -> bool {
        self.mirrors(id) || self.wants(id) || self.absent.contains_key(id)
    }

    /// An id has a copy here, or one is on its way to Postgres.
    pub fn appeared(&mut self, id: &str) {
        if !self.absent.is_empty() {
            self.absent.remove(id);
        }
    }

    /// A copy has left: from now on the filter must know the id, which may have reached Postgres from here.
    pub fn left(&mut self, id: &str) {
        if let Known::Loading(filter) | Known::Complete(filter) = &mut self.known {
            filter.insert(filter::key(id));
        }
        // It may have been written since the reader was told of the id.
        self.postpone(id);
    }

    /// Begins a filter with room for so many ids.
    pub fn begin_filter(&mut self, ids: u64) {
        self.known = Known::Loading(IdFilter::with_capacity(ids));
    }

    /// Puts ids, by their keys, into the filter. False if there is none.
    pub fn add_to_filter(&mut self, keys: impl Iterator<Item = u64>) -> bool {
        let (Known::Loading(filter) | Known::Complete(filter)) = &mut self.known else { return false };
        keys.for_each(|key| filter.insert(key));
        true
    }

    /// All ids were sent.
    pub fn complete_filter(&mut self) {
        if let Known::Loading(filter) = std::mem::take(&mut self.known) {
            self.known = Known::Complete(filter);
        }
    }

    /// The filter may have missed something. Returns whether there was one.
    pub fn drop_filter(&mut self) -> bool {
        !matches!(std::mem::take(&mut self.known), Known::Nothing)
    }

    /// State of the filter and the memory it takes, in bytes.
    pub fn filter(&self) -> (&'static str, usize) {
        match &self.known {
            Known::Nothing => ("none", 0),
            Known::Loading(filter) => ("loading", filter.bytes()),
            Known::Complete(filter) => ("complete", filter.bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(1);

    fn cache(now: Instant) -> Reading {
        let mut reading = Reading::new(Scope::parse("a:", "cache", "both").unwrap());
        reading.heard(now);
        reading
    }

    #[test]
    fn a_mirror_knows_what_it_does_not_have_once_it_was_compared() {
        let now = Instant::now();
        let mut reading = Reading::new(Scope::everything());
        assert_eq!(reading.look_up("x", false, now, MEMORY), Lookup::Unserved);
        reading.heard(now);
        assert_eq!(reading.look_up("x", false, now, MEMORY), Lookup::Ask);
        reading.is_whole = true;
        assert_eq!(reading.look_up("x", false, now, MEMORY), Lookup::Absent);
        assert_eq!(reading.look_up("x", true, now, MEMORY), Lookup::Ask, "dropped and not back yet");
        assert!(!reading.is_active(false) && reading.is_active(true));
        assert_eq!(reading.look_up("x", true, now + LOST, MEMORY), Lookup::Unserved);
        reading.lost();
        assert_eq!(reading.look_up("x", true, now, MEMORY), Lookup::Unserved);
    }

    #[test]
    fn a_cache_asks_once_and_remembers_for_a_moment() {
        let now = Instant::now();
        let mut reading = cache(now);
        assert!(reading.covers("a:1") && reading.covers("tandem/x") && !reading.covers("b"));
        for _ in 0..3 {
            reading.want("a:1", None, 2, (now, MEMORY)).unwrap();
        }
        reading.want("a:2", None, 2, (now, MEMORY)).unwrap();
        assert_eq!(reading.want("a:3", None, 2, (now, MEMORY)).unwrap_err().code().as_str(), "BACKPRESSURE");
        assert_eq!(reading.next_wants(10, now, |id| id != "a:1"), [("a:2".into(), None)]);
        assert_eq!(reading.next_wants(10, now, |_| true), [("a:1".into(), None)]);
        assert!(!reading.has_work() && reading.cares("a:1") && !reading.cares("a:9"));
        reading.want("a:1", None, 2, (now, MEMORY)).unwrap();
        assert!(!reading.has_work(), "the reader has just been told");
        reading.want("a:1", None, 2, (now + MEMORY, MEMORY)).unwrap();
        assert_eq!(reading.next_wants(10, now, |_| true), [("a:1".into(), None)], "it may have lost it");
        reading.ask_again();
        assert_eq!(reading.next_wants(10, now, |_| true).len(), 2);
        reading.fetched("a:1", false, now, MEMORY);
        assert_eq!(reading.look_up("a:1", false, now, MEMORY), Lookup::Absent);
        assert!(reading.cares("a:1"), "a put in Postgres must end the memory");
        assert_eq!(reading.look_up("a:1", false, now + MEMORY, MEMORY), Lookup::Ask);
        reading.fetched("a:2", true, now, MEMORY);
        assert_eq!(reading.wanted(), 0);
        reading.appeared("a:1");
        assert!(!reading.cares("a:1"));
    }

    #[test]
    fn an_offer_reaches_the_reader_though_it_knows_the_id() {
        let now = Instant::now();
        let mut reading = cache(now);
        reading.want("a:1", None, 2, (now, MEMORY)).unwrap();
        assert_eq!(reading.next_wants(1, now, |_| true), [("a:1".into(), None)]);
        reading.want("a:1", Some(b"x"), 2, (now, MEMORY)).unwrap();
        reading.want("a:1", Some(b"y"), 2, (now, MEMORY)).unwrap();
        reading.fetched("a:1", false, now, MEMORY);
        assert!(reading.wants("a:1"), "that was the answer to the question without an offer");
        let offer: Box<[u8]> = (*b"x").into();
        assert_eq!(reading.next_wants(1, now, |_| true), [("a:1".into(), Some(offer))]);
        reading.fetched("a:1", true, now, MEMORY);
        assert!(!reading.wants("a:1") && reading.next_wants(1, now, |_| true).is_empty());
    }

    /// What is written while an id is fetched, and leaves again, is not in what the reader brings.
    #[test]
    fn what_has_left_meanwhile_is_asked_for_again() {
        let now = Instant::now();
        let mut reading = cache(now);
        reading.left("a:1");
        assert!(!reading.has_work(), "nobody wants it");
        reading.want("a:1", None, 2, (now, MEMORY)).unwrap();
        reading.left("a:1");
        assert_eq!(reading.next_wants(9, now, |_| true).len(), 1, "the reader is told once");
        assert!(!reading.is_overtaken("a:1"));
        reading.left("a:1");
        assert!(reading.is_overtaken("a:1") && reading.wants("a:1"));
        assert!(reading.next_wants(9, now, |_| false).is_empty());
        assert_eq!(reading.next_wants(9, now, |_| true), [("a:1".into(), None)]);
        assert!(!reading.is_overtaken("a:1"));
        reading.fetched("a:1", true, now, MEMORY);
        assert!(!reading.wants("a:1") && !reading.has_work());
    }

    #[test]
    fn a_filter_counts_when_it_is_complete() {
        let now = Instant::now();
        let mut reading = cache(now);
        reading.begin_filter(2);
        let key = |id: &str| std::iter::once(filter::key(id));
        assert!(reading.add_to_filter(key("a:1")));
        assert_eq!(reading.look_up("a:2", false, now, MEMORY), Lookup::Ask, "not complete");
        reading.complete_filter();
        assert_eq!(reading.look_up("a:2", false, now, MEMORY), Lookup::Absent);
        assert_eq!(
            reading.look_up("a:2", true, now, MEMORY),
            Lookup::Ask,
            "its revision is on its way to Postgres"
        );
        assert_eq!(reading.look_up("a:1", false, now, MEMORY), Lookup::Ask);
        reading.left("a:2");
        assert_eq!(reading.look_up("a:2", false, now, MEMORY), Lookup::Ask, "written here, evicted");
        reading.drop_filter();
        assert_eq!(reading.look_up("a:9", false, now, MEMORY), Lookup::Ask);
        assert!(!reading.add_to_filter(key("a:1")));
    }
}
