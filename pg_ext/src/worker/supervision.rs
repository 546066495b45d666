//! What the processes of a link have in common: patience with a Redis that is away, and waiting for what it sends.

use super::connection::Broken;
use super::patient::Events;
use super::{interrupts, wait};
use backon::BackoffBuilder;
use pgrx::pg_sys;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// How often a process looks whether its link was paused or removed.
pub const LOOK: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A process that works for a link.
pub trait Supervised {
    /// Whether it is to go on.
    fn is_wanted(&mut self) -> bool;

    /// One connection's life. `Ok` means that the link was paused or removed.
    fn work(&mut self) -> Result<(), Broken>;

    /// Longest pause between attempts.
    fn pause_max(&self) -> Duration {
        PAUSE_MAX
    }

    /// Notes why a connection's life has ended.
    fn note(&mut self, reason: &str);
}

/// Connects, works until something fails, and begins again after a pause that grows up to a bound.
pub fn supervise(process: &mut impl Supervised) {
    let pause_max = process.pause_max();
    let pauses = || {
        backon::ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(pause_max)
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut next_pauses = pauses();
    loop {
        interrupts();
        let started = Instant::now();
        match process.work() {
            Ok(()) => return,
            Err(Broken(reason)) => {
                if started.elapsed() > Duration::from_secs(30) {
                    next_pauses = pauses();
                }
                process.note(&reason);
            }
        }
        let end = Instant::now() + next_pauses.next().unwrap_or(pause_max);
        while Instant::now() < end {
            wait(LOOK.min(end.saturating_duration_since(Instant::now())));
            if !process.is_wanted() {
                return;
            }
        }
    }
}

/// Waits until one of the sockets has something to read, at most so long; the places of those that have.
pub fn readable(sockets: &[RawFd], time: Duration) -> Vec<usize> {
    let mut events = Events::new(sockets.len());
    for (place, socket) in sockets.iter().enumerate() {
        events.add(*socket, pg_sys::WL_SOCKET_READABLE, place);
    }
    events.wait(time)
}
