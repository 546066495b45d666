//! The filter of this database's ids that Redis keeps for a link in cache mode: loaded once a session, then added to
//! as the log says. Removed ids are in it as long as there are tombstones: a write of such an id counts on from there.
//!
//! Pages are read in snapshots of their own while others write. What comes to a page that was read already is in the
//! log, which is read from a position before the first page.

use super::connection::Broken;
use super::shards::Shards;
use super::transaction::transaction;
use crate::error::Outcome;
use crate::planning::{by_index, select_kept};
use crate::replica::{self, past_every_id};
use pgrx::prelude::*;
use std::time::{Duration, Instant};
use tandem_shared::filter::key;
use tandem_shared::id::Range;

/// Ids sent at a time.
const PAGE: i64 = 20_000;
/// After so long it is loaded anew, without the ids whose tombstones were dropped meanwhile.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// How far it is.
pub enum IdFilter {
    /// Not begun.
    Due,
    /// Ids up to this one were sent.
    Loading(String),
    /// All were sent at this time.
    Complete(Instant),
}

const IDS: &str = "(SELECT i.id FROM tandem.items i \
        WHERE NOT i.local AND i.id > $1 AND i.id >= $2 AND i.id < $3 ORDER BY i.id LIMIT $4) \
    UNION (SELECT t.id FROM tandem.tombstones t WHERE t.id > $1 AND t.id >= $2 AND t.id < $3 ORDER BY t.id LIMIT $4) \
    ORDER BY 1 LIMIT $4";

impl IdFilter {
    /// Sends the next page. Returns whether there was anything left to send.
    pub fn load(&mut self, talk: &mut Shards, link: &str, range: &Range) -> Result<bool, Broken> {
        let after = match self {
            IdFilter::Complete(since) if since.elapsed() < LIFE => return Ok(false),
            IdFilter::Complete(_) | IdFilter::Due => {
                let count = transaction(|| Ok(replica::fingerprint(std::slice::from_ref(range))?.count()))?;
                talk.tell(|remote| remote.filter_begin(link, count))?;
                String::new()
            }
            IdFilter::Loading(after) => std::mem::take(after),
        };
        let ids = transaction(|| page(&after, range))?;
        *self = match ids.last() {
            None => {
                talk.tell(|remote| remote.filter_complete(link))?;
                IdFilter::Complete(Instant::now())
            }
            Some(last) if add(talk, link, &ids)? => IdFilter::Loading(last.clone()),
            Some(_) => IdFilter::Due,
        };
        Ok(true)
    }

    /// Sends the ids that have come by a part of the log.
    pub fn add(&mut self, talk: &mut Shards, link: &str, ids: &[String]) -> Result<(), Broken> {
        if !matches!(self, IdFilter::Due) && !ids.is_empty() && !add(talk, link, ids)? {
            *self = IdFilter::Due;
        }
        Ok(())
    }
}

fn add(talk: &mut Shards, link: &str, ids: &[String]) -> Result<bool, Broken> {
    talk.filter_add(link, &ids.iter().map(|id| key(id)).collect::<Vec<_>>())
}

fn page(after: &str, range: &Range) -> Outcome<Vec<String>> {
    by_index(|| {
        Spi::connect(|client| {
            let past = range.end.clone().unwrap_or_else(past_every_id);
            let args = [after.into(), range.start.as_str().into(), past.into(), PAGE.into()];
            let mut ids = Vec::new();
            for row in select_kept(client, IDS, &args)? {
                ids.extend(row.get::<String>(1)?);
            }
            Ok(ids)
        })
    })
}
