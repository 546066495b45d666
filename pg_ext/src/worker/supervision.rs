//! What the processes of a link have in common: one of each kind at a time, patience with a Redis that is away, and
//! waiting for what it sends.

use super::connection::{Broken, Connection};
use super::transaction::transaction;
use super::{interrupts, wait};
use backon::BackoffBuilder;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How often a process looks whether its link was paused or removed.
pub const LOOK: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Whether this process is the only one of its kind; it stays so until it ends.
pub fn is_alone(kind: &str, link: &str) -> bool {
    let locked = transaction(|| {
        Ok(Spi::get_one_with_args::<bool>(
            "SELECT pg_try_advisory_lock(1952542308, hashtext($1))",
            &[format!("{kind} {link}").into()],
        )?)
    });
    matches!(locked, Ok(Some(true)))
}

/// A process that works for a link.
pub trait Supervised {
    /// Whether it is to go on.
    fn is_wanted(&mut self) -> bool;

    /// One connection's life. `Ok` means that the link was paused or removed.
    fn work(&mut self) -> Result<(), Broken>;

    /// Notes why a connection's life has ended.
    fn note(&mut self, reason: &str);
}

/// Connects, works until something fails, and begins again after a pause that grows up to a bound.
pub fn supervise(process: &mut impl Supervised) {
    let pauses = || {
        backon::ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(PAUSE_MAX)
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
        let end = Instant::now() + next_pauses.next().unwrap_or(PAUSE_MAX);
        while Instant::now() < end {
            wait(LOOK.min(end.saturating_duration_since(Instant::now())));
            if !process.is_wanted() {
                return;
            }
        }
    }
}

/// Waits until the connection has something to read, at most so long.
pub fn readable(connection: &Connection, time: Duration) -> bool {
    // SAFETY: MyLatch is this process' own latch and the socket is open.
    let events = unsafe {
        let wanted = pg_sys::WL_LATCH_SET
            | pg_sys::WL_SOCKET_READABLE
            | pg_sys::WL_TIMEOUT
            | pg_sys::WL_EXIT_ON_PM_DEATH;
        let events = pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            wanted as i32,
            connection.socket(),
            time.as_millis() as i64,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        events
    };
    events as u32 & pg_sys::WL_SOCKET_READABLE != 0
}
