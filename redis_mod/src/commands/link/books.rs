//! What the books of the links say.

use super::link_name;
use crate::args::Args;
use crate::engine;
use crate::reading::Reading;
use crate::reply::Reply;
use crate::store::selected;
use redis_module::{Context, RedisValue};
use tandem_shared::Result;

pub(super) fn pending(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let reply = Reply::new(context);
    let database = selected(context);
    if args.left() == 0 {
        let count = engine::with_database(database, |database| {
            let owed = database.pending.links().map(|(_, link)| database.owed_tombstones(link)).max();
            database.pending.len() + owed.unwrap_or(0)
        })?;
        reply.integer(count as u64);
        return Ok(RedisValue::NoReply);
    }
    let mut waits = Vec::new();
    while args.left() > 0 {
        let id = args.text("id")?;
        waits.push(engine::with_database(database, |database| database.pending.get(id).is_some())?);
    }
    reply.array(waits.len());
    for waits in waits {
        reply.integer(u64::from(waits));
    }
    Ok(RedisValue::NoReply)
}

/// Which ids wait for one link; none waits for a link that is not attached.
pub(super) fn waits(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let mut waits = Vec::new();
    while args.left() > 0 {
        let id = args.text("id")?;
        waits.push(engine::with_database(selected(context), |database| database.waits(name, id))?);
    }
    let reply = Reply::new(context);
    reply.array(waits.len());
    for waits in waits {
        reply.integer(u64::from(waits));
    }
    Ok(RedisValue::NoReply)
}

pub(super) fn list(context: &Context, args: &Args<'_>) -> Result<RedisValue> {
    args.end()?;
    let reply = Reply::new(context);
    engine::with_database(selected(context), |database| {
        reply.array(database.pending.links().count());
        for (name, link) in database.pending.links() {
            let reading = database.readings.get(name);
            reply.map(11);
            reply.bulk("name");
            reply.bulk(name);
            reply.bulk("acked");
            reply.integer(link.acked);
            reply.bulk("pending");
            reply.integer((link.len() + database.owed_tombstones(link)) as u64);
            reply.bulk("held");
            reply.integer(link.open_up_to(link.acked).len() as u64);
            for (name, word) in ["prefix", "mode", "direction"].iter().zip(link.scope.words()) {
                reply.bulk(name);
                reply.bulk(word);
            }
            reply.bulk("compared");
            reply.integer(u64::from(link.is_compared));
            reply.bulk("refused");
            reply.integer(link.refused.len() as u64);
            reply.bulk("fetching");
            reply.integer(reading.map_or(0, Reading::wanted) as u64);
            reply.bulk("filter");
            reply.bulk(reading.map_or("none", |reading| reading.filter().0));
        }
    })?;
    Ok(RedisValue::NoReply)
}
