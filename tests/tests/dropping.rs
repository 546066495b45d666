//! DROP EXTENSION under a link that works: it ends, and so does whatever the workers were doing.

use std::sync::atomic::{AtomicBool, Ordering};
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, Redis, ask_number, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Ends the writer, also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_extension_is_dropped_and_made_again_while_a_link_is_busy() {
    let redis = Redis::start(Options::in_memory());
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut commands = redis.connect();
            let mut number = 0;
            while !is_over.load(Ordering::SeqCst) {
                number += 1;
                let id = format!("r.{}", number % 500);
                // Where no link is attached it is written all the same; an absent id may be asked for in vain.
                let _ = send(&mut commands, &["TANDEM.PUT", &id, &format!("{number}")]);
            }
        });
        let _over = Over(&is_over);
        for round in 0..6 {
            run(&mut client, &format!("SELECT tandem.link('{}')", redis.url()));
            wait::until_or(
                DEADLINE,
                || {
                    run(
                        &mut client,
                        "INSERT INTO tandem.items (id, payload) SELECT 'p.' || n, to_jsonb(random()) \
                            FROM generate_series(1, 200) n \
                         ON CONFLICT (id) DO UPDATE SET payload = excluded.payload",
                    );
                    value::<bool>(&mut client, "SELECT min(least(pulled, pushed)) > 100 FROM tandem.links()")
                },
                || format!("the link carries in round {round}\n{}", postgres.log_tail()),
            );
            // An error here would be that of a deadlock.
            run(&mut client, "DROP EXTENSION tandem CASCADE; CREATE EXTENSION tandem");
        }
    });
    let mut commands = redis.connect();
    wait::until("Redis keeps nothing for a link that is gone", DEADLINE, || {
        ask_number(&mut commands, &["TANDEM.LINK", "PENDING"]) == 0
    });
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(value::<i64>(&mut client, deadlocks), 0);
}
