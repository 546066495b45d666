//! Checks between any two of Postgres and Redis that are named by URL.

use ::redis::Value;
use postgres::Client;
use std::collections::BTreeMap;
use std::net::TcpListener;
use tandem_tests::by_hand;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_text};
use tandem_tests::scratch::Scratch;
use tandem_tests::sql::{error_text, refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

/// A side of a check.
enum Store {
    Postgres(Postgres),
    Redis(Redis),
}

impl Store {
    fn postgres() -> Store {
        Store::Postgres(Postgres::with_extension(&pg::Options::default()))
    }

    fn redis() -> Store {
        Store::Redis(Redis::start(redis::Options::in_memory()))
    }

    /// Its address, with a password that nothing may repeat.
    fn url(&self) -> String {
        match self {
            Store::Postgres(server) => {
                format!("postgresql://postgres:s3cret@127.0.0.1:{}/postgres", server.port())
            }
            Store::Redis(server) => server.url(),
        }
    }

    fn put(&self, id: &str, payload: &str) {
        match self {
            Store::Postgres(server) => {
                run(
                    &mut server.connect(),
                    &format!("SELECT tandem.put('{id}', '{payload}', type => 'json')"),
                );
            }
            Store::Redis(server) => {
                ask(&mut server.connect(), &["TANDEM.PUT", id, payload, "JSON"]);
            }
        }
    }

    /// Puts an item with everything that an item can have.
    fn put_rich(&self, id: &str) {
        match self {
            Store::Postgres(server) => run(
                &mut server.connect(),
                &format!(
                    "SELECT tandem.put('{id}', 'not JSON', version => 41, state => 'hot', type => 'binary', \
                     audit => '{{\"home\":\"here\"}}')"
                ),
            ),
            Store::Redis(server) => {
                let audit = "{\"home\":\"here\"}";
                let words = ["VERSION", "41", "STATE", "hot", "AUDIT", audit];
                let put = [&["TANDEM.PUT", id, "not JSON", "BINARY"], &words[..]].concat();
                ask(&mut server.connect(), &put);
            }
        }
    }

    fn remove(&self, id: &str) {
        match self {
            Store::Postgres(server) => {
                run(&mut server.connect(), &format!("SELECT tandem.delete('{id}')"));
            }
            Store::Redis(server) => {
                ask(&mut server.connect(), &["TANDEM.REMOVE", id]);
            }
        }
    }

    /// The encoded revision of an id, live or not.
    fn revision(&self, id: &str) -> Option<Vec<u8>> {
        match self {
            Store::Postgres(server) => {
                let query = format!("SELECT revision FROM tandem.peer_fetch(ARRAY['{id}'])");
                rows(&mut server.connect(), &query).first().map(|row| row.get(0))
            }
            Store::Redis(server) => match ask(&mut server.connect(), &["TANDEM.LINK", "FETCH", id]) {
                Value::Array(mut found) => match found.remove(0) {
                    Value::BulkString(bytes) => Some(bytes),
                    _ => None,
                },
                other => panic!("{other:?}"),
            },
        }
    }

    fn is_there(&self, id: &str) -> bool {
        match self {
            Store::Postgres(server) => value(&mut server.connect(), &format!("SELECT tandem.exists('{id}')")),
            Store::Redis(server) => ask_text(&mut server.connect(), &["TANDEM.GET", id, "PAYLOAD"]).is_some(),
        }
    }

    fn conflicts(&self, id: &str) -> i64 {
        match self {
            Store::Postgres(server) => value(
                &mut server.connect(),
                &format!("SELECT count(*) FROM tandem.conflicts WHERE id = '{id}'"),
            ),
            Store::Redis(_) => 0,
        }
    }

    /// Something writes an id here that a link has still to take.
    fn put_for_a_link(&self, id: &str) {
        match self {
            Store::Postgres(server) => {
                let mut client = server.connect();
                run(&mut client, "SELECT tandem.link('redis://127.0.0.1:1', name => 'away')");
                run(&mut client, "UPDATE tandem.links SET needs_check = false");
            }
            Store::Redis(server) => {
                by_hand::attach(&mut server.connect(), "away");
            }
        }
        self.put(id, "1");
    }

    fn is_redis(&self) -> bool {
        matches!(self, Store::Redis(_))
    }
}

/// A Postgres that runs checks, and others. `here` is one of the stores, too.
struct Place {
    stores: Vec<Store>,
    client: Client,
}

/// The kinds of pairs, as places of stores; the first store is the Postgres that runs the check.
const PAIRS: [(usize, usize); 6] = [(0, 3), (0, 1), (3, 4), (1, 2), (3, 1), (4, 0)];

impl Place {
    fn start() -> Place {
        let stores =
            vec![Store::postgres(), Store::postgres(), Store::postgres(), Store::redis(), Store::redis()];
        let Store::Postgres(here) = &stores[0] else { unreachable!("made so above") };
        let client = here.connect();
        Place { stores, client }
    }

    fn name(&self, store: usize) -> String {
        if store == 0 { "local".to_owned() } else { self.stores[store].url() }
    }

    fn check(&mut self, (left, right): (usize, usize), options: &str) -> Answer {
        let (left, right) = (self.name(left), self.name(right));
        Answer::of(&mut self.client, &format!("reconcile_peers('{left}', '{right}', {options})"))
    }
}

#[derive(Debug)]
struct Answer {
    numbers: (String, i64, i64, i64),
    ranges: i64,
    bytes: i64,
    reason: String,
}

impl Answer {
    fn of(client: &mut Client, call: &str) -> Answer {
        let query = format!(
            "SELECT answer, differences, repaired, pending, ranges, bytes, coalesce(reason, '') FROM tandem.{call}"
        );
        let row = rows(client, &query).remove(0);
        Answer {
            numbers: (row.get(0), row.get(1), row.get(2), row.get(3)),
            ranges: row.get(4),
            bytes: row.get(5),
            reason: row.get(6),
        }
    }

    fn is(&self, answer: &str, differences: i64, repaired: i64, pending: i64) {
        let expected = (answer.to_owned(), differences, repaired, pending);
        assert_eq!(self.numbers, expected, "{self:?}");
    }
}

/// The report of the last run: what differed and was done, by id.
fn report(client: &mut Client) -> BTreeMap<String, (String, String)> {
    let query =
        "SELECT id, differed, done FROM tandem.reports WHERE run = (SELECT max(run) FROM tandem.checks)";
    rows(client, query).iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// Makes two stores hold different things under a prefix; the ids that differ.
fn drift(left: &Store, right: &Store, prefix: &str) -> Vec<String> {
    let id = |name: &str| format!("{prefix}{name}");
    for store in [left, right] {
        for name in ["same", "newer.left", "newer.right", "removed.left", "removed.right", "removed.both"] {
            store.put(&id(name), "1");
        }
    }
    left.put(&id("only.left"), "{\"a\":1.0}");
    right.put(&id("only.right"), "[]");
    left.put(&id("newer.left"), "2");
    right.put(&id("newer.right"), "2");
    for (store, name) in
        [(left, "removed.left"), (right, "removed.right"), (left, "removed.both"), (right, "removed.both")]
    {
        store.remove(&id(name));
    }
    left.put(&id("tie"), "\"left\"");
    right.put(&id("tie"), "\"right\"");
    // The same contents the other way round: counts and the hashes of all contents add up to the same.
    for (store, contents) in [(left, ["1", "2"]), (right, ["2", "1"])] {
        store.put(&id("cancels.a"), contents[0]);
        store.put(&id("cancels.b"), contents[1]);
    }
    // Past the last id of the other side.
    left.put_rich(&id("z"));
    right.put(&format!("{prefix}\u{10ffff}"), "1");
    left.put(&format!("other.{prefix}"), "1");
    [
        "only.left",
        "only.right",
        "newer.left",
        "newer.right",
        "removed.left",
        "removed.right",
        "tie",
        "cancels.a",
        "cancels.b",
        "z",
        "\u{10ffff}",
    ]
    .map(id)
    .to_vec()
}

#[test]
fn two_sides_of_any_kind_are_compared_and_mended_both_ways() {
    let mut place = Place::start();
    for (number, pair) in PAIRS.into_iter().enumerate() {
        let prefix = format!("pair{number}.");
        let [left, right] = [pair.0, pair.1].map(|at| &place.stores[at]);
        let ids = drift(left, right, &prefix);
        let count = ids.len() as i64;
        let held = |place: &Place| {
            let of = |at: usize| ids.iter().map(|id| place.stores[at].revision(id)).collect::<Vec<_>>();
            (of(pair.0), of(pair.1))
        };
        let before = held(&place);
        let dry = place.check(pair, &format!("'{prefix}', dry_run => true"));
        dry.is("differs", count, 0, 0);
        assert!(dry.ranges > 0 && dry.bytes > 0, "{dry:?}");
        assert_eq!(held(&place), before, "a dry run changes nothing");
        let other = place.check(pair, "'nothing.here', dry_run => true");
        other.is("equal", 0, 0, 0);

        let found = report_of_pair(&mut place, pair, &prefix);
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), sorted(&ids), "pair {number}");

        let part = place.check(pair, &format!("'{prefix}', max_rows => 4"));
        part.is("incomplete", 4, 4, 0);
        assert!(part.reason.contains("run it again"), "{part:?}");
        let rest = place.check(pair, &format!("'{prefix}'"));
        rest.is("equal", count - 4, count - 4, 0);
        place.check(pair, &format!("'{prefix}', dry_run => true")).is("equal", 0, 0, 0);
        let (of_left, of_right) = held(&place);
        assert_eq!(of_left, of_right, "version, timestamp, state, audit and content, pair {number}");
        assert!(of_left.iter().all(Option::is_some), "pair {number}");

        let [left, right] = [pair.0, pair.1].map(|at| &place.stores[at]);
        for id in ["removed.left", "removed.right", "removed.both"].map(|name| format!("{prefix}{name}")) {
            assert!(!left.is_there(&id) && !right.is_there(&id), "{id} stays removed");
        }
        let other = format!("other.{prefix}");
        assert!(left.is_there(&other) && !right.is_there(&other), "what is not under the prefix stays");
        let tie = format!("{prefix}tie");
        let kept: i64 = [&place.stores[0], left, right].map(|store| store.conflicts(&tie)).iter().sum();
        assert!(kept > 0, "the loser of a tie is kept, pair {number}");
    }
}

fn sorted(ids: &[String]) -> Vec<String> {
    let mut ids = ids.to_vec();
    ids.sort();
    ids
}

/// A dry run's report, whose words are those of the kind of pair.
fn report_of_pair(
    place: &mut Place,
    pair: (usize, usize),
    prefix: &str,
) -> BTreeMap<String, (String, String)> {
    place.check(pair, &format!("'{prefix}', dry_run => true"));
    let found = report(&mut place.client);
    let of_redis = [pair.0, pair.1].map(|at| place.stores[at].is_redis());
    let (left, right) = match of_redis {
        [false, true] => ("postgres", "redis"),
        [true, false] => ("redis", "postgres"),
        _ => ("left", "right"),
    };
    for (name, differed) in [
        ("only.left", format!("missing_in_{right}")),
        ("only.right", format!("missing_in_{left}")),
        ("newer.left", format!("older_in_{right}")),
        ("removed.right", format!("older_in_{left}")),
        ("tie", "conflict".to_owned()),
    ] {
        let expected = (differed, "nothing".to_owned());
        assert_eq!(found.get(&format!("{prefix}{name}")), Some(&expected), "{pair:?} {name}");
    }
    found
}

/// Caught up is not equal: what one side has still to hand over to anybody is on its way.
#[test]
fn what_waits_on_a_side_is_incomplete_and_not_equal() {
    let mut place = Place::start();
    place.stores[2].put_for_a_link("postgres");
    place.stores[4].put_for_a_link("redis");
    for pair in [(0, 2), (1, 2), (3, 2), (0, 4), (1, 4), (3, 4)] {
        let dry = place.check(pair, "dry_run => true");
        dry.is("incomplete", 1, 0, 1);
        assert!(dry.reason.contains("on their way"), "{dry:?}");
    }
    place.stores[3].put("not.on.its.way", "1");
    place.check((3, 2), "dry_run => true").is("differs", 2, 0, 1);
}

#[test]
fn a_url_is_compared_with_this_postgres_and_goes_into_the_books() {
    let mut place = Place::start();
    place.stores[0].put("here", "1");
    for other in [1, 3] {
        let url = place.stores[other].url();
        let answer = Answer::of(&mut place.client, &format!("reconcile('{url}')"));
        answer.is("equal", 1, 1, 0);
        assert!(place.stores[other].is_there("here"));
        let done = report(&mut place.client);
        assert_eq!(done["here"].1, "pushed");
    }
    let names: Vec<String> = rows(&mut place.client, "SELECT link FROM tandem.checks ORDER BY run")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(names[0].starts_with("postgresql://127.0.0.1:") && names[1].starts_with("redis://127.0.0.1:"));
    assert!(!names.concat().contains("s3cret"), "{names:?}");
    let origins = "SELECT count(*) FROM tandem.changes WHERE origin = 'peer://'";
    let Store::Postgres(other) = &place.stores[1] else { unreachable!("made so above") };
    assert_eq!(value::<i64>(&mut other.connect(), origins), 1);
    // They are kept, though there is no such link; but not without a bound.
    run(&mut place.client, "SELECT tandem.forget_checks(1)");
    let kept: Vec<String> =
        rows(&mut place.client, "SELECT link FROM tandem.checks").iter().map(|row| row.get(0)).collect();
    assert_eq!(kept, names[1..]);
    // What this Postgres was given by a peer, its own links are told.
    place.stores[3].put("there", "1");
    let Store::Redis(linked) = &place.stores[4] else { unreachable!("made so above") };
    run(&mut place.client, &format!("SELECT tandem.link('{}')", linked.url()));
    let url = place.stores[3].url();
    Answer::of(&mut place.client, &format!("reconcile('{url}')")).is("equal", 1, 1, 0);
    wait::until("the link carries it on", DEADLINE, || place.stores[4].is_there("there"));
    // A link's name stands for its Redis.
    let peer = place.stores[1].url();
    Answer::of(&mut place.client, &format!("reconcile_peers('redis', '{peer}')")).is("equal", 1, 1, 0);
    assert!(place.stores[1].is_there("there"));
}

#[test]
fn what_a_check_brings_into_a_redis_its_links_are_told() {
    let mut place = Place::start();
    let Store::Postgres(linked) = &place.stores[1] else { unreachable!("made so above") };
    run(&mut linked.connect(), &format!("SELECT tandem.link('{}')", place.stores[3].url()));
    place.stores[3].put("known", "1");
    wait::until("the link streams", DEADLINE, || place.stores[1].is_there("known"));
    place.stores[0].put("a", "1");
    place.stores[4].put("b", "1");
    for pair in [(0, 3), (4, 3)] {
        let before = place.check(pair, "dry_run => false");
        assert_eq!(before.numbers.0, "equal", "{before:?}");
    }
    wait::until("both are beyond the link", DEADLINE, || {
        ["a", "b"].iter().all(|id| place.stores[1].is_there(id))
    });
}

#[test]
fn peers_that_cannot_be_asked_are_told_of() {
    let mut place = Place::start();
    let (postgres, redis) = (place.stores[1].url(), place.stores[3].url());
    place.stores[0].put("a", "1");
    for (call, state, said) in [
        ("reconcile('mysql://root:s3cret@127.0.0.1/x')".to_owned(), "22023", "give redis"),
        ("reconcile('postgresql://u:s3cret@127.0.0.1:port/x')".to_owned(), "22023", "give postgresql://"),
        ("reconcile('postgresql:///x')".to_owned(), "22023", "host"),
        ("reconcile('no.such.link')".to_owned(), "08003", "tandem.links()"),
        ("reconcile_peers('local', 'local')".to_owned(), "22023", "two"),
        (format!("reconcile_peers('{redis}', '{redis}')"), "22023", "two"),
        (format!("reconcile_peers('{redis}', NULL)"), "22023", "right"),
        (format!("reconcile('{postgres}', max_rows => 0)"), "22023", "max_rows"),
        (format!("link('{redis}', name => 'a://b')"), "22023", "://"),
        (format!("link('{redis}', name => 'local')"), "22023", "local"),
    ] {
        let (found, text) = refused(&mut place.client, &format!("SELECT tandem.{call}"));
        assert!(found == state && text.contains(said) && !text.contains("s3cret"), "{call}: {found} {text}");
    }
    let Store::Postgres(server) = &place.stores[1] else { unreachable!("made so above") };
    let bare = Postgres::start(&pg::Options::default());
    run(&mut server.connect(), "CREATE ROLE locked LOGIN PASSWORD 'right'");
    let hba = server.directory().join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("initdb wrote it");
    std::fs::write(&hba, format!("host all locked all scram-sha-256\n{rules}")).expect("it can be written");
    run(&mut server.connect(), "SELECT pg_reload_conf()");
    let port = server.port();
    let redis_port = redis.rsplit(':').next().expect("a port").to_owned();
    wait::until("the rule is in force", DEADLINE, || {
        let call =
            format!("reconcile('postgresql://locked:s3cret@127.0.0.1:{port}/postgres', dry_run => true)");
        Answer::of(&mut place.client, &call).reason.contains("password authentication failed")
    });
    for (url, said) in [
        (format!("postgresql://locked:s3cret@127.0.0.1:{port}/postgres"), "password"),
        (format!("postgresql://locked:right@127.0.0.1:{port}/postgres"), "permission denied"),
        (format!("postgresql://postgres@127.0.0.1:{}/postgres", bare.port()), "CREATE EXTENSION tandem"),
        (format!("redis://someone:s3cret@127.0.0.1:{redis_port}"), "WRONGPASS"),
        ("postgresql://postgres:s3cret@127.0.0.1:1/postgres".to_owned(), "connecting"),
        ("redis://127.0.0.1:1".to_owned(), "connecting"),
    ] {
        for dry_run in [true, false] {
            let call = format!("reconcile('{url}', dry_run => {dry_run})");
            let answer = Answer::of(&mut place.client, &call);
            answer.is("incomplete", 0, 0, 0);
            assert!(answer.reason.contains(said) && !answer.reason.contains("s3cret"), "{url}: {answer:?}");
        }
    }
    // A reader there is enough to compare, a writer to mend.
    let url = format!("postgresql://locked:right@127.0.0.1:{port}/postgres");
    run(&mut server.connect(), "SELECT tandem.put('b', '1'); GRANT tandem_reader TO locked");
    Answer::of(&mut place.client, &format!("reconcile('{url}', dry_run => true)")).is("differs", 2, 0, 0);
    let answer = Answer::of(&mut place.client, &format!("reconcile('{url}')"));
    assert!(answer.reason.contains("permission denied"), "{answer:?}");
    run(&mut server.connect(), "GRANT tandem_writer TO locked");
    Answer::of(&mut place.client, &format!("reconcile('{url}', prefix => 'a')")).is("equal", 1, 1, 0);
    // Nobody dials out by it but who may make links.
    let Store::Postgres(here) = &place.stores[0] else { unreachable!("made so above") };
    run(&mut place.client, "CREATE ROLE writer LOGIN IN ROLE tandem_reader, tandem_writer");
    let mut writer = here.connect_as("writer", "postgres");
    for call in [format!("reconcile('{redis}')"), format!("reconcile_peers('{postgres}', '{redis}')")] {
        assert_eq!(refused(&mut writer, &format!("SELECT tandem.{call}")).0, "42501", "{call}");
    }
}

#[test]
fn different_secrets_are_an_error_and_no_answer() {
    let mut place = Place::start();
    let scratch = Scratch::new("secret");
    let file = scratch.path().join("secret");
    std::fs::write(&file, "another\n").expect("a file in a directory of ours");
    let secret = vec![format!("tandem.digest_secret_file = '{}'", file.display())];
    place.stores[2] = Store::Postgres(Postgres::with_extension(&pg::Options {
        settings: secret,
        ..pg::Options::default()
    }));
    place.stores[4] =
        Store::Redis(Redis::start(redis::Options::in_memory().with("tandem.digest-secret", "another")));
    // Two of the same secret, but not that of the Postgres that runs the check, are refused as well.
    for (left, right) in [(0, 2), (0, 4), (1, 2), (3, 4), (2, 3), (2, 4)] {
        for dry_run in [true, false] {
            let call = format!(
                "SELECT tandem.reconcile_peers('{}', '{}', dry_run => {dry_run})",
                place.name(left),
                place.name(right)
            );
            let (state, text) = refused(&mut place.client, &call);
            assert!(state == "08003" && text.contains("secret"), "{left} {right}: {state} {text}");
        }
    }
    // A link's dry run says so, too, and is not content with finding everything different.
    let url = place.name(4);
    run(&mut place.client, &format!("SELECT tandem.link('{url}', name => 'secret')"));
    let (state, text) = refused(&mut place.client, "SELECT tandem.reconcile('secret', dry_run => true)");
    assert!(state == "08003" && text.contains("secret"), "{state} {text}");
}

/// A peer that takes the connection and says nothing.
#[test]
fn a_check_of_a_silent_peer_can_be_cancelled() {
    let server = Postgres::with_extension(&pg::Options::default());
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let (mut checking, mut other) = (server.connect(), server.connect());
    let pid: i32 = value(&mut checking, "SELECT pg_backend_pid()");
    let check = std::thread::spawn(move || {
        let call = format!("SELECT tandem.reconcile('postgresql://postgres@127.0.0.1:{port}/postgres')");
        checking.batch_execute(&call).expect_err("it cannot end by itself")
    });
    let _connection = silent.accept().expect("the check connects");
    wait::until("it ends when it is cancelled", DEADLINE, || {
        run(&mut other, &format!("SELECT pg_cancel_backend({pid})"));
        check.is_finished()
    });
    let error = check.join().expect("the thread ends in order");
    let state = error.code().map_or("", |state| state.code());
    assert_eq!(state, "57014", "{}", error_text(&error));
}
