//! Requests that both engines understand, each put in the engine's own language.

use crate::answer::{Answer, of_redis, of_sql};
use crate::redis::send;
use postgres::Client;
use postgres::types::ToSql;
use redis::Connection;

/// How an answer is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A value.
    Plain,
    /// Named fields.
    Record,
    /// A list of records, with nothing in the place of absent ones.
    Records,
}

/// An option of a put or a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOption {
    /// Content is bytes, not JSON.
    Binary,
    /// `VERSION n`.
    Version(i64),
    /// `STATE s`.
    State(String),
    /// `IFMATCH etag`.
    IfMatch(String),
    /// `IFABSENT`.
    IfAbsent,
    /// `AUDIT json`.
    Audit(String),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// PUT.
    Put(String, Vec<u8>, Vec<PutOption>),
    /// GET.
    Get(String),
    /// MGET.
    GetMany(Vec<String>),
    /// EXISTS of one id.
    Exists(String),
    /// REMOVE.
    Remove(String, Vec<PutOption>),
    /// SCAN prefix AFTER LIMIT.
    Scan(String, Option<String>, Option<i64>),
    /// COUNT.
    Count(String),
    /// APPLY of encoded bytes.
    Apply(String, Vec<u8>),
    /// VERIFY.
    Verify,
    /// MERKLE ROOT.
    Root,
    /// MERKLE HASH.
    Hash(String),
    /// MERKLE CHILDREN path AFTER LIMIT.
    Children(String, Option<String>, Option<i64>),
    /// A PUT with a word that is no option.
    UnknownOption(String),
    /// A PUT of an id without anything to put.
    TooFewArguments(String),
}

/// A parameter of an SQL function: its name, its type and its value.
type Parameter = (&'static str, &'static str, Box<dyn ToSql + Sync>);

impl Request {
    /// How its answer is laid out.
    pub fn shape(&self) -> Shape {
        match self {
            Request::Put(..) | Request::Get(_) | Request::Verify => Shape::Record,
            Request::UnknownOption(_) | Request::TooFewArguments(_) => Shape::Record,
            Request::GetMany(_) | Request::Scan(..) | Request::Children(..) => Shape::Records,
            _ => Shape::Plain,
        }
    }

    /// Puts the request to Redis.
    pub fn ask_redis(&self, connection: &mut Connection) -> Answer {
        of_redis(self.shape(), send(connection, &self.words()))
    }

    /// Puts the request to Postgres.
    pub fn ask_sql(&self, client: &mut Client) -> Answer {
        let (function, parameters) = self.call();
        let places: Vec<String> = parameters
            .iter()
            .enumerate()
            .map(|(index, (name, kind, _))| format!("{name} => ${}::{kind}", index + 1))
            .collect();
        let query = format!("SELECT * FROM tandem.{function}({})", places.join(", "));
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(_, _, value)| &**value).collect();
        of_sql(self.shape(), client.query(&query, &values))
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut say = |word: &[u8]| words.push(word.to_vec());
        match self {
            Request::Put(id, payload, options) => {
                for word in [b"TANDEM.PUT", id.as_bytes(), payload] {
                    say(word);
                }
                options.iter().flat_map(option_words).for_each(|word| say(word.as_bytes()));
            }
            Request::Get(id) => ["TANDEM.GET", id].iter().for_each(|word| say(word.as_bytes())),
            Request::GetMany(ids) => {
                say(b"TANDEM.MGET");
                ids.iter().for_each(|id| say(id.as_bytes()));
            }
            Request::Exists(id) => ["TANDEM.EXISTS", id].iter().for_each(|word| say(word.as_bytes())),
            Request::Remove(id, options) => {
                ["TANDEM.REMOVE", id].iter().for_each(|word| say(word.as_bytes()));
                options.iter().flat_map(option_words).for_each(|word| say(word.as_bytes()));
            }
            Request::Scan(prefix, after, limit) => {
                ["TANDEM.SCAN", prefix].iter().for_each(|word| say(word.as_bytes()));
                page_words(after, limit).iter().for_each(|word| say(word.as_bytes()));
            }
            Request::Count(prefix) => ["TANDEM.COUNT", prefix].iter().for_each(|word| say(word.as_bytes())),
            Request::Apply(id, revision) => {
                for word in [b"TANDEM.APPLY", id.as_bytes(), revision] {
                    say(word);
                }
            }
            Request::Verify => say(b"TANDEM.VERIFY"),
            Request::Root => ["TANDEM.MERKLE", "ROOT"].iter().for_each(|word| say(word.as_bytes())),
            Request::Hash(path) => {
                ["TANDEM.MERKLE", "HASH", path].iter().for_each(|word| say(word.as_bytes()));
            }
            Request::Children(path, after, limit) => {
                ["TANDEM.MERKLE", "CHILDREN", path].iter().for_each(|word| say(word.as_bytes()));
                page_words(after, limit).iter().for_each(|word| say(word.as_bytes()));
            }
            Request::UnknownOption(id) => {
                ["TANDEM.PUT", id, "1", "BOGUS"].iter().for_each(|word| say(word.as_bytes()));
            }
            Request::TooFewArguments(id) => ["TANDEM.PUT", id].iter().for_each(|word| say(word.as_bytes())),
        }
        words
    }

    fn call(&self) -> (&'static str, Vec<Parameter>) {
        match self {
            Request::Put(id, payload, options) => put_call(id, payload, options),
            Request::Get(id) => ("get", vec![text("id", id)]),
            Request::GetMany(ids) => ("get_many", vec![("ids", "text[]", Box::new(ids.clone()))]),
            Request::Exists(id) => ("exists", vec![text("id", id)]),
            Request::Remove(id, options) => {
                let mut parameters = vec![text("id", id)];
                parameters.extend(options.iter().filter_map(option_parameter));
                ("delete", parameters)
            }
            Request::Scan(prefix, after, limit) => {
                let mut parameters = vec![text("prefix", prefix)];
                parameters.extend(page_parameters(after, limit));
                ("scan", parameters)
            }
            Request::Count(prefix) => ("count", vec![text("prefix", prefix)]),
            Request::Apply(id, revision) => {
                ("apply", vec![text("id", id), ("revision", "bytea", Box::new(revision.clone()))])
            }
            Request::Verify => ("verify", Vec::new()),
            Request::Root => ("merkle_root", Vec::new()),
            Request::Hash(path) => ("merkle_hash", vec![text("path", path)]),
            Request::Children(path, after, limit) => {
                let mut parameters = vec![text("path", path)];
                parameters.extend(page_parameters(after, limit));
                ("merkle_children", parameters)
            }
            Request::UnknownOption(id) => {
                ("put", vec![text("id", id), text("payload", "1"), text("bogus", "1")])
            }
            Request::TooFewArguments(id) => ("put", vec![text("id", id)]),
        }
    }
}

fn text(name: &'static str, value: &str) -> Parameter {
    (name, "text", Box::new(value.to_owned()))
}

fn put_call(id: &str, payload: &[u8], options: &[PutOption]) -> (&'static str, Vec<Parameter>) {
    let mut parameters = vec![text("id", id)];
    let function = if options.contains(&PutOption::Binary) {
        parameters.push(("payload", "bytea", Box::new(payload.to_vec())));
        "put_binary"
    } else {
        parameters.push(text("payload", std::str::from_utf8(payload).expect("JSON of a case is UTF-8")));
        "put"
    };
    parameters.extend(options.iter().filter_map(option_parameter));
    (function, parameters)
}

fn option_words(option: &PutOption) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match option {
        PutOption::Binary => words(&["BINARY"]),
        PutOption::Version(number) => words(&["VERSION", &number.to_string()]),
        PutOption::State(state) => words(&["STATE", state]),
        PutOption::IfMatch(etag) => words(&["IFMATCH", etag]),
        PutOption::IfAbsent => words(&["IFABSENT"]),
        PutOption::Audit(audit) => words(&["AUDIT", audit]),
    }
}

fn option_parameter(option: &PutOption) -> Option<Parameter> {
    Some(match option {
        PutOption::Binary => return None,
        PutOption::Version(number) => ("version", "bigint", Box::new(*number)),
        PutOption::State(state) => text("state", state),
        PutOption::IfMatch(etag) => text("if_match", etag),
        PutOption::IfAbsent => ("if_absent", "boolean", Box::new(true)),
        PutOption::Audit(audit) => text("audit", audit),
    })
}

fn page_words(after: &Option<String>, limit: &Option<i64>) -> Vec<String> {
    let after = after.iter().flat_map(|id| ["AFTER".to_owned(), id.clone()]);
    after.chain(limit.iter().flat_map(|number| ["LIMIT".to_owned(), number.to_string()])).collect()
}

fn page_parameters(after: &Option<String>, limit: &Option<i64>) -> Vec<Parameter> {
    let after = after.iter().map(|id| text("after", id));
    after.chain(limit.iter().map(|number| limit_parameter(*number))).collect()
}

fn limit_parameter(number: i64) -> Parameter {
    ("lim", "bigint", Box::new(number))
}
