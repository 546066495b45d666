//! Storing what was decided, in one statement a kind.

use super::columns::{self, Row};
use super::{OwnWrite, removals};
use crate::error::Outcome;
use crate::planning::update_kept;
use pgrx::spi::SpiClient;
use std::collections::HashSet;
use tandem_shared::codec;
use tandem_shared::decide::{Decision, Restated};
use tandem_shared::{Audit, Body, Content, Result, Revision, State, Version};

/// What a round of operations on distinct ids is to store.
#[derive(Default)]
pub struct Writes {
    inserts: Vec<Row>,
    updates: Vec<Row>,
    restates: Vec<(String, Restated)>,
    removed: Vec<(String, Revision)>,
    dropped: Vec<String>,
}

impl Writes {
    /// Takes in a decision. `locality` says of a row that is there whether it is local.
    pub fn add(&mut self, id: &str, decision: Decision, locality: Option<bool>) -> Result<()> {
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
            Decision::Write(revision) => self.put(Row { id, revision, local: false }, locality),
        }
        Ok(())
    }

    fn put(&mut self, row: Row, locality: Option<bool>) {
        if locality.is_some() { self.updates.push(row) } else { self.inserts.push(row) }
    }

    /// Stores everything. Returns the ids for which another writer was first; nothing of theirs is stored.
    pub fn store(mut self, client: &mut SpiClient<'_>) -> Outcome<Stored> {
        let _own = OwnWrite::begin();
        // Two batches that put the same new ids wait for each other at the primary key: in one order, not in a ring.
        self.inserts.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let late = columns::insert(client, &self.inserts)?;
        columns::update(client, &self.updates)?;
        restate(client, &self.restates)?;
        let overtaken = self.overtaken(client, &late)?;
        self.removed.retain(|(id, _)| !late.contains(id));
        remove(client, &self.removed)?;
        drop_local(client, &self.dropped)?;
        Ok(Stored { late, overtaken })
    }

    /// An id may have been put and removed by another between our reading and our insert. Its tombstone is then
    /// newer than what was decided, and stays.
    fn overtaken(&self, client: &mut SpiClient<'_>, late: &HashSet<String>) -> Outcome<Option<String>> {
        let removed: HashSet<&str> = self.removed.iter().map(|(id, _)| id.as_str()).collect();
        let (ids, versions): (Vec<&str>, Vec<i64>) = self
            .inserts
            .iter()
            .filter(|row| !late.contains(&row.id) && !removed.contains(row.id.as_str()))
            .map(|row| (row.id.as_str(), row.revision.version.get() as i64))
            .unzip();
        let newer = match (ids.as_slice(), versions.as_slice()) {
            ([], _) => return Ok(None),
            ([id], [version]) => update_kept(client, IS_NEWER_TOMBSTONE, &[(*id).into(), (*version).into()])?,
            _ => update_kept(client, NEWER_TOMBSTONE, &[ids.into(), versions.into()])?,
        };
        Ok(newer.into_iter().next().map(|row| row.get::<String>(1)).transpose()?.flatten())
    }
}

/// What became of a round.
pub struct Stored {
    /// Ids for which another writer was first: they are to be decided again.
    pub late: HashSet<String>,
    /// An id that another writer put and removed meanwhile: the whole is to be tried again by its caller.
    pub overtaken: Option<String>,
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

const NEWER_TOMBSTONE: &str = "SELECT t.id FROM unnest($1::text[], $2::bigint[]) AS n (id, version) \
    JOIN tandem.tombstones t ON t.id = n.id AND t.version >= n.version LIMIT 1";

const IS_NEWER_TOMBSTONE: &str = "SELECT t.id FROM tandem.tombstones t WHERE t.id = $1 AND t.version >= $2";

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
    update_kept(client, FINISH_TOMBSTONES, &args)?;
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
    let Some(loser) = loser else { return Ok(()) };
    client.update(
        "INSERT INTO tandem.conflicts (id, version, loser, origin) SELECT $1, $2, $3, tandem.origin() \
         WHERE NOT EXISTS (SELECT FROM tandem.conflicts c WHERE c.id = $1 AND c.version = $2 AND c.loser = $3)",
        None,
        &[id.into(), (loser.version.get() as i64).into(), codec::encode(&loser).into()],
    )?;
    Ok(())
}
