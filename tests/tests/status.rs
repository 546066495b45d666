//! What an item knows of itself where there is a link: each side answers from what it knows.

use postgres::Client;
use tandem_tests::answer::Answer;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis;
use tandem_tests::request::{PutOption, Request};
use tandem_tests::sql;

fn put(id: &str, options: Vec<PutOption>) -> Request {
    Request::Put(id.to_owned(), b"{}".to_vec(), options)
}

/// `status`, `tiers` and `direction` of what a status says.
fn said(answer: &Answer) -> [&str; 3] {
    ["status", "tiers", "direction"].map(|name| match answer.field(name) {
        Some(Answer::Text(text)) => text.as_str(),
        Some(Answer::Nothing) => "-",
        other => panic!("{name} is {other:?} in {answer:?}"),
    })
}

fn in_sql(client: &mut Client, id: &str) -> Answer {
    Request::Status(id.to_owned()).ask_sql(client)
}

#[test]
fn an_item_knows_whether_it_is_on_both_sides() {
    let pair = Pair::with(&pg::Options::default(), redis::Options::in_memory());
    let (mut client, mut connection) = (pair.sql(), pair.commands());
    let in_redis = |id: &str, connection: &mut _| Request::Status(id.to_owned()).ask_redis(connection);
    put("carried", vec![]).ask_redis(&mut connection);
    pair.settle_at(1);
    let synced = |answer: Answer| said(&answer) == ["synced", "both", "-"];
    pair.settle("both sides know that the item is on both", |client, connection| {
        synced(in_sql(client, "carried")) && synced(in_redis("carried", connection))
    });

    pair.pause();
    put("from.redis", vec![]).ask_redis(&mut connection);
    put("from.sql", vec![]).ask_sql(&mut client);
    sql::run(&mut client, r#"UPDATE tandem.items SET payload = '{"changed": 1}' WHERE id = 'carried'"#);
    put("here.alone", vec![PutOption::Local]).ask_redis(&mut connection);
    put("there.alone", vec![PutOption::Local]).ask_sql(&mut client);
    let rows = [
        ("from.redis", ["missing", "none", "-"], ["pending", "redis", "to_postgres"]),
        ("from.sql", ["pending", "postgres", "to_redis"], ["missing", "none", "-"]),
        ("here.alone", ["missing", "none", "-"], ["local", "redis", "-"]),
        ("there.alone", ["local", "postgres", "-"], ["missing", "none", "-"]),
        ("never", ["missing", "none", "-"], ["missing", "none", "-"]),
    ];
    for (id, sql_says, redis_says) in rows {
        assert_eq!(said(&in_sql(&mut client, id)), sql_says, "{id} in Postgres");
        assert_eq!(said(&in_redis(id, &mut connection)), redis_says, "{id} in Redis");
    }
    // Redis has an older revision of it, which Postgres cannot know to be gone.
    let [status, _, direction] = said(&in_sql(&mut client, "carried")).map(str::to_owned);
    assert_eq!((status.as_str(), direction.as_str()), ("pending", "to_redis"));

    pair.resume();
    let removal = Request::Remove("from.sql".to_owned(), vec![]);
    pair.settle("everything shared is on both sides, and both know it", |client, connection| {
        ["carried", "from.redis", "from.sql"]
            .iter()
            .all(|id| synced(in_sql(client, id)) && synced(in_redis(id, connection)))
    });
    assert_eq!(removal.ask_sql(&mut client), Answer::Number(1));
    pair.settle("both sides know that it is removed", |client, connection| {
        let removed = |answer: Answer| said(&answer) == ["removed", "none", "-"];
        removed(in_sql(client, "from.sql")) && removed(in_redis("from.sql", connection))
    });
    assert_eq!(said(&in_redis("here.alone", &mut connection))[0], "local");
    assert_eq!(said(&in_sql(&mut client, "there.alone"))[0], "local");
    assert_eq!(said(&in_sql(&mut client, "here.alone"))[0], "missing", "a local item is not carried");
}

/// What no link covers is unlinked, whatever links there are.
#[test]
fn what_lies_outside_a_links_prefix_is_unlinked() {
    let redis = redis::Redis::start(redis::Options::in_memory());
    let postgres = pg::Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    sql::run(&mut client, &format!("SELECT tandem.link('{}', prefix => 'in.')", redis.url()));
    put("in.it", vec![]).ask_sql(&mut client);
    put("out.it", vec![]).ask_sql(&mut client);
    tandem_tests::wait::until("what the link covers is synced", tandem_tests::wait::DEADLINE, || {
        said(&in_sql(&mut client, "in.it"))[0] == "synced"
    });
    assert_eq!(said(&in_sql(&mut client, "out.it")), ["unlinked", "postgres", "-"]);
}
