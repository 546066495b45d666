//! What tandem's functions have decided, handed over to the triggers of `items` per id.
//!
//! A statement of ours fires the triggers of others as well, and what those write is nobody's decision: so nothing
//! here says "this session is writing for tandem". A row is taken as decided only if it is exactly the one that was
//! handed over, once; any other row is plain DML. Calls nest, as a trigger may call tandem's functions: what the outer
//! call had handed over is put aside and comes back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tandem_shared::{Audit, PayloadHash, Revision};

/// A row that is about to be stored.
#[derive(Clone)]
pub struct Decided {
    /// Its version.
    pub version: i64,
    /// Its timestamp.
    pub timestamp: i64,
    /// Its state.
    pub state: String,
    /// Hash of its content; `None` where the content stays as it is.
    pub payload_hash: Option<PayloadHash>,
    /// Its audit object.
    pub audit: Option<Audit>,
    /// Whether it stays in this tier.
    pub local: bool,
    /// Whether it is a revision of another side, which keeps its version only if it is stored as it came.
    pub is_joined: bool,
    /// Version and timestamp of the tombstone that it was decided over.
    pub over: Option<(i64, i64)>,
}

/// What became of rows that were handed over, by id. What a trigger has kept away from the table is not among them.
pub type Stored = HashMap<String, Became>;

/// What a row that was handed over has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Became {
    /// Its version.
    pub version: i64,
    /// Its timestamp.
    pub timestamp: i64,
    /// Whether it is as it was decided.
    pub is_as_decided: bool,
    /// Whether it was joined, and so has its version on another side, too.
    pub is_joined: bool,
    /// Version and timestamp of the tombstone that it was decided over.
    pub over: Option<(i64, i64)>,
}

#[derive(Default)]
struct Context {
    origin: Option<Rc<str>>,
    decided: HashMap<String, Decided>,
    stored: Stored,
    removals: HashMap<String, Rc<Revision>>,
}

thread_local! {
    static CONTEXT: RefCell<Context> = RefCell::default();
    static ORIGIN: RefCell<Option<Rc<str>>> = const { RefCell::new(None) };
}

/// The link on whose behalf this process joins.
pub fn origin() -> Option<Rc<str>> {
    ORIGIN.with_borrow(Clone::clone)
}

/// Runs `work` on behalf of a link; a server error ends it too, by unwinding.
pub fn on_behalf_of<T>(link: &str, work: impl FnOnce() -> T) -> T {
    struct Reset(Option<Rc<str>>);
    impl Drop for Reset {
        fn drop(&mut self) {
            ORIGIN.set(self.0.take());
        }
    }
    let _reset = Reset(ORIGIN.replace(Some(link.into())));
    work()
}

/// Runs a statement of ours with its rows and removals handed over. Triggers of others that it fires are on nobody's
/// behalf. Returns what became of the rows, too.
pub fn handing_over<T>(
    rows: HashMap<String, Decided>,
    removals: HashMap<String, Rc<Revision>>,
    work: impl FnOnce() -> T,
) -> (T, Stored) {
    struct Reset {
        outer: Option<Context>,
        origin: Option<Rc<str>>,
    }
    impl Drop for Reset {
        fn drop(&mut self) {
            if let Some(outer) = self.outer.take() {
                CONTEXT.set(outer);
            }
            ORIGIN.set(self.origin.take());
        }
    }
    let origin = ORIGIN.take();
    let inner = Context { origin: origin.clone(), decided: rows, stored: Stored::default(), removals };
    let mut reset = Reset { outer: Some(CONTEXT.replace(inner)), origin };
    let value = work();
    let inner = CONTEXT.replace(reset.outer.take().unwrap_or_default());
    (value, inner.stored)
}

/// Takes what was decided of a row that is about to be stored, if it is the row that was handed over.
pub fn take_decided(id: &str, version: i64, timestamp: i64) -> Option<Decided> {
    CONTEXT.with_borrow_mut(|context| {
        let is_it = |decided: &Decided| decided.version == version && decided.timestamp == timestamp;
        if context.decided.get(id).is_some_and(is_it) { context.decided.remove(id) } else { None }
    })
}

/// Notes what a row that was handed over has become.
pub fn became(id: &str, became: Became) {
    CONTEXT.with_borrow_mut(|context| context.stored.insert(id.to_owned(), became));
}

/// What a row that is stored now was handed over as, if it is as that was decided.
pub fn as_decided(id: &str, version: i64, timestamp: i64) -> Option<(Became, Option<Rc<str>>)> {
    CONTEXT.with_borrow(|context| {
        let became = context.stored.get(id)?;
        let is_it = became.is_as_decided && became.version == version && became.timestamp == timestamp;
        is_it.then(|| (*became, context.origin.clone()))
    })
}

/// Notes that a row that was handed over has got another version, above that of a removal that nobody had seen.
pub fn counts_on(id: &str, version: i64) {
    CONTEXT.with_borrow_mut(|context| {
        if let Some(became) = context.stored.get_mut(id) {
            (became.version, became.is_as_decided) = (version, false);
        }
    });
}

/// Takes the tombstone that was decided for a row that is deleted now, and on whose behalf.
pub fn take_removal(id: &str) -> Option<(Rc<Revision>, Option<Rc<str>>)> {
    CONTEXT.with_borrow_mut(|context| {
        let removal = context.removals.remove(id)?;
        Some((removal, context.origin.clone()))
    })
}
