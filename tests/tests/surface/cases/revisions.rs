//! Encoded revisions that are joined.

use super::*;
use tandem_shared::codec::encode;
use tandem_shared::{Audit, Body, Content, ContentType, DigestKey, Revision, State, Timestamp, Version};

const THEN: u64 = 1_600_000_000_000;

fn revision(version: u64, timestamp: u64, payload: Option<&str>) -> Revision {
    let body = payload.map_or(Body::Tombstone, |payload| Body::Live {
        state: State::new("default").expect("a good state"),
        content: Content::stored(ContentType::Json, payload.as_bytes()).expect("good content"),
    });
    Revision {
        version: Version::new(version.into()).expect("a good version"),
        timestamp: Timestamp::new(timestamp.into()).expect("a good timestamp"),
        audit: None,
        body,
    }
}

fn apply_raw(id: &str, bytes: &[u8]) -> Request {
    Request::Apply(id.to_owned(), bytes.to_vec())
}

fn apply_at(id: &str, version: u64, timestamp: u64, payload: Option<&str>) -> Request {
    apply_raw(id, &encode(&revision(version, timestamp, payload)))
}

/// The revision of an old time.
pub fn apply(id: &str, version: u64, payload: Option<&str>) -> Request {
    apply_at(id, version, THEN, payload)
}

/// Two revisions of one version and one moment: the one that loses, and the one that wins by its digest.
fn by_digest(id: &str) -> [Request; 2] {
    let mut both = ["[1]", "[2]"].map(|payload| revision(4, THEN, Some(payload)));
    both.sort_by_key(|revision| revision.digest(&DigestKey::new(b""), id).map(|digest| digest.0));
    both.map(|revision| apply_raw(id, &encode(&revision)))
}

pub fn cases() -> Vec<Case> {
    let mut cases = joins();
    cases.extend(ties());
    cases.extend(refused());
    cases
}

fn joins() -> Vec<Case> {
    let answer = |word: &str| is(Answer::text(word));
    let audited = |home: &str| {
        let audit = Audit::new(&format!("{{\"home\":\"{home}\"}}")).expect("a good audit object");
        Revision { audit: Some(audit), ..revision(2, THEN, Some("{}")) }
    };
    vec![
        write("apply.new", vec![], apply("apply.new", 4, Some("[1]")), answer("applied")),
        read(
            "apply.new.read",
            vec![],
            get("apply.new"),
            Expect::Fields(vec![("version", number(4)), ("timestamp", number(1_600_000_000_000))]),
        ),
        read("apply.same", vec![], apply("apply.new", 4, Some("[1]")), answer("unchanged")),
        read("apply.older", vec![], apply("apply.new", 3, Some("[2]")), answer("stale")),
        read("apply.earlier", vec![], apply_at("apply.new", 4, THEN - 1, Some("[2]")), answer("stale")),
        write("apply.later", vec![], apply_at("apply.new", 4, THEN + 1, Some("[2]")), answer("applied")),
        write("apply.newer", vec![], apply("apply.new", 9, Some("[2]")), answer("applied")),
        write("apply.tombstone.same.version", vec![], apply("apply.new", 9, None), answer("applied")),
        read("apply.live.same.version", vec![], apply("apply.new", 9, Some("[9]")), answer("stale")),
        write("apply.tombstone", vec![], apply("apply.new", 10, None), answer("applied")),
        read("apply.tombstone.read", vec![], get("apply.new"), is(Answer::Nothing)),
        read("apply.below.tombstone", vec![], apply("apply.new", 10, Some("[3]")), answer("stale")),
        write("apply.above.tombstone", vec![], apply("apply.new", 11, Some("[3]")), answer("applied")),
        write("apply.tombstone.first", vec![], apply("apply.gone", 3, None), answer("applied")),
        read("apply.tombstone.same", vec![], apply("apply.gone", 3, None), answer("unchanged")),
        write("apply.counts.on", vec![], put("apply.gone", "1"), version(4, 1)),
        write("apply.audit", vec![], apply_raw("apply.audit", &encode(&audited("a"))), answer("applied")),
        write(
            "apply.audit.greater",
            vec![],
            apply_raw("apply.audit", &encode(&audited("b"))),
            answer("applied"),
        ),
        read("apply.audit.less", vec![], apply_raw("apply.audit", &encode(&audited("a"))), answer("stale")),
        read("apply.audit.read", vec![], get("apply.audit"), field("audit", r#"{"home":"b"}"#)),
        write(
            "apply.over.a.put",
            vec![put("apply.put", "1")],
            apply("apply.put", 2, Some("[2]")),
            answer("applied"),
        ),
    ]
}

/// Equal versions: the later one, then a tombstone, then the greater digest.
fn ties() -> Vec<Case> {
    let answer = |word: &str| is(Answer::text(word));
    let [less, greater] = by_digest("tie.digest");
    let [less_again, greater_again] = by_digest("tie.digest");
    vec![
        write("tie.digest.greater", vec![less], greater, answer("applied")),
        read("tie.digest.less", vec![], less_again, answer("stale")),
        read("tie.digest.same", vec![], greater_again, answer("unchanged")),
        read("tie.digest.verify", vec![], Request::Verify, Expect::Fields(vec![("ok", number(1))])),
        write(
            "tie.live.after.tombstone",
            vec![apply("tie.live", 4, None)],
            apply_at("tie.live", 4, THEN + 1, Some("[1]")),
            answer("applied"),
        ),
        read("tie.live.after.tombstone.read", vec![], get("tie.live"), payload("[1]")),
        read("tie.tombstone.before.live", vec![], apply("tie.live", 4, None), answer("stale")),
        write("tie.tombstone.at.once", vec![], apply_at("tie.live", 4, THEN + 1, None), answer("applied")),
        read("tie.tombstone.again", vec![], apply_at("tie.live", 4, THEN, None), answer("stale")),
        write("tie.tombstone.later", vec![], apply_at("tie.live", 4, THEN + 2, None), answer("applied")),
        write("tie.counts.on", vec![], put("tie.live", "1"), version(5, 1)),
    ]
}

fn refused() -> Vec<Case> {
    let good = encode(&revision(4, THEN, Some(r#"{"a":1}"#)));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        apply_raw("apply.bad", &bytes)
    };
    let random: Vec<u8> = (0..200_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let loose = |bytes: &mut Vec<u8>| {
        let length = bytes.len();
        bytes[length - 7..].copy_from_slice(br#"{"a": }"#);
    };
    let corrupt = || Expect::Refused("CORRUPT");
    let numbers = format!("[{}]", vec!["1e131071"; 1000].join(","));
    vec![
        read("apply.random", vec![], apply_raw("apply.bad", &random), corrupt()),
        read("apply.nothing", vec![], apply_raw("apply.bad", b""), corrupt()),
        read("apply.short", vec![], with(&|bytes| bytes.truncate(30)), corrupt()),
        read("apply.trailing", vec![], with(&|bytes| bytes.push(0)), corrupt()),
        read("apply.format", vec![], with(&|bytes| bytes[0] = 2), corrupt()),
        read("apply.kind", vec![], with(&|bytes| bytes[1] = 9), corrupt()),
        read("apply.version.0", vec![], with(&|bytes| bytes[2..10].fill(0)), corrupt()),
        read("apply.version.negative", vec![], with(&|bytes| bytes[2..10].fill(255)), corrupt()),
        read("apply.version.too.large", vec![], with(&|bytes| bytes[9] = 0x7f), Expect::Refused("INVALID")),
        write(
            "apply.version.counted.on",
            vec![],
            apply("apply.large", (1 << 62) + 1, Some("[1]")),
            is(Answer::text("applied")),
        ),
        read(
            "apply.numbers.too.long",
            vec![],
            apply("apply.bad", 4, Some(&numbers)),
            Expect::Refused("TOOLARGE"),
        ),
        read("apply.not.canonical", vec![], with(&loose), corrupt()),
        read("apply.bad.nothing.done", vec![], get("apply.bad"), is(Answer::Nothing)),
    ]
}
