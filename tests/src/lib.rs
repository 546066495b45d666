//! What the suites, the demo and the benchmarks stand on: private servers that never outlive the process
//! ([`postgres::Postgres`], [`redis::Redis`]), the two of them linked ([`pair::Pair`]), a Redis Cluster
//! ([`cluster::Cluster`]), and requests that are put to both engines in their own language and answered in one
//! ([`request`], [`answer`]), and to a [`model`].
//!
//! Nothing here touches a server or an installation of the machine: ports, data and the extension's files are
//! private. A harness fails by panicking, with the log of the server concerned.
#![forbid(unsafe_code)]

pub mod answer;
pub mod by_hand;
pub mod census;
pub mod cluster;
pub mod data;
pub mod guard;
pub mod install;
pub mod model;
pub mod pair;
pub mod picky;
pub mod ports;
pub mod postgres;
pub mod redis;
pub mod request;
pub mod scratch;
pub mod sql;
pub mod vectors;
pub mod wait;
