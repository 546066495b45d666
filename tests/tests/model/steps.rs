//! The steps that sequences are made of, and the requests that they are.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tandem_shared::codec::encode;
use tandem_shared::content::Bounds;
use tandem_shared::{Audit, Body, Content, ContentType, Revision, State, Timestamp, Version};
use tandem_tests::model::Model;
use tandem_tests::request::{Page, PutOption, Request};

/// Few ids, so that operations meet; siblings, parents and letters of two bytes, so that orders differ.
const IDS: [&str; 7] = ["a", "a.b", "a.b.c", "a-b", "aa", "b", "é.x"];
const PREFIXES: [&str; 5] = ["", "a", "a.", "é", "none"];
const PATHS: [&str; 6] = ["", ".a", ".a.b", ".b", ".é", ".none"];
const STATES: [&str; 3] = ["default", "s", "t"];
const JSONS: [&str; 8] =
    ["{}", r#"{"a":1}"#, r#"{"a":2,"b":{"c":[1.0]}}"#, "[1]", "1", "null", r#""x""#, r#"{"b":{"d":null}}"#];
const TEXTS: [&str; 5] = ["1", "{}", r#"{"a":"#, "", " \"x\" "];
const PATCHES: [&str; 7] =
    ["{}", r#"{"a":1}"#, r#"{"a":null}"#, r#"{"b":{"c":null,"e":2}}"#, "[2]", "null", "{"];
const GIVEN_BATCH: &str = r#"{"batch":"00000000-0000-4000-8000-000000000001","home":"h"}"#;

/// Options of a write, as few as fit one line of a failure's report.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    version: Option<i64>,
    state: Option<&'static str>,
    /// `true`: the item's present etag; `false`: one that no item has.
    if_match: Option<bool>,
    if_absent: bool,
    home: bool,
    local: bool,
}

/// One step. Ids are those of the table above.
#[derive(Debug, Clone)]
pub enum Step {
    Put(&'static str, &'static str, PutOption, Extras),
    PutDetected(&'static str, &'static str, Extras),
    Merge(&'static str, &'static str, Extras),
    Remove(&'static str, Extras),
    SetState(&'static str, &'static str, Extras),
    MoveState(&'static str, &'static str, &'static str),
    PutMany(Vec<(&'static str, &'static str)>, Option<&'static str>, bool),
    RemoveMany(Vec<&'static str>, bool),
    Batch(Vec<(Operation, &'static str, Extras)>, bool),
    RemoveState(&'static str, Option<i64>),
    RemovePrefix(&'static str, Option<i64>),
    Apply(&'static str, u64, u64, Option<&'static str>, Option<char>),
    ReadItem(&'static str),
    ReadItems(Vec<&'static str>),
    ReadState(&'static str, &'static str, Option<&'static str>, Option<i64>),
    ReadPrefix(&'static str, Option<&'static str>, Option<i64>),
    ReadPath(&'static str, Option<&'static str>, Option<i64>),
}

/// What a batch does with an item.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Put(&'static str),
    Merge(&'static str),
    Delete,
    SetState(&'static str),
}

fn id() -> impl Strategy<Value = &'static str> {
    select(&IDS[..])
}

fn state() -> impl Strategy<Value = &'static str> {
    select(&STATES[..])
}

fn limit() -> impl Strategy<Value = Option<i64>> {
    option::of(1_i64..4)
}

fn extras() -> impl Strategy<Value = Extras> {
    let version = prop_oneof![20 => 1_i64..12, 1 => Just(1 << 62)];
    let rarely = |weight: f64| prop::bool::weighted(weight);
    (
        option::weighted(0.15, version),
        option::weighted(0.3, state()),
        option::weighted(0.2, prop::bool::weighted(0.8)),
        rarely(0.1),
        rarely(0.2),
        rarely(0.1),
    )
        .prop_map(|(version, state, if_match, if_absent, home, local)| Extras {
            version,
            state,
            // The two contradict each other.
            if_absent: if_absent && if_match.is_none(),
            if_match,
            home,
            local,
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    let json = select(&JSONS[..]);
    // A broken patch cannot stand in a batch.
    let patch = select(&PATCHES[..6]);
    prop_oneof![
        3 => json.prop_map(Operation::Put),
        2 => patch.prop_map(Operation::Merge),
        1 => Just(Operation::Delete),
        1 => state().prop_map(Operation::SetState),
    ]
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let json = || select(&JSONS[..]);
    let text = || select(&TEXTS[..]);
    let kind = prop_oneof![Just(PutOption::Json), Just(PutOption::Jsonb), Just(PutOption::BinaryText)];
    let time = 1_600_000_000_000_u64..1_600_000_000_003;
    let after = || option::of(id());
    prop_oneof![
        6 => (id(), json(), kind, extras()).prop_map(|(id, json, kind, extras)| Step::Put(id, json, kind, extras)),
        2 => (id(), text(), extras()).prop_map(|(id, text, extras)| Step::PutDetected(id, text, extras)),
        4 => (id(), select(&PATCHES[..]), extras()).prop_map(|(id, patch, extras)| Step::Merge(id, patch, extras)),
        3 => (id(), extras()).prop_map(|(id, extras)| Step::Remove(id, extras)),
        2 => (id(), state(), extras()).prop_map(|(id, state, extras)| Step::SetState(id, state, extras)),
        2 => (id(), state(), state()).prop_map(|(id, from, to)| Step::MoveState(id, from, to)),
        2 => (vec((id(), text()), 1..5), option::of(state()), any::<bool>())
            .prop_map(|(items, state, local)| Step::PutMany(items, state, local)),
        1 => (vec(id(), 1..4), any::<bool>()).prop_map(|(ids, given)| Step::RemoveMany(ids, given)),
        3 => (vec((operation(), id(), extras()), 0..5), any::<bool>())
            .prop_map(|(operations, given)| Step::Batch(operations, given)),
        1 => (state(), limit()).prop_map(|(state, limit)| Step::RemoveState(state, limit)),
        1 => (select(&PREFIXES[..]), limit()).prop_map(|(prefix, limit)| Step::RemovePrefix(prefix, limit)),
        3 => (id(), 1_u64..8, time, option::weighted(0.7, json()), option::of(prop::char::range('a', 'b')))
            .prop_map(|(id, version, time, json, home)| Step::Apply(id, version, time, json, home)),
        2 => id().prop_map(Step::ReadItem),
        1 => vec(id(), 1..5).prop_map(Step::ReadItems),
        2 => (state(), id(), after(), limit())
            .prop_map(|(state, id, after, limit)| Step::ReadState(state, id, after, limit)),
        2 => (select(&PREFIXES[..]), after(), limit())
            .prop_map(|(prefix, after, limit)| Step::ReadPrefix(prefix, after, limit)),
        2 => (select(&PATHS[..]), after(), limit())
            .prop_map(|(path, after, limit)| Step::ReadPath(path, after, limit)),
    ]
}

/// Steps as requests about the ids below a base of one sequence's own.
pub struct Speaker<'a> {
    /// What every id of the sequence begins with.
    pub base: &'a str,
    /// What is stored so far.
    pub model: &'a Model,
}

impl Speaker<'_> {
    fn id(&self, id: &str) -> String {
        format!("{}.{id}", self.base)
    }

    fn ids(&self, ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| self.id(id)).collect()
    }

    fn page(&self, after: &Option<&str>, limit: Option<i64>) -> Page {
        Page { after: after.map(|id| self.id(id)), limit }
    }

    fn etag(&self, id: &str, present: bool) -> String {
        self.model.etag(&self.id(id)).filter(|_| present).unwrap_or_else(|| "0".repeat(64))
    }

    /// The options that a command takes, by their names.
    fn options(&self, id: &str, extras: &Extras, taken: &str) -> Vec<PutOption> {
        let home = extras.home.then(|| PutOption::Audit(r#"{"home":"x"}"#.to_owned()));
        let given = [
            ("version", extras.version.map(PutOption::Version)),
            ("state", extras.state.map(|state| PutOption::State(state.to_owned()))),
            ("if_match", extras.if_match.map(|present| PutOption::IfMatch(self.etag(id, present)))),
            ("if_absent", extras.if_absent.then_some(PutOption::IfAbsent)),
            ("audit", home),
            ("local", extras.local.then_some(PutOption::Local)),
        ];
        let takes = |name: &str| taken.split(' ').any(|word| word == name);
        given.into_iter().filter(|(name, _)| takes(name)).filter_map(|(_, option)| option).collect()
    }

    fn operation(&self, (operation, id, extras): &(Operation, &str, Extras)) -> Value {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("good JSON");
        let (mut op, taken) = match operation {
            Operation::Put(json) => (
                json!({"op": "put", "payload": parsed(json)}),
                "version state if_match if_absent audit local",
            ),
            Operation::Merge(patch) => {
                (json!({"op": "merge", "patch": parsed(patch)}), "version state if_match if_absent audit")
            }
            Operation::Delete => (json!({"op": "delete"}), "version if_match audit"),
            Operation::SetState(state) => (json!({"op": "set_state", "state": state}), "if_match audit"),
        };
        op["id"] = self.id(id).into();
        for option in self.options(id, extras, taken) {
            match option {
                PutOption::Version(number) => op["version"] = number.into(),
                PutOption::State(state) => op["state"] = state.into(),
                PutOption::IfMatch(etag) => op["if_match"] = etag.into(),
                PutOption::IfAbsent => op["if_absent"] = true.into(),
                PutOption::Audit(audit) => op["audit"] = parsed(&audit),
                PutOption::Local => op["local"] = true.into(),
                other => panic!("{other:?} is no option of an operation"),
            }
        }
        op
    }

    /// A step as requests.
    pub fn requests(&self, step: &Step) -> Vec<Request> {
        const PUT: &str = "version state if_match if_absent audit local";
        const MERGE: &str = "version state if_match if_absent audit";
        let owned = |text: &str| text.to_owned();
        let one = match step {
            Step::Put(id, json, kind, extras) => {
                let mut options = self.options(id, extras, PUT);
                options.insert(0, kind.clone());
                Request::Put(self.id(id), json.as_bytes().to_vec(), options)
            }
            Step::PutDetected(id, text, extras) => {
                Request::Put(self.id(id), text.as_bytes().to_vec(), self.options(id, extras, PUT))
            }
            Step::Merge(id, patch, extras) => {
                Request::Merge(self.id(id), owned(patch), self.options(id, extras, MERGE))
            }
            Step::Remove(id, extras) => {
                Request::Remove(self.id(id), self.options(id, extras, "version if_match audit"))
            }
            Step::SetState(id, state, extras) => {
                Request::SetState(self.id(id), owned(state), self.options(id, extras, "if_match audit"))
            }
            Step::MoveState(id, from, to) => {
                Request::MoveState(self.id(id), [owned(from), owned(to)], vec![])
            }
            Step::PutMany(items, state, local) => {
                let items = items.iter().map(|(id, text)| (self.id(id), owned(text))).collect();
                let state = state.map(|state| PutOption::State(owned(state)));
                Request::PutMany(items, state.into_iter().chain(local.then_some(PutOption::Local)).collect())
            }
            Step::RemoveMany(ids, given) => {
                let audit = given.then(|| PutOption::Audit(owned(GIVEN_BATCH)));
                Request::RemoveMany(self.ids(ids), audit.into_iter().collect())
            }
            Step::Batch(operations, given) => {
                let ops: Vec<Value> = operations.iter().map(|operation| self.operation(operation)).collect();
                Request::Batch(Value::from(ops).to_string(), given.then(|| owned(GIVEN_BATCH)))
            }
            Step::RemoveState(state, limit) => Request::RemoveState(owned(state), *limit, vec![]),
            Step::RemovePrefix(prefix, limit) => Request::RemovePrefix(self.id(prefix), *limit, vec![]),
            Step::Apply(id, version, time, json, home) => {
                Request::Apply(self.id(id), revision(*version, *time, *json, *home))
            }
            Step::ReadItem(id) => {
                return vec![
                    Request::Get(self.id(id)),
                    Request::Exists(self.id(id)),
                    Request::Status(self.id(id)),
                ];
            }
            Step::ReadItems(ids) => {
                return vec![Request::GetMany(self.ids(ids)), Request::ExistsMany(self.ids(ids))];
            }
            Step::ReadState(state, id, after, limit) => {
                let page = self.page(after, *limit);
                return vec![
                    Request::ListState(owned(state), page.clone()),
                    Request::GetState(owned(state), page),
                    Request::CountState(owned(state)),
                    Request::InState(self.id(id), owned(state)),
                ];
            }
            Step::ReadPrefix(prefix, after, limit) => {
                let page = self.page(after, *limit);
                return vec![
                    Request::Scan(self.id(prefix), page),
                    Request::Count(self.id(prefix)),
                    Request::CountAll,
                ];
            }
            Step::ReadPath(path, after, limit) => {
                let path = format!("{}{path}", self.base);
                return vec![
                    Request::Hash(path.clone()),
                    Request::Node(path.clone()),
                    Request::Children(path.clone(), Page { after: None, limit: *limit }),
                    Request::Leaves(path, self.page(after, *limit)),
                    Request::Root,
                ];
            }
        };
        vec![one]
    }
}

fn revision(version: u64, time: u64, json: Option<&str>, home: Option<char>) -> Vec<u8> {
    let body = json.map_or(Body::Tombstone, |json| Body::Live {
        state: State::new("s").expect("a good state"),
        content: Content::new(ContentType::Json, json.as_bytes(), Bounds::MAX).expect("good JSON"),
    });
    encode(&Revision {
        version: Version::new(version.into()).expect("a good version"),
        timestamp: Timestamp::new(time.into()).expect("a good timestamp"),
        audit: home.map(|home| Audit::new(&format!("{{\"home\":\"{home}\"}}")).expect("a good audit object")),
        body,
    })
}
