//! The books of all databases (tombstones, links, what waits for them) as bytes in the RDB's auxiliary data, and
//! as commands in an AOF that is rewritten without an RDB preamble.
//!
//! | field | form |
//! |---|---|
//! | format | u8 = 4 |
//! | databases | u32 count, then each: |
//! | number | i32 |
//! | last sequence, highest version | u64, u64 (0: none) |
//! | links | u32 count of (text name, u64 acknowledged sequence, u32 count of (u64 sequence up to that which waits all the same), text prefix, text mode, text direction, u8 flags: 1 tombstones are owed, 2 it was compared, text id after which they are, text cluster, u64 timeline and u64 database of the owner (empty and 0 for none), u32 count of refused (text id, u64 sequence)) |
//! | waiting | u32 count of (u64 sequence, text id, u64 dropped version or 0, text origin or empty, u8 flags: 1 a dropped copy is aside, 2 what is in the keyspace is to be taken, u32 count of bytes) |
//! | tombstones | u32 count of (text id, bytes revision) |
//! | withheld | u32 count of (text id, u64 version) |
//! | ghosts | u64 floor or 0, u32 count, the oldest first, of (text id, u64 version, bytes digest or none, text state, u8 1 if it counts) |
//!
//! Integers are little-endian; text and bytes have a u32 length before them. Nothing may follow.

use crate::engine::{Database, Engine, GHOST_BYTES_MAX};
use crate::ghosts::Copy;
use crate::pending::{Link, Pending, Waiting};
use crate::reading::Reading;
use redis_module::raw;
use std::collections::BTreeSet;
use tandem_shared::codec::{self, Source};
use tandem_shared::limits::REVISION_BYTES_MAX;
use tandem_shared::link::Scope;
use tandem_shared::owner::Owner;
use tandem_shared::{Digest, Error, Result, Revision, Version};

const FORMAT: u8 = 4;
/// A dropped copy is aside.
const COPY_IS_ASIDE: u8 = 1;
/// What is in the keyspace is to be taken.
const IS_WRITTEN: u8 = 2;
/// A link is to be told of older tombstones.
const TOMBSTONES_ARE_OWED: u8 = 1;
/// A link was compared once.
const WAS_COMPARED: u8 = 2;

/// Encodes the books.
pub fn save(engine: &mut Engine) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_u32(&mut out, engine.databases.len());
    for (number, database) in &engine.databases {
        out.extend(number.to_le_bytes());
        save_database(&mut out, database);
    }
    out
}

fn save_database(out: &mut Vec<u8>, database: &Database) {
    let pending = &database.pending;
    out.extend(pending.last_seq().to_le_bytes());
    out.extend(database.version_high.map_or(0, Version::get).to_le_bytes());
    put_u32(out, pending.links().count());
    for (name, link) in pending.links() {
        save_link(out, name, link, database.owners.get(name));
    }
    put_u32(out, pending.len());
    for (id, waiting) in pending.entries() {
        out.extend(waiting.seq.to_le_bytes());
        put_bytes(out, id.as_bytes());
        out.extend(waiting.dropped.map_or(0, Version::get).to_le_bytes());
        put_bytes(out, waiting.origin.as_deref().unwrap_or_default().as_bytes());
        out.push(flag(COPY_IS_ASIDE, waiting.copy_is_aside) | flag(IS_WRITTEN, waiting.is_written));
        put_u32(out, waiting.aside.len());
        for revision in &waiting.aside {
            put_bytes(out, revision);
        }
    }
    put_u32(out, database.tombstones.len());
    for (id, revision) in &database.tombstones {
        put_bytes(out, id.as_bytes());
        put_bytes(out, &codec::encode(revision));
    }
    put_u32(out, database.withheld.len());
    for (id, version) in &database.withheld {
        put_bytes(out, id.as_bytes());
        out.extend(version.get().to_le_bytes());
    }
    out.extend(database.ghosts.floor().map_or(0, Version::get).to_le_bytes());
    put_u32(out, database.ghosts.len());
    for (id, version, copy) in database.ghosts.iter() {
        put_bytes(out, id.as_bytes());
        out.extend(version.get().to_le_bytes());
        put_bytes(out, copy.as_ref().map_or(&[][..], |copy| &copy.digest.0));
        put_bytes(out, copy.map_or("", |copy| copy.state).as_bytes());
        out.push(u8::from(copy.is_some_and(|copy| copy.is_counted)));
    }
}

fn flag(flag: u8, is_set: bool) -> u8 {
    if is_set { flag } else { 0 }
}

fn save_link(out: &mut Vec<u8>, name: &str, link: &Link, owner: Option<&Owner>) {
    put_bytes(out, name.as_bytes());
    out.extend(link.acked.to_le_bytes());
    let open = link.open_up_to(link.acked);
    put_u32(out, open.len());
    open.iter().for_each(|number| out.extend(number.to_le_bytes()));
    link.scope.words().iter().for_each(|word| put_bytes(out, word.as_bytes()));
    out.push(
        flag(TOMBSTONES_ARE_OWED, link.tombstones_after.is_some()) | flag(WAS_COMPARED, link.was_compared),
    );
    put_bytes(out, link.tombstones_after.as_deref().unwrap_or_default().as_bytes());
    put_bytes(out, owner.map_or("", |owner| &owner.cluster).as_bytes());
    out.extend(owner.map_or(0, |owner| owner.timeline).to_le_bytes());
    out.extend(owner.map_or(0, |owner| owner.database).to_le_bytes());
    put_u32(out, link.refused.len());
    for (id, seq) in &link.refused {
        put_bytes(out, id.as_bytes());
        out.extend(seq.to_le_bytes());
    }
}

/// Decodes what [`save`] wrote. Errors: `CORRUPT`.
pub fn load(bytes: &[u8]) -> Result<Vec<(i32, Database)>> {
    let mut reader = Reader { rest: bytes };
    match reader.take(1)? {
        [FORMAT] => {}
        other => return Err(corrupt(format!("format {other:?} is not known"))),
    }
    let count = reader.count()?;
    let mut databases = Vec::new();
    for _ in 0..count {
        let number = reader.u32()? as i32;
        databases.push((number, reader.database()?));
    }
    if !reader.rest.is_empty() {
        return Err(corrupt(format!("{} bytes follow its end", reader.rest.len())));
    }
    Ok(databases)
}

/// Puts loaded books in the place of the present ones. The indexes are those of the keys that are there, and of those
/// that are loaded next.
pub fn install(engine: &mut Engine, books: Vec<(i32, Database)>) {
    let before = std::mem::replace(&mut engine.databases, books.into_iter().collect());
    for (number, before) in before {
        let database = engine.databases.entry(number).or_default();
        (database.index, database.locals) = (before.index, before.locals);
    }
    // Whoever is attached knows nothing of these.
    engine.run = uuid::Uuid::new_v4().simple().to_string();
}

/// Writes the books of all databases as a command into an AOF.
pub fn rewrite_books(aof: *mut raw::RedisModuleIO) {
    let books = crate::engine::with(save);
    if let Ok(books) = books {
        emit(aof, &[b"BOOKS", &books]);
    }
}

/// Writes `TANDEM.EFFECT` with arguments into an AOF.
pub fn emit(aof: *mut raw::RedisModuleIO, arguments: &[&[u8]]) {
    let pointer = |bytes: &[u8]| bytes.as_ptr().cast::<std::ffi::c_char>();
    let Some(emit) = (
        // SAFETY: the table of functions is filled when the module is loaded.
        unsafe { raw::RedisModule_EmitAOF }
    ) else {
        return;
    };
    let command = c"TANDEM.EFFECT".as_ptr();
    // SAFETY: `b` takes a pointer and a size_t; each pair is of a slice that outlives the call.
    unsafe {
        match arguments {
            [a, b] => emit(aof, command, c"bb".as_ptr(), pointer(a), a.len(), pointer(b), b.len()),
            [a, b, c] => emit(
                aof,
                command,
                c"bbb".as_ptr(),
                pointer(a),
                a.len(),
                pointer(b),
                b.len(),
                pointer(c),
                c.len(),
            ),
            _ => {}
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| corrupt(format!("it ends {} bytes early", length - self.rest.len())))?;
        self.rest = rest;
        Ok(head)
    }

    fn integer(&mut self, width: usize) -> Result<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.integer(4)? as u32)
    }

    /// A count of things that take at least a byte each, so that a wrong one is found before it costs memory.
    fn count(&mut self) -> Result<usize> {
        let count = self.u32()? as usize;
        if count > self.rest.len() {
            return Err(corrupt(format!("it counts {count} entries in {} bytes", self.rest.len())));
        }
        Ok(count)
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > REVISION_BYTES_MAX {
            return Err(corrupt(format!("an entry has {length} bytes")));
        }
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| corrupt("a text is not UTF-8".to_owned()))
    }

    fn version(&mut self) -> Result<Option<Version>> {
        match self.integer(8)? {
            0 => Ok(None),
            number => Version::new(number.into()).map(Some),
        }
    }

    fn database(&mut self) -> Result<Database> {
        let mut database = Database::default();
        let last_seq = self.integer(8)?;
        database.version_high = self.version()?;
        for _ in 0..self.count()? {
            self.link(&mut database)?;
        }
        for _ in 0..self.count()? {
            let seq = self.integer(8)?;
            let id = self.text()?;
            let dropped = self.version()?;
            let origin = Some(self.text()?).filter(|origin| !origin.is_empty()).map(Into::into);
            let flags = self.integer(1)? as u8;
            let mut waiting = Waiting::default();
            (waiting.seq, waiting.dropped, waiting.origin) = (seq, dropped, origin);
            waiting.copy_is_aside = flags & COPY_IS_ASIDE != 0;
            waiting.is_written = flags & IS_WRITTEN != 0;
            for _ in 0..self.count()? {
                waiting.aside.push(self.bytes()?.into());
            }
            database.pending.restore(id, waiting);
        }
        database.pending.restore_seq(last_seq);
        for _ in 0..self.count()? {
            let id = self.text()?;
            let revision: Revision = codec::decode(self.bytes()?, Source::Own)?;
            database.tombstones.insert(id.into(), revision);
        }
        for _ in 0..self.count()? {
            let (id, version) = (self.text()?, self.version()?);
            let version = version.ok_or_else(|| corrupt("what is withheld has no version".to_owned()))?;
            database.withheld.insert(id.into(), version);
        }
        if let Some(floor) = self.version()? {
            database.ghosts.raise_floor(floor);
        }
        for _ in 0..self.count()? {
            let id = self.text()?;
            let version = self.version()?.ok_or_else(|| corrupt("a ghost has no version".to_owned()))?;
            let (digest, state) = (self.bytes()?, self.text()?);
            let is_counted = self.integer(1)? == 1;
            let copy = match digest {
                [] => None,
                digest => Some(Copy { digest: Digest::from_slice(digest)?, state, is_counted }),
            };
            database.ghosts.insert(id, version, copy, GHOST_BYTES_MAX);
        }
        Ok(database)
    }

    fn link(&mut self, database: &mut Database) -> Result<()> {
        let name = self.text()?;
        let acked = self.integer(8)?;
        let mut open = BTreeSet::new();
        for _ in 0..self.count()? {
            open.insert(self.integer(8)?);
        }
        let scope = Scope::parse(self.text()?, self.text()?, self.text()?)?;
        let mut link = Pending::saved_link(scope.clone(), acked, open);
        let flags = self.integer(1)? as u8;
        let after = self.text()?;
        link.tombstones_after = (flags & TOMBSTONES_ARE_OWED != 0).then(|| after.into());
        link.was_compared = flags & WAS_COMPARED != 0;
        let cluster = self.text()?;
        let (timeline, number) = (self.integer(8)?, self.integer(8)?);
        for _ in 0..self.count()? {
            let id = self.text()?;
            link.refused.insert(id.into(), self.integer(8)?);
        }
        database.pending.restore_link(name, link);
        if !cluster.is_empty() {
            let owner = Owner { cluster: cluster.into(), timeline, database: number };
            database.owners.insert(name.into(), owner);
        }
        if scope.to_redis() {
            database.readings.insert(name.into(), Reading::new(scope));
        }
        Ok(())
    }
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend(bytes);
}

fn corrupt(problem: String) -> Error {
    Error::corrupt("books of links and tombstones", problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_shared::{Body, Timestamp};

    fn books() -> Vec<u8> {
        let mut database = Database::default();
        let tombstone = Revision {
            version: Version::new(5).unwrap(),
            timestamp: Timestamp::new(9).unwrap(),
            audit: None,
            body: Body::Tombstone,
        };
        let owner = Owner { cluster: "7".into(), timeline: 2, database: 5 };
        database.tombstones.insert("gone".into(), tombstone.clone());
        database.attach("pg", &Scope::parse("a", "cache", "both").unwrap(), Some(&owner));
        database.attach("all", &Scope::everything(), None);
        database.compared_by("all", true);
        database.pending.written("a", None, None);
        database.pending.dropped("a", tombstone.version, || vec![1, 2, 3]);
        database.pending.written("b", Some("other"), None);
        database.pending.written("c", None, None);
        database.pending.written("held", None, None);
        let held = database.pending.get("held").unwrap().seq;
        database.pending.acknowledge("all", 99, &[held], &["c"]);
        database.withhold("taken", tombstone.version);
        database.ghosts.raise_floor(tombstone.version);
        database.becomes_ghost("x", Version::FIRST, Some((Digest([7; 32]), "hot")));
        database.becomes_ghost("c", Version::FIRST, Some((Digest([8; 32]), "hot")));
        let mut out = vec![FORMAT];
        put_u32(&mut out, 1);
        out.extend(3_i32.to_le_bytes());
        save_database(&mut out, &database);
        out
    }

    #[test]
    fn books_round_trip() {
        let bytes = books();
        let loaded = load(&bytes).unwrap();
        let (number, database) = &loaded[0];
        assert_eq!((*number, database.pending.len(), database.tombstones.len()), (3, 2, 1));
        assert!(database.pending.waits("all", "held") && !database.pending.waits("all", "b"));
        assert_eq!((database.ghosts.len(), database.ghosts.index().len()), (2, 1), "c was refused");
        assert_eq!(database.ghosts.index().state("x"), Some("hot"));
        let link = database.pending.link("pg").unwrap();
        assert!(link.scope.is_cache() && link.owes_tombstone("a2") && !link.is_compared);
        assert_eq!(database.owners["pg"].database, 5);
        let all = database.pending.link("all").unwrap();
        assert!(all.refused.len() == 1 && all.was_compared && !all.is_compared);
        assert_eq!((database.readings.len(), database.withheld.len()), (2, 1));
        let mut again = vec![FORMAT];
        put_u32(&mut again, 1);
        again.extend(number.to_le_bytes());
        save_database(&mut again, database);
        assert_eq!(again, bytes);
    }

    #[test]
    fn cut_books_are_refused() {
        let bytes = books();
        for length in 0..bytes.len() {
            assert!(load(&bytes[..length]).is_err(), "{length}");
        }
        let padded = [bytes.as_slice(), &[0]].concat();
        assert!(load(&padded).is_err());
    }
}
