//! Laws of canonical JSON.

use proptest::prelude::*;
use serde_json::Value;
use tandem_shared::content::canonicalize;

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

/// Writes a value with members in reverse order, white space, and every character escaped.
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
    fn spellings_of_a_decimal_agree(digits in "[1-9][0-9]{0,30}", shift in 0_i32..60) {
        let shifted = format!("{digits}{}e-{shift}", "");
        let padded = format!("{digits}{}.000e-{}", "0".repeat(7), shift + 7);
        prop_assert_eq!(canonicalize(shifted.as_bytes()).unwrap(), canonicalize(padded.as_bytes()).unwrap());
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = canonicalize(&bytes);
    }

    #[test]
    fn near_json_is_refused_as_by_an_independent_parser(text in "[\\[\\]{}:,\"\\\\ut0-9eE.+\\- a]{0,24}") {
        let ours = canonicalize(text.as_bytes()).is_ok();
        let theirs = serde_json::from_str::<Value>(&text);
        // Numbers beyond f64 and \u0000 are the only structure on which the rules differ.
        if let Err(error) = &theirs && error.to_string().contains("out of range") { return Ok(()); }
        if text.contains("\\u") { return Ok(()); }
        prop_assert_eq!(ours, theirs.is_ok(), "{}", text);
    }
}
