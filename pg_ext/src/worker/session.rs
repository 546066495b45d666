//! One link's worker. It pulls what was written in Redis, joins it into `items`, commits and acknowledges; and it
//! pushes what the log holds to Redis. A crash anywhere repeats some joins and loses nothing: positions move only
//! after the other side has the data.
//!
//! No transaction is open while it talks to Redis.

use super::checks::{self, Run};
use super::connection::Broken;
use super::id_filter::IdFilter;
use super::joining::Entry;
use super::letters;
use super::link::{self, Link, Noted};
use super::locks::{Kind, Lock};
use super::node::Node;
use super::peer::{Here, Local, Named, read};
use super::process::{begin, interrupts};
use super::reader::wait_for_fills;
use super::remote::{Pulled, owner};
use super::repair::{Books, Refused, Report, Side, Task, check, check_held};
use super::shards::{Attach, Shards};
use super::supervision::{LOOK, Supervised, readable, supervise};
use super::transaction::{Failed, durable, transaction};
use crate::error::Outcome;
use crate::fault_point::{self, Point};
use crate::log::{self, Position};
use crate::planning::read_one;
use crate::store::{self, Page};
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::ffi::CStr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tandem_shared::Revision;
use tandem_shared::cluster::slot_of;
use tandem_shared::codec::encode;
use tandem_shared::decide::Outcome as Joined;
use tandem_shared::id::{Range, check_id};
use tandem_shared::reconcile::Replica;

/// Pause before the next push to a Redis that has no room.
const FULL: Duration = Duration::from_secs(1);
/// How long a session sleeps before it looks at the log again: after it had something to do, and, twice as long each
/// time, at most.
const IDLE: Duration = Duration::from_millis(1);
/// At most so long in the minute after that, which takes 2 per cent of a processor,
const IDLE_AWAKE: Duration = Duration::from_millis(5);
/// and at most so long later.
const IDLE_ASLEEP: Duration = Duration::from_millis(25);
/// The minute.
const AWAKE: Duration = Duration::from_secs(60);
/// How often it asks what waits in Redis.
const COUNT: Duration = Duration::from_secs(1);

/// Entry point of a session; the link's name comes in the worker's extra text.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tandem_link_main(_argument: pg_sys::Datum) {
    let extra = BackgroundWorker::get_extra().to_owned();
    let Some((database, name)) = extra.split_once('\n') else { return };
    begin(database);
    if Lock::of(Kind::Session, name).keep() {
        supervise(&mut Session {
            name: name.to_owned(),
            generation: None,
            last: None,
            compared_at: RefCell::new(None),
        });
    }
}

impl Supervised for Session {
    fn is_wanted(&mut self) -> bool {
        matches!(self.load(), Ok(Some(_)))
    }

    fn work(&mut self) -> Result<(), Broken> {
        self.run()
    }

    fn note(&mut self, reason: &str) {
        pgrx::log!("tandem link {}: {reason}; will try again", self.name);
        if matches!(self.load(), Ok(Some(_))) {
            let _ = transaction(|| link::note_error(&self.name, reason));
        }
    }
}

struct Session {
    name: String,
    /// That of the link when this process began.
    generation: Option<i64>,
    /// The link as it was read last.
    last: Option<Link>,
    /// Where the log was when a comparison began of which the nodes were not told yet.
    compared_at: RefCell<Option<Rc<Position>>>,
}

/// What a session ends with whose link is another than when it began.
fn changed() -> Broken {
    Broken("the link was changed or removed".into())
}

/// What a comparison that is due is to be followed by: tombstones are in no comparison.
enum Owed {
    /// Those of all ids.
    Everything,
    /// Those of slots that another master of a cluster has now: books do not move with them.
    Slots(HashSet<u16>),
}

impl Owed {
    fn add(owed: &mut Option<Owed>, moved: HashSet<u16>) {
        match owed {
            _ if moved.is_empty() => {}
            Some(Owed::Everything) => {}
            Some(Owed::Slots(slots)) => slots.extend(moved),
            None => *owed = Some(Owed::Slots(moved)),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Owed::Slots(slots) if slots.is_empty())
    }

    fn has(&self, id: &str) -> bool {
        match self {
            Owed::Everything => true,
            Owed::Slots(slots) => slots.contains(&slot_of(id)),
        }
    }
}

/// Transactions of the worker's own. What they attempt is told to the other side, so that it must be on disk then:
/// what they write, and what they read.
pub struct Own;

/// How long a check waits for somebody's lock.
const LOCK_TIMEOUT: &CStr = c"200ms";

impl Local for Own {
    fn run<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Broken> {
        interrupts();
        Ok(transaction(work)?)
    }

    fn attempt<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failed> {
        interrupts();
        durable(LOCK_TIMEOUT, work)
    }
}

/// How far the run of a check is said to be.
struct Progress<'a> {
    session: &'a Session,
    link: &'a str,
    run: i64,
    told: Option<(&'static str, Instant)>,
}

impl Books for Progress<'_> {
    fn set_aside(&mut self, refused: Refused) -> Result<(), Broken> {
        let Refused { id, side, revision, reason } = refused;
        let direction = match side {
            Side::Left => "from_redis",
            Side::Right => "to_redis",
        };
        set_aside(self.link, &id, direction, Some(revision), &reason)
    }

    fn letters_of(&mut self, taken: &[Named<'_>]) -> Result<HashSet<String>, Broken> {
        Own.run(|| letters::of_revisions(self.link, taken))
    }

    fn forget_letters(&mut self, taken: &[Named<'_>]) -> Result<(), Broken> {
        Own.run(|| letters::forget(self.link, taken))
    }

    fn tell(&mut self, phase: &'static str, report: &Report) -> Result<(), Broken> {
        if self.told.is_some_and(|(told, at)| told == phase && at.elapsed() < LOOK) {
            return Ok(());
        }
        self.told = Some((phase, Instant::now()));
        let (run, noted) = (self.run, self.session.noted());
        let is_current = Own.run(|| {
            checks::tell(run, phase, report)?;
            link::is_current(noted)
        })?;
        if is_current { Ok(()) } else { Err(changed()) }
    }

    fn keep_loser(&mut self, id: &str, loser: &Revision) -> Result<(), Broken> {
        Own.run(|| store::keep_loser(id, loser))
    }
}

impl From<Failed> for Broken {
    fn from(failed: Failed) -> Broken {
        Broken(failed.message)
    }
}

impl Session {
    /// One connection's life. `Ok` means that the link was paused or removed.
    fn run(&mut self) -> Result<(), Broken> {
        let Some(mut link) = self.load()? else { return Ok(()) };
        let owner = transaction(owner)?;
        let others = Shards::addresses(link.run.as_deref().unwrap_or_default());
        let mut talk = Shards::open(&link.url, &others, Some(&self.name), link.session(owner))?;
        let mut nodes = Vec::new();
        Node::follow(&mut nodes, &talk, &self.name)?;
        fault_point::reach(Point::Attached);
        let is_fresh = talk.iter().any(|shard| shard.is_fresh);
        // What is not in the log any more can only be compared.
        let is_covered = transaction(|| link::is_covered(&link.position))?;
        if is_fresh || (link.ways.to_right && !is_covered) {
            self.owe_check(&mut link)?;
        }
        let is_due = link.needs_check || link.run.as_deref() != Some(talk.describe().as_str());
        let mut owed = is_due.then_some(Owed::Everything);
        if owed.is_none() && (link.compare_due || self.roots_differ(&mut talk, &link)?) {
            owed = Some(Owed::Slots(HashSet::new()));
        }
        // A Redis without room is no reason to stop taking what it has: that is what makes room.
        let mut full_until: Option<Instant> = None;
        let mut streaming = false;
        let mut looked = Instant::now();
        let mut counted: Option<Instant> = None;
        let mut filter = IdFilter::Due;
        let (mut busy, mut idle) = (Instant::now(), IDLE);
        loop {
            interrupts();
            // A link that only writes to Redis pulls too: what was dropped there is to come back, and what is
            // written there must not wait for ever.
            for node in &mut nodes {
                node.ask(&self.name)?;
            }
            let look = looked.elapsed() > LOOK;
            if look {
                looked = Instant::now();
                match self.load()? {
                    Some(row) => {
                        link.check_due = row.check_due;
                        link.compare_due = row.compare_due;
                    }
                    None => return Ok(()),
                }
                for node in &mut nodes {
                    if self.join_held(&mut talk, &link, node, &mut filter)? {
                        self.owe_check(&mut link)?;
                        owed = Some(Owed::Everything);
                    }
                }
            }
            let mut pushed = false;
            if full_until.is_none_or(|until| Instant::now() >= until) {
                match self.push_due(&mut talk, &mut link, owed.as_ref(), look, &mut filter) {
                    Ok(any) => {
                        (pushed, owed, full_until) = (any, None, None);
                        if !streaming {
                            streaming = true;
                            if link.ways.to_right {
                                talk.tell(|remote| remote.ready(&self.name, true))?;
                            }
                            self.set("state = 'streaming', last_error = NULL")?;
                            pgrx::log!("tandem link {}: streaming", self.name);
                        }
                    }
                    Err(broken) if broken.is_full() => {
                        streaming = false;
                        full_until = Some(Instant::now() + FULL);
                        transaction(|| link::note_error(&self.name, &broken.0))?;
                    }
                    Err(broken) => return Err(broken),
                }
            }
            if let Some(at) = self.compared_at.take() {
                nodes.iter_mut().for_each(|node| node.was_compared(&at));
            }
            // Also before a comparison that is due, which may wait for the room that this makes.
            for node in &mut nodes {
                node.acknowledge(&mut talk, &self.name)?;
            }
            let sockets: Vec<_> = nodes.iter().map(Node::socket).collect();
            let ready = readable(&sockets, if pushed { Duration::ZERO } else { idle });
            let mut worked = pushed;
            for place in ready {
                let Some(node) = nodes.get_mut(place) else { continue };
                let pulled = node.receive()?;
                if !pulled.is_empty() {
                    worked = true;
                    fault_point::reach(Point::Pulled);
                    if self.take(&mut talk, &link, node, pulled, &mut filter)? {
                        self.owe_check(&mut link)?;
                        owed = Some(Owed::Everything);
                        talk.tell(|remote| remote.ready(&self.name, false))?;
                    }
                    fault_point::reach(Point::JoinCommitted);
                }
            }
            if worked {
                (busy, idle) = (Instant::now(), IDLE);
            } else {
                idle = (idle * 2).min(if busy.elapsed() < AWAKE { IDLE_AWAKE } else { IDLE_ASLEEP });
            }
            if look && counted.is_none_or(|at| at.elapsed() > COUNT) {
                counted = Some(Instant::now());
                let waiting = talk.waiting_for(&self.name)?.iter().sum();
                let held: Vec<(&str, &str)> = nodes.iter().flat_map(|node| node.held.reasons()).collect();
                transaction(|| link::note_waiting(&self.name, waiting, &held))?;
                talk.refresh()?;
            }
            if Node::follow(&mut nodes, &talk, &self.name)? {
                // A master that has just come knows nothing yet.
                (owed, filter, streaming) = (Some(Owed::Everything), IdFilter::Due, false);
            }
            Owed::add(&mut owed, talk.take_moved());
        }
    }

    /// Compares the two roots of what both sides are to have, which are a few numbers: whatever a crash or a restore
    /// of one side has undone shows in them.
    fn roots_differ(&self, talk: &mut Shards, link: &Link) -> Result<bool, Broken> {
        let (mirrored, _) = link.scope.ranges();
        let mut here = Here { local: Own, link: Some(&self.name), origin: &self.name };
        Ok(here.fingerprints(&mirrored)? != talk.fingerprints(&mirrored)?)
    }

    /// Pushes what is due: a comparison that is owed or scheduled, letters that are to be tried again, and the next
    /// part of the log. Returns whether there was any of the log. `looked`: the link's row was just read.
    fn push_due(
        &self,
        talk: &mut Shards,
        link: &mut Link,
        owed: Option<&Owed>,
        looked: bool,
        filter: &mut IdFilter,
    ) -> Result<bool, Broken> {
        let before = link.position.clone();
        if let Some(owed) = owed {
            self.whole_check(talk, link, owed, "attach")?;
            talk.tell(|remote| remote.ready(&self.name, true))?;
            self.set("state = 'streaming'")?;
        }
        if looked {
            letters::push_requested(talk, &self.name)?;
            if link.check_due {
                self.whole_check(talk, link, &Owed::Everything, "scheduled")?;
                self.set("state = 'streaming'")?;
            } else if link.compare_due {
                self.whole_check(talk, link, &Owed::Slots(HashSet::new()), "attach")?;
                self.set("state = 'streaming'")?;
            }
        }
        if link.position != before {
            // The filter has not seen the part of the log that the comparison stands for.
            *filter = IdFilter::Due;
        }
        if !link.ways.to_right {
            return Ok(false);
        }
        let pushed = self.push_log(talk, link, filter)?;
        let loaded = match link.scope.ranges().1 {
            Some(range) => filter.load(talk, &self.name, &range)?,
            None => false,
        };
        Ok(pushed || loaded)
    }

    /// Reads the link's row. None if the link was paused, removed or changed: another process has it then.
    fn load(&mut self) -> Result<Option<Link>, Broken> {
        let Some(link) = transaction(|| Link::read(&self.name))? else {
            self.leave();
            return Ok(None);
        };
        if *self.generation.get_or_insert(link.generation) != link.generation {
            return Ok(None);
        }
        self.last = Some(link.clone());
        Ok(Some(link).filter(|link| !link.is_paused))
    }

    /// Whether nobody else will see to what Redis has of the link: it has gone with the whole extension, which may
    /// have been made anew since.
    fn is_orphan(&self) -> Outcome<bool> {
        const IS_THERE: &str = "SELECT to_regclass('tandem.unlinked') IS NOT NULL";
        const IS_KNOWN: &str = "SELECT EXISTS (SELECT FROM tandem.links l WHERE l.name = $1) \
            OR EXISTS (SELECT FROM tandem.unlinked u WHERE u.name = $1)";
        if read_one::<bool>(IS_THERE, &[])? != Some(true) {
            return Ok(true);
        }
        Ok(read_one::<bool>(IS_KNOWN, &[self.name.as_str().into()])? == Some(false))
    }

    /// Detaches the link in Redis if nobody is left to do it later.
    fn leave(&mut self) {
        let Some(link) = self.last.take() else { return };
        if matches!(transaction(|| self.is_orphan()), Ok(true)) {
            let others = Shards::addresses(link.run.as_deref().unwrap_or_default());
            let detached = transaction(owner).map_err(Broken::from).and_then(|owner| {
                let mut shards = Shards::open(&link.url, &others, None, Attach::Not)?;
                shards.tell(|remote| remote.detach(&self.name, &owner))
            });
            if let Err(Broken(reason)) = detached {
                pgrx::log!("tandem link {}: not detached in Redis: {reason}", self.name);
            }
        }
    }

    fn noted(&self) -> Noted<'_> {
        Noted { name: &self.name, generation: self.generation.unwrap_or(0) }
    }

    /// Compares everything under the link and mends it, as after a first contact or a restart of Redis.
    fn whole_check(
        &self,
        talk: &mut Shards,
        link: &mut Link,
        owed: &Owed,
        kind: &'static str,
    ) -> Result<(), Broken> {
        self.set("state = 'checking'")?;
        // What is logged from here on is pushed from the log; what was logged before is in the comparison.
        let end = transaction(log::end)?;
        self.compared_at.borrow_mut().get_or_insert_with(|| Rc::new(end.clone()));
        if link.scope.is_cache() {
            // What was read for Redis before that is there when its ids are compared.
            wait_for_fills(&self.name)?;
        }
        let report = self.recorded_check(talk, link, kind)?;
        // Not before: what was written in Redis before the link was known waits for nobody, and would be lost under a
        // tombstone of its version without a record.
        if link.ways.to_right && !owed.is_nothing() {
            for range in link.scope.ranges().0 {
                self.push_tombstones(talk, &range, owed)?;
            }
        }
        fault_point::reach(Point::Checked);
        if link.needs_check || link.run.is_none() {
            link.position = end;
        }
        link.needs_check = false;
        let run = talk.describe();
        link.run = Some(run.clone());
        link.compare_due = false;
        link.check_due = false;
        if !transaction(|| link::note_compared(self.noted(), &run, &link.position))? {
            return Err(changed());
        }
        if kind == "attach" || report.differences > 0 {
            pgrx::log!(
                "tandem link {}: compared with Redis, {} ids differed, {} mended",
                self.name,
                report.differences,
                report.repaired
            );
        }
        Ok(())
    }

    /// A check of everything that is in the books, however it ends.
    fn recorded_check(&self, talk: &mut Shards, link: &Link, kind: &'static str) -> Result<Report, Broken> {
        let run = Run { link: &self.name, kind, prefix: link.scope.prefix(), dry_run: false };
        let run = transaction(|| checks::begin(&run))?;
        let task = Task::of_link(link.ways, None);
        let mut report = Report::default();
        let mut postgres = Here { local: Own, link: Some(&self.name), origin: &self.name };
        let mut progress = Progress { session: self, link: &self.name, run, told: None };
        let checked = (|| {
            let (mirrored, cached) = link.scope.ranges();
            check(&mut postgres, talk, &task, mirrored, &mut report, &mut progress)?;
            match cached {
                Some(range) => check_held(&mut postgres, talk, &task, range, &mut report, &mut progress),
                None => Ok(()),
            }
        })();
        if let Err(Broken(reason)) = &checked {
            report.cut_short = Some(reason.clone());
        }
        transaction(|| checks::finish(run, &report))?;
        checked.map(|()| report)
    }

    /// Pushes the tombstones of a range that are owed. A comparison does not find a removal that Redis has not heard
    /// of, and the next put there would be a first version that loses against the tombstone here.
    fn push_tombstones(&self, talk: &mut Shards, range: &Range, owed: &Owed) -> Result<(), Broken> {
        let mut after: Option<String> = None;
        loop {
            let mut page = transaction(|| log::tombstone_ids(range, after.as_deref()))?;
            let Some(last) = page.last().cloned() else { return Ok(()) };
            after = Some(last);
            page.retain(|id| owed.has(id));
            if !Own.run(|| link::is_current(self.noted()))? {
                return Err(changed());
            }
            self.push_ids(talk, &page)?;
        }
    }

    /// Notes that a comparison is due: whoever has the link next must know it.
    fn owe_check(&self, link: &mut Link) -> Result<(), Broken> {
        if !link.needs_check {
            self.set("needs_check = true")?;
            link.needs_check = true;
        }
        Ok(())
    }

    /// Takes in what was pulled from a node. Returns whether a comparison is due: Redis dropped everything, or had no
    /// room for what it is to get back.
    fn take(
        &self,
        talk: &mut Shards,
        link: &Link,
        node: &mut Node,
        pulled: Vec<Pulled>,
        filter: &mut IdFilter,
    ) -> Result<bool, Broken> {
        let mut everything = false;
        let mut back = BTreeSet::new();
        let mut entries = Vec::new();
        let (count, last) = (pulled.len(), pulled.last().map_or(0, |entry| entry.seq));
        for Pulled { seq, id, revision } in pulled {
            if id.is_empty() {
                everything = true;
                // Redis drops its filter with everything else.
                *filter = IdFilter::Due;
            } else if !link.scope.carries(&id) {
                continue;
            } else if let Some(encoded) = revision {
                if !link.ways.to_left {
                    continue;
                }
                match check_id(&id).and_then(|()| store::decode(&encoded)) {
                    Ok(revision) => entries.push(Entry::new(seq, id, revision)),
                    Err(error) => {
                        // No text of the server's holds a NUL.
                        let name = id.replace('\0', "\u{fffd}");
                        self.set_aside(&name, "from_redis", Some(encoded), &error.to_string())?;
                        node.set_aside(seq, id);
                    }
                }
            } else if link.scope.mirrors(&id) {
                back.insert(id);
            }
        }
        node.pulled(last, &mut entries);
        self.join(talk, link, node, entries, &mut back, filter)?;
        back.retain(|id| !node.held.owe_back(id));
        let is_back = self.give_back(talk, link, back)?;
        transaction(|| link::note_pulled(&self.name, count))?;
        Ok(everything || !is_back)
    }

    /// Joins entries of a node. Those that somebody is in the way of stay with the node. `back` gets the ids of which
    /// Redis is to have what is here.
    fn join(
        &self,
        talk: &mut Shards,
        link: &Link,
        node: &mut Node,
        entries: Vec<Entry>,
        back: &mut BTreeSet<String>,
        filter: &mut IdFilter,
    ) -> Result<(), Broken> {
        let answers = node.join(&self.name, &entries)?;
        if link.scope.is_cache() {
            // Before it is acknowledged: from then on Redis may drop its copies, and asks the filter.
            let come = entries.iter().map(|entry| &entry.id).filter(|id| link.scope.covers(id));
            filter.add(talk, &self.name, &come.cloned().collect::<Vec<_>>())?;
        }
        for (mut entry, answer) in entries.into_iter().zip(answers) {
            match answer {
                Ok(joined) => {
                    if joined == Joined::Stale || entry.is_wanted_back {
                        back.insert(entry.id);
                    }
                }
                Err(refusal) if entry.is_worth_another_try(&refusal, node.joined) => {
                    node.held.add(entry, &refusal.reason);
                }
                Err(refusal) => {
                    let encoded = encode(&entry.revision);
                    self.set_aside(&entry.id, "from_redis", Some(encoded), &refusal.reason)?;
                    if entry.is_wanted_back {
                        back.insert(entry.id.clone());
                    }
                    node.set_aside(entry.seq, entry.id);
                }
            }
        }
        Ok(())
    }

    /// Sends what is here of ids of which Redis has less. False if it has no room.
    fn give_back(&self, talk: &mut Shards, link: &Link, ids: BTreeSet<String>) -> Result<bool, Broken> {
        if !link.ways.to_right {
            return Ok(true);
        }
        match self.push_ids(talk, &ids.into_iter().collect::<Vec<_>>()) {
            Err(broken) if broken.is_full() => Ok(false),
            pushed => pushed.map(|()| true),
        }
    }

    /// Tries what is held once more. Returns whether a comparison is due.
    fn join_held(
        &self,
        talk: &mut Shards,
        link: &Link,
        node: &mut Node,
        filter: &mut IdFilter,
    ) -> Result<bool, Broken> {
        let entries = node.held.take();
        if entries.is_empty() {
            return Ok(false);
        }
        let mut back = BTreeSet::new();
        self.join(talk, link, node, entries, &mut back, filter)?;
        back.retain(|id| !node.held.owe_back(id));
        Ok(!self.give_back(talk, link, back)?)
    }

    /// Pushes the next part of the log. Returns whether there was any.
    fn push_log(&self, talk: &mut Shards, link: &mut Link, filter: &mut IdFilter) -> Result<bool, Broken> {
        let (log::Part { ids, come, end, rows }, is_current) = transaction(|| {
            let part = log::read(&link.position, &self.name)?;
            // Asked last: whoever has changed the link did so before what was written after that.
            let is_current = part.rows == 0 || link::is_current(self.noted())?;
            Ok((part, is_current))
        })?;
        if !is_current {
            return Err(changed());
        }
        if rows == 0 {
            // What has ended without a change is behind this link; it is noted with the next part.
            link.position = end;
            return Ok(false);
        }
        let mut ids: Vec<String> = ids.into_iter().filter(|id| link.scope.carries(id)).collect();
        if link.scope.is_cache() && !ids.is_empty() {
            let held = talk.holds(&self.name, &ids)?;
            ids = ids.into_iter().zip(held).filter(|(_, held)| *held).map(|(id, _)| id).collect();
        }
        let count = ids.len();
        fault_point::reach(Point::LogRead);
        if link.scope.is_cache() {
            // First, as it finds room also where revisions find none.
            let come: Vec<String> = come.into_iter().filter(|id| link.scope.covers(id)).collect();
            filter.add(talk, &self.name, &come)?;
        }
        self.push_ids(talk, &ids)?;
        fault_point::reach(Point::Pushed);
        if !transaction(|| link::note_pushed(self.noted(), &end, count))? {
            return Err(changed());
        }
        link.position = end;
        Ok(true)
    }

    /// Pushes the current revisions of ids.
    fn push_ids(&self, talk: &mut Shards, ids: &[String]) -> Result<(), Broken> {
        let mut rest = ids.to_vec();
        while !rest.is_empty() {
            let next = rest.split_off(rest.len().min(500));
            let Page { found, later, unreadable } = read(&Own, &rest, store::fetch)?;
            rest = later.into_iter().chain(next).collect();
            for (id, reason) in unreadable {
                self.set_aside(&id, "to_redis", None, &reason)?;
            }
            let revisions: Vec<(&str, Vec<u8>)> =
                found.iter().map(|(id, revision)| (id.as_str(), encode(revision))).collect();
            for ((id, revision), answer) in revisions.iter().zip(talk.push(&revisions)?) {
                if let Err(refusal) = answer {
                    self.set_aside(id, "to_redis", Some(revision.clone()), &refusal.reason)?;
                }
            }
        }
        Ok(())
    }

    fn set(&self, assignments: &'static str) -> Result<(), Broken> {
        match transaction(|| link::set(self.noted(), assignments))? {
            true => Ok(()),
            false => Err(changed()),
        }
    }

    fn set_aside(
        &self,
        id: &str,
        direction: &'static str,
        revision: Option<Vec<u8>>,
        reason: &str,
    ) -> Result<(), Broken> {
        set_aside(&self.name, id, direction, revision, reason)
    }
}

/// Sets aside what one side cannot take, or cannot read.
pub fn set_aside(
    link: &str,
    id: &str,
    direction: &str,
    revision: Option<Vec<u8>>,
    reason: &str,
) -> Result<(), Broken> {
    pgrx::warning!("tandem link {link}: revision of {id:?} set aside: {reason}");
    transaction(|| letters::set_aside(link, id, direction, revision, reason)).map_err(Into::into)
}
