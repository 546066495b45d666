//! Locks of tandem's processes. They are locks on objects that no SQL statement can name, so that nobody who may take
//! an advisory lock, which everybody may, keeps a process of tandem from its work.

use super::transaction::{Failed, transaction};
use pgrx::pg_sys;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What one process at a time does for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Carries what is written.
    Session = 1,
    /// Answers who waits in Redis.
    Reader = 2,
    /// A fill is under way: what was read here may not be in Redis yet.
    Fill = 3,
    /// Detaches what was removed. The database has one such process, and its lock no link.
    Unlinker = 4,
}

/// A lock of a link.
pub struct Lock {
    tag: pg_sys::LOCKTAG,
}

impl Lock {
    /// The lock of a kind for a link, held by nobody yet.
    pub fn of(kind: Kind, link: &str) -> Lock {
        // Of all processes of a server the same, as they have one library.
        let mut hasher = DefaultHasher::new();
        link.hash(&mut hasher);
        // An object of the catalog pg_extension. Those that have locks of the server's have part 0. The lock is not
        // given up when a transaction fails, as those of the server's own method are.
        let tag = pg_sys::LOCKTAG {
            // SAFETY: set once, when the process connected.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: pg_sys::ExtensionRelationId.to_u32(),
            locktag_field3: hasher.finish() as u32,
            locktag_field4: kind as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        Lock { tag }
    }

    /// Takes the lock for as long as this process lives, unless another holds it. Returns whether this process has it.
    pub fn keep(&self) -> bool {
        let taken = transaction(|| Ok(self.acquire(pg_sys::ExclusiveLock, true)));
        matches!(taken, Ok(true))
    }

    /// Runs `work` unless somebody holds the lock.
    pub fn if_free<T>(&self, work: impl FnOnce() -> T) -> Result<Option<T>, Failed> {
        if !transaction(|| Ok(self.acquire(pg_sys::ExclusiveLock, true)))? {
            return Ok(None);
        }
        let done = work();
        self.release(pg_sys::ExclusiveLock);
        Ok(Some(done))
    }

    /// Runs `work` while others may hold the lock in the same way, and nobody waits in [`Lock::pass`] to the end.
    pub fn shared<T, E: From<Failed>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        transaction(|| Ok(self.acquire(pg_sys::ShareLock, false)))?;
        let done = work();
        self.release(pg_sys::ShareLock);
        done
    }

    /// Waits until all who share the lock at this moment have let go of it.
    pub fn pass(&self) -> Result<(), Failed> {
        transaction(|| {
            self.acquire(pg_sys::ExclusiveLock, false);
            self.release(pg_sys::ExclusiveLock);
            Ok(())
        })
    }

    fn acquire(&self, mode: u32, only_if_free: bool) -> bool {
        // SAFETY: inside a transaction, whose failure ends the wait; the lock is the session's.
        let answer = unsafe { pg_sys::LockAcquire(&self.tag, mode as pg_sys::LOCKMODE, true, only_if_free) };
        answer != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }

    fn release(&self, mode: u32) {
        // SAFETY: this process took the lock in this mode.
        unsafe { pg_sys::LockRelease(&self.tag, mode as pg_sys::LOCKMODE, true) };
    }
}
