//! What a read through Redis costs when Redis does not have the item, against Postgres itself and against the three
//! steps that people write by hand.

use crate::Size;
use crate::table::{begin, median, percentile, ratio, row, thousands};
use postgres::{Client, Statement};
use redis::Connection;
use std::sync::Barrier;
use std::thread::scope;
use std::time::{Duration, Instant};
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{Options as PgOptions, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_text};
use tandem_tests::sql::{error_text, run, value};
use tandem_tests::wait;

/// Connections that read at the same time.
const CLIENTS: [usize; 2] = [1, 16];
const LONG: Duration = Duration::from_secs(600);
const SELECT: &str = "SELECT payload::text FROM tandem.items WHERE id = $1";

/// One reader: a connection to either side.
struct Reader {
    redis: Connection,
    sql: Client,
    select: Statement,
}

/// A way to read an id; the content if there is any.
struct Way {
    name: &'static str,
    /// Before the number of an id.
    prefix: &'static str,
    read: fn(&mut Reader, &str) -> Option<String>,
}

/// In this order: what is fetched once is in Redis from then on.
const WAYS: [Way; 7] = [
    Way { name: "SELECT", prefix: "item.", read: Reader::select },
    Way { name: "TANDEM.GET, not in Redis", prefix: "item.", read: Reader::get_item },
    Way { name: "GET, SELECT, SET by hand", prefix: "item.", read: Reader::get_or_fill },
    Way { name: "TANDEM.GET, in Redis", prefix: "item.", read: Reader::get_item },
    Way { name: "GET, in Redis", prefix: "item.", read: Reader::get },
    Way { name: "TANDEM.GET, nowhere", prefix: "none.", read: Reader::get_item },
    Way { name: "GET and SELECT by hand, nowhere", prefix: "none.", read: Reader::get_or_fill },
];

/// Microseconds and reads per second, a figure a round.
#[derive(Default)]
struct Figures {
    half: Vec<f64>,
    late: Vec<f64>,
    rate: Vec<f64>,
}

/// Measures every way with one reader and with many.
pub fn measure(size: Size) {
    let each = CLIENTS.map(|clients| size.reads / if clients == 1 { 1 } else { 4 });
    let items = size.rounds * CLIENTS.iter().zip(each).map(|(clients, each)| clients * each).sum::<usize>();
    let pair = cached(items);
    let mut readers: Vec<Reader> = (0..CLIENTS[1]).map(|_| Reader::of(&pair)).collect();
    let mut figures = CLIENTS.map(|_| WAYS.map(|_| Figures::default()));
    let mut first = 0;
    for _ in 0..size.rounds {
        for ((clients, each), figures) in CLIENTS.iter().zip(each).zip(&mut figures) {
            for (way, figures) in WAYS.iter().zip(figures) {
                figures.add(read(&mut readers[..*clients], way, first, each));
            }
            first += clients * each;
        }
    }
    let method = format!(
        "a link in mode cache; {} items of 250 bytes in Postgres, all in its memory; every id is read once in each way, its \
         content alone; {} rounds in turn of {} reads by one connection and of {} by each of {}; medians of the rounds, \
         times in µs",
        thousands(items as f64),
        size.rounds,
        each[0],
        each[1],
        CLIENTS[1]
    );
    let columns = ["connections", "read", "p50", "p99", "reads/s", "p50 to that of SELECT (range)"];
    begin("Read-through", &method, &columns);
    for (clients, figures) in CLIENTS.iter().zip(&figures) {
        for (way, each) in WAYS.iter().zip(figures) {
            row(&[
                clients,
                &way.name,
                &thousands(median(&each.half)),
                &thousands(median(&each.late)),
                &thousands(median(&each.rate)),
                &ratio(&each.half, &figures[0].half),
            ]);
        }
    }
    let mut redis = pair.commands();
    let [asked, found] = ["fetches_asked", "fetches_found"].map(|name| counter(&mut redis, name));
    println!(
        "\nOf {} reads by TANDEM.GET of ids that are nowhere the filter let {} through to Postgres.",
        thousands(items as f64),
        thousands(asked - found)
    );
}

/// Servers with so many items in Postgres and none in Redis, whose filter of ids is complete.
fn cached(items: usize) -> Pair {
    let redis = Redis::start(Options::in_memory());
    let settings = vec!["shared_buffers = '512MB'".to_owned()];
    let postgres = Postgres::with_extension(&PgOptions { fsync: false, settings, ..PgOptions::default() });
    let mut client = postgres.connect();
    let fill = format!(
        "INSERT INTO tandem.items (id, payload) SELECT 'item.' || n, jsonb_build_object('id', n, 'text', repeat('x', 200)) \
         FROM generate_series(0, {items} - 1) n"
    );
    run(&mut client, &fill);
    run(&mut client, "VACUUM ANALYZE tandem.items");
    let link = value(&mut client, &format!("SELECT tandem.link('{}', mode => 'cache')", redis.url()));
    let pair = Pair { postgres, redis, link };
    let mut connection = pair.commands();
    wait::until("the filter of ids is complete", LONG, || {
        format!("{:?}", ask(&mut connection, &["TANDEM.LINK", "LIST"])).contains("complete")
    });
    wait::until("the log is folded", LONG, || value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0);
    pair
}

/// Every reader reads as many ids, each its own; microseconds of each read, in order, and reads per second.
fn read(readers: &mut [Reader], way: &Way, first: usize, each: usize) -> (Vec<f64>, f64) {
    let is_there = way.prefix == "item.";
    let barrier = Barrier::new(readers.len());
    let one = |reader: &mut Reader, first: usize| -> (Vec<f64>, f64) {
        let ids: Vec<String> =
            (first..first + each).map(|number| format!("{}{number}", way.prefix)).collect();
        let mut times = Vec::with_capacity(each);
        barrier.wait();
        let begin = Instant::now();
        for id in &ids {
            let start = Instant::now();
            let content = (way.read)(reader, id);
            times.push(start.elapsed().as_secs_f64() * 1e6);
            assert_eq!(content.is_some(), is_there, "{}: {id}", way.name);
        }
        (times, each as f64 / begin.elapsed().as_secs_f64())
    };
    let one = &one;
    scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .enumerate()
            .map(|(place, reader)| scope.spawn(move || one(reader, first + place * each)))
            .collect();
        let (mut times, mut rate) = (Vec::new(), 0.0);
        for thread in threads {
            let (own, own_rate) = thread.join().expect("a reader ends");
            times.extend(own);
            rate += own_rate;
        }
        times.sort_by(f64::total_cmp);
        (times, rate)
    })
}

impl Figures {
    fn add(&mut self, (times, rate): (Vec<f64>, f64)) {
        self.half.push(percentile(&times, 0.5));
        self.late.push(percentile(&times, 0.99));
        self.rate.push(rate);
    }
}

impl Reader {
    fn of(pair: &Pair) -> Reader {
        let mut sql = pair.sql();
        let select = sql.prepare(SELECT).unwrap_or_else(|error| panic!("{SELECT}: {}", error_text(&error)));
        Reader { redis: pair.commands(), sql, select }
    }

    fn select(&mut self, id: &str) -> Option<String> {
        let row = self.sql.query_opt(&self.select, &[&id]);
        row.unwrap_or_else(|error| panic!("{SELECT}: {}", error_text(&error))).map(|row| row.get(0))
    }

    fn get_item(&mut self, id: &str) -> Option<String> {
        ask_text(&mut self.redis, &["TANDEM.GET", id, "PAYLOAD"])
    }

    fn get(&mut self, id: &str) -> Option<String> {
        ask_text(&mut self.redis, &["GET", &format!("bare:{id}")])
    }

    fn get_or_fill(&mut self, id: &str) -> Option<String> {
        if let Some(content) = self.get(id) {
            return Some(content);
        }
        let content = self.select(id)?;
        ask(&mut self.redis, &["SET", &format!("bare:{id}"), &content]);
        Some(content)
    }
}

/// A counter of INFO tandem.
fn counter(redis: &mut Connection, name: &str) -> f64 {
    let info = ask_text(redis, &["INFO", "tandem"]).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("tandem_{name}:")));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("INFO tandem has no {name}"))
}
