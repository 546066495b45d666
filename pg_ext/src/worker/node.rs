//! What a session holds of one Redis server, or of one master of a cluster: the connection on which it pulls, and how far
//! it has come. Each server counts for itself.

use super::connection::{Broken, Connection};
use super::remote::{Pulled, Remote};
use super::shards::{Shard, Shards};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// Entries asked for in one pull.
const PULL_ITEMS: usize = 2000;
/// Bytes asked for in one pull.
const PULL_BYTES: usize = 8 << 20;
/// How long a pull blocks in Redis. Shorter than the socket's time-out.
const PULL_BLOCK_MS: u64 = 5000;
/// A pull without an answer for so long has lost its connection, or the network says nothing of the loss.
const PULL_LOST: Duration = Duration::from_millis(PULL_BLOCK_MS + 10_000);

/// A server.
pub struct Node {
    address: String,
    run: String,
    pull: Connection,
    asked: Option<Instant>,
    after: u64,
    acknowledged: u64,
}

impl Node {
    fn open(shards: &Shards, shard: &Shard) -> Result<Node, Broken> {
        Ok(Node {
            address: shard.address.clone(),
            run: shard.run.clone(),
            pull: shards.connect(shard)?,
            asked: None,
            after: 0,
            acknowledged: 0,
        })
    }

    /// Makes `nodes` those of `shards`: what has gone is dropped, what has come begins. Returns whether any has.
    pub fn follow(nodes: &mut Vec<Node>, shards: &Shards) -> Result<bool, Broken> {
        nodes.retain(|node| shards.iter().any(|shard| node.address == shard.address));
        let is_known = |shard: &&Shard| nodes.iter().any(|node| node.address == shard.address);
        let new = shards.iter().filter(|shard| !is_known(shard)).map(|shard| Node::open(shards, shard));
        let new = new.collect::<Result<Vec<_>, _>>()?;
        let any = !new.is_empty();
        nodes.extend(new);
        Ok(any)
    }

    /// Asks for what comes next, unless that is under way. Errors: also if the last answer is long overdue.
    pub fn ask(&mut self, link: &str) -> Result<(), Broken> {
        match self.asked {
            Some(asked) if asked.elapsed() > PULL_LOST => {
                Err(Broken("Redis does not answer a pull; the connection is lost".into()))
            }
            Some(_) => Ok(()),
            None => {
                let mut command = redis::cmd("TANDEM.LINK");
                command.arg("PULL").arg(link).arg(&self.run).arg(self.after);
                self.pull.send(command.arg(PULL_ITEMS).arg(PULL_BYTES).arg(PULL_BLOCK_MS))?;
                self.asked = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// Reads the answer, which is there.
    pub fn receive(&mut self) -> Result<Vec<Pulled>, Broken> {
        self.asked = None;
        Remote::pulled(self.pull.receive()?)
    }

    /// What was pulled up to here is in Postgres.
    pub fn taken(&mut self, seq: u64) {
        self.after = seq;
    }

    /// Acknowledges what is in Postgres.
    pub fn acknowledge(&mut self, shards: &mut Shards, link: &str) -> Result<(), Broken> {
        if self.after > self.acknowledged
            && let Some(mut talk) = shards.at(&self.address)
        {
            talk.acknowledge(link, &self.run, self.after)?;
            self.acknowledged = self.after;
        }
        Ok(())
    }
}

/// Waits until one of the nodes has something to read, at most so long; the places of those that have.
pub fn readable(nodes: &[Node], time: Duration) -> Vec<usize> {
    let count = nodes.len() + 2;
    // SAFETY: MyLatch is this process' own latch, the sockets are open, and the set is freed before they are closed.
    unsafe {
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), count as i32);
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        let set = pg_sys::CreateWaitEventSet(pg_sys::CurrentMemoryContext, count as i32);
        let none = std::ptr::null_mut();
        pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch, none);
        pg_sys::AddWaitEventToSet(
            set,
            pg_sys::WL_EXIT_ON_PM_DEATH,
            pg_sys::PGINVALID_SOCKET,
            std::ptr::null_mut(),
            none,
        );
        for (place, node) in nodes.iter().enumerate() {
            let data = std::ptr::without_provenance_mut(place);
            let socket = node.pull.socket();
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_SOCKET_READABLE, socket, std::ptr::null_mut(), data);
        }
        let mut events = vec![pg_sys::WaitEvent::default(); count];
        let met = pg_sys::WaitEventSetWait(
            set,
            time.as_millis() as std::ffi::c_long,
            events.as_mut_ptr(),
            count as i32,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::FreeWaitEventSet(set);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        let met = events.iter().take(usize::try_from(met).unwrap_or(0));
        met.filter(|event| event.events & pg_sys::WL_SOCKET_READABLE != 0)
            .map(|event| event.user_data.addr())
            .collect()
    }
}
