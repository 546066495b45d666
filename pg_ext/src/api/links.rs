//! link, unlink, pause_link, resume_link, reconcile.

use super::arguments::given;
use crate::error::{Outcome, answer};
use crate::settings;
use crate::snapshot;
use crate::store;
use crate::worker::{
    Broken, Connection, Failed, Local, Refused, Remote, Report, Retried, Run, Task, Ways, begin, check,
    finish, is_preloaded, owner, retry, savepoint,
};
use pgrx::prelude::*;
use tandem_shared::Error;
use tandem_shared::digest::hex;
use tandem_shared::error::shown;
use tandem_shared::id::{Range, check_prefix};
use tandem_shared::request::page_limit;

/// Longest name of a link: it is part of a worker's name, which Postgres cuts at 96 bytes.
const NAME_BYTES_MAX: usize = 48;

fn check_choice(what: &str, value: &str, choices: &[&str]) -> Result<(), Error> {
    if choices.contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("{what} {}", shown(value)),
        "is not known",
        format!("give one of {}", choices.join(", ")),
    ))
}

fn no_link(name: &str) -> Error {
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
    check_every: default!(Option<Interval>, "NULL"),
) -> String {
    let name = name.unwrap_or("redis");
    answer((|| {
        let (url, mode) = (given("url", url)?, given("mode", mode)?);
        let (prefix, direction) = (given("prefix", prefix)?, given("direction", direction)?);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(|letter: char| letter.is_control())
        {
            return Err(Error::invalid(
                format!("link name {}", shown(name)),
                "is not usable",
                format!("give 1 to {NAME_BYTES_MAX} bytes without control characters"),
            )
            .into());
        }
        check_choice("mode", mode, &["mirror"])?;
        check_choice("direction", direction, &["both", "to_redis", "from_redis"])?;
        check_prefix(prefix)?;
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
                "INSERT INTO tandem.links (name, url, mode, prefix, direction, check_every, system_identifier) \
                 SELECT $1, $2, $3, $4, $5, $6, system_identifier FROM pg_control_system() \
                 ON CONFLICT (name) DO NOTHING RETURNING name",
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

/// Removes a link. True if it was there. Its worker detaches it in Redis.
#[pg_extern(volatile, parallel_unsafe)]
fn unlink(name: Option<&str>) -> bool {
    answer((|| {
        let name = given("name", name)?;
        store::refuse_read_only(c"tandem.unlink()");
        let removed = Spi::get_one_with_args::<i64>(
            "WITH gone AS (DELETE FROM tandem.links WHERE name = $1 RETURNING 1) SELECT count(*) FROM gone",
            &[name.into()],
        )?;
        Ok(removed == Some(1))
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
    let changed = Spi::get_one_with_args::<i64>(
        "WITH here AS (SELECT system_identifier AS cluster FROM pg_control_system()), \
         changed AS (UPDATE tandem.links l SET paused = $2, needs_check = needs_check OR l.system_identifier <> h.cluster, \
             system_identifier = CASE WHEN $2 THEN l.system_identifier ELSE h.cluster END \
             FROM here h WHERE name = $1 RETURNING 1) \
         SELECT count(*) FROM changed",
        &[name.into(), paused.into()],
    )?;
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

/// The caller's own transaction.
struct Within;

impl Local for Within {
    fn run<T>(&mut self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Broken> {
        pgrx::check_for_interrupts!();
        snapshot::of_this_moment_if_it_may(work).map_err(|failure| Broken(failure.to_string()))
    }

    fn attempt<T>(&mut self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
        pgrx::check_for_interrupts!();
        savepoint(work)
    }

    /// Its caller is told, and nothing has left its side.
    fn set_aside(&mut self, _: &str, _: Refused) -> Result<(), Broken> {
        Ok(())
    }

    /// Nobody would see it before the caller commits.
    fn tell(&mut self, _: &'static str, _: &Report) -> Result<(), Broken> {
        Ok(())
    }
}

type ReconcileRow = (String, i64, i64, i64, i64, i64, Vec<String>, i64, Option<String>);

/// Compares both sides of a link under a prefix, and unless `dry_run` mends what differs by joining both ways; at most
/// `max_rows` ids that differ. Errors: `NOLINK` where there is no such link, `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn reconcile(
    link: Option<&str>,
    prefix: default!(Option<&str>, "''"),
    dry_run: default!(Option<bool>, "false"),
    max_rows: default!(Option<i64>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(answer, String),
        name!(differences, i64),
        name!(repaired, i64),
        name!(ranges, i64),
        name!(rounds, i64),
        name!(bytes, i64),
        name!(ids, Vec<String>),
        name!(pending, i64),
        name!(reason, Option<String>),
    ),
> {
    let outcome = (|| {
        let (link, prefix) = (given("link", link)?, given("prefix", prefix)?);
        run_reconcile(link, prefix, given("dry_run", dry_run)?, max_rows)
    })();
    TableIterator::once(answer(outcome))
}

/// A link as `reconcile` needs it.
struct Linked {
    url: String,
    prefix: String,
    ways: Ways,
}

fn linked(name: &str) -> Outcome<Linked> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT url, prefix, direction FROM tandem.links WHERE name = $1",
            None,
            &[name.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Err(no_link(name).into()) };
        Ok(Linked {
            url: row.get(1)?.unwrap_or_default(),
            prefix: row.get(2)?.unwrap_or_default(),
            ways: Ways::of(row.get::<&str>(3)?.unwrap_or_default()),
        })
    })
}

fn run_reconcile(name: &str, prefix: &str, dry_run: bool, max_rows: Option<i64>) -> Outcome<ReconcileRow> {
    check_prefix(prefix)?;
    let ids_max = max_rows.map(|max| u64::try_from(max).ok().filter(|max| *max > 0).ok_or(max)).transpose();
    let ids_max = ids_max.map_err(|max| {
        Error::invalid(format!("max_rows {max}"), "is out of range", "give 1 or more, or NULL for no bound")
    })?;
    let linked = linked(name)?;
    let wanted = Range::of_prefix(prefix)?;
    let ranges = crate::worker::ranges(&linked.prefix)?.into_iter().map(|range| range.intersection(&wanted));
    let ranges = ranges.filter(|range| !range.is_empty()).collect();
    let ways = if dry_run { Ways::NONE } else { linked.ways };
    let task = Task { link: name, key: settings::digest_key(), ways, ids_max };
    let mut report = Report::default();
    if !dry_run {
        store::refuse_read_only(c"tandem.reconcile() that mends");
    }
    let owner = if dry_run { None } else { Some(owner()?) };
    let compared = (|| {
        let mut connection = Connection::open(&linked.url)?;
        if let Some(owner) = owner {
            Remote(&mut connection).attach(name, &hex(&task.key.check()), &owner)?;
        }
        check(&mut Within, &mut connection, &task, ranges, &mut report)
    })();
    if let Err(Broken(reason)) = compared {
        report.cut_short = Some(reason);
    }
    // Last, as a transaction that has written holds back the log for every link.
    record(&Run { link: name, kind: "reconcile", prefix, dry_run }, &report)?;
    Ok(row(report))
}

fn record(run: &Run<'_>, report: &Report) -> Outcome<()> {
    // SAFETY: plain reads of the backend's own state.
    if unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() } {
        return Ok(());
    }
    let run = begin(run)?;
    finish(run, report)
}

fn row(report: Report) -> ReconcileRow {
    let (verdict, reason) = report.verdict();
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    (
        verdict.as_str().to_owned(),
        number(report.differences),
        number(report.repaired),
        number(report.ranges),
        number(report.rounds),
        number(report.bytes),
        report.ids,
        number(report.in_flight),
        reason,
    )
}
