//! Single items: put, put_binary, merge, delete, set_state, move_state, apply, touch.

use super::arguments::{JsonbText, Options, given, given_id};
use crate::error::{Failure, Outcome, answer};
use crate::planning::{self, select_kept, update_kept};
use crate::settings;
use crate::snapshot;
use crate::store::{self, Done};
use pgrx::prelude::*;
use tandem_shared::request::{MergeRequest, Operation, PutRequest, RemoveRequest, StateRequest};
use tandem_shared::{Digest, Error, PayloadHash};

type Written = (i64, Option<String>, Option<String>, bool);

fn written(done: Done) -> Written {
    let (etag, hash) = (done.digest.map(Digest::to_hex), done.payload_hash.map(PayloadHash::to_hex));
    (done.version as i64, etag, hash, done.changed)
}

fn run_put(id: Option<&str>, payload: Option<&[u8]>, options: &Options<'_>) -> Outcome<Written> {
    let (id, payload) = (given_id(id)?, given("payload", payload)?);
    let bounds = settings::content_bounds();
    let request = options.with(|options| PutRequest::parse(payload, options, bounds))?;
    store::run_one(id, Operation::Put(request)).map(written)
}

fn run_merge(id: Option<&str>, patch: Option<&[u8]>, options: &Options<'_>) -> Outcome<Written> {
    let (id, patch) = (given_id(id)?, given("patch", patch)?);
    let bounds = settings::content_bounds();
    let request = options.with(|options| MergeRequest::parse(patch, options, bounds))?;
    store::run_one(id, Operation::Merge(request)).map(written)
}

/// Writes an item whose content is text. Errors: as TANDEM.PUT.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = r#"
CREATE FUNCTION tandem.put(id text, payload text, version bigint DEFAULT NULL, state text DEFAULT NULL,
    if_match text DEFAULT NULL, if_absent boolean DEFAULT false, audit text DEFAULT NULL, type text DEFAULT NULL,
    local boolean DEFAULT false)
RETURNS TABLE (version bigint, etag text, hash text, changed boolean)
VOLATILE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION tandem.put(text, text, bigint, text, text, boolean, text, text, boolean) IS
    'writes an item; type json or binary, or detected';
"#
)]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn put(
    id: Option<&str>,
    payload: Option<&str>,
    version: Option<i64>,
    state: Option<&str>,
    if_match: Option<&str>,
    if_absent: Option<bool>,
    audit: Option<&str>,
    content_type: Option<&str>,
    local: Option<bool>,
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let options = Options { content_type, version, state, if_match, if_absent, audit, local };
    TableIterator::once(answer(run_put(id, payload.map(str::as_bytes), &options)))
}

/// Writes an item whose content is JSON. Errors: as TANDEM.PUT … JSON.
#[pg_extern(volatile, parallel_unsafe, name = "put")]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn put_jsonb(
    id: Option<&str>,
    payload: Option<JsonbText>,
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(Option<bool>, "false"),
    audit: default!(Option<&str>, "NULL"),
    local: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let content_type = Some("json");
    let options = Options { content_type, version, state, if_match, if_absent, audit, local };
    TableIterator::once(answer(run_put(id, payload.as_ref().map(JsonbText::as_bytes), &options)))
}

/// Writes an item whose content is any bytes. Errors: as TANDEM.PUT … BINARY.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn put_binary(
    id: Option<&str>,
    payload: Option<&[u8]>,
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(Option<bool>, "false"),
    audit: default!(Option<&str>, "NULL"),
    local: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let content_type = Some("binary");
    let options = Options { content_type, version, state, if_match, if_absent, audit, local };
    TableIterator::once(answer(run_put(id, payload, &options)))
}

/// Applies a JSON merge patch (RFC 7396). Errors: as TANDEM.MERGE.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn merge(
    id: Option<&str>,
    patch: Option<&str>,
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(Option<bool>, "false"),
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let options = Options { version, state, if_match, if_absent, audit, ..Options::default() };
    TableIterator::once(answer(run_merge(id, patch.map(str::as_bytes), &options)))
}

/// As merge with the patch as text.
#[pg_extern(volatile, parallel_unsafe, name = "merge")]
#[allow(clippy::too_many_arguments, reason = "SQL has named arguments with defaults")]
fn merge_jsonb(
    id: Option<&str>,
    patch: Option<JsonbText>,
    version: default!(Option<i64>, "NULL"),
    state: default!(Option<&str>, "NULL"),
    if_match: default!(Option<&str>, "NULL"),
    if_absent: default!(Option<bool>, "false"),
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let options = Options { version, state, if_match, if_absent, audit, ..Options::default() };
    TableIterator::once(answer(run_merge(id, patch.as_ref().map(JsonbText::as_bytes), &options)))
}

/// Deletes an item and leaves a tombstone. True if it was there. Errors: as TANDEM.REMOVE.
#[pg_extern(volatile, parallel_unsafe)]
fn delete(
    id: Option<&str>,
    if_match: default!(Option<&str>, "NULL"),
    audit: default!(Option<&str>, "NULL"),
    version: default!(Option<i64>, "NULL"),
) -> bool {
    answer((|| {
        let id = given_id(id)?;
        let version = version.map(|version| version.to_string());
        let request = RemoveRequest::parse(version.as_deref(), if_match, audit)?;
        Ok(store::run_one(id, Operation::Remove(request))?.changed)
    })())
}

/// Changes the state and leaves the content. Errors: as TANDEM.STATE SET.
#[pg_extern(volatile, parallel_unsafe)]
fn set_state(
    id: Option<&str>,
    state: Option<&str>,
    if_match: default!(Option<&str>, "NULL"),
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let outcome = (|| {
        let id = given_id(id)?;
        let request = StateRequest::parse(given("state", state)?, None, if_match, audit)?;
        store::run_one(id, Operation::SetState(request)).map(written)
    })();
    TableIterator::once(answer(outcome))
}

/// Changes the state of an item that is in a given one. Errors: as TANDEM.STATE MOVE.
#[pg_extern(volatile, parallel_unsafe)]
fn move_state(
    id: Option<&str>,
    from_state: Option<&str>,
    to_state: Option<&str>,
    audit: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(version, i64), name!(etag, Option<String>), name!(hash, Option<String>), name!(changed, bool)),
> {
    let outcome = (|| {
        let id = given_id(id)?;
        let (from, to) = (given("from_state", from_state)?, given("to_state", to_state)?);
        let request = StateRequest::parse(to, Some(from), None, audit)?;
        store::run_one(id, Operation::SetState(request)).map(written)
    })();
    TableIterator::once(answer(outcome))
}

/// Joins an encoded revision: `applied`, `unchanged` or `stale`. Errors: `INVALID`, `CORRUPT`.
#[pg_extern(volatile, parallel_unsafe)]
fn apply(id: Option<&str>, revision: Option<&[u8]>) -> &'static str {
    answer((|| {
        let id = given_id(id)?;
        let revision = store::decode(given("revision", revision)?)?;
        let joined = store::run_one(id, Operation::Apply(revision))?.joined;
        Ok(joined.map_or("unchanged", |joined| joined.as_str()))
    })())
}

const TOUCH: &str = "UPDATE tandem.items i SET access_count = i.access_count + 1, last_accessed = now() \
    WHERE i.id = $1 RETURNING true";

/// Counts an access of an item. True if it exists. Its revision stays. Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn touch(id: Option<&str>) -> bool {
    answer((|| {
        let id = given_id(id)?;
        store::refuse_read_only(c"tandem.touch()");
        planning::by_index(|| {
            Spi::connect_mut(|client| Ok(!update_kept(client, TOUCH, &[id.into()])?.is_empty()))
        })
    })())
}

const STORED: &str = "SELECT tandem.item_of(i.id, i.version, i.\"timestamp\", i.state, i.payload, i.payload_blob, \
    i.payload_hash, i.audit) FROM tandem.items i WHERE i.id = $1";

type Item = PgHeapTuple<'static, pgrx::AllocatedByRust>;

/// The item as it is at this moment: what others have just written counts. A plain read, as a standby answers it, too.
fn stored(id: &str) -> Outcome<Option<Item>> {
    let read = || {
        Spi::connect(|client| {
            let rows = select_kept(client, STORED, &[id.into()])?;
            Ok(rows.into_iter().next().map(|row| row.get::<Item>(1)).transpose()?.flatten())
        })
    };
    snapshot::of_this_moment_if_it_may(|| planning::by_index(read))
}

/// Turns of who finds an item that is gone again when it is read. Nobody is that unlucky.
const TURNS_MAX: u32 = 100;

fn run_get_or_put(id: Option<&str>, payload: Option<&str>, options: &Options<'_>) -> Outcome<Item> {
    let (id, payload) = (given_id(id)?, given("payload", payload)?);
    let bounds = settings::content_bounds();
    let request = options.with(|options| PutRequest::parse(payload.as_bytes(), options, bounds))?;
    for turn in 1.. {
        if let Some(item) = stored(id)? {
            return Ok(item);
        }
        match store::run_one(id, Operation::Put(request.clone())) {
            // What another unique index of the table refuses is no item of this id, and ends the statement.
            Err(Failure::Rule(Error::Exists { .. })) if turn < TURNS_MAX => {}
            written => {
                written?;
            }
        }
    }
    Err(Error::corrupt("get_or_put", "it gave no answer").into())
}

/// The item, written first if there is none. Errors: as TANDEM.GETORPUT.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = r#"
CREATE FUNCTION tandem.get_or_put(id text, payload text, state text DEFAULT NULL, audit text DEFAULT NULL,
    type text DEFAULT NULL, local boolean DEFAULT false)
RETURNS tandem.item
VOLATILE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
COMMENT ON FUNCTION tandem.get_or_put IS 'the item, written first if there is none; of many callers at once exactly one writes';
"#
)]
fn get_or_put(
    id: Option<&str>,
    payload: Option<&str>,
    state: Option<&str>,
    audit: Option<&str>,
    content_type: Option<&str>,
    local: Option<bool>,
) -> pgrx::composite_type!('static, "tandem.item") {
    let if_absent = Some(true);
    let options = Options { content_type, state, if_absent, audit, local, ..Options::default() };
    answer(run_get_or_put(id, payload, &options))
}
