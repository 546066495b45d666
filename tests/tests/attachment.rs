//! Who may have a link in Redis, and what it carries: protocol, names, owners, and what Postgres has refused.

use tandem_shared::link::{Attachment, NAME_BYTES_MAX, PROTOCOL};
use tandem_shared::owner::Owner;
use tandem_tests::by_hand::{self, attachment, attachment_of, try_attach};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql::{run, value};
use tandem_tests::wait::{self, DEADLINE};

fn refusal<T: std::fmt::Debug>(answer: ::redis::RedisResult<T>) -> String {
    match answer {
        Ok(answer) => panic!("{answer:?} is no refusal"),
        Err(error) => format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default()),
    }
}

#[test]
fn another_protocol_is_refused_and_says_what_to_do() {
    let server = Redis::start(Options::in_memory());
    let mut redis = server.connect();
    for protocol in [PROTOCOL - 1, PROTOCOL + 1] {
        let mut words = attachment("pg").words();
        words[2] = protocol.to_string();
        words.insert(0, "TANDEM.LINK".to_owned());
        let text = refusal(send(&mut redis, &words));
        assert!(text.starts_with("NOLINK") && text.contains("one release"), "{text}");
        // Whatever else such a protocol says.
        let text = refusal(send(&mut redis, &["TANDEM.LINK", "ATTACH", "pg", &protocol.to_string(), "x"]));
        assert!(text.starts_with("NOLINK"), "{text}");
    }
    for name in ["", "a\nb", "redis://x", "local", &"x".repeat(NAME_BYTES_MAX + 1)] {
        let text = refusal(try_attach(&mut redis, &attachment(name)));
        assert!(text.starts_with("INVALID"), "{name:?}: {text}");
    }
    assert_eq!(ask(&mut redis, &["TANDEM.LINK", "LIST"]), ::redis::Value::Array(vec![]));
}

#[test]
fn a_link_is_of_one_database_and_of_who_was_promoted_in_its_place() {
    let mut server = Redis::start(Options::durable());
    let mut redis = server.connect();
    let of = |cluster: &str, timeline, database| Attachment {
        owner: Owner { cluster: cluster.into(), timeline, database },
        ..attachment("pg")
    };
    let first = try_attach(&mut redis, &of("a", 1, 5)).expect("it is nobody's");
    assert!(first.is_fresh);
    assert!(!try_attach(&mut redis, &of("a", 1, 5)).expect("it is its own").is_fresh);
    for restart in [false, true] {
        if restart {
            server.kill_hard();
            server.restart();
            redis = server.connect();
        }
        let text = refusal(try_attach(&mut redis, &of("a", 1, 6)));
        assert!(text.starts_with("NOLINK") && text.contains("another name"), "{text}");
    }
    let promoted = try_attach(&mut redis, &of("a", 2, 5)).expect("it was promoted");
    assert!(!promoted.is_fresh && promoted.run != first.run, "{promoted:?}");
    let text = refusal(try_attach(&mut redis, &of("a", 1, 5)));
    assert!(text.starts_with("NOLINK") && text.contains("promoted"), "{text}");
    assert!(try_attach(&mut redis, &of("b", 1, 7)).expect("another cluster takes it over").is_fresh);
    // What it carries is another thing than before.
    let narrow = Attachment { owner: of("b", 1, 7).owner, ..attachment_of("pg", ["a:", "cache", "both"]) };
    assert!(try_attach(&mut redis, &narrow).expect("it is its own").is_fresh);
    ask(&mut redis, &["TANDEM.LINK", "DETACH", "pg"]);
    assert!(try_attach(&mut redis, &of("a", 1, 6)).expect("it is nobody's").is_fresh);
}

#[test]
fn two_databases_of_a_cluster_do_not_share_a_link() {
    let redis = Redis::start(Options::in_memory());
    let settings = vec!["tandem.databases = 'postgres,staging'".to_owned()];
    let postgres = Postgres::with_extension(&pg::Options { settings, ..pg::Options::default() });
    let mut client = postgres.connect();
    run(&mut client, &format!("SELECT tandem.link('{}')", redis.url()));
    let mut commands = redis.connect();
    wait::until("the link streams", DEADLINE, || {
        value::<bool>(&mut client, "SELECT state = 'streaming' FROM tandem.links()")
    });
    run(&mut client, "CREATE DATABASE staging");
    let mut staging = postgres.connect_as("postgres", "staging");
    run(&mut staging, "CREATE EXTENSION tandem");
    run(&mut staging, &format!("SELECT tandem.link('{}')", redis.url()));
    wait::until("the second is told whose the link is", DEADLINE, || {
        let error: Option<String> = value(&mut staging, "SELECT last_error FROM tandem.links()");
        error.is_some_and(|error| error.contains("another database of the same cluster"))
    });
    ask(&mut commands, &["TANDEM.PUT", "a", "1"]);
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 1);
    assert!(
        value::<bool>(&mut client, "SELECT tandem.exists('a')"),
        "the one that has it takes what is written"
    );
    assert!(!value::<bool>(&mut staging, "SELECT tandem.exists('a')"));
}

#[test]
fn what_postgres_refuses_is_not_called_durable() {
    let redis = Redis::start(Options::in_memory());
    let postgres = Postgres::with_extension(&pg::Options::default());
    let (mut client, mut commands) = (postgres.connect(), redis.connect());
    run(&mut client, "ALTER TABLE tandem.items ADD CONSTRAINT no_bad CHECK (NOT starts_with(id, 'bad'))");
    run(&mut client, &format!("SELECT tandem.link('{}')", redis.url()));
    wait::until("the link streams", DEADLINE, || {
        value::<bool>(&mut client, "SELECT state = 'streaming' FROM tandem.links()")
    });
    let status = |commands: &mut ::redis::Connection, id: &str| match ask(commands, &["TANDEM.STATUS", id]) {
        ::redis::Value::Array(words) => words[3].clone(),
        other => panic!("{other:?}"),
    };
    let word = |text: &str| ::redis::Value::BulkString(text.as_bytes().to_vec());
    ask(&mut commands, &["TANDEM.PUT", "good", "1"]);
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 1);
    assert_eq!(status(&mut commands, "good"), word("synced"));
    ask(&mut commands, &["TANDEM.PUT", "bad", "1"]);
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 0, "it is a dead letter");
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 0, "and stays one");
    assert_eq!(status(&mut commands, "bad"), word("refused"));
    ask(&mut commands, &["TANDEM.PUT", "good", "2"]);
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 1, "that is another write");
    assert_eq!(status(&mut commands, "bad"), word("refused"));
    run(&mut client, "ALTER TABLE tandem.items DROP CONSTRAINT no_bad; SELECT tandem.retry_dead_letters()");
    wait::until("Redis hears that it was taken", DEADLINE, || status(&mut commands, "bad") == word("synced"));
    ask(&mut commands, &["TANDEM.PUT", "bad", "2"]);
    assert_eq!(ask_number(&mut commands, &["TANDEM.WAIT", "0"]), 1);
    assert_eq!(status(&mut commands, "bad"), word("synced"));
    assert_eq!(ask_text(&mut commands, &["TANDEM.GET", "bad", "PAYLOAD"]).as_deref(), Some("2"));
}

#[test]
fn a_wait_counts_the_links_that_carry_what_was_written() {
    let server = Redis::start(Options::in_memory());
    let (mut redis, mut worker) = (server.connect(), server.connect());
    let status = |redis: &mut ::redis::Connection, id: &str| match ask(redis, &["TANDEM.STATUS", id]) {
        ::redis::Value::Array(words) => words[3].clone(),
        other => panic!("{other:?}"),
    };
    let word = |text: &str| ::redis::Value::BulkString(text.as_bytes().to_vec());
    ask(&mut redis, &["TANDEM.PUT", "a:before", "1"]);
    let scope = attachment_of("pg", ["a:", "mirror", "both"]);
    let run = try_attach(&mut worker, &scope).expect("it is nobody's").run;
    // Nothing was compared yet, so nobody knows what Postgres has.
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "50"]), 0);
    assert_eq!(status(&mut redis, "a:before"), word("pending"));
    ask(&mut worker, &["TANDEM.LINK", "READY", "pg"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
    assert_eq!(status(&mut redis, "a:before"), word("synced"));

    ask(&mut redis, &["TANDEM.PUT", "b:1", "1"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 0, "no link carries it");
    assert_eq!(status(&mut redis, "b:1"), word("unlinked"));
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), 0, "and it waits for none");
    ask(&mut redis, &["TANDEM.PUT", "a:1", "1"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "50"]), 0, "it was not taken");
    let pulled = by_hand::pull(&mut worker, "pg", &run, 0);
    assert_eq!(pulled.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>(), ["a:1"]);
    by_hand::acknowledge(&mut worker, "pg", &run, pulled[0].0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);

    // A link that takes nothing is none that has anything.
    try_attach(&mut worker, &attachment_of("down", ["", "mirror", "to_redis"])).expect("it is nobody's");
    ask(&mut worker, &["TANDEM.LINK", "READY", "down"]);
    ask(&mut redis, &["TANDEM.PUT", "b:2", "1"]);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]), 0);
    ask(&mut redis, &["TANDEM.PUT", "a:1", "2"]);
    ask(&mut redis, &["TANDEM.PUT", "a:1", "3"]);
    let pulled = by_hand::pull(&mut worker, "pg", &run, 0);
    by_hand::acknowledge(&mut worker, "pg", &run, pulled[0].0);
    assert_eq!(ask_number(&mut redis, &["TANDEM.WAIT", "0"]), 1);
}
