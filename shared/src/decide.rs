//! What a request does to the stored revision. The engines lock and read the current revision, ask here, and
//! store what they are told: no rule lives in an engine. Clock and key are arguments.

use crate::content::{Content, ContentType};
use crate::digest::{Digest, DigestKey};
use crate::error::{Error, Result, shown};
use crate::join::{is_conflict, order};
use crate::request::{MergeRequest, Precondition, PutRequest, RemoveRequest, StateRequest};
use crate::revision::{Audit, Body, Head, Revision, State, Timestamp, Version};
use std::cmp::Ordering;

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Store this revision.
    Write(Revision),
    /// Store this revision as an item that stays in its tier.
    WriteLocal(Revision),
    /// Keep the content and change what is beside it; the item stays local or shared as it is.
    Restate(Restated),
    /// Drop the item, which is local: no tombstone.
    Drop,
    /// The stored item already is what was asked for; no version, no log row.
    Unchanged,
}

/// A new revision of unchanged content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restated {
    /// The new version.
    pub version: Version,
    /// When it is written.
    pub timestamp: Timestamp,
    /// The new state.
    pub state: State,
    /// The new audit object.
    pub audit: Option<Audit>,
    /// Whether the item stays in its tier, as before.
    pub local: bool,
}

/// What applying a foreign revision comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Where the revision stands against the stored one.
    pub outcome: Outcome,
    /// Two writers used one version for different revisions: the loser is to be recorded.
    pub conflict: bool,
}

/// Where an applied revision stands against the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is greater: store it.
    Applied,
    /// It is what is stored.
    Unchanged,
    /// It is smaller: the stored one stays.
    Stale,
}

impl Outcome {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Stale => "stale",
        }
    }

    /// The outcome that a word stands for.
    pub fn of_word(word: &str) -> Option<Outcome> {
        [Outcome::Applied, Outcome::Unchanged, Outcome::Stale].into_iter().find(|each| each.as_str() == word)
    }
}

/// Decides a put. `current` is the stored revision or tombstone.
///
/// Errors: `CONFLICT` or `EXISTS` when the precondition does not hold, `STALE` when a version is asked for that
/// is not newer, `INVALID` for an item that is shared and would become local.
pub fn decide_put(
    key: &DigestKey,
    id: &str,
    current: Option<&Head<'_>>,
    request: PutRequest,
    now: Timestamp,
) -> Result<Decision> {
    check_precondition(key, id, current, &request.precondition)?;
    let live = current.and_then(|head| head.live);
    check_locality(id, live.map(|live| live.local), request.local)?;
    let state = match (request.state, live) {
        (Some(state), _) => state,
        (None, Some(live)) => State::new(live.state)?,
        (None, None) => State::default(),
    };
    let same = live.is_some_and(|live| {
        live.local == request.local
            && live.state == state.as_str()
            && live.content_type == request.content.content_type()
            && live.payload_hash == *request.content.payload_hash()
    });
    let current_version = current.map(|head| head.version);
    if same && request.version.is_none_or(|version| Some(version) == current_version) {
        return Ok(Decision::Unchanged);
    }
    let version = new_version(id, current_version, request.version)?;
    let body = Body::Live { state, content: request.content };
    let revision =
        Revision { version, timestamp: timestamp_after(current, version, now), audit: request.audit, body };
    Ok(if request.local { Decision::WriteLocal(revision) } else { Decision::Write(revision) })
}

/// Decides a merge patch (RFC 7396): a put of the patched content. `content` is the stored content of a live JSON
/// item; an absent item counts as `{}`, and a local one stays local.
///
/// Errors: as [`decide_put`]; `INVALID` for binary content, `BADJSON` and `TOOLARGE` for what would come of it.
pub fn decide_merge(
    key: &DigestKey,
    id: &str,
    current: Option<&Head<'_>>,
    content: Option<&[u8]>,
    request: MergeRequest,
    now: Timestamp,
) -> Result<Decision> {
    check_precondition(key, id, current, &request.precondition)?;
    let live = current.and_then(|head| head.live);
    if live.is_some_and(|live| live.content_type == ContentType::Binary) {
        return Err(Error::invalid(
            format!("item {}", shown(id)),
            "holds binary content, which takes no merge patch",
            "put the whole content",
        ));
    }
    let put = PutRequest {
        content: Content::merged(content, &request.patch, request.bounds)?,
        state: request.state,
        version: request.version,
        precondition: request.precondition,
        audit: request.audit,
        local: live.is_some_and(|live| live.local),
    };
    decide_put(key, id, current, put, now)
}

/// Decides a change of the state alone.
///
/// Errors: `NOTFOUND` where nothing lives, `CONFLICT` when etag or present state do not match.
pub fn decide_state(
    key: &DigestKey,
    id: &str,
    current: Option<&Head<'_>>,
    request: StateRequest,
    now: Timestamp,
) -> Result<Decision> {
    check_precondition(key, id, current, &request.precondition)?;
    let what = || format!("item {}", shown(id));
    let Some((head, live)) = current.and_then(|head| head.live.map(|live| (head, live))) else {
        return Err(Error::NotFound { what: what() });
    };
    if let Some(from) = request.from.as_ref().filter(|from| from.as_str() != live.state) {
        return Err(Error::StateConflict {
            what: what(),
            expected: shown(from.as_str()),
            current: shown(live.state),
        });
    }
    if live.state == request.state.as_str() {
        return Ok(Decision::Unchanged);
    }
    let version = head.version.next();
    Ok(Decision::Restate(Restated {
        version,
        timestamp: timestamp_after(current, version, now),
        state: request.state,
        audit: request.audit,
        local: live.local,
    }))
}

/// Decides a removal: a tombstone with version current + 1 or the version asked for, nothing where nothing lives, and
/// no tombstone for an item that is local.
///
/// Errors: `CONFLICT` when the etag does not match, `STALE` when the version is not newer.
pub fn decide_remove(
    key: &DigestKey,
    id: &str,
    current: Option<&Head<'_>>,
    request: RemoveRequest,
    now: Timestamp,
) -> Result<Decision> {
    check_precondition(key, id, current, &request.precondition)?;
    let Some((head, live)) = current.and_then(|head| head.live.map(|live| (head, live))) else {
        return Ok(Decision::Unchanged);
    };
    let version = new_version(id, Some(head.version), request.version)?;
    if live.local {
        return Ok(Decision::Drop);
    }
    let body = Body::Tombstone;
    let timestamp = timestamp_after(current, version, now);
    Ok(Decision::Write(Revision { version, timestamp, audit: request.audit, body }))
}

/// Decides what a foreign revision does: joining keeps the greater one. A local item does not count as `current`:
/// what is shared takes its place.
pub fn decide_apply(key: &DigestKey, id: &str, current: Option<&Head<'_>>, offered: &Head<'_>) -> Applied {
    let Some(current) = current else {
        return Applied { outcome: Outcome::Applied, conflict: false };
    };
    let outcome = match order(key, id, offered, current) {
        Ordering::Greater => Outcome::Applied,
        Ordering::Equal => Outcome::Unchanged,
        Ordering::Less => Outcome::Stale,
    };
    Applied { outcome, conflict: is_conflict(key, id, offered, current) }
}

/// How long tombstones are kept once every link has acknowledged them (DESIGN section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    ms: u64,
}

impl Retention {
    /// So many milliseconds; 0 for ever.
    pub const fn of_ms(ms: u64) -> Retention {
        Retention { ms }
    }

    /// The number of milliseconds, 0 for ever.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The shorter of two: a tombstone binds only as long as on both sides.
    pub fn shorter(self, other: Retention) -> Retention {
        if other.ms != 0 && (self.ms == 0 || other.ms < self.ms) { other } else { self }
    }

    /// The longer of two: a tombstone is kept until it binds on neither side.
    pub fn longer(self, other: Retention) -> Retention {
        if self.shorter(other) == self { other } else { self }
    }

    /// Tombstones written before this no longer bind: a revision that comes over a link is joined as if they were
    /// gone.
    ///
    /// The two sides do not drop a tombstone at one moment. Who puts on the side that has dropped it begins at version
    /// 1, and would lose against the tombstone that the other side has still. So a tombstone stops to bind on both
    /// before either drops it.
    pub fn bound_since(self, now: Timestamp) -> Timestamp {
        self.since(now, self.ms)
    }

    /// Tombstones written before this are dropped: a quarter of the time later, which is room for clocks that differ.
    pub fn kept_since(self, now: Timestamp) -> Timestamp {
        self.since(now, self.ms.saturating_add(self.ms / 4).saturating_add(1))
    }

    fn since(self, now: Timestamp, ms: u64) -> Timestamp {
        let since = now.unix_ms().saturating_sub(ms);
        if self.ms == 0 { Timestamp::EPOCH } else { Timestamp::new(since.into()).unwrap_or(Timestamp::EPOCH) }
    }
}

/// The version and timestamp of a row that plain DML writes. `current` is the row's old state, or the tombstone
/// under its id; `given` is the version the statement sets, `None` if it leaves it as it is; `changed` says
/// whether content, type or state differ from a live `current`. `None` means: nothing to version here.
///
/// Errors: `STALE` when the version set is not newer, `INVALID` for one that leaves no room above it.
pub fn decide_row(
    id: &str,
    current: Option<&Head<'_>>,
    given: Option<Version>,
    changed: bool,
) -> Result<Option<Version>> {
    // A dump is restored with the versions that it has, also those that were counted on from what a writer gave.
    let given = given.map(Version::check_carried).transpose()?;
    if given.is_none() && !changed && current.is_some_and(|head| !head.is_tombstone()) {
        return Ok(None);
    }
    new_version(id, current.map(|head| head.version), given).map(Some)
}

/// Checks that an item may be local or shared, as `is_local` says. `was_local` is what it was until now, `None` for a
/// new one.
///
/// Errors: `INVALID` for an item that is shared and would become local.
pub fn check_locality(id: &str, was_local: Option<bool>, is_local: bool) -> Result<()> {
    if was_local == Some(false) && is_local {
        return Err(Error::invalid(
            format!("item {}", shown(id)),
            "is shared and cannot become local",
            "remove it first or choose another id",
        ));
    }
    Ok(())
}

pub(crate) fn new_version(id: &str, current: Option<Version>, asked: Option<Version>) -> Result<Version> {
    match (current, asked) {
        (None, asked) => Ok(asked.unwrap_or(Version::FIRST)),
        (Some(current), None) => Ok(current.next()),
        (Some(current), Some(asked)) if asked > current => Ok(asked),
        (Some(current), Some(asked)) => Err(Error::Stale {
            what: format!("item {}", shown(id)),
            current: current.get(),
            offered: asked.get(),
        }),
    }
}

/// The time of a new revision: now. Only where there is no version above the current one must the time tell them
/// apart.
fn timestamp_after(current: Option<&Head<'_>>, version: Version, now: Timestamp) -> Timestamp {
    match current {
        Some(head) if head.version == version => now.max(head.timestamp.next()),
        _ => now,
    }
}

fn check_precondition(
    key: &DigestKey,
    id: &str,
    current: Option<&Head<'_>>,
    precondition: &Precondition,
) -> Result<()> {
    let etag = |digest: Option<Digest>| digest.map_or_else(|| "none".to_owned(), Digest::to_hex);
    match precondition {
        Precondition::None => Ok(()),
        Precondition::IfAbsent => match current.and_then(|head| head.digest(key, id)) {
            None => Ok(()),
            Some(digest) => Err(Error::Exists { what: format!("item {}", shown(id)), etag: digest.to_hex() }),
        },
        Precondition::IfMatch(expected) => {
            let digest = current.and_then(|head| head.digest(key, id));
            if digest.as_ref() == Some(expected) {
                return Ok(());
            }
            Err(Error::Conflict {
                what: format!("item {}", shown(id)),
                expected: expected.to_hex(),
                current: etag(digest),
            })
        }
    }
}

#[cfg(test)]
mod retention_tests {
    use super::*;

    #[test]
    fn a_tombstone_stops_to_bind_before_it_is_dropped() {
        let at = |ms: i128| Timestamp::new(ms).unwrap();
        let second = Retention::of_ms(1000);
        assert_eq!((second.bound_since(at(5000)), second.kept_since(at(5000))), (at(4000), at(3749)));
        assert_eq!(second.bound_since(at(10)), Timestamp::EPOCH);
        let for_ever = Retention::of_ms(0);
        assert_eq!((for_ever.bound_since(at(9)), for_ever.kept_since(at(9))), (at(0), at(0)));
        for (a, b) in [(second, for_ever), (for_ever, second)] {
            assert_eq!((a.shorter(b), a.longer(b)), (second, for_ever));
        }
        assert_eq!(second.shorter(Retention::of_ms(5)).ms(), 5);
        assert_eq!((second.longer(Retention::of_ms(5)), second.longer(second)), (second, second));
        assert!(Retention::of_ms(1).kept_since(at(9)) < Retention::of_ms(1).bound_since(at(9)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bounds;
    use crate::request::PutOptions;

    fn now() -> Timestamp {
        Timestamp::new(1_700_000_000_000).unwrap()
    }

    fn put(text: &str, options: PutOptions<'_>) -> PutRequest {
        PutRequest::parse(text.as_bytes(), &options, Bounds::MAX).unwrap()
    }

    fn decide(current: Option<&Revision>, request: PutRequest) -> Result<Decision> {
        let head = current.map(Revision::head);
        decide_put(&DigestKey::new(b""), "a", head.as_ref(), request, now())
    }

    fn written(decision: Result<Decision>) -> Revision {
        match decision.unwrap() {
            Decision::Write(revision) => revision,
            other => panic!("nothing was written: {other:?}"),
        }
    }

    #[test]
    fn puts_count_versions_and_skip_what_is_there() {
        let first = written(decide(None, put("[1]", PutOptions::default())));
        assert_eq!(first.version.get(), 1);
        assert_eq!(decide(Some(&first), put("[1.0]", PutOptions::default())), Ok(Decision::Unchanged));
        let second = written(decide(Some(&first), put("[2]", PutOptions::default())));
        assert_eq!(second.version.get(), 2);
        let tagged = PutOptions { state: Some("x"), ..PutOptions::default() };
        let third = written(decide(Some(&second), put("[2]", tagged)));
        assert_eq!(third.version.get(), 3);
        let kept = written(decide(Some(&third), put("[4]", PutOptions::default())));
        assert_eq!(kept.head().live.unwrap().state, "x", "a put without a state keeps it");
    }

    #[test]
    fn versions_must_be_newer() {
        let five =
            written(decide(None, put("1", PutOptions { version: Some("5"), ..PutOptions::default() })));
        assert_eq!(five.version.get(), 5);
        let again = put("1", PutOptions { version: Some("5"), ..PutOptions::default() });
        assert_eq!(decide(Some(&five), again), Ok(Decision::Unchanged));
        let other = put("2", PutOptions { version: Some("5"), ..PutOptions::default() });
        assert!(matches!(decide(Some(&five), other), Err(Error::Stale { current: 5, offered: 5, .. })));
    }

    #[test]
    fn versions_that_are_given_leave_room_above_them() {
        let most = (1_u64 << 62).to_string();
        let beyond = ((1_u64 << 62) + 1).to_string();
        let at = |version| PutOptions { version: Some(version), ..PutOptions::default() };
        assert!(PutRequest::parse(b"1", &at(&beyond), Bounds::MAX).is_err());
        let first = written(decide(None, put("1", at(&most))));
        let second = written(decide(Some(&first), put("2", PutOptions::default())));
        assert_eq!(second.version.get(), (1 << 62) + 1);
        let row =
            |given: i128| decide_row("a", Some(&second.head()), Some(Version::new(given).unwrap()), true);
        assert!(row((1 << 62) + 2).is_ok(), "a dump is restored with what was counted on from there");
        assert!(matches!(row(i64::MAX.into()), Err(Error::Invalid { .. })));
    }

    #[test]
    fn what_has_the_largest_version_can_be_written_and_removed() {
        let key = DigestKey::new(b"");
        let last = Version::new(i64::MAX.into()).unwrap();
        let late = Timestamp::new(i128::from(now().unix_ms()) + 1_000_000).unwrap();
        let mut stored = written(decide(None, put("1", PutOptions::default())));
        (stored.version, stored.timestamp) = (last, late);
        let second = written(decide(Some(&stored), put("2", PutOptions::default())));
        assert_eq!(order(&key, "a", &second.head(), &stored.head()), Ordering::Greater);
        let removal = decide_remove(&key, "a", Some(&second.head()), RemoveRequest::default(), now());
        let tombstone = written(removal);
        assert_eq!(order(&key, "a", &tombstone.head(), &second.head()), Ordering::Greater);
        let third = written(decide(Some(&tombstone), put("3", PutOptions::default())));
        assert_eq!(order(&key, "a", &third.head(), &tombstone.head()), Ordering::Greater);
        assert_eq!(decide_row("a", Some(&third.head()), None, true), Ok(Some(last)));
    }

    #[test]
    fn preconditions_hold_or_refuse() {
        let key = DigestKey::new(b"");
        let first = written(decide(None, put("1", PutOptions::default())));
        let etag = first.digest(&key, "a").unwrap().to_hex();
        let matching = PutOptions { if_match: Some(&etag), ..PutOptions::default() };
        let second = written(decide(Some(&first), put("2", matching)));
        assert!(matches!(decide(Some(&second), put("3", matching)), Err(Error::Conflict { .. })));
        assert!(matches!(decide(None, put("3", matching)), Err(Error::Conflict { .. })));
        let absent = PutOptions { if_absent: true, ..PutOptions::default() };
        assert!(matches!(decide(Some(&second), put("3", absent)), Err(Error::Exists { .. })));
        assert_eq!(written(decide(None, put("3", absent))).version.get(), 1);
    }

    #[test]
    fn removal_makes_a_tombstone_once_and_puts_go_on_counting() {
        let key = DigestKey::new(b"");
        let first = written(decide(None, put("1", PutOptions::default())));
        let removal = decide_remove(&key, "a", Some(&first.head()), RemoveRequest::default(), now());
        let tombstone = written(removal);
        assert_eq!((tombstone.version.get(), tombstone.head().is_tombstone()), (2, true));
        let again = decide_remove(&key, "a", Some(&tombstone.head()), RemoveRequest::default(), now());
        assert_eq!(again, Ok(Decision::Unchanged));
        assert_eq!(written(decide(Some(&tombstone), put("1", PutOptions::default()))).version.get(), 3);
    }

    #[test]
    fn patches_are_puts_of_what_comes_of_them() {
        let key = DigestKey::new(b"");
        let merge = |current: Option<&Revision>, patch: &str, options: &PutOptions<'_>| {
            let request = MergeRequest::parse(patch.as_bytes(), options, Bounds::MAX).unwrap();
            let content = current.and_then(Revision::content).map(Content::bytes);
            decide_merge(&key, "a", current.map(Revision::head).as_ref(), content, request, now())
        };
        let none = PutOptions::default();
        let first = written(merge(None, r#"{"a":1,"b":null}"#, &none));
        assert_eq!(first.content().unwrap().bytes(), br#"{"a":1}"#);
        let second = written(merge(Some(&first), r#"{"b":2}"#, &none));
        assert_eq!((second.content().unwrap().bytes(), second.version.get()), (&br#"{"a":1,"b":2}"#[..], 2));
        assert_eq!(merge(Some(&second), r#"{"b":2}"#, &none), Ok(Decision::Unchanged));
        let binary = written(decide(None, put("x", none)));
        assert!(matches!(merge(Some(&binary), "{}", &none), Err(Error::Invalid { .. })));
        let absent = PutOptions { if_absent: true, ..none };
        assert!(matches!(merge(Some(&second), r#"{"b":3}"#, &absent), Err(Error::Exists { .. })));
    }

    #[test]
    fn states_change_without_content() {
        let key = DigestKey::new(b"");
        let first = written(decide(None, put("[1]", PutOptions::default())));
        let state = |state: &str, from: Option<&str>| {
            let request = StateRequest::parse(state, from, None, None).unwrap();
            decide_state(&key, "a", Some(&first.head()), request, now())
        };
        match state("hot", Some("default")) {
            Ok(Decision::Restate(restated)) => {
                assert_eq!((restated.version.get(), restated.state.as_str()), (2, "hot"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(state("default", None), Ok(Decision::Unchanged));
        assert!(matches!(state("hot", Some("cold")), Err(Error::StateConflict { .. })));
        let request = StateRequest::parse("hot", None, None, None).unwrap();
        assert!(matches!(decide_state(&key, "a", None, request, now()), Err(Error::NotFound { .. })));
    }

    #[test]
    fn local_items_leave_no_trace() {
        let key = DigestKey::new(b"");
        let local = PutOptions { local: true, ..PutOptions::default() };
        let Ok(Decision::WriteLocal(first)) = decide(None, put("[1]", local)) else {
            panic!("it is local");
        };
        let mut head = first.head();
        if let Some(live) = &mut head.live {
            live.local = true;
        }
        let removal = decide_remove(&key, "a", Some(&head), RemoveRequest::default(), now());
        assert_eq!(removal, Ok(Decision::Drop));
        assert_eq!(decide_put(&key, "a", Some(&head), put("[1]", local), now()), Ok(Decision::Unchanged));
        let shared = decide_put(&key, "a", Some(&head), put("[1]", PutOptions::default()), now());
        assert_eq!(written(shared).version.get(), 2, "a put without LOCAL shares it");
        assert!(matches!(decide(Some(&first), put("[2]", local)), Err(Error::Invalid { .. })));
    }

    #[test]
    fn rows_follow_the_same_versions() {
        let first = written(decide(None, put("1", PutOptions::default())));
        let head = first.head();
        assert_eq!(decide_row("a", Some(&head), None, false), Ok(None));
        assert_eq!(decide_row("a", Some(&head), None, true).unwrap().unwrap().get(), 2);
        assert!(decide_row("a", Some(&head), Some(Version::FIRST), true).is_err());
        assert_eq!(decide_row("a", None, None, true).unwrap().unwrap().get(), 1);
        for (was_local, is_local) in
            [(None, true), (None, false), (Some(true), true), (Some(true), false), (Some(false), false)]
        {
            assert_eq!(check_locality("a", was_local, is_local), Ok(()));
        }
        assert!(check_locality("a", Some(false), true).is_err(), "what is shared stays shared");
    }
}
