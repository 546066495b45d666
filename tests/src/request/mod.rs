//! Requests that both engines understand, each put in the engine's own language.
//!
//! What a request looks like in the two languages stands once, in [`form`]: a list of arguments, each of which
//! knows its words for Redis and its named parameter for SQL.

mod form;

use crate::answer::{Answer, of_redis, of_sql};
use crate::redis::send;
use form::Form;
use postgres::Client;
use postgres::types::ToSql;
use redis::Connection;

/// How an answer is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A value.
    Plain,
    /// A list of values: an array in Redis, an array or a set of rows in SQL.
    Values,
    /// Named fields.
    Record,
    /// A list of records, with nothing in the place of absent ones.
    Records,
}

/// An option of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOption {
    /// Content is JSON: `JSON`, `type => 'json'`.
    Json,
    /// Content is JSON, and SQL is given it as `jsonb`.
    Jsonb,
    /// Content is bytes: `BINARY`, `put_binary`.
    Binary,
    /// Content is bytes that are text: `BINARY`, `type => 'binary'`.
    BinaryText,
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
    /// `LOCAL`.
    Local,
    /// Words about the time to live, which only Redis has; SQL is asked without them.
    Ttl(Vec<&'static str>),
}

/// A part of a list: after which entry, and how many at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// `AFTER`.
    pub after: Option<String>,
    /// `LIMIT`.
    pub limit: Option<i64>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// PUT of content under an id.
    Put(String, Vec<u8>, Vec<PutOption>),
    /// MERGE of a patch into an id.
    Merge(String, String, Vec<PutOption>),
    /// GET.
    Get(String),
    /// MGET.
    GetMany(Vec<String>),
    /// EXISTS of one id.
    Exists(String),
    /// MEXISTS.
    ExistsMany(Vec<String>),
    /// REMOVE.
    Remove(String, Vec<PutOption>),
    /// STATUS.
    Status(String),
    /// APPLY of encoded bytes.
    Apply(String, Vec<u8>),
    /// VERIFY.
    Verify,
    /// MPUT of ids and contents.
    PutMany(Vec<(String, String)>, Vec<PutOption>),
    /// `put_many` of a JSON array; Redis says it with BATCH.
    PutItems(String, Option<String>),
    /// MREMOVE.
    RemoveMany(Vec<String>, Vec<PutOption>),
    /// BATCH of a JSON array, with an audit object.
    Batch(String, Option<String>),
    /// STATE LIST.
    ListState(String, Page),
    /// STATE GET.
    GetState(String, Page),
    /// STATE COUNT.
    CountState(String),
    /// STATE HAS id state.
    InState(String, String),
    /// STATE SET id state.
    SetState(String, String, Vec<PutOption>),
    /// STATE MOVE id from to.
    MoveState(String, [String; 2], Vec<PutOption>),
    /// STATE REMOVE state LIMIT.
    RemoveState(String, Option<i64>, Vec<PutOption>),
    /// SCAN prefix.
    Scan(String, Page),
    /// COUNT of a prefix.
    Count(String),
    /// COUNT of everything, by the default.
    CountAll,
    /// REMOVEPREFIX prefix LIMIT.
    RemovePrefix(String, Option<i64>, Vec<PutOption>),
    /// MERKLE ROOT.
    Root,
    /// MERKLE HASH path.
    Hash(String),
    /// MERKLE NODE path.
    Node(String),
    /// MERKLE CHILDREN path.
    Children(String, Page),
    /// MERKLE LEAVES path.
    Leaves(String, Page),
    /// MERKLE DIRTY prefix.
    Dirty(String, Page),
    /// MERKLE DIRTYCOUNT prefix.
    DirtyCount(String),
    /// MERKLE DIRTYPREFIXES path.
    DirtyPrefixes(String, Page),
    /// MERKLE CLEAN path.
    Clean(String, Page),
    /// MERKLE ISCLEAN path.
    IsClean(String),
    /// Folds what is pending in Postgres. Redis has nothing to fold: every write of it is, at once.
    Fold,
    /// What no well-formed request says: the words for Redis, and the call that comes closest in SQL.
    Odd(Vec<String>, String),
}

impl Request {
    /// How its answer is laid out.
    pub fn shape(&self) -> Shape {
        match self {
            Request::ExistsMany(_) | Request::ListState(..) | Request::Dirty(..) => Shape::Values,
            Request::GetMany(_) | Request::GetState(..) | Request::Scan(..) => Shape::Records,
            Request::Children(..) | Request::Leaves(..) => Shape::Records,
            Request::DirtyPrefixes(..) | Request::Clean(..) => Shape::Records,
            Request::Put(..) | Request::Merge(..) | Request::Get(_) | Request::Status(_) => Shape::Record,
            Request::PutMany(..) | Request::PutItems(..) | Request::RemoveMany(..) => Shape::Record,
            Request::Batch(..) | Request::SetState(..) | Request::MoveState(..) => Shape::Record,
            Request::Verify | Request::Node(_) | Request::Odd(..) => Shape::Record,
            _ => Shape::Plain,
        }
    }

    /// The id and the options of a write to one item.
    pub fn options(&mut self) -> Option<(&str, &mut Vec<PutOption>)> {
        match self {
            Request::Put(id, _, options)
            | Request::Merge(id, _, options)
            | Request::Remove(id, options)
            | Request::SetState(id, _, options)
            | Request::MoveState(id, _, options) => Some((id, options)),
            _ => None,
        }
    }

    /// Puts the request to Redis.
    pub fn ask_redis(&self, connection: &mut Connection) -> Answer {
        let words = match self {
            Request::Fold => return Answer::Nothing,
            Request::Odd(words, _) => words.iter().map(|word| word.as_bytes().to_vec()).collect(),
            _ => Form::of(self).words(),
        };
        of_redis(self.shape(), send(connection, &words))
    }

    /// Puts the request to Postgres.
    pub fn ask_sql(&self, client: &mut Client) -> Answer {
        if let Request::Odd(_, call) = self {
            return of_sql(self.shape(), client.query(&format!("SELECT * FROM tandem.{call}"), &[]));
        }
        if let Request::Fold = self {
            crate::sql::run(client, "SELECT tandem.fold()");
            return Answer::Nothing;
        }
        let form = Form::of(self);
        let values: Vec<&(dyn ToSql + Sync)> = form.parameters().map(|(_, _, value)| &**value).collect();
        of_sql(self.shape(), client.query(&form.query(), &values))
    }
}
