//! The order of revisions, and join: the greater one (DESIGN section 3). A join of this kind makes the
//! revisions of an id a semilattice, so replicas that have seen the same revisions agree in whatever order
//! they came (Shapiro, Preguiça, Baquero, Zawirski: "Conflict-free Replicated Data Types", 2011).

use crate::digest::DigestKey;
use crate::revision::{Head, Revision};
use std::cmp::Ordering;

/// Compares two revisions of one id: higher version, then later timestamp, then a tombstone over a live one,
/// then the greater digest. The audit object decides last: it is outside the digest, and without it two
/// revisions that differ there only would be neither equal nor ordered.
pub fn order(key: &DigestKey, id: &str, a: &Head<'_>, b: &Head<'_>) -> Ordering {
    a.version
        .cmp(&b.version)
        .then(a.timestamp.cmp(&b.timestamp))
        .then(a.is_tombstone().cmp(&b.is_tombstone()))
        .then_with(|| a.digest(key, id).cmp(&b.digest(key, id)))
        .then_with(|| a.audit.cmp(&b.audit))
}

/// The greater of two revisions of one id.
pub fn join(key: &DigestKey, id: &str, a: Revision, b: Revision) -> Revision {
    if order(key, id, &a.head(), &b.head()) == Ordering::Less { b } else { a }
}

/// Whether two writers made different revisions under one version: the loser of such a pair is recorded, so
/// that no acknowledged write vanishes without a trace.
pub fn is_conflict(key: &DigestKey, id: &str, a: &Head<'_>, b: &Head<'_>) -> bool {
    a.version == b.version && a.digest(key, id) != b.digest(key, id)
}
