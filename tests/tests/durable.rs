//! Neither side takes for certain what a crash of the other would undo, whatever its settings say of the disk.

use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_number, ask_text};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A pair whose Postgres writes its log to disk when somebody asks for it, and otherwise after ten seconds.
fn lazy() -> Pair {
    let settings = ["synchronous_commit = off", "wal_writer_delay = '10s'", "wal_writer_flush_after = 0"];
    let settings = settings.map(str::to_owned).to_vec();
    Pair::with(&pg::Options { fsync: true, settings, ..pg::Options::default() }, Options::durable())
}

#[test]
fn what_is_acknowledged_to_redis_survives_a_crash_of_postgres() {
    let mut pair = lazy();
    run(&mut pair.sql(), "SELECT tandem.put('first', '1')");
    pair.settle_at(1);
    for round in 0..5 {
        let mut redis = pair.commands();
        let id = format!("a.{round}");
        ask(&mut redis, &["TANDEM.PUT", &id, "1"]);
        wait::until("Redis forgets it", DEADLINE, || {
            ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) == 0
        });
        pair.postgres.kill_hard();
        pair.postgres.restart();
        let mut client = pair.sql();
        assert!(value::<bool>(&mut client, &format!("SELECT tandem.exists('{id}')")), "{id} is gone");
    }
    pair.settle_at(6);
}

#[test]
fn redis_has_nothing_that_a_crash_of_postgres_undoes() {
    let mut pair = lazy();
    for round in 0..5 {
        let id = format!("a.{round}");
        run(&mut pair.sql(), &format!("SELECT tandem.put('{id}', '1')"));
        let mut redis = pair.commands();
        wait::until("it is in Redis", DEADLINE, || {
            ask_text(&mut redis, &["TANDEM.GET", &id, "PAYLOAD"]).is_some()
        });
        pair.postgres.kill_hard();
        pair.postgres.restart();
        let mut client = pair.sql();
        assert!(value::<bool>(&mut client, &format!("SELECT tandem.exists('{id}')")), "{id} is gone");
    }
    pair.settle_at(5);
    let census = check_postgres(&mut pair.sql(), "in Postgres");
    assert_eq!(census, check_redis(&mut pair.commands(), "in Redis"));
}

/// What a restore or a crash has undone in Postgres shows in the roots, which are compared at each attach.
#[test]
fn what_is_missing_on_one_side_is_found_at_the_next_attach() {
    let pair = lazy();
    let mut client = pair.sql();
    run(&mut client, "SELECT tandem.put('a', '1'), tandem.put('b', '1')");
    pair.settle_at(2);
    pair.pause();
    // As after a crash: the row is gone, and neither the log nor a tombstone tells of it.
    run(
        &mut client,
        "ALTER TABLE tandem.items DISABLE TRIGGER ALL; DELETE FROM tandem.items WHERE id = 'a'; \
         ALTER TABLE tandem.items ENABLE TRIGGER USER; SELECT tandem.rebuild_blocks()",
    );
    pair.resume();
    pair.settle_at(2);
    wait::until("the check is in the books", DEADLINE, || {
        value::<bool>(
            &mut client,
            "SELECT EXISTS (SELECT FROM tandem.checks WHERE repaired = 1 AND kind = 'attach')",
        )
    });
}
