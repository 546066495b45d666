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
use redis_module::raw::ModuleOptions;
use redis_module::{Context, InfoContext, RedisResult, RedisString, Status, redis_module};

#[cfg(not(test))]
use redis_module::alloc::RedisAlloc as Allocator;
/// Unit tests run without a server, and so without its allocator.
#[cfg(test)]
use std::alloc::System as Allocator;
#[cfg(test)]
const ALLOCATOR: Allocator = std::alloc::System;
#[cfg(not(test))]
const ALLOCATOR: Allocator = redis_module::alloc::RedisAlloc;

fn init(context: &Context, _: &[RedisString]) -> Status {
    // Errors while loading are errors, not an exit; and a full sync then may come without a file.
    context.set_module_options(ModuleOptions::HANDLE_IO_ERRORS);
    if settings::install(context).is_err()
        || events::subscribe(context).is_none()
        || past::watch(context).is_none()
        || !states::register(context)
        || !docs::register(context)
    {
        context.log_warning("tandem: this server lacks an API the module needs; Redis 7.0.1 or later has it");
        return Status::Err;
    }
    retention::start(context);
    Status::Ok
}

redis_module! {
    name: "tandem",
    version: 1,
    allocator: (Allocator, ALLOCATOR),
    data_types: [ITEM_TYPE],
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
            ["content-bytes-max", &*settings::CONTENT_BYTES_MAX, settings::CONTENT_BYTES_DEFAULT, 1, settings::CONTENT_BYTES_DEFAULT, settings::CHANGEABLE, Some(Box::new(settings::changed))],
            ["printed-bytes-max", &*settings::PRINTED_BYTES_MAX, settings::PRINTED_BYTES_DEFAULT, 1, settings::PRINTED_BYTES_DEFAULT, settings::CHANGEABLE, Some(Box::new(settings::changed))],
            ["cdc-maxlen", &*settings::CDC_LENGTH_MAX, 0, 0, i64::MAX, settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))],
            ["tombstone-retention-ms", &*settings::RETENTION_MS, settings::RETENTION_MS_DEFAULT, 0, i64::MAX, settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))],
            ["fetch-timeout-ms", &*settings::FETCH_TIMEOUT_MS, settings::FETCH_TIMEOUT_DEFAULT, 1, 3_600_000, settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))],
            ["fetch-ids-max", &*settings::FETCH_IDS_MAX, settings::FETCH_IDS_DEFAULT, 1, 10_000_000, settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))],
            ["absent-memory-ms", &*settings::ABSENT_MEMORY_MS, settings::ABSENT_MEMORY_DEFAULT, 0, 3_600_000, settings::CHANGEABLE_NUMBER, Some(Box::new(settings::changed))],
            ["pending-bytes-max", &*settings::PENDING_BYTES_MAX, settings::PENDING_BYTES_DEFAULT, 1024, i64::MAX, settings::CHANGEABLE, Some(Box::new(settings::changed))],
        ],
        string: [
            ["digest-secret", &*settings::DIGEST_SECRET, "", settings::FIXED_SECRET, None],
        ],
        bool: [],
        enum: [],
        module_args_as_configuration: true,
    ]
}
