//! Writes of the model.

use super::{Model, Options, Refusal, Stored, audit_of, now, number};
use crate::answer::Answer;
use crate::request::PutOption;
use serde_json::{Map, Value};
use tandem_shared::codec::{Source, decode};
use tandem_shared::content::Bounds;
use tandem_shared::{Audit, Body, Content, DigestKey, Revision, State, Version};

impl Model {
    pub(super) fn put(&mut self, id: &str, payload: &[u8], options: &[PutOption]) -> Result<Answer, Refusal> {
        let content = content_of(payload, options)?;
        let changed = self.write(id, content, Options::of(options))?;
        Ok(self.written(id, changed))
    }

    pub(super) fn merge(&mut self, id: &str, patch: &str, options: &[PutOption]) -> Result<Answer, Refusal> {
        let patch = canonical(patch.as_bytes())?;
        let changed = self.patch(id, &patch, Options::of(options))?;
        Ok(self.written(id, changed))
    }

    fn patch(&mut self, id: &str, patch: &[u8], mut options: Options) -> Result<bool, Refusal> {
        self.check(id, &options)?;
        let mut target = Value::Null;
        if let Some(stored) = self.live(id) {
            options.local = stored.local;
            let content = stored.revision.content().expect("a live item has content");
            target = match content.content_type().as_str() {
                "json" => serde_json::from_slice(content.bytes()).expect("stored JSON is good"),
                _ => return Err("INVALID"),
            };
        }
        let patch: Value = serde_json::from_slice(patch).expect("canonical JSON is good");
        let content = canonical(merged(target, patch).to_string().as_bytes())?;
        self.write(id, Content::json(&content, Bounds::MAX).expect("it is canonical"), options)
    }

    pub(super) fn remove(&mut self, id: &str, options: &[PutOption]) -> Result<bool, Refusal> {
        self.drop_item(id, Options::of(options))
    }

    fn drop_item(&mut self, id: &str, options: Options) -> Result<bool, Refusal> {
        self.check(id, &options)?;
        let Some(local) = self.live(id).map(|stored| stored.local) else { return Ok(false) };
        let version = self.next_version(id, options.version)?;
        if local {
            self.local.remove(id);
        } else {
            self.store(id, version, options.audit, Body::Tombstone, false);
        }
        Ok(true)
    }

    pub(super) fn set_state(
        &mut self,
        id: &str,
        from: Option<&String>,
        state: &str,
        options: &[PutOption],
    ) -> Result<Answer, Refusal> {
        let changed = self.restate(id, from, state, Options::of(options))?;
        Ok(self.written(id, changed))
    }

    fn restate(
        &mut self,
        id: &str,
        from: Option<&String>,
        state: &str,
        mut options: Options,
    ) -> Result<bool, Refusal> {
        self.check(id, &options)?;
        let stored = self.live(id).ok_or("NOTFOUND")?;
        if from.is_some_and(|from| from != stored.state()) {
            return Err("CONFLICT");
        }
        let content = stored.revision.content().expect("a live item has content").clone();
        options.local = stored.local;
        options.state = Some(state.to_owned());
        self.write(id, content, options)
    }

    pub(super) fn apply(&mut self, id: &str, revision: &[u8]) -> Result<Answer, Refusal> {
        let offered = decode(revision, Source::Foreign).expect("sequences have good revisions");
        let rank = |revision: &Revision| {
            let tombstone = revision.content().is_none();
            let digest = revision.digest(&DigestKey::new(b""), id).map(|digest| digest.0);
            let audit = revision.audit.as_ref().map(|audit| audit.as_str().to_owned());
            (revision.version, revision.timestamp, tombstone, digest, audit)
        };
        let current = self.shared.get(id).map(|stored| rank(&stored.revision));
        let word = match current.map(|current| rank(&offered).cmp(&current)) {
            None | Some(std::cmp::Ordering::Greater) => {
                self.keep(id, Stored { revision: offered, local: false });
                "applied"
            }
            Some(std::cmp::Ordering::Equal) => "unchanged",
            Some(std::cmp::Ordering::Less) => "stale",
        };
        Ok(Answer::text(word))
    }

    pub(super) fn put_many(
        &mut self,
        items: &[(String, String)],
        options: &[PutOption],
    ) -> Result<Answer, Refusal> {
        self.all(Options::of(options).audit, items, |model, stamp, (id, payload)| {
            let content = content_of(payload.as_bytes(), options)?;
            let options = Options { audit: Some(stamp(None)), ..Options::of(options) };
            model.write(id, content, options)
        })
    }

    pub(super) fn remove_many(&mut self, ids: &[String], options: &[PutOption]) -> Result<Answer, Refusal> {
        self.all(Options::of(options).audit, ids, |model, stamp, id| {
            model.drop_item(id, Options { audit: Some(stamp(None)), ..Options::default() })
        })
    }

    pub(super) fn batch(&mut self, ops: &str, audit: Option<&str>) -> Result<Answer, Refusal> {
        let ops: Vec<Map<String, Value>> = serde_json::from_str(ops).expect("sequences have good batches");
        self.all(audit.map(audit_of), &ops, |model, stamp, op| {
            let text = |name: &str| op.get(name).and_then(Value::as_str).map(str::to_owned);
            let own_audit = op.get("audit").map(|audit| audit_of(&audit.to_string()));
            let options = Options {
                version: op.get("version").and_then(Value::as_i64),
                state: text("state"),
                if_match: text("if_match"),
                if_absent: op.get("if_absent") == Some(&Value::Bool(true)),
                audit: Some(stamp(own_audit)),
                local: op.get("local") == Some(&Value::Bool(true)),
            };
            let id = text("id").expect("an operation names its item");
            match text("op").as_deref() {
                Some("put") => {
                    let payload = op.get("payload").expect("a put has a payload").to_string();
                    let content = Content::json(payload.as_bytes(), Bounds::MAX).map_err(|_| "BADJSON")?;
                    model.write(&id, content, options)
                }
                Some("merge") => {
                    let patch = op.get("patch").expect("a merge has a patch").to_string();
                    model.patch(&id, &canonical(patch.as_bytes())?, options)
                }
                Some("delete") => model.drop_item(&id, options),
                Some("set_state") => {
                    let state = options.state.clone().expect("a set_state has a state");
                    model.restate(&id, None, &state, options)
                }
                other => panic!("sequences do not have the operation {other:?}"),
            }
        })
    }

    /// Does one thing after the other under one batch id. `done` is given what stamps an audit object.
    fn all<T>(
        &mut self,
        audit: Option<Audit>,
        things: &[T],
        mut done: impl FnMut(&mut Model, &dyn Fn(Option<Audit>) -> Audit, &T) -> Result<bool, Refusal>,
    ) -> Result<Answer, Refusal> {
        let made_up = format!("11111111-0000-4000-8000-{:012x}", self.batches);
        let given = audit.as_ref().and_then(batch_of);
        let batch = given.unwrap_or(made_up);
        let stamp = |own: Option<Audit>| {
            let base = own.or_else(|| audit.clone());
            let mut members: Map<String, Value> = base
                .map(|audit| serde_json::from_str(audit.as_str()).expect("an audit object is an object"))
                .unwrap_or_default();
            members.entry("batch").or_insert_with(|| batch.clone().into());
            audit_of(&Value::Object(members).to_string())
        };
        let (mut written, mut unchanged) = (0, 0);
        for thing in things {
            let count = if done(self, &stamp, thing)? { &mut written } else { &mut unchanged };
            *count += 1;
        }
        self.batches += 1;
        let fields =
            [("written", number(written)), ("unchanged", number(unchanged)), ("batch", Answer::Text(batch))];
        Ok(Answer::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec()))
    }

    pub(super) fn remove_where(
        &mut self,
        limit: Option<i64>,
        chosen: &dyn Fn(&str, &Stored) -> bool,
    ) -> Result<Answer, Refusal> {
        let limit = limit.map_or(usize::MAX, |limit| limit.try_into().expect("sequences have good limits"));
        let ids: Vec<String> =
            self.lives(chosen).into_iter().take(limit).map(|(id, _)| id.to_owned()).collect();
        for id in &ids {
            self.drop_item(id, Options::default())?;
        }
        Ok(number(ids.len().try_into().expect("a small number")))
    }

    /// Whether the item changed.
    fn write(&mut self, id: &str, content: Content, options: Options) -> Result<bool, Refusal> {
        self.check(id, &options)?;
        let live = self.live(id);
        if options.local && live.is_some_and(|stored| !stored.local) {
            return Err("INVALID");
        }
        let kept = live.map(|stored| stored.state().to_owned());
        let state = options.state.clone().or(kept).unwrap_or_else(|| "default".to_owned());
        let same = live.is_some_and(|stored| {
            stored.state() == state
                && stored.local == options.local
                && stored.revision.content() == Some(&content)
        });
        let version = self.current(id).map(|stored| stored.revision.version.get());
        let asked = options.version.map(|version| version.try_into().expect("a positive version"));
        if same && (asked.is_none() || asked == version) {
            return Ok(false);
        }
        let version = self.next_version(id, options.version)?;
        let state = State::new(&state).expect("sequences have good states");
        self.store(id, version, options.audit, Body::Live { state, content }, options.local);
        Ok(true)
    }

    fn check(&self, id: &str, options: &Options) -> Result<(), Refusal> {
        let etag = self.etag(id);
        match &options.if_match {
            Some(expected) if etag.as_ref() != Some(expected) => Err("CONFLICT"),
            None if options.if_absent && etag.is_some() => Err("EXISTS"),
            _ => Ok(()),
        }
    }

    fn next_version(&self, id: &str, asked: Option<i64>) -> Result<Version, Refusal> {
        let current = self.current(id).map_or(0, |stored| stored.revision.version.get());
        let version = match asked {
            Some(asked) if i128::from(asked) <= i128::from(current) => return Err("STALE"),
            Some(asked) => asked.into(),
            None => i128::from(current) + 1,
        };
        Version::new(version).map_err(|_| "INVALID")
    }

    fn store(&mut self, id: &str, version: Version, audit: Option<Audit>, body: Body, local: bool) {
        let revision = Revision { version, timestamp: now(), audit, body };
        self.keep(id, Stored { revision, local });
    }

    /// What is shared takes a local item's place.
    fn keep(&mut self, id: &str, stored: Stored) {
        if stored.local {
            self.local.insert(id.to_owned(), stored);
        } else {
            self.local.remove(id);
            self.shared.insert(id.to_owned(), stored);
        }
    }

    fn written(&self, id: &str, changed: bool) -> Answer {
        let stored = self.live(id).expect("what was written lives");
        let version = stored.revision.version.get().try_into().expect("63 bits");
        let hash = stored.revision.content().expect("it lives").payload_hash().to_hex();
        let fields = [
            ("version", number(version)),
            ("etag", Answer::Text(stored.etag(id).expect("it lives"))),
            ("hash", Answer::Text(hash)),
            ("changed", number(changed.into())),
        ];
        Answer::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }
}

fn batch_of(audit: &Audit) -> Option<String> {
    let members: Map<String, Value> = serde_json::from_str(audit.as_str()).ok()?;
    Some(members.get("batch")?.as_str()?.to_owned())
}

fn canonical(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    tandem_shared::content::canonicalize(text).map_err(|_| "BADJSON")
}

fn content_of(payload: &[u8], options: &[PutOption]) -> Result<Content, Refusal> {
    let binary = || Ok(Content::binary(payload, Bounds::MAX).expect("sequences have small content"));
    let json = || Content::json(payload, Bounds::MAX).map_err(|_| "BADJSON");
    if options.iter().any(|option| matches!(option, PutOption::Binary | PutOption::BinaryText)) {
        return binary();
    }
    if options.iter().any(|option| matches!(option, PutOption::Json | PutOption::Jsonb)) {
        return json();
    }
    match payload.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => json().or_else(|_| binary()),
        _ => binary(),
    }
}

/// RFC 7396, section 2, word for word.
fn merged(target: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut target = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            let old = target.remove(&name).unwrap_or(Value::Null);
            target.insert(name, merged(old, value));
        }
    }
    Value::Object(target)
}
