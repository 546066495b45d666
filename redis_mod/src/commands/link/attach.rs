//! Who comes for a link, and who gives it up.

use super::{link_name, owner, run_of, words};
use crate::args::Args;
use crate::blocked;
use crate::datatype::key_check;
use crate::engine::{self, Database};
use crate::reply::Reply;
use crate::store::selected;
use redis_module::{Context, RedisValue};
use std::time::Instant;
use tandem_shared::error::shown;
use tandem_shared::link::{Attachment, PROTOCOL};
use tandem_shared::owner::Owner;
use tandem_shared::{Error, Result};

pub(super) fn attach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let Attachment { link: name, key_check: check, retention, owner, scope, is_check } =
        Attachment::parse(&words(args)?)?;
    if check != key_check()? {
        return Err(Error::NoLink {
            what: format!("link {}", shown(&name)),
            problem: "the digest secrets of the two sides differ".to_owned(),
            remedy: "set tandem.digest-secret in Redis and what tandem.digest_secret_file names in Postgres to one value"
                .to_owned(),
        });
    }
    let (is_fresh, is_new_owner, seq) = engine::with_database(selected(context), |database| {
        check_takes_over(database, &name, &owner)?;
        database.peers.insert(name.as_str().into(), retention);
        let is_new_owner = database.owners.get(name.as_str()) != Some(&owner);
        let is_fresh = database.attach(&name, &scope, Some(&owner));
        if let Some(reading) = database.readings.get_mut(name.as_str()).filter(|_| !is_check) {
            // The reader follows its session, and what was missed meanwhile is not in its filter.
            reading.drop_filter();
            reading.heard(Instant::now());
        }
        Ok::<_, Error>((is_fresh, is_new_owner, database.pending.last_seq()))
    })??;
    if is_fresh || is_new_owner {
        let owner = owner.words();
        let mut effect = vec!["ATTACH", name.as_str()];
        effect.extend(scope.words());
        effect.extend(owner.iter().map(String::as_str));
        context.replicate("TANDEM.EFFECT", effect.as_slice());
    }
    let run = engine::with(|engine| run_of(engine, selected(context), &name))?;
    let reply = Reply::new(context);
    reply.map(4);
    reply.bulk("protocol");
    reply.integer(PROTOCOL);
    reply.bulk("run");
    reply.bulk(run);
    reply.bulk("fresh");
    reply.integer(u64::from(is_fresh));
    reply.bulk("seq");
    reply.integer(seq);
    Ok(RedisValue::NoReply)
}

/// Checks that a link may be another one's from now on. Errors: `NOLINK` for who was replaced by the one that has it,
/// and for another database beside that one.
fn check_takes_over(database: &Database, name: &str, owner: &Owner) -> Result<()> {
    let Some(present) = database.owners.get(name) else { return Ok(()) };
    let refused = |problem: String, remedy: &str| {
        let (what, remedy) = (format!("link {}", shown(name)), remedy.to_owned());
        Err(Error::NoLink { what, problem, remedy })
    };
    if owner.is_replaced_by(present) {
        let problem = format!(
            "belongs to a server that was promoted in the place of this one (timeline {}, this one writes {})",
            present.timeline, owner.timeline
        );
        return refused(problem, "stop this server, or make it a standby of that one");
    }
    if owner.is_beside(present) {
        let problem = format!(
            "belongs to another database of the same cluster (oid {}, this one has {})",
            present.database, owner.database
        );
        return refused(
            problem,
            "unlink it in one of the two and link it under another name; if the other database is gone, \
             TANDEM.LINK DETACH with the link's name frees it in Redis",
        );
    }
    Ok(())
}

pub(super) fn detach(context: &Context, args: &mut Args<'_>) -> Result<RedisValue> {
    let name = link_name(args)?;
    let owner = if args.left() > 0 { Some(owner(args)?) } else { None };
    args.end()?;
    let known = engine::with_database(selected(context), |database| {
        // One that is restored from another server's dump, or was replaced, has nothing here to detach.
        let is_anothers =
            owner.is_some_and(|owner| database.owners.get(name).is_some_and(|present| *present != owner));
        !is_anothers && database.detach(name)
    })?;
    if known {
        context.replicate("TANDEM.EFFECT", &["DETACH", name]);
        blocked::wake(selected(context));
        blocked::wake_readers(selected(context));
    }
    Ok(RedisValue::Integer(i64::from(known)))
}
