//! A process of tandem that waits for Redis still hears what Postgres has to say to it: it ends when it is to end, does
//! what all processes of a server must do together, and loses no reply by any signal.

use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use tandem_tests::guard;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{self, ask};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A worker waits longer for an answer of Redis than the tests wait for anything, and so what ends has not waited for it.
fn start() -> Pair {
    let settings = vec!["tandem.redis_timeout = '1h'".to_owned()];
    Pair::with(&pg::Options { settings, ..pg::Options::default() }, redis::Options::in_memory())
}

/// Redis answers nothing any more, and the worker waits for it.
fn hang(pair: &Pair) {
    pair.redis.signal(Signal::STOP);
    let mut client = pair.sql();
    // Something to push, whose reply does not come.
    run(&mut client, "SELECT tandem.put('unanswered', '1')");
    wait::until("the worker has sent something", DEADLINE, || {
        value::<bool>(
            &mut client,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type LIKE 'tandem link %' \
             AND wait_event = 'Extension'",
        )
    });
}

/// All of these wait until every process of the server has taken notice of something.
#[test]
fn a_redis_that_hangs_holds_up_no_command_of_the_server() {
    let mut pair = start();
    let mut client = pair.sql();
    run(&mut client, "CREATE DATABASE doomed");
    hang(&pair);
    run(&mut client, &format!("SET statement_timeout = '{}s'", DEADLINE.as_secs()));
    run(&mut client, "CREATE DATABASE another");
    run(&mut client, "DROP DATABASE doomed WITH (FORCE)");
    pair.postgres.stop();
}

/// The database that a link is in can be dropped, though its worker waits for Redis.
#[test]
fn a_redis_that_hangs_does_not_keep_the_database_of_its_link() {
    let pair = start();
    hang(&pair);
    let mut client = pair.postgres.connect_as("postgres", "template1");
    run(&mut client, &format!("SET statement_timeout = '{}s'", DEADLINE.as_secs()));
    // Where the manager of the database is started again in the middle of it, it begins anew.
    wait::until("the database is dropped", DEADLINE, || {
        client.batch_execute("DROP DATABASE postgres WITH (FORCE)").is_ok()
    });
}

/// A cancel ends a check whose other side does not answer.
#[test]
fn a_check_of_a_redis_that_hangs_can_be_cancelled() {
    let pair = start();
    hang(&pair);
    let mut client = pair.sql();
    let link = &pair.link;
    run(&mut client, "SET statement_timeout = '500ms'");
    let error = client.batch_execute(&format!("SELECT * FROM tandem.reconcile('{link}', dry_run => true)"));
    let error = error.expect_err("a check without an answer");
    assert_eq!(error.code().map(postgres::error::SqlState::code), Some("57014"), "{error:?}");
}

/// Signals come at any moment: a reload of the configuration, a barrier, a question of another process.
#[test]
fn no_signal_breaks_a_conversation() {
    let pair = start();
    let mut client = pair.sql();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 5000) n",
    );
    pair.settle_at(5000);
    let pids =
        "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tandem %' OR query LIKE '%reconcile%'";
    let ended = AtomicBool::new(false);
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = pair.sql();
            while !ended.load(Ordering::Relaxed) {
                for row in rows(&mut client, pids) {
                    let pid = u32::try_from(row.get::<_, i32>(0)).expect("the number of a process");
                    guard::send(pid, Signal::USR1);
                    guard::send(pid, Signal::HUP);
                }
            }
        });
        let mut redis = pair.commands();
        let check = format!(
            "SELECT concat_ws(': ', answer, reason) FROM tandem.reconcile('{}', dry_run => true)",
            pair.link
        );
        for round in 0..30 {
            ask(&mut redis, &["TANDEM.PUT", &format!("r.{round}"), "1"]);
            answers.push(value::<String>(&mut client, &check));
        }
        ended.store(true, Ordering::Relaxed);
    });
    pair.settle_at(5030);
    // What was written just before may be on its way.
    let is_whole = |answer: &String| answer == "equal" || answer.contains("are on their way");
    assert!(answers.iter().all(is_whole), "{answers:?}");
    let failures = rows(&mut client, "SELECT last_error FROM tandem.links WHERE last_error_at IS NOT NULL");
    assert!(failures.is_empty(), "{:?}", failures[0].get::<_, Option<String>>(0));
    let log = pair.postgres.log_tail();
    assert!(!log.to_lowercase().contains("interrupted"), "{log}");
}
