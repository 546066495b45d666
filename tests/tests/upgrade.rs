//! pg_upgrade takes what is tandem's into the new cluster while Redis goes on writing; the link waits there to be taken
//! over, as it does after a restore.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tandem_tests::census::check_postgres;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{self, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

const ITEMS: &str = "INSERT INTO tandem.items (id, payload, state) \
    SELECT 'p.' || n, to_jsonb(n), CASE WHEN n % 2 = 0 THEN 'even' ELSE 'default' END FROM generate_series(1, 3000) n";

/// `databases`: those of the new cluster that workers serve from its first start on.
fn upgrades(databases: &str) {
    let options = pg::Options {
        fsync: true,
        settings: vec![
            format!("tandem.databases = '{databases}'"),
            "max_prepared_transactions = 4".to_owned(),
        ],
        ..pg::Options::default()
    };
    let mut pair = Pair::with(&options, redis::Options::durable());
    let mut client = pair.sql();
    run(&mut client, ITEMS);
    run(
        &mut client,
        "SELECT tandem.route('view.', 'view_items'); SELECT tandem.put('view.1', '[1]'); \
         SELECT tandem.delete('p.7'); SELECT tandem.put_binary('raw', '\\x00ff')",
    );
    drop(client);
    let (ended, written) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut redis = pair.commands();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let count = written.load(Ordering::Relaxed);
                let own = ["TANDEM.PUT", &format!("r.{count}"), &count.to_string()].map(str::to_owned);
                let shared = ["TANDEM.PUT", &format!("p.{}", count % 3000 + 1), "0", "STATE", "odd"];
                // While Redis does not know yet that Postgres is gone it may ask there, in vain.
                if send(&mut redis, &own).is_ok() {
                    written.store(count + 1, Ordering::Relaxed);
                    let _ = send(&mut redis, &shared);
                }
            }
        });
        wait::until("Redis is written to", DEADLINE, || written.load(Ordering::Relaxed) > 100);
        pair.postgres.upgrade(&options);
        let before = written.load(Ordering::Relaxed);
        wait::until("Redis is written to still", DEADLINE, || written.load(Ordering::Relaxed) > before + 100);
        ended.store(true, Ordering::Relaxed);
    });
    let mut client = pair.sql();
    check_postgres(&mut client, "after pg_upgrade");
    wait::until("the link waits to be taken over", DEADLINE, || {
        value(
            &mut client,
            "SELECT coalesce(bool_and(paused AND last_error LIKE '%resume_link%'), false) FROM tandem.links",
        )
    });
    run(&mut client, &format!("SELECT tandem.resume_link('{}')", pair.link));
    let count = i64::from(written.load(Ordering::Relaxed));
    pair.settle("everything is on both sides", |client, _| {
        value::<i64>(client, "SELECT count(*) FROM tandem.items WHERE id LIKE 'r.%'") == count
    });
    check_postgres(&mut client, "after the link was taken over");
    let answer: String =
        value(&mut client, &format!("SELECT answer FROM tandem.reconcile('{}', dry_run => true)", pair.link));
    assert_eq!(answer, "equal");
    // It is a whole installation: what is in it can be dropped and made anew.
    run(&mut client, "DROP EXTENSION tandem CASCADE; CREATE EXTENSION tandem");
}

#[test]
fn a_cluster_is_upgraded_with_its_link() {
    upgrades("postgres");
}

/// The workers of the new server must not be in the way of pg_upgrade, whichever database they are to serve.
#[test]
fn a_cluster_is_upgraded_whatever_databases_are_served() {
    upgrades("postgres, template1");
}
