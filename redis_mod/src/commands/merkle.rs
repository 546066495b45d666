//! TANDEM.MERKLE and TANDEM.VERIFY.

use crate::acl::Caller;
use crate::args::{Args, page, unknown_option};
use crate::datatype::ITEM_TYPE;
use crate::engine::{self, Database};
use crate::ghosts::Both;
use crate::item::Item;
use crate::keys;
use crate::pending::Pending;
use crate::reply::Reply;
use crate::store::selected;
use redis_module::{Context, KeysCursor, RedisString, RedisValue};
use std::cell::RefCell;
use std::convert::Infallible;
use tandem_shared::id::id_of_key;
use tandem_shared::paths::{OrderedIds, children, clean_children, holds_any};
use tandem_shared::{Fingerprint, Path, Range, Result};

const USAGE: &str =
    "TANDEM.MERKLE ROOT|HASH|NODE|CHILDREN|LEAVES|DIRTY|DIRTYCOUNT|DIRTYPREFIXES|CLEAN|ISCLEAN …";

struct Ids<'a>(Both<'a>);

impl OrderedIds for Ids<'_> {
    type Error = Infallible;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Result<Option<String>, Infallible> {
        let first = self.0.first_at_or_after(start);
        Ok(first.filter(|id| end.is_none_or(|end| *id < end)).map(str::to_owned))
    }

    fn contains(&mut self, id: &str) -> Result<bool, Infallible> {
        Ok(self.0.contains(id))
    }
}

/// The ids that a link has still to take: here, what is written is in the index at once.
struct Dirty<'a>(&'a Pending);

impl OrderedIds for Dirty<'_> {
    type Error = Infallible;

    fn first_at_or_after(&mut self, start: &str, end: Option<&str>) -> Result<Option<String>, Infallible> {
        Ok(self.0.ids(&Range::new(start, end.map(str::to_owned))).next().map(str::to_owned))
    }

    fn contains(&mut self, id: &str) -> Result<bool, Infallible> {
        Ok(self.0.get(id).is_some())
    }
}

fn subtree(index: Both<'_>, path: &Path) -> Fingerprint {
    path.ranges().iter().map(|range| index.fingerprint(range)).sum()
}

fn dirty_below(pending: &Pending, path: &Path) -> usize {
    path.ranges().iter().map(|range| pending.ids(range).count()).sum()
}

/// TANDEM.MERKLE
pub fn merkle(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, USAGE);
    let database = selected(context);
    let reply = Reply::new(context);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    let caller = Caller::of(context, &["TANDEM.MERKLE"]).unless_reads_all(context);
    let rights = Rights { context, caller };
    engine::with_database(database, |database| answer(&verb, &mut args, database, (reply, &rights)))??;
    Ok(RedisValue::NoReply)
}

/// What the caller may be shown.
struct Rights<'a> {
    context: &'a Context,
    caller: Caller,
}

impl Rights<'_> {
    fn shows(&self, id: &str) -> bool {
        self.caller.is_trusted() || self.caller.may_read(&keys::name(self.context, id))
    }

    /// A path is the beginning of ids: it is shown where the first of them is.
    fn shows_path(&self, ids: &mut impl OrderedIds<Error = Infallible>, path: &Path) -> bool {
        if self.caller.is_trusted() {
            return true;
        }
        let first = path.ranges().into_iter().find_map(|range| {
            let Ok(first) = ids.first_at_or_after(&range.start, range.end.as_deref());
            first
        });
        first.is_some_and(|id| self.shows(&id))
    }

    /// A page of the paths that are shown; `next` gives so many after a path, `first` where to begin.
    fn page(
        &self,
        ids: &mut impl OrderedIds<Error = Infallible>,
        (first, limit): (Option<Path>, usize),
        mut next: impl FnMut(Option<&Path>, usize) -> Vec<Path>,
    ) -> Vec<Path> {
        if self.caller.is_trusted() {
            return next(first.as_ref(), limit);
        }
        let (mut shown, mut after) = (Vec::new(), first);
        while shown.len() < limit {
            let found = next(after.as_ref(), limit - shown.len());
            let Some(last) = found.last() else { break };
            after = Some(last.clone());
            shown.extend(found.into_iter().filter(|path| self.shows_path(ids, path)));
        }
        shown
    }
}

/// Answers what is asked of the tree.
fn answer(
    verb: &str,
    args: &mut Args<'_>,
    database: &Database,
    (reply, rights): (Reply, &Rights<'_>),
) -> Result<()> {
    let index = database.compared();
    match verb {
        "ROOT" => {
            args.end()?;
            reply.bulk_or_null(index.root().node_hash());
        }
        "HASH" => {
            let path = Path::new(args.text("path")?)?;
            args.end()?;
            reply.bulk_or_null(subtree(index, &path).node_hash());
        }
        "NODE" => {
            let path = Path::new(args.text("path")?)?;
            args.end()?;
            let sum = subtree(index, &path);
            reply.map(4);
            reply_branch(reply, path.as_str(), &sum);
            reply.bulk("pending");
            reply.integer(0);
        }
        "CHILDREN" => {
            const USAGE: &str = "TANDEM.MERKLE CHILDREN path [AFTER child] [LIMIT n]";
            let path = Path::new(args.text("path")?)?;
            let (after, limit) = page(args, USAGE)?;
            let after = after.map(Path::new).transpose()?;
            let found = rights.page(&mut Ids(index), (after, limit), |after, limit| {
                let Ok(found) = children(&mut Ids(index), &path, after, limit);
                found
            });
            reply_branches(reply, index, &found);
        }
        "LEAVES" => {
            const USAGE: &str = "TANDEM.MERKLE LEAVES path [AFTER id] [LIMIT n]";
            let path = Path::new(args.text("path")?)?;
            let (after, limit) = page(args, USAGE)?;
            leaves(index, &path, (after, limit), (reply, rights));
        }
        _ => return answer_of_pending(verb, args, database, (reply, rights)),
    }
    Ok(())
}

/// Answers what is asked of the ids that wait for a link.
fn answer_of_pending(
    verb: &str,
    args: &mut Args<'_>,
    database: &Database,
    (reply, rights): (Reply, &Rights<'_>),
) -> Result<()> {
    let (index, pending) = (database.compared(), &database.pending);
    match verb {
        "DIRTY" => {
            const USAGE: &str = "TANDEM.MERKLE DIRTY prefix [AFTER id] [LIMIT n]";
            let mut range = Range::of_prefix(args.text("prefix")?)?;
            let (after, limit) = page(args, USAGE)?;
            if let Some(after) = after {
                range = range.after(after);
            }
            let ids: Vec<&str> = pending.ids(&range).filter(|id| rights.shows(id)).take(limit).collect();
            reply.array(ids.len());
            ids.iter().for_each(|id| reply.bulk(id));
        }
        "DIRTYCOUNT" => {
            let prefix = if args.left() > 0 { args.text("prefix")? } else { "" };
            args.end()?;
            reply.integer(pending.ids(&Range::of_prefix(prefix)?).count() as u64);
        }
        "DIRTYPREFIXES" => {
            const USAGE: &str = "TANDEM.MERKLE DIRTYPREFIXES path [AFTER child] [LIMIT n]";
            let (path, after, limit) = path_page(args, USAGE)?;
            let found = rights.page(&mut Dirty(pending), (after, limit), |after, limit| {
                let Ok(found) = children(&mut Dirty(pending), &path, after, limit);
                found
            });
            reply.array(found.len());
            for child in found {
                reply.map(2);
                reply.bulk("path");
                reply.bulk(child.as_str());
                reply.bulk("count");
                reply.integer(dirty_below(pending, &child) as u64);
            }
        }
        "CLEAN" => {
            const USAGE: &str = "TANDEM.MERKLE CLEAN path [AFTER child] [LIMIT n]";
            let (path, after, limit) = path_page(args, USAGE)?;
            let found = rights.page(&mut Ids(index), (after, limit), |after, limit| {
                let Ok(found) = clean_children(&mut Ids(index), &mut Dirty(pending), &path, after, limit);
                found
            });
            reply_branches(reply, index, &found);
        }
        "ISCLEAN" => {
            let path = Path::new(if args.left() > 0 { args.text("path")? } else { "" })?;
            args.end()?;
            let Ok(dirty) = holds_any(&mut Dirty(pending), &path);
            reply.integer(u64::from(!dirty));
        }
        other => return Err(unknown_option(other, USAGE)),
    }
    Ok(())
}

fn path_page(args: &mut Args<'_>, usage: &'static str) -> Result<(Path, Option<Path>, usize)> {
    let path = Path::new(args.text("path")?)?;
    let (after, limit) = page(args, usage)?;
    Ok((path, after.map(Path::new).transpose()?, limit))
}

fn reply_branch(reply: Reply, path: &str, sum: &Fingerprint) {
    reply.bulk("path");
    reply.bulk(path);
    reply.bulk("hash");
    reply.bulk_or_null(sum.node_hash());
    reply.bulk("count");
    reply.integer(sum.count());
}

fn reply_branches(reply: Reply, index: Both<'_>, paths: &[Path]) {
    reply.array(paths.len());
    for path in paths {
        reply.map(3);
        reply_branch(reply, path.as_str(), &subtree(index, path));
    }
}

fn leaves(
    index: Both<'_>,
    path: &Path,
    (after, limit): (Option<&str>, usize),
    (reply, rights): (Reply, &Rights<'_>),
) {
    reply.open_array();
    let mut count = 0;
    for range in path.ranges() {
        let mut range = after.map_or_else(|| range.clone(), |after| range.after(after));
        while count < limit {
            let page = index.page(&range, limit - count);
            let Some((last, _)) = page.last() else { break };
            range = range.after(last);
            for (id, digest) in page.iter().filter(|(id, _)| rights.shows(id)) {
                reply.map(2);
                reply.bulk("id");
                reply.bulk(id);
                reply.bulk("etag");
                reply.hex(digest);
                count += 1;
            }
        }
    }
    reply.end_array(count);
}

/// TANDEM.VERIFY: recounts the selected database and compares it with the index.
pub fn verify(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    Args::new(&args, "TANDEM.VERIFY").end()?;
    let database = selected(context);
    let key = engine::with(|engine| engine.key.clone())?;
    let counted: RefCell<(u64, Vec<String>)> = RefCell::default();
    // By the handle of the key as it lies there: to open it again would leave out one whose time has passed and that
    // only its master, or nobody during a pause, may delete.
    let check = |_: &Context, name: &RedisString, key_there: Option<&redis_module::key::RedisKey>| {
        let (Some(id), Some(there)) = (id_of_key(name), key_there) else { return };
        let Ok(Some(item)) = there.get_value::<Item>(&ITEM_TYPE) else { return };
        let state = item.head().live.map(|live| live.state.to_owned());
        let indexed = engine::with_database(database, |database| {
            let (index, other) = match item.local() {
                true => (&database.locals, &database.index),
                false => (&database.index, &database.locals),
            };
            let twice = other.get(id).is_some();
            (index.get(id).filter(|_| !twice), index.state(id).map(str::to_owned))
        });
        let (digest, indexed) = ((item.revision.digest(&key, id), state), indexed.unwrap_or_default());
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
        let indexed = database.index.len() + database.locals.len();
        if indexed != items {
            problems.push(format!("the index counts {indexed}, the keyspace {items}"));
        }
        if let Some((id, ..)) = database.ghosts.iter().find(|(id, ..)| database.index.get(id).is_some()) {
            problems.push(format!("item {id} is here and is a ghost"));
        }
        for index in [&database.index, &database.locals, database.ghosts.index()] {
            if let Err(error) = index.verify() {
                problems.push(error.to_string());
            }
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
