//! TANDEM.LINK: the half of a link that runs here. Postgres dials; these are the commands of its worker.

mod attach;
mod books;
mod compare;
mod pull;
mod push;

pub use pull::{Pull, answer_pull};
pub use push::{is_full, join, no_room, take};

use crate::acl::{self, Caller};
use crate::args::{Args, unknown_option};
use crate::commands::fill;
use crate::datatype::key_check;
use crate::engine::{self, Engine};
use redis_module::{Context, RedisString, RedisValue};
use tandem_shared::error::shown;
use tandem_shared::link::check_name;
use tandem_shared::owner::Owner;
use tandem_shared::{Error, Result};

const USAGE: &str = "TANDEM.LINK ATTACH|READY|DETACH|PULL|ACK|PUSH|WANTED|FILL|HOLDS|FILTER|FINGERPRINT|SPLIT|LISTRANGE|\
     FETCH|PENDING|WAITS|LIST|HASKEY …";

/// TANDEM.LINK
pub fn link(context: &Context, args: Vec<RedisString>) -> Result<RedisValue> {
    let mut args = Args::new(&args, USAGE);
    let verb = args.text("subcommand")?.to_ascii_uppercase();
    // A link reads and writes what it likes, and its books are about every id.
    if !Caller::of(context, &["TANDEM.LINK"]).may_everything(context) {
        return Ok(acl::refuse(context));
    }
    match verb.as_str() {
        "ATTACH" => attach::attach(context, &mut args),
        "READY" => fill::ready(context, &mut args),
        "WANTED" => fill::wanted(context, &mut args),
        "FILL" => fill::fill(context, &mut args),
        "HOLDS" => fill::holds(context, &mut args),
        "FILTER" => fill::filter(context, &mut args),
        "DETACH" => attach::detach(context, &mut args),
        "PULL" => pull::pull(context, &mut args),
        "ACK" => pull::acknowledge(context, &mut args),
        "PUSH" => push::push(context, &mut args),
        "FINGERPRINT" => compare::fingerprint(context, &mut args),
        "SPLIT" => compare::split(context, &mut args),
        "LISTRANGE" => compare::list_range(context, &mut args),
        "FETCH" => compare::fetch(context, &mut args),
        "PENDING" => books::pending(context, &mut args),
        "WAITS" => books::waits(context, &mut args),
        "LIST" => books::list(context, &args),
        "HASKEY" => has_key(&mut args),
        other => Err(unknown_option(other, USAGE)),
    }
}

/// The name of a link.
pub fn link_name<'a>(args: &mut Args<'a>) -> Result<&'a str> {
    let name = args.text("link")?;
    check_name(name)?;
    Ok(name)
}

/// The arguments that are left, as text.
pub fn words<'a>(args: &mut Args<'a>) -> Result<Vec<&'a str>> {
    let mut words = Vec::with_capacity(args.left());
    while args.left() > 0 {
        words.push(args.text("argument")?);
    }
    Ok(words)
}

/// The database that a worker speaks for.
fn owner(args: &mut Args<'_>) -> Result<Owner> {
    Owner::parse([args.text("cluster")?, args.text("timeline")?, args.text("database")?])
}

/// Refuses what is said for a link that is not attached, or by a server that does not have it.
pub fn check_owner(database: i32, name: &str, args: &mut Args<'_>) -> Result<()> {
    let owner = owner(args)?;
    check_attached(database, name)?;
    let is_its_own = engine::with_database(database, |database| {
        database.owners.get(name).is_none_or(|present| *present == owner)
    })?;
    if is_its_own {
        return Ok(());
    }
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: "belongs to another server".to_owned(),
        remedy: "attach it first (the worker does so by itself)".to_owned(),
    })
}

/// Refuses what a link says that is not attached.
pub fn check_attached(database: i32, name: &str) -> Result<()> {
    if engine::with_database(database, |database| database.pending.link(name).is_some())? {
        return Ok(());
    }
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: "it is not attached to this database".to_owned(),
        remedy: "attach it first".to_owned(),
    })
}

fn check_link(database: i32, name: &str, run: &str) -> Result<()> {
    let (same_run, known) = engine::with(|engine| {
        let known =
            engine.databases.get(&database).is_some_and(|database| database.pending.link(name).is_some());
        (run_of(engine, database, name) == run, known)
    })?;
    if same_run && known {
        return Ok(());
    }
    let problem = if known {
        "the server was restarted, or another Postgres has attached it"
    } else {
        "it is not attached to this database"
    };
    Err(Error::NoLink {
        what: format!("link {}", shown(name)),
        problem: problem.to_owned(),
        remedy: "attach it (the worker does so by itself)".to_owned(),
    })
}

fn run_of(engine: &Engine, database: i32, name: &str) -> String {
    let database = engine.databases.get(&database);
    database.map_or_else(|| engine.run.clone(), |database| database.run_of(&engine.run, name))
}

/// Whether digests are made with the secret of this check value, without attaching anything.
fn has_key(args: &mut Args<'_>) -> Result<RedisValue> {
    let check = args.text("key check")?;
    args.end()?;
    Ok(RedisValue::Integer(i64::from(check == key_check()?)))
}
