//! One table of cases, each put to a Postgres and to a Redis that know nothing of each other: a command and its
//! SQL function give the same answer and refuse the same input, with the same code and the same message, and
//! what is refused changes nothing.

mod cases;

use ::redis::{Connection, Value};
use cases::{Case, Expect, cases};
use postgres::Client;
use tandem_tests::answer::Answer;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{root_of_postgres, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask, ask_text, send};
use tandem_tests::request::{PutOption, Request};
use tandem_tests::sql;

/// Everything of an engine that a refused request could have changed.
#[derive(Debug, PartialEq, Eq)]
struct Stand(Vec<String>);

fn stand_of_postgres(client: &mut Client) -> Stand {
    let query = "SELECT (SELECT count(*) FROM tandem.items) || ' items, ' \
        || (SELECT count(*) FROM tandem.changes) || ' changes, ' \
        || (SELECT coalesce(string_agg(t.id || t.version, ' ' ORDER BY t.id), '') FROM tandem.tombstones t)";
    let counts: String = sql::value(client, query);
    Stand(vec![counts, format!("{:?}", root_of_postgres(client))])
}

fn stand_of_redis(connection: &mut Connection) -> Stand {
    let lines = ask_text(connection, &["INFO", "tandem"]).unwrap_or_default();
    let books = lines.lines().find(|line| line.contains("db0:")).unwrap_or_default().to_owned();
    // The module's own memory is no part of what a request changes.
    let books =
        books.split(',').filter(|field| !field.starts_with("index_bytes")).collect::<Vec<_>>().join(",");
    let keyspace = ask_text(connection, &["DEBUG", "DIGEST"]).unwrap_or_default();
    Stand(vec![books, keyspace, format!("{:?}", root_of_redis(connection))])
}

/// Where a case says `current`, the etag of the item is meant.
fn resolve(request: &Request, etag: &mut dyn FnMut(&str) -> String) -> Request {
    let mut request = request.clone();
    if let Request::Put(id, _, options) | Request::Remove(id, options) = &mut request {
        for option in options {
            if *option == PutOption::IfMatch("current".to_owned()) {
                *option = PutOption::IfMatch(etag(id));
            }
        }
    }
    request
}

fn judge(case: &Case, in_sql: &Answer, in_redis: &Answer) -> Result<(), String> {
    let refusal = |answer: &Answer| match answer {
        Answer::Refused { code, .. } => Some(code.clone()),
        _ => None,
    };
    match &case.expect {
        Expect::Refused(code) if refusal(in_sql).as_deref() != Some(code) => {
            Err(format!("it is refused with {code}"))
        }
        Expect::RefusedApart { sql, redis } => {
            let expected = (Some((*sql).to_owned()), Some((*redis).to_owned()));
            if (refusal(in_sql), refusal(in_redis)) == expected {
                Ok(())
            } else {
                Err(format!("{expected:?}"))
            }
        }
        _ if in_sql != in_redis => Err("both engines answer alike".to_owned()),
        Expect::Refused(_) => Ok(()),
        Expect::Answer(expected) if in_sql == expected => Ok(()),
        Expect::Answer(expected) => Err(format!("{expected:?}")),
        Expect::Fields(expected) => {
            let missed = expected.iter().find(|(name, value)| in_sql.field(name) != Some(value));
            missed.map_or(Ok(()), |(name, value)| Err(format!("{name} is {value:?}")))
        }
        Expect::Text if matches!(in_sql, Answer::Text(_)) => Ok(()),
        Expect::Text => Err("text".to_owned()),
        Expect::Ids(expected) => {
            let Answer::List(entries) = in_sql else { return Err("a list".to_owned()) };
            let found: Vec<String> = entries.iter().map(id_of).collect();
            if found == *expected { Ok(()) } else { Err(format!("{expected:?}")) }
        }
    }
}

fn id_of(entry: &Answer) -> String {
    match entry.field("id").or_else(|| entry.field("path")) {
        Some(Answer::Text(id)) => id.clone(),
        _ => String::new(),
    }
}

/// Both engines and what went wrong so far.
struct Bench {
    client: Client,
    connection: Connection,
    failures: Vec<String>,
}

impl Bench {
    fn both(&mut self, request: &Request) -> (Answer, Answer) {
        let request = resolve(request, &mut |id| {
            Request::Get(id.to_owned()).ask_sql(&mut self.client).text_field("etag").to_owned()
        });
        let in_sql = request.ask_sql(&mut self.client).without_now();
        (in_sql, request.ask_redis(&mut self.connection).without_now())
    }

    fn stands(&mut self) -> (Stand, Stand) {
        (stand_of_postgres(&mut self.client), stand_of_redis(&mut self.connection))
    }

    fn fail(&mut self, case: &Case, what: &str, answers: &(Answer, Answer)) {
        let (in_sql, in_redis) = answers;
        self.failures.push(format!("{}: {what}\n  sql   {in_sql:?}\n  redis {in_redis:?}", case.name));
    }

    fn hold(&mut self, case: &Case) {
        for request in &case.before {
            let answers = self.both(request);
            if answers.0 != answers.1 || matches!(answers.0, Answer::Refused { .. }) {
                self.fail(case, &format!("before it, {request:?}"), &answers);
            }
        }
        let before = self.stands();
        let answers = self.both(&case.request);
        if let Err(expected) = judge(case, &answers.0, &answers.1) {
            self.fail(case, &format!("expected: {expected}"), &answers);
        }
        let after = self.stands();
        if case.changes_nothing() && before != after {
            self.fail(case, &format!("it changed something: {before:?} to {after:?}"), &answers);
        }
        let roots = (root_of_postgres(&mut self.client), root_of_redis(&mut self.connection));
        if roots.0 != roots.1 {
            self.fail(case, &format!("the roots differ after it: {roots:?}"), &answers);
        }
    }
}

#[test]
fn both_engines_answer_alike() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let redis = Redis::start(redis::Options::in_memory());
    let mut bench = Bench { client: postgres.connect(), connection: redis.connect(), failures: Vec::new() };
    let cases = cases();
    cases.iter().for_each(|case| bench.hold(case));
    let Bench { mut client, mut connection, failures } = bench;
    assert!(
        failures.is_empty(),
        "{} failures in {} cases\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    let census = check_postgres(&mut client, "after all cases");
    assert_eq!(census, check_redis(&mut connection, "after all cases"));
    assert!(census.count > 20, "the cases left items behind: {census:?}");
}

/// What only Redis has: keys of another type, bytes that are not UTF-8, wrong numbers of arguments and options
/// that SQL's types already keep out.
#[test]
fn redis_refuses_what_sql_cannot_even_say() {
    let redis = Redis::start(redis::Options::in_memory());
    let mut connection = redis.connect();
    ask(&mut connection, &["SET", "text", "1"]);
    ask(&mut connection, &["TANDEM.PUT", "item", "1"]);
    let before = stand_of_redis(&mut connection);
    let refusals: [&[&[u8]]; 26] = [
        &[b"TANDEM.PUT", b"text", b"1"],
        &[b"TANDEM.GET", b"text"],
        &[b"TANDEM.MGET", b"item", b"text"],
        &[b"TANDEM.REMOVE", b"text"],
        &[b"TANDEM.EXISTS", b"text"],
        &[b"TANDEM.PUT", b"a\xffb", b"1"],
        &[b"TANDEM.PUT", b"new", b"1", b"STATE", b"\xff"],
        &[b"TANDEM.PUT", b"new"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION", b"x"],
        &[b"TANDEM.PUT", b"new", b"1", b"VERSION", b"9223372036854775808"],
        &[b"TANDEM.PUT", b"new", b"1", b"EX", b"0"],
        &[b"TANDEM.PUT", b"new", b"1", b"PX", b"-1"],
        &[b"TANDEM.PUT", b"new", b"1", b"NOSUCHOPTION"],
        &[b"TANDEM.GET"],
        &[b"TANDEM.GET", b"item", b"more"],
        &[b"TANDEM.MGET"],
        &[b"TANDEM.EXISTS"],
        &[b"TANDEM.REMOVE"],
        &[b"TANDEM.REMOVE", b"item", b"IFABSENT"],
        &[b"TANDEM.SCAN"],
        &[b"TANDEM.SCAN", b"", b"LIMIT", b"x"],
        &[b"TANDEM.COUNT", b"", b"more"],
        &[b"TANDEM.MERKLE", b"TRUNK"],
        &[b"TANDEM.EFFECT", b"WRITE", b"item", b"x", b"1", b"", b"-1"],
        &[b"TANDEM.APPLY", b"new", b"x", b"more"],
    ];
    let mut failures = Vec::new();
    for words in refusals {
        let shown: Vec<String> =
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let reply = send(&mut connection, words);
        let code = reply.as_ref().err().and_then(|error| error.code());
        let expected = if words[0] == b"TANDEM.APPLY" { ["INVALID", "CORRUPT"] } else { ["INVALID"; 2] };
        if !code.is_some_and(|code| expected.contains(&code)) {
            failures.push(format!("{}: {reply:?}", shown.join(" ")));
        }
    }
    assert!(failures.is_empty(), "refused with INVALID:\n{}", failures.join("\n"));
    assert_eq!(stand_of_redis(&mut connection), before, "after all refusals");
    assert_eq!(ask(&mut connection, &["GET", "text"]), Value::BulkString(b"1".to_vec()));
}

/// The address of every code: message, DETAIL and SQLSTATE; and a HINT where there is something to do.
#[test]
fn sql_errors_can_be_told_apart() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let (state, text) = sql::refused(&mut client, "SELECT tandem.put('', '1')");
    assert_eq!(state, "22023", "{text}");
    assert!(text.contains("code INVALID") && text.contains("id is empty"), "{text}");
    let (state, text) = sql::refused(&mut client, "SELECT tandem.put('a', '{'::text)");
    assert_eq!(state, "22P02", "{text}");
    assert!(text.contains("code BADJSON"), "{text}");
    assert!(!text.contains("backtrace"), "a refusal is no crash: {text}");
}

/// `jsonb` and `text` are the same content.
#[test]
fn sql_takes_json_as_text_and_as_jsonb() {
    let postgres = Postgres::with_extension(&pg::Options::default());
    let mut client = postgres.connect();
    let payload = r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#;
    let mut etag = |id: &str, kind: &str| -> (String, String) {
        let query = format!("SELECT hash, etag FROM tandem.put('{id}', '{payload}'::{kind}, version => 5)");
        let row = sql::rows(&mut client, &query).remove(0);
        (row.get(0), row.get(1))
    };
    let (as_text, as_jsonb) = (etag("text", "text"), etag("jsonb", "jsonb"));
    assert_eq!(as_text.0, as_jsonb.0, "the hash");
    assert_ne!(as_text.1, as_jsonb.1, "the etag covers the id");
    assert_eq!(etag("text", "jsonb"), as_text, "put again in the other form");
}
