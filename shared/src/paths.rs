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

/// Where to look on after a child: right behind its item, or behind everything below it.
fn past(child: &Path, at_item: bool) -> String {
    if at_item { successor(child.as_str()) } else { format!("{}/", child.as_str()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    struct Set(BTreeSet<String>);

    impl OrderedIds for Set {
        type Error = Infallible;

        fn first_at_or_after(
            &mut self,
            start: &str,
            end: Option<&str>,
        ) -> Result<Option<String>, Infallible> {
            let first = self.0.range(start.to_owned()..).next().cloned();
            Ok(first.filter(|id| end.is_none_or(|end| id.as_str() < end)))
        }

        fn contains(&mut self, id: &str) -> Result<bool, Infallible> {
            Ok(self.0.contains(id))
        }
    }

    #[test]
    fn each_child_is_given_once_on_pages_of_any_size() {
        let ids =
            ["a", "a!", "a-b", "a.b", "a.b.c", "a.c", "a/", "aa", "b.x", "b.y", "b-1", ".x", "x.", "x..y"];
        let mut set = Set(ids.iter().map(|id| (*id).to_owned()).collect());
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
