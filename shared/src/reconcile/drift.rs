//! In what two sides differ at an id, and what a check says of all such ids together.

use crate::digest::DigestKey;
use crate::join::{is_conflict, order};
use crate::revision::Head;
use std::cmp::Ordering;

/// In what two sides differ at an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// The left side knows nothing of the id.
    MissingLeft,
    /// The right side knows nothing of the id.
    MissingRight,
    /// The left side has the smaller revision.
    OlderLeft,
    /// The right side has the smaller revision.
    OlderRight,
    /// Two writers used one version for different revisions.
    Conflict,
}

impl Drift {
    /// Compares what the two sides know of an id; `None` where it is the same live revision, or none on either.
    pub fn of(key: &DigestKey, id: &str, left: Option<&Head<'_>>, right: Option<&Head<'_>>) -> Option<Drift> {
        let digest = |head: Option<&Head<'_>>| head.and_then(|head| head.digest(key, id));
        if digest(left) == digest(right) {
            return None;
        }
        Some(match (left, right) {
            (None, None) => return None,
            (None, Some(_)) => Drift::MissingLeft,
            (Some(_), None) => Drift::MissingRight,
            (Some(left), Some(right)) if is_conflict(key, id, left, right) => Drift::Conflict,
            (Some(left), Some(right)) => match order(key, id, left, right) {
                Ordering::Less => Drift::OlderLeft,
                Ordering::Equal | Ordering::Greater => Drift::OlderRight,
            },
        })
    }

    /// The words users see, where the sides have these names.
    pub fn words(self, left: &str, right: &str) -> String {
        match self {
            Drift::MissingLeft => format!("missing_in_{left}"),
            Drift::MissingRight => format!("missing_in_{right}"),
            Drift::OlderLeft => format!("older_in_{left}"),
            Drift::OlderRight => format!("older_in_{right}"),
            Drift::Conflict => "conflict".to_owned(),
        }
    }
}

/// The answer of a check (DESIGN section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides hold the same.
    Equal,
    /// They do not.
    Differs,
    /// It cannot be said yet.
    Incomplete,
}

impl Verdict {
    /// Of a check that went through everything: `left` ids differ after it, and of these `in_flight` are on their way.
    pub fn of(left: u64, in_flight: u64) -> Verdict {
        match left {
            0 => Verdict::Equal,
            _ if in_flight >= left => Verdict::Incomplete,
            _ => Verdict::Differs,
        }
    }

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Differs => "differs",
            Verdict::Incomplete => "incomplete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Bounds, Content};
    use crate::revision::{Body, Revision, State, Timestamp, Version};

    fn revision(version: i128, content: Option<&str>) -> Revision {
        let body = match content {
            Some(text) => Body::Live {
                state: State::default(),
                content: Content::json(text.as_bytes(), Bounds::MAX).unwrap(),
            },
            None => Body::Tombstone,
        };
        Revision { version: Version::new(version).unwrap(), timestamp: Timestamp::EPOCH, audit: None, body }
    }

    #[test]
    fn drift_says_which_side_is_behind() {
        let key = DigestKey::new(b"");
        let (one, two) = (revision(1, Some("1")), revision(2, Some("2")));
        let (other, gone) = (revision(1, Some("3")), revision(2, None));
        let of = |left: Option<&Revision>, right: Option<&Revision>| {
            let (left, right) = (left.map(Revision::head), right.map(Revision::head));
            let drift = Drift::of(&key, "id", left.as_ref(), right.as_ref());
            drift.map(|drift| drift.words("one", "two"))
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(&one), Some(&one)), None);
        assert_eq!(of(None, Some(&gone)), None, "a removed id is missing on both sides");
        assert_eq!(of(None, Some(&one)).as_deref(), Some("missing_in_one"));
        assert_eq!(of(Some(&one), None).as_deref(), Some("missing_in_two"));
        assert_eq!(of(Some(&one), Some(&two)).as_deref(), Some("older_in_one"));
        assert_eq!(of(Some(&gone), Some(&one)).as_deref(), Some("older_in_two"));
        assert_eq!(of(Some(&one), Some(&other)).as_deref(), Some("conflict"));
    }

    #[test]
    fn what_is_on_its_way_is_not_called_different() {
        assert_eq!(Verdict::of(0, 0), Verdict::Equal);
        assert_eq!(Verdict::of(3, 3), Verdict::Incomplete);
        assert_eq!(Verdict::of(3, 2), Verdict::Differs);
    }
}
