//! Reads of the model.

use super::{Model, Stored, number};
use crate::answer::Answer;
use crate::request::{Page, Request};
use tandem_shared::{DigestKey, Fingerprint};

impl Model {
    pub(super) fn read(&self, request: &Request) -> Answer {
        match request {
            Request::Get(id) => self.item(id),
            Request::GetMany(ids) => Answer::List(ids.iter().map(|id| self.item(id)).collect()),
            Request::Exists(id) => number(self.live(id).is_some().into()),
            Request::ExistsMany(ids) => {
                Answer::List(ids.iter().map(|id| number(self.live(id).is_some().into())).collect())
            }
            Request::Status(id) => self.status(id),
            Request::Count(prefix) => self.count(&|id, _| id.starts_with(prefix.as_str())),
            Request::CountAll => self.count(&|_, _| true),
            Request::CountState(state) => self.count(&|_, stored| stored.state() == state),
            Request::InState(id, state) => {
                number(self.live(id).is_some_and(|stored| stored.state() == state).into())
            }
            Request::Scan(prefix, page) => self.items(page, &|id, _| id.starts_with(prefix.as_str())),
            Request::GetState(state, page) => self.items(page, &|_, stored| stored.state() == state),
            Request::ListState(state, page) => {
                let ids = self.page(page, &|_, stored| stored.state() == state);
                Answer::List(ids.into_iter().map(|(id, _)| Answer::text(id)).collect())
            }
            Request::Root => self.hash(""),
            Request::Hash(path) => self.hash(path),
            Request::Node(path) => self.node(path, true),
            Request::Children(path, page) => self.children(path, page),
            Request::Leaves(path, page) => {
                let leaves = self.page(page, &|id, stored| !stored.local && is_below(path, id));
                let leaf = |(id, stored): (&str, &Stored)| {
                    record([
                        ("id", Answer::text(id)),
                        ("etag", Answer::Text(stored.etag(id).expect("it lives"))),
                    ])
                };
                Answer::List(leaves.into_iter().map(leaf).collect())
            }
            other => panic!("sequences do not have {other:?}"),
        }
    }

    fn count(&self, chosen: &dyn Fn(&str, &Stored) -> bool) -> Answer {
        number(self.lives(chosen).len().try_into().expect("a small number"))
    }

    fn page(&self, page: &Page, chosen: &dyn Fn(&str, &Stored) -> bool) -> Vec<(&str, &Stored)> {
        let limit = page.limit.unwrap_or(100).try_into().expect("sequences have good limits");
        let after = |id: &str| page.after.as_deref().is_none_or(|after| id > after);
        let mut found = self.lives(|id, stored| after(id) && chosen(id, stored));
        found.truncate(limit);
        found
    }

    fn items(&self, page: &Page, chosen: &dyn Fn(&str, &Stored) -> bool) -> Answer {
        Answer::List(self.page(page, chosen).into_iter().map(|(id, _)| self.item(id)).collect())
    }

    fn item(&self, id: &str) -> Answer {
        let Some(stored) = self.live(id) else { return Answer::Nothing };
        let content = stored.revision.content().expect("it lives");
        let audit = stored.revision.audit.as_ref();
        record([
            ("id", Answer::text(id)),
            ("version", version(stored)),
            ("timestamp", number(stored.revision.timestamp.unix_ms().try_into().expect("63 bits"))),
            ("state", Answer::text(stored.state())),
            ("type", Answer::text(content.content_type().as_str())),
            ("payload", Answer::bytes(content.bytes())),
            ("hash", Answer::Text(content.payload_hash().to_hex())),
            ("etag", Answer::Text(stored.etag(id).expect("it lives"))),
            ("audit", audit.map_or(Answer::Nothing, |audit| Answer::text(audit.as_str()))),
        ])
    }

    fn status(&self, id: &str) -> Answer {
        let stored = self.current(id);
        let (status, tiers) = match stored {
            None => ("missing", "none"),
            Some(stored) if !stored.is_live() => ("removed", "none"),
            Some(stored) if stored.local => ("local", "here"),
            Some(_) => ("unlinked", "here"),
        };
        record([
            ("id", Answer::text(id)),
            ("status", Answer::text(status)),
            ("tiers", Answer::text(tiers)),
            ("direction", Answer::Nothing),
            ("version", stored.map_or(Answer::Nothing, version)),
            ("etag", stored.and_then(|stored| stored.etag(id)).map_or(Answer::Nothing, Answer::Text)),
        ])
    }

    fn sum(&self, path: &str) -> Fingerprint {
        let mut sum = Fingerprint::EMPTY;
        for (id, stored) in self.lives(|id, stored| !stored.local && is_below(path, id)) {
            let digest = stored.revision.digest(&DigestKey::new(b""), id).expect("it lives");
            sum += Fingerprint::of(&digest);
        }
        sum
    }

    fn hash(&self, path: &str) -> Answer {
        self.sum(path).node_hash().map_or(Answer::Nothing, Answer::Text)
    }

    fn node(&self, path: &str, pending: bool) -> Answer {
        let count = self.sum(path).count().try_into().expect("a small number");
        let mut fields =
            vec![("path", Answer::text(path)), ("hash", self.hash(path)), ("count", number(count))];
        if pending {
            fields.push(("pending", number(0)));
        }
        record(fields)
    }

    /// In the order of their first ids.
    fn children(&self, path: &str, page: &Page) -> Answer {
        assert_eq!(page.after, None, "sequences list children from the first on");
        let skip = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut children: Vec<&str> = Vec::new();
        for (id, _) in self.lives(|id, stored| !stored.local && id != path && is_below(path, id)) {
            let end = id[skip..].find('.').map_or(id.len(), |dot| skip + dot);
            if !children.contains(&&id[..end]) {
                children.push(&id[..end]);
            }
        }
        let limit = page.limit.unwrap_or(100).try_into().expect("sequences have good limits");
        Answer::List(children.into_iter().take(limit).map(|child| self.node(child, false)).collect())
    }
}

/// Whether the id is the path or below it.
fn is_below(path: &str, id: &str) -> bool {
    path.is_empty() || id.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn version(stored: &Stored) -> Answer {
    number(stored.revision.version.get().try_into().expect("63 bits"))
}

fn record(fields: impl IntoIterator<Item = (&'static str, Answer)>) -> Answer {
    Answer::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
