//! Asking a Redis which cluster it is in.

use super::connection::{Broken, Connection};
use super::remote::{Fields, array, integer, malformed, text};
use redis::Value;
use std::collections::HashMap;
use tandem_shared::cluster::Topology;

/// Asks a node. `None` if it is in no cluster, or its user may not ask; then the module refuses to take what it
/// could not redirect.
pub fn topology(connection: &mut Connection) -> Result<Option<Topology>, Broken> {
    let asked = connection.ask(redis::cmd("CLUSTER").arg("SHARDS"));
    match asked {
        Ok(shards) => read(shards, connection).map(Some),
        Err(Broken(reason)) if reason.contains("cluster support disabled") => Ok(None),
        Err(Broken(reason)) if reason.starts_with("NOPERM") => Ok(None),
        Err(broken) => Err(broken),
    }
}

/// Asks which node has which slots. `CLUSTER SHARDS` says it too, but from Redis 7.2 on leaves a master whose place
/// was taken in the shard of the one that took it, and may list slots twice or not at all once nodes were taken out.
fn owners(connection: &mut Connection) -> Result<Vec<(u16, u16, String)>, Broken> {
    let asked = connection.ask(redis::cmd("CLUSTER").arg("SLOTS")).map_err(|broken| {
        match broken.0.starts_with("NOPERM") {
            true => Broken(format!("{broken}; grant the link's user +cluster|slots beside +cluster|shards")),
            false => broken,
        }
    })?;
    let mut owners = Vec::new();
    for range in array(asked)? {
        let mut range = array(range)?.into_iter();
        let mut bound = || {
            let slot = integer(&range.next().ok_or_else(malformed)?)?;
            u16::try_from(slot).map_err(|_| malformed())
        };
        let (first, last) = (bound()?, bound()?);
        let master = array(range.next().ok_or_else(malformed)?)?;
        owners.push((first, last, text(master.into_iter().nth(2).ok_or_else(malformed)?)?));
    }
    Ok(owners)
}

fn read(shards: Value, asked: &mut Connection) -> Result<Topology, Broken> {
    let owners = owners(asked)?;
    let mut topology = Topology::new();
    let mut addresses = HashMap::new();
    for shard in array(shards)? {
        for node in array(Fields::of(shard)?.take("nodes")?)? {
            let mut node = Fields::of(node)?;
            let id = text(node.take("id")?)?;
            let is_owner = owners.iter().any(|(_, _, owner)| *owner == id);
            // A master without slots may have something that was written to it before it lost them. One that is gone
            // has nothing any more that we could get.
            let is_master = text(node.take("role")?)? == "master";
            let is_there = text(node.take("health")?)? == "online";
            if !is_owner && (!is_master || !is_there) {
                continue;
            }
            let address = address(&mut node, asked)?;
            topology.add(&address);
            addresses.insert(id, address);
        }
    }
    for (first, last, id) in owners {
        let address =
            addresses.get(&id).ok_or_else(|| Broken("the nodes of the cluster are changing".into()))?;
        (first..=last).for_each(|slot| topology.set_owner(slot, address));
    }
    Ok(topology)
}

fn address(node: &mut Fields, asked: &Connection) -> Result<String, Broken> {
    let port = node.take(if asked.is_tls() { "tls-port" } else { "port" });
    let port = integer(&port.map_err(|_| no_port(asked.is_tls()))?)?;
    // A node that does not know its own address is where we have reached it.
    let host = node.take("endpoint").ok().and_then(|host| text(host).ok());
    let host = host.filter(|host| !host.is_empty() && host != "?");
    Ok(format!("{}:{port}", host.unwrap_or_else(|| asked.host().to_owned())))
}

/// A node tells of the ports that its cluster's own connections use.
fn no_port(is_tls: bool) -> Broken {
    Broken(match is_tls {
        true => "the nodes of the cluster name no port for TLS; set tls-cluster yes there".to_owned(),
        false => "the nodes of the cluster name no port but that for TLS; give a rediss:// url".to_owned(),
    })
}
