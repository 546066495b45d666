//! What stops a link stops no more than the item that it concerns: each test writes one that is in somebody's way, or
//! in nobody's reach, and others beside it.

use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{self, ask, ask_number, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options::default(), redis::Options::in_memory())
}

fn in_redis(pair: &Pair, id: &str) -> Option<String> {
    ask_text(&mut pair.commands(), &["TANDEM.GET", id, "PAYLOAD"])
}

fn arrives_in_postgres(pair: &Pair, client: &mut Client, id: &str) {
    wait::until_or(
        DEADLINE,
        || value::<bool>(client, &format!("SELECT tandem.exists('{id}')")),
        || format!("{id} arrives in Postgres\n{}", pair.postgres.log_tail()),
    );
}

fn arrives_in_redis(pair: &Pair, id: &str) {
    wait::until_or(
        DEADLINE,
        || in_redis(pair, id).is_some(),
        || format!("{id} arrives in Redis\n{}", pair.postgres.log_tail()),
    );
}

/// The ids of the letters, in order.
fn letters(client: &mut Client, direction: &str) -> Vec<String> {
    let query =
        format!("SELECT DISTINCT id FROM tandem.dead_letters WHERE direction = '{direction}' ORDER BY id");
    rows(client, &query).iter().map(|row| row.get(0)).collect()
}

/// A trigger of a user may refuse with any SQLSTATE.
#[test]
fn whatever_postgres_says_of_an_item_is_said_of_that_item() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let states =
        ["22007", "22008", "22012", "22001", "23P01", "44000", "P0004", "0A000", "38000", "XX000", "ZZ001"];
    run(
        &mut client,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF NEW.id LIKE 'bad.%' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = split_part(NEW.id, '.', 2); END IF; \
            RETURN NEW; END $$; \
         CREATE TRIGGER a_refuse BEFORE INSERT ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    );
    for (place, state) in states.iter().enumerate() {
        ask(&mut redis, &["TANDEM.PUT", &format!("good.{place}"), "1"]);
        ask(&mut redis, &["TANDEM.PUT", &format!("bad.{state}"), "1"]);
    }
    ask(&mut redis, &["TANDEM.PUT", "last", "1"]);
    arrives_in_postgres(&pair, &mut client, "last");
    let mut expected: Vec<String> = states.iter().map(|state| format!("bad.{state}")).collect();
    expected.sort();
    wait::until("each of the others is a letter", DEADLINE, || {
        letters(&mut client, "from_redis") == expected
    });
    for place in 0..states.len() {
        arrives_in_postgres(&pair, &mut client, &format!("good.{place}"));
    }
    wait::until("Redis waits for nothing", DEADLINE, || {
        ask_number(&mut pair.commands(), &["TANDEM.LINK", "PENDING"]) == 0
    });
    run(&mut client, "DROP TRIGGER a_refuse ON tandem.items; SELECT tandem.retry_dead_letters()");
    pair.settle("what was refused is there", |client, _| letters(client, "from_redis").is_empty());
}

/// Rows that break a rule can be written where triggers do not look.
#[test]
fn an_item_that_cannot_be_read_is_a_letter_and_named_by_a_check() {
    let pair = start();
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    pair.settle_at(2);
    run(
        &mut client,
        "ALTER TABLE tandem.items DISABLE TRIGGER zz_tandem_row; \
         UPDATE tandem.items SET state = '', version = version + 1, \
            \"timestamp\" = \"timestamp\" + 1 WHERE id = 'a'; \
         ALTER TABLE tandem.items ENABLE ALWAYS TRIGGER zz_tandem_row; \
         SELECT tandem.put('c', '1'), tandem.put('b', '2')",
    );
    arrives_in_redis(&pair, "c");
    wait::until("it is a letter", DEADLINE, || letters(&mut client, "to_redis") == ["a"]);
    let reason: String = value(&mut client, "SELECT reason FROM tandem.dead_letters");
    assert!(reason.contains("state"), "{reason}");
    assert_eq!(in_redis(&pair, "a").as_deref(), Some("1"), "what Redis had stays");

    let checked = format!("SELECT answer || ': ' || reason FROM tandem.reconcile('{}')", pair.link);
    let answer: String = value(&mut client, &checked);
    assert!(answer.starts_with("incomplete: ") && answer.contains("a: state"), "{answer}");
    let named: String =
        value(&mut client, "SELECT id || ' ' || differed FROM tandem.reports ORDER BY run DESC LIMIT 1");
    assert_eq!(named, "a unreadable_in_postgres");

    run(&mut client, "SELECT tandem.retry_dead_letters()");
    wait::until("it was tried again", DEADLINE, || {
        value::<bool>(&mut client, "SELECT attempts > 1 AND NOT retry FROM tandem.dead_letters")
    });
    run(
        &mut client,
        "ALTER TABLE tandem.items DISABLE TRIGGER zz_tandem_row; \
         UPDATE tandem.items SET state = 'default' WHERE id = 'a'; \
         ALTER TABLE tandem.items ENABLE ALWAYS TRIGGER zz_tandem_row; SELECT tandem.retry_dead_letters()",
    );
    pair.settle("the letter is gone", |client, _| letters(client, "to_redis").is_empty());
}

/// Nobody who waits for another id waits longer, and nobody is told that there is no such item.
#[test]
fn an_item_that_cannot_be_read_is_no_miss_in_a_cache() {
    let options = redis::Options::in_memory().with("tandem.fetch-timeout-ms", "1500");
    let redis = redis::Redis::start(options);
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    run(
        &mut client,
        "ALTER TABLE tandem.items DISABLE TRIGGER zz_tandem_row; \
         UPDATE tandem.items SET state = '' WHERE id = 'a'; \
         ALTER TABLE tandem.items ENABLE ALWAYS TRIGGER zz_tandem_row",
    );
    run(&mut client, &format!("SELECT tandem.link('{}', mode => 'cache')", redis.url()));
    let mut commands = redis.connect();
    wait::until("other items are read", DEADLINE, || {
        let read = redis::send(&mut commands, &["TANDEM.GET", "b", "PAYLOAD"]);
        matches!(read, Ok(::redis::Value::BulkString(_)))
    });
    let read = redis::send(&mut commands, &["TANDEM.GET", "a", "PAYLOAD"]);
    assert!(read.is_err(), "who reads it is not told that there is none: {read:?}");
    let read = redis::send(&mut commands, &["TANDEM.GETORPUT", "a", "2"]);
    assert!(read.is_err(), "nor is it written over: {read:?}");
    wait::until("it is a letter", DEADLINE, || letters(&mut client, "to_redis") == ["a"]);
    assert_eq!(ask_text(&mut commands, &["TANDEM.GET", "b", "PAYLOAD"]).as_deref(), Some("1"));
}

/// What `link_status` says that the link waits for.
fn waits_for(client: &mut Client) -> String {
    let query = "SELECT coalesce(waits_for, '') FROM tandem.link_status WHERE direction = 'from_redis'";
    value(client, query)
}

#[test]
fn a_locked_item_delays_itself_and_nothing_else() {
    let pair = start();
    let (mut client, mut holder, mut redis) = (pair.sql(), pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('locked', '1')");
    pair.settle_at(1);
    let pid: i32 = value(&mut holder, "SELECT pg_backend_pid()");
    run(&mut holder, "BEGIN; SELECT id FROM tandem.items WHERE id = 'locked' FOR UPDATE");
    for number in 0..100 {
        ask(&mut redis, &["TANDEM.PUT", &format!("before.{number}"), "1"]);
    }
    ask(&mut redis, &["TANDEM.PUT", "locked", "2"]);
    for number in 0..100 {
        ask(&mut redis, &["TANDEM.PUT", &format!("after.{number}"), "1"]);
    }
    wait::until("all others are there", DEADLINE, || {
        value::<i64>(&mut client, "SELECT tandem.count('before.') + tandem.count('after.')") == 200
    });
    wait::until("the link says what it waits for, and who is in its way", DEADLINE, || {
        let said = waits_for(&mut client);
        said.contains("'locked'") && said.contains(&format!("process {pid} "))
    });
    assert!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) > 0, "it is not acknowledged");

    // Whoever takes over from a session that has ended begins where it was.
    run(
        &mut client,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'tandem link%'",
    );
    ask(&mut redis, &["TANDEM.PUT", "later", "1"]);
    arrives_in_postgres(&pair, &mut client, "later");
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.get('locked')"), 1);
    run(&mut holder, "COMMIT");
    pair.settle("it is joined when the lock is gone, and acknowledged", |client, redis| {
        value::<i64>(client, "SELECT version FROM tandem.get('locked')") == 2
            && ask_number(redis, &["TANDEM.LINK", "PENDING"]) == 0
            && waits_for(client).is_empty()
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters"), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0, "nothing was lost");
}

/// A first writer of the id may have it, in a transaction that goes on.
#[test]
fn an_item_that_somebody_else_is_putting_delays_itself_and_nothing_else() {
    let pair = start();
    let (mut client, mut holder, mut redis) = (pair.sql(), pair.sql(), pair.commands());
    run(&mut holder, "BEGIN; SELECT tandem.put('new', '[\"postgres\"]')");
    ask(&mut redis, &["TANDEM.PUT", "new", "[\"redis\"]"]);
    for number in 0..50 {
        ask(&mut redis, &["TANDEM.PUT", &format!("a.{number}"), "1"]);
    }
    wait::until("all others are there", DEADLINE, || {
        value::<i64>(&mut client, "SELECT tandem.count('a.')") == 50
    });
    run(&mut holder, "COMMIT");
    pair.settle("both have met, and the one that lost is known", |client, _| {
        value::<i64>(client, "SELECT count(*) FROM tandem.conflicts WHERE id = 'new'") == 1
    });
}

#[test]
fn a_locked_item_does_not_stop_a_check() {
    let pair = start();
    let (mut client, mut holder, mut redis) = (pair.sql(), pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('locked', '1')");
    pair.settle_at(1);
    pair.pause();
    run(&mut holder, "BEGIN; SELECT id FROM tandem.items WHERE id = 'locked' FOR UPDATE");
    // What Redis has written since is known to no queue, so that only the check finds it.
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &pair.link]);
    ask(&mut redis, &["TANDEM.PUT", "locked", "2"]);
    ask(&mut redis, &["TANDEM.PUT", "other", "2"]);
    pair.resume();
    arrives_in_postgres(&pair, &mut client, "other");
    ask(&mut redis, &["TANDEM.PUT", "later", "2"]);
    arrives_in_postgres(&pair, &mut client, "later");
    run(&mut holder, "COMMIT");
    run(
        &mut client,
        &format!("UPDATE tandem.links SET needs_check = true; SELECT tandem.reconcile('{}')", pair.link),
    );
    pair.settle_at(3);
}
