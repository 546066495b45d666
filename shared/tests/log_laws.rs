//! Whatever order transactions commit in and however a reader pages, each row of the log is read exactly once, and no
//! open transaction holds back the rows of another.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use std::collections::BTreeSet;
use tandem_shared::log::{Place, Position, Snapshot};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A transaction begins.
    Begin,
    /// One of those that are open writes rows.
    Write(usize, u32),
    /// One of those that are open ends; true: it commits.
    End(usize, bool),
    /// The reader reads a page of so many rows.
    Read(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Begin),
        4 => (any::<usize>(), 1_u32..6).prop_map(|(which, rows)| Step::Write(which, rows)),
        2 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, commits)| Step::End(which, commits)),
        2 => (1_usize..7).prop_map(Step::Read),
    ]
}

/// A log and its transactions, the first number of which is 100.
#[derive(Default)]
struct Log {
    begun: u64,
    open: Vec<(u64, u32)>,
    committed: BTreeSet<Place>,
}

impl Log {
    fn snapshot(&self) -> Snapshot {
        Snapshot::new(100 + self.begun, self.open.iter().map(|(number, _)| *number).collect()).unwrap()
    }

    /// The rows that a position does not cover, in order, at most `max`; and the position after them.
    fn read(&self, position: &Position, max: usize) -> (Vec<Place>, Position) {
        let unread = self.committed.iter().copied().filter(|place| !position.covers(*place));
        let mut page: Vec<Place> = unread.take(max + 1).collect();
        let is_cut = page.len() > max;
        page.truncate(max);
        let last = if is_cut { page.last().copied() } else { None };
        let next = position.advance(&self.snapshot(), last);
        (page, next)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn each_row_is_read_once_and_as_soon_as_it_is_committed(steps in prop::collection::vec(step(), 1..120)) {
        let (mut log, mut position, mut read) = (Log::default(), Position::START, BTreeSet::new());
        let mut take = |log: &Log, position: &mut Position, max: usize| -> Result<usize, TestCaseError> {
            let (page, next) = log.read(position, max);
            for place in &page {
                prop_assert!(read.insert(*place), "{place:?} is read twice");
                prop_assert!(next.covers(*place), "{next} does not cover {place:?}, which was read");
            }
            // It is stored as text.
            *position = Position::parse(&next.to_string()).unwrap();
            if page.len() < max {
                prop_assert_eq!(&read, &log.committed);
            }
            Ok(page.len())
        };
        for step in steps {
            match step {
                Step::Begin => {
                    log.open.push((100 + log.begun, 0));
                    log.begun += 1;
                }
                Step::Write(which, rows) if !log.open.is_empty() => {
                    let at = which % log.open.len();
                    log.open[at].1 += rows;
                }
                Step::End(which, commits) if !log.open.is_empty() => {
                    let (number, rows) = log.open.remove(which % log.open.len());
                    if commits {
                        log.committed.extend((1..=rows).map(|row| (number, row)));
                    }
                }
                Step::Read(max) => {
                    take(&log, &mut position, max)?;
                }
                _ => {}
            }
        }
        while take(&log, &mut position, 3)? > 0 {}
    }

    #[test]
    fn a_row_after_a_change_can_be_taken_as_a_position_of_its_own(
        rows in prop::collection::vec(1_u32..4, 1..20), running in prop::collection::btree_set(100_u64..120, 0..5),
        stop in any::<prop::sample::Index>(),
    ) {
        let committed: BTreeSet<Place> = rows.iter().enumerate().map(|(at, rows)| (100 + at as u64, *rows))
            .filter(|(number, _)| !running.contains(number))
            .flat_map(|(number, rows)| (1..=rows).map(move |row| (number, row))).collect();
        prop_assume!(!committed.is_empty());
        let snapshot = Snapshot::new(120, running.into_iter().collect()).unwrap();
        let all: Vec<Place> = committed.into_iter().collect();
        let last = all[stop.index(all.len())];
        let position = Position::START.advance(&snapshot, Some(last));
        for place in all {
            prop_assert_eq!(position.covers(place), place <= last);
        }
    }
}
