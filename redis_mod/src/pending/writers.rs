//! Which clients wrote what waits under an id: who of those that wait for their writes waits for it.
//!
//! No Redis type here: the rules are tested without a server.

/// Clients that are told apart; where more have written, it may be anybody's.
const KNOWN_MAX: usize = 3;

/// The clients that wrote under one id. Redis counts its clients from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers {
    known: [u64; KNOWN_MAX],
    is_anybody: bool,
}

impl Writers {
    /// A client has written; `None` for one that nobody knows, as in a script.
    pub fn add(&mut self, client: Option<u64>) {
        let Some(client) = client.filter(|client| *client > 0) else {
            self.is_anybody = true;
            return;
        };
        if self.known.contains(&client) {
            return;
        }
        match self.known.iter_mut().find(|known| **known == 0) {
            Some(free) => *free = client,
            None => self.is_anybody = true,
        }
    }

    /// Whether a client may have written; `None` for one that nobody knows.
    pub fn may_include(&self, client: Option<u64>) -> bool {
        self.is_anybody || client.is_none_or(|client| self.known.contains(&client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_writers_are_told_apart() {
        let mut writers = Writers::default();
        assert!(!writers.may_include(Some(1)) && writers.may_include(None));
        for client in [7, 8, 7, 9] {
            writers.add(Some(client));
        }
        assert!([7, 8, 9].iter().all(|client| writers.may_include(Some(*client))));
        assert!(!writers.may_include(Some(1)));
        writers.add(Some(10));
        assert!(writers.may_include(Some(10)) && writers.may_include(Some(1)), "they were too many");
        let mut writers = Writers::default();
        writers.add(None);
        assert!(writers.may_include(Some(1)));
    }
}
