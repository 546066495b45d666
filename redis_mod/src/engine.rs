//! The module's state: one [`Database`] per Redis database, and what is the same for all. Redis runs commands,
//! events and type callbacks (but `free`) on its main thread, so the state is that thread's own; a borrow is
//! never held across a call into Redis, because that call may come back through a callback.

use crate::pending::Pending;
use crate::reading::{Mode, Reading};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tandem_shared::decide::Retention;
use tandem_shared::index::Index;
use tandem_shared::limits::CONTENT_BYTES_MAX;
use tandem_shared::owner::Owner;
use tandem_shared::{Digest, DigestKey, Error, Head, Range, Result, Revision, Version};

/// Expired ids whose versions are remembered.
const EXPIRED_MAX: usize = 100_000;

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
    /// The Postgres that attached each link last, if it said who it is. Not in files: whoever attaches first after a
    /// restart compares everything.
    pub owners: HashMap<Box<str>, Owner>,
    /// How long the other sides of the links keep tombstones; each says so when it attaches.
    pub peers: HashMap<Box<str>, Retention>,
    /// Versions of copies that have expired, of which no link is told.
    pub expired: BTreeMap<Box<str>, Version>,
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
        if !self.expired.is_empty() {
            self.expired.remove(id);
        }
        self.version_high = self.version_high.max(Some(item.version));
        if !self.locals.is_empty() {
            self.locals.remove(id);
        }
    }

    /// An item has left the keyspace.
    pub fn left(&mut self, id: &str, local: bool) {
        if local {
            self.locals.remove(id)
        } else {
            self.index.remove(id)
        };
    }

    /// The links that carry an id.
    pub fn readings_of(&mut self, id: &str) -> impl Iterator<Item = &mut Reading> {
        self.readings.values_mut().filter(move |reading| reading.covers(id))
    }

    /// A copy has left the keyspace for good or for a while.
    pub fn copy_left(&mut self, id: &str) {
        self.readings_of(id).for_each(|reading| reading.left(id));
    }

    /// Whether every link that is attached only caches an id.
    pub fn only_caches(&self, id: &str) -> bool {
        let caches = |name: &str| {
            self.readings.get(name).is_some_and(|reading| reading.covers(id) && !reading.mirrors(id))
        };
        self.pending.has_links() && self.pending.links().all(|(name, _)| caches(name))
    }

    /// A copy has expired: what is put there next counts on from it, as Postgres still has it.
    pub fn expired(&mut self, id: &str, version: Version) {
        if self.expired.len() >= EXPIRED_MAX {
            self.expired.pop_first();
        }
        self.expired.insert(id.into(), version);
    }

    /// Forgets a link and what waited for it only. False if it was not attached.
    pub fn detach(&mut self, name: &str) -> bool {
        self.peers.remove(name);
        self.owners.remove(name);
        self.readings.remove(name);
        self.pending.detach(name)
    }

    /// What a link's commands name as the run: another one when another server has attached the link.
    pub fn run_of(&self, run: &str, link: &str) -> String {
        match self.owners.get(link) {
            Some(owner) => format!("{run}-{}-{}", owner.cluster, owner.timeline),
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

    /// Attaches a link; false if it was attached. What lives here is compared when a link begins. What was removed
    /// leaves nothing to compare, so every tombstone waits for a link that is new.
    pub fn attach(&mut self, name: &str) -> bool {
        let is_new = self.pending.attach(name);
        for id in self.tombstones.keys().filter(|_| is_new) {
            self.pending.written(id, None, None);
        }
        is_new
    }

    /// Makes a link a source for readers of what is not here, or none. Its filter begins anew. Returns whether mode or
    /// prefix are others than before. Errors: `INVALID`.
    pub fn read_from(&mut self, name: &str, mode: &str, prefix: &str) -> Result<bool> {
        let Some(mode) = Mode::parse(mode)? else { return Ok(self.readings.remove(name).is_some()) };
        match self.readings.get_mut(name) {
            Some(reading) if reading.mode == mode && *reading.prefix == *prefix => {
                reading.drop_filter();
                Ok(false)
            }
            _ => {
                self.readings.insert(name.into(), Reading::new(mode, prefix));
                Ok(true)
            }
        }
    }

    /// Ids of a range, shared and local, in byte order; of one state if one is named.
    pub fn page(&self, range: &Range, state: Option<&str>, limit: usize) -> Vec<String> {
        let of = |index: &Index| -> Vec<String> {
            let ids: Box<dyn Iterator<Item = (&str, Digest)>> = match state {
                Some(state) => Box::new(index.page_in_state(range, state, limit)),
                None => Box::new(index.page(range, limit)),
            };
            ids.map(|(id, _)| id.to_owned()).collect()
        };
        let mut ids = of(&self.index);
        if !self.locals.is_empty() {
            ids.extend(of(&self.locals));
            ids.sort_unstable();
            ids.truncate(limit);
        }
        ids
    }
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

/// State of the whole module.
pub struct Engine {
    /// Key of all digests.
    pub key: DigestKey,
    /// Largest content accepted, in bytes.
    pub content_bytes_max: usize,
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
    /// Evictions since the start.
    pub evictions: Evictions,
    /// Id and reads of the item that left its key last: an eviction is announced after it.
    pub last_left: Option<(Box<str>, u64)>,
    /// Length to which the CDC stream of a database is cut, 0 for no stream.
    pub cdc_length_max: u64,
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
        content_bytes_max: CONTENT_BYTES_MAX,
        pending_bytes_max: 256 * 1024 * 1024,
        run: String::new(),
        databases: HashMap::new(),
        own_write: false,
        refused_writes: 0,
        panics: 0,
        evictions: Evictions::default(),
        last_left: None,
        cdc_length_max: 0,
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
