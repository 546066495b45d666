//! The module's state: one [`Database`] per Redis database, and what is the same for all. Redis runs commands,
//! events and type callbacks (but `free`) on its main thread, so the state is that thread's own; a borrow is
//! never held across a call into Redis, because that call may come back through a callback.

use crate::clients::Clients;
use crate::ghosts::{Both, Copy, Ghosts};
use crate::item::Item;
use crate::pending::{EVERYTHING, Link, Pending, Waiting, takes};
use crate::reading::Reading;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};
use tandem_shared::codec::{self, Source};
use tandem_shared::content::Bounds;
use tandem_shared::decide::Retention;
use tandem_shared::index::Index;
use tandem_shared::link::{Acknowledgement, Scope};
use tandem_shared::owner::Owner;
use tandem_shared::{Digest, DigestKey, Error, Head, Range, Result, Revision, Version};

/// Memory that the ghosts of one database may take, in bytes: about 300,000 ids.
pub const GHOST_BYTES_MAX: usize = 64 << 20;

/// Ids that are withheld at most.
const WITHHELD_MAX: usize = 100_000;

/// What is known of one Redis database beyond its keys.
#[derive(Default)]
pub struct Database {
    /// Ids, digests and states of exactly the shared items in the keyspace.
    pub index: Index,
    /// The same of the items that stay in this tier.
    pub locals: Index,
    /// Removed ids.
    pub tombstones: BTreeMap<Box<str>, Revision>,
    /// What the links have not taken yet.
    pub pending: Pending,
    /// The database that attached each link last.
    pub owners: HashMap<Box<str>, Owner>,
    /// How long the other sides of the links keep tombstones; each says so when it attaches.
    pub peers: HashMap<Box<str>, Retention>,
    /// Copies that have left for good while the other side has them still.
    pub ghosts: Ghosts,
    /// Ids that a link has brought and that found a key of another type: versions of what it brought.
    pub withheld: BTreeMap<Box<str>, Version>,
    /// What the other side has of ghosts, for the commands that wait for it.
    pub recalled: HashMap<Box<str>, Item>,
    /// What clients wrote that not every link has.
    pub clients: Clients,
    /// The links as sources for readers of what is not here.
    pub readings: BTreeMap<Box<str>, Reading>,
    /// The highest version ever seen here: what a write counts on from when every copy was dropped.
    pub version_high: Option<Version>,
}

impl Database {
    /// An item is in the keyspace, under this digest.
    pub fn inserted(&mut self, id: &str, item: &Head<'_>, digest: Digest) {
        let Some(live) = item.live else { return };
        if live.local {
            self.locals.insert(id, digest, live.state);
            return;
        }
        self.index.insert(id, digest, live.state);
        self.readings.values_mut().for_each(|reading| reading.appeared(id));
        self.is_known(id);
        self.version_high = self.version_high.max(Some(item.version));
        if !self.locals.is_empty() {
            self.locals.remove(id);
        }
    }

    /// An item has left the keyspace; the digest that it had.
    pub fn left(&mut self, id: &str, local: bool) -> Option<Digest> {
        if local { self.locals.remove(id) } else { self.index.remove(id) }
    }

    /// The links that carry an id.
    pub fn readings_of(&mut self, id: &str) -> impl Iterator<Item = &mut Reading> {
        self.readings.values_mut().filter(move |reading| reading.covers(id))
    }

    /// A copy has left the keyspace for good or for a while.
    pub fn copy_left(&mut self, id: &str) {
        self.readings_of(id).for_each(|reading| reading.left(id));
    }

    /// What a comparison sees: the copies and the ghosts.
    pub fn compared(&self) -> Both<'_> {
        Both(&self.index, self.ghosts.index())
    }

    /// A copy that is not in the keyspace any more stays away. Where both sides are to have it, a ghost is left.
    pub fn becomes_ghost(&mut self, id: &str, version: Version, copy: Option<(Digest, &str)>) {
        if self.tombstones.contains_key(id) || !self.pending.links().any(|(_, link)| link.scope.mirrors(id)) {
            return;
        }
        // The other side has what it has compared or is about to take, unless it has refused it.
        let has = |(name, link): (&str, &Link)| {
            link.scope.mirrors(id)
                && !link.refused.contains_key(id)
                && (link.was_compared || self.pending.waits(name, id))
        };
        let is_counted = self.pending.links().any(has);
        let copy = copy.map(|(digest, state)| Copy { digest, state, is_counted });
        self.ghosts.insert(id, version, copy, GHOST_BYTES_MAX);
    }

    /// Whether a link has still to be told of an id.
    pub fn waits(&self, link: &str, id: &str) -> bool {
        let owes = |link: &Link| link.owes_tombstone(id) && self.tombstones.contains_key(id);
        self.pending.waits(link, id) || self.pending.link(link).is_some_and(owes)
    }

    /// Number of tombstones from before a link was attached that it is still to be told of.
    pub fn owed_tombstones(&self, link: &Link) -> usize {
        let Some(after) = link.tombstones_after.as_deref() else { return 0 };
        let start = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        let owed = self.tombstones.range::<str, _>((start, Bound::Unbounded));
        owed.filter(|(id, _)| takes(&link.scope, id)).count()
    }

    /// What is known of an id stands in the keyspace or among the tombstones, and nowhere else any more.
    pub fn is_known(&mut self, id: &str) {
        self.ghosts.remove(id);
        if !self.withheld.is_empty() {
            self.withheld.remove(id);
        }
        if !self.recalled.is_empty() {
            self.recalled.remove(id);
        }
    }

    /// A link has brought an id, and a key of another type is in its way. It is absent here, and is not on the other
    /// side.
    pub fn withhold(&mut self, id: &str, version: Version) {
        let version = self.withheld.get(id).map_or(version, |before| version.max(*before));
        self.withheld.insert(id.into(), version);
        while self.withheld.len() > WITHHELD_MAX
            && let Some((_, version)) = self.withheld.pop_first()
        {
            self.ghosts.raise_floor(version);
        }
    }

    /// Whether the copy of an id was dropped, or found no room, and a link has it or is about to have it: who wants
    /// it asks.
    pub fn is_away(&self, id: &str) -> bool {
        let is_aside = || self.pending.get(id).is_some_and(|waiting| !waiting.aside.is_empty());
        self.pending.dropped_version(id).is_some() || self.withheld.contains_key(id) || is_aside()
    }

    /// The highest version known of an id other than by the item that is there.
    pub fn version_besides(&self, id: &str) -> Option<Version> {
        let tombstone = self.tombstones.get(id).map(|tombstone| tombstone.version);
        let aside = self.pending.get(id).into_iter().flat_map(|waiting| &waiting.aside);
        let aside = aside.filter_map(|encoded| codec::decode(encoded, Source::Own).ok());
        let aside = aside.map(|revision| revision.version).max();
        tombstone.max(aside).max(self.absent_version(id))
    }

    /// The version from which a write counts on where no item, and no tombstone, is: that which the copy had, or else
    /// the highest of those which it may have had. The latter is bounded, as one id must not use up the versions of
    /// all.
    pub fn absent_version(&self, id: &str) -> Option<Version> {
        let dropped = self.pending.get(id).and_then(|waiting| waiting.dropped);
        let ghost = self.ghosts.get(id).map(|(version, _)| version);
        let of_id = dropped.max(ghost).max(self.withheld.get(id).copied());
        of_id.or_else(|| {
            let of_any = self.pending.dropped_version(EVERYTHING).max(self.ghosts.floor());
            of_any.map(|version| version.min(Version::FLOOR_MAX))
        })
    }

    /// A link has taken what it says. Returns how many entries nobody waits for any more.
    pub fn acknowledge(&mut self, taken: &Acknowledgement) -> usize {
        let refused: Vec<&str> = taken.refused.iter().map(String::as_str).collect();
        self.pending.acknowledge(&taken.link, taken.seq, &taken.except, &refused).unwrap_or(0)
    }

    /// Whether what was written under an id can neither be read nor has left the keyspace: a copy that has expired
    /// while Redis deletes none, as it does not while it holds writes back.
    pub fn is_in_limbo(&self, id: &str) -> bool {
        self.index.get(id).is_some()
    }

    /// Whether a link has yet to take what was here of an id that is not to be read: what the other side has is older.
    pub fn is_ahead(&self, link: &str, id: &str) -> bool {
        let waits =
            |waiting: &Waiting| !waiting.aside.is_empty() || (waiting.is_written && self.is_in_limbo(id));
        self.pending.get(id).is_some_and(waits) && self.pending.waits(link, id)
    }

    /// Whether an id that is not here stays away until it is read, as far as a link goes to which Redis is a cache:
    /// it may have expired since the link's worker asked whether it is here, and would come back without its time to
    /// live.
    pub fn is_unheld(&self, link: &str, id: &str) -> bool {
        !self.tombstones.contains_key(id) && self.readings.get(link).is_some_and(|reading| !reading.cares(id))
    }

    /// Forgets a link and what waited for it only. False if it was not attached.
    pub fn detach(&mut self, name: &str) -> bool {
        self.peers.remove(name);
        self.owners.remove(name);
        self.readings.remove(name);
        let was_there = self.pending.detach(name);
        self.forget_ghosts_of_nobody();
        was_there
    }

    /// Forgets the ghosts that no link mirrors any more.
    fn forget_ghosts_of_nobody(&mut self) {
        if !self.pending.has_links() {
            self.ghosts = Ghosts::default();
        }
        let is_mirrored = |id: &str| self.pending.links().any(|(_, link)| link.scope.mirrors(id));
        let ids = self.ghosts.iter().map(|(id, ..)| id);
        let unmirrored: Vec<Box<str>> = ids.filter(|id| !is_mirrored(id)).map(Into::into).collect();
        for id in unmirrored {
            self.ghosts.remove(&id);
        }
    }

    /// What a link's commands name as the run: another one when another database has attached the link.
    pub fn run_of(&self, run: &str, link: &str) -> String {
        match self.owners.get(link) {
            Some(owner) => format!("{run}-{}", owner.words().join("-")),
            None => run.to_owned(),
        }
    }

    /// How long tombstones bind here, where they are kept for `own` by this server's setting.
    pub fn binding(&self, own: Retention) -> Retention {
        self.peers.values().fold(own, |shortest, peer| shortest.shorter(*peer))
    }

    /// How long they are kept; for ever while a link has not said how long its other side does.
    pub fn kept(&self, own: Retention) -> Retention {
        let all_said = self.pending.links().all(|(name, _)| self.peers.contains_key(name));
        let own = if all_said { own } else { Retention::of_ms(0) };
        self.peers.values().fold(own, |longest, peer| longest.longer(*peer))
    }

    /// Attaches a link. What lives here is compared when a link begins. What was removed leaves nothing to compare,
    /// so a link is told of every tombstone from before. Returns whether it is new, or another than before by its
    /// scope or its owner: then everything is to be compared.
    pub fn attach(&mut self, name: &str, scope: &Scope, owner: Option<&Owner>) -> bool {
        let present = self.owners.get(name);
        let is_anothers =
            owner.is_some_and(|owner| present.is_some_and(|present| !owner.is_before_or_after(present)));
        let has_tombstones = !self.tombstones.is_empty();
        let is_other = self.pending.attach(name, scope, has_tombstones);
        if let Some(owner) = owner {
            self.owners.insert(name.into(), owner.clone());
        }
        if is_anothers {
            // What the last one had says nothing of what this one has.
            self.ghosts = self.ghosts.forgotten();
            if let Some(link) = self.pending.link_mut(name) {
                (link.is_compared, link.was_compared) = (false, false);
                link.refused.clear();
            }
        }
        if !scope.to_redis() {
            self.readings.remove(name);
        } else if self.readings.get(name).is_none_or(|reading| reading.scope != *scope) {
            self.readings.insert(name.into(), Reading::new(scope.clone()));
        }
        if is_other {
            self.forget_ghosts_of_nobody();
        }
        is_other || is_anothers
    }

    /// Both sides of a link were compared, or are to be compared again. True if they were for the first time.
    pub fn compared_by(&mut self, name: &str, is_compared: bool) -> bool {
        if let Some(reading) = self.readings.get_mut(name) {
            reading.is_whole = is_compared;
        }
        let Some(link) = self.pending.link_mut(name) else { return false };
        link.is_compared = is_compared;
        let is_first = is_compared && !link.was_compared;
        link.was_compared |= is_compared;
        is_first
    }

    /// As [`Database::page`], and ghosts as well: what a removal of a range removes.
    pub fn page_to_remove(&self, range: &Range, state: Option<&str>, limit: usize) -> Vec<String> {
        let mut ids = self.page(range, state, limit);
        if !self.ghosts.index().is_empty() {
            ids.extend(page_of(self.ghosts.index(), range, state, limit));
            ids.sort_unstable();
            ids.dedup();
            ids.truncate(limit);
        }
        ids
    }

    /// Ids of a range, shared and local, in byte order; of one state if one is named.
    pub fn page(&self, range: &Range, state: Option<&str>, limit: usize) -> Vec<String> {
        let mut ids = page_of(&self.index, range, state, limit);
        if !self.locals.is_empty() {
            ids.extend(page_of(&self.locals, range, state, limit));
            ids.sort_unstable();
            ids.truncate(limit);
        }
        ids
    }
}

/// Ids of a range of an index, of one state if one is named.
fn page_of(index: &Index, range: &Range, state: Option<&str>, limit: usize) -> Vec<String> {
    let ids: Box<dyn Iterator<Item = (&str, Digest)>> = match state {
        Some(state) => Box::new(index.page_in_state(range, state, limit)),
        None => Box::new(index.page(range, limit)),
    };
    ids.map(|(id, _)| id.to_owned()).collect()
}

/// An item that has arrived at a key by RENAME, COPY, RESTORE or MOVE.
pub struct Arrival {
    /// Where.
    pub database: i32,
    /// Its id.
    pub id: Box<str>,
    /// It is to have a version after this one.
    pub above: Version,
}

/// How often evicted items had been read: whether the memory limit throws out what is in use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evictions {
    /// Items evicted.
    pub items: u64,
    /// Of these, items that had never been read here.
    pub unread: u64,
    /// Reads of all of them together.
    pub reads: u64,
}

/// Reads through to Postgres since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetches {
    /// Ids that commands waited for.
    pub asked: u64,
    /// Ids that came.
    pub found: u64,
    /// Ids that Postgres does not have either.
    pub absent: u64,
    /// Ids that were known to be nowhere, without asking.
    pub denied: u64,
    /// Ids that did not come in time.
    pub late: u64,
}

/// What is left of a copy: its version, and its digest and state.
pub type Remains = (Version, Option<(Digest, Box<str>)>);

/// An item that left its key.
#[derive(Debug)]
pub struct Left {
    /// The database.
    pub database: i32,
    /// Its id.
    pub id: Box<str>,
    /// How often it had been read.
    pub reads: u64,
    /// Of one that was shared what a ghost keeps of it.
    pub shared: Option<Remains>,
}

/// A shared item that was read from a file.
#[derive(Debug)]
pub struct Read {
    /// The database.
    pub database: i32,
    /// Its id.
    pub id: Box<str>,
    /// Its version.
    pub version: Version,
    /// Digest and state.
    pub copy: Option<(Digest, Box<str>)>,
    /// Itself, encoded, where a link has still to take it.
    pub encoded: Option<Vec<u8>>,
}

/// State of the whole module.
pub struct Engine {
    /// Key of all digests.
    pub key: DigestKey,
    /// How large content may be that is written.
    pub bounds: Bounds,
    /// Bound of what may wait for links in one database, in bytes.
    pub pending_bytes_max: usize,
    /// Name of this server start.
    pub run: String,
    /// By database number.
    pub databases: HashMap<i32, Database>,
    /// The module's own command is changing this key: type callbacks leave index and books to it.
    pub own_write: bool,
    /// Writes refused since the start because too much waits for the links.
    pub refused_writes: u64,
    /// Panics caught since the start.
    pub panics: u64,
    /// What the master, or the AOF, said since the start and could not be done here.
    pub failed_effects: u64,
    /// Evictions since the start.
    pub evictions: Evictions,
    /// The item that left its key last: an eviction or an expiry is announced after it.
    pub last_left: Option<Left>,
    /// What a file was read for last, until its key is announced; one that has expired meanwhile never is.
    pub read: Option<Read>,
    /// The AOF was begun anew without the books, which are to be written into it.
    pub books_are_due: bool,
    /// Items that have arrived at keys without a command of ours, with the versions that they are to come after.
    pub arrivals: Vec<Arrival>,
    /// A file is being loaded.
    pub is_loading: bool,
    /// Ids that had expired when they were loaded, with their databases: replicas are to be told.
    pub expired_unloaded: Vec<(i32, Box<str>)>,
    /// Copies that leave another database's keyspace now are also kept for this one, which waits for them.
    pub kept_for: Option<i32>,
    /// Length to which the CDC stream of a database is cut, 0 for no stream.
    pub cdc_length_max: u64,
    /// Entries since the start that the CDC stream could not take.
    pub cdc_lost: u64,
    /// When the log has told of one last.
    pub cdc_lost_logged: Option<Instant>,
    /// How long tombstones are kept.
    pub retention: Retention,
    /// How long a command waits for an id that is fetched.
    pub fetch_timeout: Duration,
    /// Ids that may be wanted of a link at a time.
    pub fetch_ids_max: usize,
    /// How long an id is remembered as absent.
    pub absent_memory: Duration,
    /// Reads through to Postgres since the start.
    pub fetches: Fetches,
}

thread_local! {
    static ENGINE: RefCell<Engine> = RefCell::new(Engine {
        key: DigestKey::new(b""),
        bounds: Bounds::MAX,
        pending_bytes_max: 256 * 1024 * 1024,
        run: String::new(),
        databases: HashMap::new(),
        own_write: false,
        refused_writes: 0,
        panics: 0,
        failed_effects: 0,
        evictions: Evictions::default(),
        last_left: None,
        read: None,
        books_are_due: false,
        arrivals: Vec::new(),
        is_loading: false,
        expired_unloaded: Vec::new(),
        kept_for: None,
        cdc_length_max: 0,
        cdc_lost: 0,
        cdc_lost_logged: None,
        retention: Retention::of_ms(0),
        fetch_timeout: Duration::from_secs(1),
        fetch_ids_max: 10_000,
        absent_memory: Duration::from_secs(1),
        fetches: Fetches::default(),
    });
}

impl Engine {
    /// Whether there are books and no item in any database.
    pub fn is_without_items(&self) -> bool {
        let has_none = |database: &Database| database.index.is_empty() && database.locals.is_empty();
        !self.databases.is_empty() && self.databases.values().all(has_none)
    }
}

/// Runs `work` on the module's state. Errors: `CORRUPT` if the state is in use already, which only a defect of
/// the module can cause.
pub fn with<T>(work: impl FnOnce(&mut Engine) -> T) -> Result<T> {
    ENGINE.with(|engine| match engine.try_borrow_mut() {
        Ok(mut engine) => Ok(work(&mut engine)),
        Err(_) => Err(Error::corrupt("module state", "it is in use by an outer call")),
    })
}

/// Runs `work` on the state of one database.
pub fn with_database<T>(number: i32, work: impl FnOnce(&mut Database) -> T) -> Result<T> {
    with(|engine| work(engine.databases.entry(number).or_default()))
}

/// Marks the module's own change of a key; the mark ends with the value.
pub struct OwnWrite;

impl OwnWrite {
    /// Sets the mark.
    pub fn begin() -> Result<OwnWrite> {
        with(|engine| engine.own_write = true)?;
        Ok(OwnWrite)
    }
}

impl Drop for OwnWrite {
    fn drop(&mut self) {
        let _ = with(|engine| engine.own_write = false);
    }
}
