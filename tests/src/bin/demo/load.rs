//! Loading: pipelines into Redis, batches into Postgres, and a load that is cut off.

use crate::show::Stage;
use postgres::Client;
use redis::{Connection, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tandem_tests::data::Item;
use tandem_tests::pair::Pair;
use tandem_tests::redis::ask_number;
use tandem_tests::wait::{self, DEADLINE};

const BATCH: usize = 250;
const REPORT_EVERY: usize = 2_500;

/// Puts items by TANDEM.PUT in pipelines.
pub fn through_redis(stage: &Stage, connection: &mut Connection, items: &[Item]) {
    let start = Instant::now();
    let mut done = 0;
    for batch in items.chunks(BATCH) {
        put_pipelined(connection, batch, |_| done += 1);
        assert!(done % BATCH == 0 || done == items.len(), "Redis answered {done} of {}", items.len());
        report(stage, "Redis", done, items.len());
    }
    said(stage, "TANDEM.PUT", items.len(), start);
}

/// Puts items by tandem.put_many in batches.
pub fn through_sql(stage: &Stage, client: &mut Client, items: &[Item]) {
    let start = Instant::now();
    let mut done = 0;
    for batch in items.chunks(BATCH) {
        let ids: Vec<&str> = batch.iter().map(|item| item.id.as_str()).collect();
        let payloads: Vec<&str> = batch.iter().map(|item| item.payload.as_str()).collect();
        let query = "SELECT count(*) FROM unnest($1::text[], $2::text[]) AS i (id, payload), \
                     tandem.put(i.id, i.payload)";
        client.query(query, &[&ids, &payloads]).unwrap_or_else(|error| {
            panic!("{query}: {}", tandem_tests::sql::error_text(&error));
        });
        done += batch.len();
        report(stage, "Postgres", done, items.len());
    }
    said(stage, "tandem.put", items.len(), start);
}

/// Puts items into Redis and kills it when a third of them is acknowledged. The ids that were acknowledged, a
/// prefix of the items.
pub fn until_killed(stage: &Stage, pair: &mut Pair, items: &[Item]) -> Vec<String> {
    let acknowledged = AtomicUsize::new(0);
    let mut connection = pair.commands();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for batch in items.chunks(BATCH) {
                let whole = put_pipelined(&mut connection, batch, |_| {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                });
                if !whole {
                    return;
                }
            }
        });
        wait::until("a third of the second load is acknowledged", DEADLINE, || {
            acknowledged.load(Ordering::SeqCst) >= items.len() / 3 || writer.is_finished()
        });
        stage.say(&format!("{} acknowledged, kill -9", acknowledged.load(Ordering::SeqCst)));
        pair.redis.kill_hard();
    });
    let count = acknowledged.load(Ordering::SeqCst);
    assert!(count < items.len(), "the load was over before Redis was killed");
    items[..count].iter().map(|item| item.id.clone()).collect()
}

/// How many of these ids are in Redis and in Postgres.
pub fn present(pair: &Pair, ids: &[String]) -> (usize, usize) {
    let mut connection = pair.commands();
    let in_redis: i64 = ids
        .chunks(BATCH)
        .map(|batch| {
            let mut words = vec!["TANDEM.EXISTS"];
            words.extend(batch.iter().map(String::as_str));
            ask_number(&mut connection, &words)
        })
        .sum();
    let query = "SELECT count(*) FROM tandem.items WHERE id = ANY($1)";
    let in_postgres: i64 = pair.sql().query_one(query, &[&ids]).expect("items can be counted").get(0);
    (usize::try_from(in_redis).unwrap_or_default(), usize::try_from(in_postgres).unwrap_or_default())
}

/// Sends a batch and calls `acknowledged` for each reply as it comes in. False if the server went away before
/// the last; a refusal panics.
fn put_pipelined(connection: &mut Connection, batch: &[Item], mut acknowledged: impl FnMut(&Item)) -> bool {
    let mut pipeline = redis::pipe();
    for item in batch {
        pipeline.cmd("TANDEM.PUT").arg(&item.id).arg(&item.payload);
    }
    if connection.send_packed_command(&pipeline.get_packed_pipeline()).is_err() {
        return false;
    }
    for item in batch {
        match connection.recv_response() {
            Ok(Value::ServerError(error)) => panic!("TANDEM.PUT {}: {error:?}", item.id),
            Ok(_) => acknowledged(item),
            Err(error) if error.is_io_error() || error.is_connection_dropped() => return false,
            Err(error) => panic!("TANDEM.PUT {}: {error}", item.id),
        }
    }
    true
}

fn report(stage: &Stage, side: &str, done: usize, all: usize) {
    if done.is_multiple_of(REPORT_EVERY) && done < all {
        stage.say(&format!("{side}: {done} of {all}"));
    }
}

fn said(stage: &Stage, how: &str, count: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    stage.say(&format!("{count} items by {how} in {seconds:.2} s"));
}
