//! A link that is changed, paused, removed or copied: no process goes on with what the link was, and Redis is told.

use ::redis::Value;
use postgres::Client;
use std::process::Command;
use tandem_tests::install::client_program;
use tandem_tests::pair::{Pair, link};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options::default(), Options::in_memory())
}

fn in_redis(redis: &Redis, id: &str) -> bool {
    ask_text(&mut redis.connect(), &["TANDEM.GET", id, "PAYLOAD"]).is_some()
}

fn knows_no_link(redis: &Redis) -> bool {
    ask(&mut redis.connect(), &["TANDEM.LINK", "LIST"]) == Value::Array(vec![])
}

fn session(client: &mut Client) -> Option<i32> {
    let found = rows(client, "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tandem link %'");
    found.first().map(|row| row.get(0))
}

#[test]
fn a_name_that_goes_to_another_redis_leaves_the_first_one_alone() {
    let pair = start();
    let other = Redis::start(Options::in_memory());
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    let statements = format!(
        "BEGIN; SELECT tandem.unlink('{name}'); SELECT tandem.link('{}', name => '{name}'); COMMIT; \
         SELECT tandem.put('b', '1')",
        other.url(),
        name = pair.link
    );
    run(&mut client, &statements);
    wait::until("the other one has everything", DEADLINE, || in_redis(&other, "a") && in_redis(&other, "b"));
    wait::until("the first one is told that it is linked no more", DEADLINE, || knows_no_link(&pair.redis));
    run(&mut client, "SELECT tandem.put('c', '1')");
    wait::until("the other one has what came later", DEADLINE, || in_redis(&other, "c"));
    assert!(
        !in_redis(&pair.redis, "b") && !in_redis(&pair.redis, "c"),
        "the first one has what was there before"
    );
}

#[test]
fn a_change_of_a_links_row_is_followed_at_once() {
    let pair = start();
    let other = Redis::start(Options::in_memory());
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a.1', '1'), tandem.put('b.1', '1')");
    pair.settle_at(2);
    run(&mut client, &format!("UPDATE tandem.links SET url = '{}', prefix = 'a.'", other.url()));
    wait::until("the other one has what is carried", DEADLINE, || in_redis(&other, "a.1"));
    assert!(!in_redis(&other, "b.1"), "b.1 is not carried");
    run(&mut client, "UPDATE tandem.links SET prefix = ''");
    wait::until("what was not carried before is compared", DEADLINE, || in_redis(&other, "b.1"));
}

/// This is how a link follows its Redis to another machine under the same name.
#[test]
fn a_pause_that_is_over_at_once_ends_the_session_all_the_same() {
    let pair = start();
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    let before = session(&mut client);
    assert!(before.is_some(), "there is a session");
    run(
        &mut client,
        &format!(
            "BEGIN; SELECT tandem.pause_link('{name}'), tandem.resume_link('{name}'); COMMIT",
            name = pair.link
        ),
    );
    wait::until("another session has the link", DEADLINE, || {
        session(&mut client).is_some_and(|now| before != Some(now))
    });
    run(&mut client, "SELECT tandem.put('b', '1')");
    pair.settle_at(2);
}

#[test]
fn a_pause_is_seen_in_the_middle_of_a_check() {
    let redis = Redis::start(Options::in_memory());
    let postgres = Postgres::with_extension(&pg::Options::default());
    let (mut client, mut commands) = (postgres.connect(), redis.connect());
    for number in 0..4000 {
        ask(&mut commands, &["TANDEM.PUT", &format!("a.{number}"), "1"]);
    }
    run(
        &mut client,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$; \
         CREATE TRIGGER a_slow BEFORE INSERT ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.slow()",
    );
    let name = link(&mut client, &redis);
    wait::until("the first comparison has begun to mend", DEADLINE, || {
        value::<bool>(&mut client, "SELECT EXISTS (SELECT FROM tandem.check_progress WHERE repaired > 0)")
    });
    run(&mut client, &format!("SELECT tandem.pause_link('{name}')"));
    wait::until("the session has ended", DEADLINE, || session(&mut client).is_none());
    let count: i64 = value(&mut client, "SELECT tandem.count()");
    assert!(count < 4000, "it has mended everything first");
    run(&mut client, &format!("DROP TRIGGER a_slow ON tandem.items; SELECT tandem.resume_link('{name}')"));
    wait::until("it is mended when the link goes on", DEADLINE, || {
        value::<i64>(&mut client, "SELECT tandem.count()") == 4000
    });
}

#[test]
fn a_paused_link_that_is_removed_is_detached() {
    let pair = start();
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    pair.pause();
    assert!(!knows_no_link(&pair.redis), "Redis keeps for it what is written there");
    assert!(value::<bool>(&mut client, &format!("SELECT tandem.unlink('{}')", pair.link)));
    wait::until("Redis is told", DEADLINE, || knows_no_link(&pair.redis));
    wait::until("nothing is left to do", DEADLINE, || {
        value::<bool>(&mut client, "SELECT NOT EXISTS (SELECT FROM tandem.unlinked)")
    });
}

#[test]
fn a_link_that_is_removed_while_redis_is_away_is_detached_later() {
    let mut pair = Pair::with(&pg::Options::default(), Options::durable());
    let mut client = pair.sql();
    let name = pair.link.clone();
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    pair.redis.kill_hard();
    assert!(value::<bool>(&mut client, &format!("SELECT tandem.unlink('{name}')")));
    wait::until("the link says what it waits for", DEADLINE, || {
        let query = "SELECT EXISTS (SELECT FROM tandem.link_status WHERE state = 'unlinking' AND last_error LIKE '%connect%')";
        value::<bool>(&mut client, query)
    });
    pair.redis.restart();
    wait::until("Redis is told", DEADLINE, || knows_no_link(&pair.redis));

    // Who knows that it never comes back says so.
    run(&mut client, &format!("SELECT tandem.link('{}', name => '{name}')", pair.redis.url()));
    pair.settle_at(1);
    pair.redis.kill_hard();
    assert!(value::<bool>(&mut client, &format!("SELECT tandem.unlink('{name}', force => true)")));
    assert!(value::<bool>(&mut client, "SELECT NOT EXISTS (SELECT FROM tandem.link_status)"), "nobody tries");
}

/// A copy of a database would otherwise take what Redis holds for the first one, and write to it.
#[test]
fn a_copy_of_a_database_does_not_serve_its_link() {
    let settings = vec!["tandem.databases = 'postgres,copy'".to_owned()];
    let redis = Redis::start(Options::in_memory());
    let postgres = Postgres::with_extension(&pg::Options { settings, ..pg::Options::default() });
    let mut client = postgres.connect();
    let name = link(&mut client, &redis);
    run(&mut client, "SELECT tandem.put('a', '1')");
    wait::until("the first one streams", DEADLINE, || in_redis(&redis, "a"));
    run(&mut client, "CREATE DATABASE copy");
    let words = postgres.psql_words();
    let file = postgres.directory().join("dump.sql");
    let dumped = Command::new(client_program("pg_dump"))
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &postgres.port().to_string(),
            "-d",
            "postgres",
            "-f",
        ])
        .arg(&file)
        .status()
        .expect("pg_dump starts");
    assert!(dumped.success(), "pg_dump");
    let restored = Command::new(&words[0])
        .args(&words[1..])
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-d", "copy", "-f"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .status()
        .expect("psql starts");
    assert!(restored.success(), "psql");
    let mut copy = postgres.connect_as("postgres", "copy");
    wait::until("the copy's link is paused", DEADLINE, || {
        value::<bool>(
            &mut copy,
            "SELECT paused AND last_error LIKE 'restored from another%' FROM tandem.links()",
        )
    });
    run(&mut copy, "SELECT tandem.put('of.the.copy', '1')");
    ask(&mut redis.connect(), &["TANDEM.PUT", "of.redis", "1"]);
    run(&mut client, "SELECT tandem.put('b', '1')");
    wait::until("the first one goes on", DEADLINE, || {
        in_redis(&redis, "b") && value::<bool>(&mut client, "SELECT tandem.exists('of.redis')")
    });
    assert!(!in_redis(&redis, "of.the.copy"), "the copy writes nothing to Redis");
    assert!(!value::<bool>(&mut copy, "SELECT tandem.exists('of.redis')"), "and takes nothing from it");
    assert!(value::<bool>(
        &mut client,
        &format!("SELECT NOT paused FROM tandem.links() WHERE name = '{name}'")
    ));
}
