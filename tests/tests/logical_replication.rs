//! The items of one Postgres, replicated into another that has tandem, are captured there: its hashes are right, and
//! its link carries them to Redis.

use postgres::Client;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{Pair, root_of_postgres, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, ask, ask_text};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

/// Waits until both Postgres and the Redis of the second hold the same, and checks that they do.
fn same(first: &mut Client, pair: &Pair, when: &str) {
    let (mut second, mut redis) = (pair.sql(), pair.commands());
    let root = root_of_postgres(first);
    wait::until_or(
        DEADLINE,
        || root_of_postgres(&mut second) == root && root_of_redis(&mut redis) == root,
        || format!("all three are the same {when}\n{}", pair.report()),
    );
    let census = check_postgres(&mut second, when);
    assert_eq!(census.root, check_redis(&mut redis, when).root, "{when}");
}

#[test]
fn items_that_are_replicated_are_captured_and_linked() {
    let options = pg::Options { settings: vec!["wal_level = logical".to_owned()], ..pg::Options::default() };
    let first = Postgres::with_extension(&options);
    let mut client = first.connect();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload, state) SELECT 'a.' || n, to_jsonb(n), 'odd' FROM generate_series(1, 500) n; \
         SELECT tandem.put_binary('blob', '\\x00ff'), tandem.put('here', '1', local => true), \
             tandem.put('a.7', '7', version => 70, audit => '{\"home\":\"x\"}'), tandem.delete('a.8')",
    );
    // The partitions of the two need not be the same.
    run(&mut client, "SELECT tandem.route('view:', 'view_items'); SELECT tandem.put('view:1', '1')");
    run(
        &mut client,
        "CREATE PUBLICATION items FOR TABLE tandem.items WITH (publish_via_partition_root = true)",
    );

    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let mut second = pair.sql();
    run(&mut second, "SELECT tandem.route('a.', 'a_items')");
    let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", first.port());
    run(&mut second, &format!("CREATE SUBSCRIPTION items CONNECTION '{connection}' PUBLICATION items"));
    same(&mut client, &pair, "after the first copy");

    run(
        &mut client,
        "SELECT tandem.put('a.1', '\"changed\"'), tandem.delete('a.2'), tandem.set_state('a.3', 'even'), \
             tandem.put('a.8', '\"again\"'), tandem.put('new', '1'), tandem.delete('view:1')",
    );
    run(&mut client, "UPDATE tandem.items SET id = 'moved.4' WHERE id = 'a.4'");
    run(&mut client, "UPDATE tandem.items SET access_count = 9 WHERE id = 'a.5'");
    run(&mut client, "BEGIN; SELECT tandem.put('never', '1'); ROLLBACK");
    same(&mut client, &pair, "after changes");
    let mut redis = pair.commands();
    for (id, payload) in [
        ("a.1", Some("\"changed\"")),
        ("a.2", None),
        ("a.4", None),
        ("a.8", Some("\"again\"")),
        ("here", None),
    ] {
        assert_eq!(ask_text(&mut redis, &["TANDEM.GET", id, "PAYLOAD"]).as_deref(), payload, "{id}");
    }
    let versions =
        "SELECT string_agg(id || ' ' || version || ' ' || \"timestamp\", ',' ORDER BY id) FROM tandem.items";
    assert_eq!(value::<String>(&mut client, versions), value::<String>(&mut second, versions));
    // The removal is known here too: who puts it anew counts on.
    ask(&mut redis, &["TANDEM.PUT", "a.2", "1"]);
    wait::until("a put in Redis is in its Postgres", DEADLINE, || {
        value(&mut second, "SELECT EXISTS (SELECT FROM tandem.items WHERE id = 'a.2' AND version = 3)")
    });
    run(&mut second, "DELETE FROM tandem.items WHERE id = 'a.2'");
    run(&mut client, "TRUNCATE tandem.items");
    same(&mut client, &pair, "after TRUNCATE");
    let count: i64 = value(&mut second, "SELECT tandem.count()");
    assert_eq!(count, 0);
    // Before the publisher goes: the slot there ends with the subscription.
    run(&mut second, "DROP SUBSCRIPTION items");
}
