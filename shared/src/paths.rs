//! Children of a path (DESIGN section 4): dots make a tree of ids, and no row or node exists for an inner path,
//! so its children are found by skipping through the ordered ids, one step a child.

use crate::id::{Path, successor};

/// Ordered ids as an engine offers them.
pub trait OrderedIds {
    /// What can go wrong in asking.
    type Error;

    /// The first id that is not less than `start` and less than `end`.
    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Result<Option<String>, Self::Error>;

    /// Whether an id exists.
    fn contains(&mut self, id: &str) -> Result<bool, Self::Error>;
}

impl OrderedIds for std::collections::BTreeSet<String> {
    type Error = std::convert::Infallible;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Result<Option<String>, Self::Error> {
        let first =
            self.range::<str, _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded)).next();
        Ok(first.filter(|id| end.is_none_or(|end| id.as_str() < end)).cloned())
    }

    fn contains(&mut self, id: &str) -> Result<bool, Self::Error> {
        Ok(std::collections::BTreeSet::contains(self, id))
    }
}

/// The children of a path, at most `limit`, in the order in which their first ids stand; `after` is the last
/// child of the page before.
///
/// A child `c` stands in two places: as the item `c`, and as the ids from `c.` on, with siblings such as `c-x`
/// between the two. It is given once, at the first place that exists.
pub fn children<O: OrderedIds>(
    ids: &mut O,
    path: &Path,
    after: Option<&Path>,
    limit: usize,
) -> Result<Vec<Path>, O::Error> {
    let below = path.below();
    let mut start = match after {
        None => below.start.clone(),
        Some(child) => past(child, ids.contains(child.as_str())?),
    };
    start = start.max(below.start.clone());
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(id) = ids.first_at_or_after(&start, below.end.as_deref())? else { break };
        let Some(child) = path.child_of(&id) else { break };
        let is_item = id == child.as_str();
        let met_before = !is_item && ids.contains(child.as_str())?;
        start = past(&child, is_item);
        if !met_before {
            found.push(child);
        }
    }
    Ok(found)
}

/// The children of a path that hold none of the ids of `dirty`, as pages of [`children`].
pub fn clean_children<O: OrderedIds>(
    ids: &mut O,
    dirty: &mut impl OrderedIds<Error = O::Error>,
    path: &Path,
    after: Option<&Path>,
    limit: usize,
) -> Result<Vec<Path>, O::Error> {
    let (mut clean, mut last) = (Vec::new(), after.cloned());
    loop {
        let page = children(ids, path, last.as_ref(), limit)?;
        let is_end = page.len() < limit;
        last = page.last().cloned();
        for child in page {
            if clean.len() < limit && !holds_any(dirty, &child)? {
                clean.push(child);
            }
        }
        if is_end || clean.len() == limit {
            return Ok(clean);
        }
    }
}

/// Whether any of the ids lies in the subtree of a path.
pub fn holds_any<O: OrderedIds>(ids: &mut O, path: &Path) -> Result<bool, O::Error> {
    for range in path.ranges() {
        if ids.first_at_or_after(&range.start, range.end.as_deref())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where to look on after a child: right behind its item, or behind everything below it.
fn past(child: &Path, at_item: bool) -> String {
    if at_item { successor(child.as_str()) } else { format!("{}/", child.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn clean_children_hold_no_dirty_id() {
        let ids: Vec<String> = (0..40).map(|number| format!("p{:02}.x", number)).collect();
        let mut set: BTreeSet<String> = ids.iter().cloned().collect();
        let mut dirty: BTreeSet<String> = ids.iter().filter(|id| id.as_str() < "p30").cloned().collect();
        let root = Path::new("").unwrap();
        let first = clean_children(&mut set, &mut dirty, &root, None, 4).unwrap();
        assert_eq!(first.iter().map(Path::as_str).collect::<Vec<_>>(), ["p30", "p31", "p32", "p33"]);
        let rest = clean_children(&mut set, &mut dirty, &root, first.last(), 100).unwrap();
        assert_eq!(rest.len(), 6);
        assert!(!holds_any(&mut dirty, &rest[0]).unwrap() && holds_any(&mut dirty, &root).unwrap());
    }

    #[test]
    fn each_child_is_given_once_on_pages_of_any_size() {
        let ids =
            ["a", "a!", "a-b", "a.b", "a.b.c", "a.c", "a/", "aa", "b.x", "b.y", "b-1", ".x", "x.", "x..y"];
        let mut set = ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<String>>();
        for path in ["", "a", "b", "x", "x.", "nothing"] {
            let path = Path::new(path).unwrap();
            let expected: BTreeSet<String> = ids
                .iter()
                .filter(|id| path.below().contains(id))
                .map(|id| path.child_of(id).unwrap().as_str().to_owned())
                .collect();
            for limit in 1..5 {
                let mut met = Vec::new();
                loop {
                    let last = met.last().map(|child: &String| Path::new(child).unwrap());
                    let page = children(&mut set, &path, last.as_ref(), limit).unwrap();
                    if page.is_empty() {
                        break;
                    }
                    met.extend(page.iter().map(|child| child.as_str().to_owned()));
                }
                assert_eq!(met.len(), expected.len(), "{path:?} in pages of {limit}: {met:?}");
                assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}
