//! A private Redis Cluster: masters with the module on free ports, formed by hand so that every step is known.

use crate::ports;
use crate::redis::{Options, Redis, ask, ask_number, ask_text};
use crate::wait::{self, DEADLINE};
use redis::Value;
use redis::cluster::{ClusterClient, ClusterConnection};

/// Slots of every cluster.
pub const SLOTS: usize = 16384;

/// Running servers.
pub struct Cluster {
    /// The masters that it began with, and replicas that were added.
    pub nodes: Vec<Redis>,
}

/// A user with what a link needs of a cluster, and no more.
const WORKER: &str =
    "worker on >s3cret ~* +tandem.link +tandem.join +ping +cluster|shards +cluster|slots +asking";

fn node() -> Redis {
    let port = ports::free().to_string();
    let mut options = Options::durable()
        .with("cluster-enabled", "yes")
        .with("cluster-port", &port)
        .with("cluster-node-timeout", "2000")
        .with("cluster-require-full-coverage", "no");
    options.settings.push("--user".to_owned());
    options.settings.extend(WORKER.split(' ').map(str::to_owned));
    Redis::start(options)
}

fn bus_port(node: &Redis) -> String {
    let Value::Array(words) = ask(&mut node.connect(), &["CONFIG", "GET", "cluster-port"]) else {
        panic!("CONFIG GET answers with an array")
    };
    match &words[1] {
        Value::BulkString(port) => String::from_utf8_lossy(port).into_owned(),
        other => panic!("{other:?}"),
    }
}

impl Cluster {
    /// Starts so many masters, which have the slots in about equal parts.
    pub fn start(masters: usize) -> Cluster {
        let cluster = Cluster { nodes: (0..masters).map(|_| node()).collect() };
        for (place, node) in cluster.nodes.iter().enumerate() {
            let (first, last) = (place * SLOTS / masters, (place + 1) * SLOTS / masters - 1);
            let mut connection = node.connect();
            ask(&mut connection, &["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            ask(&mut connection, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            cluster.meet(node);
        }
        cluster.wait_whole();
        cluster
    }

    fn meet(&self, node: &Redis) {
        let first = &self.nodes[0];
        if first.port() != node.port() {
            let words = ["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus_port(node)];
            ask(&mut first.connect(), &words);
        }
    }

    /// The address of a node as `tandem.link` takes it, for a user with the rights of a link only.
    pub fn url(&self, node: usize) -> String {
        format!("redis://worker:s3cret@127.0.0.1:{}", self.nodes[node].port())
    }

    /// Adds a node: a replica of a master, or a master without slots.
    pub fn add(&mut self, replica_of: Option<usize>) {
        let new = node();
        self.meet(&new);
        self.nodes.push(new);
        self.wait_whole();
        if let Some(master) = replica_of {
            let id = self.id(master);
            let mut connection = self.nodes[self.nodes.len() - 1].connect();
            ask(&mut connection, &["CLUSTER", "REPLICATE", &id]);
            wait::until("the replica is in step", DEADLINE, || {
                let info = ask_text(&mut connection, &["INFO", "replication"]).unwrap_or_default();
                info.contains("role:slave") && info.contains("master_link_status:up")
            });
        }
    }

    /// Waits until every running node knows every other one and all slots are served.
    pub fn wait_whole(&self) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        wait::until("every node knows the whole cluster", DEADLINE, || {
            self.nodes.iter().filter(|node| node.is_running()).all(|node| {
                let info = ask_text(&mut node.connect(), &["CLUSTER", "INFO"]).unwrap_or_default();
                info.contains("cluster_state:ok")
                    && info.contains(&known)
                    && info.contains(&format!("cluster_slots_ok:{SLOTS}"))
            })
        });
    }

    /// A client that follows the slots.
    pub fn connect(&self) -> ClusterConnection {
        let urls: Vec<String> = self.nodes.iter().map(Redis::url).collect();
        let client = ClusterClient::new(urls).expect("urls of ours");
        client.get_connection().expect("the cluster answers")
    }

    fn id(&self, place: usize) -> String {
        ask_text(&mut self.nodes[place].connect(), &["CLUSTER", "MYID"]).expect("an id")
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        let node = self.nodes.iter().find(|node| node.is_running()).expect("a running node");
        let slot = ask_number(&mut node.connect(), &["CLUSTER", "KEYSLOT", key]);
        u16::try_from(slot).expect("a slot")
    }

    /// An id that begins so and lies in a slot of these.
    pub fn id_in(&self, start: &str, slots: std::ops::Range<u16>) -> String {
        let mut ids = (0..).map(|number| format!("{start}{number}"));
        ids.find(|id| slots.contains(&self.slot(id))).expect("there are ids without end")
    }

    /// Moves slots with their keys from one master to another, as redis-cli does.
    pub fn migrate(&self, from: usize, to: usize, slots: std::ops::Range<u16>) {
        let (from_id, to_id) = (self.id(from), self.id(to));
        let (mut source, mut target) = (self.nodes[from].connect(), self.nodes[to].connect());
        for slot in slots {
            let slot = slot.to_string();
            ask(&mut target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
            ask(&mut source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
            loop {
                let mut command = redis::cmd("CLUSTER");
                command.arg("GETKEYSINSLOT").arg(&slot).arg(100);
                let keys: Vec<Vec<u8>> = command.query(&mut source).expect("the keys are known");
                if keys.is_empty() {
                    break;
                }
                let port = self.nodes[to].port().to_string();
                let mut command = redis::cmd("MIGRATE");
                command.arg("127.0.0.1").arg(port).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
                command.query::<Value>(&mut source).expect("the keys move");
            }
            for node in [to, from] {
                ask(&mut self.nodes[node].connect(), &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
            }
        }
    }
}
