//! The workload: clients of both sides that write to a few ids all of them share and to some that are their own,
//! and keep a ledger of what they were answered. What they do is decided by the seed alone.

use crate::bombs::Bomb;
use crate::company::{Company, is_limited};
use crate::ledger::{Entry, Outcome};
use crate::speaker::{Missed, Speaker};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use tandem_shared::content::canonicalize;

/// Ids that every client writes to, so that writes of both sides meet.
const SHARED: u64 = 10;
/// Ids of each client's own, so that a lost write is not hidden by a later one.
const OWN: u64 = 25;

/// A source of numbers that a seed decides (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// Numbers of a seed; each `stream` of a seed is another sequence.
    pub fn new(seed: u64, stream: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}

/// A side of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Postgres.
    Postgres,
    /// Redis.
    Redis,
}

/// What a client does in one step.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A put of new content.
    Put,
    /// A put over the etag that was read just before.
    PutMatching,
    /// A merge patch.
    Merge,
    /// A change of the state.
    SetState,
    /// A removal.
    Remove,
    /// Puts and removals of several ids, all or nothing.
    Batch(Vec<String>),
    /// Plain SQL; a put in Redis.
    Upsert,
    /// Plain SQL; a put over an etag in Redis.
    Update,
    /// Plain SQL; a removal in Redis.
    Delete,
    /// A put with a time to live in milliseconds, in Redis alone.
    Brief(u64),
    /// A time to live in milliseconds for a copy that is there, in Redis alone.
    Expire(u64),
    /// Something as large as it may be, or larger.
    Bomb(Bomb),
    /// Something that the client's ACL forbids, in Redis alone.
    Intrude(u64),
}

/// One step of a client.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its number.
    pub number: u64,
    /// The id; of a batch the first.
    pub id: String,
    /// What to do.
    pub operation: Operation,
}

/// The steps of a client.
pub fn steps(seed: u64, client: u64, count: u64, company: Company) -> Vec<Step> {
    let mut dice = Dice::new(seed, 100 + client);
    (0..count)
        .map(|number| {
            if let Some((id, operation)) = company.step(&mut dice, client) {
                return Step { number, id, operation };
            }
            let id = id(&mut dice, client, company);
            let operation = match dice.below(20) {
                0..=5 => Operation::Put,
                6..=7 => Operation::PutMatching,
                8..=9 => Operation::Merge,
                10 => Operation::SetState,
                11..=13 => Operation::Remove,
                14..=15 => {
                    let others = (0..2).map(|_| self::id(&mut dice, client, company));
                    let mut ids: Vec<String> = others.chain([id.clone()]).collect();
                    // In one order everywhere, or batches wait for each other in a ring.
                    ids.sort();
                    ids.dedup();
                    Operation::Batch(ids)
                }
                16 => Operation::Upsert,
                17..=18 => Operation::Update,
                _ => Operation::Delete,
            };
            Step { number, id, operation }
        })
        .collect()
}

fn id(dice: &mut Dice, client: u64, company: Company) -> String {
    match dice.below(3) {
        _ if is_limited(company, client) => format!("user:{client}.{:02}", dice.below(OWN)),
        0 => format!("shared.{:02}", dice.below(SHARED)),
        _ => format!("own.{client}.{:02}", dice.below(OWN)),
    }
}

/// The content that a client puts in a step.
pub fn content(client: u64, number: u64, filler: usize) -> String {
    let filler = "x".repeat(filler);
    format!(r#"{{"by":"{client}.{number}","filler":"{filler}"}}"#)
}

/// Whether a batch removes the id at a place, or puts content there.
pub fn removes(number: u64, place: usize) -> bool {
    (number as usize + place).is_multiple_of(3)
}

/// What is under an id when a step has been done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// This content, in canonical form.
    Content(Vec<u8>),
    /// Nothing any more.
    Removed,
    /// It depends on what was there.
    Depends,
}

/// What a step does to an id of it.
pub fn effect(entry: &Entry, filler: usize) -> Effect {
    let puts = || {
        let content = content(entry.client, entry.step.number, filler);
        Effect::Content(canonicalize(content.as_bytes()).expect("contents of the workload are JSON"))
    };
    match &entry.step.operation {
        Operation::Put
        | Operation::PutMatching
        | Operation::Upsert
        | Operation::Update
        | Operation::Brief(_) => puts(),
        Operation::Remove | Operation::Delete => Effect::Removed,
        Operation::Batch(ids) => {
            let place = ids.iter().position(|id| *id == entry.id);
            if place.is_some_and(|place| removes(entry.step.number, place)) {
                Effect::Removed
            } else {
                puts()
            }
        }
        Operation::Bomb(bomb) => bomb.effect(),
        Operation::Merge | Operation::SetState | Operation::Expire(_) | Operation::Intrude(_) => {
            Effect::Depends
        }
    }
}

/// Answers to a bomb: the side, and whether it has taken the bomb, with the refusal.
pub type Verdicts = BTreeMap<(Side, bool), String>;

/// Where the servers are, and how far the clients have come.
pub struct Stage {
    /// Port of the Redis that clients speak to.
    pub redis_port: AtomicU16,
    /// Port of Postgres.
    pub postgres_port: u16,
    /// Steps done by the clients of Postgres.
    pub postgres_steps: AtomicU64,
    /// Steps done by the clients of Redis.
    pub redis_steps: AtomicU64,
    /// Steps that the clients of a side do together.
    pub steps_each_side: u64,
    /// Bytes of filler in every content.
    pub filler: usize,
    /// Whether a write to Redis counts as acknowledged only when a replica has it.
    pub replicated: AtomicBool,
    /// What is in the workload beside plain writes.
    pub company: Company,
    /// Whether Postgres acknowledges commits that are not on its disk.
    pub is_lazy: bool,
    /// Faults that have begun.
    pub faults: AtomicU64,
    /// Crashes of Postgres that lose what is not on its disk.
    pub crashes: AtomicU64,
    /// Ids and versions that `TANDEM.WAIT` has called committed in Postgres.
    pub confirmed: Mutex<Vec<(String, u64)>>,
    /// What is wrong beside what the ledgers show.
    pub problems: Mutex<Vec<String>>,
    /// Which side has taken (true) or refused each bomb.
    pub verdicts: Mutex<BTreeMap<String, Verdicts>>,
    /// Probes that took longer than [`crate::probe::SLOW`] after a fault was over.
    pub slow: AtomicU64,
    /// The longest time of a probe, in milliseconds.
    pub slowest_ms: AtomicU64,
}

impl Stage {
    /// Steps done by a side's clients.
    pub fn steps(&self, side: Side) -> u64 {
        self.counter(side).load(Ordering::SeqCst)
    }

    /// Notes that something is wrong.
    pub fn complain(&self, problem: String) {
        self.problems.lock().expect("nobody panics with it").push(problem);
    }

    fn counter(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Postgres => &self.postgres_steps,
            Side::Redis => &self.redis_steps,
        }
    }
}

/// Every so many steps a client of Redis asks whether Postgres has its writes, where commits may be lost.
const CONFIRM_EVERY: u64 = 8;

/// Runs a client to the end of its steps; its ledger.
pub fn run(stage: &Stage, side: Side, client: u64, steps: &[Step]) -> Vec<Entry> {
    let mut ledger = Vec::new();
    let mut speaker = Speaker::new(stage, side, client);
    // Entries from here on are of the present connection, and not asked for yet.
    let mut unconfirmed = 0;
    for step in steps {
        let crashes = stage.crashes.load(Ordering::SeqCst);
        let answered = speaker.tell(step);
        let entry = |id: &str, outcome| Entry {
            id: id.to_owned(),
            client,
            step: step.clone(),
            side,
            outcome,
            crashes,
        };
        match answered {
            Ok(answered) => ledger.extend(answered.into_iter().map(|(id, version, etag)| {
                let outcome = Outcome::Acknowledged { version, etag };
                entry(&id, outcome)
            })),
            Err(Missed::Refused) => {}
            Err(Missed::Lost) => {
                speaker.hang_up();
                let ids = match &step.operation {
                    Operation::Batch(ids) => ids.clone(),
                    _ => vec![step.id.clone()],
                };
                ledger.extend(ids.iter().map(|id| entry(id, Outcome::Unknown)));
                unconfirmed = ledger.len();
            }
        }
        if stage.is_lazy && side == Side::Redis && step.number % CONFIRM_EVERY == CONFIRM_EVERY - 1 {
            if speaker.confirms() {
                let confirmed = ledger[unconfirmed..].iter().filter_map(|entry| match entry.outcome {
                    Outcome::Acknowledged { version, .. } => Some((entry.id.clone(), version)),
                    Outcome::Unknown => None,
                });
                stage.confirmed.lock().expect("nobody panics with it").extend(confirmed);
            }
            unconfirmed = ledger.len();
        }
        stage.counter(side).fetch_add(1, Ordering::SeqCst);
    }
    ledger
}
