//! Which clients wrote what not every link has: a client that waits for its writes must not be told that a link has
//! what the link does not carry, or what the other side of it has refused.
//!
//! No Redis type here: the rules are tested without a server.

use std::collections::{BTreeSet, HashMap};

/// Writes of one client, since it waited last.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Written {
    /// Numbers of the first and the last of them that wait, or waited, for a link.
    pub numbers: Option<(u64, u64)>,
    /// Links that did not carry one of them.
    pub lacking: BTreeSet<Box<str>>,
    /// The client has waited since; what it writes next begins anew.
    has_waited: bool,
}

/// The clients of one database.
#[derive(Debug, Default)]
pub struct Clients {
    by_client: HashMap<u64, Written>,
}

impl Clients {
    /// A client has written: under a number, if any link is to be told. `lacking`: the links that do not carry it.
    pub fn wrote<'a>(&mut self, client: u64, number: Option<u64>, lacking: impl Iterator<Item = &'a str>) {
        let written = self.by_client.entry(client).or_default();
        if written.has_waited {
            *written = Written::default();
        }
        if let Some(number) = number {
            let first = written.numbers.map_or(number, |(first, _)| first);
            written.numbers = Some((first, number));
        }
        written.lacking.extend(lacking.map(Into::into));
    }

    /// What a client has written since it waited last, or what it waited for then if it has written nothing since.
    pub fn waits(&mut self, client: u64) -> Written {
        let Some(written) = self.by_client.get_mut(&client) else { return Written::default() };
        written.has_waited = true;
        written.clone()
    }

    /// A client has gone.
    pub fn gone(&mut self, client: u64) {
        self.by_client.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_speaks_of_the_writes_since_the_one_before() {
        let mut clients = Clients::default();
        assert_eq!(clients.waits(1), Written::default());
        clients.wrote(1, None, ["a"].into_iter());
        clients.wrote(1, Some(5), ["b"].into_iter());
        clients.wrote(2, Some(6), std::iter::empty());
        clients.wrote(1, Some(7), std::iter::empty());
        let written = clients.waits(1);
        assert_eq!((written.numbers, written.lacking.len()), (Some((5, 7)), 2));
        assert_eq!(clients.waits(1).lacking.len(), 2, "asked again, it is told the same");
        clients.wrote(1, Some(9), std::iter::empty());
        let written = clients.waits(1);
        assert_eq!((written.numbers, written.lacking.len()), (Some((9, 9)), 0));
        clients.gone(2);
        assert_eq!(clients.waits(2), Written::default());
    }
}
