//! Waiting for a condition, with a deadline that only a defect reaches.

use std::time::{Duration, Instant};

/// Long enough for anything that works, on a busy machine with two cores; the postmaster may take a minute to notice
/// that a worker is to be started again.
pub const DEADLINE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `condition` holds. Panics at the deadline, saying `what` did not come to be.
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, deadline, || condition().then_some(()));
}

/// Looks again and again until `look` finds something. Panics at the deadline, saying `what` did not come to be.
pub fn until_some<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "not within {} s: {what}", deadline.as_secs());
        std::thread::sleep(PAUSE);
    }
}

/// As [`until`], but what to say is made when it is needed.
pub fn until_or(deadline: Duration, mut condition: impl FnMut() -> bool, say: impl FnOnce() -> String) {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() >= deadline {
            panic!("not within {} s: {}", deadline.as_secs(), say());
        }
        std::thread::sleep(PAUSE);
    }
}
