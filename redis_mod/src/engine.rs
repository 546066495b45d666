//! The module's state: one [`Database`] per Redis database, and what is the same for all. Redis runs commands,
//! events and type callbacks (but `free`) on its main thread, so the state is that thread's own; a borrow is
//! never held across a call into Redis, because that call may come back through a callback.

use crate::pending::Pending;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use tandem_shared::index::Index;
use tandem_shared::limits::CONTENT_BYTES_MAX;
use tandem_shared::{Digest, DigestKey, Error, Result, Revision, Version};

/// What is known of one Redis database beyond its keys.
#[derive(Default)]
pub struct Database {
    /// Ids and digests of exactly the items in the keyspace.
    pub index: Index,
    /// Removed ids.
    pub tombstones: BTreeMap<Box<str>, Revision>,
    /// What the links have not taken yet.
    pub pending: Pending,
    /// The highest version ever seen here: what a write counts on from when every copy was dropped.
    pub version_high: Option<Version>,
}

impl Database {
    /// An item is in the keyspace with this digest.
    pub fn inserted(&mut self, id: &str, version: Version, digest: Digest, state: &str) {
        self.index.insert(id, digest, state);
        self.version_high = self.version_high.max(Some(version));
    }
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
    /// Panics caught since the start.
    pub panics: u64,
}

thread_local! {
    static ENGINE: RefCell<Engine> = RefCell::new(Engine {
        key: DigestKey::new(b""),
        content_bytes_max: CONTENT_BYTES_MAX,
        pending_bytes_max: 256 * 1024 * 1024,
        run: String::new(),
        databases: HashMap::new(),
        own_write: false,
        panics: 0,
    });
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
