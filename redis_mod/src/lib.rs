//! tandem's Redis module: items as a native data type, an exact fingerprint index over them, and the half of the
//! link that runs in Redis. The rules are those of `tandem_shared`; this crate parses, asks, stores and replies.
#![allow(
    clippy::unwrap_used,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    reason = "the code that redis_module! generates in this file; the modules below set the lints again"
)]

#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod acl;
mod args;
mod arrivals;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod blocked;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod cdc;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod clients;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod commands;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod datatype;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod decide;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod docs;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod engine;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod events;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod ghosts;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod guard;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod info;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod item;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod keys;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod moved;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod past;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod pending;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod persist;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod read_through;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod reading;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod reply;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod retention;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod settings;
#[warn(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, missing_docs)]
mod store;

use commands::{batches, effect, items, link, merkle, pages, states, wait};
use datatype::ITEM_TYPE;
use events::on_keyspace;
use guard::command;
use info::info;
use redis_module::raw::{ModuleOptions, RedisModuleCtx};
use redis_module::{Context, InfoContext, RedisResult, RedisString, Status, redis_module};
use settings::{
    ABSENT_MEMORY, CDC_LENGTH, CONTENT_BYTES, FETCH_IDS, FETCH_TIMEOUT, PENDING_BYTES, PRINTED_BYTES,
    RETENTION,
};

#[cfg(not(test))]
use redis_module::alloc::RedisAlloc as Allocator;
/// Unit tests run without a server, and so without its allocator.
#[cfg(test)]
use std::alloc::System as Allocator;
#[cfg(test)]
const ALLOCATOR: Allocator = std::alloc::System;
#[cfg(not(test))]
const ALLOCATOR: Allocator = redis_module::alloc::RedisAlloc;

/// Named before the data type, as all data types are made before anything else is asked of the server: one that is
/// older than what the registration of settings needs refuses the module here, and lives.
struct Floor;

static FLOOR: Floor = Floor;

impl Floor {
    /// What a data type has in its place. Errors: the server has no settings of modules.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "called as a data type's method is")]
    fn create_data_type(&self, context: *mut RedisModuleCtx) -> Result<(), &'static str> {
        // SAFETY: set once, by the server, before the module is loaded.
        if unsafe { redis_module::raw::RedisModule_RegisterNumericConfig }.is_some() {
            return Ok(());
        }
        Context::new(context).log_warning(TOO_OLD);
        Err(TOO_OLD)
    }
}

const TOO_OLD: &str = "tandem: this server lacks an API the module needs; Redis 7.0.1 or later has it";

fn init(context: &Context, arguments: &[RedisString]) -> Status {
    if let Err(error) = settings::check_arguments(arguments) {
        context.log_warning(&format!("tandem: {error}"));
        return Status::Err;
    }
    // Errors while loading are errors, not an exit; and a full sync then may come without a file. Whoever opens a key
    // for writing says itself whether it has changed it.
    context.set_module_options(ModuleOptions::HANDLE_IO_ERRORS | ModuleOptions::NO_IMPLICIT_SIGNAL_MODIFIED);
    if settings::install(context).is_err()
        || events::subscribe(context).is_none()
        || past::watch(context).is_none()
        || !states::register(context)
        || !docs::register(context)
    {
        context.log_warning(TOO_OLD);
        return Status::Err;
    }
    retention::start(context);
    Status::Ok
}

redis_module! {
    name: "tandem",
    version: 1,
    allocator: (Allocator, ALLOCATOR),
    data_types: [FLOOR, ITEM_TYPE],
    init: init,
    info: info,
    commands: [
        ["tandem.put", command(items::put), "write deny-oom", 1, 1, 1, ""],
        ["tandem.getorput", command(items::get_or_put), "write deny-oom", 1, 1, 1, ""],
        ["tandem.merge", command(items::merge), "write deny-oom", 1, 1, 1, ""],
        ["tandem.get", command(items::get), "readonly fast", 1, 1, 1, ""],
        ["tandem.mget", command(items::mget), "readonly", 1, -1, 1, ""],
        ["tandem.exists", command(items::exists), "readonly fast", 1, -1, 1, ""],
        ["tandem.mexists", command(items::mexists), "readonly fast", 1, -1, 1, ""],
        ["tandem.remove", command(items::remove), "write", 1, 1, 1, ""],
        ["tandem.status", command(items::status), "readonly fast", 1, 1, 1, ""],
        ["tandem.apply", command(items::apply), "write deny-oom", 1, 1, 1, ""],
        ["tandem.mput", command(batches::mput), "write deny-oom getkeys-api", 0, 0, 0, ""],
        ["tandem.mremove", command(batches::mremove), "write", 0, 0, 0, ""],
        ["tandem.batch", command(batches::batch), "write deny-oom", 0, 0, 0, ""],
        ["tandem.scan", command(pages::scan), "readonly", 0, 0, 0, ""],
        ["tandem.count", command(pages::count), "readonly fast", 0, 0, 0, ""],
        ["tandem.removeprefix", command(pages::remove_prefix), "write", 0, 0, 0, ""],
        ["tandem.merkle", command(merkle::merkle), "readonly", 0, 0, 0, ""],
        ["tandem.verify", command(merkle::verify), "readonly", 0, 0, 0, ""],
        ["tandem.wait", command(wait::wait), "readonly", 0, 0, 0, ""],
        // Not deny-oom: pulls and acknowledgements are what makes room again. PUSH and JOIN look by themselves.
        ["tandem.link", command(link::link), "write deny-script", 0, 0, 0, ""],
        ["tandem.join", command(link::join), "write deny-script", 1, 1, 1, ""],
        ["tandem.effect", command(effect::effect), "write deny-script", 0, 0, 0, ""],
    ],
    event_handlers: [
        [@NEW @LOADED @EXPIRED @EVICTED @GENERIC: on_keyspace],
    ],
    configurations: [
        i64: [
            [
                CONTENT_BYTES.name, &*settings::CONTENT_BYTES_MAX, CONTENT_BYTES.default, CONTENT_BYTES.min, CONTENT_BYTES.max,
                settings::CHANGEABLE, Some(Box::new(settings::changed))
            ],
            [
                PRINTED_BYTES.name, &*settings::PRINTED_BYTES_MAX, PRINTED_BYTES.default, PRINTED_BYTES.min, PRINTED_BYTES.max,
                settings::CHANGEABLE, Some(Box::new(settings::changed))
            ],
            [
                CDC_LENGTH.name, &*settings::CDC_LENGTH_MAX, CDC_LENGTH.default, CDC_LENGTH.min, CDC_LENGTH.max,
                settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))
            ],
            [
                RETENTION.name, &*settings::RETENTION_MS, RETENTION.default, RETENTION.min, RETENTION.max,
                settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))
            ],
            [
                FETCH_TIMEOUT.name, &*settings::FETCH_TIMEOUT_MS, FETCH_TIMEOUT.default, FETCH_TIMEOUT.min, FETCH_TIMEOUT.max,
                settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))
            ],
            [
                FETCH_IDS.name, &*settings::FETCH_IDS_MAX, FETCH_IDS.default, FETCH_IDS.min, FETCH_IDS.max,
                settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))
            ],
            [
                ABSENT_MEMORY.name, &*settings::ABSENT_MEMORY_MS, ABSENT_MEMORY.default, ABSENT_MEMORY.min, ABSENT_MEMORY.max,
                settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))
            ],
            [
                PENDING_BYTES.name, &*settings::PENDING_BYTES_MAX, PENDING_BYTES.default, PENDING_BYTES.min, PENDING_BYTES.max,
                settings::CHANGEABLE, Some(Box::new(settings::changed))
            ],
        ],
        string: [
            [settings::DIGEST_SECRET_NAME, &*settings::DIGEST_SECRET, "", settings::FIXED_SECRET, None],
        ],
        bool: [],
        enum: [],
        module_args_as_configuration: true,
    ]
}
