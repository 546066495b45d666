//! Which Postgres a link belongs to. After a failover the old server may come back, and it must not go on taking what
//! Redis holds for the one that was promoted in its place. Two databases of one server are two owners.

use crate::error::Result;
use crate::link::message::unsigned;

/// A database of a server, as its physical replication tells servers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster's system identifier, which a standby shares with its primary.
    pub cluster: Box<str>,
    /// The timeline that the server writes; a promotion begins a higher one.
    pub timeline: u64,
    /// Number (oid) of the database in its cluster, which its copies do not share.
    pub database: u64,
}

impl Owner {
    /// Whether `other` was promoted in the place of this one.
    pub fn is_replaced_by(&self, other: &Owner) -> bool {
        self.is_before_or_after(other) && self.timeline < other.timeline
    }

    /// Whether both are one database, be it of a server and of one that was promoted in its place.
    pub fn is_before_or_after(&self, other: &Owner) -> bool {
        self.cluster == other.cluster && self.database == other.database
    }

    /// Whether both are databases of one cluster, and not the same.
    pub fn is_beside(&self, other: &Owner) -> bool {
        self.cluster == other.cluster && self.database != other.database
    }

    /// The words that [`Owner::parse`] reads: cluster, timeline, database.
    pub fn words(&self) -> [String; 3] {
        [self.cluster.to_string(), self.timeline.to_string(), self.database.to_string()]
    }

    /// Reads an owner from its words. Errors: `INVALID`.
    pub fn parse([cluster, timeline, database]: [&str; 3]) -> Result<Owner> {
        let (timeline, database) = (unsigned("timeline", timeline)?, unsigned("database", database)?);
        Ok(Owner { cluster: cluster.into(), timeline, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(cluster: &str, timeline: u64, database: u64) -> Owner {
        Owner { cluster: cluster.into(), timeline, database }
    }

    #[test]
    fn a_promoted_standby_replaces_its_primary_and_nobody_else() {
        assert!(owner("a", 1, 5).is_replaced_by(&owner("a", 2, 5)));
        assert!(!owner("a", 2, 5).is_replaced_by(&owner("a", 2, 5)));
        assert!(!owner("a", 2, 5).is_replaced_by(&owner("a", 1, 5)));
        assert!(!owner("a", 1, 5).is_replaced_by(&owner("b", 2, 5)));
        assert!(!owner("a", 1, 5).is_replaced_by(&owner("a", 2, 6)), "another database of the cluster");
    }

    #[test]
    fn two_databases_of_a_cluster_are_two_owners() {
        assert!(owner("a", 1, 5).is_beside(&owner("a", 2, 6)));
        assert!(
            !owner("a", 1, 5).is_beside(&owner("a", 2, 5)) && !owner("a", 1, 5).is_beside(&owner("b", 1, 6))
        );
        let one = owner("a", 3, 7);
        let words = one.words();
        assert_eq!(Owner::parse([&words[0], &words[1], &words[2]]).unwrap(), one);
        assert!(Owner::parse(["a", "-1", "5"]).is_err() && Owner::parse(["a", "1", "x"]).is_err());
    }
}
