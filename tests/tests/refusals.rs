//! What one side says of an item again and again is said of that item in the end, whatever words it uses, and also where
//! no other item is on its way; what it says of itself is waited for.

use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::picky::Picky;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{self, ask, ask_number, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options::default(), redis::Options::in_memory())
}

/// The ids of the letters of a direction, each with its reason, in order.
fn letters(client: &mut Client, direction: &str) -> Vec<(String, String)> {
    let query = format!(
        "SELECT DISTINCT id, reason FROM tandem.dead_letters WHERE direction = '{direction}' ORDER BY id"
    );
    rows(client, &query).iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Refuses ids below `bad.` with the SQLSTATE that follows.
const REFUSE: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF NEW.id LIKE 'bad.%' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = split_part(NEW.id, '.', 2); END IF; \
        RETURN NEW; END $$; \
    CREATE TRIGGER a_refuse BEFORE INSERT ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.refuse()";

/// States that say of the server, or of somebody's lock, that it passes.
const STATES: [&str; 9] = ["08006", "25006", "40001", "40P01", "53100", "53200", "55P03", "57014", "57P03"];

#[test]
fn a_trigger_that_speaks_of_locks_and_outages_for_ever_stops_only_its_item() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, REFUSE);
    for state in STATES {
        ask(&mut redis, &["TANDEM.PUT", &format!("bad.{state}"), "1"]);
    }
    let expected: Vec<_> =
        STATES.iter().map(|state| (format!("bad.{state}"), "not this one".to_owned())).collect();
    wait::until_or(
        DEADLINE,
        || letters(&mut client, "from_redis") == expected,
        || format!("each is a letter\n{}", pair.report()),
    );
    wait::until("Redis waits for nothing", DEADLINE, || {
        ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) == 0
    });
    ask(&mut redis, &["TANDEM.PUT", "good", "1"]);
    wait::until("others go through", DEADLINE, || value::<bool>(&mut client, "SELECT tandem.exists('good')"));
    run(&mut client, "DROP TRIGGER a_refuse ON tandem.items; SELECT tandem.retry_dead_letters()");
    pair.settle("what was refused is there", |client, _| letters(client, "from_redis").is_empty());
}

#[test]
fn an_item_that_is_locked_for_long_is_never_a_letter() {
    let pair = start();
    let (mut client, mut holder, mut redis) = (pair.sql(), pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('old', '1')");
    pair.settle_at(1);
    run(&mut client, REFUSE);
    // A row that is there, one that is about to be, and a table that the trigger of an item waits for.
    run(
        &mut client,
        "CREATE TABLE other (n int); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF NEW.id = 'noted' THEN INSERT INTO public.other VALUES (1); END IF; RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER INSERT ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.note()",
    );
    run(
        &mut holder,
        "BEGIN; SELECT id FROM tandem.items WHERE id = 'old' FOR UPDATE; SELECT tandem.put('new', '[1]'); \
         LOCK TABLE other",
    );
    for id in ["old", "new", "noted"] {
        ask(&mut redis, &["TANDEM.PUT", id, "2"]);
    }
    // Tries are made a few times a second; the letters of this one come when it was tried as often as any is.
    ask(&mut redis, &["TANDEM.PUT", "bad.55P03", "1"]);
    wait::until("another one is a letter", DEADLINE, || !letters(&mut client, "from_redis").is_empty());
    assert_eq!(letters(&mut client, "from_redis"), [("bad.55P03".to_owned(), "not this one".to_owned())]);
    run(&mut holder, "ROLLBACK");
    wait::until("they are there when the locks are gone", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.items WHERE payload_blob = '2'") == 3
    });
    assert_eq!(letters(&mut client, "from_redis").len(), 1);
}

#[test]
fn a_check_from_sql_goes_on_after_an_item_that_is_refused() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, REFUSE);
    pair.pause();
    // Nothing of this is known to the link, so that only the check finds it.
    ask(&mut redis, &["TANDEM.LINK", "DETACH", &pair.link]);
    for state in STATES {
        ask(&mut redis, &["TANDEM.PUT", &format!("bad.{state}"), "1"]);
        ask(&mut redis, &["TANDEM.PUT", &format!("good.{state}"), "1"]);
    }
    let found =
        &rows(&mut client, "SELECT answer, differences, repaired, reason FROM tandem.reconcile('redis')")[0];
    let count = STATES.len() as i64;
    assert_eq!(found.get::<_, String>(0), "differs", "{found:?}");
    assert_eq!((found.get::<_, i64>(1), found.get::<_, i64>(2)), (2 * count, count));
    assert!(found.get::<_, String>(3).contains("not this one"));
    let refused = "SELECT count(*) FROM tandem.reports WHERE done = 'refused' AND id LIKE 'bad.%' AND reason = 'not this one'";
    assert_eq!(value::<i64>(&mut client, refused), count);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count('good.')"), count);
    let counted =
        rows(&mut client, "SELECT refused, undecided, pending FROM tandem.checks ORDER BY run DESC LIMIT 1");
    let counted: [i64; 3] = [counted[0].get(0), counted[0].get(1), counted[0].get(2)];
    assert_eq!(counted, [count, 0, 0], "those that are refused have a count of their own");
}

#[test]
fn an_error_of_redis_for_one_item_stops_only_that_item() {
    let redis = redis::Redis::start(redis::Options::in_memory());
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let (mut client, mut commands) = (postgres.connect(), redis.connect());
    let picky = Picky::before(redis.port(), "bad.", "ERR not this one");
    run(&mut client, &format!("SELECT tandem.link('{}')", picky.url()));
    run(
        &mut client,
        "SELECT tandem.put('bad.' || n, '1'), tandem.put('good.' || n, '1') FROM generate_series(1, 3) n",
    );
    let expected: Vec<_> = (1..=3).map(|n| (format!("bad.{n}"), "ERR not this one".to_owned())).collect();
    wait::until_or(
        DEADLINE,
        || letters(&mut client, "to_redis") == expected,
        || format!("each is a letter\n{}", postgres.log_tail()),
    );
    wait::until("the others are there", DEADLINE, || ask_number(&mut commands, &["TANDEM.COUNT"]) == 3);
    run(&mut client, "SELECT tandem.put('good.4', '1')");
    wait::until("later ones, too", DEADLINE, || ask_number(&mut commands, &["TANDEM.COUNT"]) == 4);
    // Alone, and found by a check.
    run(&mut client, "SELECT tandem.put('bad.4', '1')");
    wait::until("one that is alone is a letter", DEADLINE, || letters(&mut client, "to_redis").len() == 4);
    let answer: String =
        value(&mut client, "SELECT answer || ' ' || coalesce(reason, '') FROM tandem.reconcile('redis')");
    assert!(answer.starts_with("differs") && answer.contains("not this one"), "{answer}");
    picky.relent();
    run(&mut client, "SELECT tandem.retry_dead_letters()");
    wait::until("it is taken when Redis takes it", DEADLINE, || {
        ask_number(&mut commands, &["TANDEM.COUNT"]) == 8 && letters(&mut client, "to_redis").is_empty()
    });
}

/// Whoever says so speaks of itself, and not of an item.
#[test]
fn a_redis_that_has_too_few_replicas_is_waited_for() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('a', '1')");
    pair.settle_at(1);
    ask(&mut redis, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    run(&mut client, "SELECT tandem.put('a', '2'), tandem.put('b', '2')");
    wait::until("the link says what is in its way", DEADLINE, || {
        let said = "SELECT coalesce(last_error, '') FROM tandem.links()";
        value::<String>(&mut client, said).contains("NOREPLICAS")
    });
    assert_eq!(letters(&mut client, "to_redis"), []);
    ask(&mut redis, &["CONFIG", "SET", "min-replicas-to-write", "0"]);
    pair.settle_at(2);
    assert_eq!(ask_text(&mut redis, &["TANDEM.GET", "a", "PAYLOAD"]).as_deref(), Some("2"));
    assert_eq!(letters(&mut client, "to_redis"), []);
}

/// Redis keeps a mark of what Postgres has refused, and Postgres a letter.
#[test]
fn a_check_that_brings_what_was_refused_ends_its_refusal() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, REFUSE);
    wait::until("everything is compared", DEADLINE, || {
        value::<bool>(&mut client, "SELECT state = 'streaming' FROM tandem.links()")
    });
    ask(&mut redis, &["TANDEM.PUT", "bad.22000", "1"]);
    let status =
        |redis: &mut ::redis::Connection| format!("{:?}", ask(redis, &["TANDEM.STATUS", "bad.22000"]));
    wait::until_or(
        DEADLINE,
        || status(&mut pair.commands()).contains("refused"),
        || format!("Redis knows that it was refused\n{}", pair.report()),
    );
    run(&mut client, "DROP TRIGGER a_refuse ON tandem.items; UPDATE tandem.links SET compare_due = true");
    pair.settle("the check has brought it", |client, redis| {
        value::<bool>(client, "SELECT tandem.exists('bad.22000')")
            && letters(client, "from_redis").is_empty()
            && status(redis).contains("synced")
    });
}
