//! TANDEM.MERKLE and TANDEM.VERIFY.

use crate::args::{Args, page, unknown_option};
use crate::engine;
use crate::reply::Reply;
use crate::store::selected;
use redis_module::{Context, KeysCursor, RedisString, RedisValue};
use std::cell::RefCell;
use std::convert::Infallible;
use tandem_shared::index::Index;
use tandem_shared::paths::{OrderedIds, children};
use tandem_shared::{Fingerprint, Path, Result, Revision};

const USAGE: &str = "TANDEM.MERKLE ROOT | HASH path | CHILDREN path [AFTER child] [LIMIT n]";

struct Ids<'a>(&'a Index);

impl OrderedIds for Ids<'_> {
    type Error = Infallible;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Result<Option<String>, Infallible> {
        let first = self.0.first_at_or_after(start).map(|(id, _)| id);
        Ok(first.filter(|id| end.is_none_or(|end| *id < end)).map(str::to_owned))
    }

    fn contains(&mut self, id: &str) -> Result<bool, Infallible> {
        Ok(self.0.get(id).is_some())
    }
}

fn subtree(index: &Index, path: &Path) -> Fingerprint {
    path.ranges().iter().map(|range| index.fingerprint(range)).sum()
}

/// TANDEM.MERKLE
pub fn merkle(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, USAGE);
    let database = selected(context);
    let reply = Reply::new(context);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    match verb.as_str() {
        "ROOT" => {
            args.end()?;
            let root = engine::with_database(database, |database| database.index.root())?;
            reply.bulk_or_null(root.node_hash());
        }
        "HASH" => {
            let path = Path::new(args.text("path")?)?;
            args.end()?;
            let sum = engine::with_database(database, |database| subtree(&database.index, &path))?;
            reply.bulk_or_null(sum.node_hash());
        }
        "CHILDREN" => {
            let path = Path::new(args.text("path")?)?;
            let (after, limit) = page(&mut args, USAGE)?;
            let after = after.map(Path::new).transpose()?;
            let found = engine::with_database(database, |database| {
                let index = &database.index;
                let Ok(paths) = children(&mut Ids(index), &path, after.as_ref(), limit);
                paths.into_iter().map(|child| (subtree(index, &child), child)).collect::<Vec<_>>()
            })?;
            reply.array(found.len());
            for (sum, child) in found {
                reply.map(3);
                reply.bulk("path");
                reply.bulk(child.as_str());
                reply.bulk("hash");
                reply.bulk_or_null(sum.node_hash());
                reply.bulk("count");
                reply.integer(sum.count());
            }
        }
        other => return Err(unknown_option(other, USAGE)),
    }
    Ok(RedisValue::NoReply)
}

/// TANDEM.VERIFY: recounts the selected database and compares it with the index.
pub fn verify(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    Args::new(&args, "TANDEM.VERIFY").end()?;
    let database = selected(context);
    let key = engine::with(|engine| engine.key.clone())?;
    let counted: RefCell<(u64, Vec<String>)> = RefCell::default();
    let check = |_: &Context, name: &RedisString, _: Option<&redis_module::key::RedisKey>| {
        let Ok(id) = name.try_as_str() else { return };
        let found =
            crate::keys::with_named_item(context, id, name, crate::keys::look(), |revision: &Revision| {
                let digest = revision.digest(&key, id);
                let indexed = engine::with_database(database, |database| database.index.get(id));
                (digest, indexed.ok().flatten())
            });
        let Ok(Some((digest, indexed))) = found else { return };
        let mut counted = counted.borrow_mut();
        counted.0 += 1;
        if digest != indexed {
            counted.1.push(format!("item {id}: the key has {digest:?}, the index {indexed:?}"));
        }
    };
    let cursor = KeysCursor::new();
    while cursor.scan(context, &check) {}
    let (items, mut problems) = counted.into_inner();
    engine::with_database(database, |database| {
        if database.index.len() != items {
            problems.push(format!("the index counts {}, the keyspace {items}", database.index.len()));
        }
        if let Err(error) = database.index.verify() {
            problems.push(error.to_string());
        }
    })?;
    let reply = Reply::new(context);
    reply.map(3);
    reply.bulk("ok");
    reply.integer(u64::from(problems.is_empty()));
    reply.bulk("items");
    reply.integer(items);
    reply.bulk("problems");
    reply.array(problems.len().min(100));
    for problem in problems.iter().take(100) {
        reply.bulk(problem);
    }
    Ok(RedisValue::NoReply)
}
