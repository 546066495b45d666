//! The stream `tandem:cdc` for readers other than links (docs/cdc.md): each write appends an entry, in the same
//! atomic group as its effect, so that replicas and the AOF have both or neither.

use crate::engine;
use redis_module::{CallOptionsBuilder, CallResult, Context, logging};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use tandem_shared::codec::{Source, decode};
use tandem_shared::digest::hex;
use tandem_shared::{Audit, Body};

/// The stream's key.
pub const STREAM: &str = "tandem:cdc";
/// Content up to this size is appended as it is, in bytes.
const PLAIN_BYTES_MAX: usize = 64;
/// zstd's own default: beyond it time grows faster than what is saved.
const ZSTD_LEVEL: i32 = 3;
/// Time between two lines in the log about entries that the stream could not take.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// The field `meta`, a JSON object.
#[derive(Serialize)]
struct Meta<'a> {
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<&'a RawValue>,
}

/// Appends a write if the stream is on. The write stands whatever becomes of the entry: that a key of another type
/// is in the way is counted and logged.
pub fn append(context: &Context, id: &str, encoded: &[u8], origin: Option<&str>) {
    let length_max = engine::with(|engine| engine.cdc_length_max).unwrap_or(0);
    if length_max == 0 {
        return;
    }
    let Ok(revision) = decode(encoded, Source::Own) else { return };
    let audit = revision.audit.as_ref().map(Audit::as_str);
    let mut meta = Meta {
        timestamp: revision.timestamp.unix_ms(),
        state: None,
        r#type: None,
        encoding: None,
        bytes: None,
        origin,
        audit: audit.and_then(|audit| serde_json::from_str(audit).ok()),
    };
    let (mut operation, mut hash, mut data) = ("remove", String::new(), Vec::new());
    if let Body::Live { state, content } = &revision.body {
        operation = "put";
        hash = hex(&content.payload_hash().0);
        let (bytes, encoding) = packed(content.bytes());
        data = bytes;
        meta.state = Some(state.as_str());
        meta.r#type = Some(content.content_type().as_str());
        meta.encoding = Some(encoding);
        meta.bytes = Some(content.bytes().len());
    }
    let meta = serde_json::to_string(&meta).unwrap_or_default();
    let (length, version) = (length_max.to_string(), revision.version.to_string());
    let arguments: [&[u8]; 16] = [
        STREAM.as_bytes(),
        b"MAXLEN",
        b"~",
        length.as_bytes(),
        b"*",
        b"op",
        operation.as_bytes(),
        b"key",
        id.as_bytes(),
        b"hash",
        hash.as_bytes(),
        b"version",
        version.as_bytes(),
        b"data",
        &data,
        b"meta",
    ];
    let mut arguments = arguments.to_vec();
    arguments.push(meta.as_bytes());
    let options = CallOptionsBuilder::new().replicate().errors_as_replies().build();
    let reply: CallResult = context.call_ext("XADD", &options, arguments.as_slice());
    if let Err(error) = reply {
        lost(&error.to_string());
    }
}

/// Counts an entry that the stream could not take, and says so in the log from time to time: each write may be one.
fn lost(error: &str) {
    let told = engine::with(|engine| {
        engine.cdc_lost += 1;
        let is_due = engine.cdc_lost_logged.is_none_or(|at| at.elapsed() >= LOG_PAUSE);
        is_due.then(|| {
            engine.cdc_lost_logged = Some(Instant::now());
            engine.cdc_lost
        })
    });
    if let Ok(Some(count)) = told {
        logging::log_warning(format!(
            "tandem: no entry in stream {STREAM}: {error}; {count} since the start (cdc_lost in INFO tandem)"
        ));
    }
}

/// Content as the stream carries it, and the name of its encoding.
fn packed(content: &[u8]) -> (Vec<u8>, &'static str) {
    if content.len() > PLAIN_BYTES_MAX {
        match zstd::bulk::compress(content, ZSTD_LEVEL) {
            Ok(packed) if packed.len() < content.len() => return (packed, "zstd"),
            _ => {}
        }
    }
    (content.to_vec(), "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_packed_where_it_pays() {
        let long = vec![b'a'; 1000];
        let (bytes, encoding) = packed(&long);
        assert_eq!((encoding, zstd::bulk::decompress(&bytes, 1000).unwrap()), ("zstd", long));
        assert_eq!(packed(&[7; 64]), (vec![7; 64], "none"));
        let noise: Vec<u8> = (0..4_u8).flat_map(|seed| tandem_shared::PayloadHash::of(&[seed]).0).collect();
        assert_eq!(packed(&noise).1, "none");
    }
}
