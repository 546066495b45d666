//! How a client tells a server of a step, and what the answer says.

use crate::bombs::{Bomb, Charge};
use crate::company::{LIMITED, is_limited};
use crate::intruder;
use crate::workload::{Dice, Operation, Side, Stage, Step, content, removes};
use ::redis::{Connection, RedisError, Value};
use postgres::{Client, NoTls};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tandem_tests::redis::send;
use tandem_tests::wait::DEADLINE;

/// Why a step has no answer.
pub enum Missed {
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
pub type Answered = Vec<(String, u64, Option<String>)>;

/// A client and its connections.
pub struct Speaker<'a> {
    stage: &'a Stage,
    side: Side,
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

/// Connects to Postgres, as soon as it is up, with a setting for the session.
pub fn connect_postgres(port: u16, setting: &str) -> Client {
    connected("Postgres", || {
        postgres::Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .dbname("postgres")
            .options(setting)
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
            .ok()
    })
}

/// Connects to the Redis at a port, which may change, as soon as it is up; `user` is `name:password@`.
pub fn connect_redis(port: &AtomicU16, user: &str) -> Connection {
    connected("Redis", || {
        let port = port.load(Ordering::SeqCst);
        let client = ::redis::Client::open(format!("redis://{user}127.0.0.1:{port}")).ok()?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5)).ok()?;
        // While it loads its data it refuses everything; that is no answer to a step.
        send(&mut connection, &["PING"]).ok()?;
        Some(connection)
    })
}

impl<'a> Speaker<'a> {
    /// A client that is not connected yet.
    pub fn new(stage: &'a Stage, side: Side, client: u64) -> Speaker<'a> {
        Speaker { stage, side, client, redis: None, postgres: None }
    }

    /// Does a step. The answer says what became of which ids.
    pub fn tell(&mut self, step: &Step) -> Result<Answered, Missed> {
        match self.side {
            Side::Postgres => self.tell_postgres(step),
            Side::Redis => self.tell_redis(step),
        }
    }

    /// Leaves connections whose state is not known any more.
    pub fn hang_up(&mut self) {
        (self.redis, self.postgres) = (None, None);
    }

    /// Whether Redis says that Postgres has committed what this connection has written.
    pub fn confirms(&mut self) -> bool {
        match send(self.redis(), &["TANDEM.WAIT", "200"]) {
            Ok(Value::Int(links)) => links > 0,
            Ok(_) => false,
            Err(error) => {
                if error.code().is_none() {
                    self.hang_up();
                }
                false
            }
        }
    }

    fn redis(&mut self) -> &mut Connection {
        let stage = self.stage;
        let is_limited = is_limited(stage.company, self.client);
        let user = if is_limited { format!("{LIMITED}:secret@") } else { String::new() };
        self.redis.get_or_insert_with(|| connect_redis(&stage.redis_port, &user))
    }

    fn postgres(&mut self) -> &mut Client {
        let stage = self.stage;
        let setting = if stage.is_lazy { "-c synchronous_commit=off" } else { "" };
        self.postgres.get_or_insert_with(|| connect_postgres(stage.postgres_port, setting))
    }

    fn content(&self, step: &Step) -> String {
        content(self.client, step.number, self.stage.filler)
    }

    fn patch(&self, step: &Step) -> String {
        format!(r#"{{"merged {}":{}}}"#, self.client, step.number)
    }

    /// The operations of a batch: every third id is removed.
    fn batch(&self, step: &Step, ids: &[String]) -> String {
        let operation = |(place, id): (usize, &String)| match removes(step.number, place) {
            true => format!(r#"{{"op":"delete","id":"{id}"}}"#),
            false => format!(r#"{{"op":"put","id":"{id}","payload":{}}}"#, self.content(step)),
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
            Operation::Brief(ms) => {
                self.put_in_redis(id, &["TANDEM.PUT", id, &content, "PX", &ms.to_string()])?
            }
            Operation::Expire(ms) => {
                send(self.redis(), &["PEXPIRE", id, &ms.to_string()])?;
                Vec::new()
            }
            Operation::Bomb(bomb) => self.bomb_in_redis(id, *bomb)?,
            Operation::Intrude(which) => self.intrude(*which, step),
        };
        if replicated && !answered.is_empty() {
            match send(self.redis(), &["WAIT", "1", "3000"])? {
                Value::Int(replicas) if replicas > 0 => {}
                _ => return Err(Missed::Lost),
            }
        }
        Ok(answered)
    }

    fn bomb_in_redis(&mut self, id: &str, bomb: Bomb) -> Result<Answered, Missed> {
        let content = bomb.content();
        let operation = match (bomb.charge(), bomb.way) {
            (Charge::Content(_), 1) => format!(r#"[{{"op":"put","id":"{id}","payload":{content}}}]"#),
            (Charge::Audit(audit), 1) => {
                format!(r#"[{{"op":"put","id":"{id}","payload":{content},"audit":{audit}}}]"#)
            }
            (Charge::Version(version), 1) => {
                format!(r#"[{{"op":"put","id":"{id}","payload":{content},"version":{version}}}]"#)
            }
            _ => String::new(),
        };
        if !operation.is_empty() {
            return self.in_redis_transaction(&["TANDEM.BATCH", &operation], &[id.to_owned()]);
        }
        let mut words: Vec<String> = match bomb.way {
            2 => vec!["TANDEM.MERGE".to_owned(), id.to_owned(), content],
            _ => vec!["TANDEM.PUT".to_owned(), id.to_owned(), content, "JSON".to_owned()],
        };
        match bomb.charge() {
            Charge::Content(_) => {}
            Charge::Audit(audit) => words.extend(["AUDIT".to_owned(), audit]),
            Charge::Version(version) => words.extend(["VERSION".to_owned(), version.to_string()]),
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = send(self.redis(), &words);
        if bomb.is_comparable() {
            let is_of_bomb = |code| ["INVALID", "BADJSON", "TOOLARGE"].contains(&code);
            match &answer {
                Ok(_) => self.note_verdict(bomb, None),
                Err(error) if error.code().is_some_and(is_of_bomb) => {
                    self.note_verdict(bomb, Some(error.to_string()));
                }
                Err(_) => {}
            }
        }
        Ok(written_in_redis(id, &answer?))
    }

    fn note_verdict(&self, bomb: Bomb, refusal: Option<String>) {
        let mut verdicts = self.stage.verdicts.lock().expect("nobody panics with it");
        let of_bomb = verdicts.entry(format!("bomb {}", bomb.which)).or_default();
        let is_taken = refusal.is_none();
        of_bomb.entry((self.side, is_taken)).or_insert_with(|| refusal.unwrap_or_default());
    }

    fn intrude(&mut self, which: u64, step: &Step) -> Answered {
        let mut dice = Dice::new(step.number, which);
        let attempt = intruder::attempt(which, &step.id, &mut dice);
        let answer = send(self.redis(), &attempt.words);
        if let Some(problem) = attempt.problem(&answer) {
            self.stage.complain(problem);
        }
        if answer.is_err_and(|error| error.code().is_none()) {
            self.hang_up();
        }
        Vec::new()
    }

    /// A command that answers with version and etag.
    fn put_in_redis(&mut self, id: &str, words: &[&str]) -> Result<Answered, Missed> {
        Ok(written_in_redis(id, &send(self.redis(), words)?))
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
        if let Some(Value::ServerError(_)) = answers.first() {
            return Err(Missed::Refused);
        }
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
            Operation::Put | Operation::Brief(_) => {
                self.put_in_postgres(id, &format!("put('{id}', '{content}'::text)"))
            }
            Operation::Expire(_) | Operation::Intrude(_) => Ok(Vec::new()),
            Operation::Bomb(bomb) => self.bomb_in_postgres(id, *bomb),
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

    fn bomb_in_postgres(&mut self, id: &str, bomb: Bomb) -> Result<Answered, Missed> {
        let content = bomb.content();
        let charge = bomb.charge();
        if bomb.way == 1 {
            let (audit, version) = match &charge {
                Charge::Audit(audit) => (format!("'{audit}'"), "1".to_owned()),
                Charge::Version(version) => ("NULL".to_owned(), version.to_string()),
                Charge::Content(_) => ("NULL".to_owned(), "1".to_owned()),
            };
            let statement = format!(
                "INSERT INTO tandem.items (id, payload, audit, version) \
                 VALUES ('{id}', '{content}', {audit}, {version}) ON CONFLICT (id) DO UPDATE \
                 SET payload = excluded.payload, audit = excluded.audit, version = excluded.version RETURNING id"
            );
            return self.in_transaction(&statement, &[id.to_owned()]);
        }
        let option = match charge {
            Charge::Content(_) => String::new(),
            Charge::Audit(audit) => format!(", audit => '{audit}'"),
            Charge::Version(version) => format!(", version => {version}"),
        };
        let function = if bomb.way == 2 { "merge" } else { "put" };
        // With its type, or what is no JSON is taken for a text of bytes.
        let kind = if bomb.way == 2 { "" } else { ", type => 'json'" };
        let call = format!("{function}('{id}', '{content}'::text{kind}{option})");
        let query = format!("SELECT version, etag FROM tandem.{call} WHERE changed");
        let answer = self.postgres().query(&query, &[]);
        if bomb.is_comparable() {
            match &answer {
                Ok(_) => self.note_verdict(bomb, None),
                Err(error) => {
                    let text = tandem_tests::sql::error_text(error);
                    let passes = |state: &str| ["40", "53", "55", "57", "58"].contains(&&state[..2]);
                    if error.code().is_some_and(|state| !passes(state.code())) {
                        self.note_verdict(bomb, Some(text));
                    }
                }
            }
        }
        Ok(written_in_postgres(id, &answer?))
    }

    fn put_in_postgres(&mut self, id: &str, call: &str) -> Result<Answered, Missed> {
        let query = format!("SELECT version, etag FROM tandem.{call} WHERE changed");
        Ok(written_in_postgres(id, &self.postgres().query(&query, &[])?))
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

/// What a call that answers with version and etag has written.
fn written_in_postgres(id: &str, rows: &[postgres::Row]) -> Answered {
    rows.iter().map(|row| (id.to_owned(), row.get::<_, i64>(0) as u64, row.get(1))).collect()
}

/// What a command that answers with version and etag has written.
fn written_in_redis(id: &str, answer: &Value) -> Answered {
    let changed = field(answer, "changed") == Some(&Value::Int(1));
    let standing = standing(answer).filter(|_| changed);
    standing.map(|(version, etag)| (id.to_owned(), version, etag)).into_iter().collect()
}

/// Version and etag of a record.
pub fn standing(record: &Value) -> Option<(u64, Option<String>)> {
    let Some(Value::Int(version)) = field(record, "version") else { return None };
    let etag = match field(record, "etag") {
        Some(Value::BulkString(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Some((u64::try_from(*version).expect("a version is positive"), etag))
}

/// A field of a record, which protocol 2 shows as names and values that alternate.
pub fn field<'a>(record: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(words) = record else { return None };
    let mut pairs = words.chunks_exact(2);
    let pair = pairs.find(|pair| matches!(&pair[0], Value::BulkString(word) if word == name.as_bytes()));
    pair.map(|pair| &pair[1])
}
