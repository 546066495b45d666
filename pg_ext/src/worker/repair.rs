//! Check and repair of two sides: the shared search finds the ids that differ, and joining both ways mends them.

use super::connection::Broken;
use super::peer::{Answer, Named, Peer, Refusal};
use crate::fault_point::{self, Point};
use crate::settings;
use crate::store::Page;
use std::collections::{HashMap, HashSet};
use tandem_shared::codec::encode;
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::id::Range;
use tandem_shared::join::order;
use tandem_shared::link::Scope;
use tandem_shared::reconcile::{Drift, Entry, Options, Search, SearchError, Verdict};
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
    /// Of the ids that differ still, those on their way: they wait in Redis or in the log for the link, or for a lock.
    pub in_flight: u64,
    /// Of the ids that differ still, those whose revision one side has refused.
    pub refused_ids: u64,
    /// Of the ids that differ still, those for which neither of these is so: nothing could be done about them.
    pub undecided: u64,
    /// Ids that one side could not read.
    pub unread: u64,
    /// The first of them, with the reason.
    pub unreadable: Option<String>,
    /// Ranges compared.
    pub ranges: u64,
    /// Rounds of comparison.
    pub rounds: u64,
    /// Bytes to and from the sides that are not this database.
    pub bytes: u64,
    /// The first of the ids.
    pub ids: Vec<String>,
    /// The first of the ids, with what differed and what was done.
    pub rows: Vec<Row>,
    /// The first id whose revision one side refused, with what the side said.
    pub refused: Option<String>,
    /// Why the check did not go through everything.
    pub cut_short: Option<String>,
    /// Blocks of fingerprints that did not add up and were mended.
    pub recounted: u64,
    /// Where both sides' hashes differ though no id does.
    pub unexplained: Option<String>,
    /// Why a side may have more than it knows of.
    pub doubt: Option<String>,
}

/// A line of a report.
#[derive(Debug)]
pub struct Row {
    id: String,
    differed: String,
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
        &self.differed
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

/// A side of a check; in that of a link Postgres is the left one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    Left,
    /// The right one.
    Right,
}

/// A revision that one side refused.
#[derive(Debug)]
pub struct Refused {
    /// Its id.
    pub id: String,
    /// The side that refused it.
    pub side: Side,
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
        if left == 0
            && let Some(reason) = self.unexplained.as_ref().or(self.doubt.as_ref())
        {
            return (Verdict::Incomplete, Some(reason.clone()));
        }
        if let Some(unreadable) = &self.unreadable
            && left <= self.in_flight + self.unread
        {
            let count = self.unread;
            return (
                Verdict::Incomplete,
                Some(format!("{count} ids cannot be read, the first is {unreadable}")),
            );
        }
        let verdict = Verdict::of(left, self.in_flight + self.unread);
        let reason = match verdict {
            Verdict::Equal => None,
            Verdict::Incomplete => {
                Some(format!("all {left} differing ids are on their way: they wait in Redis or in the log"))
            }
            Verdict::Differs => self.refused.clone(),
        };
        (verdict, reason)
    }

    /// Notes an id that a side could not read.
    fn could_not_read(&mut self, id: &str, side: &str, reason: &str) {
        self.differences += 1;
        self.unread += 1;
        self.unreadable.get_or_insert_with(|| format!("{id}: {reason}"));
        if self.ids.len() < IDS_MAX {
            self.ids.push(id.to_owned());
        }
        if self.rows.len() < settings::report_rows_max() {
            let differed = format!("unreadable_in_{side}");
            self.rows.push(Row {
                id: id.to_owned(),
                differed,
                done: "nothing",
                reason: Some(reason.to_owned()),
            });
        }
    }

    /// Ids that the bound leaves room for.
    fn room(&self, ids_max: Option<u64>) -> usize {
        let left = ids_max.map(|max| max.saturating_sub(self.differences));
        left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
    }
}

/// Which side takes what the other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// The left side takes what the right one has.
    pub to_left: bool,
    /// The right side takes what the left one has.
    pub to_right: bool,
}

impl Ways {
    /// As a link carries; Postgres is on the left.
    pub fn of(scope: &Scope) -> Ways {
        Ways { to_left: scope.to_postgres(), to_right: scope.to_redis() }
    }

    /// Each takes what the other has.
    pub const BOTH: Ways = Ways { to_left: true, to_right: true };

    /// Nothing is taken: a dry run.
    pub const NONE: Ways = Ways { to_left: false, to_right: false };
}

/// What goes into the books while a check runs.
pub trait Books {
    /// Keeps a revision that one side refused.
    fn set_aside(&mut self, refused: Refused) -> Result<(), Broken>;

    /// Those of the ids whose revision the left side has taken now, and had refused before.
    fn letters_of(&mut self, _taken: &[Named<'_>]) -> Result<HashSet<String>, Broken> {
        Ok(HashSet::new())
    }

    /// Forgets that it had.
    fn forget_letters(&mut self, _taken: &[Named<'_>]) -> Result<(), Broken> {
        Ok(())
    }

    /// Is told how far the check is.
    fn tell(&mut self, phase: &'static str, report: &Report) -> Result<(), Broken>;

    /// Keeps a revision that lost against another of its version on two sides that keep none.
    fn keep_loser(&mut self, id: &str, loser: &Revision) -> Result<(), Broken>;
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
pub struct Task {
    /// Key of all digests.
    pub key: DigestKey,
    /// Who takes what from whom.
    pub ways: Ways,
    /// Differing ids to handle at most.
    pub ids_max: Option<u64>,
    /// What the left and the right side are called in the report.
    pub names: (&'static str, &'static str),
}

impl Task {
    /// The check of a link: Postgres on the left, Redis on the right.
    pub fn of_link(ways: Ways, ids_max: Option<u64>) -> Task {
        Task { key: settings::digest_key(), ways, ids_max, names: ("postgres", "redis") }
    }
}

/// Compares ranges of both sides and mends what differs in the ways given, a page at a time. What was found and done
/// before an error is in the report.
pub fn check(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    ranges: Vec<Range>,
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<(), Broken> {
    report.doubt = left.doubts()?.or(right.doubts()?);
    if compare(left, right, task, &ranges, report, books)? {
        explain(left, right, task, &ranges, report, books)?;
    }
    Ok(())
}

/// How often both sides' fingerprints are compared once more while writes go on.
const EXPLAINED_MAX: usize = 8;

/// Compares the fingerprints of ranges that were compared once more: where they differ, an id differs. If none does
/// and nothing has moved meanwhile, a side's fingerprints do not add up; they are counted again, and if that does not
/// help the check does not say that the sides are equal.
fn explain(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    ranges: &[Range],
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<(), Broken> {
    let (mut before, mut is_recounted) = (None, task.ways == Ways::NONE);
    for _ in 0..EXPLAINED_MAX {
        // What differs and was not mended is told of.
        if report.differences > report.repaired {
            return Ok(());
        }
        let sums = (left.fingerprints(ranges)?, right.fingerprints(ranges)?);
        let pairs = ranges.iter().zip(sums.0.iter().zip(&sums.1));
        let unequal: Vec<Range> =
            pairs.filter(|(_, (left, right))| left != right).map(|(range, _)| range.clone()).collect();
        let Some(first) = unequal.first() else { return Ok(()) };
        if before.as_ref() == Some(&sums) {
            if is_recounted {
                let (left, right) = task.names;
                report.unexplained = Some(format!(
                    "the hashes of {left} and {right} differ from {:?} on though no id does; tandem.verify() and TANDEM.VERIFY say where",
                    first.start
                ));
                return Ok(());
            }
            is_recounted = true;
            for range in &unequal {
                report.recounted += left.recount(range)? + right.recount(range)?;
            }
            before = None;
            continue;
        }
        before = Some(sums);
        if !compare(left, right, task, &unequal, report, books)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Searches ranges for ids that differ and mends them. False when the bound was reached before all were handled.
fn compare(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    ranges: &[Range],
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<bool, Broken> {
    let bytes_before = (left.bytes() + right.bytes()).saturating_sub(report.bytes);
    for range in ranges {
        let mut search = Search::new(range.clone(), Options::default());
        let (ranges, rounds) = (report.ranges, report.rounds);
        loop {
            books.tell("comparing", report)?;
            let done = search.step(left, right).map_err(either)?;
            report.ranges = ranges + search.ranges_compared;
            report.rounds = rounds + search.rounds;
            report.bytes = left.bytes() + right.bytes() - bytes_before;
            let ids: Vec<String> = search.take_differences().into_iter().map(|found| found.id).collect();
            if !mend(left, right, task, ids, report, books)? {
                return Ok(false);
            }
            report.bytes = left.bytes() + right.bytes() - bytes_before;
            if done {
                break;
            }
        }
    }
    Ok(true)
}

/// Ids looked at in one step where the right side holds some only.
const HELD_PAGE: usize = 1000;

/// As [`check`] where the right side holds some of the ids of a range: every one that it holds is compared, which
/// takes work by their number.
pub fn check_held(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    range: Range,
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<(), Broken> {
    let bytes_before = left.bytes() + right.bytes() - report.bytes;
    let (ranges, start) = ([range.clone()], range.start.clone());
    let (before, mut listed) = (right.fingerprints(&ranges)?, Fingerprint::default());
    let mut rest = range;
    loop {
        books.tell("comparing", report)?;
        let page = right.lists(std::slice::from_ref(&rest), HELD_PAGE)?;
        let held = page.into_iter().next().unwrap_or_default();
        let Some(last) = held.last() else { break };
        listed = held.iter().fold(listed, |sum, entry| sum + Fingerprint::of(&entry.digest));
        rest = rest.after(&last.id);
        let ids: Vec<String> = held.iter().map(|entry| entry.id.clone()).collect();
        let of_left = left.digests(&task.key, &ids)?;
        report.ranges += 1;
        report.rounds += 1;
        let differs = |entry: &Entry| of_left.get(&entry.id) != Some(&entry.digest);
        let ids = held.into_iter().filter(differs).map(|entry| entry.id).collect();
        let within_bound = mend(left, right, task, ids, report, books)?;
        report.bytes = left.bytes() + right.bytes() - bytes_before;
        if !within_bound {
            return Ok(());
        }
    }
    // Where nothing has moved meanwhile, what is listed is what the hash is made of.
    if right.fingerprints(&ranges)? == before && before.first() != Some(&listed) {
        report.unexplained = Some(format!(
            "the hash that {} gives from {:?} on is not that of what it lists; TANDEM.VERIFY says where",
            task.names.1, start
        ));
    }
    Ok(())
}

/// Mends ids a page at a time. False when the bound was reached before all were handled.
fn mend(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    mut ids: Vec<String>,
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<bool, Broken> {
    while !ids.is_empty() {
        let room = report.room(task.ids_max);
        if room == 0 {
            let bound = task.ids_max.unwrap_or_default();
            report.cut_short = Some(format!("the bound of {bound} ids was reached; run it again"));
            return Ok(false);
        }
        let rest = ids.split_off(ids.len().min(PAGE_IDS).min(room));
        books.tell("mending", report)?;
        ids = page_of(left, right, task, ids, report, books)?;
        fault_point::reach(Point::CheckMended);
        ids.extend(rest);
    }
    Ok(true)
}

/// What became of an id that differed.
#[derive(Default)]
struct Fate {
    done: Option<&'static str>,
    reason: Option<String>,
    /// What is in the way at present.
    waits_for: Option<String>,
}

/// Looks again at ids that differed, as one may have been on its way, and mends those that still do. Returns those
/// whose content no longer fitted beside that of the others.
fn page_of(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    task: &Task,
    mut ids: Vec<String>,
    report: &mut Report,
    books: &mut dyn Books,
) -> Result<Vec<String>, Broken> {
    let Page { found: mut of_right, mut later, unreadable: not_right } = right.fetch(&ids)?;
    ids.retain(|id| !later.contains(id));
    let Page { found: of_left, later: too_much, unreadable: not_left } = left.fetch(&ids)?;
    ids.retain(|id| !too_much.contains(id));
    for (side, unreadable) in [(task.names.0, &not_left), (task.names.1, &not_right)] {
        let mut unreadable: Vec<_> = unreadable.iter().filter(|(id, _)| ids.contains(id)).collect();
        unreadable.sort();
        unreadable.into_iter().for_each(|(id, reason)| report.could_not_read(id, side, reason));
    }
    ids.retain(|id| !not_left.contains_key(id) && !not_right.contains_key(id));
    of_right.retain(|id, _| !too_much.contains(id));
    later.extend(too_much);
    let drift = |id: &String| {
        let (left, right) = (of_left.get(id).map(Revision::head), of_right.get(id).map(Revision::head));
        Drift::of(&task.key, id, left.as_ref(), right.as_ref()).map(|drift| (id.clone(), drift))
    };
    let differing: Vec<(String, Drift)> = ids.iter().filter_map(drift).collect();
    let is_mended = task.ways.to_left || task.ways.to_right;
    if is_mended && !left.records_conflicts() && !right.records_conflicts() {
        for (id, _) in differing.iter().filter(|(_, drift)| *drift == Drift::Conflict) {
            if let (Some(left), Some(right)) = (of_left.get(id), of_right.get(id)) {
                let is_less = order(&task.key, id, &left.head(), &right.head()).is_lt();
                books.keep_loser(id, if is_less { left } else { right })?;
            }
        }
    }
    let mut fates: HashMap<&str, Fate> =
        differing.iter().map(|(id, _)| (id.as_str(), Fate::default())).collect();
    let mut refused = Vec::new();
    if task.ways.to_left {
        let revisions: Vec<Named<'_>> =
            differing.iter().filter_map(|(id, _)| Some((id.as_str(), of_right.remove(id)?))).collect();
        let answers = left.join(&revisions)?;
        keep_losers(left, right, &revisions, &answers, &of_left, books)?;
        tell_taken(right, task, &revisions, &answers, books)?;
        settle(&revisions, answers, Side::Left, &mut fates, &mut refused);
        fault_point::reach(Point::CheckPulled);
    }
    if task.ways.to_right {
        let is_open =
            |id: &str| fates.get(id).is_some_and(|fate| fate.done.is_none() && fate.waits_for.is_none());
        let open = differing.iter().filter(|(id, _)| is_open(id));
        let revisions: Vec<Named<'_>> =
            open.filter_map(|(id, _)| Some((id.as_str(), of_left.get(id)?.clone()))).collect();
        let answers = right.join(&revisions)?;
        settle(&revisions, answers, Side::Right, &mut fates, &mut refused);
    }
    for refused in refused {
        report.refused.get_or_insert_with(|| format!("{}: {}", refused.id, refused.reason));
        books.set_aside(refused)?;
    }
    let is_left = |id: &&str| !matches!(fates.get(id).and_then(|fate| fate.done), Some("pulled" | "pushed"));
    let still: Vec<&str> = differing.iter().map(|(id, _)| id.as_str()).filter(is_left).collect();
    let waits = |id: &str| fates.get(id).is_some_and(|fate| fate.waits_for.is_some());
    let mut on_their_way = HashSet::new();
    if !still.is_empty() {
        on_their_way = right.waiting(&still)?;
        on_their_way.extend(left.waiting(&still)?);
        on_their_way.extend(still.iter().filter(|id| waits(id)).map(|id| (*id).to_owned()));
    }
    report.differences += differing.len() as u64;
    report.repaired += (differing.len() - still.len()) as u64;
    report.in_flight += on_their_way.len() as u64;
    let is_refused = |id: &&&str| fates.get(**id).is_some_and(|fate| fate.done == Some("refused"));
    let (refused, others): (Vec<&&str>, Vec<&&str>) = still.iter().partition(is_refused);
    report.refused_ids += refused.len() as u64;
    report.undecided += others.iter().filter(|id| !on_their_way.contains(***id)).count() as u64;
    let room = IDS_MAX.saturating_sub(report.ids.len());
    report.ids.extend(differing.iter().take(room).map(|(id, _)| id.clone()));
    let room = settings::report_rows_max().saturating_sub(report.rows.len());
    report.rows.extend(differing.iter().take(room).map(|(id, drift)| {
        let Fate { done, reason, waits_for } = fates.remove(id.as_str()).unwrap_or_default();
        let reason =
            reason.or(waits_for).or_else(|| on_their_way.contains(id).then(|| "on its way".to_owned()));
        let differed = drift.words(task.names.0, task.names.1);
        Row { id: id.clone(), differed, done: done.unwrap_or("nothing"), reason }
    }));
    Ok(later.into_iter().collect())
}

/// Tells the right side of revisions that the left one has taken and had refused before: it keeps a mark of those.
fn tell_taken(
    right: &mut dyn Peer,
    task: &Task,
    revisions: &[Named<'_>],
    answers: &[Answer],
    books: &mut dyn Books,
) -> Result<(), Broken> {
    let answered = revisions.iter().zip(answers);
    let mut taken: Vec<Named<'_>> =
        answered.filter(|(_, answer)| answer.is_ok()).map(|(named, _)| named.clone()).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let refused = books.letters_of(&taken)?;
    taken.retain(|(id, _)| refused.contains(*id));
    if !taken.is_empty() {
        if task.ways.to_right {
            right.join(&taken)?;
        }
        books.forget_letters(&taken)?;
    }
    Ok(())
}

/// Keeps what has lost on the left side by a join there, though nobody has seen it yet: a revision of the right side
/// that still waits to come over, and one of the left side that still waits to go.
fn keep_losers(
    left: &mut dyn Peer,
    right: &mut dyn Peer,
    revisions: &[Named<'_>],
    answers: &[Answer],
    of_left: &HashMap<String, Revision>,
    books: &mut dyn Books,
) -> Result<(), Broken> {
    let with = |outcome: Joined| {
        let answered = revisions.iter().zip(answers);
        let met = answered.filter(move |(_, answer)| **answer == Ok(outcome)).map(|(named, _)| named);
        met.filter(|(id, _)| of_left.contains_key(*id)).collect::<Vec<&Named<'_>>>()
    };
    let (stale, applied) = (with(Joined::Stale), with(Joined::Applied));
    let ids = |named: &[&Named<'_>]| named.iter().map(|(id, _)| id.to_string()).collect::<Vec<String>>();
    let (stale_ids, applied_ids) = (ids(&stale), ids(&applied));
    if !stale.is_empty() {
        let waiting = right.waiting(&stale_ids.iter().map(String::as_str).collect::<Vec<_>>())?;
        let untold = stale.into_iter().filter(|(id, _)| waiting.contains(*id));
        let untold: Vec<(&str, &Revision)> = untold.map(|(id, revision)| (*id, revision)).collect();
        let joined = left.has_joined(&untold)?;
        for ((id, revision), _) in untold.into_iter().zip(joined).filter(|(_, is_joined)| !is_joined) {
            books.keep_loser(id, revision)?;
        }
    }
    if !applied.is_empty() {
        let waiting = left.waiting(&applied_ids.iter().map(String::as_str).collect::<Vec<_>>())?;
        for (id, _) in applied.into_iter().filter(|(id, _)| waiting.contains(*id)) {
            if let Some(loser) = of_left.get(*id) {
                books.keep_loser(id, loser)?;
            }
        }
    }
    Ok(())
}

/// Notes what became of revisions that were joined on one side.
fn settle<'a>(
    revisions: &[Named<'a>],
    answers: Vec<Answer>,
    side: Side,
    fates: &mut HashMap<&'a str, Fate>,
    refused: &mut Vec<Refused>,
) {
    for ((id, revision), answer) in revisions.iter().zip(answers) {
        let Some(fate) = fates.get_mut(id) else { continue };
        match (answer, side) {
            (Ok(Joined::Applied), Side::Left) => fate.done = Some("pulled"),
            // The left side has another one, which the right one is to take.
            (Ok(_), Side::Left) => {}
            // The right side has written again meanwhile; its link will hear of it.
            (Ok(Joined::Stale), Side::Right) => {}
            (Ok(_), Side::Right) => fate.done = Some("pushed"),
            (Err(refusal), _) if refusal.is_passing() => fate.waits_for = Some(refusal.reason),
            (Err(Refusal { reason, .. }), _) => {
                *fate = Fate { done: Some("refused"), reason: Some(reason.clone()), waits_for: None };
                let (id, revision) = ((*id).to_owned(), encode(revision));
                refused.push(Refused { id, side, revision, reason });
            }
        }
    }
}
