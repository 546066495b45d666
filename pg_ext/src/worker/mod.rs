//! The background workers: one manager a database that is listed in `tandem.databases`, and one session a link.
//! All of it needs the library in `shared_preload_libraries`.

mod checks;
mod connection;
mod id_filter;
mod joining;
mod letters;
mod link;
mod locks;
mod losers;
mod manager;
mod node;
mod patient;
mod peer;
mod postgres_peer;
mod process;
mod reader;
mod remote;
mod repair;
mod session;
mod shards;
mod supervision;
mod tls;
mod topology;
mod transaction;
mod unlinker;

pub use checks::{Run, begin, finish};
pub use connection::{Broken, check_url, redis_name};
pub use letters::{Retried, retry};
pub use peer::{Here, Local, Peer, fetch_binding, join_here, key_check, read, waiting_here};
pub use postgres_peer::{Database, config_of, is_postgres, name_of};
pub use remote::owner;
pub use repair::{Books, Refused, Report, Task, Ways, check, check_held};
pub use shards::{Attach, Shard, Shards};
pub use transaction::{Failed, savepoint};

use crate::settings;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;
use process::interrupts;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static PRELOADED: AtomicBool = AtomicBool::new(false);

/// Registers the managers while Postgres starts; does nothing in a library that is loaded later.
pub fn register() {
    // SAFETY: a plain flag of the postmaster, read where it is set.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    PRELOADED.store(true, Ordering::Relaxed);
    // SAFETY: as above. While pg_upgrade runs a server nobody but itself may connect, nor write what it does not copy.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    for database in settings::databases() {
        BackgroundWorkerBuilder::new(&format!("tandem manager {database}"))
            .set_type("tandem manager")
            .set_library("tandem")
            .set_function("tandem_manager_main")
            .set_extra(&database)
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(Some(Duration::from_secs(1)))
            .load();
    }
}

/// Whether the library was there when Postgres started, so that workers run.
pub fn is_preloaded() -> bool {
    PRELOADED.load(Ordering::Relaxed)
}

/// Waits for a signal or the time.
fn wait(time: Duration) {
    sleep(time);
    interrupts();
}

/// Sleeps in any session, not only in a worker's; a cancel or a SIGTERM ends it.
pub fn sleep(time: Duration) {
    // SAFETY: MyLatch is this process' own latch.
    unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, time.as_millis() as i64, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pg_sys::check_for_interrupts!();
}
