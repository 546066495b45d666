//! reconcile and reconcile_peers: a check of two sides inside its caller's transaction.

use super::arguments::given;
use super::links::no_link;
use crate::error::{Outcome, answer};
use crate::settings;
use crate::snapshot;
use crate::store;
use crate::worker::{
    Attach, Books, Broken, Database, Failed, Here, Local, Peer, Refused, Report, Run, Shards, Task, Ways,
    begin, check, check_held, config_of, finish, is_postgres, key_check, name_of, owner, redis_name,
    savepoint,
};
use pgrx::prelude::*;
use tandem_shared::error::shown;
use tandem_shared::id::{Range, check_prefix};
use tandem_shared::link::{LOCAL, Scope};
use tandem_shared::{Error, Revision};
use tokio_postgres::Config;

/// The caller's own transaction.
#[derive(Clone, Copy)]
pub struct Within;

impl Local for Within {
    fn run<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Broken> {
        pgrx::check_for_interrupts!();
        snapshot::of_this_moment_if_it_may(work).map_err(|failure| Broken(failure.to_string()))
    }

    fn attempt<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
        pgrx::check_for_interrupts!();
        savepoint(work)
    }
}

impl Books for Within {
    /// Its caller is told, and nothing has left its side.
    fn set_aside(&mut self, _: Refused) -> Result<(), Broken> {
        Ok(())
    }

    /// Nobody would see it before the caller commits.
    fn tell(&mut self, _: &'static str, _: &Report) -> Result<(), Broken> {
        Ok(())
    }

    fn keep_loser(&mut self, id: &str, loser: &Revision) -> Result<(), Broken> {
        self.run(|| store::keep_loser(id, loser))
    }
}

/// A side as its caller names it.
enum Side {
    Here,
    /// The Redis of a link.
    Link(Linked),
    Redis(String),
    Postgres(Box<Config>),
}

struct Linked {
    name: String,
    url: String,
    run: String,
    scope: Scope,
}

fn linked(name: &str) -> Outcome<Linked> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT url, prefix, direction, mode, run FROM tandem.links WHERE name = $1",
            None,
            &[name.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Err(no_link(name).into()) };
        let word = |place: usize| Outcome::Ok(row.get::<String>(place)?.unwrap_or_default());
        Ok(Linked {
            name: name.to_owned(),
            url: row.get(1)?.unwrap_or_default(),
            scope: Scope::parse(&word(2)?, &word(4)?, &word(3)?)?,
            run: row.get(5)?.unwrap_or_default(),
        })
    })
}

impl Side {
    fn of(text: &str) -> Outcome<Side> {
        if text == LOCAL {
            Ok(Side::Here)
        } else if is_postgres(text) {
            Ok(Side::Postgres(Box::new(config_of(text)?)))
        } else if text.contains("://") {
            crate::worker::check_url(text)?;
            Ok(Side::Redis(text.to_owned()))
        } else {
            Ok(Side::Link(linked(text)?))
        }
    }

    fn is_redis(&self) -> bool {
        matches!(self, Side::Link(_) | Side::Redis(_))
    }

    /// What the books call it; no password is in it.
    fn name(&self) -> String {
        match self {
            Side::Here => LOCAL.to_owned(),
            Side::Link(link) => link.name.clone(),
            Side::Redis(url) => redis_name(url),
            Side::Postgres(config) => name_of(config),
        }
    }

    /// Connects. `link` is the link whose two sides are compared, if they are; else this side joins on behalf of
    /// `origin`.
    fn open<'a>(
        &self,
        link: Option<&'a str>,
        origin: &'a str,
        dry_run: bool,
    ) -> Result<Box<dyn Peer + 'a>, Broken> {
        Ok(match self {
            Side::Here => Box::new(Here { local: Within, link, origin: link.unwrap_or(origin) }),
            Side::Link(Linked { url, run, scope, .. }) => {
                let attach = if dry_run {
                    Attach::Not
                } else {
                    let owner = owner().map_err(|failure| Broken(failure.to_string()))?;
                    Attach::As { owner, scope: scope.clone(), is_check: true }
                };
                Box::new(Shards::open(url, &Shards::addresses(run), link, attach)?)
            }
            Side::Redis(url) => Box::new(Shards::open(url, &[], None, Attach::Not)?),
            Side::Postgres(config) => Box::new(Database::open(config)?),
        })
    }
}

type ReconcileRow = (String, i64, i64, i64, i64, i64, Vec<String>, i64, Option<String>);

/// Compares both sides of a link, or this Postgres and a peer (a URL), under a prefix, and unless `dry_run` mends
/// what differs by joining both ways; at most `max_rows` ids that differ. Errors: `NOLINK` where there is no such
/// link or the digest secrets differ, `INVALID`.
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
        let asked = Asked::new(prefix, dry_run, max_rows)?;
        compare(Side::Here, Side::of(given("link", link)?)?, &asked)
    })();
    TableIterator::once(answer(outcome))
}

/// The same of two peers, each a URL, the name of a link (for its Redis), or `local` for this Postgres, which runs the
/// check. Errors: as `reconcile`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn reconcile_peers(
    left: Option<&str>,
    right: Option<&str>,
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
        let asked = Asked::new(prefix, dry_run, max_rows)?;
        let (left, right) = (given("left", left)?, given("right", right)?);
        if left == right {
            return Err(Error::invalid("right", "is the same peer as left", "name two").into());
        }
        compare(Side::of(left)?, Side::of(right)?, &asked)
    })();
    TableIterator::once(answer(outcome))
}

/// What the caller wants of a check.
struct Asked<'a> {
    prefix: &'a str,
    range: Range,
    dry_run: bool,
    ids_max: Option<u64>,
}

impl<'a> Asked<'a> {
    fn new(prefix: Option<&'a str>, dry_run: Option<bool>, max_rows: Option<i64>) -> Outcome<Asked<'a>> {
        let prefix = given("prefix", prefix)?;
        check_prefix(prefix)?;
        let ids_max = max_rows.map(|max| u64::try_from(max).ok().filter(|max| *max > 0).ok_or(max));
        let ids_max = ids_max.transpose().map_err(|max| {
            Error::invalid(
                format!("max_rows {max}"),
                "is out of range",
                "give 1 or more, or NULL for no bound",
            )
        })?;
        let range = Range::of_prefix(prefix)?;
        Ok(Asked { prefix, range, dry_run: given("dry_run", dry_run)?, ids_max })
    }
}

fn compare(left: Side, right: Side, asked: &Asked<'_>) -> Outcome<ReconcileRow> {
    if !asked.dry_run {
        store::refuse_read_only(c"a check that mends");
    }
    // Of a Postgres and a Redis the Postgres is on the left: what is pulled and what is pushed then says the same
    // whoever is named first.
    let (left, right) = if left.is_redis() && !right.is_redis() { (right, left) } else { (left, right) };
    let names = if !left.is_redis() && right.is_redis() { ("postgres", "redis") } else { ("left", "right") };
    let link = match (&left, &right) {
        (Side::Here, Side::Link(link)) => Some(link),
        _ => None,
    };
    let (mirrored, cached) = match link {
        Some(link) => link.scope.ranges(),
        None => (vec![Range::all()], None),
    };
    let wanted = |range: Range| Some(range.intersection(&asked.range)).filter(|range| !range.is_empty());
    let (mirrored, cached) = (mirrored.into_iter().filter_map(wanted).collect(), cached.and_then(wanted));
    let ways = match (asked.dry_run, link) {
        (true, _) => Ways::NONE,
        (false, Some(link)) => Ways::of(&link.scope),
        (false, None) => Ways::BOTH,
    };
    let name = match &left {
        Side::Here => right.name(),
        _ => format!("{} <> {}", left.name(), right.name()),
    };
    let task = Task { key: settings::digest_key(), ways, ids_max: asked.ids_max, names };
    let mut report = Report::default();
    let compared = (|| {
        let link = link.map(|link| link.name.as_str());
        let mut left = left.open(link, &name, asked.dry_run)?;
        let mut right = right.open(link, &name, asked.dry_run)?;
        for (peer, place) in [(&mut left, "left"), (&mut right, "right")] {
            if !peer.has_key(&key_check())? {
                return Ok(Err(secrets_differ(&name, place)));
            }
        }
        check(left.as_mut(), right.as_mut(), &task, mirrored, &mut report, &mut Within)?;
        if let Some(range) = cached {
            check_held(left.as_mut(), right.as_mut(), &task, range, &mut report, &mut Within)?;
        }
        Ok(Ok(()))
    })();
    match compared {
        Ok(done) => done?,
        Err(Broken(reason)) => report.cut_short = Some(reason),
    }
    // Last, as a transaction that has written holds back the log for every link.
    record(&Run { link: &name, kind: "reconcile", prefix: asked.prefix, dry_run: asked.dry_run }, &report)?;
    Ok(row(report))
}

fn secrets_differ(name: &str, place: &str) -> Error {
    Error::NoLink {
        what: format!("check with {}", shown(name)),
        problem: format!("the digest secret of the {place} side differs from that of this Postgres"),
        remedy: "give tandem.digest-secret in Redis and the file that tandem.digest_secret_file names in Postgres one value"
            .to_owned(),
    }
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
