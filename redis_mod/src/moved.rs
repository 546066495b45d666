//! Ghosts of slots that another master of a cluster has now. Books do not move with slots: where the slot is, nothing
//! is known of what has expired, and here a ghost would stand in comparisons for a copy that the other master is to
//! have. So they are forgotten before anything is compared, which then brings the copies to where the slot is.

use crate::engine;
use crate::retention::may_write;
use redis_module::{CallOptionsBuilder, CallResult, Context, ContextFlags};
use tandem_shared::Result;
use tandem_shared::cluster::{OwnSlots, slot_of};

/// Ids told of at a time.
const PAGE: usize = 1000;

/// Forgets the ghosts of the selected database, the only one of a cluster, that are not this node's any more.
pub fn forget_ghosts(context: &Context) -> Result<()> {
    const DATABASE: i32 = 0;
    if !context.get_flags().contains(ContextFlags::CLUSTER) || !may_write(context) {
        return Ok(());
    }
    if engine::with_database(DATABASE, |database| database.ghosts.index().is_empty())? {
        return Ok(());
    }
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    let answer = context.call_ext::<_, CallResult<'_>>("CLUSTER", &options, &["NODES"]);
    let Ok(redis_module::CallReply::String(nodes)) = answer else { return Ok(()) };
    let Some(own) = nodes.to_string().as_deref().and_then(OwnSlots::of_nodes) else { return Ok(()) };
    let moved = engine::with_database(DATABASE, |database| {
        let ids = database.ghosts.iter().map(|(id, ..)| id);
        let moved: Vec<Box<str>> = ids.filter(|id| !own.has(slot_of(id))).map(Into::into).collect();
        for id in &moved {
            database.ghosts.remove(id);
        }
        moved
    })?;
    for page in moved.chunks(PAGE) {
        let words: Vec<&str> = std::iter::once("FORGET").chain(page.iter().map(AsRef::as_ref)).collect();
        context.replicate("TANDEM.EFFECT", words.as_slice());
    }
    Ok(())
}
