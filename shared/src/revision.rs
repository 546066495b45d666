//! Revisions of an item: version, timestamp, state, audit and content, or the fact of deletion.

use crate::content::{Canonical, Content, ContentType, measure};
use crate::digest::{Digest, DigestKey, PayloadHash};
use crate::error::{Error, Result, shown};
use crate::limits::{
    AUDIT_BYTES_MAX, AUDIT_PRINTED_BYTES_MAX, AUDIT_STORED_BYTES_MAX, HOME_BYTES_MAX, JSON_DEPTH_MAX,
    STATE_BYTES_MAX, VERSION_CARRIED_MAX, VERSION_GIVEN_MAX, VERSION_MAX,
};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// A positive 63-bit version; writers may give at most 2^62.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version of a first put.
    pub const FIRST: Version = Version(1);

    /// The highest version that is counted on from where it is not known to be the id's own: there are as many above
    /// it.
    pub const FLOOR_MAX: Version = Version(VERSION_GIVEN_MAX);

    /// A version that is stored. Errors: `INVALID` for 0, negative numbers and numbers above 2^63 - 1.
    pub fn new(number: i128) -> Result<Version> {
        Version::up_to(VERSION_MAX, number)
    }

    /// Checks a version that a writer gives. Errors: `INVALID` for 0, negative numbers and numbers above 2^62.
    pub fn given(number: i128) -> Result<Version> {
        Version::up_to(VERSION_GIVEN_MAX, number)
    }

    /// Reads a version that a writer gives from decimal text. Errors: `INVALID`.
    pub fn parse(text: &str) -> Result<Version> {
        let number = text.parse::<i128>().map_err(|_| {
            Error::invalid(
                format!("version {}", shown(text)),
                "is not an integer",
                format!("give an integer from 1 to {VERSION_GIVEN_MAX}"),
            )
        })?;
        Version::given(number)
    }

    fn up_to(most: u64, number: i128) -> Result<Version> {
        match u64::try_from(number) {
            Ok(number) if (1..=most).contains(&number) => Ok(Version(number)),
            _ => Err(Error::invalid(
                format!("version {number}"),
                "is out of range",
                format!("give an integer from 1 to {most}"),
            )),
        }
    }

    /// Checks that a revision with this version may come from elsewhere: out of a dump, or over a link.
    /// Errors: `INVALID` above 2^62 + 2^61.
    pub fn check_carried(self) -> Result<Version> {
        Version::up_to(VERSION_CARRIED_MAX, self.0.into())
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The version after this one. What writers give and what counts on from there never gets near the largest one,
    /// which stays itself: of equal versions the later timestamp wins, and the tombstone, so it can be written and
    /// removed.
    pub fn next(self) -> Version {
        Version(self.0.saturating_add(1).min(VERSION_MAX))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Checks a timestamp: what fits a `bigint` and is not before 1970. Errors: `INVALID`.
    pub fn new(unix_ms: i128) -> Result<Timestamp> {
        match u64::try_from(unix_ms) {
            Ok(unix_ms) if unix_ms <= VERSION_MAX => Ok(Timestamp(unix_ms)),
            _ => Err(Error::invalid(
                format!("timestamp {unix_ms}"),
                "is out of range",
                "give milliseconds since 1970, not negative",
            )),
        }
    }

    /// 1970-01-01.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// A millisecond later; the last one stays itself.
    pub fn next(self) -> Timestamp {
        Timestamp(self.0.saturating_add(1).min(VERSION_MAX))
    }

    /// The number of milliseconds.
    pub fn unix_ms(self) -> u64 {
        self.0
    }
}

/// A caller's tag, 1 to 64 bytes, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State(Box<str>);

/// The state of an item whose writer named none.
pub const STATE_DEFAULT: &str = "default";

impl State {
    /// Checks a state. Errors: `INVALID`.
    pub fn new(text: &str) -> Result<State> {
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > STATE_BYTES_MAX {
            format!("has {} bytes", text.len())
        } else if text.contains('\0') {
            "contains a NUL byte".to_owned()
        } else {
            return Ok(State(text.into()));
        };
        Err(Error::invalid(
            format!("state {}", shown(text)),
            problem,
            format!("give 1 to {STATE_BYTES_MAX} bytes of UTF-8 without NUL"),
        ))
    }

    /// The state as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for State {
    fn default() -> State {
        State(STATE_DEFAULT.into())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Who wrote a revision and why: a JSON object, kept in canonical form. It travels with the revision and is
/// not part of its digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audit(Box<str>);

impl Audit {
    /// Checks an audit object that a writer gives. Errors: `BADJSON`; `TOOLARGE` for more than 1024 bytes of its
    /// canonical form, or 4096 of what Postgres prints of it; `INVALID` when it is not an object or one of its
    /// members `batch` (a UUID), `trace` (a W3C traceparent) and `home` (a short text) is not what it must be.
    pub fn new(text: &str) -> Result<Audit> {
        let (canonical, printed_bytes) = canonical_object(text)?;
        let too_large = |what, actual_bytes, limit_bytes| Error::TooLarge { what, actual_bytes, limit_bytes };
        if canonical.len() > AUDIT_BYTES_MAX {
            return Err(too_large("audit", canonical.len(), AUDIT_BYTES_MAX));
        }
        if printed_bytes > AUDIT_PRINTED_BYTES_MAX {
            let what = "audit as Postgres prints it, with every number in full,";
            return Err(too_large(what, printed_bytes, AUDIT_PRINTED_BYTES_MAX));
        }
        let members = members_of(&canonical)?;
        check_member(&members, "batch", "is not a UUID", "give one, or leave it out", |value| {
            uuid::Uuid::try_parse(value).is_ok()
        })?;
        check_member(
            &members,
            "trace",
            "is not a W3C traceparent",
            "give version-traceid-parentid-flags in lower-case hex (2-32-16-2 digits)",
            is_traceparent,
        )?;
        check_member(&members, "home", "is not a short text", "give 1 to 128 bytes", |value| {
            (1..=HOME_BYTES_MAX).contains(&value.len())
        })?;
        Ok(Audit(canonical.into()))
    }

    /// An audit object as it is stored, in any form: it was checked when it was written. Errors: `BADJSON`, and
    /// `INVALID` for what is no object; `TOOLARGE` for one that no encoded revision has room for, which can only have
    /// been stored past the checks.
    pub fn stored(text: &str) -> Result<Audit> {
        let (canonical, _) = canonical_object(text)?;
        if canonical.len() > AUDIT_STORED_BYTES_MAX {
            let (actual_bytes, limit_bytes) = (canonical.len(), AUDIT_STORED_BYTES_MAX);
            return Err(Error::TooLarge { what: "audit", actual_bytes, limit_bytes });
        }
        Ok(Audit(canonical.into()))
    }

    /// An audit object that names the batch: `base`, or an empty one, with `batch` added unless it has one.
    /// Errors: `TOOLARGE`.
    pub fn of_batch(base: Option<&Audit>, batch: &str) -> Result<Audit> {
        let base = base.map_or("{}", Audit::as_str);
        let members = members_of(base)?;
        if members.contains_key("batch") {
            return Audit::new(base);
        }
        let comma = if members.is_empty() { "" } else { "," };
        let rest = base.get(1..).unwrap_or("}");
        Audit::new(&format!("{{\"batch\":\"{batch}\"{comma}{rest}"))
    }

    /// The batch that it names.
    pub fn batch(&self) -> Option<String> {
        serde_json::from_str(members_of(&self.0).ok()?.get("batch")?.get()).ok()
    }

    /// The canonical JSON.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The canonical form of an object and what Postgres prints of it in bytes.
fn canonical_object(text: &str) -> Result<(String, usize)> {
    let measured = measure(text.as_bytes(), JSON_DEPTH_MAX).map_err(|error| error.in_json_of("audit"))?;
    let Canonical { bytes, printed_bytes } = measured;
    let canonical = String::from_utf8(bytes).map_err(|_| Error::bad_json(0, "it is not UTF-8"))?;
    if !canonical.starts_with('{') {
        return Err(Error::invalid(
            format!("audit {}", shown(text)),
            "is not a JSON object",
            "give an object such as {\"batch\":…,\"trace\":…,\"home\":…}",
        ));
    }
    Ok((canonical, printed_bytes))
}

fn members_of(object: &str) -> Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(object).map_err(|_| Error::bad_json(0, "it is not an object"))
}

fn check_member(
    members: &BTreeMap<String, &RawValue>,
    name: &str,
    problem: &str,
    remedy: &str,
    is_good: impl FnOnce(&str) -> bool,
) -> Result<()> {
    let Some(value) = members.get(name) else { return Ok(()) };
    let text: Option<String> = serde_json::from_str(value.get()).ok();
    if text.is_some_and(|text| is_good(&text)) {
        return Ok(());
    }
    Err(Error::invalid(format!("audit {name} {}", shown(value.get())), problem, remedy))
}

/// W3C Trace Context: version, trace id, parent id and flags in lower-case hex; neither id all zeros, version not ff,
/// and nothing after the flags in version 00.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (part.len() == length && is_hex).then_some(part)
    };
    let (Some(version), Some(trace), Some(parent), Some(_)) = (part(2), part(32), part(16), part(2)) else {
        return false;
    };
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    version != "ff" && !is_zero(trace) && !is_zero(parent) && (version != "00" || parts.next().is_none())
}

/// What a revision says of its item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The item has this state and content.
    Live {
        /// The tag.
        state: State,
        /// The content.
        content: Content,
    },
    /// The item is deleted.
    Tombstone,
}

/// One revision of an item; the id is known from where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub timestamp: Timestamp,
    /// Audit object, if the writer gave one.
    pub audit: Option<Audit>,
    /// State and content, or deletion.
    pub body: Body,
}

impl Revision {
    /// What decisions and digests need of it, borrowed.
    pub fn head(&self) -> Head<'_> {
        let live = match &self.body {
            Body::Live { state, content } => Some(LiveHead {
                state: state.as_str(),
                content_type: content.content_type(),
                payload_hash: *content.payload_hash(),
                local: false,
            }),
            Body::Tombstone => None,
        };
        Head {
            version: self.version,
            timestamp: self.timestamp,
            audit: self.audit.as_ref().map(Audit::as_str),
            live,
        }
    }

    /// The content of a live revision.
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::Live { content, .. } => Some(content),
            Body::Tombstone => None,
        }
    }

    /// The digest of a live revision under `id`; tombstones are not in fingerprints and have none.
    pub fn digest(&self, key: &DigestKey, id: &str) -> Option<Digest> {
        self.head().digest(key, id)
    }
}

/// A revision without its content bytes: an engine can read it from a row or a value without touching them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// Its version.
    pub version: Version,
    /// When it was written.
    pub timestamp: Timestamp,
    /// The audit object as canonical JSON.
    pub audit: Option<&'a str>,
    /// Of a live revision the rest; `None` for a tombstone.
    pub live: Option<LiveHead<'a>>,
}

/// What a live revision has and a tombstone has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveHead<'a> {
    /// The tag.
    pub state: &'a str,
    /// Kind of the content.
    pub content_type: ContentType,
    /// Hash of the content.
    pub payload_hash: PayloadHash,
    /// The item stays in its tier: no log, no link, no fingerprint (DESIGN section 6). A property of where it
    /// stands and not of its revision, which never travels.
    pub local: bool,
}

impl Head<'_> {
    /// Whether it is a tombstone.
    pub fn is_tombstone(&self) -> bool {
        self.live.is_none()
    }

    /// The digest under `id`, none for a tombstone.
    pub fn digest(&self, key: &DigestKey, id: &str) -> Option<Digest> {
        let live = self.live.as_ref()?;
        Some(key.digest(self.version.get(), id, live.state, live.content_type, &live.payload_hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_positive_and_bounded() {
        for refused in ["0", "-1", "4611686018427387905", "9223372036854775807", "1.5", "", "x"] {
            assert!(Version::parse(refused).is_err(), "{refused}");
        }
        let given = Version::parse("4611686018427387904").unwrap();
        let error = Version::given(i128::from(given.get()) + 1).unwrap_err().to_string();
        assert!(error.contains("from 1 to 4611686018427387904"), "{error}");
        assert_eq!(given.next().check_carried(), Ok(given.next()), "what counts on from there travels");
        assert!(Version::new(VERSION_MAX.into()).unwrap().check_carried().is_err());
        assert!(Version::new(i128::from(VERSION_MAX) + 1).is_err());
        assert_eq!(Version::FIRST.next().get(), 2);
        let last = Version::new(VERSION_MAX.into()).unwrap();
        assert_eq!(last.next(), last);
    }

    #[test]
    fn states_are_bounded() {
        assert!(State::new("").is_err());
        assert!(State::new(&"s".repeat(64)).is_ok());
        assert!(State::new(&"s".repeat(65)).is_err());
        assert!(State::new("a\0").is_err());
    }

    #[test]
    fn audit_members_are_what_they_say() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(Audit::new(&format!("{{\"trace\":\"{trace}\",\"home\":\"eu-1\"}}")).is_ok());
        assert!(Audit::new(r#"{"batch":"67e55044-10b1-426f-9247-bb680e5fe0c8","x":[1]}"#).is_ok());
        for refused in [
            r#"{"batch":"x"}"#.to_owned(),
            r#"{"batch":1}"#.to_owned(),
            r#"{"home":""}"#.to_owned(),
            format!("{{\"home\":\"{}\"}}", "h".repeat(129)),
            format!("{{\"trace\":\"{}\"}}", trace.to_uppercase()),
            format!("{{\"trace\":\"{trace}-x\"}}"),
            format!("{{\"trace\":\"{}\"}}", trace.replace("00f067aa0ba902b7", "0000000000000000")),
            format!("{{\"trace\":\"ff{}\"}}", &trace[2..]),
        ] {
            assert!(matches!(Audit::new(&refused), Err(Error::Invalid { .. })), "{refused}");
        }
        assert!(Audit::new(&format!("{{\"trace\":\"01{}-later\"}}", &trace[2..])).is_ok());
    }

    #[test]
    fn a_batch_is_stamped_once() {
        let batch = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let other = "00000000-0000-4000-8000-000000000001";
        assert_eq!(Audit::of_batch(None, batch).unwrap().as_str(), format!("{{\"batch\":\"{batch}\"}}"));
        let base = Audit::new(r#"{"a":1,"home":"x"}"#).unwrap();
        let stamped = Audit::of_batch(Some(&base), batch).unwrap();
        assert_eq!(stamped.as_str(), format!("{{\"a\":1,\"batch\":\"{batch}\",\"home\":\"x\"}}"));
        assert_eq!(stamped.batch().as_deref(), Some(batch));
        assert_eq!(Audit::of_batch(Some(&stamped), other).unwrap(), stamped);
    }

    #[test]
    fn audit_is_a_bounded_object() {
        assert_eq!(Audit::new(r#"{"b":1, "a":2}"#).unwrap().as_str(), r#"{"a":2,"b":1}"#);
        assert!(Audit::new("[]").is_err());
        assert!(Audit::new(&format!("{{\"a\":\"{}\"}}", "x".repeat(1024))).is_err());
        let blanks = " ".repeat(2000);
        assert_eq!(
            Audit::new(&format!("{{{blanks}}}")).unwrap().as_str(),
            "{}",
            "the canonical form is measured"
        );
    }

    #[test]
    fn an_audit_that_was_accepted_is_read_back_as_postgres_prints_it() {
        let accepted = Audit::new(r#"{"n":1e1100}"#).unwrap();
        let printed = format!("{{\"n\": 1{}}}", "0".repeat(1100));
        assert!(printed.len() > AUDIT_BYTES_MAX);
        assert_eq!(Audit::stored(&printed).unwrap(), accepted);
        let numbers = Audit::new(r#"{"n":[1e2000,1e2000,1e2000]}"#);
        assert!(
            matches!(numbers, Err(Error::TooLarge { actual_bytes: 6016, limit_bytes: 4096, .. })),
            "{numbers:?}"
        );
        assert!(matches!(Audit::stored("[]"), Err(Error::Invalid { .. })));
        let stored = |length| Audit::stored(&format!("{{\"a\":\"{}\"}}", "x".repeat(length)));
        assert!(stored(65_527).is_ok());
        assert!(matches!(stored(65_528), Err(Error::TooLarge { actual_bytes: 65_536, .. })));
    }
}
