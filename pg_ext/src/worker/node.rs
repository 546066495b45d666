//! What a session holds of one Redis server, or of one master of a cluster: the connection on which it pulls, and how
//! far it has come. Each server counts for itself.

use super::connection::{Broken, Connection};
use super::joining::{Entry, Held, JoinedBefore, Pull, forget_others, join, joined_before};
use super::peer::Answer;
use super::remote::{Pulled, Remote};
use super::shards::{Shard, Shards};
use super::transaction::transaction;
use crate::fault_point::{self, Point};
use crate::log::Position;
use crate::settings;
use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tandem_shared::link::Acknowledgement;

/// Entries asked for in one pull.
const PULL_ITEMS: usize = 2000;
/// Bytes asked for in one pull.
const PULL_BYTES: usize = 8 << 20;
/// How long a pull blocks in Redis. Shorter than the socket's time-out.
const PULL_BLOCK_MS: u64 = 2000;

/// A pull without an answer for so long has lost its connection, or the network says nothing of the loss.
fn pull_lost() -> Duration {
    Duration::from_millis(PULL_BLOCK_MS) + settings::redis_timeout()
}

/// A server.
pub struct Node {
    address: String,
    run: String,
    pull: Connection,
    asked: Option<Instant>,
    /// It was asked before the two sides were compared: where the log was then.
    compared_since: Option<Rc<Position>>,
    after: u64,
    /// What was acknowledged last: a number, and the exceptions up to it.
    acknowledged: (u64, Vec<u64>),
    /// Numbers and ids of the entries that were set aside and not acknowledged as such.
    refused: Vec<(u64, String)>,
    before: JoinedBefore,
    /// What was pulled and waits for somebody who is in its way.
    pub held: Held,
    /// Entries joined since it was opened.
    pub joined: u64,
    /// Numbers of entries up to `after` that are not joined.
    open: BTreeSet<u64>,
}

impl Node {
    fn open(shards: &Shards, shard: &Shard, link: &str) -> Result<Node, Broken> {
        Ok(Node {
            before: transaction(|| joined_before(link, &shard.run))?,
            address: shard.address.clone(),
            run: shard.run.clone(),
            pull: shards.connect(shard)?,
            asked: None,
            compared_since: None,
            after: 0,
            acknowledged: (0, Vec::new()),
            refused: Vec::new(),
            held: Held::default(),
            joined: 0,
            open: BTreeSet::new(),
        })
    }

    /// Makes `nodes` those of `shards`: what has gone is dropped, what has come begins. Returns whether any has.
    pub fn follow(nodes: &mut Vec<Node>, shards: &Shards, link: &str) -> Result<bool, Broken> {
        nodes.retain(|node| shards.iter().any(|shard| node.address == shard.address));
        let is_known = |shard: &&Shard| nodes.iter().any(|node| node.address == shard.address);
        let new = shards.iter().filter(|shard| !is_known(shard)).map(|shard| Node::open(shards, shard, link));
        let new = new.collect::<Result<Vec<_>, _>>()?;
        let any = !new.is_empty();
        nodes.extend(new);
        if any {
            let runs: Vec<&str> = nodes.iter().map(|node| node.run.as_str()).collect();
            transaction(|| forget_others(link, &runs))?;
        }
        Ok(any)
    }

    /// Asks for what comes next, unless that is under way. Errors: also if the last answer is long overdue.
    pub fn ask(&mut self, link: &str) -> Result<(), Broken> {
        match self.asked {
            Some(asked) if asked.elapsed() > pull_lost() => {
                Err(Broken("Redis does not answer a pull; the connection is lost".into()))
            }
            Some(_) => Ok(()),
            None if !self.held.has_room() => Ok(()),
            None => {
                let mut command = redis::cmd("TANDEM.LINK");
                command.arg("PULL").arg(link).arg(&self.run).arg(self.after);
                self.pull.send(command.arg(PULL_ITEMS).arg(PULL_BYTES).arg(PULL_BLOCK_MS))?;
                self.asked = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// Notes that the two sides were compared, when the log was at a position: what was asked for before that may be
    /// older than what the comparison has brought from the same server.
    pub fn was_compared(&mut self, at: &Rc<Position>) {
        if self.asked.is_some() {
            self.compared_since.get_or_insert_with(|| at.clone());
        }
    }

    /// The socket on which the answer comes.
    pub fn socket(&self) -> RawFd {
        self.pull.socket()
    }

    /// Reads the answer, which is there.
    pub fn receive(&mut self) -> Result<Vec<Pulled>, Broken> {
        self.asked = None;
        let pulled = Remote::pulled(self.pull.receive()?)?;
        if pulled.is_empty() {
            self.compared_since = None;
        }
        Ok(pulled)
    }

    /// Notes what was pulled: entries that are to be joined, and others, up to a number.
    pub fn pulled(&mut self, last: u64, entries: &mut [Entry]) {
        let compared_since = self.compared_since.take();
        entries.iter_mut().for_each(|entry| entry.compared_since = compared_since.clone());
        self.after = self.after.max(last);
        self.open.extend(entries.iter().map(|entry| entry.seq));
        for entry in &*entries {
            self.held.supersede(&entry.id, entry.seq);
        }
    }

    /// Notes that an entry, if it is one that was to be joined, was set aside.
    pub fn set_aside(&mut self, seq: u64, id: String) {
        self.open.remove(&seq);
        self.refused.push((seq, id));
    }

    /// Joins entries that were pulled here; each is answered in order.
    pub fn join(&mut self, link: &str, entries: &[Entry]) -> Result<Vec<Answer>, Broken> {
        let pull = Pull { link, run: &self.run, before: &self.before, last: self.after };
        let answers = join(&pull, entries, &mut self.open)?;
        self.joined += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        Ok(answers)
    }

    /// Acknowledges what is in Postgres: all that was pulled but for what is held.
    pub fn acknowledge(&mut self, shards: &mut Shards, link: &str) -> Result<(), Broken> {
        let reach = Acknowledgement::reach(self.after, self.held.numbers());
        if reach != self.acknowledged
            && let Some(mut talk) = shards.at(&self.address)
        {
            let (seq, except) = reach.clone();
            let refused =
                self.refused.extract_if(.., |(number, _)| *number <= seq).map(|(_, id)| id).collect();
            talk.acknowledge(&Acknowledgement {
                link: link.to_owned(),
                run: self.run.clone(),
                seq,
                except,
                refused,
            })?;
            self.acknowledged = reach;
            fault_point::reach(Point::Acknowledged);
        }
        Ok(())
    }
}
