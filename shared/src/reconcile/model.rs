//! The reference replica: a sorted map, sums taken afresh each time. Tests hold the engines and the index to it.

use super::{Entry, Replica};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::id::Range;
use crate::index::Part;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Ids with version and digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// The items.
    pub items: BTreeMap<String, (u64, Digest)>,
}

impl Model {
    fn inside<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = (&'a String, &'a (u64, Digest))> {
        self.items.range(range.start.clone()..).take_while(move |(id, _)| range.contains(id))
    }

    /// The fingerprint of a range.
    pub fn fingerprint(&self, range: &Range) -> Fingerprint {
        self.inside(range).map(|(_, (_, digest))| Fingerprint::of(digest)).sum()
    }
}

impl Replica for Model {
    type Error = Infallible;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Infallible> {
        Ok(ranges.iter().map(|range| self.fingerprint(range)).collect())
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Infallible> {
        let split = |range: &Range| {
            let ids: Vec<&String> = self.inside(range).map(|(id, _)| id).collect();
            let step = ids.len().div_ceil(parts).max(1);
            let mut starts = vec![range.start.clone()];
            starts.extend(ids.iter().step_by(step).skip(1).map(|id| (*id).clone()));
            let ends = starts.iter().skip(1).cloned().map(Some).chain([range.end.clone()]);
            starts
                .iter()
                .zip(ends)
                .map(|(start, end)| {
                    let range = Range::new(start.clone(), end);
                    Part { fingerprint: self.fingerprint(&range), range }
                })
                .collect()
        };
        Ok(ranges.iter().map(split).collect())
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Infallible> {
        let list = |range: &Range| {
            self.inside(range)
                .take(limit_each)
                .map(|(id, (version, digest))| Entry { id: id.clone(), version: *version, digest: *digest })
                .collect()
        };
        Ok(ranges.iter().map(list).collect())
    }
}
