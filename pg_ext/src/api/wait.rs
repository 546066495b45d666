//! wait_synced: write-through for who asks for it, the counterpart of TANDEM.WAIT.

use super::arguments::given;
use crate::error::{Outcome, answer};
use crate::planning;
use crate::snapshot;
use crate::worker;
use pgrx::prelude::*;
use std::time::{Duration, Instant};
use tandem_shared::Error;
use tandem_shared::request::check_wait;

/// Pause between two looks at the links.
const LOOK: Duration = Duration::from_millis(10);

/// Number of links that have taken all writes committed before the call; waits for all that write to Redis, at most so
/// many milliseconds (0: for ever). Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn wait_synced(timeout_ms: Option<i64>) -> i64 {
    answer((|| {
        let timeout = check_wait(given("timeout_ms", timeout_ms)?)?;
        // SAFETY: reads the backend's own transaction state.
        if unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId {
            return Err(Error::invalid(
                "wait_synced",
                "waits for what is committed, and this transaction has written",
                "commit first and call it then",
            )
            .into());
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let end = now(committed)?;
        loop {
            let (count, all) = now(|| caught_up(&end))?;
            if all || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(count);
            }
            worker::sleep(LOOK);
        }
    })())
}

fn now<T>(read: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    snapshot::of_this_moment(|| planning::by_index(read))
}

/// Everything that is committed, as a snapshot of Postgres.
fn committed() -> Outcome<String> {
    Spi::connect(|client| {
        let rows = client.select("SELECT pg_catalog.pg_current_snapshot()::text", None, &[])?;
        Ok(rows.first().get_one::<String>()?.unwrap_or_default())
    })
}

/// How many links have taken everything that a snapshot sees, and whether all have. One that was never compared has
/// taken nothing.
const CAUGHT_UP: &str = "SELECT count(*) FILTER (WHERE p.past), coalesce(bool_and(p.past), true) FROM ( \
        SELECT NOT l.needs_check AND NOT EXISTS (SELECT FROM tandem.untaken(l.name) c \
            WHERE pg_visible_in_snapshot(c.xid::text::xid8, $1::pg_snapshot)) AS past \
        FROM tandem.links l WHERE l.direction <> 'from_redis') p";

fn caught_up(committed: &str) -> Outcome<(i64, bool)> {
    Spi::connect(|client| {
        let rows = client.select(CAUGHT_UP, None, &[committed.into()])?;
        let (count, all) = rows.first().get_two::<i64, bool>()?;
        Ok((count.unwrap_or(0), all == Some(true)))
    })
}
