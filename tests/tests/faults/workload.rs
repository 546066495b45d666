//! The workload: clients of both sides that write to a few ids all of them share and to some that are their own,
//! and keep a ledger of what they were answered. What they do is decided by the seed alone.

use crate::ledger::{Entry, Outcome};
use ::redis::{Connection, RedisError, Value};
use postgres::{Client, NoTls};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tandem_tests::redis::send;
use tandem_tests::wait::DEADLINE;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
pub fn steps(seed: u64, client: u64, count: u64) -> Vec<Step> {
    let mut dice = Dice::new(seed, 100 + client);
    (0..count)
        .map(|number| {
            let id = id(&mut dice, client);
            let operation = match dice.below(20) {
                0..=5 => Operation::Put,
                6..=7 => Operation::PutMatching,
                8..=9 => Operation::Merge,
                10 => Operation::SetState,
                11..=13 => Operation::Remove,
                14..=15 => {
                    let others = (0..2).map(|_| self::id(&mut dice, client));
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

fn id(dice: &mut Dice, client: u64) -> String {
    match dice.below(3) {
        0 => format!("shared.{:02}", dice.below(SHARED)),
        _ => format!("own.{client}.{:02}", dice.below(OWN)),
    }
}

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
}

impl Stage {
    /// Steps done by a side's clients.
    pub fn steps(&self, side: Side) -> u64 {
        self.counter(side).load(Ordering::SeqCst)
    }

    fn counter(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Postgres => &self.postgres_steps,
            Side::Redis => &self.redis_steps,
        }
    }
}

/// Why a step has no answer.
enum Missed {
    /// The server refused it: nothing happened.
    Refused,
    /// The answer was lost: it may have happened or not.
    Lost,
}

impl From<RedisError> for Missed {
    fn from(error: RedisError) -> Missed {
        if error.code().is_some() { Missed::Refused } else { Missed::Lost }
    }
}

impl From<postgres::Error> for Missed {
    fn from(error: postgres::Error) -> Missed {
        // A server that goes down may say so after the commit.
        let is_refusal = error.code().is_some_and(|state| !state.code().starts_with("57P"));
        if is_refusal { Missed::Refused } else { Missed::Lost }
    }
}

/// Ids with version and etag (none for a tombstone) as the answer of a step gave them.
type Answered = Vec<(String, u64, Option<String>)>;

/// Runs a client to the end of its steps; its ledger.
pub fn run(stage: &Stage, side: Side, client: u64, steps: &[Step]) -> Vec<Entry> {
    let mut ledger = Vec::new();
    let mut speaker = Speaker { stage, client, redis: None, postgres: None };
    for step in steps {
        let answered = match side {
            Side::Postgres => speaker.tell_postgres(step),
            Side::Redis => speaker.tell_redis(step),
        };
        let entry =
            |id: &str, outcome| Entry { id: id.to_owned(), client, step: step.clone(), side, outcome };
        match answered {
            Ok(answered) => ledger.extend(answered.into_iter().map(|(id, version, etag)| {
                let outcome = Outcome::Acknowledged { version, etag };
                entry(&id, outcome)
            })),
            Err(Missed::Refused) => {}
            Err(Missed::Lost) => {
                (speaker.redis, speaker.postgres) = (None, None);
                let ids = match &step.operation {
                    Operation::Batch(ids) => ids.clone(),
                    _ => vec![step.id.clone()],
                };
                ledger.extend(ids.iter().map(|id| entry(id, Outcome::Unknown)));
            }
        }
        stage.counter(side).fetch_add(1, Ordering::SeqCst);
    }
    ledger
}

struct Speaker<'a> {
    stage: &'a Stage,
    client: u64,
    redis: Option<Connection>,
    postgres: Option<Client>,
}

/// Tries to connect until it works: a server that is down comes back.
fn connected<T>(what: &str, mut connect: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(connection) = connect() {
            return connection;
        }
        assert!(start.elapsed() < 2 * DEADLINE, "{what} does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects to Postgres, as soon as it is up.
pub fn connect_postgres(port: u16) -> Client {
    connected("Postgres", || {
        postgres::Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .ok()
    })
}

impl Speaker<'_> {
    fn redis(&mut self) -> &mut Connection {
        let stage = self.stage;
        self.redis.get_or_insert_with(|| {
            connected("Redis", || {
                let port = stage.redis_port.load(Ordering::SeqCst);
                let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
                let mut connection = client.get_connection_with_timeout(Duration::from_secs(5)).ok()?;
                // While it loads its data it refuses everything; that is no answer to a step.
                send(&mut connection, &["PING"]).ok()?;
                Some(connection)
            })
        })
    }

    fn postgres(&mut self) -> &mut Client {
        let stage = self.stage;
        self.postgres.get_or_insert_with(|| connect_postgres(stage.postgres_port))
    }

    fn content(&self, step: &Step) -> String {
        let filler = "x".repeat(self.stage.filler);
        format!(r#"{{"by":"{}.{}","filler":"{filler}"}}"#, self.client, step.number)
    }

    fn patch(&self, step: &Step) -> String {
        format!(r#"{{"merged {}":{}}}"#, self.client, step.number)
    }

    /// The operations of a batch: every third id is removed.
    fn batch(&self, step: &Step, ids: &[String]) -> String {
        let operation = |(place, id): (usize, &String)| match (step.number as usize + place) % 3 {
            0 => format!(r#"{{"op":"delete","id":"{id}"}}"#),
            _ => format!(r#"{{"op":"put","id":"{id}","payload":{}}}"#, self.content(step)),
        };
        let operations: Vec<String> = ids.iter().enumerate().map(operation).collect();
        format!("[{}]", operations.join(","))
    }

    fn tell_redis(&mut self, step: &Step) -> Result<Answered, Missed> {
        // Looked at before: what goes to a master that is about to die must be with its replica.
        let replicated = self.stage.replicated.load(Ordering::SeqCst);
        let content = self.content(step);
        let id = step.id.as_str();
        let answered = match &step.operation {
            Operation::Put | Operation::Upsert => self.put_in_redis(id, &["TANDEM.PUT", id, &content])?,
            Operation::PutMatching | Operation::Update => {
                let status = send(self.redis(), &["TANDEM.STATUS", id])?;
                let Some((_, Some(etag))) = standing(&status) else { return Ok(Vec::new()) };
                self.put_in_redis(id, &["TANDEM.PUT", id, &content, "IFMATCH", &etag])?
            }
            Operation::Merge => self.put_in_redis(id, &["TANDEM.MERGE", id, &self.patch(step)])?,
            Operation::SetState => {
                let state = format!("state {}", step.number % 4);
                self.put_in_redis(id, &["TANDEM.STATE", "SET", id, &state])?
            }
            Operation::Remove | Operation::Delete => {
                self.in_redis_transaction(&["TANDEM.REMOVE", id], std::slice::from_ref(&step.id))?
            }
            Operation::Batch(ids) => {
                let operations = self.batch(step, ids);
                self.in_redis_transaction(&["TANDEM.BATCH", &operations], ids)?
            }
        };
        if replicated && !answered.is_empty() {
            match send(self.redis(), &["WAIT", "1", "3000"])? {
                Value::Int(replicas) if replicas > 0 => {}
                _ => return Err(Missed::Lost),
            }
        }
        Ok(answered)
    }

    /// A command that answers with version and etag.
    fn put_in_redis(&mut self, id: &str, words: &[&str]) -> Result<Answered, Missed> {
        let answer = send(self.redis(), words)?;
        let changed = field(&answer, "changed") == Some(&Value::Int(1));
        let standing = standing(&answer).filter(|_| changed);
        Ok(standing.map(|(version, etag)| (id.to_owned(), version, etag)).into_iter().collect())
    }

    /// A command whose answer says neither version nor etag, with what became of its ids, in one transaction.
    fn in_redis_transaction(&mut self, words: &[&str], ids: &[String]) -> Result<Answered, Missed> {
        let connection = self.redis();
        send(connection, &["MULTI"])?;
        let queued = (|| {
            send(connection, words)?;
            ids.iter().try_for_each(|id| send(connection, &["TANDEM.STATUS", id]).map(drop))
        })();
        if let Err(error) = queued {
            let missed = Missed::from(error);
            if matches!(missed, Missed::Refused) {
                send(connection, &["DISCARD"])?;
            }
            return Err(missed);
        }
        // An answer of nil, or in another form, is none.
        let Value::Array(answers) = send(connection, &["EXEC"])? else { return Err(Missed::Lost) };
        let Some((first, statuses)) = answers.split_first() else { return Err(Missed::Lost) };
        if *first == Value::Int(0) {
            return Ok(Vec::new());
        }
        let standings = ids.iter().zip(statuses).filter_map(|(id, status)| {
            let (version, etag) = standing(status)?;
            Some((id.clone(), version, etag))
        });
        Ok(standings.collect())
    }

    fn tell_postgres(&mut self, step: &Step) -> Result<Answered, Missed> {
        let content = self.content(step);
        let id = step.id.as_str();
        match &step.operation {
            Operation::Put => self.put_in_postgres(id, &format!("put('{id}', '{content}'::text)")),
            Operation::PutMatching => {
                let read = format!("SELECT etag FROM tandem.get('{id}')");
                let etag: Option<String> = match self.postgres().query(&read, &[])?.first() {
                    Some(row) => row.get(0),
                    None => None,
                };
                let Some(etag) = etag else { return Ok(Vec::new()) };
                self.put_in_postgres(id, &format!("put('{id}', '{content}'::text, if_match => '{etag}')"))
            }
            Operation::Merge => {
                let patch = self.patch(step);
                self.put_in_postgres(id, &format!("merge('{id}', '{patch}'::text)"))
            }
            Operation::SetState => {
                let state = format!("state {}", step.number % 4);
                self.put_in_postgres(id, &format!("set_state('{id}', '{state}')"))
            }
            Operation::Remove => self.in_transaction(
                &format!("SELECT 1 WHERE tandem.delete('{id}')"),
                std::slice::from_ref(&step.id),
            ),
            Operation::Batch(ids) => {
                let operations = self.batch(step, ids);
                self.in_transaction(&format!("SELECT tandem.batch('{operations}'::jsonb)"), ids)
            }
            Operation::Upsert => self.in_transaction(
                &format!(
                    "INSERT INTO tandem.items (id, payload) VALUES ('{id}', '{content}') \
                     ON CONFLICT (id) DO UPDATE SET payload = excluded.payload RETURNING id"
                ),
                std::slice::from_ref(&step.id),
            ),
            Operation::Update => self.in_transaction(
                &format!("UPDATE tandem.items SET payload = '{content}' WHERE id = '{id}' RETURNING id"),
                std::slice::from_ref(&step.id),
            ),
            Operation::Delete => self.in_transaction(
                &format!("DELETE FROM tandem.items WHERE id = '{id}' RETURNING id"),
                std::slice::from_ref(&step.id),
            ),
        }
    }

    fn put_in_postgres(&mut self, id: &str, call: &str) -> Result<Answered, Missed> {
        let query = format!("SELECT version, etag FROM tandem.{call} WHERE changed");
        let rows = self.postgres().query(&query, &[])?;
        Ok(rows.iter().map(|row| (id.to_owned(), row.get::<_, i64>(0) as u64, row.get(1))).collect())
    }

    /// A statement that tells neither version nor etag, with what became of its ids, in one transaction. A
    /// statement without a row has done nothing.
    fn in_transaction(&mut self, statement: &str, ids: &[String]) -> Result<Answered, Missed> {
        let mut transaction = self.postgres().transaction()?;
        let mut answered = Vec::new();
        if !transaction.query(statement, &[])?.is_empty() {
            for id in ids {
                let query = format!("SELECT version, etag FROM tandem.item_status('{id}')");
                let row = transaction.query_one(&query, &[])?;
                let version: Option<i64> = row.get(0);
                answered.extend(version.map(|version| (id.clone(), version as u64, row.get(1))));
            }
        }
        transaction.commit()?;
        Ok(answered)
    }
}

/// Version and etag of a record.
fn standing(record: &Value) -> Option<(u64, Option<String>)> {
    let Some(Value::Int(version)) = field(record, "version") else { return None };
    let etag = match field(record, "etag") {
        Some(Value::BulkString(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Some((u64::try_from(*version).expect("a version is positive"), etag))
}

/// A field of a record, which protocol 2 shows as names and values that alternate.
fn field<'a>(record: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(words) = record else { return None };
    let mut pairs = words.chunks_exact(2);
    let pair = pairs.find(|pair| matches!(&pair[0], Value::BulkString(word) if word == name.as_bytes()));
    pair.map(|pair| &pair[1])
}
