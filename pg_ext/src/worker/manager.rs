//! The manager of a database: folds the log, rotates and truncates it, and keeps a session running for each link.

use super::link;
use super::process::begin;
use super::transaction::{durable, transaction};
use super::wait;
use crate::error::Outcome;
use crate::fault_point::{self, Point};
use crate::log::{self, Position};
use crate::planning::read_one;
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
    let mut no_room_until = None;
    let mut is_noted = false;
    loop {
        let present = transaction(|| {
            read_one::<bool>("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'tandem')", &[])
        });
        if !matches!(present, Ok(Some(true))) {
            wait(ABSENT);
            continue;
        }
        if !is_noted {
            // The server was started, or has recovered from a crash of one of its processes, which undoes commits
            // that did not wait for the disk.
            let noted = transaction(|| Ok(Spi::run("UPDATE tandem.links SET compare_due = true")?));
            is_noted = noted.is_ok();
            report(noted);
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
            // Where a dump was restored while triggers were off and stayed off.
            report(durable(c"200ms", take_in));
            report(transaction(|| {
                read_one::<()>("SELECT tandem.forget_checks($1)", &[settings::checks_kept().into()])
            }));
        }
        if forgotten.is_none_or(|at| at.elapsed() > FORGETTING) {
            // A full batch is followed by the next one in the next round.
            forgotten = (forget_tombstones() < TOMBSTONES).then(Instant::now);
        }
        start_sessions(&database, &mut no_room_until);
        wait(ROUND);
    }
}

/// Takes rows that a dump has brought, and that have stayed at the door, on to the items.
fn take_in() -> Outcome<()> {
    if read_one::<bool>("SELECT EXISTS (SELECT FROM tandem.restored_items)", &[])? == Some(true) {
        Spi::run("SELECT tandem.restore_items()")?;
    }
    Ok(())
}

/// Drops tombstones that are old enough and that every link has taken. Returns how many.
fn forget_tombstones() -> i64 {
    let before = settings::tombstone_retention().kept_since(store::now()).unix_ms() as i64;
    if before == 0 {
        return 0;
    }
    let forgotten = transaction(|| {
        let args = [before.into(), TOMBSTONES.into()];
        let count = read_one::<i64>("SELECT tandem.forget_tombstones($1, $2)", &args)?;
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
fn start_sessions(database: &str, no_room_until: &mut Option<Instant>) {
    if no_room_until.is_some_and(|until| Instant::now() < until) {
        return;
    }
    // A dump that is restored elsewhere brings its links. Two Postgres must not share one link by accident.
    report(transaction(|| {
        if read_one::<bool>(FOREIGN, &[])? == Some(true) {
            Spi::run(PAUSE_FOREIGN)?;
        }
        Ok(())
    }));
    const FOREIGN: &str = "SELECT EXISTS (SELECT FROM tandem.links l WHERE NOT l.paused \
        AND (l.system_identifier, l.database) <> (SELECT c.system_identifier, d.oid \
            FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()))";
    const PAUSE_FOREIGN: &str = "UPDATE tandem.links l SET paused = true, state = 'paused', last_error_at = now(), \
        last_error = 'restored from another cluster or database; tandem.resume_link() takes the link over' \
        WHERE NOT l.paused AND (l.system_identifier, l.database) <> (SELECT c.system_identifier, d.oid \
            FROM pg_control_system() c, pg_database d WHERE d.datname = current_database())";
    const MISSING: &str = "SELECT w.kind, w.name FROM ( \
            SELECT k.kind, l.name FROM tandem.links l CROSS JOIN (VALUES ('link'), ('reader')) AS k (kind) \
            WHERE NOT l.paused AND (k.kind = 'link' OR l.direction <> 'from_redis') \
            UNION ALL SELECT 'unlinker', '' WHERE EXISTS (SELECT FROM tandem.unlinked)) w \
        WHERE NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = current_database() \
            AND a.backend_type = rtrim(format('tandem %s %s', w.kind, w.name)))";
    let missing = transaction(|| {
        Spi::connect(|client| {
            let mut missing = Vec::new();
            for row in client.select(MISSING, None, &[])? {
                missing.extend(row.get::<String>(1)?.zip(row.get::<String>(2)?));
            }
            Ok(missing)
        })
    });
    let missing = missing.unwrap_or_else(|failed| {
        report::<()>(Err(failed));
        Vec::new()
    });
    for (kind, name) in missing {
        if !start(database, &kind, &name) {
            *no_room_until = Some(Instant::now() + NO_ROOM);
            return;
        }
    }
}

/// Pause where the server has no room for another process.
const NO_ROOM: Duration = Duration::from_secs(5);

/// Starts a process. False if the server has no room for it, which the link's row tells then.
fn start(database: &str, kind: &str, name: &str) -> bool {
    let (function, extra) = match kind {
        "link" => ("tandem_link_main", format!("{database}\n{name}")),
        "reader" => ("tandem_reader_main", format!("{database}\n{name}")),
        _ => ("tandem_unlinker_main", database.to_owned()),
    };
    let title = format!("tandem {kind} {name}");
    let title = title.trim_end();
    let started = BackgroundWorkerBuilder::new(title)
        .set_type(title)
        .set_library("tandem")
        .set_function(function)
        .set_extra(&extra)
        .enable_spi_access()
        // SAFETY: the process' own id.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .load_dynamic();
    if let Ok(worker) = started {
        let _ = worker.wait_for_startup();
        return true;
    }
    let reason = "no free background worker; raise max_worker_processes and restart";
    pgrx::warning!("{title}: {reason}");
    report(transaction(|| link::note_error(name, reason)));
    false
}
