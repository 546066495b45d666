//! Roots counted from what is stored, item by item, with nothing of an engine's index or log: what an engine
//! says of itself is held against this.

use crate::redis::{ask, send};
use crate::sql::{self, JsonText};
use postgres::Client;
use redis::{Connection, Value};
use tandem_shared::content::canonicalize;
use tandem_shared::{ContentType, DigestKey, Fingerprint, PayloadHash};

/// Number of items and the root that the shared ones add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Number of items, local ones too.
    pub count: u64,
    /// The root hash, none without shared items.
    pub root: Option<String>,
}

/// What is counted so far.
#[derive(Default)]
struct Counted {
    sum: Fingerprint,
    local: u64,
}

impl Counted {
    fn add(&mut self, id: &str, version: i64, state: &str, (binary, content): (bool, Vec<u8>)) {
        let kind = if binary { ContentType::Binary } else { ContentType::Json };
        let version = u64::try_from(version).expect("a version is positive");
        let digest = DigestKey::new(b"").digest(version, id, state, kind, &PayloadHash::of(&content));
        self.sum += Fingerprint::of(&digest);
    }

    fn census(&self) -> Census {
        Census { count: self.sum.count() + self.local, root: self.sum.node_hash() }
    }
}

/// Reads every key of the selected database with SCAN and DUMPs nothing: items answer TANDEM.GET, all else is
/// passed over.
pub fn of_redis(connection: &mut Connection) -> Census {
    let mut counted = Counted::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let Value::Array(reply) =
            send(connection, &[b"SCAN".as_slice(), &cursor, b"COUNT", b"1000"]).expect("SCAN answers")
        else {
            panic!("SCAN answers with an array");
        };
        let [Value::BulkString(next), Value::Array(keys)] = reply.as_slice() else {
            panic!("SCAN answers with a cursor and keys");
        };
        for key in keys {
            let Value::BulkString(key) = key else { panic!("a key is a string") };
            if seen.insert(key.clone()) {
                add_key(connection, &mut counted, key);
            }
        }
        cursor.clone_from(next);
        if cursor == b"0" {
            return counted.census();
        }
    }
}

fn add_key(connection: &mut Connection, counted: &mut Counted, key: &[u8]) {
    // A key of another type is refused, and one that expired since the scan is nil.
    let Ok(Value::Array(words)) = send(connection, &[b"TANDEM.GET", key]) else { return };
    let bytes = |name: &str| match field(&words, name) {
        Value::BulkString(bytes) => bytes.clone(),
        other => panic!("{name} is {other:?}"),
    };
    let text = |name: &str| String::from_utf8(bytes(name)).expect("text is UTF-8");
    let Value::Int(version) = field(&words, "version") else { panic!("a version is a number") };
    let Ok(Value::Array(status)) = send(connection, &[b"TANDEM.STATUS", key]) else {
        panic!("an item has a status")
    };
    if *field(&status, "status") == Value::BulkString(b"local".to_vec()) {
        counted.local += 1;
        return;
    }
    let id = std::str::from_utf8(key).expect("an id is UTF-8");
    let content = (text("type") == "binary", bytes("payload"));
    counted.add(id, *version, &text("state"), content);
}

/// A field of a record, which protocol 2 shows as names and values that alternate.
fn field<'a>(words: &'a [Value], name: &str) -> &'a Value {
    let mut pairs = words.chunks_exact(2);
    let pair = pairs.find(|pair| matches!(&pair[0], Value::BulkString(word) if word == name.as_bytes()));
    &pair.unwrap_or_else(|| panic!("a record has the field {name}: {words:?}"))[1]
}

/// Reads every row of `tandem.items`.
pub fn of_postgres(client: &mut Client) -> Census {
    let mut counted = Counted::default();
    for row in sql::rows(client, "SELECT id, version, state, payload, payload_blob, local FROM tandem.items")
    {
        if row.get("local") {
            counted.local += 1;
            continue;
        }
        let json = row.get::<_, Option<JsonText>>("payload");
        let content = match json {
            Some(JsonText(text)) => {
                (false, canonicalize(text.as_bytes()).unwrap_or_else(|error| panic!("jsonb {text}: {error}")))
            }
            None => (true, row.get("payload_blob")),
        };
        counted.add(row.get("id"), row.get("version"), row.get("state"), content);
    }
    counted.census()
}

/// Holds Redis' index of the selected database against the keys, both by its own recount and by ours. Returns
/// the census.
pub fn check_redis(connection: &mut Connection, when: &str) -> Census {
    let verified = ask(connection, &["TANDEM.VERIFY"]);
    let Value::Array(words) = &verified else { panic!("TANDEM.VERIFY answers with a record") };
    assert_eq!(words[1], Value::Int(1), "{when}: TANDEM.VERIFY answers {verified:?}");
    let counted = of_redis(connection);
    let said = Census {
        count: u64::try_from(crate::pair::count_of_redis(connection)).expect("a count is not negative"),
        root: crate::pair::root_of_redis(connection),
    };
    assert_eq!(said, counted, "{when}: what the index says, and what the keys add up to");
    counted
}

/// Holds Postgres' blocks and log against the rows, both by its own recount and by ours. Returns the census.
pub fn check_postgres(client: &mut Client, when: &str) -> Census {
    let verified = sql::rows(client, "SELECT ok, v::text FROM tandem.verify() v").remove(0);
    assert!(verified.get::<_, bool>(0), "{when}: tandem.verify() answers {}", verified.get::<_, String>(1));
    let counted = of_postgres(client);
    let said = Census {
        count: u64::try_from(crate::pair::count_of_postgres(client)).expect("a count is not negative"),
        root: crate::pair::root_of_postgres(client),
    };
    assert_eq!(said, counted, "{when}: what the blocks say, and what the rows add up to");
    counted
}
