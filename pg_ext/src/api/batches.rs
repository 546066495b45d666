//! All or nothing: put_many, delete_many, batch; and the bulk removals delete_state and delete_prefix.

use super::arguments::{JsonbText, Options, given};
use crate::error::{Outcome, answer};
use crate::planning::{self, select_kept};
use crate::settings;
use crate::store;
use pgrx::prelude::*;
use tandem_shared::batch;
use tandem_shared::id::check_id;
use tandem_shared::request::{Operation, PutRequest, RemoveRequest, bulk_limit};
use tandem_shared::{Audit, Error, Range, Result, State};

type Summary = (i64, i64, String);

/// Runs operations under one batch id, the one that the audit object names or a new one.
fn run(mut operations: Vec<(String, Operation)>, audit: Option<&Audit>) -> Outcome<Summary> {
    let given = audit.and_then(Audit::batch);
    let batch = given.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    batch::stamp(&mut operations, &batch)?;
    let done = store::run(operations)?;
    let written = done.iter().filter(|done| done.changed).count();
    Ok((written as i64, (done.len() - written) as i64, batch))
}

/// Runs operations of which each may have an audit object of its own.
fn run_with_audit(mut operations: Vec<(String, Operation)>, audit: Option<&str>) -> Outcome<Summary> {
    let audit = audit.map(Audit::new).transpose()?;
    if let Some(audit) = &audit {
        for (_, operation) in &mut operations {
            operation.audit_unless_given(audit);
        }
    }
    run(operations, audit.as_ref())
}

/// An element of an array of ids. Errors: `INVALID` with its place.
fn id_at(place: usize, id: Option<&str>) -> Result<&str> {
    let checked = given("id", id).and_then(|id| check_id(id).map(|()| id));
    checked.map_err(|error| error.at_item(place, id.unwrap_or_default()))
}

fn run_put_many(
    ids: Option<Array<'_, &str>>,
    payloads: Option<Array<'_, &str>>,
    options: &Options<'_>,
) -> Outcome<Summary> {
    let (ids, payloads) = (given("ids", ids)?, given("payloads", payloads)?);
    if ids.len() != payloads.len() {
        return Err(Error::invalid(
            format!("put_many of {} ids and {} payloads", ids.len(), payloads.len()),
            "does not pair up",
            "give one payload an id",
        )
        .into());
    }
    batch::check_count(ids.len())?;
    let bounds = settings::content_bounds();
    let audit = options.audit.map(Audit::new).transpose()?;
    let operations = options.with(|options| {
        let mut operations = Vec::with_capacity(ids.len());
        for (place, (id, payload)) in ids.iter().zip(payloads.iter()).enumerate() {
            let id = id_at(place, id)?;
            let request = given("payload", payload)
                .and_then(|payload| PutRequest::parse(payload.as_bytes(), options, bounds))
                .map_err(|error| error.at_item(place, id))?;
            operations.push((id.to_owned(), Operation::Put(request)));
        }
        Ok(operations)
    })?;
    run(operations, audit.as_ref())
}

/// Writes many items, all or none. Errors: as TANDEM.MPUT.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = r#"
CREATE FUNCTION tandem.put_many(ids text[], payloads text[], type text DEFAULT NULL, state text DEFAULT NULL,
    audit text DEFAULT NULL, local boolean DEFAULT false)
RETURNS TABLE (written bigint, unchanged bigint, batch text)
VOLATILE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#
)]
fn put_many(
    ids: Option<Array<'_, &str>>,
    payloads: Option<Array<'_, &str>>,
    content_type: Option<&str>,
    state: Option<&str>,
    audit: Option<&str>,
    local: Option<bool>,
) -> TableIterator<'static, (name!(written, i64), name!(unchanged, i64), name!(batch, String))> {
    let options = Options { content_type, state, audit, local, ..Options::default() };
    TableIterator::once(answer(run_put_many(ids, payloads, &options)))
}

/// Writes many items, each with options of its own, all or none. Errors: as those of batch.
#[pg_extern(volatile, parallel_unsafe, name = "put_many")]
fn put_many_jsonb(
    items: Option<JsonbText>,
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(written, i64), name!(unchanged, i64), name!(batch, String))> {
    let outcome = (|| {
        let items = given("items", items)?;
        run_with_audit(batch::items(items.as_bytes(), settings::content_bounds())?, audit)
    })();
    TableIterator::once(answer(outcome))
}

/// Deletes many items, all or none. Errors: as TANDEM.MREMOVE.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_many(
    ids: Option<Array<'_, &str>>,
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(written, i64), name!(unchanged, i64), name!(batch, String))> {
    let outcome = (|| {
        let ids = given("ids", ids)?;
        batch::check_count(ids.len())?;
        let request = RemoveRequest::parse(None, None, audit)?;
        let remove = |(place, id)| Ok((id_at(place, id)?.to_owned(), Operation::Remove(request.clone())));
        let operations = ids.iter().enumerate().map(remove).collect::<Result<Vec<_>>>()?;
        run(operations, request.audit.as_ref())
    })();
    TableIterator::once(answer(outcome))
}

/// Runs put, merge, delete and set_state in order, all or none. Errors: as TANDEM.BATCH.
#[pg_extern(volatile, parallel_unsafe)]
fn batch(
    ops: Option<JsonbText>,
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(written, i64), name!(unchanged, i64), name!(batch, String))> {
    let outcome = (|| {
        let ops = given("ops", ops)?;
        run_with_audit(batch::operations(ops.as_bytes(), settings::content_bounds())?, audit)
    })();
    TableIterator::once(answer(outcome))
}

/// Items removed by one step of a bulk removal, whose heads are in memory together.
const REMOVAL_STEP: usize = 5_000;

const OF_STATE: &str = "SELECT i.id FROM tandem.items i WHERE (i.state, i.id) > ($1, $2) AND i.state <= $1 \
    ORDER BY i.state, i.id LIMIT $3";

const OF_PREFIX: &str = "SELECT i.id FROM tandem.items i \
    WHERE i.id >= $1 AND i.id > $2 AND i.id < tandem.range_end($1) ORDER BY i.id LIMIT $3";

/// Removes what a query finds, in pages in byte order. Returns how many.
fn remove_found(query: &'static str, of: &str, limit: Option<i64>, audit: Option<&str>) -> Outcome<i64> {
    let limit = bulk_limit(limit)?.unwrap_or(usize::MAX);
    let request = RemoveRequest::parse(None, None, audit)?;
    let (mut removed, mut last) = (0, String::new());
    while removed < limit {
        let step = REMOVAL_STEP.min(limit - removed);
        let ids = planning::by_index(|| {
            Spi::connect(|client| -> Outcome<Vec<String>> {
                let args = [of.into(), last.as_str().into(), (step as i64).into()];
                let mut ids = Vec::new();
                for row in select_kept(client, query, &args)? {
                    ids.extend(row.get::<String>(1)?);
                }
                Ok(ids)
            })
        })?;
        let Some(end) = ids.last() else { break };
        last.clone_from(end);
        let operations = ids.into_iter().map(|id| (id, Operation::Remove(request.clone()))).collect();
        removed += store::run(operations)?.iter().filter(|done| done.changed).count();
    }
    Ok(removed as i64)
}

/// Removes the items of a state. Returns how many. Errors: as TANDEM.STATE REMOVE.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_state(
    state: Option<&str>,
    lim: default!(Option<i64>, "NULL"),
    audit: default!(Option<&str>, "NULL"),
) -> i64 {
    answer((|| {
        let state = State::new(given("state", state)?)?;
        remove_found(OF_STATE, state.as_str(), lim, audit)
    })())
}

/// Removes the items below a prefix. Returns how many. Errors: as TANDEM.REMOVEPREFIX.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_prefix(
    prefix: Option<&str>,
    lim: default!(Option<i64>, "NULL"),
    audit: default!(Option<&str>, "NULL"),
) -> i64 {
    answer((|| {
        let range = Range::of_prefix(given("prefix", prefix)?)?;
        remove_found(OF_PREFIX, &range.start, lim, audit)
    })())
}
