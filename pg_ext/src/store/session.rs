//! What capture, which runs inside a statement, must know of the function that writes: that it is one of ours, on
//! whose behalf, and which versions its removals have.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

thread_local! {
    static OWN_WRITE: Cell<bool> = const { Cell::new(false) };
    static ORIGIN: RefCell<Option<String>> = const { RefCell::new(None) };
    static REMOVALS: RefCell<HashMap<String, i64>> = RefCell::default();
}

/// Whether this module is writing.
pub fn is_own_write() -> bool {
    OWN_WRITE.get()
}

/// The link on whose behalf this process writes.
pub fn origin() -> Option<String> {
    ORIGIN.with_borrow(Clone::clone)
}

/// Runs `work` on behalf of a link; a server error ends it too, by unwinding.
pub fn on_behalf_of<T>(link: &str, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ORIGIN.with_borrow_mut(|origin| *origin = None);
        }
    }
    ORIGIN.with_borrow_mut(|origin| *origin = Some(link.to_owned()));
    let _reset = Reset;
    work()
}

/// Marks writes as ours while it lives.
pub struct OwnWrite;

impl OwnWrite {
    /// Begins a write of ours.
    pub fn begin() -> OwnWrite {
        OWN_WRITE.set(true);
        OwnWrite
    }
}

impl Drop for OwnWrite {
    fn drop(&mut self) {
        OWN_WRITE.set(false);
    }
}

/// The versions that removals of ours were decided to have.
pub mod removals {
    use super::REMOVALS;

    /// Runs `work` with the versions known to capture.
    pub fn during<'a, T>(versions: impl Iterator<Item = (&'a str, i64)>, work: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                REMOVALS.with_borrow_mut(std::collections::HashMap::clear);
            }
        }
        REMOVALS.with_borrow_mut(|known| {
            known.clear();
            known.extend(versions.map(|(id, version)| (id.to_owned(), version)));
        });
        let _reset = Reset;
        work()
    }

    /// The version of the tombstone of a removed row.
    pub fn version(id: &str) -> Option<i64> {
        REMOVALS.with_borrow(|known| known.get(id).copied())
    }
}
