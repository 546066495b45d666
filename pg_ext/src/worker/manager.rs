//! The manager of a database: folds the log, rotates and truncates it, and keeps a session running for each link.

use super::process::begin;
use super::transaction::transaction;
use super::wait;
use crate::fault_point::{self, Point};
use crate::log::{self, Position};
use crate::settings;
use crate::store;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// Pause between rounds.
const ROUND: Duration = Duration::from_millis(200);
/// Pause where the extension is not there.
const ABSENT: Duration = Duration::from_secs(2);
/// Pause between looks at the log's slots.
const ROTATION: Duration = Duration::from_secs(5);

/// Pause between looks for tombstones that nobody needs any more.
const FORGETTING: Duration = Duration::from_secs(2);
/// Tombstones dropped at a time.
const TOMBSTONES: i64 = 5000;

/// Entry point of a manager; the database's name comes in the worker's extra text.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tandem_manager_main(_argument: pg_sys::Datum) {
    let database = BackgroundWorker::get_extra().to_owned();
    begin(&database);
    let (mut rotated, mut forgotten): (Option<Instant>, Option<Instant>) = (None, None);
    let mut told = Position::START;
    loop {
        let present = transaction(|| {
            Ok(Spi::get_one::<bool>("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'tandem')")?)
        });
        if !matches!(present, Ok(Some(true))) {
            wait(ABSENT);
            continue;
        }
        report(transaction(|| {
            if log::fold_pending()? > 0 {
                fault_point::reach(Point::FoldUncommitted);
            }
            Ok(())
        }));
        tell(&mut told);
        if rotated.is_none_or(|at| at.elapsed() > ROTATION) {
            rotated = Some(Instant::now());
            report(transaction(|| {
                log::rotate()?;
                fault_point::reach(Point::RotationUncommitted);
                Ok(())
            }));
            report(transaction(|| {
                Ok(Spi::run_with_args("SELECT tandem.forget_checks($1)", &[settings::checks_kept().into()])?)
            }));
        }
        if forgotten.is_none_or(|at| at.elapsed() > FORGETTING) {
            // A full batch is followed by the next one in the next round.
            forgotten = (forget_tombstones() < TOMBSTONES).then(Instant::now);
        }
        start_sessions(&database);
        wait(ROUND);
    }
}

/// Drops tombstones that are old enough and that every link has taken. Returns how many.
fn forget_tombstones() -> i64 {
    let before = settings::tombstone_retention().kept_since(store::now()).unix_ms() as i64;
    if before == 0 {
        return 0;
    }
    let forgotten = transaction(|| {
        let args = [before.into(), TOMBSTONES.into()];
        let count = Spi::get_one_with_args::<i64>("SELECT tandem.forget_tombstones($1, $2)", &args)?;
        if count.is_some_and(|count| count > 0) {
            fault_point::reach(Point::ForgettingUncommitted);
        }
        Ok(count)
    });
    match forgotten {
        Ok(count) => count.unwrap_or(0),
        Err(failed) => {
            report::<()>(Err(failed));
            0
        }
    }
}

/// Notifies the listeners of `tandem` when more of the log can be read than they were told.
fn tell(told: &mut Position) {
    let position = transaction(|| {
        let (is_new, end) = log::news(told)?;
        if is_new {
            Spi::run_with_args("SELECT pg_catalog.pg_notify('tandem', $1)", &[end.to_string().into()])?;
        }
        Ok(end)
    });
    match position {
        Ok(position) => *told = position,
        Err(failed) => report::<()>(Err(failed)),
    }
}

fn report<T>(result: Result<T, super::transaction::Failed>) {
    if let Err(failed) = result {
        pgrx::log!("tandem manager: {failed}");
    }
}

/// Starts a session, and a reader, for each link that should have one and has none.
fn start_sessions(database: &str) {
    // A dump that is restored elsewhere brings its links. Two Postgres must not share one link by accident.
    report(transaction(|| {
        Ok(Spi::run(
            "UPDATE tandem.links SET paused = true, state = 'paused', last_error_at = now(), \
             last_error = 'restored from another cluster; tandem.resume_link() takes the link over' \
             WHERE NOT paused AND system_identifier <> (SELECT system_identifier FROM pg_control_system())",
        )?)
    }));
    let missing = transaction(|| {
        Spi::connect(|client| {
            let rows = client.select(
                "SELECT k.kind, l.name FROM tandem.links l CROSS JOIN (VALUES ('link'), ('reader')) AS k (kind) \
                 WHERE NOT l.paused AND (k.kind = 'link' OR l.direction <> 'from_redis') \
                   AND NOT EXISTS (SELECT FROM pg_stat_activity a \
                     WHERE a.backend_type = format('tandem %s %s', k.kind, l.name) AND a.datname = current_database())",
                None,
                &[],
            )?;
            let mut missing = Vec::new();
            for row in rows {
                missing.extend(row.get::<String>(1)?.zip(row.get::<String>(2)?));
            }
            Ok(missing)
        })
    });
    for (kind, name) in missing.unwrap_or_default() {
        let function = if kind == "link" { "tandem_link_main" } else { "tandem_reader_main" };
        let kind = format!("tandem {kind} {name}");
        let started = BackgroundWorkerBuilder::new(&kind)
            .set_type(&kind)
            .set_library("tandem")
            .set_function(function)
            .set_extra(&format!("{database}\n{name}"))
            .enable_spi_access()
            // SAFETY: the process' own id.
            .set_notify_pid(unsafe { pg_sys::MyProcPid })
            .load_dynamic();
        match started {
            Ok(worker) => drop(worker.wait_for_startup()),
            Err(_) => {
                pgrx::warning!("{kind}: no free background worker; raise max_worker_processes and restart")
            }
        }
    }
}
