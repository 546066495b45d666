//! No panic reaches the server: every callback runs inside [`caught`].

use crate::arrivals;
use crate::engine;
use crate::reply::Reply;
use redis_module::{Context, RedisResult, RedisString, RedisValue, logging, raw};
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tandem_shared::Error;

/// What a command handler is here.
pub type Handler = fn(&Context, Vec<RedisString>) -> tandem_shared::Result<RedisValue>;

/// Runs a command: an error becomes `-CODE message`, a panic `-CORRUPT …` and a line in the log.
pub fn command(handler: Handler) -> impl Fn(&Context, Vec<RedisString>) -> RedisResult {
    move |context, args| Ok(run(context, args, handler))
}

/// Runs a command that Redis calls without the crate between.
pub fn run_raw(
    context: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
    handler: Handler,
) -> c_int {
    let args = redis_module::decode_args(context, argv, argc);
    let context = Context::new(context);
    context.reply(Ok(run(&context, args, handler))) as c_int
}

/// Runs a command that has waited, and answers its client.
pub fn run_and_reply(context: &Context, args: Vec<RedisString>, handler: Handler) {
    let answer = run(context, args, handler);
    context.reply(Ok(answer));
}

fn run(context: &Context, args: Vec<RedisString>, handler: Handler) -> RedisValue {
    let result = catch_unwind(AssertUnwindSafe(|| {
        arrivals::settle(context);
        handler(context, args)
    }));
    let outcome = result.unwrap_or_else(|_| {
        note_panic("a command");
        Err(Error::corrupt("module", "a command failed half-way (see the server log)"))
    });
    // Not through RedisError: the crate cuts every character of a message to one byte.
    outcome.unwrap_or_else(|error| {
        Reply::new(context).error(&error);
        RedisValue::NoReply
    })
}

/// Runs a callback that has nobody to answer to; after a panic the fallback is returned.
pub fn caught<T>(what: &str, fallback: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        note_panic(what);
        fallback
    })
}

fn note_panic(what: &str) {
    let _ = engine::with(|engine| engine.panics += 1);
    logging::log_warning(format!("tandem: {what} panicked; run TANDEM.VERIFY and report this"));
}
