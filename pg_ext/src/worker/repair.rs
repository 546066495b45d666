//! Check and repair of a link: the shared search finds the ids that differ, and joining both ways mends them.

use super::connection::{Broken, Connection};
use super::remote::Remote;
use crate::error::Outcome;
use crate::replica::Items;
use crate::store;
use tandem_shared::codec::encode;
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::reconcile::{Entry, Options, Replica, Search, SearchError};
use tandem_shared::request::Operation;
use tandem_shared::{DigestKey, Fingerprint, Revision};

/// Ids of a report that are named.
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
    /// Differing ids that wait in Redis for this link.
    pub in_flight: u64,
    /// Ranges compared.
    pub ranges: u64,
    /// Rounds of comparison.
    pub rounds: u64,
    /// Bytes to and from Redis.
    pub bytes: u64,
    /// The first of the ids.
    pub ids: Vec<String>,
    /// Revisions that one side refused, with the reason.
    pub refused: Vec<(String, String)>,
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

/// Compares a range of both sides and mends what differs in the ways given, a page at a time.
pub fn check<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    link: &str,
    key: &DigestKey,
    range: Range,
    ways: Ways,
) -> Result<Report, Broken> {
    let mut report = Report::default();
    let mut search = Search::new(range, Options::default());
    let bytes_before = connection.bytes;
    loop {
        let done = search.step(&mut Through(local), &mut Remote(connection)).map_err(either)?;
        let ids: Vec<String> = search.take_differences().into_iter().map(|found| found.id).collect();
        for page in ids.chunks(PAGE_IDS) {
            page_of(local, connection, link, key, page, ways, &mut report)?;
        }
        if done {
            break;
        }
    }
    report.ranges = search.ranges_compared;
    report.rounds = search.rounds;
    report.bytes = connection.bytes - bytes_before;
    Ok(report)
}

/// Looks again at ids that differed, as one may have been on its way, and mends those that still do.
fn page_of<L: Local>(
    local: &mut L,
    connection: &mut Connection,
    link: &str,
    key: &DigestKey,
    ids: &[String],
    ways: Ways,
    report: &mut Report,
) -> Result<(), Broken> {
    let mut theirs = Remote(connection).fetch(ids)?;
    let ours = local.run(|| store::fetch(ids))?;
    let digest =
        |revision: Option<&Revision>, id: &str| revision.and_then(|revision| revision.digest(key, id));
    let differing: Vec<String> =
        ids.iter().filter(|id| digest(theirs.get(*id), id) != digest(ours.get(*id), id)).cloned().collect();
    report.differences += differing.len() as u64;
    report.in_flight += Remote(connection).pending(&differing)?;
    let room = IDS_MAX.saturating_sub(report.ids.len());
    report.ids.extend(differing.iter().take(room).cloned());
    if !(ways.to_redis || ways.from_redis) || differing.is_empty() {
        return Ok(());
    }
    let operations: Vec<(String, Operation)> = differing
        .iter()
        .filter(|_| ways.from_redis)
        .filter_map(|id| theirs.remove(id).map(|revision| (id.clone(), Operation::Apply(revision))))
        .collect();
    let applied: Vec<String> = operations.iter().map(|(id, _)| id.clone()).collect();
    let done = local.run(|| store::on_behalf_of(link, || store::run(operations)))?;
    let taken: std::collections::HashSet<&str> = applied
        .iter()
        .zip(&done)
        .filter(|(_, done)| done.joined == Some(Joined::Applied))
        .map(|(id, _)| id.as_str())
        .collect();
    report.repaired += taken.len() as u64;
    let back: Vec<(&str, Vec<u8>)> = differing
        .iter()
        .filter(|id| ways.to_redis && !taken.contains(id.as_str()))
        .filter_map(|id| ours.get(id).map(|revision| (id.as_str(), encode(revision))))
        .collect();
    for ((id, _), answer) in back.iter().zip(push(connection, link, &back)?) {
        match answer {
            Ok(_) => report.repaired += 1,
            Err(reason) => report.refused.push(((*id).to_owned(), reason)),
        }
    }
    Ok(())
}

/// Bytes of revisions pushed in one command.
const PUSH_BYTES_MAX: usize = 1 << 20;

/// Pushes revisions in commands of bounded size.
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
        answers.extend(Remote(connection).push(link, chunk)?);
        rest = later;
    }
    Ok(answers)
}
