//! One table of cases, each put to a Postgres and to a Redis that know nothing of each other: a command and its
//! SQL function give the same answer and refuse the same input, with the same code and the same message, and
//! what is refused or unchanged changes nothing.

mod apart;
mod cases;

use ::redis::Connection;
use cases::{Case, Expect, cases};
use postgres::Client;
use std::collections::BTreeSet;
use tandem_tests::answer::{Answer, Normal};
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::{root_of_postgres, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask_text};
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

/// Where a case says `current`, or `etag of …` in a batch, the item's etag is meant.
fn resolve(request: &Request, etag: &mut dyn FnMut(&str) -> String) -> Request {
    const ETAG_OF: &str = "\"etag of ";
    let mut request = request.clone();
    if let Some((id, options)) = request.options() {
        for option in options {
            if *option == PutOption::IfMatch("current".to_owned()) {
                *option = PutOption::IfMatch(etag(id));
            }
        }
    }
    if let Request::Batch(ops, _) = &mut request {
        while let Some(start) = ops.find(ETAG_OF) {
            let name = start + ETAG_OF.len();
            let end = name + ops[name..].find('"').expect("a text in JSON ends");
            let found = format!("\"{}\"", etag(&ops[name..end]));
            ops.replace_range(start..=end, &found);
        }
    }
    request
}

fn judge(case: &Case, in_sql: &Answer, in_redis: &Answer) -> Result<(), String> {
    let refusal = |answer: &Answer| match answer {
        Answer::Refused { code, .. } => Some(code.clone()),
        _ => None,
    };
    let says = |text: &str| matches!(in_sql, Answer::Refused { message, .. } if message.contains(text));
    match &case.expect {
        Expect::RefusedSaying(code, text) if refusal(in_sql).as_deref() != Some(code) || !says(text) => {
            Err(format!("it is refused with {code} and says {text:?}"))
        }
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
        Expect::Refused(_) | Expect::RefusedSaying(..) => Ok(()),
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
    match entry.field("id").or_else(|| entry.field("path")).unwrap_or(entry) {
        Answer::Text(id) => id.clone(),
        _ => String::new(),
    }
}

/// Both engines and what went wrong so far.
struct Bench {
    client: Client,
    connection: Connection,
    /// A connection to the same Redis that speaks protocol 3, where records are maps.
    maps: Connection,
    normals: (Normal, Normal),
    /// Whether the roots differ already: one failure is enough to say so.
    apart: bool,
    failures: Vec<String>,
}

impl Bench {
    fn resolved(&mut self, request: &Request) -> Request {
        resolve(request, &mut |id| {
            let item = Request::Get(id.to_owned()).ask_sql(&mut self.client);
            item.field("etag").map_or_else(|| "no etag".to_owned(), |_| item.text_field("etag").to_owned())
        })
    }

    fn both(&mut self, request: &Request) -> (Answer, Answer) {
        let request = self.resolved(request);
        let in_sql = self.normals.0.of(request.ask_sql(&mut self.client));
        (in_sql, self.normals.1.of(request.ask_redis(&mut self.connection)))
    }

    /// What changes nothing is answered alike in both protocols of Redis.
    fn hold_protocols(&mut self, case: &Case) {
        let request = self.resolved(&case.request);
        let flat = Normal::default().of(request.ask_redis(&mut self.connection));
        let maps = Normal::default().of(request.ask_redis(&mut self.maps));
        if flat != maps {
            self.fail(case, "protocol 2 and protocol 3 differ", &(flat, maps));
        }
    }

    fn stands(&mut self) -> (Stand, Stand) {
        (stand_of_postgres(&mut self.client), stand_of_redis(&mut self.connection))
    }

    fn fail(&mut self, case: &Case, what: &str, answers: &(Answer, Answer)) {
        let shown = |answer: &Answer| format!("{answer:?}").chars().take(1000).collect::<String>();
        let (in_sql, in_redis) = (shown(&answers.0), shown(&answers.1));
        self.failures.push(format!("{}: {what}\n  sql   {in_sql}\n  redis {in_redis}", case.name));
    }

    fn hold(&mut self, case: &Case) {
        self.normals = Default::default();
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
        if case.changes_nothing() {
            self.hold_protocols(case);
        }
        let after = self.stands();
        if case.changes_nothing() && before != after {
            self.fail(case, &format!("it changed something: {before:?} to {after:?}"), &answers);
        }
        let roots = (root_of_postgres(&mut self.client), root_of_redis(&mut self.connection));
        let met_before = std::mem::replace(&mut self.apart, roots.0 != roots.1);
        if self.apart && !met_before {
            self.fail(case, &format!("the roots differ from here on: {roots:?}"), &answers);
        }
    }
}

/// Runs the whole table. `prepare` makes of the Postgres what the run is about.
fn hold_the_table(prepare: impl FnOnce(&mut Client)) {
    // Nothing but the cases themselves runs, folds and forgets, so that what is dirty and removed depends on them
    // alone.
    let quiet = vec!["autovacuum = off".to_owned()];
    let options = pg::Options { preload: false, settings: quiet, ..pg::Options::default() };
    let postgres = Postgres::with_extension(&options);
    // The revisions that the cases apply are years old: their tombstones would be forgotten while the table is read.
    let redis = Redis::start(redis::Options::in_memory().with("tandem.tombstone-retention-ms", "0"));
    let mut client = postgres.connect();
    prepare(&mut client);
    let normals = Default::default();
    let (connection, maps) = (redis.connect(), redis.connect_resp3());
    let mut bench = Bench { client, connection, maps, normals, apart: false, failures: Vec::new() };
    let cases = cases();
    assert!(cases.len() >= 250, "the table has {} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    cases.iter().for_each(|case| bench.hold(case));
    let Bench { mut client, mut connection, failures, .. } = bench;
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
    println!("{} cases, each answered alike by both engines", cases.len());
}

#[test]
fn both_engines_answer_alike() {
    hold_the_table(|_| ());
}

/// Routes change where rows lie and nothing else: prefixes of whole topics, of parts of them, of pages that begin
/// in one partition and end in another, and of single items.
#[test]
fn both_engines_answer_alike_when_ids_are_routed() {
    hold_the_table(|client| {
        let routes =
            ["put.", "put.s", "scan.", "scan.a", "tree.a", "s.", "s.many.05", "batch.", "rp.", "local."];
        for (place, prefix) in routes.iter().enumerate() {
            sql::run(client, &format!("SELECT tandem.route('{prefix}', 'routed_{place}')"));
        }
    });
}
