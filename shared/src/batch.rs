//! Batches as JSON (docs/surface.md): an array of operations, read into the types of [`crate::request`].

use crate::content::{Bounds, ContentType, measure};
use crate::error::{Error, Result};
use crate::id::check_id;
use crate::limits::{BATCH_ITEMS_MAX, JSON_DEPTH_MAX};
use crate::request::{MergeRequest, Operation, PutOptions, PutRequest, RemoveRequest, StateRequest};
use base64::Engine;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Levels of nesting around a content: the array and the element.
const WRAPPING: usize = 2;

/// One element of the array. What an operation does not take must be absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Element<'a> {
    #[serde(borrow, default)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    patch: Option<&'a RawValue>,
    #[serde(borrow, default)]
    version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    if_match: Option<Cow<'a, str>>,
    #[serde(default)]
    if_absent: bool,
    #[serde(borrow, default)]
    audit: Option<&'a RawValue>,
    #[serde(default)]
    local: bool,
}

/// `null` is a value like any other here, and not a member left out.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads the operations of a batch: put, merge, delete and set_state, in order.
///
/// Errors: `BADJSON`; `INVALID` for what is not an array of operations; of an operation its own error, with its
/// place and id.
pub fn operations(json: &[u8], bounds: Bounds) -> Result<Vec<(String, Operation)>> {
    read(json, None, bounds)
}

/// Reads the items of a put_many: as [`operations`], with `op` left out.
pub fn items(json: &[u8], bounds: Bounds) -> Result<Vec<(String, Operation)>> {
    read(json, Some("put"), bounds)
}

/// Checks the number of operations. Errors: `INVALID`.
pub fn check_count(count: usize) -> Result<()> {
    if count <= BATCH_ITEMS_MAX {
        return Ok(());
    }
    Err(Error::invalid(
        format!("batch of {count} operations"),
        format!("has more than {BATCH_ITEMS_MAX}"),
        "split it",
    ))
}

/// Names the batch in every operation and gives those without one the batch's own audit object.
/// Errors: `TOOLARGE`, with place and id.
pub fn stamp(operations: &mut [(String, Operation)], batch: &str) -> Result<()> {
    for (place, (id, operation)) in operations.iter_mut().enumerate() {
        operation.stamp(batch).map_err(|error| error.at_item(place, id))?;
    }
    Ok(())
}

fn read(json: &[u8], only: Option<&str>, bounds: Bounds) -> Result<Vec<(String, Operation)>> {
    // The canonical form settles what JSON is, duplicate keys included, before another reader sees it.
    let measured = measure(json, JSON_DEPTH_MAX + WRAPPING);
    let canonical = measured.map_err(|error| error.in_json_of("the batch"))?.bytes;
    let elements: Vec<&RawValue> = serde_json::from_slice(&canonical)
        .map_err(|_| Error::invalid("batch", "is not an array", "give an array of objects"))?;
    check_count(elements.len())?;
    let read_one = |(place, raw): (usize, &RawValue)| {
        let element: Element<'_> =
            serde_json::from_str(raw.get()).map_err(|error| unusable(place, raw, &error))?;
        let id = element.id.clone().into_owned();
        operation(element, only, bounds)
            .map(|operation| (id.clone(), operation))
            .map_err(|error| error.at_item(place, &id))
    };
    elements.into_iter().enumerate().map(read_one).collect()
}

/// An element that is no operation, with its id if that much can be read of it.
fn unusable(place: usize, raw: &RawValue, error: &serde_json::Error) -> Error {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    let text = error.to_string();
    let problem = format!("is not usable: {}", text.split(" at line ").next().unwrap_or_default());
    match serde_json::from_str::<Named<'_>>(raw.get()) {
        Ok(named) => Error::invalid("operation", problem, USAGE).at_item(place, &named.id),
        Err(_) => Error::invalid(format!("item {place} of the batch"), problem, USAGE),
    }
}

const USAGE: &str = "give objects such as {\"op\":\"put\",\"id\":…,\"payload\":…}";

fn operation(element: Element<'_>, only: Option<&str>, bounds: Bounds) -> Result<Operation> {
    check_id(&element.id)?;
    let op = match (element.op.as_deref(), only) {
        (Some(op), Some(only)) if op != only => {
            return Err(Error::invalid(format!("op '{op}'"), "is not possible here", "leave it out"));
        }
        (Some(op), _) | (None, Some(op)) => op,
        (None, None) => {
            return Err(Error::invalid("op", "is missing", "give put, merge, delete or set_state"));
        }
    };
    let version = element.version.map(RawValue::get);
    let audit = element.audit.map(RawValue::get);
    let (state, if_match) = (element.state.as_deref(), element.if_match.as_deref());
    let if_absent = element.if_absent;
    let options =
        PutOptions { content_type: None, state, version, if_match, if_absent, audit, local: element.local };
    let foreign: &[(&str, bool)] = &match op {
        "put" => [("patch", element.patch.is_some()), ("", false), ("", false), ("", false)],
        "merge" => [
            ("payload", element.payload.is_some()),
            ("payload_base64", element.payload_base64.is_some()),
            ("local", element.local),
            ("", false),
        ],
        "delete" => [
            ("payload", element.payload.is_some() || element.payload_base64.is_some()),
            ("patch", element.patch.is_some()),
            ("state", state.is_some()),
            ("if_absent or local", if_absent || element.local),
        ],
        "set_state" => [
            ("payload", element.payload.is_some() || element.payload_base64.is_some()),
            ("patch", element.patch.is_some()),
            ("version", version.is_some()),
            ("if_absent or local", if_absent || element.local),
        ],
        other => {
            return Err(Error::invalid(
                format!("op {}", crate::error::shown(other)),
                "is not known",
                "give put, merge, delete or set_state",
            ));
        }
    };
    if let Some((name, _)) = foreign.iter().find(|(_, given)| *given) {
        return Err(Error::invalid(format!("member {name}"), format!("does not belong to {op}"), USAGE));
    }
    match op {
        "put" => {
            let (payload, content_type) = payload(&element)?;
            let options = PutOptions { content_type: Some(content_type), ..options };
            PutRequest::parse(&payload, &options, bounds).map(Operation::Put)
        }
        "merge" => {
            let patch = element.patch.ok_or_else(|| missing("patch"))?;
            MergeRequest::parse(patch.get().as_bytes(), &options, bounds).map(Operation::Merge)
        }
        "delete" => RemoveRequest::parse(version, if_match, audit).map(Operation::Remove),
        _ => {
            let state = state.ok_or_else(|| missing("state"))?;
            StateRequest::parse(state, None, if_match, audit).map(Operation::SetState)
        }
    }
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("member {name}"), "is missing", USAGE)
}

fn payload<'a>(element: &Element<'a>) -> Result<(Cow<'a, [u8]>, ContentType)> {
    match (element.payload, &element.payload_base64) {
        (Some(json), None) => Ok((json.get().as_bytes().into(), ContentType::Json)),
        (None, Some(base64)) => {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(base64.as_ref()).map_err(|error| {
                    Error::invalid(
                        "payload_base64",
                        format!("is not base64: {error}"),
                        "encode it (RFC 4648)",
                    )
                })?;
            Ok((bytes.into(), ContentType::Binary))
        }
        (None, None) => Err(missing("payload")),
        (Some(_), Some(_)) => {
            Err(Error::invalid("payload", "is given twice", "give one of payload and payload_base64"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const BOUNDS: Bounds = Bounds { content_bytes: 1000, printed_bytes: 2000 };

    fn refused(json: &str) -> Error {
        operations(json.as_bytes(), BOUNDS).expect_err(json)
    }

    #[test]
    fn all_four_operations_are_read() {
        let read = operations(
            br#"[{"op":"put","id":"a","payload":{"n":1.50,"d":12345678901234567890123},"version":7,"local":true},
                 {"op":"put","id":"b","payload_base64":"AP8=","state":"hot"},
                 {"op":"merge","id":"a","patch":{"n":null},"audit":{"home":"x"}},
                 {"op":"delete","id":"b","version":9},
                 {"op":"set_state","id":"a","state":"cold"}]"#,
            BOUNDS,
        )
        .unwrap();
        assert_eq!(read.len(), 5);
        let Operation::Put(put) = &read[0].1 else { panic!() };
        assert_eq!(put.content.bytes(), br#"{"d":12345678901234567890123,"n":1.5}"#);
        assert!(put.local && put.version.unwrap().get() == 7);
        let Operation::Put(put) = &read[1].1 else { panic!() };
        assert_eq!((put.content.bytes(), put.content.content_type()), (&[0, 255][..], ContentType::Binary));
        let deep = format!("{}{}", "[".repeat(JSON_DEPTH_MAX), "]".repeat(JSON_DEPTH_MAX));
        let wrapped = |deep: &str| format!(r#"[{{"op":"put","id":"a","payload":{deep}}}]"#);
        assert!(operations(wrapped(&deep).as_bytes(), BOUNDS).is_ok());
        assert_eq!(refused(&wrapped(&format!("[{deep}]"))).code(), Code::BadJson);
        let null = operations(br#"[{"op":"put","id":"a","payload":null}]"#, BOUNDS).unwrap();
        assert!(matches!(&null[0].1, Operation::Put(put) if put.content.bytes() == b"null"));
        assert!(matches!(&read[3].1, Operation::Remove(remove) if remove.version.unwrap().get() == 9));
    }

    #[test]
    fn refusals_name_place_and_id() {
        let error =
            refused(r#"[{"op":"put","id":"a","payload":1},{"op":"put","id":"b","payload":1,"version":0}]"#);
        assert_eq!(error.code(), Code::Invalid);
        assert!(error.to_string().starts_with("item 1 of the batch ('b'): version 0"), "{error}");
        for json in [
            "{}",
            "[1]",
            r#"[{"op":"put","payload":1}]"#,
            r#"[{"op":"fly","id":"a"}]"#,
            r#"[{"id":"a","payload":1}]"#,
            r#"[{"op":"put","id":"a"}]"#,
            r#"[{"op":"put","id":"","payload":1}]"#,
            r#"[{"op":"put","id":"a","payload":1,"color":2}]"#,
            r#"[{"op":"put","id":"a","payload":1,"payload_base64":""}]"#,
            r#"[{"op":"put","id":"a","payload_base64":"*"}]"#,
            r#"[{"op":"put","id":"a","payload":1,"patch":1}]"#,
            r#"[{"op":"delete","id":"a","if_absent":true}]"#,
            r#"[{"op":"set_state","id":"a","state":"x","version":3}]"#,
            r#"[{"op":"set_state","id":"a"}]"#,
            r#"[{"op":"merge","id":"a"}]"#,
        ] {
            assert_eq!(refused(json).code(), Code::Invalid, "{json}");
        }
        assert_eq!(refused("[").code(), Code::BadJson);
        let text = refused("[").to_string();
        assert!(text.starts_with("the batch is refused at byte 1") && !text.contains("BINARY"), "{text}");
        let text = refused("[1]").to_string();
        assert!(text.contains("expected an object") && !text.contains("struct"), "{text}");
        assert!(items(br#"[{"id":"a","payload":1}]"#, BOUNDS).is_ok());
        assert!(items(br#"[{"op":"delete","id":"a"}]"#, BOUNDS).is_err());
    }

    #[test]
    fn every_operation_is_stamped() {
        let mut read =
            operations(br#"[{"op":"delete","id":"a"},{"op":"merge","id":"b","patch":{}}]"#, BOUNDS).unwrap();
        stamp(&mut read, "67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        let Operation::Remove(remove) = &read[0].1 else { panic!() };
        assert!(remove.audit.as_ref().unwrap().batch().is_some());
    }
}
