//! What somebody else brings is joined with what is here, and what is known of copies that have left.

use super::{Gone, Place, Ttl, Writer, commit, digest_key, now, selected};
use crate::blocked;
use crate::decide::Planned;
use crate::engine::{self, GHOST_BYTES_MAX};
use crate::ghosts::Copy;
use crate::item::Item;
use crate::keys::{self, WritableKey};
use crate::pending::Waiting;
use redis_module::Context;
use tandem_shared::codec::{self, Source};
use tandem_shared::decide::{Applied, Outcome, decide_apply};
use tandem_shared::gone::decide_apply_gone;
use tandem_shared::{DigestKey, Result, Revision};

/// Joins a revision. Errors: `WRONGTYPE` when the key holds another type.
pub fn apply(context: &Context, id: &str, revision: Revision, writer: Writer<'_>) -> Result<Applied> {
    let database = selected(context);
    let name = keys::name(context, id);
    let mut key = match (WritableKey::open(context, id, &name), writer) {
        (Err(refused), Writer::Link(_)) => {
            engine::with_database(database, |database| database.withhold(id, revision.version))?;
            context.replicate("TANDEM.EFFECT", &["WITHHELD", id, &revision.version.to_string()]);
            return Err(refused);
        }
        (opened, _) => opened?,
    };
    let digest_key = digest_key()?;
    let (now, retention) = (now()?, engine::with(|engine| engine.retention)?);
    // What is shared takes the place of a local item.
    let applied = match key.item().filter(|item| !item.local()) {
        Some(current) => decide_apply(&digest_key, id, Some(&current.head()), &revision.head()),
        None => engine::with_database(database, |database| {
            if matches!(writer, Writer::Link(link) if database.is_unheld(link, id))
                && !revision.head().is_tombstone()
            {
                return Applied { outcome: Outcome::Unchanged, conflict: false };
            }
            let since = database.binding(retention).bound_since(now);
            if let Some((version, copy)) = database.ghosts.get(id) {
                let is_settled = writer != Writer::Client && database.pending.get(id).is_none();
                let known = (version, copy.map(|copy| copy.digest));
                return decide_apply_gone(&digest_key, id, known, &revision.head(), is_settled);
            }
            let current = database.tombstones.get(id).map(Revision::head);
            // One that may be dropped any moment does not bind what a link brings.
            let current = current.filter(|head| {
                writer == Writer::Client || head.timestamp >= since || database.pending.get(id).is_some()
            });
            decide_apply(&digest_key, id, current.as_ref(), &revision.head())
        })?,
    };
    match applied.outcome {
        Outcome::Applied => {
            if is_loss(database, id, applied, writer)? {
                keep_loser(database, id, &key)?;
            }
            let planned = Planned::of(&digest_key, id, revision, false);
            let place = Place { context, database, id, name: &name };
            if commit(place, &mut key, planned, Ttl::Keep, writer)? {
                blocked::wake(database);
            }
        }
        // The link offers less than is here: it must have missed this revision.
        Outcome::Stale if matches!(writer, Writer::Link(_)) => {
            // Of a copy that has left for good nothing can be taken but what is aside.
            let seq = engine::with_database(database, |database| {
                let is_gone = database.ghosts.get(id).is_some();
                if is_gone { None } else { database.pending.written(id, None, None) }
            })?;
            if let Some(seq) = seq {
                context.replicate("TANDEM.EFFECT", &["QUEUE", id, &seq.to_string()]);
                blocked::wake(database);
            }
        }
        Outcome::Unchanged => {
            if let Writer::Link(link) = writer {
                stands_on_both_sides(context, (database, id), &digest_key, &revision, link)?;
            }
        }
        Outcome::Stale => {}
    }
    Ok(applied)
}

/// A link has brought what is here already, or what has left here: the other side has it, whatever was thought
/// before.
fn stands_on_both_sides(
    context: &Context,
    (number, id): (i32, &str),
    key: &DigestKey,
    revision: &Revision,
    link: &str,
) -> Result<()> {
    let (digest, state) = (revision.digest(key, id), revision.head().live.map(|live| live.state));
    let changed = engine::with_database(number, |database| {
        if let Some(link) = database.pending.link_mut(link) {
            link.refused.remove(id);
        }
        let (version, known) = database.ghosts.get(id)?;
        let copy = digest.zip(state).map(|(digest, state)| Copy { digest, state, is_counted: true });
        if known == copy {
            return None;
        }
        database.ghosts.insert(id, version, copy, GHOST_BYTES_MAX);
        Some(Gone::of(database, id, version).encode())
    })?;
    if let Some(gone) = changed {
        context.replicate("TANDEM.EFFECT", &[b"EXPIRED".as_slice(), id.as_bytes(), &gone]);
    }
    Ok(())
}

/// Whether what others bring takes the place of a revision that is to be recorded: another one of its version, or a
/// client's that the link which brings it has not taken yet. Nobody else has seen that.
pub(super) fn is_loss(database: i32, id: &str, applied: Applied, writer: Writer<'_>) -> Result<bool> {
    if matches!(writer, Writer::Client | Writer::Server) || applied.outcome != Outcome::Applied {
        return Ok(false);
    }
    let is_untold = engine::with_database(database, |database| {
        let is_clients = |waiting: &Waiting| waiting.is_written && waiting.origin.is_none();
        database.pending.get(id).is_some_and(is_clients)
            && match writer {
                Writer::Link(link) => database.pending.waits(link, id),
                _ => true,
            }
    })?;
    Ok(applied.conflict || is_untold)
}

pub(super) fn keep_loser(database: i32, id: &str, key: &WritableKey<'_>) -> Result<()> {
    let current = key.item().filter(|item| !item.local()).map(|item| codec::encode(&item.revision));
    engine::with_database(database, |database| {
        let loser = current.or_else(|| database.tombstones.get(id).map(codec::encode));
        if let Some(loser) = loser {
            database.pending.keep_loser(id, loser);
        }
    })
}

/// What a link brings for a ghost, if it is what has left: it is there for the commands that wait for it, and stays
/// away from the keyspace. Errors: `CORRUPT`.
pub fn recall(number: i32, id: &str, encoded: &[u8]) -> Result<()> {
    let revision = codec::decode(encoded, Source::Foreign)?;
    let digest = revision.digest(&digest_key()?, id);
    engine::with_database(number, |database| {
        let known = database.ghosts.get(id).and_then(|(_, copy)| copy).map(|copy| copy.digest);
        let is_what_left = digest.is_some() && known == digest;
        if is_what_left {
            database.recalled.insert(id.into(), Item::new(revision, false));
        }
    })
}

/// A comparison asks for an id that is not here.
pub fn doubt(context: &Context, id: &str) -> Result<()> {
    let changed = engine::with_database(selected(context), |database| {
        let version = database.ghosts.get(id).map(|(version, _)| version)?;
        let changed = database.ghosts.doubt(id);
        changed.then(|| Gone::of(database, id, version).encode())
    })?;
    if let Some(gone) = changed {
        context.replicate("TANDEM.EFFECT", &[b"EXPIRED".as_slice(), id.as_bytes(), &gone]);
    }
    Ok(())
}

/// Runs `work` on what the other side has of a ghost, if it was recalled.
pub fn with_recalled<T>(number: i32, id: &str, work: impl FnOnce(&Item) -> T) -> Result<Option<T>> {
    let item = engine::with_database(number, |database| database.recalled.remove(id))?;
    let Some(item) = item else { return Ok(None) };
    let done = work(&item);
    engine::with_database(number, |database| database.recalled.insert(id.into(), item))?;
    Ok(Some(done))
}
