//! JSON merge patch (RFC 7396) on canonical JSON. Numbers are never read as numbers: values travel as text, so that
//! every digit of what is kept stays.

use crate::error::{Error, Result};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Applies a patch to a value, both canonical JSON; without a value the patch is applied to `{}`. Returns JSON that is
/// not canonical yet. Errors: `BADJSON`.
pub fn merge(target: Option<&[u8]>, patch: &[u8]) -> Result<String> {
    let target = target.map(text).transpose()?;
    let mut out = String::new();
    merge_into(&mut out, target, text(patch)?)?;
    Ok(out)
}

fn text(canonical: &[u8]) -> Result<&str> {
    std::str::from_utf8(canonical).map_err(|error| Error::bad_json(error.valid_up_to(), "it is not UTF-8"))
}

fn members(object: &str) -> Result<Members<'_>> {
    serde_json::from_str(object).map_err(|_| Error::bad_json(0, "it is not an object"))
}

fn merge_into(out: &mut String, target: Option<&str>, patch: &str) -> Result<()> {
    if !patch.starts_with('{') {
        out.push_str(patch);
        return Ok(());
    }
    let mut merged = match target.filter(|target| target.starts_with('{')) {
        Some(target) => members(target)?,
        None => Members::new(),
    };
    let mut patched: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in members(patch)? {
        let before = merged.remove(&name);
        if value.get() != "null" {
            let mut inner = String::new();
            merge_into(&mut inner, before.map(RawValue::get), value.get())?;
            patched.insert(name, inner);
        }
    }
    let kept = merged.iter().map(|(name, value)| (name, value.get()));
    out.push('{');
    for (place, (name, value)) in
        kept.chain(patched.iter().map(|(name, value)| (name, value.as_str()))).enumerate()
    {
        if place > 0 {
            out.push(',');
        }
        let name = serde_json::to_string(name).map_err(|_| Error::bad_json(0, "a key cannot be written"))?;
        out.push_str(&name);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::canonicalize;

    fn merged(target: Option<&[u8]>, patch: &[u8]) -> Vec<u8> {
        canonicalize(merge(target, patch).unwrap().as_bytes()).unwrap()
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        let examples = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, expected) in examples {
            let merged = merged(Some(target.as_bytes()), patch.as_bytes());
            assert_eq!(String::from_utf8(merged).unwrap(), expected, "{target} patched with {patch}");
        }
        assert_eq!(merged(None, br#"{"a":null,"b":1}"#), br#"{"b":1}"#);
    }

    #[test]
    fn digits_and_escaped_keys_survive() {
        let target = br#"{"n":12345678901234567890123.5,"\n\"":{"x":1}}"#;
        let merged = merged(Some(target), br#"{"\n\"":{"y":1e400}}"#);
        let expected = canonicalize(br#"{"n":12345678901234567890123.5,"\n\"":{"x":1,"y":1e400}}"#).unwrap();
        assert_eq!(merged, expected);
    }
}
