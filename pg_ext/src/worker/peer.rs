//! The sides of a check: what each must answer beside the fingerprints of the shared search, and this database as one.

use super::connection::Broken;
use super::losers::joined_before;
use super::transaction::{Failed, FailureKind};
use crate::error::Outcome;
use crate::log;
use crate::planning;
use crate::replica::Items;
use crate::settings;
use crate::store::{self, Page};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::digest::hex;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::limits::PAGE_BYTES_MAX;
use tandem_shared::reconcile::{Entry, Replica};
use tandem_shared::request::Operation;
use tandem_shared::{Digest, DigestKey, Fingerprint, Revision};

/// A revision and its id.
pub type Named<'a> = (&'a str, Revision);
/// What came of a revision that was joined, or why its side does not take it.
pub type Answer = Result<Joined, Refusal>;

/// Why a side does not take a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the side says.
    pub reason: String,
    /// Whether it may take it later.
    pub kind: FailureKind,
}

impl Refusal {
    /// The revision is refused for good.
    pub fn of_data(reason: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), kind: FailureKind::Data }
    }

    /// Somebody has locked the item.
    pub fn locked() -> Refusal {
        Refusal { reason: "another transaction has locked the item".to_owned(), kind: FailureKind::Lock }
    }

    /// As a transaction failed.
    pub fn of(failed: Failed) -> Refusal {
        Refusal { kind: failed.kind, reason: failed.message }
    }

    /// Whether it may be taken later.
    pub fn is_passing(&self) -> bool {
        !self.kind.is_of_data()
    }
}

/// One side of a check.
pub trait Peer: Replica<Error = Broken> {
    /// Whether its digests are made with the secret that has this check value (hex).
    fn has_key(&mut self, check: &str) -> Result<bool, Broken>;

    /// The current revisions of ids, as many as fit a page, without the tombstones that may be dropped any moment:
    /// those no longer say which way to join.
    fn fetch(&mut self, ids: &[String]) -> Result<Page, Broken>;

    /// The digests of those of the ids that are there.
    fn digests(&mut self, key: &DigestKey, ids: &[String]) -> Result<HashMap<String, Digest>, Broken> {
        let mut digests = HashMap::with_capacity(ids.len());
        let mut rest = ids.to_vec();
        while !rest.is_empty() {
            let Page { found, later, .. } = self.fetch(&rest)?;
            for (id, revision) in found {
                if let Some(digest) = revision.digest(key, &id) {
                    digests.insert(id, digest);
                }
            }
            rest = later.into_iter().collect();
        }
        Ok(digests)
    }

    /// Joins revisions, and answers each in order. Errors: whatever is not the fault of a revision.
    fn join(&mut self, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken>;

    /// Those of the ids that are on their way from it: over the link in question, or else over any.
    fn waiting(&mut self, ids: &[&str]) -> Result<HashSet<String>, Broken>;

    /// Whether each of these revisions was joined here before, as far as it is remembered.
    fn has_joined(&mut self, revisions: &[(&str, &Revision)]) -> Result<Vec<bool>, Broken> {
        Ok(vec![false; revisions.len()])
    }

    /// Counts what its fingerprints of a range are made of again and mends what does not add up. Returns how much
    /// that was.
    fn recount(&mut self, _: &Range) -> Result<u64, Broken> {
        Ok(0)
    }

    /// Why what it knows of its items may not be all that there is.
    fn doubts(&mut self) -> Result<Option<String>, Broken> {
        Ok(None)
    }

    /// Bytes sent to it and received.
    fn bytes(&self) -> u64;

    /// Whether it records the loser where two revisions of one version meet.
    fn records_conflicts(&self) -> bool;
}

/// How this side runs: a function inside its caller's transaction, a worker in one transaction a step.
pub trait Local {
    /// Runs `work` on the database.
    fn run<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Broken>;

    /// Runs `work`, which data may make fail; then nothing of it is done.
    fn attempt<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed>;
}

/// This database.
pub struct Here<'a, L> {
    /// How it runs.
    pub local: L,
    /// The link whose other side it is compared with, if that is one.
    pub link: Option<&'a str>,
    /// On whose behalf it joins: the link, or what is no link's name.
    pub origin: &'a str,
}

impl<L: Local> Replica for Here<'_, L> {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        self.local.run(|| Items.fingerprints(ranges))
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        self.local.run(|| Items.splits(ranges, parts))
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        self.local.run(|| Items.lists(ranges, limit_each))
    }
}

impl<L: Local> Peer for Here<'_, L> {
    fn has_key(&mut self, check: &str) -> Result<bool, Broken> {
        Ok(key_check() == check)
    }

    fn fetch(&mut self, ids: &[String]) -> Result<Page, Broken> {
        read(&self.local, ids, fetch_binding)
    }

    fn digests(&mut self, _: &DigestKey, ids: &[String]) -> Result<HashMap<String, Digest>, Broken> {
        self.local.run(|| crate::replica::digests(ids))
    }

    fn join(&mut self, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken> {
        join_here(&self.local, self.origin, revisions)
    }

    fn waiting(&mut self, ids: &[&str]) -> Result<HashSet<String>, Broken> {
        self.local.run(|| waiting_here(self.link, ids))
    }

    fn has_joined(&mut self, revisions: &[(&str, &Revision)]) -> Result<Vec<bool>, Broken> {
        self.local.run(|| joined_before(revisions))
    }

    fn recount(&mut self, range: &Range) -> Result<u64, Broken> {
        self.local.run(|| Ok(log::mend(range, false)?.unwrap_or(0)))
    }

    fn doubts(&mut self) -> Result<Option<String>, Broken> {
        const DOUBT: &str = "SELECT d FROM tandem.doubtful() d LIMIT 1";
        self.local.run(|| {
            planning::by_index(|| {
                Spi::connect(|client| {
                    let rows = client.select(DOUBT, None, &[])?;
                    Ok(rows.into_iter().next().map(|row| row.get::<String>(1)).transpose()?.flatten())
                })
            })
        })
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn records_conflicts(&self) -> bool {
        true
    }
}

/// Check value of this side's digest key, in hex.
pub fn key_check() -> String {
    hex(&settings::digest_key().check())
}

/// Whether a tombstone is old enough to be dropped.
pub fn is_old_tombstone(revision: &Revision) -> bool {
    revision.head().is_tombstone()
        && revision.timestamp < settings::tombstone_retention().bound_since(store::now())
}

/// The current revisions of ids here that bind.
pub fn fetch_binding(ids: &[String]) -> Outcome<Page> {
    let Page { mut found, later, unreadable } = store::fetch(ids)?;
    let old = found.iter().filter(|(_, revision)| is_old_tombstone(revision)).map(|(id, _)| id.clone());
    for id in old.collect::<Vec<_>>() {
        if let Some(revision) = found.get(&id)
            && !store::is_binding(&id, &revision.head())?
        {
            found.remove(&id);
        }
    }
    Ok(Page { found, later, unreadable })
}

/// Reads ids here, together if all of them can be read, and otherwise each by itself, so that one that cannot be is
/// named.
pub fn read(
    local: &impl Local,
    ids: &[String],
    fetch: fn(&[String]) -> Outcome<Page>,
) -> Result<Page, Broken> {
    match local.attempt(|| fetch(ids)) {
        Ok(page) => return Ok(page),
        Err(failed) if !failed.is_of_data() => return Err(failed.into()),
        Err(_) => {}
    }
    let (mut all, mut bytes) = (Page::default(), 0);
    for id in ids {
        if bytes > PAGE_BYTES_MAX {
            all.later.insert(id.clone());
            continue;
        }
        match local.attempt(|| fetch(std::slice::from_ref(id))) {
            Ok(page) => {
                let contents = page.found.values().filter_map(Revision::content);
                bytes += contents.map(|content| content.bytes().len()).sum::<usize>();
                all.found.extend(page.found);
                all.unreadable.extend(page.unreadable);
            }
            Err(failed) if failed.is_of_data() => drop(all.unreadable.insert(id.clone(), failed.message)),
            Err(failed) => return Err(failed.into()),
        }
    }
    Ok(all)
}

/// Joins revisions here: all at once, or each by itself if one cannot be stored.
pub fn join_here(local: &impl Local, origin: &str, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken> {
    if revisions.is_empty() {
        return Ok(Vec::new());
    }
    let join = |part: &[Named<'_>]| {
        let operation = |(id, revision): &Named<'_>| ((*id).to_owned(), Operation::Apply(revision.clone()));
        let operations = part.iter().map(operation).collect();
        let done = local.attempt(|| store::on_behalf_of(origin, || store::run(operations)))?;
        Ok::<_, Failed>(
            done.into_iter()
                .map(|done| Ok(done.joined.unwrap_or(Joined::Unchanged)))
                .collect::<Vec<Answer>>(),
        )
    };
    if let Ok(answers) = join(revisions) {
        return Ok(answers);
    }
    let mut answers = Vec::with_capacity(revisions.len());
    for revision in revisions {
        match join(std::slice::from_ref(revision)) {
            Ok(answer) => answers.extend(answer),
            // Also what passes where it is the server's: a trigger may give any SQLSTATE for this item alone.
            Err(failed) => answers.push(Err(Refusal::of(failed))),
        }
    }
    Ok(answers)
}

const UNPUSHED: &str = "SELECT DISTINCT c.id FROM tandem.links l CROSS JOIN LATERAL tandem.untaken(l.name) c \
    WHERE l.name = coalesce($1, l.name) AND c.id = ANY($2)";

/// Those of the ids that the log still holds for a link, or for any.
pub fn waiting_here(link: Option<&str>, ids: &[&str]) -> Outcome<HashSet<String>> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    planning::by_index(|| {
        Spi::connect(|client| {
            let mut waiting = HashSet::new();
            for row in client.select(UNPUSHED, None, &[link.into(), ids.to_vec().into()])? {
                waiting.extend(row.get::<String>(1)?);
            }
            Ok(waiting)
        })
    })
}
