//! Storing what was decided, in one statement a kind.

use super::columns::{self, Row};
use super::read::{self, Current};
use super::{OwnWrite, removals};
use crate::error::Outcome;
use crate::owner::as_owner;
use crate::planning::update_kept;
use pgrx::spi::SpiClient;
use std::collections::{HashMap, HashSet};
use tandem_shared::codec;
use tandem_shared::decide::{Decision, Restated};
use tandem_shared::{Audit, Body, Content, Result, Revision, State, Timestamp, Version};

/// What a round of operations on distinct ids is to store.
#[derive(Default)]
pub struct Writes {
    inserts: Vec<Row>,
    updates: Vec<Row>,
    restates: Vec<(String, Restated)>,
    removed: Vec<(String, Revision)>,
    dropped: Vec<String>,
    /// Ids that come to life, with the tombstone that this was decided on.
    risen: Vec<(String, Option<(Version, Timestamp)>)>,
}

impl Writes {
    /// Takes in a decision on what was there.
    pub fn add(&mut self, id: &str, decision: Decision, current: &Current) -> Result<()> {
        let locality = current.locality();
        let id = id.to_owned();
        match decision {
            Decision::Unchanged => {}
            Decision::Drop => self.dropped.push(id),
            Decision::Restate(restated) => self.restates.push((id, restated)),
            Decision::WriteLocal(revision) => self.put(Row { id, revision, local: true }, locality),
            Decision::Write(revision) if revision.head().is_tombstone() => {
                if locality != Some(false) {
                    let revision_below = placeholder(&revision)?;
                    self.put(Row { id: id.clone(), revision: revision_below, local: false }, locality);
                }
                self.removed.push((id, revision));
            }
            Decision::Write(revision) => {
                if locality != Some(false) {
                    self.risen.push((id.clone(), current.buried()));
                }
                self.put(Row { id, revision, local: false }, locality);
            }
        }
        Ok(())
    }

    fn put(&mut self, row: Row, locality: Option<bool>) {
        if locality.is_some() { self.updates.push(row) } else { self.inserts.push(row) }
    }

    /// Stores everything. Returns the ids for which another writer was first, which are to be decided again: nothing of
    /// what was decided here is left of them.
    pub fn store(mut self, client: &mut SpiClient<'_>) -> Outcome<HashSet<String>> {
        let _own = OwnWrite::begin();
        // Two batches that put the same new ids wait for each other at the primary key: in one order, not in a ring.
        self.inserts.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let mut late = columns::insert(client, &self.inserts)?;
        columns::update(client, &self.updates)?;
        restate(client, &self.restates)?;
        self.removed.retain(|(id, _)| !late.contains(id));
        let overtaken = self.bury(client, &late)?;
        late.extend(overtaken.iter().map(|(id, _)| id.clone()));
        self.removed.extend(overtaken);
        remove(client, &self.removed)?;
        drop_local(client, &self.dropped)?;
        Ok(late)
    }

    /// What lives has no tombstone. Capture has deleted the older ones; one of the same version, to which a later
    /// timestamp was preferred, is deleted here. Any other was made between our reading and our insert by somebody who
    /// put and removed the id: it is returned, and the row is to be removed under it again.
    fn bury(&self, client: &mut SpiClient<'_>, late: &HashSet<String>) -> Outcome<Vec<(String, Revision)>> {
        let risen: HashMap<&str, Option<(Version, Timestamp)>> = self
            .risen
            .iter()
            .filter(|(id, _)| !late.contains(id))
            .map(|(id, buried)| (id.as_str(), *buried))
            .collect();
        let ids: Vec<&str> = risen.keys().copied().collect();
        let found = read::tombstones(client, &ids)?;
        let (known, newer): (Vec<_>, Vec<_>) = found.into_iter().partition(|(id, tombstone)| {
            risen.get(id.as_str()) == Some(&Some((tombstone.version, tombstone.timestamp)))
        });
        if !known.is_empty() {
            let ids: Vec<&str> = known.iter().map(|(id, _)| id.as_str()).collect();
            as_owner(|| update_kept(client, DELETE_TOMBSTONES, &[ids.into()]))?;
        }
        Ok(newer)
    }
}

/// A tombstone for an id that is not here is stored by putting and removing an item under it: the primary key then
/// makes other first writers of the id wait, and the log tells of the removal as of any other.
fn placeholder(tombstone: &Revision) -> Result<Revision> {
    Ok(Revision {
        version: Version::FIRST,
        timestamp: tombstone.timestamp,
        audit: None,
        body: Body::Live { state: State::default(), content: Content::json(b"null", 4)? },
    })
}

const DELETE_TOMBSTONES: &str = "DELETE FROM tandem.tombstones t WHERE t.id = ANY($1)";

const RESTATE: &str = "UPDATE tandem.items i SET version = n.version, \"timestamp\" = n.at, state = n.state, \
        audit = n.audit::jsonb \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[]) AS n (id, version, at, state, audit) \
    WHERE i.id = n.id";

/// The content is not among the columns, so a large one is not stored again.
fn restate(client: &mut SpiClient<'_>, restates: &[(String, Restated)]) -> Outcome<()> {
    if restates.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Restated) -> i64| restates.iter().map(|(_, to)| of(to)).collect::<Vec<i64>>();
    let ids: Vec<&str> = restates.iter().map(|(id, _)| id.as_str()).collect();
    let states: Vec<&str> = restates.iter().map(|(_, to)| to.state.as_str()).collect();
    let audits: Vec<Option<&str>> =
        restates.iter().map(|(_, to)| to.audit.as_ref().map(Audit::as_str)).collect();
    update_kept(
        client,
        RESTATE,
        &[
            ids.into(),
            column(|to| to.version.get() as i64).into(),
            column(|to| to.timestamp.unix_ms() as i64).into(),
            states.into(),
            audits.into(),
        ],
    )?;
    Ok(())
}

const DELETE: &str = "DELETE FROM tandem.items i WHERE i.id = ANY($1)";

const FINISH_TOMBSTONES: &str = "UPDATE tandem.tombstones t SET version = n.version, \"timestamp\" = n.at, \
        audit = n.audit::jsonb \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS n (id, version, at, audit) \
    WHERE t.id = n.id AND t.version <= n.version";

/// Deletes rows; capture makes the tombstones, which get the version from here and the rest afterwards.
fn remove(client: &mut SpiClient<'_>, removed: &[(String, Revision)]) -> Outcome<()> {
    if removed.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = removed.iter().map(|(id, _)| id.as_str()).collect();
    let versions: Vec<i64> = removed.iter().map(|(_, revision)| revision.version.get() as i64).collect();
    let timestamps: Vec<i64> =
        removed.iter().map(|(_, revision)| revision.timestamp.unix_ms() as i64).collect();
    let audits: Vec<Option<&str>> =
        removed.iter().map(|(_, revision)| revision.audit.as_ref().map(Audit::as_str)).collect();
    removals::during(ids.iter().copied().zip(versions.iter().copied()), || {
        update_kept(client, DELETE, &[ids.clone().into()])
    })?;
    let args = [ids.into(), versions.into(), timestamps.into(), audits.into()];
    as_owner(|| update_kept(client, FINISH_TOMBSTONES, &args))?;
    Ok(())
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
    const RECORD: &str = "INSERT INTO tandem.conflicts (id, version, loser, origin) SELECT $1, $2, $3, tandem.origin() \
        WHERE NOT EXISTS (SELECT FROM tandem.conflicts c WHERE c.id = $1 AND c.version = $2 AND c.loser = $3)";
    let Some(loser) = loser else { return Ok(()) };
    let args = [id.into(), (loser.version.get() as i64).into(), codec::encode(&loser).into()];
    as_owner(|| client.update(RECORD, None, &args))?;
    Ok(())
}
