//! A link's reader: it asks Redis which ids somebody waits for there, reads them here and sends them. A process of its
//! own, so that no reader waits for a long join or comparison of the link's session.
//!
//! What it reads may be outdated when it arrives; it is joined there, and the session pushes what was logged
//! meanwhile, as an id that is being fetched counts as present.

use super::connection::{Broken, Connection};
use super::link::Link;
use super::locks::{Kind, Lock};
use super::peer::read;
use super::process::{begin, interrupts};
use super::remote::{Remote, Wanted, owner};
use super::session::{Own, set_aside};
use super::shards::{Attach, Shards};
use super::supervision::{LOOK, Supervised, readable, supervise};
use super::transaction::{Failed, transaction};
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
    let Some((database, name)) = extra.split_once('\n') else { return };
    begin(database);
    if Lock::of(Kind::Reader, name).keep() {
        supervise(&mut Reader { name: name.to_owned() });
    }
}

struct Reader {
    name: String,
}

impl Supervised for Reader {
    fn is_wanted(&mut self) -> bool {
        matches!(source(&self.name), Ok(Some(_)))
    }

    fn work(&mut self) -> Result<(), Broken> {
        match source(&self.name)? {
            Some(link) => serve(&self.name, &link),
            None => Ok(()),
        }
    }

    /// Somebody waits.
    fn pause_max(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// The session notes in the link's row what is wrong with Redis.
    fn note(&mut self, reason: &str) {
        pgrx::debug1!("tandem reader {}: {reason}", self.name);
    }
}

/// The link to read for; `None` if this is to stop.
fn source(name: &str) -> Result<Option<Link>, Broken> {
    Ok(transaction(|| Link::read(name))?.filter(|link| !link.is_paused && link.ways.to_right))
}

/// A server that is asked.
struct Asked {
    connection: Connection,
    since: Option<Instant>,
    is_anew: bool,
}

/// Serves one connection to each server. `Ok` means that the link was paused, removed or changed.
fn serve(name: &str, link: &Link) -> Result<(), Broken> {
    let others = Shards::addresses(link.run.as_deref().unwrap_or_default());
    let mut shards = Shards::open(&link.url, &others, None, Attach::Not)?;
    let owner = transaction(owner)?;
    let asked = |shard| Ok(Asked { connection: shards.connect(shard)?, since: None, is_anew: true });
    let mut all = shards.iter().map(asked).collect::<Result<Vec<_>, Broken>>()?;
    let addresses = |shards: &Shards| shards.iter().map(|shard| shard.address.clone()).collect::<Vec<_>>();
    let before = addresses(&shards);
    let mut looked = Instant::now();
    loop {
        interrupts();
        for asked in all.iter_mut().filter(|asked| asked.since.is_none()) {
            asked.connection.send(&Remote::wanted_command(name, &owner, IDS, BLOCK, asked.is_anew))?;
            (asked.since, asked.is_anew) = (Some(Instant::now()), false);
        }
        let sockets: Vec<_> = all.iter().map(|asked| asked.connection.socket()).collect();
        for place in readable(&sockets, LOOK) {
            let Some(asked) = all.get_mut(place) else { continue };
            asked.since = None;
            let wanted = Remote::wanted(asked.connection.receive()?)?;
            let is_decided = |(id, offer): &Wanted| match offer {
                Some(offer) => store_first(name, id, offer),
                None => true,
            };
            let ids: Vec<String> = wanted.into_iter().filter(is_decided).map(|(id, _)| id).collect();
            if !ids.is_empty() {
                Lock::of(Kind::Fill, name).shared(|| fill(&mut asked.connection, name, &owner, ids))?;
            }
        }
        if all.iter().any(|asked| asked.since.is_some_and(|since| since.elapsed() > SILENCE)) {
            return Err(Broken("Redis does not answer; the connection is lost".into()));
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            if source(name)?.is_none_or(|now| now.generation != link.generation) {
                return Ok(());
            }
            shards.refresh()?;
            if addresses(&shards) != before {
                return Err(Broken("the cluster has other masters now".into()));
            }
        }
    }
}

/// Stores what is offered for an id that has no item. Where that is refused, Redis is told what is here all the same.
/// False if somebody holds the id for long: who waits asks again.
fn store_first(name: &str, id: &str, offer: &[u8]) -> bool {
    let stored = transaction(|| {
        // Others wait for other ids.
        Spi::run("SET LOCAL lock_timeout = '200ms'")?;
        let request = PutRequest::if_absent(store::decode(offer)?)?;
        store::on_behalf_of(name, || store::run_one(id, Operation::Put(request)))
    });
    match stored {
        Ok(_) => true,
        Err(refused) => {
            // Most often somebody else was first.
            pgrx::debug1!("tandem reader {name}: {id:?}: {refused}");
            refused.is_of_data()
        }
    }
}

/// Waits until everything that this link's reader has read by now is in Redis.
pub fn wait_for_fills(name: &str) -> Result<(), Failed> {
    Lock::of(Kind::Fill, name).pass()
}

/// Sends what is here of the ids, and of each that is not that it is not.
fn fill(connection: &mut Connection, name: &str, owner: &Owner, ids: Vec<String>) -> Result<(), Broken> {
    let mut rest = ids;
    while !rest.is_empty() {
        let Page { found, later, unreadable } = read(&Own, &rest, store::fetch)?;
        // Who waits for one that cannot be read is not told that there is none: a write would take its place.
        rest.retain(|id| !later.contains(id) && !unreadable.contains_key(id));
        for (id, reason) in unreadable {
            set_aside(name, &id, "to_redis", None, &reason)?;
        }
        let revisions: Vec<(&str, Vec<u8>)> =
            rest.iter().map(|id| (id.as_str(), found.get(id).map(encode).unwrap_or_default())).collect();
        if !revisions.is_empty() {
            for ((id, _), refused) in revisions.iter().zip(Remote(connection).fill(name, owner, &revisions)?)
            {
                if let Some(reason) = refused {
                    pgrx::log!("tandem reader {name}: {id:?} was refused: {reason}");
                }
            }
        }
        rest = later.into_iter().collect();
    }
    Ok(())
}
