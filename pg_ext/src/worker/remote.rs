//! Redis as a replica of the shared search, and the link's commands with their replies taken apart.

use super::connection::{Broken, Connection, reply_error};
use super::peer::{Answer, Refusal};
use super::transaction::FailureKind;
use crate::error;
use pgrx::prelude::*;
use redis::Value;
use std::collections::HashMap;
use std::time::Duration;
use tandem_shared::codec::{Source, decode};
use tandem_shared::decide::Outcome;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::link::{Acknowledgement, Attachment, check_protocol};
use tandem_shared::owner::Owner;
use tandem_shared::reconcile::{Entry, Replica};
use tandem_shared::{Digest, Fingerprint, Revision};

/// One entry of a pull.
pub struct Pulled {
    /// Its sequence number.
    pub seq: u64,
    /// Its id; empty for "every copy was dropped".
    pub id: String,
    /// The revision, or none for "the copy was dropped".
    pub revision: Option<Vec<u8>>,
}

/// An id that is wanted in Redis, and what is to be stored where there is nothing, encoded.
pub type Wanted = (String, Option<Vec<u8>>);

/// This database of this server.
pub fn owner() -> error::Outcome<Owner> {
    let (cluster, timeline, database) = Spi::get_three::<String, i64, i64>(
        "SELECT system_identifier::text, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint, \
            d.oid::bigint \
         FROM pg_control_system(), pg_database d WHERE d.datname = current_database()",
    )?;
    let number = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
    let (timeline, database) = (number(timeline), number(database));
    Ok(Owner { cluster: cluster.unwrap_or_default().into(), timeline, database })
}

/// A Redis with the module loaded.
pub struct Remote<'a>(pub &'a mut Connection);

pub(super) fn malformed() -> Broken {
    Broken("Redis answered in another form than this version expects".into())
}

pub(super) fn array(value: Value) -> Result<Vec<Value>, Broken> {
    match value {
        Value::Array(values) => Ok(values),
        // RESP3 maps never come: the connection stays on RESP2.
        _ => Err(malformed()),
    }
}

pub(super) fn integer(value: &Value) -> Result<u64, Broken> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, Broken> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        _ => Err(malformed()),
    }
}

pub(super) fn text(value: Value) -> Result<String, Broken> {
    String::from_utf8(bytes(value)?).map_err(|_| malformed())
}

/// A map, which comes as names and values in turn.
pub(super) struct Fields(HashMap<String, Value>);

impl Fields {
    pub(super) fn of(value: Value) -> Result<Fields, Broken> {
        let (mut fields, mut values) = (HashMap::new(), array(value)?.into_iter());
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            fields.insert(text(name)?, value);
        }
        Ok(Fields(fields))
    }

    pub(super) fn take(&mut self, name: &str) -> Result<Value, Broken> {
        self.0.remove(name).ok_or_else(malformed)
    }
}

impl Remote<'_> {
    fn ranges(&mut self, verb: &str, first: Option<usize>, ranges: &[Range]) -> Result<Vec<Value>, Broken> {
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg(verb);
        if let Some(first) = first {
            command.arg(first);
        }
        for range in ranges {
            command.arg(range.start.as_str()).arg(range.end.as_deref().unwrap_or_default());
        }
        array(self.0.ask(&command)?)
    }

    /// Attaches a link. Returns the server's run and whether the link was not known.
    pub fn attach(&mut self, attachment: &Attachment) -> Result<(String, bool), Broken> {
        let mut fields = Fields::of(self.0.ask(redis::cmd("TANDEM.LINK").arg(attachment.words()))?)?;
        check_protocol("the module in Redis", integer(&fields.take("protocol")?)?)
            .map_err(|error| Broken(error.to_string()))?;
        Ok((text(fields.take("run")?)?, integer(&fields.take("fresh")?)? == 1))
    }

    /// Detaches a link, unless it belongs to another server now.
    pub fn detach(&mut self, link: &str, owner: &Owner) -> Result<(), Broken> {
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg("DETACH").arg(link).arg(&owner.words());
        self.0.ask(&command).map(drop)
    }

    /// Takes the reply to a pull apart.
    pub fn pulled(reply: Value) -> Result<Vec<Pulled>, Broken> {
        let entry = |value| {
            let mut fields = array(value)?.into_iter();
            match (fields.next(), fields.next(), fields.next()) {
                (Some(seq), Some(id), Some(revision)) => Ok(Pulled {
                    seq: integer(&seq)?,
                    id: text(id)?,
                    revision: if revision == Value::Nil { None } else { Some(bytes(revision)?) },
                }),
                _ => Err(malformed()),
            }
        };
        array(reply)?.into_iter().map(entry).collect()
    }

    /// Acknowledges what was taken.
    pub fn acknowledge(&mut self, acknowledgement: &Acknowledgement) -> Result<(), Broken> {
        self.0.ask(redis::cmd("TANDEM.LINK").arg(acknowledgement.words())).map(drop)
    }

    /// Says that everything was compared, or is to be compared again.
    pub fn ready(&mut self, link: &str, is_ready: bool) -> Result<(), Broken> {
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg("READY").arg(link);
        if !is_ready {
            command.arg("NOT");
        }
        self.0.ask(&command).map(drop)
    }

    /// Asks for ids that are wanted in Redis. `is_anew`: of those that were named before, too.
    pub fn wanted_command(
        link: &str,
        owner: &Owner,
        max: usize,
        block: Duration,
        is_anew: bool,
    ) -> redis::Cmd {
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg("WANTED").arg(link).arg(&owner.words()).arg(max).arg(block.as_millis() as u64);
        if is_anew {
            command.arg("ANEW");
        }
        command
    }

    /// The ids that are wanted, and what is to be stored where there is nothing, encoded.
    pub fn wanted(reply: Value) -> Result<Vec<Wanted>, Broken> {
        let mut fields = array(reply)?.into_iter();
        let mut wanted = Vec::new();
        while let (Some(id), Some(offer)) = (fields.next(), fields.next()) {
            let offer = if offer == Value::Nil { None } else { Some(bytes(offer)?) };
            wanted.push((text(id)?, offer));
        }
        Ok(wanted)
    }

    /// Sends what was wanted; an empty revision says that there is none. Returns why some were refused, in order.
    pub fn fill(
        &mut self,
        link: &str,
        owner: &Owner,
        revisions: &[(&str, Vec<u8>)],
    ) -> Result<Vec<Option<String>>, Broken> {
        let refusal = |answer| match answer {
            Value::ServerError(error) => Some(reply_error(&error)),
            _ => None,
        };
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg("FILL").arg(link).arg(&owner.words());
        Ok(self.send_revisions(command, revisions)?.into_iter().map(refusal).collect())
    }

    /// Whether Redis has, or is about to have, each of the ids.
    pub fn holds(&mut self, link: &str, ids: &[String]) -> Result<Vec<bool>, Broken> {
        flags(self.0.ask(redis::cmd("TANDEM.LINK").arg("HOLDS").arg(link).arg(ids))?, ids.len())
    }

    /// Begins a filter of ids with room for so many.
    pub fn filter_begin(&mut self, link: &str, ids: u64) -> Result<(), Broken> {
        self.0.ask(redis::cmd("TANDEM.LINK").arg("FILTER").arg(link).arg("BEGIN").arg(ids)).map(drop)
    }

    /// Puts keys of ids into the filter. False if it is to be loaded anew.
    pub fn filter_add(&mut self, link: &str, keys: &[u64]) -> Result<bool, Broken> {
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        let mut command = redis::cmd("TANDEM.LINK");
        Ok(integer(&self.0.ask(command.arg("FILTER").arg(link).arg("ADD").arg(bytes))?)? == 1)
    }

    /// Says that the filter has all ids.
    pub fn filter_complete(&mut self, link: &str) -> Result<(), Broken> {
        self.0.ask(redis::cmd("TANDEM.LINK").arg("FILTER").arg(link).arg("COMPLETE")).map(drop)
    }

    /// Pushes encoded revisions; for each one what came of it, or the error that Redis gave.
    pub fn push(&mut self, link: &str, revisions: &[(&str, Vec<u8>)]) -> Result<Vec<Answer>, Broken> {
        let mut command = redis::cmd("TANDEM.LINK");
        command.arg("PUSH").arg(link);
        let answers = self.send_revisions(command, revisions)?;
        answers.into_iter().map(answer).collect()
    }

    fn send_revisions(
        &mut self,
        mut command: redis::Cmd,
        revisions: &[(&str, Vec<u8>)],
    ) -> Result<Vec<Value>, Broken> {
        for (id, revision) in revisions {
            command.arg(*id).arg(revision.as_slice());
        }
        let answers = array(self.0.ask(&command)?)?;
        if answers.len() == revisions.len() { Ok(answers) } else { Err(malformed()) }
    }

    /// Whether the digests there are made with the secret that has this check value.
    pub fn has_key(&mut self, check: &str) -> Result<bool, Broken> {
        let reply = self.0.ask(redis::cmd("TANDEM.LINK").arg("HASKEY").arg(check))?;
        Ok(integer(&reply)? == 1)
    }

    /// The current revisions of ids, as many as fit a page, or why one cannot be read; and the number of ids that it
    /// answers for.
    #[allow(clippy::type_complexity, reason = "a revision or a reason by id")]
    pub fn fetch(
        &mut self,
        ids: &[String],
    ) -> Result<(HashMap<String, Result<Revision, String>>, usize), Broken> {
        if ids.is_empty() {
            return Ok((HashMap::new(), 0));
        }
        let replies = array(self.0.ask(redis::cmd("TANDEM.LINK").arg("FETCH").arg(ids))?)?;
        if replies.is_empty() || replies.len() > ids.len() {
            return Err(malformed());
        }
        let (mut found, answered) = (HashMap::new(), replies.len());
        for (id, reply) in ids.iter().zip(replies) {
            if reply != Value::Nil {
                let revision = decode(&bytes(reply)?, Source::Foreign).map_err(|error| error.to_string());
                found.insert(id.clone(), revision);
            }
        }
        Ok((found, answered))
    }

    /// Number of entries that wait in Redis for a link.
    pub fn waiting(&mut self, link: &str) -> Result<u64, Broken> {
        for entry in array(self.0.ask(redis::cmd("TANDEM.LINK").arg("LIST"))?)? {
            let mut fields = Fields::of(entry)?;
            if text(fields.take("name")?)? == link {
                return integer(&fields.take("pending")?);
            }
        }
        Ok(0)
    }

    /// Whether each of the ids waits in Redis for a link, or for any.
    pub fn waits(&mut self, link: Option<&str>, ids: &[&str]) -> Result<Vec<bool>, Broken> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("TANDEM.LINK");
        match link {
            Some(link) => command.arg("WAITS").arg(link),
            None => command.arg("PENDING"),
        };
        flags(self.0.ask(command.arg(ids))?, ids.len())
    }
}

/// So many times 1 or 0.
fn flags(reply: Value, count: usize) -> Result<Vec<bool>, Broken> {
    let replies = array(reply)?;
    if replies.len() != count {
        return Err(malformed());
    }
    replies.iter().map(|reply| Ok(integer(reply)? == 1)).collect()
}

/// What Redis says of a revision that is joined.
pub(super) fn answer(value: Value) -> Result<Answer, Broken> {
    match value {
        Value::ServerError(error) => {
            let reason = reply_error(&error);
            let kind = kind_of(&reason);
            Ok(Err(Refusal { reason, kind }))
        }
        value => Ok(Ok(Outcome::of_word(&text(value)?).ok_or_else(malformed)?)),
    }
}

/// Codes of errors that say something of the server or of the connection: it has no room, is no master, is not ready,
/// or lets this user not write.
const OF_THE_SERVER: [&str; 26] = [
    "ASK",
    "BACKPRESSURE",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "EXECABORT",
    "INPROG",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGOODSLAVE",
    "NOLINK",
    "NOMASTERLINK",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TIMEOUT",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "WRONGPASS",
];

/// What an error of Redis says of another try. One that is neither the module's for an item nor the server's own may
/// be of this item for ever.
fn kind_of(reason: &str) -> FailureKind {
    let code = reason.split(' ').next().unwrap_or_default();
    // A server without the module, or with another one.
    let is_command = ["ERR unknown ", "ERR wrong number "].iter().any(|start| reason.starts_with(start));
    if ["WRONGTYPE", "TOOLARGE", "INVALID", "BADJSON", "CORRUPT", "SCHEMA"].contains(&code) {
        FailureKind::Data
    } else if is_command || OF_THE_SERVER.contains(&code) {
        FailureKind::Passing
    } else {
        FailureKind::Claimed
    }
}

fn fingerprint(count: &Value, sum: Value) -> Result<Fingerprint, Broken> {
    Fingerprint::from_parts(integer(count)?, &bytes(sum)?).map_err(|error| Broken(error.to_string()))
}

impl Replica for Remote<'_> {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        let pair = |value| {
            let mut fields = array(value)?.into_iter();
            match (fields.next(), fields.next()) {
                (Some(count), Some(sum)) => fingerprint(&count, sum),
                _ => Err(malformed()),
            }
        };
        self.ranges("FINGERPRINT", None, ranges)?.into_iter().map(pair).collect()
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        let cut = |value| {
            let mut fields = array(value)?.into_iter();
            let mut parts = Vec::new();
            while let (Some(start), Some(end), Some(count), Some(sum)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            {
                let end = Some(text(end)?).filter(|end| !end.is_empty());
                parts.push(Part {
                    range: Range::new(text(start)?, end),
                    fingerprint: fingerprint(&count, sum)?,
                });
            }
            Ok(parts)
        };
        self.ranges("SPLIT", Some(parts), ranges)?.into_iter().map(cut).collect()
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        let list = |value| {
            let mut fields = array(value)?.into_iter();
            let mut entries = Vec::new();
            while let (Some(id), Some(version), Some(digest)) = (fields.next(), fields.next(), fields.next())
            {
                let digest =
                    Digest::from_slice(&bytes(digest)?).map_err(|error| Broken(error.to_string()))?;
                entries.push(Entry { id: text(id)?, version: integer(&version)?, digest });
            }
            Ok(entries)
        };
        self.ranges("LISTRANGE", Some(limit_each), ranges)?.into_iter().map(list).collect()
    }
}
