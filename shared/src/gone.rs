//! Rules for ids whose copy has left one tier for good, by expiry, while the other has them still: of such a ghost no
//! more than version and digest is known where it was.

use crate::decide::{Applied, Outcome, new_version};
use crate::digest::{Digest, DigestKey};
use crate::error::{Error, Result, shown};
use crate::request::{Precondition, RemoveRequest};
use crate::revision::{Body, Head, Revision, Timestamp, Version};
use std::cmp::Ordering;

/// Decides the removal of an item whose copy has left this tier for good while the other side has it, so that no more
/// than its version is known: a tombstone as [`decide_remove`] makes it. `None` where no version is known.
///
/// Errors: `CONFLICT` where an etag is asked for, which nobody here can compare, `STALE` and `INVALID` as there.
pub fn decide_remove_gone(
    id: &str,
    version: Option<Version>,
    request: RemoveRequest,
    now: Timestamp,
) -> Result<Option<Revision>> {
    let Some(current) = version else { return Ok(None) };
    if let Precondition::IfMatch(expected) = &request.precondition {
        return Err(Error::Conflict {
            what: format!("item {}", shown(id)),
            expected: expected.to_hex(),
            current: "none".to_owned(),
        });
    }
    let version = new_version(id, Some(current), request.version)?;
    Ok(Some(Revision { version, timestamp: now, audit: request.audit, body: Body::Tombstone }))
}

/// Decides what a foreign revision does where the copy of an id has left this tier for good. `known` is the version
/// that it had, and its digest if the other side has it; `is_settled` says that what left is not on its way to the
/// other side, which offers this: then it knows better, and `Unchanged` says that what it offers is what it has of
/// the ghost.
pub fn decide_apply_gone(
    key: &DigestKey,
    id: &str,
    known: (Version, Option<Digest>),
    offered: &Head<'_>,
    is_settled: bool,
) -> Applied {
    let (version, digest) = known;
    let outcome = match offered.version.cmp(&version) {
        Ordering::Greater => Outcome::Applied,
        Ordering::Equal if digest.is_some() && offered.digest(key, id) == digest => Outcome::Unchanged,
        // Somebody else's write of the same version, which was joined with what left and won.
        Ordering::Equal => Outcome::Applied,
        Ordering::Less if !is_settled => Outcome::Stale,
        Ordering::Less if offered.is_tombstone() => Outcome::Applied,
        Ordering::Less => Outcome::Unchanged,
    };
    Applied { outcome, conflict: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Bounds, Content};
    use crate::revision::State;
    use proptest::prelude::*;

    fn version(number: u64) -> Version {
        Version::new(number.into()).unwrap()
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::new(ms.into()).unwrap()
    }

    fn revision(number: u64, content: Option<u8>) -> Revision {
        let body = match content {
            Some(content) => {
                let content = Content::json(content.to_string().as_bytes(), Bounds::MAX).unwrap();
                Body::Live { state: State::default(), content }
            }
            None => Body::Tombstone,
        };
        Revision { version: version(number), timestamp: at(1), audit: None, body }
    }

    #[test]
    fn a_removal_counts_on_from_the_version_alone() {
        let plain = || RemoveRequest::parse(None, None, None).unwrap();
        let removed = decide_remove_gone("a", Some(version(4)), plain(), at(9)).unwrap().unwrap();
        assert_eq!((removed.version, removed.timestamp, removed.body), (version(5), at(9), Body::Tombstone));
        assert_eq!(decide_remove_gone("a", None, plain(), at(9)).unwrap(), None);
        let stale = RemoveRequest::parse(Some("4"), None, None).unwrap();
        assert_eq!(
            decide_remove_gone("a", Some(version(4)), stale, at(9)).unwrap_err().code().as_str(),
            "STALE"
        );
        let etag = "00".repeat(32);
        let matched = RemoveRequest::parse(None, Some(&etag), None).unwrap();
        let error = decide_remove_gone("a", Some(version(4)), matched, at(9)).unwrap_err();
        assert_eq!(error.code().as_str(), "CONFLICT");
    }

    #[test]
    fn what_left_stays_away_and_what_is_newer_does_not() {
        let key = DigestKey::new(b"");
        let left = revision(5, Some(1));
        let known = (version(5), left.digest(&key, "a"));
        let outcome = |offered: &Revision, is_settled| {
            decide_apply_gone(&key, "a", known, &offered.head(), is_settled).outcome
        };
        for is_settled in [false, true] {
            assert_eq!(outcome(&left, is_settled), Outcome::Unchanged, "what left is no news");
            assert_eq!(outcome(&revision(5, Some(2)), is_settled), Outcome::Applied, "it won a tie");
            assert_eq!(outcome(&revision(6, Some(1)), is_settled), Outcome::Applied);
            assert_eq!(outcome(&revision(6, None), is_settled), Outcome::Applied);
        }
        // The other side has less than was thought.
        assert_eq!(outcome(&revision(4, Some(1)), true), Outcome::Unchanged);
        assert_eq!(outcome(&revision(4, None), true), Outcome::Applied);
        // Or it is about to be told.
        assert_eq!(outcome(&revision(4, Some(1)), false), Outcome::Stale);
        assert_eq!(outcome(&revision(4, None), false), Outcome::Stale);
    }

    proptest! {
        /// No live revision that is older, and not what left itself, brings an expired copy back.
        #[test]
        fn nothing_older_comes_back(left in 1_u64..9, offered in 1_u64..9, content in 0_u8..3, is_settled: bool) {
            let key = DigestKey::new(b"");
            let known = (version(left), revision(left, Some(1)).digest(&key, "a"));
            let offer = revision(offered, Some(content));
            let outcome = decide_apply_gone(&key, "a", known, &offer.head(), is_settled).outcome;
            let comes_back = outcome == Outcome::Applied;
            prop_assert_eq!(comes_back, offered > left || (offered == left && content != 1));
        }
    }
}
