//! Redis Cluster's division of keys: the slot of an id, which master has which slot, and the words by which a node
//! sends a command on to another (Redis Cluster specification).

use std::collections::HashSet;

/// Slots of every cluster.
pub const SLOTS: u16 = 16384;

/// The slot of an id: the checksum of all of it, or of what is in its first pair of braces, if anything is
/// (Redis Cluster specification, "hash tags").
pub fn slot_of(id: &str) -> u16 {
    let tag = id.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(id);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// The masters and their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Addresses; a master without slots may still have something that waits.
    masters: Vec<String>,
    /// The place of its master, by slot.
    owners: Vec<Option<usize>>,
}

impl Default for Topology {
    fn default() -> Topology {
        Topology::new()
    }
}

impl Topology {
    /// No masters.
    pub fn new() -> Topology {
        Topology { masters: Vec::new(), owners: vec![None; SLOTS.into()] }
    }

    /// Adds a master, which may have no slots; its place.
    pub fn add(&mut self, address: &str) -> usize {
        let known = self.masters.iter().position(|master| master == address);
        known.unwrap_or_else(|| {
            self.masters.push(address.to_owned());
            self.masters.len() - 1
        })
    }

    /// Addresses of the masters.
    pub fn masters(&self) -> &[String] {
        &self.masters
    }

    /// The master that has a slot.
    pub fn owner(&self, slot: u16) -> Option<&str> {
        let place = (*self.owners.get(usize::from(slot))?)?;
        self.masters.get(place).map(String::as_str)
    }

    /// A node says that a slot is another's now.
    pub fn set_owner(&mut self, slot: u16, address: &str) {
        let place = self.add(address);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = Some(place);
        }
    }

    /// Slots that another master has than in `before`.
    pub fn moved_since(&self, before: &Topology) -> HashSet<u16> {
        (0..SLOTS).filter(|slot| self.owner(*slot) != before.owner(*slot)).collect()
    }

    /// The slots of a master, as people write them.
    pub fn slots(&self, address: &str) -> String {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for slot in (0..SLOTS).filter(|slot| self.owner(*slot) == Some(address)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        let ranges = ranges.iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        ranges.collect::<Vec<_>>().join(",")
    }
}

/// The slots of the node that is asked, in what it answers to CLUSTER NODES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSlots(Vec<(u16, u16)>);

impl OwnSlots {
    /// Reads the answer. `None` where the node does not find itself in it.
    pub fn of_nodes(nodes: &str) -> Option<OwnSlots> {
        let is_itself = |line: &&str| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself"));
        let line = nodes.lines().find(is_itself)?;
        // Slots that are on their way stand in brackets; they are still, or not yet, its own.
        let slots = line.split(' ').skip(8).filter(|word| !word.starts_with('['));
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.trim_end().parse().ok()?))
        };
        Some(OwnSlots(slots.filter_map(range).collect()))
    }

    /// Whether a slot is the node's.
    pub fn has(&self, slot: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// What a node answers when it does not serve the slot of a command: another one does, for good or for this command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// The slot is another's.
    Moved {
        /// The slot.
        slot: u16,
        /// The node that has it.
        address: String,
    },
    /// The slot is on its way to another one, which is to be asked this once.
    Ask(String),
}

impl Redirect {
    /// Reads an error; `asked` is the node that gave it.
    pub fn of(error: &str, asked: &str) -> Option<Redirect> {
        let mut words = error.split(' ');
        let (code, slot, address) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let (host, port) = address.rsplit_once(':')?;
        let asked_host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
        let host = if host.is_empty() || host == "?" { asked_host } else { host };
        let address = format!("{host}:{port}");
        match code {
            "MOVED" => Some(Redirect::Moved { slot, address }),
            "ASK" => Some(Redirect::Ask(address)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of("123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot_of("foo"), 12182);
        assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
        assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
        assert_eq!(slot_of("foo{bar}{zap}"), slot_of("bar"));
        assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"), "an empty tag is none");
    }

    #[test]
    fn owners_change_slot_by_slot() {
        let mut topology = Topology::new();
        for slot in 0..SLOTS {
            topology.set_owner(slot, if slot < 100 { "a:1" } else { "b:1" });
        }
        assert_eq!((topology.slots("a:1"), topology.slots("b:1")), ("0-99".into(), "100-16383".into()));
        let before = topology.clone();
        topology.set_owner(50, "c:1");
        assert_eq!(topology.slots("a:1"), "0-49,51-99");
        assert_eq!(topology.moved_since(&before), HashSet::from([50]));
        assert_eq!(topology.owner(50), Some("c:1"));
        assert!(before.moved_since(&before).is_empty());
    }

    #[test]
    fn a_node_knows_its_own_slots() {
        let nodes = "07c3 127.0.0.1:30004@31004 slave e7d1 0 1426238317239 4 connected\n\
            67ed 127.0.0.1:30002@31002,host myself,master - 0 1426238316232 2 connected 0-99 105 [106->-292f]\n\
            292f 127.0.0.1:30003@31003 master - 0 1426238318243 3 connected 100-104 106-16383\n";
        let own = OwnSlots::of_nodes(nodes).unwrap();
        let has: Vec<u16> =
            [0, 99, 100, 104, 105, 106, 16383].into_iter().filter(|slot| own.has(*slot)).collect();
        assert_eq!(has, [0, 99, 105]);
        assert_eq!(OwnSlots::of_nodes("67ed 127.0.0.1:30002@31002 master - 0 1 2 connected 0-99\n"), None);
        let none = OwnSlots::of_nodes("67ed :0@0 myself,master - 0 0 0 connected\n").unwrap();
        assert!(!none.has(0));
    }

    #[test]
    fn redirections_are_read() {
        let read = |error| match Redirect::of(error, "here:7000") {
            Some(Redirect::Moved { slot, address }) => format!("moved {slot} {address}"),
            Some(Redirect::Ask(address)) => format!("ask {address}"),
            None => "none".to_owned(),
        };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), "moved 3999 127.0.0.1:6381");
        assert_eq!(read("ASK 3999 :6381"), "ask here:6381");
        assert_eq!(read("TRYAGAIN Multiple keys request during rehashing of slot"), "none");
    }
}
