//! TANDEM.WAIT, and links of one direction.

use redis::Value;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{Options as PgOptions, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

#[test]
fn a_wait_ends_when_the_link_has_everything() {
    let pair = Pair::start();
    let mut connection = pair.commands();
    wait::until("the link streams", DEADLINE, || {
        value::<bool>(&mut pair.sql(), "SELECT state = 'streaming' FROM tandem.links()")
    });
    ask(&mut connection, &["TANDEM.PUT", "a", "[1]"]);
    assert_eq!(ask_number(&mut connection, &["TANDEM.WAIT", "0"]), 1);
    assert_eq!(value::<i64>(&mut pair.sql(), "SELECT count(*) FROM tandem.items WHERE id = 'a'"), 1);
    pair.pause();
    ask(&mut connection, &["TANDEM.PUT", "b", "[1]"]);
    assert_eq!(ask_number(&mut connection, &["TANDEM.WAIT", "50"]), 0, "as WAIT: a time-out is no error");
    let mut other = pair.commands();
    let waiting = std::thread::spawn(move || ask_number(&mut other, &["TANDEM.WAIT", "0"]));
    let is_blocked = |text: Option<String>| text.is_some_and(|text| text.contains("blocked_clients:1"));
    wait::until("the client waits", DEADLINE, || is_blocked(ask_text(&mut connection, &["INFO", "clients"])));
    pair.resume();
    assert_eq!(waiting.join().expect("it is answered"), 1);
    assert_eq!(value::<i64>(&mut pair.sql(), "SELECT count(*) FROM tandem.items WHERE id = 'b'"), 1);
    // Inside a transaction nothing may block.
    pair.pause();
    ask(&mut connection, &["TANDEM.PUT", "c", "[1]"]);
    ask(&mut connection, &["MULTI"]);
    ask(&mut connection, &["TANDEM.WAIT", "0"]);
    assert_eq!(ask(&mut connection, &["EXEC"]), Value::Array(vec![Value::Int(0)]));
    assert!(send(&mut connection, &["TANDEM.WAIT", "-1"]).is_err());
    assert!(send(&mut connection, &["TANDEM.WAIT"]).is_err());
}

#[test]
fn without_links_there_is_nothing_to_wait_for() {
    let redis = Redis::start(Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["TANDEM.PUT", "a", "[1]"]);
    assert_eq!(ask_number(&mut connection, &["TANDEM.WAIT", "0"]), 0);
}

/// The side that is only written to takes what comes, brings nothing back, and keeps nothing waiting for ever.
#[test]
fn a_link_of_one_direction_takes_nothing_the_other_way() {
    for (direction, sql_reaches, redis_reaches) in [("to_redis", true, false), ("from_redis", false, true)] {
        let postgres = Postgres::with_extension(&PgOptions::default());
        let redis = Redis::start(Options::in_memory());
        let (mut client, mut connection) = (postgres.connect(), redis.connect());
        run(&mut client, "SELECT tandem.put('before.sql', '[1]')");
        ask(&mut connection, &["TANDEM.PUT", "before.redis", "[1]"]);
        run(&mut client, &format!("SELECT tandem.link('{}', direction => '{direction}')", redis.url()));
        wait::until("the link streams", DEADLINE, || {
            value::<bool>(&mut client, "SELECT state = 'streaming' FROM tandem.links()")
        });
        run(&mut client, "SELECT tandem.put('after.sql', '[1]')");
        ask(&mut connection, &["TANDEM.PUT", "after.redis", "[1]"]);
        let (in_sql, in_redis) = (2 + 2 * i64::from(redis_reaches), 2 + 2 * i64::from(sql_reaches));
        wait::until("each side has what it is to have", DEADLINE, || {
            value::<i64>(&mut client, "SELECT tandem.count()") == in_sql
                && ask_number(&mut connection, &["TANDEM.COUNT"]) == in_redis
        });
        wait::until("nothing waits in Redis", DEADLINE, || {
            ask_number(&mut connection, &["TANDEM.LINK", "PENDING"]) == 0
        });
        if sql_reaches {
            ask(&mut connection, &["DEL", "after.sql"]);
            wait::until("a dropped copy is brought back", DEADLINE, || {
                ask_number(&mut connection, &["TANDEM.EXISTS", "after.sql"]) == 1
            });
        }
        let counts = (
            value::<i64>(&mut client, "SELECT tandem.count()"),
            ask_number(&mut connection, &["TANDEM.COUNT"]),
        );
        assert_eq!(counts, (in_sql, in_redis), "{direction}");
    }
}
