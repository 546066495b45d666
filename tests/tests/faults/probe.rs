//! Items that are written on each side when a fault is over, to see that the link goes on and how soon.

use crate::ledger::{Entry, Outcome};
use crate::speaker::{connect_postgres, connect_redis, standing};
use crate::workload::{Operation, Side, Stage, Step, content};
use ::redis::Connection;
use postgres::Client;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tandem_tests::redis::send;
use tandem_tests::wait::{self, DEADLINE};

/// A link that needs longer than this after a fault is counted.
pub const SLOW: Duration = Duration::from_secs(10);

/// The client that the ledger names for probes.
const CLIENT: u64 = 99;

/// What a probe found.
struct Probe<'a> {
    stage: &'a Stage,
    number: u64,
    /// Faults that had begun when this probe did.
    faults: u64,
    /// Redis has it only when it is read there.
    is_cache: bool,
    redis: Option<Connection>,
    postgres: Option<Client>,
}

/// Writes an item on each side and waits until both have both. Unless it `must` come to that, it ends when another
/// fault begins. Returns what was written.
pub fn probe(stage: &Stage, number: u64, is_cache: bool, must: bool) -> Vec<Entry> {
    let start = Instant::now();
    let faults = stage.faults.load(Ordering::SeqCst);
    let mut probe = Probe { stage, number, faults, is_cache, redis: None, postgres: None };
    let (mut in_redis, mut in_postgres) = (None, None);
    let mut has_arrived = false;
    wait::until_or(
        DEADLINE,
        || {
            in_redis = in_redis.take().or_else(|| probe.put_in_redis());
            in_postgres = in_postgres.take().or_else(|| probe.put_in_postgres());
            has_arrived = in_redis.is_some() && in_postgres.is_some() && probe.has_arrived();
            has_arrived || (!must && probe.is_over())
        },
        || format!("probe {number} of each side reaches the other after a fault"),
    );
    let time = start.elapsed();
    if has_arrived || time > SLOW {
        let time_ms = time.as_millis() as u64;
        stage.slowest_ms.fetch_max(time_ms, Ordering::SeqCst);
        stage.slow.fetch_add(u64::from(time > SLOW), Ordering::SeqCst);
    }
    in_redis.into_iter().chain(in_postgres).collect()
}

impl Probe<'_> {
    fn is_over(&self) -> bool {
        self.stage.faults.load(Ordering::SeqCst) != self.faults
    }

    fn id(&self, side: Side) -> String {
        format!("probe.{}.{side:?}", self.number)
    }

    fn entry(&self, side: Side, (version, etag): (u64, Option<String>)) -> Entry {
        let id = self.id(side);
        let step = Step { number: self.number, id: id.clone(), operation: Operation::Put };
        let outcome = Outcome::Acknowledged { version, etag };
        let crashes = self.stage.crashes.load(Ordering::SeqCst);
        Entry { id, client: CLIENT, step, side, outcome, crashes }
    }

    fn redis(&mut self) -> &mut Connection {
        let port = &self.stage.redis_port;
        self.redis.get_or_insert_with(|| connect_redis(port, ""))
    }

    fn postgres(&mut self) -> &mut Client {
        let port = self.stage.postgres_port;
        self.postgres.get_or_insert_with(|| connect_postgres(port, ""))
    }

    fn put_in_redis(&mut self) -> Option<Entry> {
        let content = content(CLIENT, self.number, self.stage.filler);
        let id = self.id(Side::Redis);
        match send(self.redis(), &["TANDEM.PUT", &id, &content]) {
            Ok(answer) => standing(&answer).map(|standing| self.entry(Side::Redis, standing)),
            Err(_) => {
                self.redis = None;
                None
            }
        }
    }

    fn put_in_postgres(&mut self) -> Option<Entry> {
        let content = content(CLIENT, self.number, self.stage.filler);
        let id = self.id(Side::Postgres);
        let put = format!("SELECT version, etag FROM tandem.put('{id}', '{content}'::text)");
        match self.postgres().query_one(&put, &[]) {
            Ok(row) => {
                let version = row.get::<_, i64>(0) as u64;
                Some(self.entry(Side::Postgres, (version, row.get(1))))
            }
            Err(_) => {
                self.postgres = None;
                None
            }
        }
    }

    /// Whether each side has what was written on the other.
    fn has_arrived(&mut self) -> bool {
        let (from_redis, from_postgres) = (self.id(Side::Redis), self.id(Side::Postgres));
        let query = format!("SELECT FROM tandem.items WHERE id = '{from_redis}'");
        let in_postgres = self.postgres().query(&query, &[]).map(|rows| !rows.is_empty());
        let words =
            if self.is_cache { ["TANDEM.EXISTS", &from_postgres] } else { ["EXISTS", &from_postgres] };
        let in_redis = send(self.redis(), &words).map(|count| count == ::redis::Value::Int(1));
        if in_postgres.is_err() || in_redis.is_err() {
            (self.redis, self.postgres) = (None, None);
        }
        in_postgres.unwrap_or(false) && in_redis.unwrap_or(false)
    }
}
