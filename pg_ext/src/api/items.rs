//! put, put_binary, put_many, delete, apply.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::store::{self, Done, Operation};
use pgrx::prelude::*;
use tandem_shared::id::check_id;
use tandem_shared::request::{PutOptions, PutRequest, RemoveRequest};
use tandem_shared::{ContentType, Error};

type PutRow = (i64, Option<String>, Option<String>, bool);

fn put_row(done: Done) -> PutRow {
    (done.version as i64, done.etag, done.hash, done.changed)
}

#[allow(clippy::too_many_arguments, reason = "the SQL function has these arguments")]
fn put_content(
    id: &str,
    payload: &[u8],
    content_type: ContentType,
    version: Option<i64>,
    state: Option<&str>,
    if_match: Option<&str>,
    if_absent: bool,
    audit: Option<&str>,
) -> Outcome<PutRow> {
    check_id(id)?;
    let version = version.map(|version| version.to_string());
    let options = PutOptions {
        content_type: Some(content_type),
        state,
        version: version.as_deref(),
        if_match,
        if_absent,
        audit,
        local: false,
    };
    let request = PutRequest::parse(payload, &options, settings::content_bytes_max())?;
    one(id, Operation::Put(request)).map(put_row)
}

fn one(id: &str, operation: Operation) -> Outcome<Done> {
    let done = store::run(vec![(id.to_owned(), operation)])?.pop();
    done.ok_or_else(|| Error::corrupt("batch", "it gave no answer").into())
}

/// Writes an item whose content is JSON text. Errors: as TANDEM.PUT.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn put(
    id: &str,
    payload: &str,
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(bool, "false"),
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let json = ContentType::Json;
    TableIterator::once(answer(put_content(
        id,
        payload.as_bytes(),
        json,
        version,
        state,
        if_match,
        if_absent,
        audit,
    )))
}

/// Writes an item whose content is any bytes. Errors: as TANDEM.PUT … BINARY.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn put_binary(
    id: &str,
    payload: &[u8],
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(bool, "false"),
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let binary = ContentType::Binary;
    TableIterator::once(answer(put_content(id, payload, binary, version, state, if_match, if_absent, audit)))
}

/// Writes many JSON items, all or none; one result an id, in order. An error names the item that is refused.
#[pg_extern(volatile, parallel_unsafe)]
fn put_many(
    ids: Vec<Option<String>>,
    payloads: Vec<Option<String>>,
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let outcome = (|| -> Outcome<Vec<PutRow>> {
        if ids.len() != payloads.len() {
            return Err(Error::invalid(
                format!("put_many of {} ids and {} payloads", ids.len(), payloads.len()),
                "does not pair up",
                "give one payload an id",
            )
            .into());
        }
        let mut operations = Vec::with_capacity(ids.len());
        for (place, (id, payload)) in ids.into_iter().zip(payloads).enumerate() {
            let id = id.unwrap_or_default();
            let payload = payload.unwrap_or_default();
            let request = check_id(&id).and_then(|()| {
                PutRequest::parse(payload.as_bytes(), &PutOptions::default(), settings::content_bytes_max())
            });
            let request = request.map_err(|error| error.at_item(place, &id))?;
            operations.push((id, Operation::Put(request)));
        }
        Ok(store::run(operations)?.into_iter().map(put_row).collect())
    })();
    TableIterator::new(answer(outcome))
}

/// Deletes an item and leaves a tombstone. True if it was there. Errors: as TANDEM.REMOVE.
#[pg_extern(volatile, parallel_unsafe)]
fn delete(id: &str, if_match: default!(Option<&str>, "NULL"), audit: default!(Option<&str>, "NULL")) -> bool {
    answer((|| {
        check_id(id)?;
        Ok(one(id, Operation::Remove(RemoveRequest::parse(None, if_match, audit)?))?.changed)
    })())
}

/// Joins an encoded revision: `applied`, `unchanged` or `stale`. Errors: `INVALID`, `CORRUPT`.
#[pg_extern(volatile, parallel_unsafe)]
fn apply(id: &str, revision: &[u8]) -> &'static str {
    answer((|| {
        check_id(id)?;
        let joined = one(id, Operation::Apply(store::decode(revision)?))?.joined;
        Ok(joined.map_or("unchanged", |joined| joined.as_str()))
    })())
}

extension_sql!(
    r#"
CREATE FUNCTION tandem.put(id text, payload jsonb, version bigint DEFAULT NULL, state text DEFAULT NULL,
    if_match text DEFAULT NULL, if_absent boolean DEFAULT false, audit text DEFAULT NULL)
RETURNS TABLE (version bigint, etag text, hash text, changed boolean) LANGUAGE sql VOLATILE AS $$
    SELECT * FROM tandem.put($1, $2::text, $3, $4, $5, $6, $7)
$$;
"#,
    name = "put_jsonb",
    requires = [put]
);
