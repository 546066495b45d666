//! Requests as words for Redis and as calls in SQL.

use super::{Page, PutOption, Request};
use postgres::types::ToSql;

/// A parameter of an SQL function: its name, what its place is cast to, and its value.
pub type Parameter = (&'static str, &'static str, Box<dyn ToSql + Sync>);

/// An argument in both languages.
struct Arg {
    words: Vec<Vec<u8>>,
    parameter: Option<Parameter>,
}

/// A request in both languages.
pub struct Form {
    command: Vec<&'static str>,
    function: &'static str,
    args: Vec<Arg>,
}

impl Form {
    /// The words for Redis.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let command = self.command.iter().map(|word| word.as_bytes().to_vec());
        command.chain(self.args.iter().flat_map(|arg| arg.words.iter().cloned())).collect()
    }

    /// The values for SQL.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.args.iter().filter_map(|arg| arg.parameter.as_ref())
    }

    /// The call, with a numbered place for each parameter.
    pub fn query(&self) -> String {
        let places: Vec<String> = self
            .parameters()
            .enumerate()
            .map(|(index, (name, cast, _))| format!("{name} => ${}::{cast}", index + 1))
            .collect();
        format!("SELECT * FROM tandem.{}({})", self.function, places.join(", "))
    }

    /// Puts a request in both languages.
    pub fn of(request: &Request) -> Form {
        match request {
            Request::Put(id, payload, options) => put(id, payload, options),
            Request::Merge(id, patch, options) => {
                let cast = if options.contains(&PutOption::Jsonb) { "text::jsonb" } else { "text" };
                let patch = Arg::new([patch.as_str()], ("patch", cast, Box::new(patch.clone())));
                // A patch is JSON whoever says it, so only SQL has two ways.
                let options: Vec<PutOption> =
                    options.iter().filter(|option| **option != PutOption::Jsonb).cloned().collect();
                form("TANDEM.MERGE", "merge", vec![text("id", id), patch]).with(&options)
            }
            Request::Get(id) => form("TANDEM.GET", "get", vec![text("id", id)]),
            Request::GetMany(ids) => form("TANDEM.MGET", "get_many", vec![texts("ids", ids)]),
            Request::Exists(id) => form("TANDEM.EXISTS", "exists", vec![text("id", id)]),
            Request::ExistsMany(ids) => form("TANDEM.MEXISTS", "exists_many", vec![texts("ids", ids)]),
            Request::Remove(id, options) => {
                form("TANDEM.REMOVE", "delete", vec![text("id", id)]).with(options)
            }
            Request::Status(id) => form("TANDEM.STATUS", "item_status", vec![text("id", id)]),
            Request::Apply(id, revision) => {
                form("TANDEM.APPLY", "apply", vec![text("id", id), bytes("revision", revision)])
            }
            Request::Verify => form("TANDEM.VERIFY", "verify", vec![]),
            Request::PutMany(items, options) => put_many(items, options),
            Request::PutItems(items, audit) => put_items(items, audit),
            Request::RemoveMany(ids, options) => {
                let numbered = Arg::words([ids.len().to_string()]);
                form("TANDEM.MREMOVE", "delete_many", vec![numbered, texts("ids", ids)]).with(options)
            }
            Request::Batch(ops, audit) => {
                form("TANDEM.BATCH", "batch", vec![json("ops", ops)]).with(&audit_option(audit))
            }
            Request::Scan(prefix, page) => {
                form("TANDEM.SCAN", "scan", vec![text("prefix", prefix)]).page(page)
            }
            Request::Count(prefix) => form("TANDEM.COUNT", "count", vec![text("prefix", prefix)]),
            Request::CountAll => form("TANDEM.COUNT", "count", vec![]),
            Request::RemovePrefix(prefix, limit, options) => {
                let args = vec![text("prefix", prefix)];
                form("TANDEM.REMOVEPREFIX", "delete_prefix", args).limit(*limit).with(options)
            }
            Request::Fold | Request::Odd(..) => unreachable!("it says itself what it is in both languages"),
            other => of_state(other).or_else(|| of_tree(other)).expect("every request has a form"),
        }
    }

    fn with(mut self, options: &[PutOption]) -> Form {
        self.args.extend(options.iter().map(option));
        self
    }

    fn page(mut self, page: &Page) -> Form {
        if let Some(id) = &page.after {
            self.args.push(Arg::new(["AFTER", id], ("after", "text", Box::new(id.clone()))));
        }
        self.limit(page.limit)
    }

    fn limit(mut self, limit: Option<i64>) -> Form {
        if let Some(number) = limit {
            let parameter: Parameter = ("lim", "bigint", Box::new(number));
            self.args.push(Arg::new(["LIMIT", &number.to_string()], parameter));
        }
        self
    }
}

fn of_state(request: &Request) -> Option<Form> {
    let command = |sub: &'static str, function: &'static str, args: Vec<Arg>| Form {
        command: vec!["TANDEM.STATE", sub],
        function,
        args,
    };
    Some(match request {
        Request::ListState(state, page) => {
            command("LIST", "list_state", vec![text("state", state)]).page(page)
        }
        Request::GetState(state, page) => command("GET", "get_state", vec![text("state", state)]).page(page),
        Request::CountState(state) => command("COUNT", "count_state", vec![text("state", state)]),
        Request::InState(id, state) => command("HAS", "in_state", vec![text("id", id), text("state", state)]),
        Request::SetState(id, state, options) => {
            command("SET", "set_state", vec![text("id", id), text("state", state)]).with(options)
        }
        Request::MoveState(id, [from, to], options) => {
            let args = vec![text("id", id), text("from_state", from), text("to_state", to)];
            command("MOVE", "move_state", args).with(options)
        }
        Request::RemoveState(state, limit, options) => {
            command("REMOVE", "delete_state", vec![text("state", state)]).limit(*limit).with(options)
        }
        _ => return None,
    })
}

fn of_tree(request: &Request) -> Option<Form> {
    let command = |sub: &'static str, function: &'static str, args: Vec<Arg>| Form {
        command: vec!["TANDEM.MERKLE", sub],
        function,
        args,
    };
    Some(match request {
        Request::Root => command("ROOT", "merkle_root", vec![]),
        Request::Hash(path) => command("HASH", "merkle_hash", vec![text("path", path)]),
        Request::Node(path) => command("NODE", "merkle_node", vec![text("path", path)]),
        Request::Children(path, page) => {
            command("CHILDREN", "merkle_children", vec![text("path", path)]).page(page)
        }
        Request::Leaves(path, page) => {
            command("LEAVES", "merkle_leaves", vec![text("path", path)]).page(page)
        }
        Request::Dirty(prefix, page) => command("DIRTY", "dirty", vec![text("prefix", prefix)]).page(page),
        Request::DirtyCount(prefix) => command("DIRTYCOUNT", "dirty_count", vec![text("prefix", prefix)]),
        Request::DirtyPrefixes(path, page) => {
            command("DIRTYPREFIXES", "dirty_prefixes", vec![text("path", path)]).page(page)
        }
        Request::Clean(path, page) => command("CLEAN", "clean_branches", vec![text("path", path)]).page(page),
        Request::IsClean(path) => command("ISCLEAN", "is_clean", vec![text("path", path)]),
        _ => return None,
    })
}

fn put(id: &str, payload: &[u8], options: &[PutOption]) -> Form {
    let as_text = || String::from_utf8(payload.to_vec()).expect("a case gives other bytes with Binary only");
    let (function, parameter): (_, Parameter) = if options.contains(&PutOption::Binary) {
        ("put_binary", ("payload", "bytea", Box::new(payload.to_vec())))
    } else if options.contains(&PutOption::Jsonb) {
        ("put", ("payload", "text::jsonb", Box::new(as_text())))
    } else {
        ("put", ("payload", "text", Box::new(as_text())))
    };
    form("TANDEM.PUT", function, vec![text("id", id), Arg::new([payload], parameter)]).with(options)
}

fn put_many(items: &[(String, String)], options: &[PutOption]) -> Form {
    let (ids, payloads): (Vec<String>, Vec<String>) = items.iter().cloned().unzip();
    let mut words = vec![items.len().to_string()];
    words.extend(items.iter().flat_map(|(id, payload)| [id.clone(), payload.clone()]));
    let args = vec![
        Arg::words(words),
        Arg { words: vec![], parameter: Some(("ids", "text[]", Box::new(ids))) },
        Arg { words: vec![], parameter: Some(("payloads", "text[]", Box::new(payloads))) },
    ];
    form("TANDEM.MPUT", "put_many", args).with(options)
}

/// Redis has no command of its own for it: a batch whose operations are all puts says the same.
fn put_items(items: &str, audit: &Option<String>) -> Form {
    let mut ops: serde_json::Value = serde_json::from_str(items).expect("a case gives JSON");
    for op in ops.as_array_mut().into_iter().flatten() {
        if let Some(members) = op.as_object_mut() {
            members.insert("op".to_owned(), "put".into());
        }
    }
    let ops = Arg::new([ops.to_string()], ("items", "text::jsonb", Box::new(items.to_owned())));
    form("TANDEM.BATCH", "put_many", vec![ops]).with(&audit_option(audit))
}

fn audit_option(audit: &Option<String>) -> Vec<PutOption> {
    audit.iter().map(|audit| PutOption::Audit(audit.clone())).collect()
}

fn option(option: &PutOption) -> Arg {
    let flag = |word: &str, name: &'static str| Arg::new([word], (name, "boolean", Box::new(true)));
    let named = |word: &str, name: &'static str, value: &String| {
        Arg::new([word, value], (name, "text", Box::new(value.clone())))
    };
    let typed = |word: &str, name: &str| Arg::new([word], ("type", "text", Box::new(name.to_owned())));
    match option {
        PutOption::Json => typed("JSON", "json"),
        PutOption::BinaryText => typed("BINARY", "binary"),
        PutOption::Jsonb => Arg::words(["JSON"]),
        PutOption::Binary => Arg::words(["BINARY"]),
        PutOption::Version(number) => {
            Arg::new(["VERSION", &number.to_string()], ("version", "bigint", Box::new(*number)))
        }
        PutOption::State(state) => named("STATE", "state", state),
        PutOption::IfMatch(etag) => named("IFMATCH", "if_match", etag),
        PutOption::IfAbsent => flag("IFABSENT", "if_absent"),
        PutOption::Audit(audit) => named("AUDIT", "audit", audit),
        PutOption::Local => flag("LOCAL", "local"),
        PutOption::Ttl(words) => Arg::words(words),
    }
}

impl Arg {
    fn new<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>, parameter: Parameter) -> Arg {
        Arg { parameter: Some(parameter), ..Arg::words(words) }
    }

    fn words<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Arg {
        Arg { words: words.into_iter().map(|word| word.as_ref().to_vec()).collect(), parameter: None }
    }
}

fn form(command: &'static str, function: &'static str, args: Vec<Arg>) -> Form {
    Form { command: vec![command], function, args }
}

fn text(name: &'static str, value: &str) -> Arg {
    Arg::new([value], (name, "text", Box::new(value.to_owned())))
}

fn json(name: &'static str, value: &str) -> Arg {
    Arg::new([value], (name, "text::jsonb", Box::new(value.to_owned())))
}

fn bytes(name: &'static str, value: &[u8]) -> Arg {
    Arg::new([value], (name, "bytea", Box::new(value.to_vec())))
}

fn texts(name: &'static str, values: &[String]) -> Arg {
    Arg::new(values, (name, "text[]", Box::new(values.to_vec())))
}
