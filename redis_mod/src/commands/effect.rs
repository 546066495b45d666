//! TANDEM.EFFECT: what replicas and the AOF get in place of a client's request. Not for clients.

use crate::args::{Args, unknown_option};
use crate::engine;
use crate::keys::{self, WritableKey};
use crate::persist;
use crate::store::{self, Writer, selected};
use redis_module::{Context, ContextFlags, RedisString, RedisValue};
use tandem_shared::codec::{Source, decode};
use tandem_shared::{Error, Result};

const USAGE: &str = "TANDEM.EFFECT WRITE|JOIN id revision seq origin expires-at | RESTORE id revision | \
                     BOOKS bytes | ATTACH name | DETACH name | ACK name seq";

/// TANDEM.EFFECT
pub fn effect(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    if !context.get_flags().intersects(ContextFlags::REPLICATED | ContextFlags::LOADING) {
        return Err(Error::invalid(
            "TANDEM.EFFECT",
            "is for replication and the AOF only",
            "use TANDEM.PUT, TANDEM.REMOVE or TANDEM.APPLY",
        ));
    }
    let mut args = Args::new(&args, USAGE);
    let database = selected(context);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    match verb.as_str() {
        "WRITE" | "JOIN" => {
            let (id, _) = args.id()?;
            let revision = decode(args.bytes()?, Source::Own)?;
            let live = !revision.head().is_tombstone();
            let seq = Some(args.unsigned("seq")?).filter(|seq| *seq > 0);
            let origin = args.text("origin")?;
            let expires_at = tandem_shared::request::integer("expires-at", args.text("expires-at")?)?;
            let writer = if origin.is_empty() { Writer::Client } else { Writer::Link(origin) };
            store::replay(context, id, revision, seq, writer)?;
            if live {
                let mut key = WritableKey::open(context, id, &keys::name(context, id))?;
                match expires_at {
                    at if at >= 0 => key.expire_at(at),
                    _ if key.expires_at() >= 0 => key.expire_after(None),
                    _ => {}
                }
            }
        }
        "RESTORE" => {
            let (id, _) = args.id()?;
            store::restore(context, id, decode(args.bytes()?, Source::Own)?)?;
        }
        "BOOKS" => {
            let books = persist::load(args.bytes()?)?;
            engine::with(|engine| persist::install(engine, books))?;
        }
        "ATTACH" => {
            let name = args.text("name")?;
            engine::with_database(database, |database| database.pending.attach(name))?;
        }
        "DETACH" => {
            let name = args.text("name")?;
            engine::with_database(database, |database| database.pending.detach(name))?;
        }
        "ACK" => {
            let (name, seq) = (args.text("name")?, args.unsigned("seq")?);
            engine::with_database(database, |database| database.pending.acknowledge(name, seq))?;
        }
        other => return Err(unknown_option(other, USAGE)),
    }
    Ok(RedisValue::SimpleStringStatic("OK"))
}
