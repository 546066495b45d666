//! What COMMAND DOCS and COMMAND INFO say: summary and key specs of every command.

use redis_module::{Context, raw};
use std::ffi::{CStr, c_int};

/// Where a command has its keys.
enum Keys {
    None,
    First,
    /// After the subcommand's name.
    Second,
    All,
    /// As many as the first argument says.
    Counted,
}

struct Doc {
    name: &'static CStr,
    summary: &'static CStr,
    complexity: &'static CStr,
    keys: Keys,
    writes: bool,
}

const DOCS: [Doc; 31] = [
    Doc {
        name: c"tandem.put",
        summary: c"Writes an item under the next version, or a given one",
        complexity: c"O(log N) and the size of the content",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.get",
        summary: c"Returns an item with version, state, hash and etag",
        complexity: c"O(1)",
        keys: Keys::First,
        writes: false,
    },
    Doc {
        name: c"tandem.mget",
        summary: c"Returns items in the order asked for, nil where there is none",
        complexity: c"O(1) an id",
        keys: Keys::All,
        writes: false,
    },
    Doc {
        name: c"tandem.exists",
        summary: c"Counts the ids that exist",
        complexity: c"O(1) an id",
        keys: Keys::All,
        writes: false,
    },
    Doc {
        name: c"tandem.remove",
        summary: c"Deletes an item here and in Postgres, leaving a tombstone",
        complexity: c"O(log N)",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.apply",
        summary: c"Joins an encoded revision: the greater one stays",
        complexity: c"O(log N) and the size of the content",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.scan",
        summary: c"Returns the items under a prefix in byte order, a page at a time",
        complexity: c"O(log N) and the page",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.count",
        summary: c"Counts the items under a prefix",
        complexity: c"O(log N)",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.merkle",
        summary: c"Returns the hash of all items or of a path, or a path's children",
        complexity: c"O(log N) a hash",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.getorput",
        summary: c"Returns an item, writing it first if there is none",
        complexity: c"O(log N) and the size of the content",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.merge",
        summary: c"Applies a JSON merge patch (RFC 7396) to an item",
        complexity: c"O(log N) and the size of the content",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.mexists",
        summary: c"Tells of each id whether it exists",
        complexity: c"O(1) an id",
        keys: Keys::All,
        writes: false,
    },
    Doc {
        name: c"tandem.status",
        summary: c"Tells where an item stands: which tiers have it, and what waits",
        complexity: c"O(log N)",
        keys: Keys::First,
        writes: false,
    },
    Doc {
        name: c"tandem.mput",
        summary: c"Writes many items, all or none",
        complexity: c"O(log N) an item and the size of the contents",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.mremove",
        summary: c"Deletes many items, all or none",
        complexity: c"O(log N) an id",
        keys: Keys::Counted,
        writes: true,
    },
    Doc {
        name: c"tandem.batch",
        summary: c"Runs puts, merges, deletions and changes of state, all or none",
        complexity: c"O(log N) an operation and the size of the contents",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.removeprefix",
        summary: c"Deletes the items under a prefix, here and in Postgres",
        complexity: c"O(log N) an item",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.state",
        summary: c"Items by their state",
        complexity: c"Depends on the subcommand",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.state|list",
        summary: c"Returns the ids that have a state in byte order, a page at a time",
        complexity: c"O(log N) and the page",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.state|get",
        summary: c"Returns the items that have a state in byte order, a page at a time",
        complexity: c"O(log N) and the page",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.state|count",
        summary: c"Counts the items that have a state",
        complexity: c"O(1)",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.state|has",
        summary: c"Tells whether an item has a state",
        complexity: c"O(1)",
        keys: Keys::Second,
        writes: false,
    },
    Doc {
        name: c"tandem.state|set",
        summary: c"Gives an item another state",
        complexity: c"O(log N)",
        keys: Keys::Second,
        writes: true,
    },
    Doc {
        name: c"tandem.state|move",
        summary: c"Moves an item from one state to another, if it is in the one",
        complexity: c"O(log N)",
        keys: Keys::Second,
        writes: true,
    },
    Doc {
        name: c"tandem.state|remove",
        summary: c"Deletes the items that have a state",
        complexity: c"O(log N) an item",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.state|help",
        summary: c"Tells what the subcommands are",
        complexity: c"O(1)",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.verify",
        summary: c"Recounts the database and compares it with the index",
        complexity: c"O(N log N)",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.wait",
        summary: c"Waits until the links have taken all writes before; returns how many have",
        complexity: c"O(1)",
        keys: Keys::None,
        writes: false,
    },
    Doc {
        name: c"tandem.link",
        summary: c"The worker's half of a link with Postgres",
        complexity: c"O(log N) an id or range",
        keys: Keys::None,
        writes: true,
    },
    Doc {
        name: c"tandem.join",
        summary: c"Joins a revision that a link or a check brings: the worker's half",
        complexity: c"O(log N) and the size of the content",
        keys: Keys::First,
        writes: true,
    },
    Doc {
        name: c"tandem.effect",
        summary: c"Internal: what replicas and the AOF get in place of a write",
        complexity: c"O(log N)",
        keys: Keys::None,
        writes: true,
    },
];

/// Registers the documentation, once, while the module loads. False if Redis refuses it.
pub fn register(context: &Context) -> bool {
    DOCS.iter().all(|doc| set(context, doc))
}

fn set(context: &Context, doc: &Doc) -> bool {
    let specs = key_specs(doc);
    let version = raw::RedisModuleCommandInfoVersion {
        version: 1,
        sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
        sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
        sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
    };
    // SAFETY: all-zero is the API's own way to say "not given" in this plain struct of pointers and numbers.
    let mut info: raw::RedisModuleCommandInfo = unsafe { std::mem::zeroed() };
    info.version = &raw const version;
    info.summary = doc.summary.as_ptr();
    info.complexity = doc.complexity.as_ptr();
    info.since = c"0.1.0".as_ptr();
    info.arity = arity(doc.name);
    info.key_specs = specs.as_ptr().cast_mut();
    // SAFETY: the strings and specs outlive the call, which copies them; the specs end with a zeroed one.
    let status = unsafe {
        let command = raw::RedisModule_GetCommand.map(|get| get(context.get_raw(), doc.name.as_ptr()));
        command.and_then(|command| raw::RedisModule_SetCommandInfo.map(|set| set(command, &raw const info)))
    };
    set_categories(context, doc);
    status == Some(raw::Status::Ok as i32)
}

/// The number of words that a command has, its name included, or the least number, negative, where there may be more.
/// Redis refuses others by itself, which within MULTI refuses the transaction, and in which the handler's own answer,
/// given at EXEC, comes too late.
fn arity(name: &CStr) -> c_int {
    match name.to_bytes() {
        b"tandem.verify" => 1,
        b"tandem.status" | b"tandem.wait" | b"tandem.state|help" => 2,
        b"tandem.apply" | b"tandem.state|count" => 3,
        b"tandem.state|has" => 4,
        b"tandem.count" => -1,
        b"tandem.put" | b"tandem.getorput" | b"tandem.merge" => -3,
        b"tandem.state|list" | b"tandem.state|get" | b"tandem.state|remove" => -3,
        b"tandem.state|set" => -4,
        b"tandem.state|move" => -5,
        _ => -2,
    }
}

/// Puts the command into ACL categories, where the server knows them for modules (Redis 7.2 on). On 7.0 each command
/// is granted by name.
fn set_categories(context: &Context, doc: &Doc) {
    let is_ours = [c"tandem.link", c"tandem.join", c"tandem.effect"].contains(&doc.name);
    let categories = match (is_ours, doc.writes) {
        (true, _) => c"admin dangerous",
        (false, true) => c"write",
        (false, false) => c"read",
    };
    // SAFETY: the command was registered before; the strings are literals, which Redis copies.
    let done = unsafe {
        let command = raw::RedisModule_GetCommand.map(|get| get(context.get_raw(), doc.name.as_ptr()));
        let set = raw::RedisModule_SetCommandACLCategories;
        command.and_then(|command| set.map(|set| set(command, categories.as_ptr())))
    };
    if done.is_some_and(|done| done != raw::Status::Ok as i32) {
        context.log_warning(&format!("tandem: {:?} is in no ACL category", doc.name));
    }
}

fn key_specs(doc: &Doc) -> Vec<raw::RedisModuleCommandKeySpec> {
    // SAFETY: as for the info above; a zeroed spec is also the end mark.
    let zeroed = || unsafe { std::mem::zeroed::<raw::RedisModuleCommandKeySpec>() };
    let mut specs = Vec::new();
    if !matches!(doc.keys, Keys::None) {
        let mut spec = zeroed();
        let access = if doc.name == c"tandem.getorput" {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_ACCESS | raw::REDISMODULE_CMD_KEY_UPDATE
        } else if doc.writes {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_UPDATE
        } else {
            raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS
        };
        spec.flags = access.into();
        spec.begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
        spec.bs.index.pos = if matches!(doc.keys, Keys::Second) { 2 } else { 1 };
        if matches!(doc.keys, Keys::Counted) {
            spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_KEYNUM;
            spec.fk.keynum = raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_2 {
                keynumidx: 0,
                firstkey: 1,
                keystep: 1,
            };
        } else {
            spec.find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
            let lastkey = if matches!(doc.keys, Keys::All) { -1 } else { 0 };
            spec.fk.range =
                raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_1 { lastkey, keystep: 1, limit: 0 };
        }
        specs.push(spec);
    }
    specs.push(zeroed());
    specs
}
