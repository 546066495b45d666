//! Check and repair of a link: the shared search finds the ids that differ, and joining both ways mends them.

use super::connection::{Broken, Connection};
use super::remote::Remote;
use super::transaction::Failed;
use crate::error::Outcome;
use crate::fault_point::{self, Point};
use crate::planning;
use crate::replica::Items;
use crate::settings;
use crate::store::{self, Page};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use tandem_shared::codec::encode;
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::reconcile::{Drift, Entry, Options, Replica, Search, SearchError, Verdict};
use tandem_shared::request::Operation;
use tandem_shared::{DigestKey, Fingerprint, Revision};

/// Ids of a report that are named in the answer of a function.
const IDS_MAX: usize = 1000;
/// Ids mended at a time.
const PAGE_IDS: usize = 500;

/// What a check found and did.
#[derive(Debug, Default)]
pub struct Report {
    /// Ids that differ.
    pub differences: u64,
    /// Ids that were mended.
    pub repaired: u64,
    /// Of the ids that differ still, those on their way: in Redis they wait for this link, or in the log for it.
    pub in_flight: u64,
    /// Ranges compared.
    pub ranges: u64,
    /// Rounds of comparison.
    pub rounds: u64,
    /// Bytes to and from Redis.
    pub bytes: u64,
    /// The first of the ids.
    pub ids: Vec<String>,
    /// The first of the ids, with what differed and what was done.
    pub rows: Vec<Row>,
    /// The first id whose revision one side refused, with what the side said.
    pub refused: Option<String>,
    /// Why the check did not go through everything.
    pub cut_short: Option<String>,
}

/// A line of a report.
#[derive(Debug)]
pub struct Row {
    id: String,
    drift: Drift,
    done: &'static str,
    reason: Option<String>,
}

impl Row {
    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What differed.
    pub fn differed(&self) -> &str {
        self.drift.as_str()
    }

    /// What was done: `pulled`, `pushed`, `nothing` or `refused`.
    pub fn done(&self) -> &str {
        self.done
    }

    /// Why nothing was done.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// A revision that one side refused.
#[derive(Debug)]
pub struct Refused {
    /// Its id.
    pub id: String,
    /// Where it was to go, as in `tandem.dead_letters`.
    pub direction: &'static str,
    /// The revision, encoded.
    pub revision: Vec<u8>,
    /// What the side said.
    pub reason: String,
}

impl Report {
    /// The answer, and what there is to say of it.
    pub fn verdict(&self) -> (Verdict, Option<String>) {
        if let Some(reason) = &self.cut_short {
            return (Verdict::Incomplete, Some(reason.clone()));
        }
        let left = self.differences.saturating_sub(self.repaired);
        let verdict = Verdict::of(left, self.in_flight);
        let reason = match verdict {
            Verdict::Equal => None,
            Verdict::Incomplete => {
                Some(format!("all {left} differing ids are on their way: they wait in Redis or in the log"))
            }
            Verdict::Differs => self.refused.clone(),
        };
        (verdict, reason)
    }

    /// Ids that the bound leaves room for.
    fn room(&self, ids_max: Option<u64>) -> usize {
        let left = ids_max.map(|max| max.saturating_sub(self.differences));
        left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
    }
}

/// Which side of a link takes what the other has.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// Redis takes what Postgres has.
    pub to_redis: bool,
    /// Postgres takes what Redis has.
    pub from_redis: bool,
}

impl Ways {
    /// As the column `direction` of `tandem.links` says.
    pub fn of(direction: &str) -> Ways {
        Ways { to_redis: direction != "from_redis", from_redis: direction != "to_redis" }
    }

    /// Nothing is taken: a dry run.
    pub const NONE: Ways = Ways { to_redis: false, from_redis: false };
}

/// How the Postgres side runs: a function inside its caller's transaction, a worker in one transaction a step.
pub trait Local {
    /// Runs `work` on the database.
    fn run<T>(&mut self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Broken>;

    /// Runs `work`, which data may make fail; then nothing of it is done.
    fn attempt<T>(&mut self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed>;

    /// Keeps a revision that one side refused.
    fn set_aside(&mut self, link: &str, refused: Refused) -> Result<(), Broken>;

    /// Is told how far the check is.
    fn tell(&mut self, phase: &'static str, report: &Report) -> Result<(), Broken>;
}

struct Through<'a, L>(&'a mut L);

impl<L: Local> Replica for Through<'_, L> {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        self.0.run(|| Items.fingerprints(ranges))
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        self.0.run(|| Items.splits(ranges, parts))
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        self.0.run(|| Items.lists(ranges, limit_each))
    }
}

fn either(error: SearchError<Broken, Broken>) -> Broken {
    match error {
        SearchError::Left(error) | SearchError::Right(error) => error,
        SearchError::Malformed { expected, actual } => {
            Broken(format!("a side answered {actual} ranges instead of {expected}"))
        }
    }
}

/// What to check, and how.
pub struct Task<'a> {
    /// The link.
    pub link: &'a str,
    /// Key of all digests.
    pub key: DigestKey,
    /// Who takes what from whom.
    pub ways: Ways,
    /// Differing ids to handle at most.
    pub ids_max: Option<u64>,
}

/// Compares ranges of both sides and mends what differs in the ways given, a page at a time. What was found and done
/// before an error is in the report.
pub fn check<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    task: &Task<'_>,
    ranges: Vec<Range>,
    report: &mut Report,
) -> Result<(), Broken> {
    let bytes_before = connection.bytes;
    for range in ranges {
        let mut search = Search::new(range, Options::default());
        let (ranges, rounds) = (report.ranges, report.rounds);
        loop {
            local.tell("comparing", report)?;
            let done = search.step(&mut Through(local), &mut Remote(connection)).map_err(either)?;
            report.ranges = ranges + search.ranges_compared;
            report.rounds = rounds + search.rounds;
            report.bytes = connection.bytes - bytes_before;
            let mut ids: Vec<String> = search.take_differences().into_iter().map(|found| found.id).collect();
            while !ids.is_empty() {
                let room = report.room(task.ids_max);
                if room == 0 {
                    let bound = task.ids_max.unwrap_or_default();
                    report.cut_short = Some(format!("the bound of {bound} ids was reached; run it again"));
                    return Ok(());
                }
                let rest = ids.split_off(ids.len().min(PAGE_IDS).min(room));
                local.tell("mending", report)?;
                ids = page_of(local, connection, task, ids, report)?;
                fault_point::reach(Point::CheckMended);
                report.bytes = connection.bytes - bytes_before;
                ids.extend(rest);
            }
            if done {
                break;
            }
        }
    }
    Ok(())
}

/// What became of an id that differed.
#[derive(Default)]
struct Fate {
    done: Option<&'static str>,
    reason: Option<String>,
}

/// Looks again at ids that differed, as one may have been on its way, and mends those that still do. Returns those whose
/// content no longer fitted beside that of the others.
fn page_of<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    task: &Task<'_>,
    mut ids: Vec<String>,
    report: &mut Report,
) -> Result<Vec<String>, Broken> {
    let (mut theirs, answered) = Remote(connection).fetch(&ids)?;
    let mut later = ids.split_off(answered);
    let Page { found: mut ours, later: too_much } = local.run(|| store::fetch(&ids))?;
    ids.retain(|id| !too_much.contains(id));
    theirs.retain(|id, _| !too_much.contains(id));
    later.extend(too_much);
    forget_unbinding(local, connection, task.link, &mut theirs, &mut ours)?;
    let drift = |id: &String| {
        let (redis, postgres) = (theirs.get(id).map(Revision::head), ours.get(id).map(Revision::head));
        Drift::of(&task.key, id, redis.as_ref(), postgres.as_ref()).map(|drift| (id.clone(), drift))
    };
    let differing: Vec<(String, Drift)> = ids.iter().filter_map(drift).collect();
    let mut fates: HashMap<&str, Fate> =
        differing.iter().map(|(id, _)| (id.as_str(), Fate::default())).collect();
    let mut refused = Vec::new();
    if task.ways.from_redis {
        let revisions =
            differing.iter().filter_map(|(id, _)| Some((id.as_str(), theirs.remove(id)?))).collect();
        pull_all(local, task.link, revisions, &mut fates, &mut refused)?;
        fault_point::reach(Point::CheckPulled);
    }
    if task.ways.to_redis {
        let is_open = |id: &str| fates.get(id).is_some_and(|fate| fate.done.is_none());
        let back: Vec<(&str, Vec<u8>)> = differing
            .iter()
            .filter(|(id, _)| is_open(id))
            .filter_map(|(id, _)| ours.get(id).map(|revision| (id.as_str(), encode(revision))))
            .collect();
        push_all(connection, task.link, &back, &mut fates, &mut refused)?;
    }
    for refused in refused {
        report.refused.get_or_insert_with(|| format!("{}: {}", refused.id, refused.reason));
        local.set_aside(task.link, refused)?;
    }
    let is_left = |id: &&str| !matches!(fates.get(id).and_then(|fate| fate.done), Some("pulled" | "pushed"));
    let left: Vec<&str> = differing.iter().map(|(id, _)| id.as_str()).filter(is_left).collect();
    let on_their_way = in_flight(local, connection, task.link, &left)?;
    report.differences += differing.len() as u64;
    report.repaired += (differing.len() - left.len()) as u64;
    report.in_flight += on_their_way.len() as u64;
    let room = IDS_MAX.saturating_sub(report.ids.len());
    report.ids.extend(differing.iter().take(room).map(|(id, _)| id.clone()));
    let room = settings::report_rows_max().saturating_sub(report.rows.len());
    report.rows.extend(differing.iter().take(room).map(|(id, drift)| {
        let Fate { done, reason } = fates.remove(id.as_str()).unwrap_or_default();
        let reason = reason.or_else(|| on_their_way.contains(id).then(|| "on its way".to_owned()));
        Row { id: id.clone(), drift: *drift, done: done.unwrap_or("nothing"), reason }
    }));
    Ok(later)
}

/// Leaves out tombstones that their side may drop any moment: they no longer say which way to join.
fn forget_unbinding<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    link: &str,
    theirs: &mut HashMap<String, Revision>,
    ours: &mut HashMap<String, Revision>,
) -> Result<(), Broken> {
    let since = settings::tombstone_retention().bound_since(store::now());
    let is_old = |revision: &Revision| revision.head().is_tombstone() && revision.timestamp < since;
    let old: Vec<String> =
        theirs.iter().filter(|(_, revision)| is_old(revision)).map(|(id, _)| id.clone()).collect();
    let ids: Vec<&str> = old.iter().map(String::as_str).collect();
    for (id, waits) in ids.iter().zip(Remote(connection).waits(link, &ids)?) {
        if !waits {
            theirs.remove(*id);
        }
    }
    let old: Vec<String> =
        ours.iter().filter(|(_, revision)| is_old(revision)).map(|(id, _)| id.clone()).collect();
    for id in old {
        let binding = |revision: &Revision| local.run(|| store::is_binding(&id, &revision.head()));
        if !ours.get(&id).map_or(Ok(true), binding)? {
            ours.remove(&id);
        }
    }
    Ok(())
}

/// Joins revisions of Redis: all at once, or each by itself if one cannot be stored.
fn pull_all<'a, L: Local>(
    local: &mut L,
    link: &str,
    revisions: Vec<(&'a str, Revision)>,
    fates: &mut HashMap<&'a str, Fate>,
    refused: &mut Vec<Refused>,
) -> Result<(), Broken> {
    let mut join = |part: &[(&str, Revision)]| {
        let operation =
            |(id, revision): &(&str, Revision)| ((*id).to_owned(), Operation::Apply(revision.clone()));
        let operations = part.iter().map(operation).collect();
        local.attempt(|| store::on_behalf_of(link, || store::run(operations)))
    };
    let mut outcomes: Vec<Result<Option<Joined>, String>> = Vec::with_capacity(revisions.len());
    match join(&revisions) {
        Ok(done) => outcomes.extend(done.into_iter().map(|done| Ok(done.joined))),
        Err(_) => {
            for revision in &revisions {
                match join(std::slice::from_ref(revision)) {
                    Ok(done) => outcomes.extend(done.into_iter().map(|done| Ok(done.joined))),
                    Err(failed) if failed.is_data => outcomes.push(Err(failed.message)),
                    Err(failed) => return Err(failed.into()),
                }
            }
        }
    }
    for ((id, revision), outcome) in revisions.iter().zip(outcomes) {
        let Some(fate) = fates.get_mut(id) else { continue };
        match outcome {
            Ok(Some(Joined::Applied)) => fate.done = Some("pulled"),
            Ok(_) => {}
            Err(reason) => {
                *fate = Fate { done: Some("refused"), reason: Some(reason.clone()) };
                let (id, revision) = ((*id).to_owned(), encode(revision));
                refused.push(Refused { id, direction: "from_redis", revision, reason });
            }
        }
    }
    Ok(())
}

fn push_all<'a>(
    connection: &mut Connection,
    link: &str,
    revisions: &[(&'a str, Vec<u8>)],
    fates: &mut HashMap<&'a str, Fate>,
    refused: &mut Vec<Refused>,
) -> Result<(), Broken> {
    for ((id, revision), answer) in revisions.iter().zip(push(connection, link, revisions)?) {
        let Some(fate) = fates.get_mut(id) else { continue };
        match answer {
            // Redis has written again meanwhile; the link will hear of it.
            Ok(answer) if answer == Joined::Stale.as_str() => {}
            Ok(_) => fate.done = Some("pushed"),
            Err(reason) => {
                *fate = Fate { done: Some("refused"), reason: Some(reason.clone()) };
                let (id, revision) = ((*id).to_owned(), revision.clone());
                refused.push(Refused { id, direction: "to_redis", revision, reason });
            }
        }
    }
    Ok(())
}

const UNPUSHED: &str = "SELECT DISTINCT c.id FROM tandem.links l JOIN tandem.changes c \
        ON (c.xid, c.seq) > (l.pushed_xid, l.pushed_seq) AND c.origin IS DISTINCT FROM l.name \
    WHERE l.name = $1 AND l.direction <> 'from_redis' AND c.id = ANY($2)";

/// Those of the ids that wait for the link in Redis or in the log.
fn in_flight<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    link: &str,
    ids: &[&str],
) -> Result<HashSet<String>, Broken> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let waits = Remote(connection).waits(link, ids)?;
    let mut found: HashSet<String> =
        ids.iter().zip(waits).filter(|(_, waits)| *waits).map(|(id, _)| (*id).to_owned()).collect();
    let logged = local.run(|| {
        planning::by_index(|| {
            Spi::connect(|client| {
                let mut logged = Vec::new();
                for row in client.select(UNPUSHED, None, &[link.into(), ids.to_vec().into()])? {
                    logged.extend(row.get::<String>(1)?);
                }
                Ok(logged)
            })
        })
    })?;
    found.extend(logged);
    Ok(found)
}

/// Bytes of revisions pushed in one command.
const PUSH_BYTES_MAX: usize = 1 << 20;

/// Pushes revisions in commands of bounded size. Errors: also when a revision is refused for a reason that passes and
/// is not its fault.
pub fn push(
    connection: &mut Connection,
    link: &str,
    revisions: &[(&str, Vec<u8>)],
) -> Result<Vec<Result<String, String>>, Broken> {
    let mut answers = Vec::with_capacity(revisions.len());
    let mut rest = revisions;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, revision)| {
            bytes += revision.len();
            bytes <= PUSH_BYTES_MAX
        });
        let (chunk, later) = rest.split_at(fits.count().max(1));
        for answer in Remote(connection).push(link, chunk)? {
            match answer {
                Err(reason) if is_passing(&reason) => return Err(Broken(reason)),
                answer => answers.push(answer),
            }
        }
        rest = later;
        fault_point::reach(Point::PushPart);
    }
    Ok(answers)
}

/// Redis is full, or was told not to write.
fn is_passing(reason: &str) -> bool {
    let codes = ["OOM", "BACKPRESSURE", "MISCONF", "READONLY", "LOADING", "NOLINK", "NOPERM"];
    codes.iter().any(|code| reason.starts_with(code))
}
