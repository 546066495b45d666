//! How long after it was due a write is seen on the other side, at a steady rate.
//!
//! The writers keep to a timetable and do not wait for the other side: a write that could not be sent in time counts
//! from when it was due.

use crate::table::{begin, median, percentile, row, thousands, with_range};
use crate::{Size, payload};
use postgres::Client;
use redis::Connection;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use tandem_tests::pair::{Pair, count_of_postgres};
use tandem_tests::postgres as pg;
use tandem_tests::redis::Options;
use tandem_tests::sql::{error_text, rows, run};

/// Writes per second, the first for a link that is idle between two writes.
const RATES: [usize; 2] = [100, 5000];
/// Connections that write to Postgres: one alone waits for the disk too often for the rate.
const SQL_WRITERS: usize = 4;
/// Writes sent together at most, when several are due.
const TOGETHER_MAX: usize = 100;
/// How often the observer of Postgres looks.
const LOOK: Duration = Duration::from_millis(1);
/// Nothing was lost if all has arrived by then.
const LONG: Duration = Duration::from_secs(120);

const INSERT: &str = "INSERT INTO tandem.items (id, payload) \
    SELECT id, payload::jsonb FROM unnest($1::text[], $2::text[]) AS i (id, payload)";
const SEEN: &str =
    "SELECT c.id, c.xid, c.seq FROM tandem.changes c WHERE (c.xid, c.seq) > ($1, $2) ORDER BY c.xid, c.seq";

/// One run: so many new items, one after the other.
struct Timetable {
    prefix: String,
    rate: usize,
    count: usize,
    /// Of these the first, which are not counted.
    warm: usize,
    start: Instant,
}

/// When each write was acknowledged, and when it was seen, from the start of the run.
struct Seen {
    acknowledged: Vec<Duration>,
    arrived: Vec<Duration>,
    requests: usize,
}

/// What the rounds of one rate and direction came to, in milliseconds.
#[derive(Default)]
struct Lags {
    sent: Vec<f64>,
    together: Vec<f64>,
    acknowledged: [Vec<f64>; 2],
    arrived: [Vec<f64>; 3],
}

/// Measures both directions at each rate.
pub fn measure(size: Size) {
    let settings = Options::in_memory().with("notify-keyspace-events", "Ed");
    let pair = Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, settings);
    pair.settle_at(0);
    let rounds = size.rounds.min(3);
    let mut lags: Vec<Lags> = (0..RATES.len() * 2).map(|_| Lags::default()).collect();
    for round in 0..rounds {
        for (place, lags) in lags.iter_mut().enumerate() {
            let (rate, to_redis) = (RATES[place / 2], place % 2 == 1);
            let prefix = format!("lag.{place}.{round}.");
            let timetable = Timetable::of(prefix, rate, size.paced_seconds);
            let seen =
                if to_redis { from_postgres(&pair, &timetable) } else { from_redis(&pair, &timetable) };
            lags.add(&timetable, &seen);
        }
    }
    let items = count_of_postgres(&mut pair.sql());
    let sent: usize =
        RATES.iter().map(|rate| Timetable::of(String::new(), *rate, size.paced_seconds).count).sum();
    assert_eq!(items, i64::try_from(sent * 2 * rounds).expect("a small number"), "items that have arrived");
    pair.settle_at(items);
    let method = format!(
        "new items of 250 bytes of JSON at a steady rate, {} s each after 1 s that is not counted; all times from when the \
         write was due, in ms; Redis is written to by one connection, Postgres by {SQL_WRITERS} with commits on disk, \
         each sending what is due; Redis' observer is told of each key, Postgres' looks every ms; medians of {rounds} \
         rounds in turn, with their range",
        size.paced_seconds
    );
    let columns = [
        "direction",
        "sent/s",
        "writes a request",
        "acknowledged p50",
        "p99",
        "seen on the other side p50 (range)",
        "p99 (range)",
        "max (range)",
    ];
    begin("Lag of the link", &method, &columns);
    for (place, lags) in lags.iter().enumerate() {
        let direction = ["Redis to Postgres", "Postgres to Redis"][place % 2];
        let acknowledged = lags.acknowledged.each_ref().map(|times| format!("{:.1}", median(times)));
        let [half, late, last] = lags.arrived.each_ref().map(|times| with_range(times, 1));
        row(&[
            &direction,
            &thousands(median(&lags.sent)),
            &format!("{:.1}", median(&lags.together)),
            &acknowledged[0],
            &acknowledged[1],
            &half,
            &late,
            &last,
        ]);
    }
}

impl Timetable {
    fn of(prefix: String, rate: usize, seconds: usize) -> Timetable {
        // Observers and writers are ready when it begins.
        let start = Instant::now() + Duration::from_millis(100);
        Timetable { prefix, rate, count: rate * (seconds + 1), warm: rate, start }
    }

    fn due(&self, number: usize) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate as f64)
    }

    fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }

    fn id(&self, number: usize) -> String {
        format!("{}{number:08}", self.prefix)
    }

    /// The write whose id this is; none of another run.
    fn number(&self, id: &str) -> Option<usize> {
        id.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// Sends every number when it is due, those that are due already together; when each was acknowledged, and how
    /// many requests it took.
    fn keep(
        &self,
        numbers: impl Iterator<Item = usize>,
        mut send: impl FnMut(&[usize]),
    ) -> (Vec<(usize, Duration)>, usize) {
        let (mut numbers, mut done, mut requests) = (numbers.peekable(), Vec::new(), 0);
        while let Some(first) = numbers.peek() {
            let begin = self.start + self.due(*first);
            sleep(begin.saturating_duration_since(Instant::now()));
            let (now, mut part) = (self.elapsed(), Vec::new());
            while part.len() < TOGETHER_MAX {
                let Some(number) = numbers.next_if(|number| self.due(*number) <= now) else { break };
                part.push(number);
            }
            if part.is_empty() {
                continue;
            }
            send(&part);
            let now = self.elapsed();
            done.extend(part.into_iter().map(|number| (number, now)));
            requests += 1;
        }
        (done, requests)
    }

    /// Asks for ids until every one of the run was seen, and notes when.
    fn watch(&self, mut next: impl FnMut() -> Vec<String>) -> Vec<Duration> {
        let mut arrived: Vec<Option<Duration>> = vec![None; self.count];
        let mut missing = self.count;
        while missing > 0 {
            let ids = next();
            let now = self.elapsed();
            for number in ids.iter().filter_map(|id| self.number(id)) {
                if arrived[number].replace(now).is_none() {
                    missing -= 1;
                }
            }
            assert!(now < self.due(self.count) + LONG, "{missing} of {} writes have not arrived", self.count);
        }
        arrived.into_iter().flatten().collect()
    }
}

impl Lags {
    fn add(&mut self, timetable: &Timetable, seen: &Seen) {
        let late = |times: &[Duration]| -> Vec<f64> {
            let counted = times.iter().enumerate().skip(timetable.warm);
            let mut late: Vec<f64> = counted
                .map(|(number, at)| at.saturating_sub(timetable.due(number)).as_secs_f64() * 1000.0)
                .collect();
            late.sort_by(f64::total_cmp);
            late
        };
        let last = seen.acknowledged.iter().max().copied().unwrap_or_default();
        self.sent.push(timetable.count as f64 / last.as_secs_f64());
        self.together.push(timetable.count as f64 / seen.requests as f64);
        let acknowledged = late(&seen.acknowledged);
        for (figures, share) in self.acknowledged.iter_mut().zip([0.5, 0.99]) {
            figures.push(percentile(&acknowledged, share));
        }
        let arrived = late(&seen.arrived);
        for (figures, share) in self.arrived.iter_mut().zip([0.5, 0.99, 1.0]) {
            figures.push(percentile(&arrived, share));
        }
    }
}

/// One connection writes to Redis; the observer reads the log of Postgres.
fn from_redis(pair: &Pair, timetable: &Timetable) -> Seen {
    let (mut writer, mut reader) = (pair.commands(), pair.sql());
    run(&mut reader, "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan");
    let mut position =
        rows(&mut reader, "SELECT xid, seq FROM tandem.changes ORDER BY xid DESC, seq DESC LIMIT 1")
            .first()
            .map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
    let prepared = reader.prepare(SEEN).unwrap_or_else(|error| panic!("{SEEN}: {}", error_text(&error)));
    let watch = || {
        timetable.watch(|| {
            sleep(LOOK);
            let found = reader
                .query(&prepared, &[&position.0, &position.1])
                .unwrap_or_else(|error| panic!("{SEEN}: {}", error_text(&error)));
            if let Some(last) = found.last() {
                position = (last.get(1), last.get(2));
            }
            found.iter().map(|row| row.get(0)).collect()
        })
    };
    let write = || vec![timetable.keep(0..timetable.count, |part| put(&mut writer, timetable, part))];
    both(timetable, write, watch)
}

/// Some connections write to Postgres; the observer is told by Redis of every key that is put.
fn from_postgres(pair: &Pair, timetable: &Timetable) -> Seen {
    let mut writers: Vec<Client> = (0..SQL_WRITERS).map(|_| pair.sql()).collect();
    let mut reader = pair.commands();
    reader.set_read_timeout(Some(LONG)).expect("a time that a socket takes");
    let mut told = reader.as_pubsub();
    told.subscribe("__keyevent@0__:tandem.put").unwrap_or_else(|error| panic!("subscribing: {error}"));
    let watch = || {
        timetable.watch(|| {
            let message = told.get_message().unwrap_or_else(|error| panic!("hearing of keys: {error}"));
            vec![message.get_payload().unwrap_or_else(|error| panic!("the name of a key: {error}"))]
        })
    };
    let write = || {
        scope(|scope| {
            let threads: Vec<_> = writers
                .iter_mut()
                .enumerate()
                .map(|(place, client)| {
                    let numbers = (place..timetable.count).step_by(SQL_WRITERS);
                    scope.spawn(move || insert(client, timetable, numbers))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer ends")).collect()
        })
    };
    both(timetable, write, watch)
}

/// Writes and watches at the same time.
fn both(
    timetable: &Timetable,
    write: impl FnOnce() -> Vec<(Vec<(usize, Duration)>, usize)>,
    watch: impl FnOnce() -> Vec<Duration> + Send,
) -> Seen {
    scope(|scope| {
        let watching = scope.spawn(watch);
        let mut seen =
            Seen { acknowledged: vec![Duration::ZERO; timetable.count], arrived: Vec::new(), requests: 0 };
        for (done, requests) in write() {
            done.into_iter().for_each(|(number, at)| seen.acknowledged[number] = at);
            seen.requests += requests;
        }
        seen.arrived = watching.join().expect("the observer ends");
        seen
    })
}

fn put(connection: &mut Connection, timetable: &Timetable, part: &[usize]) {
    let mut pipeline = redis::pipe();
    for number in part {
        let content = payload(&number.to_string());
        pipeline.cmd("TANDEM.PUT").arg(timetable.id(*number)).arg(content).ignore();
    }
    pipeline.query::<()>(connection).unwrap_or_else(|error| panic!("writing to Redis: {error}"));
}

fn insert(
    client: &mut Client,
    timetable: &Timetable,
    numbers: impl Iterator<Item = usize>,
) -> (Vec<(usize, Duration)>, usize) {
    let prepared = client.prepare(INSERT).unwrap_or_else(|error| panic!("{INSERT}: {}", error_text(&error)));
    timetable.keep(numbers, |part| {
        let ids: Vec<String> = part.iter().map(|number| timetable.id(*number)).collect();
        let payloads: Vec<String> = part.iter().map(|number| payload(&number.to_string())).collect();
        client
            .execute(&prepared, &[&ids, &payloads])
            .unwrap_or_else(|error| panic!("{INSERT}: {}", error_text(&error)));
    })
}
