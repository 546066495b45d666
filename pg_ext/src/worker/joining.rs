//! Joining what was pulled from Redis: in one transaction if possible, and otherwise in smaller and smaller parts, so
//! that an entry that cannot be stored, or whose row somebody has locked, delays no other.
//!
//! What loses is recorded in the transaction that finds it: a client's revision that is behind what is here, and what
//! is here and has not gone to Redis yet where a client there went on without it. An entry that was joined before,
//! and is pulled again after a crash, is no loss; each server of Redis counts its entries, and how far they were
//! joined is kept in `tandem.joined`, in the same transaction. A server that was started again counts anew, and the
//! log is asked.

use super::losers::{joined_before as were_here, passed_since};
use super::peer::{self, Answer, Refusal};
use super::transaction::{Failed, FailureKind, durable};
use crate::error::Outcome;
use crate::fault_point::{self, Point};
use crate::log::Position;
use crate::planning;
use crate::store::{self, Page};
use pgrx::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use tandem_shared::Revision;
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::request::Operation;

/// An entry of a pull that has a revision.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number in its server of Redis.
    pub seq: u64,
    /// The id.
    pub id: String,
    /// The revision.
    pub revision: Revision,
    /// Attempts to join it that failed.
    pub tries: u32,
    /// How many others had been joined when the first did.
    pub others: u64,
    /// A later one of its id has come since: a client has seen it and gone on.
    pub is_superseded: bool,
    /// Redis has dropped its copy, and is to get back what is here when this is joined.
    pub is_wanted_back: bool,
    /// It was asked for before the two sides were compared, which may have brought a later one: where the log was
    /// then.
    pub compared_since: Option<Rc<Position>>,
}

/// How far the entries of a server of Redis were joined: all up to a number but for those that are named.
#[derive(Debug, Clone, Default)]
pub struct JoinedBefore {
    /// The number.
    pub seq: u64,
    /// Entries up to there that were not joined.
    pub open: BTreeSet<u64>,
}

impl JoinedBefore {
    fn has(&self, seq: u64) -> bool {
        seq <= self.seq && !self.open.contains(&seq)
    }
}

/// What is joined, and where it comes from.
pub struct Pull<'a> {
    /// The link.
    pub link: &'a str,
    /// The run of the server.
    pub run: &'a str,
    /// How far its entries were joined before the session began.
    pub before: &'a JoinedBefore,
    /// The number of the last entry that was pulled.
    pub last: u64,
}

/// Longest wait for somebody's lock, for all entries of a transaction together.
const LOCK_TIMEOUT: &std::ffi::CStr = c"100ms";
/// Single entries that fail in a row for a reason that is the server's, after which no more are tried.
const UNLUCKY_MAX: usize = 8;

/// Joins entries and answers each in order. `open` are the entries up to `pull.last` that are not joined, these among
/// them; those that are answered for good are taken out. Errors: where the server can join none of them at present.
pub fn join(pull: &Pull<'_>, entries: &[Entry], open: &mut BTreeSet<u64>) -> Result<Vec<Answer>, Failed> {
    let mut joining =
        Joining { pull, open, answers: Vec::with_capacity(entries.len()), is_lucky: false, unlucky: 0 };
    joining.part(entries)?;
    Ok(joining.answers)
}

struct Joining<'a> {
    pull: &'a Pull<'a>,
    open: &'a mut BTreeSet<u64>,
    answers: Vec<Answer>,
    is_lucky: bool,
    unlucky: usize,
}

impl Joining<'_> {
    fn part(&mut self, part: &[Entry]) -> Result<(), Failed> {
        if part.is_empty() {
            return Ok(());
        }
        let (failed, one) = match (self.attempt(part), part) {
            (Ok(answers), _) => {
                self.is_lucky = true;
                for (entry, answer) in part.iter().zip(&answers) {
                    if answer.is_ok() {
                        self.open.remove(&entry.seq);
                    }
                }
                self.answers.extend(answers);
                return Ok(());
            }
            (Err(failed), [one]) => (failed, one),
            (Err(_), _) => {
                let (first, second) = part.split_at(part.len() / 2);
                self.part(first)?;
                return self.part(second);
            }
        };
        if failed.kind == FailureKind::Passing {
            self.unlucky += 1;
            if !self.is_lucky && self.unlucky >= UNLUCKY_MAX {
                // A trigger may give any SQLSTATE for any number of items. Whether it is the server shows where none
                // of them is written.
                if self.attempt(&[]).is_err() {
                    return Err(failed);
                }
                self.is_lucky = true;
            }
        } else {
            self.is_lucky = true;
        }
        if failed.kind == FailureKind::Data {
            self.open.remove(&one.seq);
        }
        self.answers.push(Err(Refusal::of(failed)));
        Ok(())
    }

    /// Joins entries in one transaction. Those whose row is locked are left out of it.
    fn attempt(&self, part: &[Entry]) -> Result<Vec<Answer>, Failed> {
        durable(LOCK_TIMEOUT, || {
            let ids: Vec<&str> = part.iter().map(|entry| entry.id.as_str()).collect();
            let locked = locked(&ids)?;
            let free: Vec<&Entry> = part.iter().filter(|entry| !locked.contains(&entry.id)).collect();
            let at_stake = self.at_stake(&free)?;
            let operation = |entry: &&Entry| (entry.id.clone(), Operation::Apply(entry.revision.clone()));
            let done =
                store::on_behalf_of(self.pull.link, || store::run(free.iter().map(operation).collect()))?;
            let joined: Vec<Joined> =
                done.into_iter().map(|done| done.joined.unwrap_or(Joined::Unchanged)).collect();
            self.keep_losers(&free, &joined, &at_stake)?;
            let taken: HashSet<u64> = free.iter().map(|entry| entry.seq).collect();
            let open = self.open.iter().copied().filter(|seq| !taken.contains(seq));
            note(self.pull, open)?;
            fault_point::reach(Point::JoinUncommitted);
            let mut joined = joined.into_iter();
            let of = |entry: &Entry| match locked.contains(&entry.id) {
                true => Err(Refusal::locked()),
                false => Ok(joined.next().unwrap_or(Joined::Unchanged)),
            };
            Ok(part.iter().map(of).collect())
        })
    }

    /// What is here of the ids and has not gone to Redis yet.
    fn at_stake(&self, entries: &[&Entry]) -> Outcome<HashMap<String, Revision>> {
        let fresh = entries.iter().filter(|entry| !self.pull.before.has(entry.seq));
        let ids: Vec<&str> = fresh.map(|entry| entry.id.as_str()).collect();
        let ids: Vec<String> = peer::waiting_here(Some(self.pull.link), &ids)?.into_iter().collect();
        let mut at_stake = HashMap::new();
        let mut rest = ids;
        while !rest.is_empty() {
            let Page { found, later, .. } = store::fetch(&rest)?;
            at_stake.extend(found);
            rest = later.into_iter().collect();
        }
        Ok(at_stake)
    }

    /// Whether nobody has lost by each of some entries that came too late: it was joined before, or Redis had gone on
    /// from it.
    fn are_known(&self, stale: &[&Entry]) -> Outcome<Vec<bool>> {
        let revisions: Vec<(&str, &Revision)> =
            stale.iter().map(|entry| (entry.id.as_str(), &entry.revision)).collect();
        let mut known = were_here(&revisions)?;
        // All entries of a pull were asked for at one time.
        if let Some(since) = stale.iter().find_map(|entry| entry.compared_since.as_ref()) {
            let passed = passed_since(since, self.pull.link, &revisions)?;
            for ((entry, known), passed) in stale.iter().zip(&mut known).zip(passed) {
                *known |= passed && entry.compared_since.is_some();
            }
        }
        Ok(known)
    }

    /// Records what has lost by a join: what was here, or what came.
    fn keep_losers(
        &self,
        entries: &[&Entry],
        joined: &[Joined],
        at_stake: &HashMap<String, Revision>,
    ) -> Outcome<()> {
        let fresh = || {
            let answered = entries.iter().zip(joined);
            answered.filter(|(entry, _)| !self.pull.before.has(entry.seq))
        };
        for (entry, _) in fresh().filter(|(_, joined)| **joined == Joined::Applied) {
            if let Some(loser) = at_stake.get(&entry.id) {
                store::keep_loser(&entry.id, loser)?;
            }
        }
        let stale = fresh().filter(|(entry, joined)| **joined == Joined::Stale && !entry.is_superseded);
        let stale: Vec<&Entry> = stale.map(|(entry, _)| *entry).collect();
        for (entry, _) in stale.iter().zip(self.are_known(&stale)?).filter(|(_, is_known)| !is_known) {
            store::on_behalf_of(self.pull.link, || store::keep_loser(&entry.id, &entry.revision))?;
        }
        Ok(())
    }
}

/// Locks the rows of those of the ids that are there and that nobody has locked. Returns those that somebody has.
fn locked(ids: &[&str]) -> Outcome<HashSet<String>> {
    const LOCK: &str = "WITH free AS MATERIALIZED ( \
            SELECT i.id FROM tandem.items i WHERE i.id = ANY($1) ORDER BY i.id FOR UPDATE SKIP LOCKED) \
        SELECT i.id FROM tandem.items i WHERE i.id = ANY($1) AND NOT EXISTS (SELECT FROM free f WHERE f.id = i.id)";
    planning::by_index(|| {
        Spi::connect_mut(|client| {
            let mut locked = HashSet::new();
            for row in planning::update_kept(client, LOCK, &[ids.to_vec().into()])? {
                locked.extend(row.get::<String>(1)?);
            }
            Ok(locked)
        })
    })
}

const NOTE: &str = "INSERT INTO tandem.joined AS j (link, run, seq, open) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (link, run) DO UPDATE SET seq = greatest(j.seq, excluded.seq), open = excluded.open";

fn note(pull: &Pull<'_>, open: impl Iterator<Item = u64>) -> Outcome<()> {
    let open: Vec<i64> = open.map(|seq| seq as i64).collect();
    Spi::run_with_args(NOTE, &[pull.link.into(), pull.run.into(), (pull.last as i64).into(), open.into()])?;
    Ok(())
}

/// How far the entries of a run of a server were joined for a link.
pub fn joined_before(link: &str, run: &str) -> Outcome<JoinedBefore> {
    Spi::connect(|client| {
        let statement = "SELECT j.seq, j.open FROM tandem.joined j WHERE j.link = $1 AND j.run = $2";
        let rows = client.select(statement, None, &[link.into(), run.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok(JoinedBefore::default()) };
        let open = row.get::<Vec<i64>>(2)?.unwrap_or_default();
        let seq = row.get::<i64>(1)?.unwrap_or(0) as u64;
        Ok(JoinedBefore { seq, open: open.into_iter().map(|seq| seq as u64).collect() })
    })
}

/// Forgets how far the entries of other runs than these were joined for a link.
pub fn forget_others(link: &str, runs: &[&str]) -> Outcome<()> {
    let statement = "DELETE FROM tandem.joined j WHERE j.link = $1 AND NOT j.run = ANY($2)";
    Spi::run_with_args(statement, &[link.into(), runs.to_vec().into()])?;
    Ok(())
}

impl Entry {
    /// An entry as it was pulled.
    pub fn new(seq: u64, id: String, revision: Revision) -> Entry {
        Entry {
            seq,
            id,
            revision,
            tries: 0,
            others: 0,
            is_superseded: false,
            is_wanted_back: false,
            compared_since: None,
        }
    }

    /// Whether it is to be tried again after it was refused, when so many have been joined since the session began. A
    /// lock is waited for as long as somebody holds it. Whatever else is said of this entry alone does not pass.
    pub fn is_worth_another_try(&mut self, refusal: &Refusal, joined: u64) -> bool {
        if self.tries == 0 {
            self.others = joined;
        }
        self.tries += 1;
        match refusal.kind {
            FailureKind::Data => false,
            FailureKind::Lock => true,
            FailureKind::Claimed => self.tries < TRIES_MAX,
            // The server could not be asked to note that it was tried, if it were the server.
            FailureKind::Passing if joined == self.others => self.tries < TRIES_ALONE_MAX,
            FailureKind::Passing => self.tries < TRIES_MAX,
        }
    }
}

/// Tries of an entry that fails while others do not, or for a reason that is not the server's. One is made every 250
/// ms.
const TRIES_MAX: u32 = 40;
/// Tries of an entry that fails for a reason of the server's while there are no others.
const TRIES_ALONE_MAX: u32 = 1200;

/// Entries that were pulled and are not joined yet, because somebody is in the way.
#[derive(Default)]
pub struct Held {
    entries: BTreeMap<u64, Vec<Entry>>,
    reasons: BTreeMap<String, String>,
    bytes: usize,
}

/// Entries held of one server, after which no more are pulled from it.
const HELD_MAX: usize = 10_000;
/// Bytes of them.
const HELD_BYTES_MAX: usize = 64 << 20;

impl Held {
    /// Keeps an entry for another try.
    pub fn add(&mut self, entry: Entry, reason: &str) {
        self.bytes += size(&entry);
        self.reasons.insert(entry.id.clone(), reason.to_owned());
        self.entries.entry(entry.seq).or_default().push(entry);
    }

    /// Notes that a later entry of an id was pulled.
    pub fn supersede(&mut self, id: &str, seq: u64) {
        for (_, entries) in self.entries.range_mut(..seq) {
            entries.iter_mut().filter(|entry| entry.id == id).for_each(|entry| entry.is_superseded = true);
        }
    }

    /// Takes all of them, for another try.
    pub fn take(&mut self) -> Vec<Entry> {
        self.reasons.clear();
        self.bytes = 0;
        std::mem::take(&mut self.entries).into_values().flatten().collect()
    }

    /// Redis is to get back what is here of an id. True if entries of it are held: then it gets that when they are
    /// joined, as what is here now is older.
    pub fn owe_back(&mut self, id: &str) -> bool {
        let entries = self.entries.values_mut().flatten().filter(|entry| entry.id == id);
        entries.map(|entry| entry.is_wanted_back = true).count() > 0
    }

    /// The numbers of the entries, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries.keys().copied()
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.entries.len() < HELD_MAX && self.bytes < HELD_BYTES_MAX
    }

    /// The ids, each with what is in its way.
    pub fn reasons(&self) -> impl Iterator<Item = (&str, &str)> {
        self.reasons.iter().map(|(id, reason)| (id.as_str(), reason.as_str()))
    }
}

fn size(entry: &Entry) -> usize {
    entry.id.len() + entry.revision.content().map_or(0, |content| content.bytes().len()) + size_of::<Entry>()
}
