//! TANDEM.EFFECT: what replicas and the AOF get in place of a client's request. Not for clients.

use crate::args::{Args, unknown_option};
use crate::commands::link::words;
use crate::decide::Planned;
use crate::engine;
use crate::item::Item;
use crate::keys::{self, WritableKey};
use crate::pending::TombstonePage;
use crate::persist;
use crate::store::{self, Effect, Gone, Writer, selected};
use redis_module::{Context, ContextFlags, RedisString, RedisValue};
use tandem_shared::codec::{Source, decode};
use tandem_shared::link::{Acknowledgement, Scope};
use tandem_shared::owner::Owner;
use tandem_shared::{Error, Result, Version};

const USAGE: &str = "TANDEM.EFFECT WRITE|JOIN|LOCAL id effect revision | RESTORE id item | BOOKS bytes | \
                     ATTACH name prefix mode direction cluster timeline database | COMPARED name | DETACH name | \
                     ACK name run seq [EXCEPT count number …] [REFUSED id …] | \
                     QUEUE id seq | TOMBSTONES name seq last 0|1 | \
                     EXPIRED id ghost | WITHHELD id version | FORGET id …";

/// TANDEM.EFFECT
pub fn effect(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    if !context.get_flags().intersects(ContextFlags::REPLICATED | ContextFlags::LOADING) {
        return Err(Error::invalid(
            "TANDEM.EFFECT",
            "is for replication and the AOF only",
            "use TANDEM.PUT, TANDEM.REMOVE or TANDEM.APPLY",
        ));
    }
    let done = replay(context, &args);
    if done.is_err() {
        // Nobody reads this answer, and this server is no copy of its master, or of itself, from here on.
        engine::with(|engine| engine.failed_effects += 1)?;
    }
    done
}

fn replay(context: &Context, args: &[RedisString]) -> Result<RedisValue> {
    let mut args = Args::new(args, USAGE);
    let database = selected(context);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    match verb.as_str() {
        "WRITE" | "JOIN" | "LOCAL" => revision(context, &verb, &mut args)?,
        "RESTORE" => {
            // Also at a key whose name is no id.
            let name = args.string()?;
            store::restore(context, name, Item::decode(args.bytes()?, Source::Own)?)?;
        }
        "BOOKS" => {
            let books = persist::load(args.bytes()?)?;
            engine::with(|engine| persist::install(engine, books))?;
        }
        "QUEUE" => {
            let (id, seq) = (args.text("id")?, args.unsigned("seq")?);
            engine::with_database(database, |database| database.pending.written(id, None, Some(seq)))?;
        }
        "TOMBSTONES" => {
            let (name, seq) = (args.text("name")?, args.unsigned("seq")?);
            let (last, is_end) = (args.text("last")?.into(), args.text("end")? == "1");
            let page = TombstonePage { seq, last, is_end };
            engine::with_database(database, |database| database.pending.tombstones_under_way(name, page))?;
        }
        "WITHHELD" => {
            let id = args.text("id")?;
            let version = Version::new(args.unsigned("version")?.into())?;
            engine::with_database(database, |database| database.withhold(id, version))?;
        }
        "EXPIRED" => {
            let (id, _) = args.id()?;
            store::replay_expiry(context, id, &Gone::decode(args.bytes()?)?)?;
        }
        "FORGET" => {
            while args.left() > 0 {
                let id = args.text("id")?;
                engine::with_database(database, |database| {
                    database.tombstones.remove(id);
                    database.ghosts.remove(id);
                })?;
            }
        }
        _ => of_link(database, &verb, &mut args)?,
    }
    Ok(RedisValue::SimpleStringStatic("OK"))
}

/// A revision as it was stored.
fn revision(context: &Context, verb: &str, args: &mut Args<'_>) -> Result<()> {
    let (id, _) = args.id()?;
    let effect = Effect::decode(args.bytes()?)?;
    let revision = decode(args.bytes()?, Source::Own)?;
    let live = !revision.head().is_tombstone();
    let planned = Planned::of(&store::digest_key()?, id, revision, verb == "LOCAL");
    let writer = match effect.origin {
        Some(link) => Writer::Link(link),
        None if verb == "JOIN" => Writer::Peer,
        None => Writer::Client,
    };
    let books = (verb != "LOCAL").then_some((effect.seq, writer));
    store::replay(context, id, planned, books)?;
    if live {
        let name = keys::name(context, id);
        let mut key = WritableKey::open(context, id, &name)?;
        match effect.expires_at {
            at if at >= 0 => key.expire_at(at),
            _ if key.expires_at() >= 0 => key.expire_after(None),
            _ => {}
        }
    }
    Ok(())
}

/// What a link has said.
fn of_link(database: i32, verb: &str, args: &mut Args<'_>) -> Result<()> {
    match verb {
        "ATTACH" => {
            let name = args.text("name")?;
            let scope = Scope::parse(args.text("prefix")?, args.text("mode")?, args.text("direction")?)?;
            let owner =
                Owner::parse([args.text("cluster")?, args.text("timeline")?, args.text("database")?])?;
            engine::with_database(database, |database| database.attach(name, &scope, Some(&owner)))?;
        }
        "COMPARED" => {
            // By a link of the master: who takes over from it has compared nothing, but knows what the other side had.
            let name = args.text("name")?;
            engine::with_database(database, |database| {
                if let Some(link) = database.pending.link_mut(name) {
                    link.was_compared = true;
                }
            })?;
        }
        "DETACH" => {
            let name = args.text("name")?;
            engine::with_database(database, |database| database.detach(name))?;
        }
        "ACK" => {
            let taken = Acknowledgement::parse(&words(args)?)?;
            engine::with_database(database, |database| database.acknowledge(&taken))?;
        }
        other => return Err(unknown_option(other, USAGE)),
    }
    Ok(())
}
