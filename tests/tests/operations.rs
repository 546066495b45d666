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

/// A line of tandem.link_status: state, number waiting, whether there is a lag, dead letters.
fn line(client: &mut Client, direction: &str) -> (String, Option<i64>, bool, i64) {
    let query = format!(
        "SELECT state, waiting, coalesce(lag_seconds, 0) > 0, dead_letters FROM tandem.link_status \
         WHERE link = 'redis' AND direction = '{direction}'"
    );
    let row = rows(client, &query).remove(0);
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

#[test]
fn the_status_of_a_link_says_what_waits_and_for_how_long() {
    let mut pair = Pair::with(&pg::Options::default(), redis::Options::durable());
    run(&mut pair.sql(), "CREATE ROLE watcher LOGIN IN ROLE tandem_reader");
    let mut client = pair.postgres.connect_as("watcher", "postgres");
    let idle = ("streaming".to_owned(), Some(0), false, 0);
    wait::until("the link streams and nothing waits", DEADLINE, || {
        line(&mut client, "to_redis") == idle && line(&mut client, "from_redis") == idle
    });
    ask(&mut pair.commands(), &["SET", "taken", "a string"]);
    run(&mut pair.sql(), "SELECT tandem.put('taken', '1')");
    wait::until("a dead letter counts in its direction", DEADLINE, || {
        line(&mut client, "to_redis").3 == 1 && line(&mut client, "from_redis").3 == 0
    });
    pair.pause();
    run(&mut pair.sql(), "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    wait::until("the lag grows from the oldest change on", DEADLINE, || {
        line(&mut client, "to_redis") == ("paused".to_owned(), Some(2), true, 1)
    });
    pair.resume();
    pair.redis.kill_hard();
    wait::until("the status says that Redis is away", DEADLINE, || {
        let query =
            "SELECT last_error FROM tandem.link_status WHERE direction = 'to_redis' AND state = 'waiting'";
        let found = rows(&mut client, query);
        found
            .iter()
            .any(|row| row.get::<_, Option<String>>(0).is_some_and(|error| error.contains("connecting")))
    });
    pair.redis.restart();
    wait::until("it streams again and nothing waits", DEADLINE, || {
        let (to, from) = (line(&mut client, "to_redis"), line(&mut client, "from_redis"));
        (to.0.as_str(), to.1, to.2, from.0.as_str(), from.1)
            == ("streaming", Some(0), false, "streaming", Some(0))
    });
    let answer: Option<String> =
        value(&mut client, "SELECT last_check_answer FROM tandem.link_status LIMIT 1");
    assert!(answer.is_some());

    // Each exporter query of the manual, as the role it names.
    let manual = include_str!("../../docs/operations.md");
    let queries = manual.lines().filter_map(|line| line.trim().strip_prefix("query: \"")?.strip_suffix('"'));
    let mut count = 0;
    for query in queries {
        assert_eq!(rows(&mut client, query).len(), 2, "{query}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn what_waits_in_redis_is_known_in_postgres() {
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let (mut client, mut blocker) = (pair.sql(), pair.sql());
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    run(
        &mut client,
        "UPDATE tandem.links SET redis_waiting = 5, redis_waiting_since = now() - interval '1 minute'",
    );
    assert!(line(&mut client, "from_redis").2);
    wait::until("the session corrects it", DEADLINE, || {
        line(&mut client, "from_redis") == ("streaming".to_owned(), Some(0), false, 0)
    });
    // A one-way link has one line.
    run(&mut blocker, "SELECT tandem.link('redis://127.0.0.1:1', name => 'one', direction => 'from_redis')");
    let ways: Vec<String> = rows(&mut client, "SELECT direction FROM tandem.link_status WHERE link = 'one'")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ways, ["from_redis"]);
}
