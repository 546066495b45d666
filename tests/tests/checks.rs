//! A check does not say that the sides are equal where it cannot know it.

use postgres::Client;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::picky::Picky;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Answer and reason of a check of the link.
fn reconcile(client: &mut Client, arguments: &str) -> (String, String) {
    let query = format!("SELECT answer, coalesce(reason, '') FROM tandem.reconcile({arguments})");
    let row = rows(client, &query).remove(0);
    (row.get(0), row.get(1))
}

fn pair() -> Pair {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    run(
        &mut pair.sql(),
        "INSERT INTO tandem.items (id, payload) SELECT 'a.' || n, '[1]' FROM generate_series(1, 2000) n",
    );
    pair.settle_at(2000);
    run(&mut pair.sql(), "SELECT tandem.fold()");
    pair
}

fn equal_again(pair: &Pair, when: &str) {
    let mut client = pair.sql();
    assert_eq!(reconcile(&mut client, "'redis'"), ("equal".to_owned(), String::new()), "{when}");
    assert_eq!(check_postgres(&mut client, when), check_redis(&mut pair.commands(), when));
    assert!(value::<i64>(&mut client, "SELECT mended FROM tandem.fold_state") > 0, "{when}: it is counted");
}

#[test]
fn blocks_that_do_not_add_up_are_said_and_mended() {
    let pair = pair();
    let mut client = pair.sql();
    run(
        &mut client,
        "UPDATE tandem.blocks SET count = count + 7 WHERE first = (SELECT first FROM tandem.blocks ORDER BY first OFFSET 3 LIMIT 1)",
    );
    let (answer, reason) = reconcile(&mut client, "'redis', prefix => 'a.', dry_run => true");
    assert_eq!(answer, "incomplete");
    assert!(reason.contains("hashes of postgres and redis differ"), "{reason}");
    assert_eq!(reconcile(&mut client, "'redis', prefix => 'a.'").0, "equal", "a check that mends mends them");
    equal_again(&pair, "blocks");
}

#[test]
fn a_sum_of_everything_that_is_wrong_is_said_and_mended() {
    let pair = pair();
    let mut client = pair.sql();
    run(&mut client, "UPDATE tandem.fold_state SET count = count + 7");
    let (answer, reason) = reconcile(&mut client, "'redis', dry_run => true");
    assert_eq!(answer, "incomplete", "{reason}");
    assert_eq!(reconcile(&mut client, "'redis'").0, "equal");
    equal_again(&pair, "the sum of everything");
}

#[test]
fn rows_written_with_triggers_off_are_doubted_and_found() {
    let pair = pair();
    let mut client = pair.sql();
    run(
        &mut client,
        "ALTER TABLE tandem.items DISABLE TRIGGER ALL; \
         UPDATE tandem.items SET payload = '[2]' WHERE id = 'a.7'; DELETE FROM tandem.items WHERE id = 'a.8'; \
         ALTER TABLE tandem.items ENABLE TRIGGER ALL",
    );
    let (answer, reason) = reconcile(&mut client, "'redis', dry_run => true");
    assert_eq!(answer, "incomplete", "{reason}");
    assert!(reason.contains("rebuild_blocks"), "{reason}");
    let verified: bool = value(&mut client, "SELECT ok FROM tandem.verify()");
    assert!(!verified, "verify() finds them too");
    // The content has no hash yet that it is known by.
    run(&mut client, "UPDATE tandem.items SET payload = '[3]' WHERE id = 'a.7'");
    run(&mut client, "SELECT tandem.rebuild_blocks()");
    let (answer, reason) = reconcile(&mut client, "'redis'");
    assert_eq!(answer, "equal", "{reason}");
    pair.settle("both sides agree", |_, redis| {
        ask_text(redis, &["TANDEM.GET", "a.7", "PAYLOAD"]).as_deref() == Some("[3]")
    });
    assert_eq!(check_postgres(&mut client, "at the end"), check_redis(&mut pair.commands(), "at the end"));
}

/// A row of links may be put back as it was, and the log be emptied of what has come since.
#[test]
fn a_link_whose_place_in_the_log_is_gone_is_told_of_everything() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('kept', '1')");
    pair.settle_at(1);
    wait::until("nothing waits any more", DEADLINE, || {
        value::<bool>(&mut client, "SELECT NOT needs_check AND NOT compare_due FROM tandem.links")
    });
    pair.pause();
    let before: String = value(&mut client, "SELECT log_position FROM tandem.links");
    run(&mut client, "SELECT tandem.put('gone', '1'), tandem.delete('gone')");
    run(&mut client, "SELECT tandem.delete('gone')");
    run(&mut client, "DO $$ BEGIN WHILE tandem.fold() > 0 LOOP NULL; END LOOP; END $$");
    for _ in 0..3 {
        run(&mut client, "UPDATE tandem.log_state SET slot = 1, slot_since = now() - interval '1 hour'");
        run(&mut client, "SELECT tandem.rotate_log()");
    }
    let emptied = "SELECT times_emptied FROM tandem.log_state";
    assert_eq!(value::<i64>(&mut client, emptied), 0, "the log is kept for a link that is paused");
    run(&mut client, "UPDATE tandem.links SET log_position = tandem.log_position()");
    wait::until("the log is emptied", DEADLINE, || {
        run(&mut client, "UPDATE tandem.log_state SET slot = 1, slot_since = now() - interval '1 hour'");
        run(&mut client, "SELECT tandem.rotate_log()");
        value::<i64>(&mut client, emptied) > 0
    });
    run(&mut client, &format!("UPDATE tandem.links SET log_position = '{before}'"));
    pair.resume();
    wait::until("the link streams", DEADLINE, || {
        value::<bool>(&mut client, "SELECT state = 'streaming' FROM tandem.links()")
    });
    // A first version of it here would lose against the removal that Postgres knows of.
    ask(&mut redis, &["TANDEM.PUT", "gone", "2"]);
    pair.settle_at(2);
    assert_eq!(value::<i64>(&mut client, "SELECT version FROM tandem.get('gone')"), 3);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.conflicts"), 0);
}

/// Rows of a dump that is restored with triggers off stay at the door, and nobody may be there to call them in.
#[test]
fn rows_that_were_restored_while_triggers_were_off_are_taken_in() {
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    run(&mut client, "SELECT tandem.put('a', '1')");
    run(
        &mut client,
        "ALTER TABLE tandem.restored_items DISABLE TRIGGER tandem_restore; \
         INSERT INTO tandem.restored_items SELECT 'b', version, \"timestamp\", payload_hash, payload, payload_blob, audit, \
            state, local, access_count, last_accessed FROM tandem.items",
    );
    assert!(!value::<bool>(&mut client, "SELECT tandem.exists('b')"));
    wait::until("the row is an item", DEADLINE, || value::<bool>(&mut client, "SELECT tandem.exists('b')"));
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.doubtful()"), 0);
}

#[test]
fn a_cache_whose_hash_is_not_that_of_its_copies_is_not_said_to_be_equal() {
    let redis = Redis::start(Options::in_memory());
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let (mut client, mut commands) = (postgres.connect(), redis.connect());
    let picky = Picky::before(redis.port(), "nothing", "ERR nothing");
    run(&mut client, "SELECT tandem.put('c:' || n, '1') FROM generate_series(1, 5) n");
    run(&mut client, &format!("SELECT tandem.link('{}', mode => 'cache', prefix => 'c:')", picky.url()));
    wait::until("copies are there", DEADLINE, || {
        let _ = tandem_tests::redis::send(&mut commands, &["TANDEM.GET", "c:1"]);
        ask_number(&mut commands, &["TANDEM.COUNT"]) > 0
    });
    assert_eq!(reconcile(&mut client, "'redis'").0, "equal");
    picky.lie();
    let (answer, reason) = reconcile(&mut client, "'redis', prefix => 'c:'");
    assert_eq!(answer, "incomplete", "{reason}");
    assert!(reason.contains("TANDEM.VERIFY"), "{reason}");
}
