//! A check does not say that the sides are equal where it cannot know it.

use postgres::Client;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask_text};
use tandem_tests::sql::{rows, run, value};

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
