//! Detaches removed links in Redis, however long that is away: it keeps for a link that it knows whatever is written
//! there.

use super::connection::Broken;
use super::locks::{Kind, Lock};
use super::process::{begin, interrupts};
use super::remote::owner;
use super::shards::{Attach, Shards};
use super::transaction::transaction;
use super::wait;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use std::time::Duration;

/// Pause after a round in which something could not be detached, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// A link that was removed.
struct Removed {
    seq: i64,
    name: String,
    url: String,
    run: String,
    /// A link of that name goes to the same Redis again.
    is_back: bool,
}

/// Entry point; the database comes in the worker's extra text.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tandem_unlinker_main(_argument: pg_sys::Datum) {
    let database = BackgroundWorker::get_extra().to_owned();
    begin(&database);
    if !Lock::of(Kind::Unlinker, "").keep() {
        return;
    }
    let mut pause = PAUSE.0;
    loop {
        interrupts();
        let Ok(removed) = removed() else { return };
        if removed.is_empty() {
            return;
        }
        for link in removed {
            let settled = if link.is_back { Ok(()) } else { detach(&link) };
            let noted = match settled {
                Ok(()) => forget(link.seq),
                Err(Broken(reason)) => note(link.seq, &reason),
            };
            if let Err(Broken(reason)) = noted {
                pgrx::log!("tandem unlinker: {reason}");
            }
        }
        wait(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn removed() -> Result<Vec<Removed>, Broken> {
    const REMOVED: &str = "SELECT u.seq, u.name, u.url, coalesce(u.run, ''), \
            EXISTS (SELECT FROM tandem.links l WHERE l.name = u.name AND l.url = u.url) \
        FROM tandem.unlinked u ORDER BY u.seq";
    let read = transaction(|| {
        Spi::connect(|client| {
            let mut removed = Vec::new();
            for row in client.select(REMOVED, None, &[])? {
                removed.push(Removed {
                    seq: row.get(1)?.unwrap_or(0),
                    name: row.get(2)?.unwrap_or_default(),
                    url: row.get(3)?.unwrap_or_default(),
                    run: row.get(4)?.unwrap_or_default(),
                    is_back: row.get::<bool>(5)? == Some(true),
                });
            }
            Ok(removed)
        })
    });
    Ok(read?)
}

/// Detaches a link, once its session has let go: that would attach it again.
fn detach(link: &Removed) -> Result<(), Broken> {
    let session = Lock::of(Kind::Session, &link.name);
    let detach = || {
        let owner = transaction(owner)?;
        let mut shards = Shards::open(&link.url, &Shards::addresses(&link.run), None, Attach::Not)?;
        shards.tell(|remote| remote.detach(&link.name, &owner))
    };
    match session.if_free(detach)? {
        Some(detached) => detached,
        None if has_successor(&link.name)? => detach(),
        None => Err(Broken("its session has not ended yet".into())),
    }
}

/// Whether another link has the name now. The session is that one's then.
fn has_successor(name: &str) -> Result<bool, Broken> {
    let found = transaction(|| {
        Spi::connect(|client| {
            let rows = client.select("SELECT FROM tandem.links l WHERE l.name = $1", None, &[name.into()])?;
            Ok(!rows.is_empty())
        })
    });
    Ok(found?)
}

fn forget(seq: i64) -> Result<(), Broken> {
    let statement = "DELETE FROM tandem.unlinked u WHERE u.seq = $1";
    Ok(transaction(|| Ok(Spi::run_with_args(statement, &[seq.into()])?))?)
}

fn note(seq: i64, reason: &str) -> Result<(), Broken> {
    let statement = "UPDATE tandem.unlinked u SET last_error = $2, tried_at = now() WHERE u.seq = $1";
    Ok(transaction(|| Ok(Spi::run_with_args(statement, &[seq.into(), reason.into()])?))?)
}
