//! A link to a Redis Cluster: all masters are one Redis to it, and slots may move while it runs.

use ::redis::cluster::ClusterConnection;
use ::redis::{RedisResult, Value};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use tandem_tests::by_hand;
use tandem_tests::cluster::Cluster;
use tandem_tests::pair::{count_of_postgres, count_of_redis, root_of_postgres};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Redis, ask, ask_text, send};
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn tell(connection: &mut ClusterConnection, words: &[&str]) -> RedisResult<Value> {
    let mut command = ::redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query(connection)
}

/// Puts an item. While a master is new, or its slots move, a client may have to try again.
fn put(connection: &mut ClusterConnection, id: &str, payload: &str) {
    wait::until(&format!("{id} is put"), DEADLINE, || tell(connection, &["TANDEM.PUT", id, payload]).is_ok());
}

fn is_there(connection: &mut ClusterConnection, id: &str) -> bool {
    matches!(tell(connection, &["TANDEM.GET", id, "PAYLOAD"]), Ok(Value::BulkString(_)))
}

/// A cluster of three masters with a link.
fn start() -> (Cluster, Postgres) {
    let cluster = Cluster::start(3);
    let postgres = Postgres::with_extension(&pg::Options { fsync: true, ..pg::Options::default() });
    run(&mut postgres.connect(), &format!("SELECT tandem.link('{}')", cluster.url(0)));
    (cluster, postgres)
}

/// What all nodes hold together: number of items, and their hash.
fn together(client: &mut Client) -> Option<(i64, Option<String>)> {
    let query = "SELECT items, root FROM tandem.link_nodes('redis') WHERE node IS NULL";
    let row = client.query(query, &[]).ok()?.pop()?;
    Some((row.get(0), row.get(1)))
}

/// Waits until the nodes together hold what Postgres holds, so many items, and nothing waits anywhere.
fn settle(cluster: &Cluster, postgres: &Postgres, count: i64) {
    let mut client = postgres.connect();
    let look = |client: &mut Client| (count_of_postgres(client), root_of_postgres(client), together(client));
    wait::until_or(
        DEADLINE,
        || {
            let (here, root, there) = look(&mut client);
            let query = "SELECT sum(coalesce(waiting, 1))::bigint FROM tandem.link_status";
            value::<i64>(&mut client, query) == 0 && here == count && there == Some((count, root))
        },
        || {
            let mut client = postgres.connect();
            let links = rows(
                &mut client,
                "SELECT l::text FROM tandem.links() l UNION ALL SELECT l::text FROM tandem.link_status l",
            );
            let links: Vec<String> = links.iter().map(|row| row.get(0)).collect();
            let seen = look(&mut client);
            format!("both sides hold {count} items: {seen:?} {links:?}; {}", postgres.log_tail())
        },
    );
    cluster.nodes.iter().filter(|node| node.is_running()).for_each(assert_verified);
    assert!(value::<bool>(&mut client, "SELECT ok FROM tandem.verify()"));
    let answer: String = value(&mut client, "SELECT answer FROM tandem.reconcile('redis', dry_run => true)");
    assert_eq!(answer, "equal");
}

fn assert_verified(node: &Redis) {
    let Value::Map(fields) = ask(&mut node.connect_resp3(), &["TANDEM.VERIFY"]) else { panic!("a record") };
    let ok = fields.iter().find(|(name, _)| *name == Value::BulkString(b"ok".to_vec()));
    assert!(matches!(ok, Some((_, Value::Int(1) | Value::Boolean(true)))), "{fields:?}");
}

/// Pauses the link and waits until its session has let go.
fn pause(client: &mut Client) {
    run(client, "SELECT tandem.pause_link('redis')");
    wait::until("the session lets go", DEADLINE, || {
        value::<i64>(client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tandem link redis'")
            == 0
    });
}

#[test]
fn a_cluster_is_one_redis_to_its_link() {
    let (cluster, postgres) = start();
    let (mut client, mut redis) = (postgres.connect(), cluster.connect());
    for number in 0..300 {
        put(&mut redis, &format!("r.{number}"), "1");
    }
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'p.' || n, '1' FROM generate_series(1, 300) n",
    );
    settle(&cluster, &postgres, 600);
    let nodes = rows(&mut client, "SELECT node, slots, items, root FROM tandem.link_nodes()");
    assert_eq!(nodes.len(), 4);
    for node in &nodes[..3] {
        let (slots, items): (String, i64) = (node.get(1), node.get(2));
        assert!(slots.contains('-') && items > 100, "each has its part: {node:?}");
    }
    let parts: i64 = cluster.nodes.iter().map(|node| count_of_redis(&mut node.connect())).sum();
    assert_eq!(parts, 600, "no node holds what is another's");

    // Both kinds of removals, dropped copies, and a node that drops all of its.
    tell(&mut redis, &["TANDEM.REMOVE", "r.1"]).expect("it is removed");
    tell(&mut redis, &["DEL", "r.2"]).expect("it is dropped");
    run(&mut client, "SELECT tandem.delete('p.1')");
    ask(&mut cluster.nodes[1].connect(), &["FLUSHALL"]);
    settle(&cluster, &postgres, 598);

    // A check, with the link at rest.
    pause(&mut client);
    for number in 3..9 {
        put(&mut redis, &format!("r.{number}"), "2");
        tell(&mut redis, &["DEL", &format!("p.{number}")]).expect("it is dropped");
    }
    run(&mut client, "SELECT tandem.put('p.9', '2'), tandem.delete('p.10')");
    let row = rows(&mut client, "SELECT differences, repaired FROM tandem.reconcile('redis')").remove(0);
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (14, 14));
    run(&mut client, "SELECT tandem.resume_link('redis')");
    settle(&cluster, &postgres, 597);

    // Another Postgres that has no link with it.
    let other = Postgres::with_extension(&pg::Options::default());
    run(
        &mut other.connect(),
        "SELECT tandem.put('o.1', '1'), tandem.put('o.2', '1'), tandem.put('o.3', '1')",
    );
    let query = format!("SELECT answer, repaired FROM tandem.reconcile('{}')", cluster.url(2));
    let row = rows(&mut other.connect(), &query).remove(0);
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("equal", 600));
    settle(&cluster, &postgres, 600);

    run(&mut client, "SELECT tandem.unlink('redis')");
    for node in &cluster.nodes {
        wait::until("it is detached everywhere", DEADLINE, || {
            ask(&mut node.connect(), &["TANDEM.LINK", "LIST"]) == Value::Array(vec![])
        });
    }
    assert_eq!(refused(&mut client, "SELECT tandem.link_nodes('redis')").0, "08003");
}

#[test]
fn a_node_takes_nothing_that_another_serves() {
    let cluster = Cluster::start(3);
    let mut node = cluster.nodes[0].connect();
    let own = cluster.id_in("own.", 0..5000);
    let foreign = cluster.id_in("foreign.", 6000..16384);
    by_hand::attach(&mut node, "pg");
    let mut batch = |id: &str| {
        let json = format!("[{{\"op\":\"put\",\"id\":\"{id}\",\"payload\":1}}]");
        send(&mut node, &["TANDEM.BATCH", &json])
    };
    assert!(batch(&own).is_ok());
    let error = batch(&foreign).expect_err("it is another's").to_string();
    assert!(error.contains(&foreign) && error.contains("another node"), "{error}");
    let error =
        send(&mut node, &["TANDEM.LINK", "PUSH", "pg", &foreign, "x"]).expect_err("no keys").to_string();
    assert!(error.contains("TANDEM.JOIN"), "{error}");
    let error =
        send(&mut node, &["TANDEM.JOIN", &foreign, "x", "LINK", "pg"]).expect_err("another's").to_string();
    assert!(error.contains("MOVED") || error.contains("Moved") || error.contains("moved"), "{error}");
    assert_eq!(count_of_redis(&mut node), 1);
}

/// Writes until it is told to stop; how many writes were acknowledged.
fn write(cluster: &Cluster, start: &str, stop: &AtomicBool) -> i64 {
    let mut connection = cluster.connect();
    let mut acknowledged = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{start}{acknowledged}");
        put(&mut connection, &id, "1");
        acknowledged += 1;
    }
    acknowledged
}

#[test]
fn slots_move_while_the_link_runs() {
    let (mut cluster, postgres) = start();
    let mut client = postgres.connect();
    let moved = 0..150;
    let mut redis = cluster.connect();
    let gone = cluster.id_in("gone.", moved.clone());
    put(&mut redis, &gone, "1");
    for number in 0..500 {
        put(&mut redis, &format!("before.{number}"), "1");
    }
    settle(&cluster, &postgres, 501);
    run(&mut client, &format!("SELECT tandem.delete('{gone}')"));
    settle(&cluster, &postgres, 500);
    // Slots go to a master that the link does not know yet, too.
    cluster.add(None);
    let stop = AtomicBool::new(false);
    let (by_redis, by_sql) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&cluster, "redis.", &stop));
        let sql = scope.spawn(|| {
            let mut client = postgres.connect();
            let mut count = 0_i64;
            while !stop.load(Ordering::Relaxed) {
                run(&mut client, &format!("SELECT tandem.put('sql.{count}', '1')"));
                count += 1;
            }
            count
        });
        wait::until("there is some load", DEADLINE, || count_of_postgres(&mut postgres.connect()) > 700);
        cluster.migrate(0, 1, moved.clone());
        cluster.migrate(2, 3, 16200..16384);
        cluster.migrate(1, 0, 75..100);
        let before = count_of_postgres(&mut client);
        wait::until("the load goes on", DEADLINE, || {
            count_of_postgres(&mut postgres.connect()) > before + 200
        });
        stop.store(true, Ordering::Relaxed);
        (writer.join().expect("the writer ends"), sql.join().expect("the writer ends"))
    });
    settle(&cluster, &postgres, 500 + by_redis + by_sql);
    let slots: Vec<String> =
        rows(&mut client, "SELECT slots FROM tandem.link_nodes() WHERE node IS NOT NULL")
            .iter()
            .map(|row| row.get(0))
            .collect();
    assert!(slots.contains(&"16200-16383".to_owned()), "{slots:?}");
    // A removal is known where the slot is now: what is put there counts on from it and lives.
    let owner = if (75..100).contains(&cluster.slot(&gone)) { 0 } else { 1 };
    let mut node = cluster.nodes[owner].connect();
    wait::until("its tombstone has come along", DEADLINE, || {
        ask(&mut node, &["TANDEM.LINK", "FETCH", &gone]) != Value::Array(vec![Value::Nil])
    });
    put(&mut redis, &gone, "\"again\"");
    settle(&cluster, &postgres, 501 + by_redis + by_sql);
    assert!(is_there(&mut redis, &gone));
    let version: i64 = value(&mut client, &format!("SELECT version FROM tandem.get('{gone}')"));
    assert_eq!(version, 3);
}

#[test]
fn a_cluster_reads_through_a_link_in_cache_mode() {
    let cluster = Cluster::start(3);
    let postgres = Postgres::with_extension(&pg::Options { fsync: true, ..pg::Options::default() });
    let (mut client, mut redis) = (postgres.connect(), cluster.connect());
    let moved = 0..60;
    let [kept, written] = ["c:kept.", "c:written."].map(|start| cluster.id_in(start, moved.clone()));
    run(
        &mut client,
        &format!(
            "SELECT tandem.put('c:' || n, '[1]', version => 3) FROM generate_series(1, 100) n; \
             SELECT tandem.put('{kept}', '[1]'), tandem.put('{written}', '[1]', version => 7); \
             SELECT tandem.link('{}', mode => 'cache', prefix => 'c:')",
            cluster.url(0)
        ),
    );
    wait::until("each node fetches what is asked of it", DEADLINE, || {
        (1..=100).all(|number| is_there(&mut redis, &format!("c:{number}")))
    });
    assert!(cluster.nodes.iter().all(|node| count_of_redis(&mut node.connect()) > 15));
    put(&mut redis, "c:1", "[2]");
    run(&mut client, "SELECT tandem.put('c:2', '[2]')");
    let version = |client: &mut Client, id: &str| -> Option<i64> {
        rows(client, &format!("SELECT version FROM tandem.get('{id}')")).first().map(|row| row.get(0))
    };
    wait::until("what is written on either side is on the other", DEADLINE, || {
        let pushed = tell(&mut redis, &["TANDEM.GET", "c:2", "PAYLOAD"])
            .is_ok_and(|payload| payload == Value::BulkString(b"[2]".to_vec()));
        pushed && version(&mut client, "c:1") == Some(4)
    });
    // A slot that moves is served where it is then: what was never here is fetched, and counted on from.
    cluster.migrate(0, 1, moved);
    wait::until("the slot is written on its new master", DEADLINE, || {
        tell(&mut redis, &["TANDEM.PUT", &written, "[9]"]).is_ok()
    });
    wait::until("and read", DEADLINE, || is_there(&mut redis, &kept));
    wait::until("what was written counts on", DEADLINE, || version(&mut client, &written) == Some(8));
    wait::until("a check finds what the nodes hold equal", DEADLINE, || {
        value::<String>(&mut client, "SELECT answer FROM tandem.reconcile('redis', dry_run => true)")
            == "equal"
    });
    for node in &cluster.nodes {
        assert_verified(node);
    }
}

/// A node keeps what it has not handed over, though the slot of it is another's by then.
#[test]
fn what_waits_where_a_slot_was_reaches_postgres() {
    let (cluster, postgres) = start();
    let (mut client, mut redis) = (postgres.connect(), cluster.connect());
    let moved = 10..40;
    let [kept, removed] = ["kept.", "removed."].map(|start| cluster.id_in(start, moved.clone()));
    put(&mut redis, &kept, "1");
    put(&mut redis, &removed, "1");
    settle(&cluster, &postgres, 2);
    pause(&mut client);
    put(&mut redis, &kept, "[2]");
    tell(&mut redis, &["TANDEM.REMOVE", &removed]).expect("it is removed");
    cluster.migrate(0, 2, moved);
    assert_eq!(
        ask_text(&mut cluster.nodes[2].connect(), &["TANDEM.GET", &kept, "PAYLOAD"]).as_deref(),
        Some("[2]")
    );
    run(&mut client, "SELECT tandem.resume_link('redis')");
    settle(&cluster, &postgres, 1);
    let payload: String = value(&mut client, &format!("SELECT payload::text FROM tandem.get('{kept}')"));
    assert_eq!(payload, "[2]");
    assert!(!is_there(&mut redis, &removed));
}

/// What has expired is known where its slot is: what is put there counts on from what Postgres has.
#[test]
fn what_had_expired_before_its_slot_moved_is_counted_on_from() {
    let (cluster, postgres) = start();
    let (mut client, mut redis) = (postgres.connect(), cluster.connect());
    let moved = 10..40;
    let expired = cluster.id_in("expired.", moved.clone());
    let other = cluster.id_in("other.", 41..100);
    for id in [&expired, &other] {
        for content in ["1", "2", "3"] {
            put(&mut redis, id, content);
        }
    }
    settle(&cluster, &postgres, 2);
    for id in [&expired, &other] {
        tell(&mut redis, &["PEXPIRE", id, "5"]).expect("it is there");
        wait::until("the copy expires", DEADLINE, || !is_there(&mut redis, id));
    }
    let is_equal = |client: &mut Client| {
        value::<bool>(
            client,
            "SELECT tandem.merkle_root() = (SELECT root FROM tandem.link_nodes() WHERE node IS NULL)",
        )
    };
    assert!(is_equal(&mut client), "ghosts stand for what has expired");
    cluster.migrate(0, 2, moved);
    wait::until("it is brought to where its slot is", DEADLINE, || is_there(&mut redis, &expired));
    wait::until("both sides are equal", DEADLINE, || is_equal(&mut client));
    assert!(!is_there(&mut redis, &other), "the other's slot is where it was");
    for id in [&expired, &other] {
        put(&mut redis, id, "\"again\"");
    }
    for id in [&expired, &other] {
        wait::until("it wins in Postgres", DEADLINE, || {
            value::<i64>(&mut client, &format!("SELECT version FROM tandem.items WHERE id = '{id}'")) == 4
        });
    }
}

#[test]
fn a_master_is_killed_and_comes_back() {
    let (mut cluster, postgres) = start();
    let mut client = postgres.connect();
    let mut redis = cluster.connect();
    for number in 0..300 {
        put(&mut redis, &format!("before.{number}"), "1");
    }
    // Some of it was not handed over when the server dies. It is the one of the link's url.
    cluster.nodes[0].kill_hard();
    let own = ids_of(&cluster, 1);
    for id in &own {
        ask(&mut cluster.nodes[1].connect(), &["TANDEM.PUT", id, "1"]);
    }
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'p.' || n, '1' FROM generate_series(1, 300) n",
    );
    run(&mut client, "SELECT tandem.put('before.0', '\"later\"'), tandem.put('before.1', '\"later\"')");
    cluster.nodes[0].restart();
    cluster.wait_whole();
    settle(&cluster, &postgres, 600 + own.len() as i64);
}

/// Ids that a master serves.
fn ids_of(cluster: &Cluster, master: u16) -> Vec<String> {
    let part = 16384 / 3;
    let slots = master * part + 10..(master + 1) * part - 10;
    (0..5).map(|number| cluster.id_in(&format!("meanwhile.{number}."), slots.clone())).collect()
}

#[test]
fn a_replica_takes_over() {
    let (mut cluster, postgres) = start();
    cluster.add(Some(0));
    let (mut client, mut redis) = (postgres.connect(), cluster.connect());
    for number in 0..300 {
        put(&mut redis, &format!("before.{number}"), "1");
    }
    let gone = cluster.id_in("gone.", 0..5000);
    put(&mut redis, &gone, "1");
    tell(&mut redis, &["TANDEM.REMOVE", &gone]).expect("it is removed");
    settle(&cluster, &postgres, 300);
    wait::until("the replica has it all", DEADLINE, || {
        let of = |node: usize| {
            let info = ask_text(&mut cluster.nodes[node].connect(), &["INFO", "tandem"]).unwrap_or_default();
            info.lines().find(|line| line.contains("_db0:")).map(str::to_owned)
        };
        of(0).is_some() && of(0) == of(3)
    });
    cluster.nodes[0].kill_hard();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'p.' || n, '1' FROM generate_series(1, 300) n",
    );
    wait::until("the replica is a master", DEADLINE, || {
        let info = ask_text(&mut cluster.nodes[3].connect(), &["INFO", "replication"]).unwrap_or_default();
        info.contains("role:master")
    });
    cluster.wait_whole();
    let mut redis = cluster.connect();
    for number in 0..300 {
        put(&mut redis, &format!("after.{number}"), "1");
    }
    settle(&cluster, &postgres, 900);
    assert!(!is_there(&mut redis, &gone));
}
