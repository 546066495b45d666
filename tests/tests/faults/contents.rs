//! What both sides hold in the end, read item by item and byte by byte: nothing here believes a hash that is stored.

use crate::company::Company;
use crate::ledger::{Standing, key, revisions_of_redis};
use ::redis::{Connection, Value};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};
use tandem_shared::content::canonicalize;
use tandem_shared::{Audit, Head, LiveHead};
use tandem_shared::{ContentType, PayloadHash, Revision, Timestamp, Version};
use tandem_tests::redis::ask;
use tandem_tests::sql::{self, JsonText};

/// A revision as it lies on a side.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub version: u64,
    timestamp: u64,
    audit: Option<String>,
    /// State, type and canonical content; none for a tombstone.
    pub live: Option<(String, ContentType, Vec<u8>)>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} by {:?}: ", self.version, self.timestamp, self.audit)?;
        match &self.live {
            None => write!(f, "removed"),
            Some((state, kind, content)) => {
                let content = String::from_utf8_lossy(content);
                write!(f, "{state}, {kind:?}, {:.200}", content)
            }
        }
    }
}

impl Held {
    /// Of a revision that was fetched.
    pub fn of(revision: &Revision) -> Held {
        let head = revision.head();
        let live = revision
            .content()
            .zip(head.live)
            .map(|(content, live)| (live.state.to_owned(), content.content_type(), content.bytes().to_vec()));
        let audit = revision.audit.as_ref().map(Audit::as_str).map(str::to_owned);
        Held { version: head.version.get(), timestamp: head.timestamp.unix_ms(), audit, live }
    }

    /// Calls `look` with the head, whose hash is counted from the content.
    pub fn with_head<T>(&self, look: impl FnOnce(&Head<'_>) -> T) -> T {
        let live = self.live.as_ref().map(|(state, content_type, content)| LiveHead {
            state,
            content_type: *content_type,
            payload_hash: PayloadHash::of(content),
            local: false,
        });
        look(&Head {
            version: Version::new(i128::from(self.version)).expect("a version is positive"),
            timestamp: Timestamp::new(i128::from(self.timestamp)).expect("a time is not negative"),
            audit: self.audit.as_deref(),
            live,
        })
    }

    /// Version, and etag counted from the content.
    pub fn standing(&self, id: &str) -> Standing {
        let etag = self.with_head(|head| head.digest(&key(), id).map(|digest| digest.to_hex()));
        (self.version, etag)
    }
}

fn canonical(text: &str) -> String {
    let canonical =
        canonicalize(text.as_bytes()).unwrap_or_else(|error| panic!("jsonb {text:.200}: {error}"));
    String::from_utf8(canonical).expect("JSON is UTF-8")
}

/// All ids of Postgres, live or removed.
pub fn of_postgres(client: &mut Client) -> BTreeMap<String, Held> {
    let query = "SELECT id, version, \"timestamp\", audit, state, payload, payload_blob FROM tandem.items UNION ALL \
                 SELECT id, version, \"timestamp\", audit, NULL, NULL, NULL FROM tandem.tombstones";
    let rows = sql::rows(client, query);
    let held = |row: &postgres::Row| {
        let live = row.get::<_, Option<String>>(4).map(|state| match row.get::<_, Option<JsonText>>(5) {
            Some(JsonText(text)) => (state, ContentType::Json, canonical(&text).into_bytes()),
            None => (state, ContentType::Binary, row.get(6)),
        });
        let audit = row.get::<_, Option<JsonText>>(3).map(|JsonText(text)| canonical(&text));
        let (version, timestamp) = (row.get::<_, i64>(1) as u64, row.get::<_, i64>(2) as u64);
        (row.get(0), Held { version, timestamp, audit, live })
    };
    rows.iter().map(held).collect()
}

/// Revisions that are fetched at a time.
const PAGE: usize = 200;

/// What Redis has of all its keys, and of other ids.
pub fn of_redis(connection: &mut Connection, others: &BTreeSet<String>) -> BTreeMap<String, Held> {
    let Value::Array(keys) = ask(connection, &["KEYS", "*"]) else { panic!("KEYS answers with an array") };
    let keys = keys.into_iter().map(|key| match key {
        Value::BulkString(bytes) => String::from_utf8(bytes).expect("an id is UTF-8"),
        other => panic!("{other:?} is no key"),
    });
    let ids: Vec<String> = others.iter().cloned().chain(keys).collect::<BTreeSet<_>>().into_iter().collect();
    let mut held = BTreeMap::new();
    for page in ids.chunks(PAGE) {
        let revisions = revisions_of_redis(connection, page.iter());
        held.extend(revisions.into_iter().map(|(id, revision)| (id, Held::of(&revision))));
    }
    held
}

/// What differs between both sides. In a mirror some copies may have expired; then Postgres alone has them.
pub fn differences(
    postgres: &BTreeMap<String, Held>,
    redis: &BTreeMap<String, Held>,
    company: Company,
) -> Vec<String> {
    let ids: BTreeSet<&String> = postgres.keys().chain(redis.keys()).collect();
    let differs = |id: &&String| match (postgres.get(*id), redis.get(*id)) {
        (Some(_), None) if company == Company::Expiring => false,
        (here, there) => here != there,
    };
    ids.into_iter()
        .filter(differs)
        .map(|id| format!("{id}: {:?} in Postgres, {:?} in Redis", postgres.get(id), redis.get(id)))
        .collect()
}
