//! Which Postgres a link belongs to. After a failover the old server may come back, and it must not go on taking what
//! Redis holds for the one that was promoted in its place.

/// A server of a cluster, as its physical replication tells servers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster's system identifier, which a standby shares with its primary.
    pub cluster: Box<str>,
    /// The timeline that the server writes; a promotion begins a higher one.
    pub timeline: u64,
}

impl Owner {
    /// Whether `other` was promoted in the place of this one.
    pub fn is_replaced_by(&self, other: &Owner) -> bool {
        self.cluster == other.cluster && self.timeline < other.timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promoted_standby_replaces_its_primary_and_nobody_else() {
        let owner = |cluster: &str, timeline| Owner { cluster: cluster.into(), timeline };
        assert!(owner("a", 1).is_replaced_by(&owner("a", 2)));
        assert!(!owner("a", 2).is_replaced_by(&owner("a", 2)));
        assert!(!owner("a", 2).is_replaced_by(&owner("a", 1)));
        assert!(!owner("a", 1).is_replaced_by(&owner("b", 2)));
    }
}
