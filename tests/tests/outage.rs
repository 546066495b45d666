//! What an outage costs: in Redis memory for each id that waits and not for each write, with a bound; in Postgres the
//! log, which is emptied when the link is back; and in the worker no more than a few pages of what it carries.

use ::redis::{Connection, Pipeline, Value};
use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_number, ask_text, send};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

const HOT_IDS: i64 = 1000;

/// Writes every hot id once.
fn write_hot(redis: &mut Connection, round: usize) {
    let mut pipeline = Pipeline::new();
    for id in 0..HOT_IDS {
        pipeline.cmd("TANDEM.PUT").arg(format!("hot.{id:03}")).arg(format!("{{\"round\":{round}}}"));
    }
    pipeline.query::<Vec<Value>>(redis).expect("puts are answered");
}

/// A number of `INFO tandem`, of its own or of the first database.
fn told(redis: &mut Connection, name: &str) -> i64 {
    let info = ask_text(redis, &["INFO", "tandem"]).expect("INFO answers");
    let mut fields = info.split(['\r', '\n', ',']).filter_map(|field| {
        let (field, value) = field.rsplit_once(['=', ':'])?;
        (field == name || field.ends_with(&format!("_{name}")) || field.ends_with(&format!(":{name}")))
            .then_some(value)
    });
    fields.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {info}"))
}

#[test]
fn an_outage_of_postgres_costs_redis_memory_for_each_id_and_within_a_bound() {
    let mut pair = Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, Options::in_memory());
    let mut redis = pair.commands();
    write_hot(&mut redis, 0);
    // Until the first comparison is done, a write under an id that is not here asks Postgres for it.
    pair.settle("the link has compared everything", |client, redis| {
        told(redis, "pending") == 0 && value(client, "SELECT state = 'streaming' FROM tandem.links()")
    });
    pair.postgres.kill_hard();
    write_hot(&mut redis, 1);
    let after_one = (told(&mut redis, "pending"), told(&mut redis, "pending_bytes"));
    assert_eq!(after_one.0, HOT_IDS);
    (2..100).for_each(|round| write_hot(&mut redis, round));
    assert_eq!(
        (told(&mut redis, "pending"), told(&mut redis, "pending_bytes")),
        after_one,
        "100 writes of each id"
    );

    let bound = (after_one.1 + 1000).to_string();
    ask(&mut redis, &["CONFIG", "SET", "tandem.pending-bytes-max", &bound]);
    let refused = |redis: &mut Connection, words: &[&str]| match send(redis, words) {
        Err(error) => error.to_string(),
        Ok(answer) => panic!("{words:?} is answered {answer:?}"),
    };
    let mut taken = 0;
    let full = loop {
        match send(&mut redis, &["TANDEM.PUT", &format!("more.{taken}"), "1"]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100, "the bound holds");
    };
    assert!(taken > 0, "what fits is taken: {full}");
    for words in [
        &["TANDEM.PUT", "hot.001", "1"][..],
        &["TANDEM.MERGE", "hot.001", "{\"a\":1}"],
        &["TANDEM.MPUT", "1", "hot.001", "1"],
        &["TANDEM.REMOVE", "hot.001"],
        &["TANDEM.STATE", "SET", "hot.001", "other"],
    ] {
        let text = refused(&mut redis, words);
        assert!(text.contains("BACKPRESSURE") && text.contains(&bound), "{words:?}: {text}");
    }
    assert_eq!(told(&mut redis, "refused_writes"), 6);
    assert_eq!(
        ask_text(&mut redis, &["TANDEM.GET", "hot.001", "PAYLOAD"]).as_deref(),
        Some("{\"round\":99}")
    );
    assert_eq!(ask_number(&mut redis, &["TANDEM.COUNT"]), HOT_IDS + taken);
    pair.postgres.restart();
    let (mut client, all) = (pair.sql(), HOT_IDS + taken);
    pair.settle("everything has been taken", |client, redis| {
        value::<i64>(client, "SELECT tandem.count()") == all && told(redis, "pending") == 0
    });
    assert_eq!(told(&mut redis, "pending_bytes"), 0);
    let rounds: i64 = value(
        &mut client,
        "SELECT count(*) FROM tandem.items WHERE id LIKE 'hot.%' AND payload->'round' = '99'",
    );
    assert_eq!(rounds, HOT_IDS);
    ask(&mut redis, &["TANDEM.PUT", "hot.001", "1"]);
}

/// Bytes of the log's tables.
fn log_bytes(client: &mut Client) -> i64 {
    value(
        client,
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'tandem.changes'::regclass",
    )
}

#[test]
fn the_log_of_an_outage_is_gone_when_the_link_is_back() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let mut client = pair.sql();
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'hot.' || n, '0' FROM generate_series(1, 1000) n",
    );
    pair.settle_at(1000);
    let small = log_bytes(&mut client);
    pair.pause();
    for round in 1..=250 {
        run(&mut client, &format!("UPDATE tandem.items SET payload = '{round}'"));
    }
    run(&mut client, "DO $$ BEGIN WHILE tandem.fold() > 0 LOOP NULL; END LOOP; END $$");
    let large = log_bytes(&mut client);
    assert!(large > small + 30_000_000, "the log of 250,000 changes is kept for the link: {large} bytes");
    for _ in 0..5 {
        run(&mut client, "SELECT tandem.rotate_log()");
    }
    assert!(log_bytes(&mut client) >= large, "nothing that the link has not taken is dropped");
    pair.resume();
    pair.settle("the last changes are in Redis", |_, redis| {
        ask_text(redis, &["TANDEM.GET", "hot.1000", "PAYLOAD"]).as_deref() == Some("250")
    });
    let mut left = large;
    // What is left fits the slot that is written, with its index.
    wait::until("the log of the outage is gone", DEADLINE, || {
        run(&mut client, "UPDATE tandem.log_state SET slot_since = now() - interval '1 hour'");
        run(&mut client, "SELECT tandem.rotate_log()");
        left = log_bytes(&mut client);
        left <= small + 24_000_000
    });
    wait::until("nothing waits any more", DEADLINE, || {
        value::<i64>(&mut client, "SELECT sum(waiting)::bigint FROM tandem.link_status") == 0
    });
}

/// The most memory that the link's session has ever had, in kilobytes.
fn session_peak_kb(client: &mut Client) -> i64 {
    let query = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tandem link %'";
    let pid: i32 = wait::until_some("the link has a session", DEADLINE, || {
        rows(client, query).first().map(|row| row.get(0))
    });
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the session lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn large_contents_pass_through_a_session_that_holds_a_few_of_them() {
    const COUNT: i64 = 40;
    const BYTES: usize = 4 << 20;
    let options =
        pg::Options { settings: vec!["shared_buffers = '16MB'".to_owned()], ..pg::Options::default() };
    let pair = Pair::with(&options, Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    pair.settle_at(0);
    pair.pause();
    // Compressible, so that what is stored says little of what is carried; both kinds of content.
    for step in 0..2 {
        run(
            &mut client,
            &format!(
                "INSERT INTO tandem.items (id, payload) SELECT 'json.' || n, to_jsonb(repeat('{step}', {BYTES})) \
                 FROM generate_series(1, {COUNT}/2) n ON CONFLICT (id) DO UPDATE SET payload = excluded.payload; \
                 INSERT INTO tandem.items (id, payload_blob) SELECT 'blob.' || n, convert_to(repeat('{step}', {BYTES}), 'UTF8') \
                 FROM generate_series(1, {COUNT}/2) n ON CONFLICT (id) DO UPDATE SET payload_blob = excluded.payload_blob"
            ),
        );
    }
    pair.resume();
    pair.settle_at(COUNT);
    let peak_of = |client: &mut Client, when: &str| {
        let peak = session_peak_kb(client);
        assert!(
            peak < 200_000,
            "{when}: the session has held {peak} kB of {} kB",
            COUNT * (BYTES as i64) / 1024
        );
    };
    peak_of(&mut client, "the log is pushed");
    // Everything is to go back at once.
    ask(&mut redis, &["FLUSHALL"]);
    pair.settle_at(COUNT);
    peak_of(&mut client, "everything is pushed by a comparison");
    pair.pause();
    let content = "y".repeat(BYTES);
    for number in 1..=COUNT / 2 {
        ask(&mut redis, &["TANDEM.PUT", &format!("blob.{number}"), &content]);
    }
    run(&mut client, "UPDATE tandem.links SET needs_check = true");
    pair.resume();
    let pulled = "SELECT count(*) = 20 FROM tandem.items WHERE id LIKE 'blob.%' AND version = 3";
    pair.settle("a comparison pulls", |client, _| value(client, pulled));
    peak_of(&mut client, "everything is pulled by a comparison");
    for number in 1..=COUNT / 2 {
        ask(&mut redis, &["TANDEM.PUT", &format!("blob.{number}"), &format!("{content}z")]);
    }
    let pulled = "SELECT count(*) = 20 FROM tandem.items WHERE id LIKE 'blob.%' AND version = 4";
    pair.settle("what is written is pulled", |client, _| value(client, pulled));
    peak_of(&mut client, "everything is pulled");
}

/// A number of `INFO memory`.
fn used_memory(redis: &mut Connection) -> i64 {
    let info = ask_text(redis, &["INFO", "memory"]).expect("INFO answers");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("INFO tells it");
    used.trim().parse().expect("a number")
}

/// What is kept aside takes the room that what is to come back needs, until it is acknowledged.
#[test]
fn a_redis_that_is_full_of_what_is_kept_aside_becomes_free() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let put = |redis: &mut Connection, name: &str| {
        let mut pipeline = Pipeline::new();
        (0..1000).for_each(|number| {
            pipeline.cmd("TANDEM.PUT").arg(format!("{name}.{number}")).arg("x".repeat(2000));
        });
        pipeline.query::<Vec<Value>>(redis).expect("puts are answered");
    };
    pair.settle_at(0);
    let before = used_memory(&mut redis);
    put(&mut redis, "taken");
    pair.settle_at(1000);
    pair.pause();
    put(&mut redis, "waiting");
    let items = used_memory(&mut redis) - before;
    ask(&mut redis, &["FLUSHALL"]);
    let aside = used_memory(&mut redis) - before;
    assert!(aside > 2_000_000, "{aside} bytes are kept aside");
    let room = before + items + aside / 2;
    ask(&mut redis, &["CONFIG", "SET", "maxmemory", &room.to_string()]);
    pair.resume();
    pair.settle_at(2000);
    wait::until("nothing is kept aside any more", DEADLINE, || told(&mut redis, "pending") == 0);
    ask(&mut redis, &["TANDEM.PUT", "after", "1"]);
    run(&mut client, "SELECT tandem.put('after.too', '1')");
    pair.settle_at(2002);
}
