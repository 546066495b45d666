//! link, unlink, pause_link, resume_link, retry_dead_letters.

use super::arguments::given;
use crate::error::{Outcome, answer};
use crate::settings;
use crate::store;
use crate::worker::{Retried, is_preloaded, retry};
use pgrx::prelude::*;
use tandem_shared::Error;
use tandem_shared::error::shown;
use tandem_shared::link::{Scope, check_name};
use tandem_shared::request::page_limit;

/// There is no link of that name.
pub fn no_link(name: &str) -> Error {
    Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: "does not exist".to_owned(),
        remedy: "SELECT * FROM tandem.links() names those that do".to_owned(),
    }
}

fn check_worker() -> Outcome<()> {
    let unusable = |problem: String, remedy: &str| Error::NoLink {
        what: "tandem's worker".to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    if !is_preloaded() {
        return Err(unusable(
            "is not running: the library was not loaded when Postgres started".to_owned(),
            "add tandem to shared_preload_libraries and restart Postgres",
        )
        .into());
    }
    let database = Spi::get_one::<String>("SELECT current_database()::text")?.unwrap_or_default();
    if !settings::databases().contains(&database) {
        return Err(unusable(
            format!("does not serve database {}", shown(&database)),
            "add it to tandem.databases and restart Postgres",
        )
        .into());
    }
    Ok(())
}

/// Links this database with a Redis that has the module. Returns the link's name. Errors: `INVALID`, `EXISTS`,
/// `NOLINK` where the worker cannot run.
#[pg_extern(volatile, parallel_unsafe)]
fn link(
    url: Option<&str>,
    name: default!(Option<&str>, "NULL"),
    mode: default!(Option<&str>, "'mirror'"),
    prefix: default!(Option<&str>, "''"),
    direction: default!(Option<&str>, "'both'"),
    check_every: default!(Option<Interval>, "'1 day'"),
) -> String {
    let name = name.unwrap_or("redis");
    answer((|| {
        let (url, mode) = (given("url", url)?, given("mode", mode)?);
        let (prefix, direction) = (given("prefix", prefix)?, given("direction", direction)?);
        check_name(name)?;
        Scope::parse(prefix, mode, direction)?;
        if check_every.is_some_and(|pause| pause.as_micros() <= 0) {
            return Err(Error::invalid(
                "check_every",
                "is not a time that passes",
                "give an interval such as '10 minutes', or NULL for no schedule",
            )
            .into());
        }
        crate::worker::check_url(url)?;
        store::refuse_read_only(c"tandem.link()");
        check_worker()?;
        let made = Spi::connect_mut(|client| -> Outcome<bool> {
            let rows = client.update(
                "INSERT INTO tandem.links (name, url, mode, prefix, direction, check_every, system_identifier, database) \
                 SELECT $1, $2, $3, $4, $5, $6, c.system_identifier, d.oid \
                 FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d \
                 WHERE d.datname = pg_catalog.current_database() ON CONFLICT (name) DO NOTHING RETURNING name",
                None,
                &[name.into(), url.into(), mode.into(), prefix.into(), direction.into(), check_every.into()],
            )?;
            Ok(!rows.is_empty())
        })?;
        if !made {
            return Err(Error::invalid(
                format!("link name {}", shown(name)),
                "is taken",
                "unlink it first or give another name",
            )
            .into());
        }
        Ok(name.to_owned())
    })())
}

/// Removes a link. True if it was there. A worker detaches it in Redis as soon as that answers; with `force` nobody
/// tries, and Redis, if it still knows the link, keeps for it what is written there.
#[pg_extern(volatile, parallel_unsafe)]
fn unlink(name: Option<&str>, force: default!(Option<bool>, "false")) -> bool {
    const REMOVE: &str = "WITH gone AS (DELETE FROM tandem.links l WHERE l.name = $1 RETURNING l.name, l.url, l.run), \
        numbers AS (DELETE FROM tandem.joined j WHERE j.link = $1), \
        given_up AS (DELETE FROM tandem.unlinked u WHERE $2 AND u.name = $1 RETURNING 1), \
        noted AS (INSERT INTO tandem.unlinked (name, url, run) SELECT g.name, g.url, g.run FROM gone g WHERE NOT $2) \
        SELECT EXISTS (SELECT FROM gone) OR EXISTS (SELECT FROM given_up)";
    answer((|| {
        let name = given("name", name)?;
        store::refuse_read_only(c"tandem.unlink()");
        let args = [name.into(), force.unwrap_or(false).into()];
        Ok(Spi::get_one_with_args::<bool>(REMOVE, &args)? == Some(true))
    })())
}

/// Stops a link's streams; what is written meanwhile waits on its side. Errors: `NOLINK`.
#[pg_extern(volatile, parallel_unsafe)]
fn pause_link(name: Option<&str>) {
    answer(set_paused(name, true));
}

/// Lets a paused link go on. Errors: `NOLINK`.
#[pg_extern(volatile, parallel_unsafe)]
fn resume_link(name: Option<&str>) {
    answer(set_paused(name, false));
}

fn set_paused(name: Option<&str>, paused: bool) -> Outcome<()> {
    let name = given("name", name)?;
    store::refuse_read_only(c"a change of a link");
    const CHANGE: &str = "WITH here AS (SELECT c.system_identifier AS cluster, d.oid AS database \
            FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d \
            WHERE d.datname = pg_catalog.current_database()), \
        changed AS (UPDATE tandem.links l SET paused = $2, state = CASE WHEN $2 THEN 'paused' ELSE 'starting' END, \
                needs_check = l.needs_check \
                OR (l.system_identifier, l.database) IS DISTINCT FROM (h.cluster, h.database), \
            system_identifier = CASE WHEN $2 THEN l.system_identifier ELSE h.cluster END, \
            database = CASE WHEN $2 THEN l.database ELSE h.database END \
            FROM here h WHERE l.name = $1 RETURNING 1) \
        SELECT count(*) FROM changed";
    let changed = Spi::get_one_with_args::<i64>(CHANGE, &[name.into(), paused.into()])?;
    if changed == Some(1) { Ok(()) } else { Err(no_link(name).into()) }
}

/// Tries again what was set aside, of one link or of all, the oldest first and at most `lim`: what came from Redis is
/// joined now, what is to go there is pushed by the link's session. What succeeds is no dead letter any more.
/// Errors: `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
fn retry_dead_letters(
    link: default!(Option<&str>, "NULL"),
    lim: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(joined, i64), name!(requested, i64), name!(refused, i64))> {
    let outcome = (|| {
        let limit = page_limit(lim.or(Some(LETTERS)))?;
        store::refuse_read_only(c"tandem.retry_dead_letters()");
        let Retried { joined, requested, refused } = retry(link, limit as i64)?;
        Ok((joined, requested, refused))
    })();
    TableIterator::once(answer(outcome))
}

/// Letters tried again unless the caller says otherwise.
const LETTERS: i64 = 1000;
