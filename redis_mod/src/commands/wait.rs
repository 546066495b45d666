//! TANDEM.WAIT: write-through for who asks for it.

use crate::args::Args;
use crate::engine;
use crate::store::selected;
use crate::waiting::{self, Wait, caught_up};
use redis_module::{Context, ContextFlags, RedisString, RedisValue};
use tandem_shared::{Error, Result};

/// Longest wait, in milliseconds: a day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;

/// TANDEM.WAIT
pub fn wait(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.WAIT timeout-ms");
    let timeout_ms = args.unsigned("timeout")?;
    args.end()?;
    if timeout_ms > TIMEOUT_MS_MAX {
        return Err(Error::invalid(
            format!("timeout {timeout_ms}"),
            "is out of range",
            format!("give milliseconds up to {TIMEOUT_MS_MAX}, or 0 to wait for ever"),
        ));
    }
    let database = selected(context);
    let (seq, (count, all)) = engine::with_database(database, |database| {
        let seq = database.pending.last_seq();
        (seq, caught_up(&database.pending, seq))
    })?;
    if all || context.get_flags().contains(ContextFlags::DENY_BLOCKING) {
        return Ok(RedisValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)));
    }
    waiting::block(context, Wait { database, seq }, timeout_ms);
    Ok(RedisValue::NoReply)
}
