//! A worker that dies between any two things that it does loses nothing and leaves no wrong state. The build of the
//! extension that is loaded here has places where a worker dies on request; the server knows their names.

use ::redis::Connection;
use postgres::Client;
use std::collections::BTreeMap;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::install::Build;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_number};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Deaths at each place.
const DEATHS: usize = 2;

/// What was written and acknowledged: the version of each id, none if it was removed last.
type Ledger = BTreeMap<String, Option<i64>>;

struct Round {
    pair: Pair,
    ledger: Ledger,
    /// Number of the round, part of its ids.
    number: usize,
    steps: usize,
}

impl Round {
    fn put_in_redis(&mut self, redis: &mut Connection, id: &str) {
        let answer = ask(redis, &["TANDEM.PUT", id, &format!("{{\"step\":{}}}", self.steps)]);
        let ::redis::Value::Array(words) = answer else { panic!("a put answers with a record") };
        let ::redis::Value::Int(version) = words[1] else { panic!("a version is a number") };
        self.wrote(id, version);
    }

    /// False if Postgres is down.
    fn put_in_postgres(&mut self, client: &mut Client, id: &str) -> bool {
        let query = format!("SELECT version FROM tandem.put('{id}', '{{\"step\":{}}}'::jsonb)", self.steps);
        let Ok(row) = client.query_one(&query, &[]) else { return false };
        self.wrote(id, row.get(0));
        true
    }

    fn wrote(&mut self, id: &str, version: i64) {
        let before = self.ledger.insert(id.to_owned(), Some(version)).flatten();
        assert!(before.is_none_or(|before| before < version), "{id}: {before:?}, then {version}");
    }

    /// What the link finds when it is resumed: work of every kind, and a comparison that is due.
    fn prepare(&mut self, point: &str) {
        let number = self.number;
        let (mut client, mut redis) = (self.pair.sql(), self.pair.commands());
        // A letter that is to be pushed again.
        ask(&mut redis, &["SET", &format!("early.{number}"), "a string"]);
        run(&mut client, &format!("SELECT tandem.put('early.{number}', '1')"));
        wait::until("a letter is set aside", DEADLINE, || {
            value(&mut client, "SELECT count(*) = 1 FROM tandem.dead_letters")
        });
        ask(&mut redis, &["DEL", &format!("early.{number}")]);
        self.pair.pause();
        for at in 0..20 {
            self.put_in_redis(&mut redis, &format!("redis.{number}.{at}"));
            assert!(self.put_in_postgres(&mut client, &format!("postgres.{number}.{at}")));
        }
        for id in ["redis", "postgres"].map(|side| format!("{side}.{}.0", number.wrapping_sub(1))) {
            if number > 0 {
                ask(&mut redis, &["TANDEM.REMOVE", &id]);
                self.ledger.insert(id, None);
            }
        }
        // One version on each side; one of them is recorded as the loser.
        ask(&mut redis, &["TANDEM.PUT", &format!("both.{number}"), "\"redis\""]);
        run(&mut client, &format!("SELECT tandem.put('both.{number}', '\"postgres\"')"));
        // A copy that has no place.
        ask(&mut redis, &["SET", &format!("taken.{number}"), "a string"]);
        run(&mut client, &format!("SELECT tandem.put('taken.{number}', '1')"));
        run(&mut client, "SELECT tandem.retry_dead_letters(); UPDATE tandem.links SET needs_check = true");
        if point.starts_with("Forgetting") {
            run(&mut client, "ALTER SYSTEM SET tandem.tombstone_retention = '1s'");
        }
        run(&mut client, &format!("ALTER SYSTEM SET tandem.fault_point = '{point}'"));
        wait::until("the link is resumed, though a worker may be dying", DEADLINE, || {
            let client = self.pair.postgres.try_connect("postgres", "postgres");
            let statements = "SELECT pg_reload_conf(), tandem.resume_link('redis')";
            client.is_ok_and(|mut client| client.batch_execute(statements).is_ok())
        });
    }

    /// Writes to both sides until workers have died at the point often enough.
    fn die(&mut self, point: &str) {
        let log = self.pair.postgres.directory().join("postgres.log");
        let told = format!("tandem fault point {point}\n");
        let mut redis = self.pair.commands();
        let mut client: Option<Client> = None;
        wait::until(&format!("workers die at {point}"), DEADLINE, || {
            self.steps += 1;
            let (number, step) = (self.number, self.steps);
            self.put_in_redis(&mut redis, &format!("redis.{number}.step.{step}"));
            self.put_in_redis(&mut redis, &format!("redis.hot.{}", step % 3));
            client = client.take().or_else(|| self.pair.postgres.try_connect("postgres", "postgres").ok());
            if let Some(open) = &mut client {
                let alive = self.put_in_postgres(open, &format!("postgres.{number}.step.{step}"))
                    && self.put_in_postgres(open, &format!("postgres.hot.{}", step % 3));
                client = client.take().filter(|_| alive);
            }
            let text = std::fs::read(&log).expect("the server's log");
            String::from_utf8_lossy(&text).matches(&told).count() >= DEATHS
        });
    }

    /// Lets the workers live, and holds what is there against what was acknowledged.
    fn judge(&mut self, point: &str) {
        wait::until(
            &format!("a letter is left after deaths at {point}, and nothing waits"),
            DEADLINE,
            // A worker that has not heard of it may die even now, and take every session along.
            || self.is_idle().unwrap_or(false),
        );
        ask(&mut self.pair.commands(), &["DEL", &format!("taken.{}", self.number)]);
        run(&mut self.pair.sql(), "SELECT tandem.retry_dead_letters()");
        self.pair.settle(&format!("no letter is left after deaths at {point}"), |client, _| {
            value(client, "SELECT count(*) = 0 FROM tandem.dead_letters")
        });
        let (mut client, mut redis) = (self.pair.sql(), self.pair.commands());
        let census = check_postgres(&mut client, point);
        assert_eq!(census, check_redis(&mut redis, point), "{point}");
        for (id, acknowledged) in &self.ledger {
            let query = format!("SELECT version FROM tandem.item_status('{id}') WHERE etag IS NOT NULL");
            let now: Option<i64> = client.query_opt(&query, &[]).expect("a query").map(|row| row.get(0));
            assert!(
                now >= *acknowledged && now.is_some() == acknowledged.is_some(),
                "{point}: {id} was {acknowledged:?}, is {now:?}"
            );
        }
        let conflicts: Vec<String> = rows(&mut client, "SELECT id FROM tandem.conflicts ORDER BY seq")
            .iter()
            .map(|row| row.get(0))
            .collect();
        let expected: Vec<String> = (0..=self.number).map(|number| format!("both.{number}")).collect();
        assert_eq!(conflicts, expected, "{point}: each write that lost is recorded once");
        let undead: i64 =
            value(&mut client, "SELECT count(*) FROM tandem.items JOIN tandem.tombstones USING (id)");
        assert_eq!(undead, 0, "{point}: what lives has no tombstone");
    }

    fn is_idle(&self) -> Option<bool> {
        let mut client = self.pair.postgres.try_connect("postgres", "postgres").ok()?;
        client.batch_execute("ALTER SYSTEM RESET ALL").ok()?;
        client.batch_execute("SELECT pg_reload_conf()").ok()?;
        // What the link says of itself may be from before the last death; workers that live for several rounds count.
        let query = "SELECT l.state = 'streaming' AND l.waiting = 0 AND \
            (SELECT array_agg(id) FROM tandem.dead_letters) = ARRAY[$1] AND 3 = (SELECT count(*) FROM pg_stat_activity \
                WHERE backend_type LIKE 'tandem %' AND backend_start < clock_timestamp() - interval '0.3 s') \
            FROM tandem.links() l";
        let row = client.query_one(query, &[&format!("taken.{}", self.number)]).ok()?;
        let waiting = ask_number(&mut self.pair.commands(), &["TANDEM.LINK", "PENDING"]);
        Some(waiting == 0 && row.get::<_, Option<bool>>(0) == Some(true))
    }
}

#[test]
fn a_worker_that_dies_at_any_point_loses_nothing() {
    let options = pg::Options { fsync: true, build: Build::FaultPoints, ..pg::Options::default() };
    let pair = Pair::with(&options, Options::durable());
    let names = "SELECT unnest(enumvals) FROM pg_settings WHERE name = 'tandem.fault_point'";
    let points: Vec<String> = rows(&mut pair.sql(), names).iter().map(|row| row.get(0)).collect();
    assert!(points.len() > 10, "{points:?}");
    let mut round = Round { pair, ledger: Ledger::new(), number: 0, steps: 0 };
    for point in points.iter().filter(|point| *point != "Nowhere") {
        round.prepare(point);
        round.die(point);
        round.judge(point);
        round.number += 1;
    }
}
