//! A Redis as one side of a check and of a link: a server, or all masters of a cluster. Redis sends each command with
//! a key on to the node that has its slot, so in a cluster revisions are joined one a command.

use super::connection::{Broken, Connection};
use super::peer::{Answer, Named, Peer, is_old_tombstone, key_check};
use super::remote::{Remote, answer, malformed};
use super::topology::topology;
use super::transaction::FailureKind;
use crate::fault_point::{self, Point};
use crate::settings;
use crate::store::Page;
use std::collections::{BTreeMap, HashMap, HashSet};
use tandem_shared::cluster::{Redirect, Topology, slot_of};
use tandem_shared::codec::encode;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::join::join;
use tandem_shared::link::{Attachment, Scope};
use tandem_shared::owner::Owner;
use tandem_shared::reconcile::{Entry, Replica, Union};
use tandem_shared::{Fingerprint, Revision};

/// Bytes of revisions pushed at a time.
const PUSH_BYTES_MAX: usize = 1 << 20;
/// Rounds in which a cluster may send a command on.
const REDIRECTS_MAX: usize = 16;
/// Tries of a revision that Redis refuses for a reason that may be its own or the revision's.
const TRIES_MAX: usize = 5;

/// Whether a link is attached to each server.
pub enum Attach {
    /// It is not: nothing is to be changed there.
    Not,
    /// As what it is.
    As {
        /// The database that the link is of.
        owner: Owner,
        /// What the link carries.
        scope: Scope,
        /// By a check beside the link's session.
        is_check: bool,
    },
}

/// A server, or a master of a cluster.
pub struct Shard {
    /// Its address in the cluster; empty for a server that is in none.
    pub address: String,
    /// The run of its server, where a link is attached.
    pub run: String,
    /// Whether the link was not known there.
    pub is_fresh: bool,
    connection: Connection,
}

/// All of them.
pub struct Shards {
    url: String,
    link: Option<String>,
    attach: Attach,
    shards: Vec<Shard>,
    /// Who has which slot; none for a server that is in no cluster.
    topology: Option<Topology>,
    /// Slots that have another owner than before, since they were asked for.
    moved: HashSet<u16>,
    /// The shard that is asked next who has which slot.
    next: usize,
    /// Bytes of connections that are closed.
    bytes_before: u64,
}

impl Shards {
    /// Connects to the server of a URL and to all masters of its cluster. Where it does not answer, one of `others`
    /// does as well. With `link` they are the other side of that link.
    pub fn open(url: &str, others: &[String], link: Option<&str>, attach: Attach) -> Result<Shards, Broken> {
        let first = Connection::open(url);
        let mut first = match others {
            [] => first?,
            others => first.or_else(|broken| {
                let open = |address: &String| Connection::open_at(url, Some(address)).ok();
                others.iter().find_map(open).ok_or(broken)
            })?,
        };
        let found = topology(&mut first)?;
        let mut shards = Shards {
            url: url.to_owned(),
            link: link.map(str::to_owned),
            attach,
            shards: Vec::new(),
            topology: None,
            moved: HashSet::new(),
            next: 0,
            bytes_before: 0,
        };
        match found {
            None => shards.add(String::new(), first)?,
            Some(topology) => {
                shards.bytes_before = first.bytes;
                drop(first);
                shards.adopt(topology)?;
                shards.moved.clear();
            }
        }
        Ok(shards)
    }

    fn add(&mut self, address: String, mut connection: Connection) -> Result<(), Broken> {
        let (run, is_fresh) = match (&self.link, &self.attach) {
            (None, _) | (_, Attach::Not) => (String::new(), false),
            (Some(link), Attach::As { owner, scope, is_check }) => {
                Remote(&mut connection).attach(&Attachment {
                    link: link.clone(),
                    key_check: key_check(),
                    retention: settings::tombstone_retention(),
                    owner: owner.clone(),
                    scope: scope.clone(),
                    is_check: *is_check,
                })?
            }
        };
        self.shards.push(Shard { address, run, is_fresh, connection });
        Ok(())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    fn remotes(&mut self) -> Vec<Remote<'_>> {
        self.shards.iter_mut().map(|shard| Remote(&mut shard.connection)).collect()
    }

    /// A connection of its own to a shard.
    pub fn connect(&self, shard: &Shard) -> Result<Connection, Broken> {
        let address = Some(shard.address.as_str()).filter(|address| !address.is_empty());
        Connection::open_at(&self.url, address)
    }

    /// Whom all of them are, in a text by which one sees later whether anything is another: the run of a server, or of
    /// each master its address, run and slots.
    pub fn describe(&self) -> String {
        let Some(topology) = &self.topology else {
            return self.shards.iter().map(|shard| shard.run.as_str()).collect();
        };
        let of =
            |shard: &Shard| format!("{} {} {}", shard.address, shard.run, topology.slots(&shard.address));
        let mut described: Vec<String> = self.shards.iter().map(of).collect();
        described.sort();
        described.join("; ")
    }

    /// The addresses in what `describe` said.
    pub fn addresses(described: &str) -> Vec<String> {
        let parts = described.split("; ").filter_map(|part| part.split_once(' '));
        parts.map(|(address, _)| address.to_owned()).collect()
    }

    /// The slots of a shard, as people write them.
    pub fn slots(&self, shard: &Shard) -> Option<String> {
        self.topology.as_ref().map(|topology| topology.slots(&shard.address))
    }

    /// Asks one of them, each time another, who has which slot now.
    pub fn refresh(&mut self) -> Result<(), Broken> {
        if self.topology.is_none() {
            return Ok(());
        }
        self.next = (self.next + 1) % self.shards.len().max(1);
        let Some(shard) = self.shards.get_mut(self.next) else { return Ok(()) };
        match topology(&mut shard.connection)? {
            Some(topology) => self.adopt(topology),
            None => Err(Broken("a node is in no cluster any more".into())),
        }
    }

    /// The slots that have gone to another master since this was asked last.
    pub fn take_moved(&mut self) -> HashSet<u16> {
        std::mem::take(&mut self.moved)
    }

    fn adopt(&mut self, topology: Topology) -> Result<(), Broken> {
        for address in topology.masters() {
            self.reach(address)?;
        }
        let masters: HashSet<&String> = topology.masters().iter().collect();
        let gone: Vec<Shard> =
            self.shards.extract_if(.., |shard| !masters.contains(&shard.address)).collect();
        self.bytes_before += gone.iter().map(|shard| shard.connection.bytes).sum::<u64>();
        if let Some(before) = self.topology.replace(topology)
            && let Some(now) = &self.topology
        {
            self.moved.extend(now.moved_since(&before));
        }
        Ok(())
    }

    /// The place of the shard at an address, to which it connects if need be.
    fn reach(&mut self, address: &str) -> Result<usize, Broken> {
        if let Some(place) = self.shards.iter().position(|shard| shard.address == address) {
            return Ok(place);
        }
        let connection = Connection::open_at(&self.url, Some(address))
            .map_err(|Broken(reason)| Broken(format!("node {address}: {reason}")))?;
        self.add(address.to_owned(), connection)?;
        Ok(self.shards.len() - 1)
    }

    /// The place of the shard that has an id.
    fn owner(&self, id: &str) -> Result<usize, Broken> {
        let Some(topology) = &self.topology else { return Ok(0) };
        let slot = slot_of(id);
        let owner = topology.owner(slot);
        let place = owner.and_then(|owner| self.shards.iter().position(|shard| shard.address == owner));
        place.ok_or_else(|| Broken(format!("CLUSTERDOWN no node of the cluster has slot {slot}")))
    }

    fn connection(&mut self, place: usize) -> Result<&mut Connection, Broken> {
        let shard = self.shards.get_mut(place).ok_or_else(|| Broken("the cluster has no masters".into()))?;
        Ok(&mut shard.connection)
    }

    /// The shard at an address; none if it is no master any more.
    pub fn at(&mut self, address: &str) -> Option<Remote<'_>> {
        let shard = self.shards.iter_mut().find(|shard| shard.address == address)?;
        Some(Remote(&mut shard.connection))
    }

    /// Number of entries that wait for a link, shard by shard.
    pub fn waiting_for(&mut self, link: &str) -> Result<Vec<u64>, Broken> {
        self.remotes().iter_mut().map(|remote| remote.waiting(link)).collect()
    }

    /// Count and sum of all items, shard by shard.
    pub fn sums(&mut self) -> Result<Vec<Fingerprint>, Broken> {
        let all = [Range::all()];
        let sums =
            self.remotes().iter_mut().map(|remote| remote.fingerprints(&all)).collect::<Result<Vec<_>, _>>();
        Ok(sums?.into_iter().flatten().collect())
    }

    /// Asks each of them for something that only has to be done.
    pub fn tell(&mut self, each: impl FnMut(&mut Remote<'_>) -> Result<(), Broken>) -> Result<(), Broken> {
        self.remotes().iter_mut().try_for_each(each)
    }

    /// Whether any of them has, or is about to have, each of the ids.
    pub fn holds(&mut self, link: &str, ids: &[String]) -> Result<Vec<bool>, Broken> {
        let mut held = vec![false; ids.len()];
        for mut remote in self.remotes() {
            held.iter_mut().zip(remote.holds(link, ids)?).for_each(|(held, here)| *held |= here);
        }
        Ok(held)
    }

    /// Puts keys into the filter of ids that each of them has. False if it is to be loaded anew.
    pub fn filter_add(&mut self, link: &str, keys: &[u64]) -> Result<bool, Broken> {
        let mut is_there = true;
        for mut remote in self.remotes() {
            is_there &= remote.filter_add(link, keys)?;
        }
        Ok(is_there)
    }

    /// Pushes revisions in parts of bounded size. Errors: also when a revision is refused for a reason that passes
    /// and is not its fault.
    pub fn push(&mut self, revisions: &[(&str, Vec<u8>)]) -> Result<Vec<Answer>, Broken> {
        let mut answers = Vec::with_capacity(revisions.len());
        let mut rest = revisions;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, revision)| {
                bytes += revision.len();
                bytes <= PUSH_BYTES_MAX
            });
            let (chunk, later) = rest.split_at(fits.count().max(1));
            for (revision, answer) in chunk.iter().zip(self.push_part(chunk)?) {
                answers.push(self.insist(revision, answer)?);
            }
            rest = later;
            fault_point::reach(Point::PushPart);
        }
        Ok(answers)
    }

    /// Pushes a revision again, by itself, that was refused for a reason of which nobody knows whether it passes.
    /// What it is refused for in the end is said of it, and stops no other.
    fn insist(&mut self, revision: &(&str, Vec<u8>), mut answer: Answer) -> Result<Answer, Broken> {
        for _ in 1..TRIES_MAX {
            match &answer {
                Err(refusal) if refusal.kind == FailureKind::Claimed => {
                    answer = self.push_part(std::slice::from_ref(revision))?.pop().ok_or_else(malformed)?;
                }
                _ => break,
            }
        }
        match answer {
            Err(refusal) if refusal.is_passing() => Err(Broken(refusal.reason)),
            answer => Ok(answer),
        }
    }

    fn push_part(&mut self, revisions: &[(&str, Vec<u8>)]) -> Result<Vec<Answer>, Broken> {
        if let (None, Some(link)) = (&self.topology, self.link.clone()) {
            return Remote(self.connection(0)?).push(&link, revisions);
        }
        let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
        for _ in 0..REDIRECTS_MAX {
            let mut asked = Vec::with_capacity(revisions.len());
            for (at, (id, revision)) in
                revisions.iter().enumerate().filter(|(at, _)| !answers.contains_key(at))
            {
                let owner = self.owner(id)?;
                let command = join_command(id, revision, self.link.as_deref());
                self.connection(owner)?.send(&command)?;
                asked.push((at, owner, command));
            }
            // All replies are read before anything else is sent, as they come in the order of the commands.
            let mut redirected = Vec::new();
            for (at, owner, command) in asked {
                let reply = answer(self.connection(owner)?.receive_raw()?)?;
                let from = self.shards.get(owner).map_or("", |shard| shard.address.as_str());
                match reply.as_ref().err().and_then(|refusal| Redirect::of(&refusal.reason, from)) {
                    Some(redirect) => redirected.push((at, redirect, command)),
                    None => answers.extend([(at, reply)]),
                }
            }
            for (at, redirect, command) in redirected {
                answers.extend(self.follow(redirect, &command)?.map(|answer| (at, answer)));
            }
            if answers.len() == revisions.len() {
                return Ok(answers.into_values().collect());
            }
        }
        Err(Broken("CLUSTERDOWN the nodes of the cluster send commands on to each other".into()))
    }

    /// Goes where a node says. A slot that has moved is noted, and the command is tried again.
    fn follow(&mut self, redirect: Redirect, command: &redis::Cmd) -> Result<Option<Answer>, Broken> {
        match redirect {
            Redirect::Moved { slot, address } => {
                self.reach(&address)?;
                if let Some(topology) = &mut self.topology {
                    topology.set_owner(slot, &address);
                }
                self.moved.insert(slot);
                Ok(None)
            }
            Redirect::Ask(address) => {
                let place = self.reach(&address)?;
                let connection = self.connection(place)?;
                connection.ask(&redis::cmd("ASKING"))?;
                connection.send(command)?;
                // It may not be there any more either: then it is asked for anew.
                let answered = answer(connection.receive_raw()?)?;
                let is_redirected =
                    answered.as_ref().is_err_and(|refusal| Redirect::of(&refusal.reason, &address).is_some());
                Ok(Some(answered).filter(|_| !is_redirected))
            }
        }
    }
}

fn join_command(id: &str, revision: &[u8], link: Option<&str>) -> redis::Cmd {
    let mut command = redis::cmd("TANDEM.JOIN");
    command.arg(id).arg(revision);
    if let Some(link) = link {
        command.arg("LINK").arg(link);
    }
    command
}

impl Replica for Shards {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        Union(&mut self.remotes()).fingerprints(ranges)
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        match self.remotes().as_mut_slice() {
            [one] => one.splits(ranges, parts),
            all => Union(all).splits(ranges, parts),
        }
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        Union(&mut self.remotes()).lists(ranges, limit_each)
    }
}

impl Peer for Shards {
    fn has_key(&mut self, check: &str) -> Result<bool, Broken> {
        for mut remote in self.remotes() {
            if !remote.has_key(check)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fetch(&mut self, ids: &[String]) -> Result<Page, Broken> {
        // Of all of them: an id may be on its way from one to another, and the tombstones of a slot stay where they
        // were.
        let (key, mut found) = (settings::digest_key(), HashMap::<String, Revision>::new());
        let mut unreadable = HashMap::new();
        let mut asked = ids;
        for mut remote in self.remotes() {
            let (here, answered) = remote.fetch(asked)?;
            asked = asked.get(..answered).unwrap_or(asked);
            for (id, revision) in here {
                let revision = match revision {
                    Ok(revision) => revision,
                    Err(reason) => {
                        unreadable.insert(id, reason);
                        continue;
                    }
                };
                let greater = match found.remove(&id) {
                    Some(other) => join(&key, &id, other, revision),
                    None => revision,
                };
                found.insert(id, greater);
            }
        }
        let later: HashSet<String> = ids.iter().skip(asked.len()).cloned().collect();
        unreadable.retain(|id, _| !later.contains(id));
        found.retain(|id, _| !later.contains(id) && !unreadable.contains_key(id));
        let old: Vec<&str> = asked
            .iter()
            .map(String::as_str)
            .filter(|id| found.get(*id).is_some_and(is_old_tombstone))
            .collect();
        let waiting = self.waiting(&old)?;
        for id in old.into_iter().filter(|id| !waiting.contains(*id)) {
            found.remove(id);
        }
        Ok(Page { found, later, unreadable })
    }

    fn join(&mut self, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken> {
        let encoded: Vec<(&str, Vec<u8>)> =
            revisions.iter().map(|(id, revision)| (*id, encode(revision))).collect();
        self.push(&encoded)
    }

    fn waiting(&mut self, ids: &[&str]) -> Result<HashSet<String>, Broken> {
        let link = self.link.clone();
        let mut waiting = HashSet::new();
        for mut remote in self.remotes() {
            let waits = remote.waits(link.as_deref(), ids)?;
            let waits = ids.iter().zip(waits).filter(|(_, waits)| *waits);
            waiting.extend(waits.map(|(id, _)| (*id).to_owned()));
        }
        Ok(waiting)
    }

    fn bytes(&self) -> u64 {
        self.bytes_before + self.shards.iter().map(|shard| shard.connection.bytes).sum::<u64>()
    }

    fn records_conflicts(&self) -> bool {
        false
    }
}
