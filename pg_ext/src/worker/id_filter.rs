//! The filter of this database's ids that Redis keeps for a link in cache mode: loaded once a session, then changed
//! as the log says.
//!
//! Pages are read in snapshots of their own while others write, so an id may be put into the filter twice, by its page
//! and by the log: it is then taken for present once it is gone, which costs a look. The other way round would be
//! wrong, hence nothing is taken out for a removal that a page may have seen already.

use super::connection::{Broken, Connection};
use super::remote::Remote;
use super::transaction::transaction;
use crate::planning::select_kept;
use crate::replica;
use pgrx::prelude::*;
use tandem_shared::filter::key;
use tandem_shared::id::Range;

/// Ids sent at a time.
const PAGE: i64 = 20_000;

/// How far it is.
pub enum IdFilter {
    /// Not begun.
    Due,
    /// Ids up to this one were sent.
    Loading(String),
    /// All were sent; removals by transactions from this one on are not in what was sent.
    Complete(i64),
}

/// One row of the log: whether the id was there before and after it, and its transaction.
pub struct Step {
    /// The id.
    pub id: String,
    /// Whether it was there.
    pub before: bool,
    /// Whether it is there.
    pub after: bool,
    /// The transaction.
    pub xid: i64,
}

const IDS: &str = "SELECT i.id FROM tandem.items i WHERE NOT i.local AND i.id > $1 AND i.id >= $2 \
    AND ($3 IS NULL OR i.id < $3) ORDER BY i.id LIMIT $4";

impl IdFilter {
    /// Sends the next page. Returns whether there was anything left to send.
    pub fn load(&mut self, talk: &mut Connection, link: &str, range: &Range) -> Result<bool, Broken> {
        let after = match self {
            IdFilter::Complete(_) => return Ok(false),
            IdFilter::Due => {
                let count = transaction(|| Ok(replica::fingerprint(range)?.count()))?;
                Remote(talk).filter_begin(link, count)?;
                String::new()
            }
            IdFilter::Loading(after) => std::mem::take(after),
        };
        let ids = transaction(|| page(&after, range))?;
        if !Remote(talk).filter_change(link, &ids.iter().map(|id| key(id)).collect::<Vec<_>>(), &[])? {
            *self = IdFilter::Due;
            return Ok(true);
        }
        if let Some(last) = ids.into_iter().next_back() {
            *self = IdFilter::Loading(last);
            return Ok(true);
        }
        let xmax = transaction(|| {
            Ok(Spi::get_one::<i64>("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")?)
        })?;
        Remote(talk).filter_complete(link)?;
        *self = IdFilter::Complete(xmax.unwrap_or(i64::MAX));
        Ok(true)
    }

    /// Sends what a part of the log changes. Once for each part: a removal must not be counted twice.
    pub fn change(&mut self, talk: &mut Connection, link: &str, steps: &[Step]) -> Result<(), Broken> {
        let counts_from = match self {
            IdFilter::Due => return Ok(()),
            IdFilter::Loading(_) => i64::MAX,
            IdFilter::Complete(xmax) => *xmax,
        };
        let keys = |wanted: fn(&Step) -> bool, from: i64| -> Vec<u64> {
            steps.iter().filter(|step| wanted(step) && step.xid >= from).map(|step| key(&step.id)).collect()
        };
        let added = keys(|step| !step.before && step.after, 0);
        let removed = keys(|step| step.before && !step.after, counts_from);
        if (!added.is_empty() || !removed.is_empty())
            && !Remote(talk).filter_change(link, &added, &removed)?
        {
            *self = IdFilter::Due;
        }
        Ok(())
    }
}

fn page(after: &str, range: &Range) -> crate::error::Outcome<Vec<String>> {
    crate::planning::by_index(|| {
        Spi::connect(|client| {
            let args = [after.into(), range.start.as_str().into(), range.end.as_deref().into(), PAGE.into()];
            let mut ids = Vec::new();
            for row in select_kept(client, IDS, &args)? {
                ids.extend(row.get::<String>(1)?);
            }
            Ok(ids)
        })
    })
}
