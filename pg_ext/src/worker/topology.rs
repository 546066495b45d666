//! Asking a Redis which cluster it is in.

use super::connection::{Broken, Connection};
use super::remote::{Fields, array, integer, malformed, text};
use redis::Value;
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

fn read(shards: Value, asked: &Connection) -> Result<Topology, Broken> {
    let mut topology = Topology::new();
    for shard in array(shards)? {
        let mut shard = Fields::of(shard)?;
        let slots = array(shard.take("slots")?)?.iter().map(integer).collect::<Result<Vec<_>, _>>()?;
        for node in array(shard.take("nodes")?)? {
            let mut node = Fields::of(node)?;
            let is_master = text(node.take("role")?)? == "master";
            // One that is gone and has lost its slots to another has nothing any more that we could get.
            let is_gone = slots.is_empty() && text(node.take("health")?)? != "online";
            if !is_master || is_gone {
                continue;
            }
            let port = node.take(if asked.is_tls() { "tls-port" } else { "port" });
            let port = integer(&port.map_err(|_| no_port(asked.is_tls()))?)?;
            // A node that does not know its own address is where we have reached it.
            let host = node.take("endpoint").ok().and_then(|host| text(host).ok());
            let host = host.filter(|host| !host.is_empty() && host != "?");
            let host = host.unwrap_or_else(|| asked.host().to_owned());
            let master = format!("{host}:{port}");
            topology.add(&master);
            let mut bounds = slots.iter();
            while let (Some(first), Some(last)) = (bounds.next(), bounds.next()) {
                for slot in *first..=*last {
                    topology.set_owner(u16::try_from(slot).map_err(|_| malformed())?, &master);
                }
            }
        }
    }
    Ok(topology)
}

/// A node tells of the ports that its cluster's own connections use.
fn no_port(is_tls: bool) -> Broken {
    Broken(match is_tls {
        true => "the nodes of the cluster name no port for TLS; set tls-cluster yes there".to_owned(),
        false => "the nodes of the cluster name no port but that for TLS; give a rediss:// url".to_owned(),
    })
}
