//! A link's reader: it asks Redis which ids somebody waits for there, reads them here and sends them. A process of its
//! own, so that no reader waits for a long join or comparison of the link's session.
//!
//! What it reads may be outdated when it arrives; it is joined there, and the session pushes what was logged meanwhile,
//! as an id that is being fetched counts as present.

use super::connection::{Broken, Connection};
use super::remote::{Remote, owner};
use super::supervision::{LOOK, Supervised, is_alone, readable, supervise};
use super::transaction::transaction;
use super::{attach_signals, interrupts};
use crate::store::{self, Page};
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use std::time::{Duration, Instant};
use tandem_shared::codec::encode;
use tandem_shared::owner::Owner;
use tandem_shared::request::{Operation, PutRequest};

/// Ids fetched at a time.
const IDS: usize = 500;
/// How long Redis may take to name ids when there are none.
const BLOCK: Duration = Duration::from_secs(3);
/// Without an answer for so long the connection is lost.
const SILENCE: Duration = Duration::from_secs(8);
/// Entry point of a reader; the link's name comes in the worker's extra text.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tandem_reader_main(_argument: pg_sys::Datum) {
    let extra = BackgroundWorker::get_extra().to_owned();
    attach_signals();
    let Some((database, name)) = extra.split_once('\n') else { return };
    BackgroundWorker::connect_worker_to_spi(Some(database), None);
    if is_alone("reader", name) {
        supervise(&mut Reader { name: name.to_owned() });
    }
}

struct Reader {
    name: String,
}

impl Supervised for Reader {
    fn is_wanted(&mut self) -> bool {
        matches!(url(&self.name), Ok(Some(_)))
    }

    fn work(&mut self) -> Result<(), Broken> {
        match url(&self.name)? {
            Some(url) => serve(&self.name, &url),
            None => Ok(()),
        }
    }

    /// The session notes in the link's row what is wrong with Redis.
    fn note(&mut self, reason: &str) {
        pgrx::debug1!("tandem reader {}: {reason}", self.name);
    }
}

/// Where to read for a link; `None` if it is to stop.
fn url(name: &str) -> Result<Option<String>, Broken> {
    let url = transaction(|| {
        Ok(Spi::get_one_with_args::<String>(
            "SELECT (SELECT l.url FROM tandem.links l WHERE l.name = $1 AND NOT l.paused AND l.direction <> 'from_redis')",
            &[name.into()],
        )?)
    })?;
    Ok(url)
}

/// Serves one connection. `Ok` means that the link was paused or removed.
fn serve(name: &str, url: &str) -> Result<(), Broken> {
    let mut connection = Connection::open(url)?;
    let owner = transaction(owner)?;
    let mut is_anew = true;
    loop {
        connection.send(&Remote::wanted_command(name, &owner, IDS, BLOCK, is_anew))?;
        is_anew = false;
        let asked = Instant::now();
        while !readable(&connection, LOOK) {
            interrupts();
            if asked.elapsed() > SILENCE {
                return Err(Broken("Redis does not answer; the connection is lost".into()));
            }
            if self::url(name)?.as_deref() != Some(url) {
                return Ok(());
            }
        }
        let wanted = Remote::wanted(connection.receive()?)?;
        for (id, offer) in &wanted {
            if let Some(offer) = offer {
                store_first(name, id, offer);
            }
        }
        let ids: Vec<String> = wanted.into_iter().map(|(id, _)| id).collect();
        fill(&mut connection, name, &owner, ids)?;
    }
}

/// Stores what is offered for an id that has no item. Where that is refused, Redis is told what is here all the same.
fn store_first(name: &str, id: &str, offer: &[u8]) {
    let stored = transaction(|| {
        let request = PutRequest::if_absent(store::decode(offer)?)?;
        store::on_behalf_of(name, || store::run_one(id, Operation::Put(request)))
    });
    if let Err(refused) = stored {
        // Most often somebody else was first.
        pgrx::debug1!("tandem reader {name}: {id:?}: {refused}");
    }
}

/// Sends what is here of the ids, and of each that is not that it is not.
fn fill(connection: &mut Connection, name: &str, owner: &Owner, ids: Vec<String>) -> Result<(), Broken> {
    let mut rest = ids;
    while !rest.is_empty() {
        let Page { found, later } = transaction(|| store::fetch(&rest))?;
        rest.retain(|id| !later.contains(id));
        let revisions: Vec<(&str, Vec<u8>)> =
            rest.iter().map(|id| (id.as_str(), found.get(id).map(encode).unwrap_or_default())).collect();
        for ((id, _), refused) in revisions.iter().zip(Remote(connection).fill(name, owner, &revisions)?) {
            if let Some(reason) = refused {
                pgrx::log!("tandem reader {name}: {id:?} was refused: {reason}");
            }
        }
        rest = later.into_iter().collect();
    }
    Ok(())
}
