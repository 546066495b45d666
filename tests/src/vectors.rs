//! The test vectors that both engines are held to: `tests/vectors/items.json`, made from the shared crate.

use serde_json::{Value, json};
use std::path::PathBuf;
use tandem_shared::codec::encode;
use tandem_shared::content::Bounds;
use tandem_shared::digest::hex;
use tandem_shared::{Audit, Body, Content, ContentType, DigestKey, Revision, State, Timestamp, Version};

/// One item and all that is derived from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vector {
    /// Id.
    pub id: String,
    /// Version.
    pub version: u64,
    /// Timestamp in milliseconds.
    pub timestamp: u64,
    /// State.
    pub state: String,
    /// Whether the content is binary.
    pub binary: bool,
    /// What a user puts: JSON text, or the bytes.
    pub payload: Vec<u8>,
    /// Audit object, empty if there is none.
    pub audit: String,
    /// Canonical JSON, or the bytes.
    pub canonical: Vec<u8>,
    /// Hash of the content, hex.
    pub hash: String,
    /// Digest under the empty secret, hex.
    pub etag: String,
    /// The encoded revision.
    pub revision: Vec<u8>,
}

impl Vector {
    /// Derives everything from what a user gives.
    fn derive(id: &str, version: u64, state: &str, content: &[u8], binary: bool, audit: &str) -> Vector {
        let kind = if binary { ContentType::Binary } else { ContentType::Json };
        let content_made = Content::new(kind, content, Bounds::MAX).expect("content of a vector is good");
        let timestamp = 1_600_000_000_000 + version % 1000;
        let revision = Revision {
            version: Version::new(version.into()).expect("a good version"),
            timestamp: Timestamp::new(timestamp.into()).expect("a good timestamp"),
            audit: (!audit.is_empty()).then(|| Audit::new(audit).expect("a good audit object")),
            body: Body::Live {
                state: State::new(state).expect("a good state"),
                content: content_made.clone(),
            },
        };
        let digest = revision.digest(&DigestKey::new(b""), id).expect("a live revision has a digest");
        Vector {
            id: id.to_owned(),
            version,
            timestamp,
            state: state.to_owned(),
            binary,
            payload: content.to_vec(),
            audit: audit.to_owned(),
            canonical: content_made.bytes().to_vec(),
            hash: content_made.payload_hash().to_hex(),
            etag: digest.to_hex(),
            revision: encode(&revision),
        }
    }

    fn to_json(&self) -> Value {
        let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) if !self.binary => Value::from(text),
            _ => Value::from(hex(bytes)),
        };
        json!({
            "id": self.id,
            "version": self.version,
            "timestamp": self.timestamp,
            "state": self.state,
            "type": if self.binary { "binary" } else { "json" },
            "payload": bytes(&self.payload),
            "audit": self.audit,
            "canonical": bytes(&self.canonical),
            "hash": self.hash,
            "etag": self.etag,
            "revision": hex(&self.revision),
        })
    }

    fn from_json(value: &Value) -> Vector {
        let text =
            |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}")).to_owned();
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"));
        let binary = text("type") == "binary";
        let bytes = |name: &str| if binary { unhex(&text(name)) } else { text(name).into_bytes() };
        Vector {
            id: text("id"),
            version: number("version"),
            timestamp: number("timestamp"),
            state: text("state"),
            binary,
            payload: bytes("payload"),
            audit: text("audit"),
            canonical: bytes("canonical"),
            hash: text("hash"),
            etag: text("etag"),
            revision: unhex(&text("revision")),
        }
    }
}

/// The vectors as the shared crate derives them today.
pub fn derived() -> Vec<Vector> {
    let json = |id: &str, version: u64, state: &str, text: &str| {
        Vector::derive(id, version, state, text.as_bytes(), false, "")
    };
    let binary = |id: &str, version: u64, state: &str, bytes: &[u8]| {
        Vector::derive(id, version, state, bytes, true, "")
    };
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    // Painted with a period that no power of two has, so that a swapped block shows.
    let painted: Vec<u8> = (0..5000_u32).map(|index| (index % 251) as u8).collect();
    vec![
        json("v.issue", 7, "default", r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#),
        json("v.empty.object", 1, "default", "{}"),
        json("v.empty.array", 1, "default", " [ ] "),
        json("v.null", 1, "default", "null"),
        json("v.text", 2, "base", r#""\u0041\/\u00e9\ud83d\ude00\n\u0001\"\\""#),
        json("v.duplicate.keys", 3, "delta", r#"{"a":1,"b":2,"a":3}"#),
        json("v.key.order", 3, "pending", r#"{"z":1,"é":2,"aa":3,"a":4,"A":5,"":6}"#),
        json(
            "v.numbers",
            4,
            "default",
            "[0,-0,0.0,1e2,1E+2,100,-1.50,1e-7,0.1000000000000000055511151231257827]",
        ),
        json(
            "v.big.integers",
            4,
            "default",
            "[9007199254740993,-9223372036854775809,340282366920938463463374607431768211456]",
        ),
        json("v.exponents", 5, "default", "[1e400,-2.5e-300,123e40]"),
        json("v.deepest", 6, "default", &deep),
        json("v.white space", 6, "default", "\t{ \"a\" :\n[ 1 , 2 ]\r}"),
        json("v.ünïcode.日本", 1 << 62, "état", r#"{"日本":"語"}"#),
        json(&"i".repeat(512), 1, &"s".repeat(64), "true"),
        binary("v.binary.none", 1, "default", b""),
        binary("v.binary.json-like", 1, "default", b"{}"),
        binary("v.binary.bytes", 9, "default", &[0, 255, 1, 254, 0]),
        binary("v.binary.painted", 10, "base", &painted),
        Vector::derive(
            "v.audit",
            1,
            "default",
            b"1",
            false,
            r#"{"trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
        ),
    ]
}

/// The vectors of the file.
pub fn stored() -> Vec<Vector> {
    let path = path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let document: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    document["items"].as_array().expect("items is an array").iter().map(Vector::from_json).collect()
}

/// Writes the file.
pub fn store(vectors: &[Vector]) {
    let items: Vec<Value> = vectors.iter().map(Vector::to_json).collect();
    let document = json!({
        "note": "Made by `UPDATE_VECTORS=1 cargo test -p tandem-tests --test vectors`; bytes of binary items and revisions are hex, etags are under the empty secret.",
        "items": items,
    });
    let text = serde_json::to_string_pretty(&document).expect("a value can be written") + "\n";
    std::fs::write(path(), text).expect("tests/vectors can be written");
}

fn path() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/items.json")
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or_else(|| panic!("{text} is not hex")) as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}
