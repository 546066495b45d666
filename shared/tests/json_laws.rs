//! Laws of canonical JSON.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail this way")]

use proptest::prelude::*;
use serde_json::Value;
use tandem_shared::Content;
use tandem_shared::content::{Bounds, Builder, canonicalize, measure};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        "[^\u{0}]{0,8}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(("[^\u{0}]{0,4}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes a value with members in reverse order after a duplicate that loses, white space, and every
/// character escaped.
fn disguise(value: &Value, out: &mut String) {
    let text = |text: &str, out: &mut String| {
        out.push('"');
        for unit in text.encode_utf16() {
            out.push_str(&format!("\\u{unit:04X}"));
        }
        out.push('"');
    };
    match value {
        Value::String(string) => text(string, out),
        Value::Number(number) => out.push_str(&format!("{number}.00e+0")),
        Value::Array(elements) => {
            out.push_str("[\n");
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " ,\t" });
                disguise(element, out);
            }
            out.push_str(" ]");
        }
        Value::Object(members) => {
            out.push_str("{ ");
            if let Some(key) = members.keys().next() {
                text(key, out);
                out.push_str(":{\"lost\":[1]} ,");
            }
            for (index, (key, member)) in members.iter().rev().enumerate() {
                out.push_str(if index == 0 { "" } else { "\r, " });
                text(key, out);
                out.push_str(" : ");
                disguise(member, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

proptest! {
    #[test]
    fn canonical_form_is_idempotent_and_keeps_the_value(value in json()) {
        let once = canonicalize(value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&canonicalize(&once).unwrap(), &once);
        prop_assert_eq!(serde_json::from_slice::<Value>(&once).unwrap(), value);
    }

    #[test]
    fn equal_values_have_one_form(value in json()) {
        let mut disguised = String::new();
        disguise(&value, &mut disguised);
        let plain = canonicalize(value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(canonicalize(disguised.as_bytes()).unwrap(), plain, "{}", disguised);
    }

    #[test]
    fn spellings_of_a_decimal_agree(
        digits in "[1-9][0-9]{0,30}", power in -400_i32..400, point in 0_usize..40, zeros in 0_usize..30,
    ) {
        let plain = format!("{digits}e{power}");
        // The same value with zeros at its end and the point moved to the left.
        let padded = format!("{}{digits}{}", "0".repeat(point), "0".repeat(zeros));
        let (left, right) = padded.split_at(padded.len() - point);
        let integer = left.trim_start_matches('0');
        let integer = if integer.is_empty() { "0" } else { integer };
        let fraction = if right.is_empty() { String::new() } else { format!(".{right}") };
        let spelled = format!("{integer}{fraction}E{:+04}", power - zeros as i32 + point as i32);
        let canonical = canonicalize(plain.as_bytes()).unwrap();
        prop_assert!(canonical.len() <= plain.len() + 20, "{}", plain);
        prop_assert_eq!(canonicalize(spelled.as_bytes()).unwrap(), canonical, "{} {}", plain, spelled);
    }

    #[test]
    fn keys_stand_in_the_order_of_their_bytes(keys in prop::collection::vec("[\u{1}-!\"#\\\\a/é\u{ff00}😀]{0,4}", 0..24)) {
        let members: Vec<String> = keys.iter().map(|key| format!("{}:0", Value::from(key.as_str()))).collect();
        let mut sorted = keys;
        sorted.sort_unstable();
        sorted.dedup();
        let expected: Vec<String> =
            sorted.iter().map(|key| format!("{}:0", Value::from(key.as_str()))).collect();
        let canonical = canonicalize(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        prop_assert_eq!(String::from_utf8(canonical).unwrap(), format!("{{{}}}", expected.join(",")));
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = canonicalize(&bytes);
    }

    #[test]
    fn near_json_is_refused_as_by_an_independent_parser(text in "[\\[\\]{}:,\"\\\\ut0-9eE.+\\- a]{0,24}") {
        agree(text.as_bytes())?;
    }

    #[test]
    fn json_with_a_flaw_is_refused_as_by_an_independent_parser(
        value in json(), at in any::<prop::sample::Index>(), flaw in any::<u8>(), inserted in any::<bool>(),
    ) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        if inserted { text.insert(at, flaw) } else { text[at] = flaw }
        agree(&text)?;
    }
}

/// Both parsers take the text or both refuse it, where their rules are the same: Postgres' `numeric` and f64
/// have different bounds, and only `jsonb` refuses `\u0000`.
fn agree(text: &[u8]) -> Result<(), TestCaseError> {
    let (ours, theirs) = (canonicalize(text), serde_json::from_slice::<Value>(text));
    let bounds_differ = ours.as_ref().is_err_and(|error| error.to_string().contains("Postgres"))
        || theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
    prop_assert!(bounds_differ || ours.is_ok() == theirs.is_ok(), "{:?}\n{:?}", ours, theirs);
    Ok(())
}

/// Writes a value part by part, members in reverse order.
fn build(value: &Value, to: &mut Builder) -> Option<()> {
    match value {
        Value::Null => to.word(b"null"),
        Value::Bool(true) => to.word(b"true"),
        Value::Bool(false) => to.word(b"false"),
        Value::Number(number) => to.stored_number(number.to_string().as_bytes())?,
        Value::String(text) => to.string(text),
        Value::Array(elements) => {
            to.open_array()?;
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    to.comma();
                }
                build(element, to)?;
            }
            to.close_array();
        }
        Value::Object(members) => {
            let object = to.open_object()?;
            for (at, (key, member)) in members.iter().rev().enumerate() {
                if at > 0 {
                    to.comma();
                }
                let key = to.key(key);
                build(member, to)?;
                to.end_member(key);
            }
            to.close_object(object);
        }
    }
    Some(())
}

proptest! {
    #[test]
    fn a_value_has_one_form_whether_it_comes_as_text_or_in_parts(value in json()) {
        let mut builder = Builder::new(128, 0);
        builder.string("what was written before");
        builder.restart();
        prop_assert!(build(&value, &mut builder).is_some());
        let hash = builder.payload_hash(Bounds::MAX).unwrap();
        let text = value.to_string();
        prop_assert_eq!(hash, *Content::json(text.as_bytes(), Bounds::MAX).unwrap().payload_hash());
        prop_assert_eq!(builder.finish(), measure(text.as_bytes(), 128).unwrap());
    }
}

#[test]
fn parts_are_bounded_as_text_is() {
    let nested = |depth: usize| (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    assert!(build(&nested(128), &mut Builder::new(128, 0)).is_some());
    assert!(build(&nested(129), &mut Builder::new(128, 0)).is_none());
    let mut builder = Builder::new(128, 0);
    builder.open_array();
    assert!(builder.stored_number(b"1.00").is_some());
    builder.close_array();
    assert!(builder.payload_hash(Bounds { content_bytes: 3, printed_bytes: 6 }).is_ok());
    assert!(builder.payload_hash(Bounds { content_bytes: 3, printed_bytes: 5 }).is_err());
    assert!(builder.payload_hash(Bounds { content_bytes: 2, printed_bytes: 6 }).is_err());
    assert!(builder.stored_number(b"1x").is_none());
}
