//! How fast the link carries items, each way.

use crate::table::{begin, row, thousands};
use crate::{Size, payload};
use std::time::{Duration, Instant};
use tandem_tests::pair::{Pair, count_of_postgres, count_of_redis};
use tandem_tests::postgres as pg;
use tandem_tests::redis::Options;
use tandem_tests::sql::run;
use tandem_tests::wait;

const LONG: Duration = Duration::from_secs(1200);

/// Lets items pile up on one side with the link paused, and measures from its resumption until all have arrived.
pub fn measure(size: Size) {
    let pair = Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, Options::in_memory());
    pair.settle_at(0);
    let method = "250 bytes of JSON an item, all new, written while the link was paused; from its resumption to the \
                  arrival of the last, with Postgres' commits on disk";
    begin("Link", method, &["direction", "items", "s", "items/s"]);
    let each = i64::try_from(size.linked).expect("a small number");

    pair.pause();
    let mut redis = pair.commands();
    for batch in (0..size.linked).collect::<Vec<_>>().chunks(1000) {
        let mut pipeline = redis::pipe();
        for number in batch {
            let id = format!("redis.{number:08}");
            pipeline.cmd("TANDEM.PUT").arg(id).arg(payload(&number.to_string())).ignore();
        }
        pipeline.query::<()>(&mut redis).unwrap_or_else(|error| panic!("filling Redis: {error}"));
    }
    let mut client = pair.sql();
    let seconds = timed(&pair, || count_of_postgres(&mut client) >= each);
    row(&[&"Redis to Postgres", &each, &format!("{seconds:.1}"), &thousands(each as f64 / seconds)]);

    pair.pause();
    let content = payload("x");
    let statement = format!(
        "INSERT INTO tandem.items (id, payload) SELECT 'sql.' || to_char(n, 'FM00000000'), \
         jsonb_set('{content}', '{{id}}', to_jsonb(n::text)) FROM generate_series(1, {each}) n"
    );
    run(&mut client, &statement);
    let seconds = timed(&pair, || count_of_redis(&mut redis) >= 2 * each);
    row(&[&"Postgres to Redis", &each, &format!("{seconds:.1}"), &thousands(each as f64 / seconds)]);
    pair.settle_at(2 * each);
}

fn timed(pair: &Pair, arrived: impl FnMut() -> bool) -> f64 {
    let start = Instant::now();
    pair.resume();
    wait::until("everything has arrived", LONG, arrived);
    start.elapsed().as_secs_f64()
}
