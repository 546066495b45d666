//! A Redis as a side of a check: that of a link, or any other.

use super::connection::{Broken, Connection};
use super::peer::{Answer, Named, Peer, is_old_tombstone};
use super::remote::Remote;
use crate::fault_point::{self, Point};
use crate::store::Page;
use std::borrow::BorrowMut;
use std::collections::HashSet;
use tandem_shared::Fingerprint;
use tandem_shared::codec::encode;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::reconcile::{Entry, Replica};

/// A Redis.
pub struct Redis<'a, C> {
    /// The connection to it.
    pub connection: C,
    /// The link that is attached there, if it is checked as the other side of one.
    pub link: Option<&'a str>,
}

impl<C: BorrowMut<Connection>> Redis<'_, C> {
    fn remote(&mut self) -> Remote<'_> {
        Remote(self.connection.borrow_mut())
    }
}

impl<C: BorrowMut<Connection>> Replica for Redis<'_, C> {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        self.remote().fingerprints(ranges)
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        self.remote().splits(ranges, parts)
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        self.remote().lists(ranges, limit_each)
    }
}

impl<C: BorrowMut<Connection>> Peer for Redis<'_, C> {
    fn has_key(&mut self, check: &str) -> Result<bool, Broken> {
        self.remote().has_key(check)
    }

    fn fetch(&mut self, ids: &[String]) -> Result<Page, Broken> {
        let (mut found, answered) = self.remote().fetch(ids)?;
        let old: Vec<&str> = ids
            .iter()
            .map(String::as_str)
            .filter(|id| found.get(*id).is_some_and(is_old_tombstone))
            .collect();
        let waiting = self.waiting(&old)?;
        for id in old.into_iter().filter(|id| !waiting.contains(*id)) {
            found.remove(id);
        }
        Ok(Page { found, later: ids.iter().skip(answered).cloned().collect() })
    }

    fn join(&mut self, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken> {
        let encoded: Vec<(&str, Vec<u8>)> =
            revisions.iter().map(|(id, revision)| (*id, encode(revision))).collect();
        push(self.connection.borrow_mut(), self.link, &encoded)
    }

    fn waiting(&mut self, ids: &[&str]) -> Result<HashSet<String>, Broken> {
        let link = self.link;
        let waits = self.remote().waits(link, ids)?;
        Ok(ids.iter().zip(waits).filter(|(_, waits)| *waits).map(|(id, _)| (*id).to_owned()).collect())
    }

    fn bytes(&self) -> u64 {
        self.connection.borrow().bytes
    }

    fn records_conflicts(&self) -> bool {
        false
    }
}

/// Bytes of revisions pushed at a time.
const PUSH_BYTES_MAX: usize = 1 << 20;

/// Pushes revisions in parts of bounded size, on behalf of a link or of nobody. Errors: also when a revision is refused
/// for a reason that passes and is not its fault.
pub fn push(
    connection: &mut Connection,
    link: Option<&str>,
    revisions: &[(&str, Vec<u8>)],
) -> Result<Vec<Answer>, Broken> {
    let mut answers = Vec::with_capacity(revisions.len());
    let mut rest = revisions;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, revision)| {
            bytes += revision.len();
            bytes <= PUSH_BYTES_MAX
        });
        let (chunk, later) = rest.split_at(fits.count().max(1));
        let mut remote = Remote(connection);
        let answered = match link {
            Some(link) => remote.push(link, chunk)?,
            None => remote.join(chunk)?,
        };
        for answer in answered {
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
