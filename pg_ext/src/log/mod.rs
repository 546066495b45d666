//! The log of changes, table `tandem.changes`.
//!
//! What a transaction changes is collected in memory and written when it commits or is prepared, or when there is much
//! of it, or before tandem reads the log: many rows at a time cost a fraction of what they cost one by one. What a
//! subtransaction has collected goes when it is undone.
//!
//! The log lies in a few slots, tables that are emptied in rotation: no dead tuples, and nothing to vacuum. It has no
//! triggers, and no user has rights to write it: rows get into it from here alone.

mod buffer;
pub mod fold;
mod read;
pub mod rotate;

pub use buffer::{Change, append, flush, has_written, register};
pub use fold::{Wrong, fold_pending, mend, wrong_blocks};
pub use read::{Part, end, news, read, tombstone_ids};
pub use rotate::{emptied, rotate, times_emptied};
pub use tandem_shared::log::Position;
