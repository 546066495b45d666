//! Laws of join and of the binary codec.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use std::cmp::Ordering;
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::content::Bounds;
use tandem_shared::decide::{Outcome, decide_apply};
use tandem_shared::join::{join, order};
use tandem_shared::{
    Audit, Body, Code, Content, ContentType, DigestKey, Revision, State, Timestamp, Version,
};

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| Content::binary(&bytes, Bounds::MAX).unwrap()),
        (-3_i32..3).prop_map(|number| Content::json(number.to_string().as_bytes(), Bounds::MAX).unwrap()),
    ]
}

/// Few values, so that revisions often tie in one field and differ in the next.
fn revision() -> impl Strategy<Value = Revision> {
    let body = prop_oneof![
        Just(Body::Tombstone),
        ("[ab]", content())
            .prop_map(|(state, content)| Body::Live { state: State::new(&state).unwrap(), content }),
    ];
    (1_i128..3, 0_i128..2, prop::option::of(0_u8..2), body).prop_map(|(version, timestamp, audit, body)| {
        Revision {
            version: Version::new(version).unwrap(),
            timestamp: Timestamp::new(timestamp).unwrap(),
            audit: audit.map(|home| Audit::new(&format!("{{\"home\":\"{home}\"}}")).unwrap()),
            body,
        }
    })
}

fn joined(a: &Revision, b: &Revision) -> Revision {
    join(&DigestKey::new(b"k"), "id", a.clone(), b.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn join_is_commutative(a in revision(), b in revision()) {
        prop_assert_eq!(joined(&a, &b), joined(&b, &a));
    }

    #[test]
    fn join_is_associative(a in revision(), b in revision(), c in revision()) {
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
    }

    #[test]
    fn join_is_idempotent(a in revision(), b in revision()) {
        prop_assert_eq!(joined(&a, &a), a.clone());
        let once = joined(&a, &b);
        prop_assert_eq!(joined(&once, &b), once);
    }

    #[test]
    fn only_equal_revisions_tie(a in revision(), b in revision()) {
        let tie = order(&DigestKey::new(b"k"), "id", &a.head(), &b.head()) == Ordering::Equal;
        prop_assert_eq!(tie, a == b);
    }

    #[test]
    fn applying_is_joining(a in revision(), b in revision()) {
        let key = DigestKey::new(b"k");
        let applied = decide_apply(&key, "id", Some(&a.head()), &b.head());
        let stored = if applied.outcome == Outcome::Applied { b.clone() } else { a.clone() };
        prop_assert_eq!(stored, joined(&a, &b));
        prop_assert_eq!(applied.conflict, a.version == b.version && a.digest(&key, "id") != b.digest(&key, "id"));
    }

    #[test]
    fn the_codec_round_trips(a in revision()) {
        for source in [Source::Foreign, Source::Own] {
            prop_assert_eq!(&decode(&encode(&a), source).unwrap(), &a);
        }
    }

    #[test]
    fn cut_and_padded_bytes_are_refused(a in revision(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&a);
        prop_assert!(decode(&bytes[..cut.index(bytes.len())], Source::Own).is_err());
        let mut padded = bytes;
        padded.push(0);
        prop_assert!(decode(&padded, Source::Own).is_err());
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..80), flip in revision(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let _ = decode(&bytes, Source::Foreign);
        let mut changed = encode(&flip);
        let at = at.index(changed.len());
        changed[at] = value;
        if let Ok(revision) = decode(&changed, Source::Foreign) {
            prop_assert_eq!(encode(&revision), changed, "one revision has one encoding");
        }
    }
}

#[test]
fn json_that_is_not_canonical_is_refused_from_outside() {
    let content = Content::json(b"[1]", Bounds::MAX).unwrap();
    let revision = Revision {
        version: Version::FIRST,
        timestamp: Timestamp::new(0).unwrap(),
        audit: None,
        body: Body::Live { state: State::default(), content },
    };
    let mut bytes = encode(&revision);
    let last = bytes.len() - 3;
    bytes[last..].copy_from_slice(b" 1 ");
    assert!(decode(&bytes, Source::Foreign).is_err());
}

#[test]
fn what_is_stored_is_read_whatever_bounds_hold_for_writers() {
    let numbers = format!("[{}]", vec!["1e131071"; 1000].join(","));
    let revision = Revision {
        version: Version::new(i64::MAX.into()).unwrap(),
        timestamp: Timestamp::EPOCH,
        audit: Some(Audit::stored(&format!("{{\"a\":\"{}\"}}", "x".repeat(5000))).unwrap()),
        body: Body::Live {
            state: State::default(),
            content: Content::stored(ContentType::Json, numbers.as_bytes()).unwrap(),
        },
    };
    let refused = |revision: &Revision| decode(&encode(revision), Source::Foreign).unwrap_err().code();
    assert_eq!(decode(&encode(&revision), Source::Own).as_ref(), Ok(&revision));
    assert_eq!(refused(&revision), Code::Invalid, "its version");
    let revision = Revision { version: Version::FIRST, ..revision };
    assert_eq!(refused(&revision), Code::TooLarge, "its audit object");
    let revision = Revision { audit: None, ..revision };
    assert_eq!(refused(&revision), Code::TooLarge, "its numbers");
}
