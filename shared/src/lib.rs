//! The rules of tandem, without an engine: what an item is, what it hashes to, which revision wins, and how two
//! replicas find where they differ. The Postgres extension and the Redis module both compile this crate in.
//!
//! The way of a write: the engine parses its arguments into a [`request`], locks and reads the current
//! revision's [`revision::Head`], asks [`decide`], stores the [`revision::Revision`] it is told to store, and
//! moves the item's [`digest::Digest`] in its ordered index ([`index::Index`] in Redis, [`blocks`] in
//! Postgres). A revision travels as the bytes of [`codec`]; the other side joins it ([`decide::decide_apply`]).
//! [`reconcile`] compares two replicas by [`fingerprint::Fingerprint`] of ranges.
//!
//! Clock, randomness and settings are arguments: with the same arguments the answers are the same on every
//! machine.
#![forbid(unsafe_code)]

pub mod batch;
pub mod blocks;
pub mod cluster;
pub mod codec;
pub mod content;
pub mod decide;
pub mod digest;
pub mod error;
pub mod filter;
pub mod fingerprint;
pub mod gone;
pub mod id;
pub mod index;
pub mod join;
pub mod limits;
pub mod link;
pub mod log;
pub mod owner;
pub mod paths;
pub mod reconcile;
pub mod request;
pub mod revision;

pub use content::{Content, ContentType};
pub use digest::{Digest, DigestKey, PayloadHash};
pub use error::{Code, Error, Result};
pub use fingerprint::Fingerprint;
pub use id::{Id, Path, Range};
pub use revision::{Audit, Body, Head, LiveHead, Revision, State, Timestamp, Version};
