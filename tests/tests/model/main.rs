//! Random sequences of operations: both engines give the model's answers, and after every sequence both have the
//! model's root. `PROPTEST_CASES` sets how many sequences there are.

mod steps;

use ::redis::Connection;
use postgres::Client;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::{Cell, RefCell};
use steps::{Speaker, step};
use tandem_tests::answer::{Answer, Normal};
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::model::Model;
use tandem_tests::pair::{root_of_postgres, root_of_redis};
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{self, Redis, ask};
use tandem_tests::request::Request;
use tandem_tests::sql;

const SEQUENCES: u32 = 64;
const STEPS: usize = 40;

/// Both engines, empty but for tombstones of earlier sequences, and the model.
struct Trio<'a> {
    client: &'a mut Client,
    connection: &'a mut Connection,
    normals: [Normal; 3],
    model: Model,
    said: Vec<String>,
}

impl Trio<'_> {
    fn hold(&mut self, request: &Request) -> Result<(), TestCaseError> {
        let [sql, redis, model] = &mut self.normals;
        let in_sql = comparable(sql.of(request.ask_sql(self.client)));
        let in_redis = comparable(redis.of(request.ask_redis(self.connection)));
        let expected = comparable(model.of(self.model.ask(request)));
        self.said.push(format!("{request:?}"));
        let agree = in_sql == in_redis && without_message(&in_sql) == without_message(&expected);
        prop_assert!(
            agree,
            "{}\nmodel {expected:?}\nsql   {in_sql:?}\nredis {in_redis:?}",
            self.said.join("\n")
        );
        Ok(())
    }

    fn hold_roots(&mut self) -> Result<(), TestCaseError> {
        let expected = match self.model.ask(&Request::Root) {
            Answer::Text(root) => Some(root),
            _ => None,
        };
        let roots = (root_of_postgres(self.client), root_of_redis(self.connection));
        let said = self.said.join("\n");
        prop_assert_eq!(&roots.0, &expected, "the root in Postgres after\n{}", said);
        prop_assert_eq!(&roots.1, &expected, "the root in Redis after\n{}", said);
        Ok(())
    }
}

/// Without the statistics, which each engine keeps its own way, and without what the fold has still to do, which
/// depends on what else is running.
fn comparable(answer: Answer) -> Answer {
    match answer {
        Answer::Record(mut fields) => {
            let own = ["access_count", "last_accessed", "pending"];
            fields.retain(|(name, _)| !own.contains(&name.as_str()));
            Answer::Record(fields)
        }
        other => other,
    }
}

/// The model refuses with a code alone; the engines' messages are compared with each other.
fn without_message(answer: &Answer) -> Answer {
    match answer {
        Answer::Refused { code, .. } => Answer::refused(code, ""),
        other => other.clone(),
    }
}

/// What sequences leave must not meet the next one's states and roots. Tombstones stay, under ids of no later
/// sequence.
fn clear(client: &mut Client, connection: &mut Connection) {
    sql::run(client, "DELETE FROM tandem.items");
    ask(connection, &["FLUSHALL"]);
}

fn fresh_database(server: &Postgres, number: usize) -> Client {
    let name = format!("model_{number}");
    sql::run(&mut server.connect(), &format!("CREATE DATABASE {name}"));
    let mut client = server.connect_as("postgres", &name);
    sql::run(&mut client, "CREATE EXTENSION tandem");
    client
}

#[test]
fn both_engines_do_what_the_model_does() {
    // Steps join removals of long ago, which the engines would forget at once; the model forgets nothing.
    let settings = vec!["tandem.tombstone_retention = 0".to_owned()];
    let postgres = Postgres::with_extension(&pg::Options { settings, ..pg::Options::default() });
    let redis = Redis::start(redis::Options::in_memory().with("tandem.tombstone-retention-ms", "0"));
    let (client, connection) = (RefCell::new(postgres.connect()), RefCell::new(redis.connect()));
    let sound = Cell::new(true);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(SEQUENCES),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let (runs, steps_held) = (Cell::new(0_usize), Cell::new(0));
    let held = TestRunner::new(config).run(&vec(step(), 1..=STEPS), |steps| {
        let (mut client, mut connection) = (client.borrow_mut(), connection.borrow_mut());
        runs.set(runs.get() + 1);
        if !sound.replace(false) {
            // What went wrong may have left its mark, and a shorter sequence must fail by itself.
            *client = fresh_database(&postgres, runs.get());
        }
        clear(&mut client, &mut connection);
        let base = format!("m{}", runs.get());
        let mut trio = Trio {
            client: &mut client,
            connection: &mut connection,
            normals: Default::default(),
            model: Model::default(),
            said: Vec::new(),
        };
        for step in &steps {
            let requests = Speaker { base: &base, model: &trio.model }.requests(step);
            requests.iter().try_for_each(|request| trio.hold(request))?;
            steps_held.set(steps_held.get() + requests.len());
        }
        trio.hold_roots()?;
        let census = check_postgres(trio.client, "after a sequence");
        prop_assert_eq!(census, check_redis(trio.connection, "after a sequence"));
        sound.set(true);
        Ok(())
    });
    if let Err(failure) = held {
        panic!("{failure}");
    }
    println!(
        "{} sequences, {} requests, each answered by both engines as by the model",
        runs.get(),
        steps_held.get()
    );
}
