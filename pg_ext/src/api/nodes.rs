//! link_nodes: the servers behind a link, one by one and together.

use super::arguments::given;
use super::links::no_link;
use crate::error::{Outcome, answer};
use crate::worker::{Attach, Shard, Shards};
use pgrx::prelude::*;
use tandem_shared::{Error, Fingerprint};

type NodeRow = (Option<String>, Option<String>, i64, Option<String>, i64);

/// The Redis server of a link, or each master of its cluster with its slots: number and hash of its items, and what
/// waits there for the link. The last row, without a name, is all of them together: its hash is that of `merkle_root`
/// where both sides hold the same. Errors: `NOLINK`.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns of the SQL function")]
fn link_nodes(
    link: default!(Option<&str>, "'redis'"),
) -> TableIterator<
    'static,
    (
        name!(node, Option<String>),
        name!(slots, Option<String>),
        name!(items, i64),
        name!(root, Option<String>),
        name!(waiting, i64),
    ),
> {
    TableIterator::new(answer(given("link", link).map_err(Into::into).and_then(nodes)))
}

fn nodes(link: &str) -> Outcome<Vec<NodeRow>> {
    let (url, run) = Spi::connect(|client| {
        let rows =
            client.select("SELECT url, run FROM tandem.links WHERE name = $1", None, &[link.into()])?;
        let Some(row) = rows.into_iter().next() else { return Err(no_link(link).into()) };
        Outcome::Ok((row.get::<String>(1)?.unwrap_or_default(), row.get::<String>(2)?.unwrap_or_default()))
    })?;
    let asked =
        Shards::open(&url, &Shards::addresses(&run), Some(link), Attach::Not).and_then(|mut shards| {
            let (sums, waiting) = (shards.sums()?, shards.waiting_for(link)?);
            Ok((shards, sums, waiting))
        });
    let (shards, sums, waiting) = asked.map_err(|broken| Error::NoLink {
        what: "the Redis of the link".to_owned(),
        problem: format!("does not answer: {broken}"),
        remedy: "see tandem.link_status".to_owned(),
    })?;
    let row = |node: Option<String>, slots, sum: &Fingerprint, waiting: u64| {
        (node, slots, sum.count() as i64, sum.node_hash(), waiting as i64)
    };
    let of = |((shard, sum), waiting): ((&Shard, &Fingerprint), u64)| {
        let name = if shard.address.is_empty() { link } else { &shard.address };
        row(Some(name.to_owned()), shards.slots(shard), sum, waiting)
    };
    let each = shards.iter().zip(&sums).zip(waiting.iter().copied());
    let mut rows: Vec<NodeRow> = each.map(of).collect();
    rows.push(row(None, None, &sums.iter().copied().sum(), waiting.iter().sum()));
    Ok(rows)
}
