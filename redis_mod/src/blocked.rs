//! Clients that are blocked: links in `TANDEM.LINK PULL` until the next write, users in `TANDEM.WAIT` until the
//! links have taken what was written before; and those around ids that are fetched: users until theirs are there, the
//! links' readers in `TANDEM.LINK WANTED` until there are any.
//!
//! Redis keeps a blocked client's handle alive after a disconnect until it is unblocked once, so whoever takes a
//! handle out of the list here unblocks it, and nobody else does. Redis is told of no time-out: where one passes in
//! the moment in which the client is unblocked, Redis 7.0 and early versions of 7.2 throw the reply away. A timer of
//! ours takes out of the list whoever has waited long enough, so that there is one way out of it, and one reply.

use crate::clients::Written;
use crate::commands::fill::answer_wanted;
use crate::commands::link::{Pull, answer_pull};
use crate::engine::{self, Database};
use crate::guard::{self, caught};
use crate::keys;
use crate::pending::Pending;
use crate::read_through::{self, Waiting};
use crate::reading::Reading;
use crate::reply::Reply;
use redis_module::{Context, RedisString, raw};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

/// What a client waits for.
pub enum Awaited {
    /// Something to take.
    Pull(Pull),
    /// That all links which can have it have what a client wrote.
    Taken(Taken),
    /// That ids were fetched.
    Fetched(Waiting),
    /// Nothing more: the answer is given.
    Answered,
    /// Ids to fetch, at most so many: the reader of the link named.
    Wants(Box<str>, usize),
}

struct Blocked {
    client: *mut raw::RedisModuleBlockedClient,
    database: i32,
    awaited: Awaited,
    /// When it has waited long enough.
    deadline: Option<Instant>,
    /// It has.
    is_late: bool,
}

/// When who has waited long enough; handles tell apart those of one moment.
#[derive(Default)]
struct Deadlines {
    all: BTreeSet<(Instant, usize)>,
    /// A timer runs out at that time, or before it.
    armed: Option<Instant>,
}

thread_local! {
    static DEADLINES: RefCell<Deadlines> = RefCell::default();

    /// Those that wait for writes and acknowledgements; for ids that are fetched, which may be many; and for ids to
    /// fetch. Each is woken for its own reason, and no write looks through the others.
    static BLOCKED: RefCell<[Vec<Blocked>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// What a client in TANDEM.WAIT has written.
pub struct Taken {
    /// The client, if anybody knows it.
    pub client: Option<u64>,
    /// Everything up to this number.
    pub seq: u64,
    /// What is known of its own writes.
    pub written: Written,
}

impl Taken {
    /// How many links have brought all of it to Postgres, and whether no other one will.
    pub fn count(&self, pending: &Pending) -> (u64, bool) {
        let (mut count, mut is_final) = (0, true);
        let able = pending
            .links()
            .filter(|(name, link)| link.scope.to_postgres() && !self.written.lacking.contains(*name));
        for (_, link) in able {
            let is_refused = self.written.numbers.is_some_and(|(first, last)| {
                link.refused.values().any(|number| (first..=last).contains(number))
            });
            let has_taken = pending.has_taken(link, self.seq, self.client);
            is_final &= has_taken;
            count += u64::from(has_taken && !is_refused);
        }
        (count, is_final)
    }
}

impl Awaited {
    fn is_there(&self, database: &Database) -> bool {
        match self {
            Awaited::Pull(pull) => pull.is_there(database),
            Awaited::Taken(taken) => taken.count(&database.pending).1,
            Awaited::Fetched(waiting) => waiting.is_there(database),
            Awaited::Answered => true,
            Awaited::Wants(link, _) => database.readings.get(link).is_none_or(|reading| reading.has_work()),
        }
    }

    /// The answer when it is there.
    fn reply(&self, context: &Context, database: i32) {
        // SAFETY: the context is that of the running callback. It begins on database 0.
        unsafe { raw::RedisModule_SelectDb.map(|select| select(context.get_raw(), database)) };
        match self {
            Awaited::Pull(pull) => {
                if let Err(error) = answer_pull(context, pull, false) {
                    Reply::new(context).error(&error);
                }
            }
            Awaited::Taken(taken) => reply_count(context, database, taken),
            Awaited::Fetched(_) | Awaited::Answered => {}
            Awaited::Wants(link, max) => {
                if let Err(error) = answer_wanted(context, link, *max) {
                    Reply::new(context).error(&error);
                }
            }
        }
    }

    /// The answer when it did not come in time.
    fn reply_late(&self, context: &Context, database: i32) {
        match self {
            Awaited::Pull(_) | Awaited::Wants(..) | Awaited::Answered => Reply::new(context).array(0),
            Awaited::Taken(taken) => reply_count(context, database, taken),
            Awaited::Fetched(waiting) => match read_through::late(waiting) {
                Ok(error) | Err(error) => Reply::new(context).error(&error),
            },
        }
    }
}

fn reply_count(context: &Context, database: i32, taken: &Taken) {
    let count = engine::with_database(database, |database| taken.count(&database.pending).0);
    Reply::new(context).integer(count.unwrap_or(0));
}

/// Runs a command that has what it waited for. Now, and not when Redis comes to unblock the client: what was brought
/// may be evicted until then.
fn run_again(client: *mut raw::RedisModuleBlockedClient, database: i32, waiting: &Waiting) {
    // SAFETY: the handle is not unblocked yet; what is replied to this context reaches the client when it is.
    let context = unsafe { raw::RedisModule_GetThreadSafeContext.map(|get| get(client)) };
    let Some(raw_context) = context.filter(|context| !context.is_null()) else { return };
    // SAFETY: the context was just made. It begins on database 0.
    unsafe { raw::RedisModule_SelectDb.map(|select| select(raw_context, database)) };
    let context = Context::new(raw_context);
    if waiting.ids.iter().all(|id| keys::is_served(&context, id)) {
        let string = |arg: &Vec<u8>| RedisString::create_from_slice(raw_context, arg);
        let args = waiting.args.iter().map(string).collect();
        read_through::resumed(|| guard::run_and_reply(&context, args, waiting.handler));
    } else {
        // Clients of a cluster know this answer, and ask again.
        context.reply_error_string("TRYAGAIN the slot has moved to another node while the command waited");
    }
    // SAFETY: made above, and nobody has kept it.
    unsafe { raw::RedisModule_FreeThreadSafeContext.map(|free| free(raw_context)) };
}

/// Blocks the client until what it waits for is there or the time has passed; 0 waits for ever.
pub fn block(context: &Context, database: i32, awaited: Awaited, timeout_ms: u64) {
    // SAFETY: the callbacks have the API's signatures and live as long as the module.
    let client = unsafe {
        raw::RedisModule_BlockClient
            .map(|block| block(context.get_raw(), Some(on_reply), None, Some(free_blocked), 0))
    };
    let Some(client) = client.filter(|client| !client.is_null()) else { return };
    // SAFETY: the handle was just made.
    unsafe { raw::RedisModule_SetDisconnectCallback.map(|set| set(client, Some(on_disconnect))) };
    let time = Duration::from_millis(timeout_ms);
    let deadline = (timeout_ms > 0).then(|| Instant::now().checked_add(time)).flatten();
    if let Some(deadline) = deadline {
        DEADLINES.with_borrow_mut(|deadlines| deadlines.all.insert((deadline, client.addr())));
        arm(context);
    }
    BLOCKED.with_borrow_mut(|[others, readers, askers]| {
        let list = match &awaited {
            Awaited::Fetched(_) => readers,
            Awaited::Wants(..) => askers,
            Awaited::Pull(_) | Awaited::Taken(_) | Awaited::Answered => others,
        };
        list.push(Blocked { client, database, awaited, deadline, is_late: false });
    });
}

/// Wakes the clients of a database that have what they wait for: after a write, and after a link acknowledged or went.
pub fn wake(database: i32) {
    wake_of(database, |[others, _, _]| others);
}

/// Wakes the clients of a database that wait for ids which were fetched meanwhile, and the readers that fetch them.
pub fn wake_readers(database: i32) {
    wake_of(database, |[_, readers, _]| readers);
    wake_askers(database);
}

/// Wakes the links' readers that have ids to fetch.
pub fn wake_askers(database: i32) {
    wake_of(database, |[_, _, askers]| askers);
}

/// Forgets what was recalled of ghosts, but for what a client still waits for together with something else.
pub fn forget_recalled(number: i32) {
    let is_awaited = |readers: &[Blocked], id: &str| {
        readers.iter().any(|client| match &client.awaited {
            Awaited::Fetched(waiting) => {
                client.database == number && waiting.ids.iter().any(|each| **each == *id)
            }
            _ => false,
        })
    };
    BLOCKED.with_borrow(|[_, readers, _]| {
        let _ = engine::with_database(number, |database| {
            database.recalled.retain(|id, _| is_awaited(readers, id));
        });
    });
}

fn wake_of(database: i32, list: fn(&mut [Vec<Blocked>; 3]) -> &mut Vec<Blocked>) {
    let woken = BLOCKED.with_borrow_mut(|blocked| {
        let blocked = list(blocked);
        if blocked.is_empty() {
            return Vec::new();
        }
        let is_woken = |client: &Blocked| {
            let is_there = engine::with_database(database, |database| client.awaited.is_there(database));
            client.database == database && is_there.unwrap_or(true)
        };
        let (woken, kept) = std::mem::take(blocked).into_iter().partition(is_woken);
        *blocked = kept;
        woken
    });
    for mut blocked in woken {
        let client = blocked.client;
        forget_deadline(&blocked);
        if let Awaited::Fetched(waiting) = &blocked.awaited {
            run_again(client, blocked.database, waiting);
            blocked.awaited = Awaited::Answered;
        }
        unblock(client, Box::into_raw(Box::new(blocked)).cast());
    }
}

fn unblock(client: *mut raw::RedisModuleBlockedClient, private: *mut c_void) {
    // SAFETY: the handle was taken out of the list, so it is unblocked this once; the private data is null or a
    // box that `free_blocked` takes back.
    unsafe { raw::RedisModule_UnblockClient.map(|unblock| unblock(client, private)) };
}

/// Takes a client out of the lists.
fn take(is_it: impl Fn(&Blocked) -> bool) -> Option<Blocked> {
    let taken = BLOCKED.with_borrow_mut(|lists| {
        lists.iter_mut().find_map(|blocked| {
            let position = blocked.iter().position(&is_it)?;
            Some(blocked.swap_remove(position))
        })
    });
    taken.inspect(forget_deadline)
}

/// Whether a reader of a link waits for ids.
fn has_asker(database: i32, link: &str) -> bool {
    BLOCKED.with_borrow(|[_, _, askers]| {
        askers.iter().any(|client| match &client.awaited {
            Awaited::Wants(name, _) => client.database == database && **name == *link,
            _ => false,
        })
    })
}

fn forget_deadline(blocked: &Blocked) {
    if let Some(deadline) = blocked.deadline {
        DEADLINES.with_borrow_mut(|deadlines| deadlines.all.remove(&(deadline, blocked.client.addr())));
    }
}

/// Sees to it that a timer runs out when the first deadline has come.
fn arm(context: &Context) {
    let first = DEADLINES.with_borrow_mut(|deadlines| {
        let first = deadlines.all.first().map(|(deadline, _)| *deadline)?;
        if deadlines.armed.is_some_and(|armed| armed <= first) {
            return None;
        }
        deadlines.armed = Some(first);
        Some(first)
    });
    if let Some(first) = first {
        // Rounded up, so that the deadline has come when it runs out.
        let time = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        context.create_timer(time, on_timer, first);
    }
}

/// Answers those who have waited long enough.
fn on_timer(context: &Context, armed: Instant) {
    caught("the time-out of blocked clients", (), || {
        let now = Instant::now();
        let due = DEADLINES.with_borrow_mut(|deadlines| {
            // One that was armed for an earlier deadline is still to come.
            if deadlines.armed == Some(armed) {
                deadlines.armed = None;
            }
            let later = deadlines.all.split_off(&(now, usize::MAX));
            std::mem::replace(&mut deadlines.all, later)
        });
        for (_, client) in due {
            if let Some(mut blocked) = take(|entry| entry.client.addr() == client) {
                blocked.is_late = true;
                unblock(blocked.client, Box::into_raw(Box::new(blocked)).cast());
            }
        }
        arm(context);
    });
}

unsafe extern "C" fn on_reply(
    context: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    caught("answering a blocked client", (), || {
        // SAFETY: Redis calls this for a client that was unblocked with private data of this type: null, or the box
        // made in `wake`, alive until `free_blocked`.
        let private = unsafe {
            raw::RedisModule_GetBlockedClientPrivateData
                .and_then(|get| get(context).cast::<Blocked>().as_ref())
        };
        match private {
            Some(blocked) if blocked.is_late => {
                blocked.awaited.reply_late(&Context::new(context), blocked.database);
            }
            Some(blocked) => blocked.awaited.reply(&Context::new(context), blocked.database),
            None => Reply::from_raw(context).array(0),
        }
    });
    raw::Status::Ok as c_int
}

unsafe extern "C" fn on_disconnect(_: *mut raw::RedisModuleCtx, client: *mut raw::RedisModuleBlockedClient) {
    caught("a blocked client's disconnect", (), || {
        let Some(blocked) = take(|entry| entry.client == client) else { return };
        if let Awaited::Wants(link, _) = &blocked.awaited
            && !has_asker(blocked.database, link)
        {
            let _ = engine::with_database(blocked.database, |database| {
                database.readings.get_mut(link).map(Reading::lost)
            });
        }
        unblock(client, std::ptr::null_mut());
    });
}

unsafe extern "C" fn free_blocked(_: *mut raw::RedisModuleCtx, private: *mut c_void) {
    if !private.is_null() {
        // SAFETY: non-null private data is the box made in `wake`.
        drop(unsafe { Box::from_raw(private.cast::<Blocked>()) });
    }
}
