//! Whose write loses where both sides have written is recorded, once, whichever side had gone on and however often
//! what was written is sent again; and nothing is recorded where nobody lost.

use ::redis::Connection;
use postgres::Client;
use tandem_shared::codec::{Source, decode};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_number};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, Options::durable())
}

fn put(redis: &mut Connection, id: &str, payload: &str) {
    ask(redis, &["TANDEM.PUT", id, payload]);
}

/// The content of the losers of an id, `-` for a removal, in the order in which they were recorded.
fn losers(client: &mut Client, id: &str) -> Vec<String> {
    let query = format!("SELECT loser FROM tandem.conflicts WHERE id = '{id}' ORDER BY seq");
    let content = |bytes: Vec<u8>| {
        let revision = decode(&bytes, Source::Foreign).expect("a revision");
        let content = revision.content().map(|content| String::from_utf8_lossy(content.bytes()).into_owned());
        content.unwrap_or_else(|| "-".to_owned())
    };
    rows(client, &query).iter().map(|row| content(row.get(0))).collect()
}

fn nothing_waits(redis: &mut Connection) -> bool {
    ask_number(redis, &["TANDEM.LINK", "PENDING"]) == 0
}

#[test]
fn a_write_in_redis_that_postgres_is_past_is_recorded_once() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "a", "\"first\"");
    put(&mut redis, "b", "\"first\"");
    pair.settle_at(2);
    pair.pause();
    put(&mut redis, "a", "\"redis\"");
    ask(&mut redis, &["TANDEM.REMOVE", "b"]);
    for round in 0..3 {
        run(
            &mut client,
            &format!("SELECT tandem.put('a', '\"postgres {round}\"'), tandem.put('b', '{round}')"),
        );
    }
    pair.resume();
    pair.settle("what lost is recorded", |client, redis| {
        losers(client, "a") == ["\"redis\""] && losers(client, "b") == ["-"] && nothing_waits(redis)
    });
}

#[test]
fn a_write_in_postgres_that_redis_is_past_is_recorded_once() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "a", "\"first\"");
    put(&mut redis, "b", "\"first\"");
    pair.settle_at(2);
    pair.pause();
    run(&mut client, "SELECT tandem.put('a', '\"postgres\"'), tandem.delete('b')");
    for round in 0..3 {
        put(&mut redis, "a", &format!("\"redis {round}\""));
        put(&mut redis, "b", &format!("{round}"));
    }
    pair.resume();
    pair.settle("what lost is recorded", |client, redis| {
        losers(client, "a") == ["\"postgres\""] && losers(client, "b") == ["-"] && nothing_waits(redis)
    });
}

#[test]
fn writes_that_follow_each_other_have_no_loser_whatever_is_killed() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for round in 0..6 {
        for number in 0..20 {
            put(&mut redis, &format!("r.{number}"), &format!("{{\"n\":{round}}}"));
        }
        run(
            &mut client,
            &format!(
                "SELECT tandem.put('p.' || n, '{{\"n\": {round}}}'::jsonb) FROM generate_series(0, 19) n; \
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'tandem link%'"
            ),
        );
    }
    pair.settle("everything is on both sides", |client, redis| {
        value::<i64>(client, "SELECT count(*) FROM tandem.items WHERE payload = '{\"n\": 5}'") == 40
            && nothing_waits(redis)
    });
    // Each side in turn goes on from what the other wrote last.
    for round in 6..9 {
        put(&mut redis, "p.0", &format!("{{\"n\":{round}}}"));
        pair.settle("Postgres has it", |client, _| {
            value::<String>(client, "SELECT payload->>'n' FROM tandem.items WHERE id = 'p.0'")
                == round.to_string()
        });
        run(&mut client, &format!("SELECT tandem.put('p.0', '{{\"n\": {round}00}}'::jsonb)"));
        wait::until("Redis has it", DEADLINE, || {
            format!("{:?}", ask(&mut redis, &["TANDEM.GET", "p.0"])).contains(&format!("{round}00"))
        });
    }
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0, "nobody lost");
}

/// What a link pushes may meet a write that the link has not been told of.
#[test]
fn a_write_in_redis_that_a_push_goes_over_before_it_is_told_is_recorded_once() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "a", "\"first\"");
    pair.settle_at(1);
    pair.pause();
    for round in 0..3 {
        run(&mut client, &format!("SELECT tandem.put('a', '\"postgres {round}\"')"));
    }
    put(&mut redis, "a", "\"redis\"");
    let revision: Vec<u8> = value(&mut client, "SELECT revision FROM tandem.peer_fetch('{a}')");
    let pushed = ::redis::cmd("TANDEM.LINK")
        .arg("PUSH")
        .arg(&pair.link)
        .arg("a")
        .arg(revision)
        .query::<Vec<String>>(&mut redis)
        .expect("the push is answered");
    assert_eq!(pushed, ["applied"]);
    pair.resume();
    pair.settle("what lost is recorded", |client, redis| {
        losers(client, "a") == ["\"redis\""] && nothing_waits(redis)
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 1);
}

/// A Redis that comes back from an old file sends once more what it was not told to be taken.
#[test]
fn what_was_taken_before_redis_was_set_back_is_no_loser() {
    let mut pair = Pair::with(&pg::Options::default(), Options::in_memory().with("save", "3600 1"));
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "a", "\"first\"");
    put(&mut redis, "b", "\"first\"");
    pair.settle_at(2);
    pair.pause();
    put(&mut redis, "a", "\"redis\"");
    ask(&mut redis, &["TANDEM.REMOVE", "b"]);
    ask(&mut redis, &["SAVE"]);
    pair.resume();
    pair.settle("Postgres has them", |client, redis| {
        value::<i64>(client, "SELECT version FROM tandem.get('a')") == 2
            && !value::<bool>(client, "SELECT tandem.exists('b')")
            && nothing_waits(redis)
    });
    run(&mut client, "SELECT tandem.put('a', '\"postgres\"'), tandem.put('b', '\"postgres\"')");
    pair.settle_at(2);
    pair.redis.kill_hard();
    pair.redis.restart();
    pair.settle("Redis has all of it again", |client, redis| {
        value::<i64>(client, "SELECT count(*) FROM tandem.items WHERE payload = '\"postgres\"'") == 2
            && nothing_waits(redis)
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0, "nobody lost");
}

/// A link asks for what comes next before it compares, and the answer may come long after that.
#[test]
fn a_write_that_loses_after_a_check_is_recorded_though_it_was_asked_for_before() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    put(&mut redis, "a", "\"first\"");
    pair.settle_at(1);
    let mut holder = pair.sql();
    for round in 1..=5 {
        run(&mut client, "UPDATE tandem.links SET compare_due = true");
        wait::until("the check is done", DEADLINE, || {
            value::<bool>(&mut client, "SELECT NOT compare_due FROM tandem.links")
        });
        // The link asks for its row before it carries anything.
        run(&mut holder, "BEGIN; LOCK TABLE tandem.links");
        put(&mut redis, "a", &format!("\"redis {round}\""));
        for _ in 0..3 {
            run(&mut client, &format!("SELECT tandem.put('a', '\"postgres {round}\"')"));
        }
        run(&mut holder, "COMMIT");
        let expected: Vec<String> = (1..=round).map(|round| format!("\"redis {round}\"")).collect();
        pair.settle("what lost is recorded", |client, redis| {
            losers(client, "a") == expected && nothing_waits(redis)
        });
    }
}
