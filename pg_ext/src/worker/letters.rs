//! Dead letters: revisions that one side could not take, set aside so that they stop nobody, and tried again on
//! request. What is to go to Redis is pushed by the link's session; what came from Redis is joined where it is asked
//! for.

use super::connection::Broken;
use super::peer::{Named, read};
use super::session::Own;
use super::shards::Shards;
use super::transaction::{savepoint, transaction};
use crate::error::Outcome;
use crate::fault_point::{self, Point};
use crate::store::{self, Page};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use tandem_shared::codec::encode;
use tandem_shared::request::Operation;

/// Letters tried at a time by a session.
const PAGE: i64 = 500;

const SET_ASIDE: &str = "INSERT INTO tandem.dead_letters AS d (link, direction, id, revision, reason) \
    VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (link, direction, id, (CASE direction WHEN 'from_redis' THEN sha256(revision) ELSE '' END)) \
    DO UPDATE SET revision = excluded.revision, reason = excluded.reason, attempts = d.attempts + 1, tried_at = now(), \
        retry = false";

/// Sets a revision aside, or notes that it was refused once more.
pub fn set_aside(
    link: &str,
    id: &str,
    direction: &str,
    revision: Option<Vec<u8>>,
    reason: &str,
) -> Outcome<()> {
    let args = [link.into(), direction.into(), id.into(), revision.into(), reason.into()];
    Spi::run_with_args(SET_ASIDE, &args)?;
    fault_point::reach(Point::SetAside);
    Ok(())
}

const OF_REVISIONS: &str = "SELECT d.id FROM tandem.dead_letters d JOIN unnest($2::text[], $3::bytea[]) t (id, revision) \
        ON d.id = t.id AND d.revision = t.revision \
    WHERE d.link = $1 AND d.direction = 'from_redis'";

/// The ids of revisions that were set aside for a link, and have been taken now.
pub fn of_revisions(link: &str, taken: &[Named<'_>]) -> Outcome<HashSet<String>> {
    let (ids, revisions) = columns_of(taken);
    Spi::connect(|client| {
        let mut found = HashSet::new();
        for row in client.select(OF_REVISIONS, None, &[link.into(), ids.into(), revisions.into()])? {
            found.extend(row.get::<String>(1)?);
        }
        Ok(found)
    })
}

const FORGET: &str = "DELETE FROM tandem.dead_letters d USING unnest($2::text[], $3::bytea[]) t (id, revision) \
    WHERE d.link = $1 AND d.direction = 'from_redis' AND d.id = t.id AND d.revision = t.revision";

/// Forgets the letters of revisions that have been taken.
pub fn forget(link: &str, taken: &[Named<'_>]) -> Outcome<()> {
    let (ids, revisions) = columns_of(taken);
    Ok(Spi::run_with_args(FORGET, &[link.into(), ids.into(), revisions.into()])?)
}

fn columns_of<'a>(named: &[Named<'a>]) -> (Vec<&'a str>, Vec<Vec<u8>>) {
    named.iter().map(|(id, revision)| (*id, encode(revision))).unzip()
}

const REMOVE: &str = "DELETE FROM tandem.dead_letters d WHERE d.seq = $1";

const REFUSED: &str = "UPDATE tandem.dead_letters d SET reason = $2, attempts = d.attempts + 1, tried_at = now(), \
        retry = false WHERE d.seq = $1";

fn settle(seq: i64, refused: Option<&str>) -> Outcome<()> {
    match refused {
        None => Spi::run_with_args(REMOVE, &[seq.into()])?,
        Some(reason) => Spi::run_with_args(REFUSED, &[seq.into(), reason.into()])?,
    }
    Ok(())
}

const REQUESTED: &str = "SELECT d.seq, d.id FROM tandem.dead_letters d WHERE d.link = $1 AND d.retry \
    ORDER BY d.seq LIMIT $2";

/// Pushes the ids whose letters somebody wants tried again, as they are now.
pub fn push_requested(talk: &mut Shards, link: &str) -> Result<(), Broken> {
    let mut letters: Vec<(i64, String)> = transaction(|| {
        Spi::connect(|client| {
            let mut letters = Vec::new();
            for row in client.select(REQUESTED, None, &[link.into(), PAGE.into()])? {
                letters.extend(row.get::<i64>(1)?.zip(row.get::<String>(2)?));
            }
            Ok(letters)
        })
    })?;
    if letters.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = letters.iter().map(|(_, id)| id.clone()).collect();
    let Page { found, later, unreadable } = read(&Own, &ids, store::fetch)?;
    // Those have their turn at the next look.
    letters.retain(|(_, id)| !later.contains(id));
    let revisions: Vec<(&str, Vec<u8>)> =
        found.iter().map(|(id, revision)| (id.as_str(), encode(revision))).collect();
    let answers = talk.push(&revisions)?;
    fault_point::reach(Point::LetterPushed);
    let mut refused: HashMap<&str, String> =
        unreadable.iter().map(|(id, reason)| (id.as_str(), reason.clone())).collect();
    for ((id, _), answer) in revisions.iter().zip(answers) {
        refused.extend(answer.err().map(|refusal| (*id, refusal.reason)));
    }
    transaction(|| {
        for (seq, id) in &letters {
            settle(*seq, refused.get(id.as_str()).map(String::as_str))?;
        }
        Ok(())
    })?;
    Ok(())
}

const TO_REDIS: &str = "WITH wanted AS ( \
        SELECT d.seq FROM tandem.dead_letters d WHERE d.direction = 'to_redis' AND d.link = coalesce($1, d.link) \
            AND EXISTS (SELECT FROM tandem.links l WHERE l.name = d.link) \
        ORDER BY d.seq LIMIT $2), \
    asked AS (UPDATE tandem.dead_letters d SET retry = true FROM wanted w WHERE d.seq = w.seq RETURNING 1) \
    SELECT count(*) FROM asked";

const FROM_REDIS: &str = "SELECT d.seq, d.link, d.id FROM tandem.dead_letters d \
    WHERE d.direction = 'from_redis' AND d.link = coalesce($1, d.link) ORDER BY d.seq LIMIT $2";

/// What became of letters that were tried again.
#[derive(Default)]
pub struct Retried {
    /// Letters whose revision was joined now.
    pub joined: i64,
    /// Letters that a link's session will push.
    pub requested: i64,
    /// Letters that were refused again.
    pub refused: i64,
}

/// A letter with a revision of Redis.
struct Letter {
    seq: i64,
    link: String,
    id: String,
}

const REVISION: &str = "SELECT d.revision FROM tandem.dead_letters d WHERE d.seq = $1";

/// Tries letters again, of one link or of all, at most `limit`, the oldest first.
pub fn retry(link: Option<&str>, limit: i64) -> Outcome<Retried> {
    let letters = Spi::connect(|client| -> Outcome<Vec<Letter>> {
        let mut letters = Vec::new();
        for row in client.select(FROM_REDIS, None, &[link.into(), limit.into()])? {
            letters.push(Letter {
                seq: row.get(1)?.unwrap_or(0),
                link: row.get(2)?.unwrap_or_default(),
                id: row.get(3)?.unwrap_or_default(),
            });
        }
        Ok(letters)
    })?;
    let mut retried = Retried::default();
    let left = limit - letters.len() as i64;
    for Letter { seq, link, id } in letters {
        let joined = savepoint(|| {
            let revision = Spi::get_one_with_args::<Vec<u8>>(REVISION, &[seq.into()])?.unwrap_or_default();
            let revision = store::decode(&revision)?;
            // Not as the link's own, which its Redis would not be told of: there it still counts as refused.
            store::on_behalf_of(&format!("letter://{link}"), || {
                store::run_one(&id, Operation::Apply(revision))
            })
        });
        match joined {
            Ok(_) => retried.joined += 1,
            Err(_) => retried.refused += 1,
        }
        settle(seq, joined.err().map(|failed| failed.message).as_deref())?;
    }
    let asked = Spi::get_one_with_args::<i64>(TO_REDIS, &[link.into(), left.into()])?;
    retried.requested = asked.unwrap_or(0);
    Ok(retried)
}
