//! What the master has done, or this server before it was restarted: nothing is decided again.

use super::join::{is_loss, keep_loser};
use super::{Gone, Writer, digest_key, origin_of, put_in_place, selected};
use crate::decide::{Change, Planned};
use crate::engine::{self, GHOST_BYTES_MAX, OwnWrite};
use crate::item::Item;
use crate::keys::{self, WritableKey};
use redis_module::{Context, RedisString};
use tandem_shared::decide::decide_apply;
use tandem_shared::id::id_of_key;
use tandem_shared::{Result, Revision};

/// A copy has expired on the master, or before the restart.
pub fn replay_expiry(context: &Context, id: &str, gone: &Gone<'_>) -> Result<()> {
    let number = selected(context);
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    if key.item().is_some_and(|item| !item.local()) {
        // Its leaving goes into the books as on the master.
        key.delete();
    }
    drop(key);
    engine::with_database(number, |database| {
        database.pending.expired(id);
        database.ghosts.insert(id, gone.version, gone.copy, GHOST_BYTES_MAX);
        database.pending.restore_seq(gone.last_seq);
    })
}

/// Stores the effect of a command that ran on the master or before the restart: nothing is decided again.
/// `seq` is its number in the links' books, `None` for a local item.
pub fn replay(context: &Context, id: &str, planned: Planned, books: Option<(u64, Writer<'_>)>) -> Result<()> {
    let database = selected(context);
    let name = keys::name(context, id);
    let mut key = WritableKey::open(context, id, &name)?;
    if let Some((_, writer)) = books {
        keep_replayed_loser(database, id, &key, &planned, writer)?;
    }
    put_in_place(database, id, &mut key, planned)?;
    if let Some((seq, writer)) = books {
        let (origin, seq) = (origin_of(writer), Some(seq).filter(|seq| *seq > 0));
        engine::with_database(database, |database| database.pending.written(id, origin, seq))?;
    }
    Ok(())
}

/// Puts an item into the keyspace as a file had it, with no word to the links. Where the key's name is no id, it is
/// in no book.
pub fn restore(context: &Context, name: &RedisString, item: Item) -> Result<()> {
    let Some(id) = id_of_key(name) else {
        let _own = OwnWrite::begin()?;
        return WritableKey::open(context, &String::from_utf8_lossy(name), name)?.set(item);
    };
    let mut key = WritableKey::open(context, id, name)?;
    let digest = engine::with(|engine| item.revision.digest(&engine.key, id))?;
    put_in_place(selected(context), id, &mut key, Planned { change: Change::Store(item), digest })
}

/// What a link's revision of the same version took the place of was kept aside where the command ran, and is here
/// too.
fn keep_replayed_loser(
    database: i32,
    id: &str,
    key: &WritableKey<'_>,
    planned: &Planned,
    writer: Writer<'_>,
) -> Result<()> {
    let digest_key = digest_key()?;
    let offered = match &planned.change {
        Change::Store(item) => item.head(),
        Change::Remove(tombstone) => tombstone.head(),
        Change::Drop => return Ok(()),
    };
    let applied = match key.item().filter(|item| !item.local()) {
        Some(current) => decide_apply(&digest_key, id, Some(&current.head()), &offered),
        None => engine::with_database(database, |database| {
            let current = database.tombstones.get(id).map(Revision::head);
            decide_apply(&digest_key, id, current.as_ref(), &offered)
        })?,
    };
    if is_loss(database, id, applied, writer)? { keep_loser(database, id, key) } else { Ok(()) }
}
