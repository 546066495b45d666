//! What an operator relies on: tombstones that go away in time, rights, secrets that stay secret, numbers to watch.

use ::redis::Connection;
use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_number, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A Postgres that remembers removals for a second.
fn forgetful() -> pg::Options {
    pg::Options { settings: vec!["tandem.tombstone_retention = '1s'".to_owned()], ..pg::Options::default() }
}

/// A setting that lets Redis remember them as long.
fn forgetful_redis(options: redis::Options) -> redis::Options {
    options.with("tandem.tombstone-retention-ms", "1000")
}

fn tombstones_of_postgres(client: &mut Client) -> Vec<String> {
    let rows = rows(client, "SELECT id FROM tandem.tombstones ORDER BY id");
    rows.iter().map(|row| row.get(0)).collect()
}

fn tombstones_of_redis(connection: &mut Connection) -> i64 {
    let info = ask_text(connection, &["INFO", "tandem"]).unwrap_or_default();
    let fields =
        info.lines().filter_map(|line| line.split_once("db0:")).flat_map(|(_, fields)| fields.split(','));
    let count = fields.filter_map(|field| field.strip_prefix("tombstones=")).map(str::parse::<i64>).next();
    count.map_or(0, |count| count.expect("a number"))
}

#[test]
fn tombstones_that_all_have_taken_are_forgotten_on_both_sides() {
    let pair = Pair::with(&forgetful(), forgetful_redis(redis::Options::in_memory()));
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '1' FROM generate_series(1, 9) n",
    );
    pair.settle_at(9);
    run(&mut client, "SELECT tandem.put('a.1', '2'), tandem.put('a.2', '2'), tandem.put('a.1', '3')");
    pair.settle("the new versions are there", |_, redis| {
        ask_text(redis, &["TANDEM.GET", "a.1", "PAYLOAD"]).as_deref() == Some("3")
    });
    run(&mut client, "SELECT tandem.delete_many('{a.1,a.3,a.4}')");
    ask(&mut redis, &["TANDEM.MREMOVE", "3", "a.2", "a.5", "a.6"]);
    pair.settle_at(3);
    // Whichever side forgets first, what is put there anew is not lost to the tombstone that the other has still.
    wait::until("one side has forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty() || tombstones_of_redis(&mut redis) == 0
    });
    run(&mut client, "SELECT tandem.put('a.1', '\"again\"')");
    ask(&mut redis, &["TANDEM.PUT", "a.2", "\"again\""]);
    pair.settle_at(5);
    for id in ["a.1", "a.2"] {
        assert_eq!(ask_text(&mut redis, &["TANDEM.GET", id, "PAYLOAD"]).as_deref(), Some("\"again\""));
    }
    wait::until("both have forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty() && tombstones_of_redis(&mut redis) == 0
    });
    pair.settle_at(5);
    run(&mut client, "SELECT tandem.put('a.3', '1')");
    let version: i64 = value(&mut client, "SELECT version FROM tandem.get('a.3')");
    assert_eq!(version, 1, "nothing is known of it any more");
    pair.settle_at(6);
}

/// Postgres has dropped a tombstone that Redis keeps for 7 days by its own setting.
#[test]
fn a_check_does_not_bring_back_a_removal_that_one_side_has_forgotten() {
    let pair = Pair::with(&forgetful(), redis::Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    pair.settle_at(2);
    ask(&mut redis, &["TANDEM.REMOVE", "a"]);
    pair.settle_at(1);
    wait::until("Postgres has forgotten", DEADLINE, || tombstones_of_postgres(&mut client).is_empty());
    pair.pause();
    run(&mut client, "SELECT tandem.put('a', '\"again\"')");
    let answer: String = value(&mut client, &format!("SELECT answer FROM tandem.reconcile('{}')", pair.link));
    let payload = ask_text(&mut redis, &["TANDEM.GET", "a", "PAYLOAD"]);
    assert_eq!((answer.as_str(), payload.as_deref()), ("equal", Some("\"again\"")));
    assert!(value::<bool>(&mut client, "SELECT tandem.exists('a')"));
}

#[test]
fn a_tombstone_stays_until_every_link_that_carries_it_has_taken_it() {
    let postgres = Postgres::with_extension(&forgetful());
    let mut client = postgres.connect();
    run(&mut client, "SELECT tandem.link('redis://127.0.0.1:1', name => 'away', prefix => 'in.')");
    run(&mut client, "SELECT tandem.put('in.a', '1'), tandem.put('out.a', '1'), tandem.put('in.b', '1')");
    run(&mut client, "SELECT tandem.delete_many('{in.a,out.a}')");
    wait::until("the one that no link carries is forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client) == ["in.a"]
    });
    // A link that has taken everything up to now.
    run(&mut client, "SELECT tandem.pause_link('away')");
    run(
        &mut client,
        "UPDATE tandem.links SET needs_check = false, (pushed_xid, pushed_seq) = \
         (SELECT xid, seq FROM tandem.changes ORDER BY xid DESC, seq DESC LIMIT 1)",
    );
    run(&mut client, "SELECT tandem.delete('in.b')");
    wait::until("the one that the link has taken is forgotten", DEADLINE, || {
        tombstones_of_postgres(&mut client) == ["in.b"]
    });
    run(&mut client, "SELECT tandem.unlink('away')");
    wait::until("nobody is left to take the other", DEADLINE, || {
        tombstones_of_postgres(&mut client).is_empty()
    });
}

#[test]
fn redis_forgets_what_no_link_waits_for_and_tells_its_replica_and_its_file() {
    let mut master = Redis::start(forgetful_redis(redis::Options::durable()));
    // The replica would keep them for ever by its own setting.
    let replica = Redis::start(redis::Options::in_memory().with("tandem.tombstone-retention-ms", "0"));
    let mut to_replica = replica.connect();
    let mut connection = master.connect();
    ask(&mut to_replica, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    let check = tandem_shared::digest::hex(&tandem_shared::DigestKey::new(b"").check());
    for id in ["early", "late"] {
        ask(&mut connection, &["TANDEM.PUT", id, "1"]);
    }
    ask(&mut connection, &["TANDEM.REMOVE", "early"]);
    ask(&mut connection, &["TANDEM.LINK", "ATTACH", "pg", &check, "1000"]);
    ask(&mut connection, &["TANDEM.REMOVE", "late"]);
    wait::until("only the one that waits is left, on both", DEADLINE, || {
        tombstones_of_redis(&mut connection) == 1 && tombstones_of_redis(&mut to_replica) == 1
    });
    assert_eq!(ask_number(&mut connection, &["TANDEM.LINK", "PENDING"]), 1);
    master.kill_hard();
    master.restart();
    let mut connection = master.connect();
    assert_eq!(tombstones_of_redis(&mut connection), 1, "the file says the same");
    let run = match ask(&mut connection, &["TANDEM.LINK", "ATTACH", "pg", &check, "1000"]) {
        ::redis::Value::Array(words) => match &words[3] {
            ::redis::Value::BulkString(run) => String::from_utf8_lossy(run).into_owned(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    ask(&mut connection, &["TANDEM.LINK", "ACK", "pg", &run, "1000"]);
    wait::until("the acknowledged one is forgotten, on both", DEADLINE, || {
        tombstones_of_redis(&mut connection) == 0 && tombstones_of_redis(&mut to_replica) == 0
    });
}
