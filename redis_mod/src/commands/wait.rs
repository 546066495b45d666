//! TANDEM.WAIT: write-through for who asks for it.

use crate::args::Args;
use crate::blocked::{self, Awaited, Taken};
use crate::engine;
use crate::store::{client_id, known_client, selected};
use redis_module::{Context, ContextFlags, RedisString, RedisValue};
use tandem_shared::Result;
use tandem_shared::request::check_wait;

/// TANDEM.WAIT
pub fn wait(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, "TANDEM.WAIT timeout-ms");
    let timeout_ms = args.unsigned("timeout")?;
    args.end()?;
    check_wait(i64::try_from(timeout_ms).unwrap_or(i64::MAX))?;
    let database = selected(context);
    let client = client_id(context);
    let known = known_client(context);
    let (taken, (count, all)) = engine::with_database(database, |database| {
        let taken = Taken {
            client: known,
            seq: database.pending.last_seq(),
            written: database.clients.waits(client),
        };
        let count = taken.count(&database.pending);
        (taken, count)
    })?;
    if all || context.get_flags().contains(ContextFlags::DENY_BLOCKING) {
        return Ok(RedisValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)));
    }
    blocked::block(context, database, Awaited::Taken(taken), timeout_ms);
    Ok(RedisValue::NoReply)
}
