//! A link as its processes see it: its row, what it carries, and what they note of it.

use super::repair::Ways;
use super::shards::Attach;
use crate::error::Outcome;
use crate::log::{self, Position};
use crate::planning::read_one;
use crate::snapshot;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use tandem_shared::error::shown;
use tandem_shared::link::Scope;
use tandem_shared::log::Snapshot;
use tandem_shared::owner::Owner;

/// A link's row.
#[derive(Clone)]
pub struct Link {
    /// Address of Redis.
    pub url: String,
    /// What it carries.
    pub scope: Scope,
    /// Who takes what from whom.
    pub ways: Ways,
    /// Redis has the log up to here.
    pub position: Position,
    /// A comparison is due.
    pub needs_check: bool,
    /// What Redis was at the last comparison.
    pub run: Option<String>,
    /// The schedule asks for a comparison.
    pub check_due: bool,
    /// Nothing is carried at present.
    pub is_paused: bool,
    /// Another one than before means that what the link is has changed.
    pub generation: i64,
    /// The sides are to be compared once more.
    pub compare_due: bool,
}

impl Link {
    /// Reads the row of a link; none if there is none.
    pub fn read(name: &str) -> Outcome<Option<Link>> {
        // The extension may be dropped, and its links with it.
        Spi::connect(|client| {
            let there = client.select("SELECT to_regclass('tandem.links') IS NOT NULL", None, &[])?;
            if there.first().get_one::<bool>()? != Some(true) {
                return Ok(None);
            }
            let rows = client.select(
                "SELECT l.url, l.prefix, l.direction, l.log_position, NULL, l.needs_check, l.run, l.paused, \
                    l.check_every + coalesce((SELECT max(c.started_at) FROM tandem.checks c \
                        WHERE c.link = l.name AND c.kind <> 'reconcile'), l.created_at) <= now(), \
                    l.mode, l.generation, l.compare_due \
                 FROM tandem.links l WHERE l.name = $1",
                None,
                &[name.into()],
            )?;
            let Some(row) = rows.into_iter().next() else { return Ok(None) };
            let word = |place: usize| Outcome::Ok(row.get::<String>(place)?.unwrap_or_default());
            let scope = Scope::parse(&word(2)?, &word(10)?, &word(3)?)?;
            Ok(Some(Link {
                url: word(1)?,
                ways: Ways::of(&scope),
                scope,
                position: Position::parse(&word(4)?)?,
                needs_check: row.get::<bool>(6)?.unwrap_or(true),
                run: row.get::<String>(7)?,
                check_due: row.get::<bool>(9)? == Some(true),
                is_paused: row.get::<bool>(8)? == Some(true),
                generation: row.get(11)?.unwrap_or(0),
                compare_due: row.get::<bool>(12)? == Some(true),
            }))
        })
    }

    /// The link's session as Redis is to know it.
    pub fn session(&self, owner: Owner) -> Attach {
        Attach::As { owner, scope: self.scope.clone(), is_check: false }
    }
}

/// Whether the log holds all that has come since a position. It may not where the link's row is older than the rest
/// of the database, as one that was restored.
pub fn is_covered(position: &Position) -> Outcome<bool> {
    let emptied = log::emptied()?;
    snapshot::of_this_moment(|| {
        let seen =
            read_one::<String>("SELECT pg_catalog.pg_current_snapshot()::text", &[])?.unwrap_or_default();
        let snapshot = Snapshot::parse(&seen)?;
        Ok(position.is_of(&snapshot) && !position.is_truncated(emptied, &snapshot))
    })
}

/// A link of which something is noted, as its session knows it.
#[derive(Debug, Clone, Copy)]
pub struct Noted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its generation; nothing is noted of another.
    pub generation: i64,
}

/// Changes columns of a link's row. `assignments` are SQL, and so literals of the caller's. False if the link is
/// another.
pub fn set(noted: Noted<'_>, assignments: &'static str) -> Outcome<bool> {
    let statement =
        format!("UPDATE tandem.links SET {assignments} WHERE name = $1 AND generation = $2 RETURNING true");
    changed(&statement, &[noted.name.into(), noted.generation.into()])
}

/// Whether the link is the one that its session knows.
pub fn is_current(noted: Noted<'_>) -> Outcome<bool> {
    let statement = "SELECT FROM tandem.links l WHERE l.name = $1 AND l.generation = $2 AND NOT l.paused";
    Spi::connect(|client| {
        Ok(!client.select(statement, None, &[noted.name.into(), noted.generation.into()])?.is_empty())
    })
}

/// Whether a statement has changed a row.
fn changed(statement: &str, args: &[DatumWithOid<'_>]) -> Outcome<bool> {
    Spi::connect_mut(|client| Ok(!client.update(statement, None, args)?.is_empty()))
}

/// Lets the transaction commit without waiting for the disk: what is noted then may be lost in a crash, and is
/// noted again.
fn commit_lazily() -> Outcome<()> {
    Ok(Spi::run("SET LOCAL synchronous_commit = off")?)
}

/// Notes how far Redis has the log, and that so many ids were pushed on the way. False if the link is another.
pub fn note_pushed(noted: Noted<'_>, position: &Position, count: usize) -> Outcome<bool> {
    commit_lazily()?;
    let statement = "UPDATE tandem.links SET log_position = $3, pushed = pushed + $4 \
        WHERE name = $1 AND generation = $2 RETURNING true";
    let args =
        [noted.name.into(), noted.generation.into(), position.to_string().into(), (count as i64).into()];
    changed(statement, &args)
}

/// Notes that both sides were compared, with Redis as `run` says, and what was logged up to a position with them.
/// False if the link is another.
pub fn note_compared(noted: Noted<'_>, run: &str, position: &Position) -> Outcome<bool> {
    let statement = "UPDATE tandem.links SET needs_check = false, compare_due = false, run = $3, log_position = $4 \
        WHERE name = $1 AND generation = $2 RETURNING true";
    let args = [noted.name.into(), noted.generation.into(), run.into(), position.to_string().into()];
    changed(statement, &args)
}

/// Notes that so many entries were pulled.
pub fn note_pulled(name: &str, count: usize) -> Outcome<()> {
    commit_lazily()?;
    Ok(Spi::run_with_args(
        "UPDATE tandem.links SET pulled = pulled + $2 WHERE name = $1",
        &[name.into(), (count as i64).into()],
    )?)
}

/// Notes what waits in Redis, and what of it is held here and why, if that has changed.
pub fn note_waiting(name: &str, count: u64, held: &[(&str, &str)]) -> Outcome<()> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let waits_for = match held {
        [] => None,
        [(id, reason), others @ ..] => {
            let holder = holder(id)?.map(|holder| format!(" ({holder})")).unwrap_or_default();
            let others =
                if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
            Some(format!("{}: {reason}{holder}{others}", shown(id)))
        }
    };
    const IS_NEW: &str = "SELECT EXISTS (SELECT FROM tandem.links l WHERE l.name = $1 \
        AND (l.redis_waiting, l.redis_waits_for) IS DISTINCT FROM ($2, $3))";
    let args = [name.into(), count.into(), waits_for.into()];
    if read_one::<bool>(IS_NEW, &args)? == Some(true) {
        Spi::run_with_args(
            "UPDATE tandem.links SET redis_waiting = $2, redis_waiting_since = CASE WHEN $2 > 0 \
                 THEN coalesce(redis_waiting_since, now()) END, redis_waits_for = $3 WHERE name = $1",
            &args,
        )?;
    }
    Ok(())
}

/// Who has locked the row of an id, as far as it can be seen.
fn holder(id: &str) -> Outcome<Option<String>> {
    const HOLDER: &str = "SELECT coalesce('process ' || a.pid || ' of ' || coalesce(a.usename, '?') || ' in database ' \
                || coalesce(a.datname, '?') || ', in a transaction since ' || date_trunc('second', a.xact_start), \
            'prepared transaction ' || quote_literal(p.gid) || ' since ' || date_trunc('second', p.prepared)) \
        FROM tandem.items i \
        LEFT JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = i.xmax AND l.granted \
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
        LEFT JOIN pg_prepared_xacts p ON p.transaction = i.xmax WHERE i.id = $1 LIMIT 1";
    Spi::connect(|client| {
        let rows = client.select(HOLDER, None, &[id.into()])?;
        Ok(rows.into_iter().next().map(|row| row.get::<String>(1)).transpose()?.flatten())
    })
}

/// Notes what goes wrong.
pub fn note_error(name: &str, reason: &str) -> Outcome<()> {
    Ok(Spi::run_with_args(
        "UPDATE tandem.links SET state = 'waiting', last_error = $2, last_error_at = now() WHERE name = $1",
        &[name.into(), reason.into()],
    )?)
}
