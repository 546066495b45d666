//! link, unlink, pause_link, resume_link, reconcile.

use crate::error::{Outcome, answer};
use crate::settings;
use crate::worker::{Connection, Remote, Report, Ways, check, is_preloaded};
use pgrx::prelude::*;
use tandem_shared::digest::hex;
use tandem_shared::error::shown;
use tandem_shared::id::{Range, check_prefix};
use tandem_shared::{DigestKey, Error};

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
    url: &str,
    name: default!(Option<&str>, "NULL"),
    mode: default!(&str, "'mirror'"),
    prefix: default!(&str, "''"),
    direction: default!(&str, "'both'"),
) -> String {
    let name = name.unwrap_or("redis");
    answer((|| {
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
        crate::worker::check_url(url)?;
        check_worker()?;
        let made = Spi::connect_mut(|client| -> Outcome<bool> {
            let rows = client.update(
                "INSERT INTO tandem.links (name, url, mode, prefix, direction, system_identifier) \
                 SELECT $1, $2, $3, $4, $5, system_identifier FROM pg_control_system() \
                 ON CONFLICT (name) DO NOTHING RETURNING name",
                None,
                &[name.into(), url.into(), mode.into(), prefix.into(), direction.into()],
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
fn unlink(name: &str) -> bool {
    answer((|| {
        let removed = Spi::get_one_with_args::<i64>(
            "WITH gone AS (DELETE FROM tandem.links WHERE name = $1 RETURNING 1) SELECT count(*) FROM gone",
            &[name.into()],
        )?;
        Ok(removed == Some(1))
    })())
}

/// Stops a link's streams; what is written meanwhile waits on its side. Errors: `NOLINK`.
#[pg_extern(volatile, parallel_unsafe)]
fn pause_link(name: &str) {
    answer(set_paused(name, true));
}

/// Lets a paused link go on. Errors: `NOLINK`.
#[pg_extern(volatile, parallel_unsafe)]
fn resume_link(name: &str) {
    answer(set_paused(name, false));
}

fn set_paused(name: &str, paused: bool) -> Outcome<()> {
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

/// The caller's own transaction.
struct Within;

impl crate::worker::Local for Within {
    fn run<T>(&mut self, work: impl FnOnce() -> Outcome<T>) -> Result<T, crate::worker::Broken> {
        work().map_err(|failure| crate::worker::Broken(failure.to_string()))
    }
}

type ReconcileRow = (String, i64, i64, i64, i64, i64, Vec<String>, i64, Option<String>);

/// Compares both sides of a link under a prefix, and unless `dry_run` mends what differs by joining both ways.
/// Errors: `NOLINK`, `INVALID`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn reconcile(
    link: &str,
    prefix: default!(&str, "''"),
    dry_run: default!(bool, "false"),
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
    TableIterator::once(answer(run_reconcile(link, prefix, dry_run)))
}

fn run_reconcile(link: &str, prefix: &str, dry_run: bool) -> Outcome<ReconcileRow> {
    check_prefix(prefix)?;
    let (url, linked, ways) = Spi::connect(|client| -> Outcome<(Option<String>, Option<String>, Ways)> {
        let rows = client.select(
            "SELECT url, prefix, direction FROM tandem.links WHERE name = $1",
            None,
            &[link.into()],
        )?;
        match rows.into_iter().next() {
            Some(row) => Ok((row.get(1)?, row.get(2)?, Ways::of(row.get::<&str>(3)?.unwrap_or_default()))),
            None => Err(no_link(link).into()),
        }
    })?;
    let ways = if dry_run { Ways::NONE } else { ways };
    let unreachable = |problem: String| Error::NoLink {
        what: format!("link {}", shown(link)),
        problem,
        remedy: "see that Redis runs with the module and retry".to_owned(),
    };
    let key = settings::digest_key();
    let mut connection =
        Connection::open(&url.unwrap_or_default()).map_err(|error| unreachable(error.to_string()))?;
    if !dry_run {
        Remote(&mut connection)
            .attach(link, &hex(&key.check()))
            .map_err(|error| unreachable(error.to_string()))?;
    }
    let wanted = Range::of_prefix(prefix)?;
    let mut report = Report::default();
    for range in crate::worker::ranges(&linked.unwrap_or_default())? {
        let range = range.intersection(&wanted);
        if !range.is_empty() {
            let part = compare(&mut connection, link, &key, range, ways).map_err(unreachable)?;
            add(&mut report, part);
        }
    }
    Ok(row(report, dry_run))
}

fn compare(
    connection: &mut Connection,
    link: &str,
    key: &DigestKey,
    range: Range,
    ways: Ways,
) -> Result<Report, String> {
    check(&mut Within, connection, link, key, range, ways).map_err(|error| error.to_string())
}

fn add(report: &mut Report, part: Report) {
    report.differences += part.differences;
    report.repaired += part.repaired;
    report.in_flight += part.in_flight;
    report.ranges += part.ranges;
    report.rounds += part.rounds;
    report.bytes += part.bytes;
    report.ids.extend(part.ids);
    report.refused.extend(part.refused);
}

fn row(report: Report, dry_run: bool) -> ReconcileRow {
    let left = if dry_run { report.differences } else { report.differences - report.repaired };
    let (answer, reason) = if left == 0 {
        ("equal", None)
    } else if dry_run && report.in_flight == report.differences {
        ("incomplete", Some(format!("all {} differing ids wait in Redis for the link", report.in_flight)))
    } else {
        let refused = report.refused.first().map(|(id, reason)| format!("{id}: {reason}"));
        ("differs", refused)
    };
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    (
        answer.to_owned(),
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
