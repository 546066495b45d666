//! The judge: what the clients were told is held against what is there at the end.

use crate::workload::{Side, Step};
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

/// The revisions that Redis has of ids, live or removed.
pub fn revisions_of_redis<'a>(
    connection: &mut Connection,
    ids: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Revision> {
    let ids: Vec<&String> = ids.collect();
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

/// What Postgres holds less than clients of Redis were told, by version.
pub fn not_yet_in_postgres(client: &mut Client, entries: &[Entry]) -> Vec<String> {
    let there = standings_of_postgres(client);
    let missing = entries.iter().filter_map(|entry| {
        let Outcome::Acknowledged { version, .. } = entry.outcome else { return None };
        let reached = there.get(&entry.id).is_some_and(|(current, _)| *current >= version);
        (!reached && entry.side == Side::Redis).then(|| format!("{} at {version}", entry.id))
    });
    missing.collect()
}

/// Holds the ledgers against the revisions that both sides agree on at the end. Returns what is wrong.
pub fn judge(client: &mut Client, entries: &[Entry], last: &BTreeMap<String, Revision>) -> Vec<String> {
    let conflicts: Vec<(String, Revision)> = sql::rows(client, "SELECT id, loser FROM tandem.conflicts")
        .iter()
        .map(|row| {
            let loser = decode(&row.get::<_, Vec<u8>>(1), Source::Foreign);
            (row.get(0), loser.expect("a conflict's loser can be read"))
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
        let now = standing(&entry.id, current);
        let loser = || {
            let mut losers = conflicts.iter().filter(|(id, _)| *id == entry.id);
            losers.find(|(id, loser)| standing(id, loser) == told).map(|(_, loser)| loser)
        };
        let problem = match now.0.cmp(version) {
            Ordering::Greater => None,
            Ordering::Less => Some("an older revision is in the place of"),
            Ordering::Equal if now.1 == *etag => None,
            Ordering::Equal => match loser() {
                None => {
                    Some("another revision of that version is in the place of, and no conflict tells of,")
                }
                Some(loser) => {
                    let ordered = order(&key(), &entry.id, &loser.head(), &current.head());
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
    problems.extend(strangers(entries, last));
    problems
}

/// Revisions at the end that nobody was told of, though every answer for their id came.
fn strangers(entries: &[Entry], last: &BTreeMap<String, Revision>) -> Vec<String> {
    let mut told: BTreeMap<&str, BTreeSet<Standing>> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for entry in entries {
        match &entry.outcome {
            Outcome::Acknowledged { version, etag } => {
                told.entry(&entry.id).or_default().insert((*version, etag.clone()));
            }
            Outcome::Unknown => {
                unknown.insert(entry.id.as_str());
            }
        }
    }
    last.iter()
        .filter(|(id, revision)| {
            let known = told.get(id.as_str()).is_some_and(|told| told.contains(&standing(id, revision)));
            !known && !unknown.contains(id.as_str())
        })
        .map(|(id, revision)| format!("nobody wrote what {id} is now: {revision:?}"))
        .collect()
}
