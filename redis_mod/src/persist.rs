//! The books of all databases (tombstones, links, what waits for them) as bytes in the RDB's auxiliary data, and
//! as commands in an AOF that is rewritten without an RDB preamble.
//!
//! | field | form |
//! |---|---|
//! | format | u8 = 2 |
//! | databases | u32 count, then each: |
//! | number | i32 |
//! | last sequence, highest version | u64, u64 (0: none) |
//! | links | u32 count of (text name, u64 acknowledged sequence, text mode or empty, text prefix) |
//! | waiting | u32 count of (u64 sequence, text id, u64 dropped version or 0, text origin or empty, u8 1 if a dropped copy is aside, u32 count of bytes) |
//! | tombstones | u32 count of (text id, bytes revision) |
//!
//! Integers are little-endian; text and bytes have a u32 length before them. Nothing may follow.

use crate::engine::{Database, Engine};
use crate::pending::Waiting;
use redis_module::raw;
use tandem_shared::codec::{self, Source};
use tandem_shared::limits::REVISION_BYTES_MAX;
use tandem_shared::{Error, Result, Revision, Version};

const FORMAT: u8 = 2;

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
    for (name, acked) in pending.links() {
        put_bytes(out, name.as_bytes());
        out.extend(acked.to_le_bytes());
        let reading = database.readings.get(name);
        put_bytes(out, reading.map_or("", |reading| reading.mode.as_str()).as_bytes());
        put_bytes(out, reading.map_or("", |reading| &reading.prefix).as_bytes());
    }
    put_u32(out, pending.len());
    for (seq, waiting) in pending.after(0) {
        out.extend(seq.to_le_bytes());
        put_bytes(out, waiting.id.as_bytes());
        out.extend(waiting.dropped.map_or(0, Version::get).to_le_bytes());
        put_bytes(out, waiting.origin.as_deref().unwrap_or_default().as_bytes());
        out.push(u8::from(waiting.copy_is_aside));
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

/// Puts loaded books in the place of the present ones. The indexes start empty: the keys that are loaded next
/// fill them.
pub fn install(engine: &mut Engine, books: Vec<(i32, Database)>) {
    engine.databases = books.into_iter().collect();
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
            let name = self.text()?;
            let acked = self.integer(8)?;
            database.pending.restore_link(name, acked);
            let (mode, prefix) = (self.text()?, self.text()?);
            if !mode.is_empty() {
                database.read_from(name, mode, prefix)?;
            }
        }
        for _ in 0..self.count()? {
            let seq = self.integer(8)?;
            let mut waiting = Waiting { id: self.text()?.into(), ..Waiting::default() };
            waiting.dropped = self.version()?;
            waiting.origin = Some(self.text()?).filter(|origin| !origin.is_empty()).map(Into::into);
            waiting.copy_is_aside = self.integer(1)? == 1;
            for _ in 0..self.count()? {
                waiting.aside.push(self.bytes()?.into());
            }
            database.pending.restore(seq, waiting);
        }
        database.pending.restore_seq(last_seq);
        for _ in 0..self.count()? {
            let id = self.text()?;
            let revision: Revision = codec::decode(self.bytes()?, Source::Own)?;
            database.tombstones.insert(id.into(), revision);
        }
        Ok(database)
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
        database.pending.attach("pg");
        database.read_from("pg", "cache", "a").unwrap();
        database.pending.written("a", None, None);
        database.pending.dropped("a", tombstone.version, || vec![1, 2, 3]);
        database.pending.written("b", Some("other"), None);
        database.tombstones.insert("gone".into(), tombstone);
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
