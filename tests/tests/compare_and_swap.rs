//! N writers with one expected etag: exactly one wins, all others are told the etag that is current. Sixteen real
//! connections on each side, and both sides at once where a link joins them.

use ::redis::Connection;
use postgres::Client;
use std::collections::BTreeSet;
use std::sync::Barrier;
use tandem_shared::codec::{Source, decode};
use tandem_tests::answer::{Answer, of_redis};
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis};
use tandem_tests::request::{PutOption, Request, Shape};
use tandem_tests::sql;

const WRITERS: usize = 16;
const ROUNDS: usize = 5;

/// A connection to either side.
enum Side {
    Sql(Box<Client>),
    Redis(Box<Connection>),
}

impl Side {
    fn ask(&mut self, request: &Request) -> Answer {
        match self {
            Side::Sql(client) => request.ask_sql(client),
            Side::Redis(connection) => request.ask_redis(connection),
        }
    }
}

fn in_sql(server: &Postgres) -> Vec<Side> {
    (0..WRITERS).map(|_| Side::Sql(Box::new(server.connect()))).collect()
}

fn in_redis(server: &Redis) -> Vec<Side> {
    (0..WRITERS).map(|_| Side::Redis(Box::new(server.connect()))).collect()
}

fn put(id: &str, payload: &str, options: Vec<PutOption>) -> Request {
    Request::Put(id.to_owned(), payload.as_bytes().to_vec(), options)
}

/// The content that the writer of this number writes.
fn content(writer: usize) -> String {
    format!("{{\"writer\":{writer}}}")
}

/// All of them ask at the same moment; their answers in the order of the writers.
fn at_once(sides: &mut [Side], request: &(dyn Fn(usize) -> Request + Sync)) -> Vec<Answer> {
    let start = Barrier::new(sides.len());
    std::thread::scope(|scope| {
        let start = &start;
        let writers: Vec<_> = sides
            .iter_mut()
            .enumerate()
            .map(|(writer, side)| {
                scope.spawn(move || {
                    let request = request(writer);
                    start.wait();
                    side.ask(&request)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer gets an answer")).collect()
    })
}

/// The writers that were not refused.
fn winners(answers: &[Answer]) -> Vec<usize> {
    let won = |answer: &Answer| !matches!(answer, Answer::Refused { .. });
    (0..answers.len()).filter(|writer| won(&answers[*writer])).collect()
}

/// Every refusal has this code and says this.
fn refused_with(answers: &[Answer], expected: &str, saying: &str) {
    for answer in answers {
        if let Answer::Refused { code, message } = answer {
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(saying), "it says {saying:?}: {message}");
        }
    }
}

/// A contest: what each writer asks of an item, and the code of those who come too late.
struct Contest {
    name: &'static str,
    /// The state of the item before, if it is there at all.
    first: Option<&'static str>,
    /// What the writer of a number asks of an id that has an etag.
    request: fn(&str, usize, &str) -> Request,
    code: &'static str,
    /// Whether losers are told the winner's etag.
    says_etag: bool,
}

fn if_match(etag: &str) -> Vec<PutOption> {
    vec![PutOption::IfMatch(etag.to_owned())]
}

const CONTESTS: [Contest; 7] = [
    Contest {
        name: "put, IFMATCH",
        first: Some("default"),
        request: |id, writer, etag| put(id, &content(writer), if_match(etag)),
        code: "CONFLICT",
        says_etag: true,
    },
    Contest {
        name: "merge, IFMATCH",
        first: Some("default"),
        request: |id, writer, etag| Request::Merge(id.to_owned(), content(writer), if_match(etag)),
        code: "CONFLICT",
        says_etag: true,
    },
    Contest {
        name: "set_state, IFMATCH",
        first: Some("default"),
        request: |id, writer, etag| Request::SetState(id.to_owned(), format!("of {writer}"), if_match(etag)),
        code: "CONFLICT",
        says_etag: true,
    },
    Contest {
        name: "batch, if_match",
        first: Some("default"),
        request: |id, writer, etag| {
            let payload = content(writer);
            let ops = format!(
                r#"[{{"op":"put","id":"{id}.beside","payload":{writer}}},
                    {{"op":"put","id":"{id}","payload":{payload},"if_match":"{etag}"}}]"#
            );
            Request::Batch(ops, None)
        },
        code: "CONFLICT",
        says_etag: true,
    },
    Contest {
        name: "put, IFABSENT",
        first: None,
        request: |id, writer, _| put(id, &content(writer), vec![PutOption::IfAbsent]),
        code: "EXISTS",
        says_etag: true,
    },
    Contest {
        name: "put, VERSION",
        first: Some("default"),
        request: |id, writer, _| put(id, &content(writer), vec![PutOption::Version(2)]),
        code: "STALE",
        says_etag: false,
    },
    Contest {
        name: "move_state",
        first: Some("waiting"),
        request: |id, writer, _| {
            let states = ["waiting".to_owned(), format!("of {writer}")];
            Request::MoveState(id.to_owned(), states, vec![])
        },
        code: "CONFLICT",
        says_etag: false,
    },
];

fn hold_contests(mut sides: Vec<Side>) {
    for round in 0..ROUNDS {
        for (place, contest) in CONTESTS.iter().enumerate() {
            hold(&mut sides, contest, &format!("item.{round}.{place}"));
        }
    }
}

fn hold(sides: &mut [Side], contest: &Contest, id: &str) {
    let name = contest.name;
    let get = Request::Get(id.to_owned());
    if let Some(state) = contest.first {
        sides[0].ask(&put(id, "{}", vec![PutOption::State(state.to_owned())]));
    }
    let before = match sides[0].ask(&get) {
        Answer::Nothing => String::new(),
        item => item.text_field("etag").to_owned(),
    };
    let answers = at_once(sides, &|writer| (contest.request)(id, writer, &before));
    let won = winners(&answers);
    assert_eq!(won.len(), 1, "{name}: one of {WRITERS} wins: {answers:?}");
    let item = sides[0].ask(&get);
    let etag = item.text_field("etag");
    assert_ne!(etag, before, "{name}: the winner changed the item");
    refused_with(&answers, contest.code, if contest.says_etag { etag } else { "" });
    if name.contains("state") {
        assert_eq!(item.text_field("state"), format!("of {}", won[0]), "{name}");
    } else {
        assert_eq!(item.text_field("payload"), content(won[0]), "{name}");
    }
    if name.contains("batch") {
        let beside = sides[0].ask(&Request::Get(format!("{id}.beside")));
        assert_eq!(beside.text_field("payload"), won[0].to_string(), "losers' batches leave nothing");
        assert_eq!(beside.field("version"), Some(&Answer::Number(1)), "and never did");
    }
}

#[test]
fn one_of_sixteen_connections_to_postgres_wins() {
    let server = Postgres::with_extension(&pg::Options::default());
    hold_contests(in_sql(&server));
    check_postgres(&mut server.connect(), "after all contests");
}

#[test]
fn one_of_sixteen_connections_to_redis_wins() {
    let server = Redis::start(redis::Options::in_memory());
    hold_contests(in_redis(&server));
    check_redis(&mut server.connect(), "after all contests");
}

/// One removal of sixteen finds something.
#[test]
fn one_of_sixteen_removes() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let redis = Redis::start(redis::Options::in_memory());
    for mut sides in [in_sql(&postgres), in_redis(&redis)] {
        for round in 0..ROUNDS {
            let id = format!("gone.{round}");
            sides[0].ask(&put(&id, "{}", vec![]));
            let answers = at_once(&mut sides, &|_| Request::Remove(id.clone(), vec![]));
            let removed = answers.iter().filter(|answer| **answer == Answer::Number(1)).count();
            let idle = answers.iter().filter(|answer| **answer == Answer::Number(0)).count();
            assert_eq!((removed, idle), (1, WRITERS - 1), "{answers:?}");
        }
    }
}

/// Batches over the same items in different orders wait for each other and never in a circle, whether they put,
/// remove or do both.
#[test]
fn sixteen_batches_over_the_same_items_all_go_through() {
    const ITEMS: usize = 12;
    let postgres = Postgres::with_extension(&pg::Options::default());
    let redis = Redis::start(redis::Options::in_memory());
    let id = |place: usize| format!("ring.{:02}", place % ITEMS);
    let ring = |writer: usize, round: usize| -> Request {
        let from = writer * 5 + round;
        match (writer + round) % 4 {
            0 => Request::PutMany((0..ITEMS).map(|n| (id(from + n), content(writer + n))).collect(), vec![]),
            1 => {
                let puts = (0..ITEMS).rev().map(|n| (id(from + n), content(writer + n)));
                Request::PutMany(puts.collect(), vec![])
            }
            2 => Request::RemoveMany((0..ITEMS).rev().map(|n| id(from + n)).collect(), vec![]),
            _ => {
                let op = |n: usize| {
                    format!(r#"{{"op":"put","id":"{}","payload":{}}}"#, id(from + 7 * n), content(writer))
                };
                Request::Batch(format!("[{}]", (0..ITEMS).map(op).collect::<Vec<_>>().join(",")), None)
            }
        }
    };
    for mut sides in [in_sql(&postgres), in_redis(&redis)] {
        for round in 0..3 * ROUNDS {
            for answer in at_once(&mut sides, &|writer| ring(writer, round)) {
                let count = |name: &str| match answer.field(name) {
                    Some(Answer::Number(number)) => *number,
                    _ => panic!("a batch goes through: {answer:?}"),
                };
                assert_eq!(count("written") + count("unchanged"), 12, "{answer:?}");
            }
        }
    }
    check_postgres(&mut postgres.connect(), "after all batches");
    check_redis(&mut redis.connect(), "after all batches");
}

/// An item that both sides hold, and its etag there.
fn agreed_item(pair: &Pair, id: &str) -> String {
    let (mut client, mut connection) = (pair.sql(), pair.commands());
    put(id, "{}", vec![]).ask_sql(&mut client);
    let get = Request::Get(id.to_owned());
    pair.settle("the item is on both sides", |_, connection| get.ask_redis(connection) != Answer::Nothing);
    let etag = get.ask_sql(&mut client).text_field("etag").to_owned();
    assert_eq!(get.ask_redis(&mut connection).text_field("etag"), etag, "the etag is the same on both sides");
    etag
}

/// The content under an id after both sides agree again, the same on both.
fn settled_content(pair: &Pair, id: &str, mut settled: impl FnMut(&mut Client) -> bool) -> String {
    let get = Request::Get(id.to_owned());
    pair.settle("both sides hold the survivor", |client, connection| {
        let found = (get.ask_sql(client), get.ask_redis(connection));
        found.0 == found.1 && settled(client)
    });
    let when = "after the contest";
    assert_eq!(check_postgres(&mut pair.sql(), when), check_redis(&mut pair.commands(), when));
    get.ask_sql(&mut pair.sql()).text_field("payload").to_owned()
}

fn losers(client: &mut Client, id: &str) -> Vec<String> {
    let rows = sql::rows(client, &format!("SELECT loser FROM tandem.conflicts WHERE id = '{id}'"));
    let contents = rows.iter().map(|row| {
        let loser = decode(row.get::<_, &[u8]>(0), Source::Foreign).expect("a loser is a revision");
        String::from_utf8(loser.content().expect("a live one").bytes().to_vec()).expect("JSON is UTF-8")
    });
    contents.collect()
}

/// Writers of both sides: the first sixteen in Postgres, the others in Redis.
fn both_sides(pair: &Pair) -> Vec<Side> {
    let mut sides = in_sql(&pair.postgres);
    sides.extend(in_redis(&pair.redis));
    sides
}

/// While the sides cannot hear of each other each has one winner, both under one version. When they can again, one
/// of the two survives and the other one is recorded.
#[test]
fn both_sides_at_once_while_the_link_is_paused() {
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let mut sides = both_sides(&pair);
    for round in 0..ROUNDS {
        let id = format!("apart.{round}");
        let etag = agreed_item(&pair, &id);
        pair.pause();
        let answers =
            at_once(&mut sides, &|writer| put(&id, &content(writer), vec![PutOption::IfMatch(etag.clone())]));
        let (of_sql, of_redis) = answers.split_at(WRITERS);
        let (won_sql, won_redis) = (winners(of_sql), winners(of_redis));
        assert_eq!((won_sql.len(), won_redis.len()), (1, 1), "one of each side wins: {answers:?}");
        refused_with(of_sql, "CONFLICT", of_sql[won_sql[0]].text_field("etag"));
        refused_with(of_redis, "CONFLICT", of_redis[won_redis[0]].text_field("etag"));
        pair.resume();
        let survivor = settled_content(&pair, &id, |client| !losers(client, &id).is_empty());
        let lost = losers(&mut pair.sql(), &id);
        assert_eq!(lost.len(), 1, "one write lost against another: {lost:?}");
        let known = BTreeSet::from([survivor, lost[0].clone()]);
        let won = BTreeSet::from([content(won_sql[0]), content(WRITERS + won_redis[0])]);
        assert_eq!(known, won, "no acknowledged write vanishes without a trace");
    }
}

/// While the link runs, the winner of one side may reach the other side before its writers do: then they are told
/// the etag they would have to expect now. Each side has one winner at most, both together one at least.
#[test]
fn both_sides_at_once_while_the_link_runs() {
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let mut sides = both_sides(&pair);
    for round in 0..ROUNDS {
        let id = format!("joined.{round}");
        let etag = agreed_item(&pair, &id);
        let answers =
            at_once(&mut sides, &|writer| put(&id, &content(writer), vec![PutOption::IfMatch(etag.clone())]));
        let won = winners(&answers);
        let of_sql = won.iter().filter(|writer| **writer < WRITERS).count();
        assert!(of_sql <= 1 && won.len() - of_sql <= 1, "at most one of each side: {won:?}");
        assert!(!won.is_empty(), "somebody wins: {answers:?}");
        let etags: Vec<&str> = won.iter().map(|writer| answers[*writer].text_field("etag")).collect();
        for answer in &answers {
            if let Answer::Refused { code, message } = answer {
                assert_eq!(code, "CONFLICT", "{message}");
                assert!(etags.iter().any(|etag| message.contains(etag)), "{message} names one of {etags:?}");
            }
        }
        let contents: Vec<String> = won.iter().map(|writer| content(*writer)).collect();
        let survivor = settled_content(&pair, &id, |client| won.len() < 2 || !losers(client, &id).is_empty());
        assert!(contents.contains(&survivor), "{survivor} was acknowledged: {contents:?}");
        let lost = losers(&mut pair.sql(), &id);
        let expected: Vec<String> = contents.into_iter().filter(|content| *content != survivor).collect();
        assert_eq!(lost, expected, "the winner that did not survive is recorded");
    }
}

/// A removal and a put of one version, the put later by a hair or in the same millisecond: whichever wins, it wins on
/// both sides.
#[test]
fn a_removal_and_a_put_of_one_version_meet() {
    const ITEMS: usize = 20;
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let (mut client, mut connection) = (pair.sql(), pair.commands());
    let ids: Vec<String> = (0..2 * ITEMS).map(|number| format!("met.{number:02}")).collect();
    for id in &ids {
        put(id, "{}", vec![]).ask_sql(&mut client);
    }
    pair.settle_at(2 * ITEMS as i64);
    pair.pause();
    let (removed_in_sql, removed_in_redis) = ids.split_at(ITEMS);
    let remove = |id: &String| Request::Remove(id.clone(), vec![]);
    for id in removed_in_sql {
        assert_eq!(remove(id).ask_sql(&mut client), Answer::Number(1));
        put(id, r#"{"later":1}"#, vec![]).ask_redis(&mut connection);
    }
    for id in removed_in_redis {
        assert_eq!(remove(id).ask_redis(&mut connection), Answer::Number(1));
        put(id, r#"{"later":1}"#, vec![]).ask_sql(&mut client);
    }
    pair.resume();
    let all = Request::GetMany(ids);
    pair.settle("both sides hold the same of what met", |client, connection| {
        all.ask_sql(client) == all.ask_redis(connection)
    });
    let letters: i64 = sql::value(&mut client, "SELECT count(*) FROM tandem.dead_letters");
    assert_eq!(letters, 0, "nothing was set aside");
}

/// Of many that want a value to be there, each with one of its own, exactly one stores it and all see it.
#[test]
fn sixteen_callers_get_one_value() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let redis = Redis::start(redis::Options::in_memory());
    for round in 0..ROUNDS {
        let seen: BTreeSet<String> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (mut client, mut connection) = (postgres.connect(), redis.connect());
                    scope.spawn(move || {
                        let query = format!(
                            "SELECT 'sql ' || g.version || g.payload::text FROM tandem.get_or_put('one.{round}', '[{writer}]') g"
                        );
                        let in_sql: String = sql::value(&mut client, &query);
                        let (id, payload) = (format!("one.{round}"), format!("[{writer}]"));
                        let request = ["TANDEM.GETORPUT", &id, &payload];
                        let record = of_redis(Shape::Record, redis::send(&mut connection, &request));
                        [in_sql, format!("redis {}", record.text_field("payload"))]
                    })
                })
                .collect();
            callers.into_iter().flat_map(|caller| caller.join().expect("a caller ends")).collect()
        });
        assert_eq!(seen.len(), 2, "one value on each side: {seen:?}");
    }
}
