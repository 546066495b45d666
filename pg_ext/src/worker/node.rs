//! What a session holds of one Redis server, or of one master of a cluster: the connection on which it pulls, and how far
//! it has come. Each server counts for itself.

use super::connection::{Broken, Connection};
use super::remote::{Pulled, Remote};
use super::shards::{Shard, Shards};
use crate::fault_point::{self, Point};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};
use tandem_shared::link::Acknowledgement;

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
    /// Ids whose revision was set aside since the last acknowledgement.
    refused: Vec<String>,
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
            refused: Vec::new(),
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

    /// The socket on which the answer comes.
    pub fn socket(&self) -> RawFd {
        self.pull.socket()
    }

    /// Reads the answer, which is there.
    pub fn receive(&mut self) -> Result<Vec<Pulled>, Broken> {
        self.asked = None;
        Remote::pulled(self.pull.receive()?)
    }

    /// What was pulled up to here is in Postgres, but for the revisions of ids that were set aside.
    pub fn taken(&mut self, seq: u64, refused: Vec<String>) {
        self.after = seq;
        self.refused.extend(refused);
    }

    /// Acknowledges what is in Postgres.
    pub fn acknowledge(&mut self, shards: &mut Shards, link: &str) -> Result<(), Broken> {
        if self.after > self.acknowledged
            && let Some(mut talk) = shards.at(&self.address)
        {
            talk.acknowledge(&Acknowledgement {
                link: link.to_owned(),
                run: self.run.clone(),
                seq: self.after,
                refused: std::mem::take(&mut self.refused),
            })?;
            self.acknowledged = self.after;
            fault_point::reach(Point::Acknowledged);
        }
        Ok(())
    }
}
