//! Replies. Records are written with the raw calls in a fixed field order: maps under RESP3, flat arrays under
//! RESP2, and no copy of the payload.

use crate::decide::Answer;
use crate::item::Item;
use redis_module::{Context, raw};
use std::ffi::{CString, c_char, c_long};
use tandem_shared::{Body, Digest, DigestKey, Error};

/// `CODE message` as Redis shows it.
pub fn error_text(error: &Error) -> String {
    format!("{} {error}", error.code().as_str())
}

/// Writes one reply after the other to a client.
#[derive(Clone, Copy)]
pub struct Reply {
    context: *mut raw::RedisModuleCtx,
}

impl Reply {
    /// Replies to the client of this context.
    pub fn new(context: &Context) -> Reply {
        Reply { context: context.get_raw() }
    }

    /// Replies to the client behind a raw context, valid as long as the callback it was given to.
    pub fn from_raw(context: *mut raw::RedisModuleCtx) -> Reply {
        Reply { context }
    }

    /// Begins an array of so many elements.
    pub fn array(self, length: usize) {
        raw::reply_with_array(self.context, length as c_long);
    }

    /// Begins an array whose length follows with [`Reply::end_array`].
    pub fn open_array(self) {
        raw::reply_with_array(self.context, raw::REDISMODULE_POSTPONED_LEN as c_long);
    }

    /// Ends what [`Reply::open_array`] began.
    pub fn end_array(self, length: usize) {
        // SAFETY: the API table is filled when the module is loaded; the context is the current callback's.
        if let Some(set_length) = unsafe { raw::RedisModule_ReplySetArrayLength } {
            // SAFETY: see above.
            unsafe { set_length(self.context, length as c_long) };
        }
    }

    /// Begins a map of so many pairs.
    pub fn map(self, pairs: usize) {
        raw::reply_with_map(self.context, pairs as c_long);
    }

    /// A binary-safe string.
    pub fn bulk(self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        raw::reply_with_string_buffer(self.context, bytes.as_ptr().cast::<c_char>(), bytes.len());
    }

    /// An integer.
    pub fn integer(self, number: u64) {
        raw::reply_with_long_long(self.context, i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// An integer, or nil.
    pub fn integer_or_null(self, number: Option<u64>) {
        match number {
            Some(number) => self.integer(number),
            None => self.null(),
        }
    }

    /// Nil.
    pub fn null(self) {
        raw::reply_with_null(self.context);
    }

    /// A string, or nil.
    pub fn bulk_or_null(self, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// An error inside or instead of a reply.
    pub fn error(self, error: &Error) {
        // Messages hold no control characters (values are escaped where they are shown), so none is lost here.
        let text = error_text(error).replace(['\0', '\r', '\n'], " ");
        // Not by the crate's function: it cuts every character to one byte.
        // SAFETY: the API table is filled when the module is loaded; the context is the current callback's, and
        // Redis copies the text.
        if let (Ok(text), Some(reply)) = (CString::new(text), unsafe { raw::RedisModule_ReplyWithError }) {
            // SAFETY: as above.
            unsafe { reply(self.context, text.as_ptr()) };
        }
    }

    /// Refuses a command for want of key permissions, as Redis does for the keys that a command declares.
    pub fn no_permission(self) {
        let text = c"NOPERM No permissions to access a key that this command concerns";
        // SAFETY: the API table is filled when the module is loaded; the context is the current callback's, and
        // Redis copies the text.
        unsafe {
            if let Some(reply) = raw::RedisModule_ReplyWithError {
                reply(self.context, text.as_ptr());
            }
        }
    }

    /// What a write is answered with.
    pub fn answer(self, answer: &Answer) {
        self.map(4);
        self.bulk("version");
        self.integer(answer.version);
        self.bulk("etag");
        self.hex_or_null(answer.etag.as_ref());
        self.bulk("hash");
        self.hex_or_null(answer.hash.map(|hash| Digest(hash.0)).as_ref());
        self.bulk("changed");
        self.integer(u64::from(answer.changed));
    }

    /// An item record (docs/surface.md).
    pub fn item(self, key: &DigestKey, id: &str, item: &Item) {
        let revision = &item.revision;
        let Body::Live { state, content } = &revision.body else { return self.null() };
        let etag = key.digest(
            revision.version.get(),
            id,
            state.as_str(),
            content.content_type(),
            content.payload_hash(),
        );
        self.map(9);
        self.bulk("id");
        self.bulk(id);
        self.bulk("version");
        self.integer(revision.version.get());
        self.bulk("timestamp");
        self.integer(revision.timestamp.unix_ms());
        self.bulk("state");
        self.bulk(state.as_str());
        self.bulk("type");
        self.bulk(content.content_type().as_str());
        self.bulk("payload");
        self.bulk(content.bytes());
        self.bulk("hash");
        self.hex(&Digest(content.payload_hash().0));
        self.bulk("etag");
        self.hex(&etag);
        self.bulk("audit");
        self.bulk_or_null(revision.audit.as_ref().map(|audit| audit.as_str()));
    }

    /// As [`Reply::hex`], or nil.
    pub fn hex_or_null(self, digest: Option<&Digest>) {
        match digest {
            Some(digest) => self.hex(digest),
            None => self.null(),
        }
    }

    /// 32 bytes as 64 hex digits.
    pub fn hex(self, digest: &Digest) {
        let mut buffer = [0; 64];
        digest.write_hex(&mut buffer);
        self.bulk(buffer);
    }
}
