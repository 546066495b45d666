//! In what two sides differ at an id, and what a check says of all such ids together.

use crate::digest::DigestKey;
use crate::join::{is_conflict, order};
use crate::revision::Head;
use std::cmp::Ordering;

/// In what Redis and Postgres differ at an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Redis knows nothing of the id.
    MissingInRedis,
    /// Postgres knows nothing of the id.
    MissingInPostgres,
    /// Redis has the smaller revision.
    OlderInRedis,
    /// Postgres has the smaller revision.
    OlderInPostgres,
    /// Two writers used one version for different revisions.
    Conflict,
}

impl Drift {
    /// Compares what the two sides know of an id; `None` where it is the same live revision, or none on either.
    pub fn of(
        key: &DigestKey,
        id: &str,
        redis: Option<&Head<'_>>,
        postgres: Option<&Head<'_>>,
    ) -> Option<Drift> {
        let digest = |head: Option<&Head<'_>>| head.and_then(|head| head.digest(key, id));
        if digest(redis) == digest(postgres) {
            return None;
        }
        Some(match (redis, postgres) {
            (None, None) => return None,
            (None, Some(_)) => Drift::MissingInRedis,
            (Some(_), None) => Drift::MissingInPostgres,
            (Some(redis), Some(postgres)) if is_conflict(key, id, redis, postgres) => Drift::Conflict,
            (Some(redis), Some(postgres)) => match order(key, id, redis, postgres) {
                Ordering::Less => Drift::OlderInRedis,
                Ordering::Equal | Ordering::Greater => Drift::OlderInPostgres,
            },
        })
    }

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Drift::MissingInRedis => "missing_in_redis",
            Drift::MissingInPostgres => "missing_in_postgres",
            Drift::OlderInRedis => "older_in_redis",
            Drift::OlderInPostgres => "older_in_postgres",
            Drift::Conflict => "conflict",
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
    use crate::content::Content;
    use crate::revision::{Body, Revision, State, Timestamp, Version};

    fn revision(version: i128, content: Option<&str>) -> Revision {
        let body = match content {
            Some(text) => {
                Body::Live { state: State::default(), content: Content::json(text.as_bytes(), 100).unwrap() }
            }
            None => Body::Tombstone,
        };
        Revision { version: Version::new(version).unwrap(), timestamp: Timestamp::EPOCH, audit: None, body }
    }

    #[test]
    fn drift_says_which_side_is_behind() {
        let key = DigestKey::new(b"");
        let (one, two) = (revision(1, Some("1")), revision(2, Some("2")));
        let (other, gone) = (revision(1, Some("3")), revision(2, None));
        let of = |redis: Option<&Revision>, postgres: Option<&Revision>| {
            let (redis, postgres) = (redis.map(Revision::head), postgres.map(Revision::head));
            Drift::of(&key, "id", redis.as_ref(), postgres.as_ref()).map(Drift::as_str)
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(&one), Some(&one)), None);
        assert_eq!(of(None, Some(&gone)), None, "a removed id is missing on both sides");
        assert_eq!(of(None, Some(&one)), Some("missing_in_redis"));
        assert_eq!(of(Some(&one), None), Some("missing_in_postgres"));
        assert_eq!(of(Some(&one), Some(&two)), Some("older_in_redis"));
        assert_eq!(of(Some(&gone), Some(&one)), Some("older_in_postgres"));
        assert_eq!(of(Some(&one), Some(&other)), Some("conflict"));
    }

    #[test]
    fn what_is_on_its_way_is_not_called_different() {
        assert_eq!(Verdict::of(0, 0), Verdict::Equal);
        assert_eq!(Verdict::of(3, 3), Verdict::Incomplete);
        assert_eq!(Verdict::of(3, 2), Verdict::Differs);
    }
}
