//! Positions in Postgres' log of changes, as snapshots.
//!
//! The log is an ordinary table: each row carries the number of its transaction and counts up within it, and rows
//! become visible when their transaction commits, in any order. A position that is a single number would have to wait
//! for the oldest transaction that is still running, wherever in the cluster it runs. A position here says which rows
//! were read: all of the transactions below a bound, except for a few that were open, of which none or the first rows
//! were. Reading on takes what has become visible since, so an open or prepared transaction holds back its own
//! rows and nobody else's. (PgQ, the queue of Skytools, reads between two snapshots in the same way.)
//!
//! The written form is `below`, or `below:open,…` where each open transaction is `number` or `number-rows`: position
//! `812:790,801-15` has read all transactions below 812 but number 790, of which nothing, and number 801, of which the
//! rows up to the 15th.

use crate::error::{Error, Result, shown};
use std::collections::BTreeMap;
use std::fmt;

/// Where a row stands in the log: its transaction, and its number within that, from 1.
pub type Place = (u64, u32);

/// What a reader has read of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    below: u64,
    open: BTreeMap<u64, u32>,
}

/// The transactions whose rows a statement saw: those below `end`, except those that were running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    end: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Parses Postgres' `pg_snapshot`: `xmin:xmax:running,…`. Errors: `CORRUPT`.
    pub fn parse(text: &str) -> Result<Snapshot> {
        let malformed = || Error::corrupt("snapshot", format!("{} is not one", shown(text)));
        let mut parts = text.splitn(3, ':');
        let (Some(_), Some(end), Some(running)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
        let running = running.split(',').filter(|text| !text.is_empty()).map(number);
        Snapshot::new(number(end)?, running.collect::<Result<Vec<u64>>>()?).map_err(|_| malformed())
    }

    /// A snapshot from the first number that was not given out yet and the transactions that were running below it.
    /// Errors: `CORRUPT` if one that was running is not below.
    pub fn new(end: u64, mut running: Vec<u64>) -> Result<Snapshot> {
        running.sort_unstable();
        running.dedup();
        if running.last().is_some_and(|last| *last >= end) {
            return Err(Error::corrupt("snapshot", "a running transaction lies beyond its end"));
        }
        Ok(Snapshot { end, running })
    }

    /// The same with one more transaction running: the reader's own, if it writes.
    pub fn with_running(mut self, number: u64) -> Snapshot {
        if number < self.end
            && let Err(at) = self.running.binary_search(&number)
        {
            self.running.insert(at, number);
        }
        self
    }

    /// Whether the rows of a transaction are seen, if it has committed.
    pub fn sees(&self, transaction: u64) -> bool {
        transaction < self.end && self.running.binary_search(&transaction).is_err()
    }
}

impl Position {
    /// The position before every row.
    pub const START: Position = Position { below: 0, open: BTreeMap::new() };

    /// The position of a reader that has read everything that a snapshot sees.
    pub fn of(snapshot: &Snapshot) -> Position {
        Position { below: snapshot.end, open: snapshot.running.iter().map(|number| (*number, 0)).collect() }
    }

    /// The bound: every row of a transaction from here on is unread.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// Transactions below the bound of which not all is read, with the number of rows that are, in order.
    pub fn open(&self) -> impl Iterator<Item = Place> + '_ {
        self.open.iter().map(|(number, rows)| (*number, *rows))
    }

    /// Whether a row was read.
    pub fn covers(&self, (transaction, row): Place) -> bool {
        transaction < self.below && self.open.get(&transaction).is_none_or(|read| row <= *read)
    }

    /// The position after a reader has read on. `snapshot` is what its statement saw. `last` is the row at which it
    /// stopped, if it stopped before the end: it reads rows that this position does not cover in ascending order of
    /// their places.
    pub fn advance(&self, snapshot: &Snapshot, last: Option<Place>) -> Position {
        let Some((transaction, row)) = last else {
            let mut next = Position::of(snapshot);
            // A row of a transaction that runs on was never read; but a position may have been written by hand.
            for (number, rows) in &mut next.open {
                *rows = self.open.get(number).copied().unwrap_or(0);
            }
            // With a snapshot older than the position nothing is forgotten.
            next.open.extend(self.open.range(next.below.min(self.below)..self.below));
            next.below = next.below.max(self.below);
            return next;
        };
        let mut next =
            Position { below: self.below.max(transaction.saturating_add(1)), open: BTreeMap::new() };
        for (number, rows) in &self.open {
            if *number > transaction || !snapshot.sees(*number) {
                next.open.insert(*number, *rows);
            }
        }
        for number in &snapshot.running {
            if *number >= self.below && *number < next.below {
                next.open.insert(*number, 0);
            }
        }
        next.open.insert(transaction, row);
        next
    }

    /// Whether rows that this position does not cover may be gone. `emptied` is the highest transaction whose rows
    /// were emptied out of the log, by whoever saw less than `snapshot` does: what still runs has lost nothing.
    pub fn is_truncated(&self, emptied: u64, snapshot: &Snapshot) -> bool {
        emptied > 0
            && (self.below <= emptied
                || self.open.keys().any(|number| *number <= emptied && snapshot.sees(*number)))
    }

    /// Whether the position can have been read where a snapshot is taken now: none of its transactions is yet to come.
    pub fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.below <= snapshot.end
    }

    /// Parses the written form; the empty text is the start. Errors: `INVALID`.
    pub fn parse(text: &str) -> Result<Position> {
        let refuse = || {
            Error::invalid(
                format!("position {}", shown(text)),
                "is not one of the log",
                "pass the pos of a change or what tandem.log_position() gives",
            )
        };
        // Postgres keeps these numbers as bigint.
        let number = |text: &str| text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok());
        let (below, open) = text.split_once(':').unwrap_or((text, ""));
        let below = if text.is_empty() { 0 } else { number(below).ok_or_else(refuse)? };
        let mut position = Position { below, open: BTreeMap::new() };
        for part in open.split(',').filter(|_| text.contains(':')) {
            let (transaction, rows) = part.split_once('-').unwrap_or((part, "0"));
            let rows = number(rows).filter(|rows| *rows <= i32::MAX as u64).ok_or_else(refuse)? as u32;
            let transaction = number(transaction).filter(|number| *number < below).ok_or_else(refuse)?;
            if position.open.insert(transaction, rows).is_some() {
                return Err(refuse());
            }
        }
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.below)?;
        for (place, (number, rows)) in self.open.iter().enumerate() {
            write!(f, "{}{number}", if place == 0 { ':' } else { ',' })?;
            if *rows > 0 {
                write!(f, "-{rows}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_form_goes_there_and_back() {
        for text in ["0", "812", "812:790", "812:790,801-15"] {
            assert_eq!(Position::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Position::parse("").unwrap(), Position::START);
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in
            ["x", "-1", "5:", "5:5", "5:3,3", "5:3-", "5:-1", "5:3-9999999999", "9223372036854775808", "1-2"]
        {
            assert!(Position::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn snapshots_of_postgres_are_read() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        assert!(
            snapshot.sees(9)
                && snapshot.sees(11)
                && !snapshot.sees(10)
                && !snapshot.sees(14)
                && !snapshot.sees(20)
        );
        assert_eq!(Snapshot::parse("10:10:").unwrap(), Snapshot::new(10, vec![]).unwrap());
        assert!(Snapshot::parse("10:20").is_err() && Snapshot::parse("10:20:21").is_err());
    }

    #[test]
    fn emptied_rows_are_missed_by_who_had_not_read_them() {
        let position = Position::parse("20:5").unwrap();
        let (done, running) = (Snapshot::new(30, vec![]).unwrap(), Snapshot::new(30, vec![5]).unwrap());
        assert!(position.is_truncated(5, &done) && position.is_truncated(20, &done));
        assert!(!position.is_truncated(4, &done) && !position.is_truncated(5, &running));
        assert!(!Position::START.is_truncated(0, &done));
    }
}
