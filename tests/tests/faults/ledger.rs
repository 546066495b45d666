//! The judge: what the clients were told is held against what is there at the end.

use crate::company::{COUNTER, Company, is_cursed};
use crate::contents::Held;
use crate::speaker::field;
use crate::workload::{Effect, Operation, Side, Stage, Step, effect};
use ::redis::{Connection, Value};
use postgres::Client;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use tandem_shared::codec::{Source, decode};
use tandem_shared::join::order;
use tandem_shared::{DigestKey, Revision};
use tandem_tests::redis::{ask, send};
use tandem_tests::sql;

/// A write of a client and what it was answered.
#[derive(Clone)]
pub struct Entry {
    /// The id written to.
    pub id: String,
    /// The client.
    pub client: u64,
    /// What it did.
    pub step: Step,
    /// Where.
    pub side: Side,
    /// The answer.
    pub outcome: Outcome,
    /// Crashes of Postgres that had lost something before it was told.
    pub crashes: u64,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { number, operation, .. } = &self.step;
        let (id, client, side) = (&self.id, self.client, self.side);
        write!(f, "{id}: {:?} to client {client} of {side:?} in step {number}, {operation:?}", self.outcome)
    }
}

/// What a client was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was told the version that it wrote.
    Acknowledged {
        /// The version.
        version: u64,
        /// The etag, none for a tombstone.
        etag: Option<String>,
    },
    /// The answer was lost: the write may have happened or not.
    Unknown,
}

/// Where an id stands: version, and etag if it lives.
pub type Standing = (u64, Option<String>);

/// All ids of Postgres, live or removed.
pub fn standings_of_postgres(client: &mut Client) -> BTreeMap<String, Standing> {
    let query = "SELECT t.id, t.version, NULL FROM tandem.tombstones t UNION ALL \
                 SELECT i.id, i.version, encode(tandem.digest(i.version, i.id, i.state, i.payload IS NOT NULL, \
                 i.payload_hash), 'hex') FROM tandem.items i";
    let rows = sql::rows(client, query);
    rows.iter().map(|row| (row.get(0), (row.get::<_, i64>(1) as u64, row.get(2)))).collect()
}

/// What an id is to Redis, in the word of its status.
pub fn status_of_redis(connection: &mut Connection, id: &str) -> String {
    let status = ask(connection, &["TANDEM.STATUS", id]);
    match field(&status, "status") {
        Some(Value::BulkString(word)) => String::from_utf8_lossy(word).into_owned(),
        other => panic!("a status has a word: {other:?}"),
    }
}

/// The revisions that Redis has of ids, live or removed. What has expired is not asked for: a link that asks does not
/// have it, and Redis counts it no more.
pub fn revisions_of_redis<'a>(
    connection: &mut Connection,
    ids: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Revision> {
    let is_there = |id: &&String| !["expired", "missing"].contains(&status_of_redis(connection, id).as_str());
    let ids: Vec<&String> = ids.filter(is_there).collect();
    if ids.is_empty() {
        return BTreeMap::new();
    }
    let words: Vec<&str> =
        ["TANDEM.LINK", "FETCH"].into_iter().chain(ids.iter().map(|id| id.as_str())).collect();
    let Value::Array(found) = ask(connection, &words) else { panic!("FETCH answers with an array") };
    let revision = |(id, value): (&&String, Value)| match value {
        Value::BulkString(bytes) => {
            Some(((*id).clone(), decode(&bytes, Source::Foreign).expect("Redis encodes what can be read")))
        }
        _ => None,
    };
    ids.iter().zip(found).filter_map(revision).collect()
}

/// The empty secret's key, which the servers of the suites use.
pub fn key() -> DigestKey {
    DigestKey::new(b"")
}

/// Where a revision stands.
pub fn standing(id: &str, revision: &Revision) -> Standing {
    (revision.version.get(), revision.digest(&key(), id).map(|digest| digest.to_hex()))
}

/// Number of revisions that wait in Redis for the link.
pub fn waiting(connection: &mut Connection) -> Option<i64> {
    match send(connection, &["TANDEM.LINK", "PENDING"]) {
        Ok(Value::Int(count)) => Some(count),
        _ => None,
    }
}

/// Every id that a client wrote to.
pub fn ids(entries: &[Entry]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.id.clone()).collect()
}

/// What Postgres holds less than clients of Redis were told, by version, but for what a trigger refuses.
pub fn not_yet_in_postgres(client: &mut Client, entries: &[Entry]) -> Vec<String> {
    let there = standings_of_postgres(client);
    let missing = entries.iter().filter_map(|entry| {
        let Outcome::Acknowledged { version, .. } = entry.outcome else { return None };
        let reached = there.get(&entry.id).is_some_and(|(current, _)| *current >= version);
        (!reached && entry.side == Side::Redis && !is_cursed(&entry.id))
            .then(|| format!("{} at {version}", entry.id))
    });
    missing.collect()
}

/// Holds the ledgers against what both sides hold at the end. Returns what is wrong.
pub fn judge(
    client: &mut Client,
    entries: &[Entry],
    last: &BTreeMap<String, Held>,
    stage: &Stage,
) -> Vec<String> {
    let conflicts: Vec<(String, Held)> = sql::rows(client, "SELECT id, loser FROM tandem.conflicts")
        .iter()
        .map(|row| {
            let loser = decode(&row.get::<_, Vec<u8>>(1), Source::Foreign);
            (row.get(0), Held::of(&loser.expect("a conflict's loser can be read")))
        })
        .collect();
    let mut problems = Vec::new();
    for entry in entries {
        let Outcome::Acknowledged { version, etag } = &entry.outcome else { continue };
        let told = (*version, etag.clone());
        let Some(current) = last.get(&entry.id) else {
            problems.push(format!("nothing is left of {entry:?}"));
            continue;
        };
        let now = current.standing(&entry.id);
        let loser = || {
            let mut losers = conflicts.iter().filter(|(id, _)| *id == entry.id);
            losers.find(|(id, loser)| loser.standing(id) == told).map(|(_, loser)| loser)
        };
        let problem = match now.0.cmp(version) {
            Ordering::Greater => None,
            Ordering::Less => Some("an older revision is in the place of"),
            Ordering::Equal if now.1 == *etag => {
                is_other(entry, current, stage).then_some("other content has the etag of")
            }
            Ordering::Equal => match loser() {
                None => {
                    Some("another revision of that version is in the place of, and no conflict tells of,")
                }
                Some(loser) if is_other(entry, loser, stage) => {
                    Some("a conflict tells of other content than")
                }
                Some(loser) => {
                    let ordered = loser
                        .with_head(|loser| current.with_head(|now| order(&key(), &entry.id, loser, now)));
                    (ordered != Ordering::Less).then_some("a smaller revision of that version won over")
                }
            },
        };
        if let Some(problem) = problem {
            problems.push(format!("{problem} {entry:?}; now {now:?}, {current:?}"));
        }
    }
    let undead = "SELECT i.id FROM tandem.items i JOIN tandem.tombstones t USING (id)";
    problems.extend(
        sql::rows(client, undead)
            .iter()
            .map(|row| format!("{} lives and has a tombstone", row.get::<_, &str>(0))),
    );
    problems.extend(strangers(entries, last, stage));
    problems
}

/// What a trigger adds to the contents of `edit.*`, at the place where it is in their canonical form.
const EDITED: &str = r#""edited":true,"#;

/// Whether a revision that an entry was told of holds something else than the client wrote.
fn is_other(entry: &Entry, held: &Held, stage: &Stage) -> bool {
    match (effect(entry, stage.filler), &held.live) {
        (Effect::Depends, _) | (Effect::Removed, None) => false,
        (Effect::Content(wrote), Some((_, _, holds))) => {
            let holds = String::from_utf8_lossy(holds).replacen(EDITED, "", 1);
            wrote != holds.as_bytes()
        }
        (Effect::Content(_), None) | (Effect::Removed, Some(_)) => true,
    }
}

/// Revisions at the end that nobody wrote: a client was told of it, or its answer was lost and the content is its
/// own, or a trigger has edited what a client wrote.
fn strangers(entries: &[Entry], last: &BTreeMap<String, Held>, stage: &Stage) -> Vec<String> {
    let mut by_id: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_id.entry(&entry.id).or_default().push(entry);
    }
    let none = Vec::new();
    let mut strangers = Vec::new();
    for (id, held) in last.iter().filter(|(id, _)| !is_of_servers(id)) {
        let entries = by_id.get(id.as_str()).unwrap_or(&none);
        let standing = held.standing(id);
        let is_told = entries.iter().any(|entry| match &entry.outcome {
            Outcome::Acknowledged { version, etag } => (*version, etag) == (standing.0, &standing.1),
            Outcome::Unknown => false,
        });
        let is_edited = stage.company == Company::Triggers && id.starts_with("edit.");
        let may_be_unknown = is_edited || entries.iter().any(|entry| entry.outcome == Outcome::Unknown);
        let is_known = is_told || (may_be_unknown && is_of_clients(held, entries, stage));
        if !is_known {
            strangers.push(format!("nobody wrote what {id} is now: {held:?}"));
        }
    }
    strangers
}

/// Whether an id is written by triggers, or by who fills Redis.
fn is_of_servers(id: &str) -> bool {
    id == COUNTER || id.starts_with("fill.")
}

/// Whether everything in a revision is what some step of these entries writes.
fn is_of_clients(held: &Held, entries: &[&Entry], stage: &Stage) -> bool {
    let Some((_, _, content)) = &held.live else {
        return entries.iter().any(|entry| effect(entry, stage.filler) == Effect::Removed);
    };
    let members = serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(content);
    // What is no object is a bomb, and of one step.
    let Ok(members) = members else {
        return entries.iter().any(|entry| effect(entry, stage.filler) == Effect::Content(content.clone()));
    };
    members.iter().all(|(name, value)| {
        entries.iter().any(|entry| {
            let step = &entry.step;
            match (name.as_str(), &step.operation) {
                ("edited" | "filler", _) | ("bomb", Operation::Bomb(_)) => true,
                ("by", _) => *value == format!("{}.{}", entry.client, step.number),
                (merged, Operation::Merge) => {
                    merged == format!("merged {}", entry.client) && *value == step.number
                }
                _ => false,
            }
        })
    })
}
