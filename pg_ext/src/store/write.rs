//! Storing what was decided, in one statement a kind.

use super::columns::{self, Row};
use super::context::{self, Decided, Stored};
use super::read::Current;
use crate::capture;
use crate::error::Outcome;
use crate::planning::{self, update_kept};
use pgrx::spi::SpiClient;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use tandem_shared::codec;
use tandem_shared::decide::{Decision, Restated};
use tandem_shared::{Audit, Body, Error, Result, Revision};

/// What a round of operations on distinct ids is to store.
#[derive(Default)]
pub struct Writes {
    inserts: Vec<Row>,
    updates: Vec<Row>,
    restates: Vec<(String, Restated)>,
    removed: Vec<(String, Rc<Revision>)>,
    /// Tombstones of ids that have no row that links know.
    buried: Vec<(String, Rc<Revision>)>,
    dropped: Vec<String>,
}

/// What has become of a round.
#[derive(Default)]
pub struct Outcomes {
    /// Ids for which another writer was first, which are to be decided again: nothing of what was decided is left.
    pub late: HashSet<String>,
    /// Ids whose row is not what was decided, since a trigger has edited it or a removal had come before it.
    pub altered: HashSet<String>,
}

impl Writes {
    /// Takes in a decision on what was there. `is_joined`: it stores a revision of another side.
    pub fn add(&mut self, id: &str, decision: Decision, current: &Current, is_joined: bool) {
        let locality = current.locality();
        let id = id.to_owned();
        match decision {
            Decision::Unchanged => {}
            Decision::Drop => self.dropped.push(id),
            Decision::Restate(restated) => self.restates.push((id, restated)),
            Decision::WriteLocal(revision) => {
                self.put(Row { id, revision, local: true, is_joined, over: None }, locality);
            }
            Decision::Write(revision) if revision.head().is_tombstone() => {
                if locality == Some(false) {
                    self.removed.push((id, Rc::new(revision)));
                } else {
                    if locality == Some(true) {
                        self.dropped.push(id.clone());
                    }
                    self.buried.push((id, Rc::new(revision)));
                }
            }
            Decision::Write(revision) => {
                let over = current.buried();
                let over = over.map(|(version, at)| (version.get() as i64, at.unix_ms() as i64));
                self.put(Row { id, revision, local: false, is_joined, over }, locality);
            }
        }
    }

    fn put(&mut self, row: Row, locality: Option<bool>) {
        if locality.is_some() { self.updates.push(row) } else { self.inserts.push(row) }
    }

    /// Stores everything.
    pub fn store(mut self, client: &mut SpiClient<'_>) -> Outcome<Outcomes> {
        let mut outcomes = Outcomes::default();
        // Two batches that put the same new ids wait for each other at the primary key: in one order, not in a ring.
        self.inserts.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        if !self.inserts.is_empty() {
            let (inserted, stored) = handing_over(&self.inserts, || columns::insert(client, &self.inserts));
            outcomes.late = inserted?;
            outcomes.note(self.inserts.iter().map(|row| row.id.as_str()), &stored)?;
        }
        if !self.updates.is_empty() {
            let (updated, stored) = handing_over(&self.updates, || columns::update(client, &self.updates));
            updated?;
            outcomes.note(self.updates.iter().map(|row| row.id.as_str()), &stored)?;
        }
        restate(client, &self.restates, &mut outcomes)?;
        remove(client, &self.removed)?;
        drop_local(client, &self.dropped)?;
        let origin = context::origin();
        for (id, tombstone) in &self.buried {
            if !capture::bury(id, tombstone, origin.clone())? {
                outcomes.late.insert(id.clone());
            }
        }
        Ok(outcomes)
    }
}

impl Outcomes {
    /// Takes in what became of rows. Errors: `INVALID` where a trigger has kept one away from the table.
    fn note<'a>(&mut self, ids: impl Iterator<Item = &'a str>, stored: &Stored) -> Result<()> {
        for id in ids {
            match stored.get(id) {
                Some(became) if became.is_as_decided => {}
                Some(_) => {
                    self.altered.insert(id.to_owned());
                }
                None => {
                    return Err(Error::invalid(
                        format!("item {}", tandem_shared::error::shown(id)),
                        "is kept away from the table by a BEFORE trigger on tandem.items, which returned NULL",
                        "let the trigger return the row, or raise an error that says why not",
                    ));
                }
            }
        }
        Ok(())
    }
}

fn handing_over<T>(rows: &[Row], work: impl FnOnce() -> T) -> (T, Stored) {
    let decided = |row: &Row| {
        let Body::Live { state, content } = &row.revision.body else { return None };
        let decided = Decided {
            version: row.revision.version.get() as i64,
            timestamp: row.revision.timestamp.unix_ms() as i64,
            state: state.as_str().to_owned(),
            payload_hash: Some(*content.payload_hash()),
            audit: row.revision.audit.clone(),
            local: row.local,
            is_joined: row.is_joined,
            over: row.over,
        };
        Some((row.id.clone(), decided))
    };
    context::handing_over(rows.iter().filter_map(decided).collect(), HashMap::new(), work)
}

const RESTATE: &str = "UPDATE tandem.items i SET version = n.version, \"timestamp\" = n.at, state = n.state, \
        audit = n.audit::jsonb \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) AS n (id, version, at, state, audit) \
    WHERE i.id = n.id";

/// The content is not among the columns, so a large one is not stored again.
fn restate(
    client: &mut SpiClient<'_>,
    restates: &[(String, Restated)],
    outcomes: &mut Outcomes,
) -> Outcome<()> {
    if restates.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Restated) -> i64| restates.iter().map(|(_, to)| of(to)).collect::<Vec<i64>>();
    let ids: Vec<&str> = restates.iter().map(|(id, _)| id.as_str()).collect();
    let states: Vec<&str> = restates.iter().map(|(_, to)| to.state.as_str()).collect();
    let audits: Vec<Option<&str>> =
        restates.iter().map(|(_, to)| to.audit.as_ref().map(Audit::as_str)).collect();
    let versions = column(|to| to.version.get() as i64);
    let timestamps = column(|to| to.timestamp.unix_ms() as i64);
    let decided = |(id, to): &(String, Restated)| {
        let decided = Decided {
            version: to.version.get() as i64,
            timestamp: to.timestamp.unix_ms() as i64,
            state: to.state.as_str().to_owned(),
            payload_hash: None,
            audit: to.audit.clone(),
            local: to.local,
            is_joined: false,
            over: None,
        };
        (id.clone(), decided)
    };
    let decided = restates.iter().map(decided).collect();
    let args = [ids.into(), versions.into(), timestamps.into(), states.into(), audits.into()];
    let (restated, stored) =
        context::handing_over(decided, HashMap::new(), || update_kept(client, RESTATE, &args).map(drop));
    restated?;
    outcomes.note(restates.iter().map(|(id, _)| id.as_str()), &stored)?;
    Ok(())
}

const DELETE: &str = "DELETE FROM tandem.items i WHERE i.id = ANY($1)";

/// Deletes rows; capture stores the tombstones, which are handed over.
fn remove(client: &mut SpiClient<'_>, removed: &[(String, Rc<Revision>)]) -> Outcome<()> {
    if removed.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = removed.iter().map(|(id, _)| id.as_str()).collect();
    let removals = removed.iter().cloned().collect();
    let args = [ids.into()];
    let (deleted, _) =
        context::handing_over(HashMap::new(), removals, || update_kept(client, DELETE, &args).map(drop));
    Ok(deleted?)
}

/// Deletes local rows, which leave nothing behind.
fn drop_local(client: &mut SpiClient<'_>, dropped: &[String]) -> Outcome<()> {
    if dropped.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = dropped.iter().map(String::as_str).collect();
    update_kept(client, DELETE, &[ids.into()])?;
    Ok(())
}

/// Records the loser of two revisions of one version.
pub fn record_conflict(client: &mut SpiClient<'_>, id: &str, loser: Option<Revision>) -> Outcome<()> {
    let Some(loser) = loser else { return Ok(()) };
    let origin = context::origin();
    planning::as_owner(|| {
        client.update(
            "INSERT INTO tandem.conflicts (id, version, loser, origin) SELECT $1, $2, $3, $4 \
             WHERE NOT EXISTS (SELECT FROM tandem.conflicts c WHERE c.id = $1 AND c.version = $2 AND c.loser = $3)",
            None,
            &[
                id.into(),
                (loser.version.get() as i64).into(),
                codec::encode(&loser).into(),
                origin.as_deref().into(),
            ],
        )?;
        Ok(())
    })
}
