//! The books of checks: `tandem.checks` and `tandem.reports`.

use super::repair::{Report, Row};
use crate::error::Outcome;
use pgrx::prelude::*;

/// A run of a check.
pub struct Run<'a> {
    /// The link.
    pub link: &'a str,
    /// Why it runs: `attach`, `scheduled` or `reconcile`.
    pub kind: &'static str,
    /// Prefix of the ids.
    pub prefix: &'a str,
    /// Whether it mends nothing.
    pub dry_run: bool,
}

const BEGIN: &str = "INSERT INTO tandem.checks (link, kind, prefix, dry_run, phase, started_at) \
    VALUES ($1, $2, $3, $4, 'comparing', clock_timestamp()) RETURNING run";

/// A run before this one that never ended is one whose worker was killed.
const ABANDON: &str = "UPDATE tandem.checks SET finished_at = clock_timestamp(), answer = 'incomplete', \
        reason = 'the worker ended before the check did' \
    WHERE link = $1 AND kind <> 'reconcile' AND finished_at IS NULL";

const TELL: &str = "UPDATE tandem.checks SET phase = $2, differences = $3, repaired = $4, pending = $5, ranges = $6, \
        rounds = $7, bytes = $8, refused = $9, undecided = $10 WHERE run = $1";

const FINISH: &str = "UPDATE tandem.checks SET finished_at = clock_timestamp(), answer = $2, reason = $3 \
    WHERE run = $1";

const ROWS: &str = "INSERT INTO tandem.reports (run, link, started_at, id, differed, done, reason) \
    SELECT c.run, c.link, c.started_at, r.id, r.differed, r.done, r.reason \
    FROM tandem.checks c, unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS r (id, differed, done, reason) \
    WHERE c.run = $1";

/// Begins a run; its number.
pub fn begin(run: &Run<'_>) -> Outcome<i64> {
    if run.kind != "reconcile" {
        Spi::run_with_args(ABANDON, &[run.link.into()])?;
    }
    let args = [run.link.into(), run.kind.into(), run.prefix.into(), run.dry_run.into()];
    Ok(Spi::get_one_with_args::<i64>(BEGIN, &args)?.unwrap_or(0))
}

/// Notes how far a run is.
pub fn tell(run: i64, phase: &str, report: &Report) -> Outcome<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let args = [
        run.into(),
        phase.into(),
        number(report.differences).into(),
        number(report.repaired).into(),
        number(report.in_flight).into(),
        number(report.ranges).into(),
        number(report.rounds).into(),
        number(report.bytes).into(),
        number(report.refused_ids).into(),
        number(report.undecided).into(),
    ];
    Ok(Spi::run_with_args(TELL, &args)?)
}

/// Ends a run with its answer and its lines.
pub fn finish(run: i64, report: &Report) -> Outcome<()> {
    let (verdict, reason) = report.verdict();
    tell(run, "done", report)?;
    let column = |of: fn(&Row) -> &str| report.rows.iter().map(of).collect::<Vec<&str>>();
    if !report.rows.is_empty() {
        let reasons: Vec<Option<&str>> = report.rows.iter().map(Row::reason).collect();
        let args = [
            run.into(),
            column(Row::id).into(),
            column(Row::differed).into(),
            column(Row::done).into(),
            reasons.into(),
        ];
        Spi::run_with_args(ROWS, &args)?;
    }
    Ok(Spi::run_with_args(FINISH, &[run.into(), verdict.as_str().into(), reason.into()])?)
}
