//! What goes wrong in a run, and the servers it goes wrong with.

use crate::company::{Company, user_words};
use crate::evidence::Evidence;
use crate::ledger::{Entry, not_yet_in_postgres};
use crate::opened::Opened;
use crate::probe::probe;
use crate::proxy::{Proxy, Way};
use crate::speaker::connect_postgres;
use crate::workload::{Dice, Side, Stage};
use rustix::process::Signal;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;
use tandem_tests::guard;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, ask_number, ask_text, send};
use tandem_tests::sql;
use tandem_tests::wait::{self, DEADLINE};

/// What happens in a run, more than once at random moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL of Redis, which starts again from its append-only file.
    RedisKilled,
    /// SIGKILL of the link's worker, after which Postgres restarts all its processes.
    WorkerKilled,
    /// SIGKILL of the postmaster, alone or with its children, or an immediate shutdown.
    PostgresKilled,
    /// SIGSTOP of Redis, and SIGCONT.
    RedisStopped,
    /// A proxy between them cuts, half-closes, swallows and delays.
    Network,
    /// FLUSHALL: copies are dropped.
    Flushed,
    /// CLIENT KILL of every connection to Redis.
    ClientsKilled,
    /// Redis dies and its replica takes over.
    Failover,
    /// The link is paused while Redis reaches maxmemory with allkeys-lru.
    MemoryFull,
    /// Sessions read hashes and stay idle in their transactions.
    ReadersIdle,
    /// Writing transactions are open and prepared, here and in another database of the cluster, also over a crash.
    WritersIdle,
    /// SIGKILL of a postmaster whose commits are acknowledged before they are on its disk.
    LazyCommits,
    /// Redis holds back writes while it saves or rewrites its file, and may die then.
    WritesPaused,
}

/// All kinds; a seed's is that of its place.
pub const KINDS: [Kind; 13] = [
    Kind::RedisKilled,
    Kind::WorkerKilled,
    Kind::PostgresKilled,
    Kind::RedisStopped,
    Kind::Network,
    Kind::Flushed,
    Kind::ClientsKilled,
    Kind::Failover,
    Kind::MemoryFull,
    Kind::ReadersIdle,
    Kind::WritersIdle,
    Kind::LazyCommits,
    Kind::WritesPaused,
];

/// The servers of a run.
pub struct Scene {
    /// The Postgres.
    pub postgres: Postgres,
    /// The Redis that clients speak to; after a failover the former replica.
    pub redis: Redis,
    replica: Option<Redis>,
    proxy: Proxy,
    /// The link's name.
    pub link: String,
    /// Redis holds what was read or written there.
    pub is_cache: bool,
    kind: Kind,
    dice: Dice,
    /// Items put into a full Redis beside the clients' own.
    filled: i64,
    /// Transactions that stay open.
    pub opened: Opened,
    /// What was there after each crash that may have lost commits.
    pub evidence: Vec<Evidence>,
    /// Every id that a client may write to.
    ids: BTreeSet<String>,
}

impl Scene {
    /// Starts what a run of this kind needs, linked through the proxy. Every other round of seeds has Redis as a
    /// cache; but one that is full drops what it was just given. `ids` are those that clients may write to.
    pub fn start(seed: u64, kind: Kind, company: Company, ids: BTreeSet<String>) -> Scene {
        let is_cache = (seed / KINDS.len() as u64) % 2 == 1 && kind != Kind::MemoryFull;
        let mut dice = Dice::new(seed, 1);
        let mut options = redis_options(company);
        if kind == Kind::RedisKilled && dice.below(2) == 0 {
            // A rewritten file holds commands then, and not an RDB.
            options = options.with("aof-use-rdb-preamble", "no");
        }
        let redis = Redis::start(options);
        let replica = (kind == Kind::Failover).then(|| replica_of(&redis, company));
        let mut settings = vec!["max_prepared_transactions = 10".to_owned()];
        if kind == Kind::LazyCommits {
            settings.push("wal_writer_delay = 10s".to_owned());
        }
        if company == Company::Triggers {
            // Who counts in one item may wait for each other in a ring.
            settings.push("deadlock_timeout = 50ms".to_owned());
        }
        let postgres =
            Postgres::with_extension(&pg::Options { fsync: true, settings, ..pg::Options::default() });
        let proxy = Proxy::start(redis.port());
        let mut client = postgres.connect();
        company.prepare(&mut client);
        let mode = if is_cache { "cache" } else { "mirror" };
        let query = format!("SELECT tandem.link('{}', mode => '{mode}')", proxy.url());
        let link = sql::value(&mut client, &query);
        // Once in a while the first contact comes in the middle of the work; but what Redis drops, or lets expire,
        // before it knows of a link is gone, and nothing there waits for a link that it does not know.
        let needs_link = matches!(kind, Kind::Flushed | Kind::MemoryFull | Kind::LazyCommits)
            || company == Company::Expiring;
        if needs_link || dice.below(4) > 0 {
            let query = "SELECT state = 'streaming' FROM tandem.links()";
            wait::until("the link works", DEADLINE, || sql::value(&mut client, query));
        }
        if kind == Kind::LazyCommits {
            sql::run(&mut client, "ALTER DATABASE postgres SET synchronous_commit = off");
        }
        let (opened, evidence) = (Opened::default(), Vec::new());
        Scene {
            postgres,
            redis,
            replica,
            proxy,
            link,
            is_cache,
            kind,
            dice,
            filled: 0,
            opened,
            evidence,
            ids,
        }
    }

    /// Lets it happen while the clients work, and probes after each time; returns when all is well again but for
    /// catching up, or as soon as [`Scene::after`] can see to the rest.
    pub fn disturb<'scope>(
        &mut self,
        stage: &'scope Stage,
        scope: &'scope Scope<'scope, '_>,
    ) -> Vec<ScopedJoinHandle<'scope, Vec<Entry>>> {
        let times = match self.kind {
            Kind::Failover | Kind::MemoryFull => 1,
            Kind::RedisKilled | Kind::WorkerKilled | Kind::PostgresKilled => 2,
            _ => 3,
        };
        let is_cache = self.is_cache;
        // A full Redis takes nothing until [`Scene::after`] gives it room.
        let probes = if self.kind == Kind::MemoryFull { 0 } else { times };
        let mut run = Run { scene: self, stage };
        let probed = (0..times).map(|time| {
            let total = 2 * stage.steps_each_side;
            let part = total / times;
            let moment = time * part + run.scene.dice.below(part * 3 / 4);
            run.until_steps(moment);
            stage.faults.fetch_add(1, Ordering::SeqCst);
            run.once();
            (time < probes).then(|| scope.spawn(move || probe(stage, time, is_cache, false)))
        });
        probed.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// When the clients are done: what must hold before the last of the fault is undone, and the undoing.
    pub fn after(&mut self, entries: &[Entry]) {
        self.proxy.delay(Duration::ZERO);
        if self.kind == Kind::MemoryFull {
            let mut client = self.postgres.connect();
            let missing = RefCell::new(Vec::new());
            wait::until_or(
                DEADLINE,
                || {
                    missing.replace(not_yet_in_postgres(&mut client, entries));
                    let filled: i64 = sql::value(&mut client, "SELECT tandem.count('fill.')");
                    missing.borrow().is_empty() && filled >= self.filled
                },
                || {
                    format!(
                        "what Redis has no room for reaches Postgres; these do not: {:?}",
                        missing.borrow()
                    )
                },
            );
            ask(&mut self.redis.connect(), &["CONFIG", "SET", "maxmemory", "0"]);
        }
    }
}

fn redis_options(company: Company) -> Options {
    let mut options = Options::durable();
    if company == Company::Limited {
        options.settings.extend(user_words());
    }
    options
}

fn replica_of(master: &Redis, company: Company) -> Redis {
    let replica = Redis::start(redis_options(company));
    let mut connection = replica.connect();
    ask(&mut connection, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    wait::until_or(
        DEADLINE,
        || {
            let told = ask_text(&mut connection, &["INFO", "replication"]);
            told.is_some_and(|told| told.contains("master_link_status:up"))
        },
        || format!("the replica is in step\n{}", replica.log_tail()),
    );
    replica
}

/// A run under way.
struct Run<'a> {
    scene: &'a mut Scene,
    stage: &'a Stage,
}

impl Run<'_> {
    /// Waits until the clients of both sides have done so many steps together.
    fn until_steps(&self, count: u64) {
        let done = || self.stage.steps(Side::Postgres) + self.stage.steps(Side::Redis);
        wait::until_or(2 * DEADLINE, || done() >= count, || format!("{count} steps, not {}", done()));
    }

    /// Waits until the clients of one side have done some more steps, or all.
    fn some_steps_of(&mut self, side: Side) {
        let more = 5 + self.scene.dice.below(80);
        let goal = (self.stage.steps(side) + more).min(self.stage.steps_each_side);
        let done = || self.stage.steps(side);
        wait::until_or(
            2 * DEADLINE,
            || done() >= goal,
            || format!("{goal} steps on {side:?}, not {}", done()),
        );
    }

    fn once(&mut self) {
        match self.scene.kind {
            Kind::RedisKilled => {
                if self.scene.dice.below(2) == 0 {
                    // Wherever the rewrite is when the server dies.
                    let _ = send(&mut self.scene.redis.connect(), &["BGREWRITEAOF"]);
                    self.some_steps_of(Side::Redis);
                }
                self.scene.redis.kill_hard();
                self.some_steps_of(Side::Postgres);
                self.scene.redis.restart();
            }
            Kind::WorkerKilled => self.kill_worker(),
            Kind::PostgresKilled => {
                match self.scene.dice.below(3) {
                    0 => self.scene.postgres.kill_postmaster(),
                    1 => self.scene.postgres.kill_hard(),
                    _ => self.scene.postgres.stop_at_once(),
                }
                self.some_steps_of(Side::Redis);
                self.scene.postgres.restart();
            }
            Kind::RedisStopped => {
                self.scene.redis.signal(Signal::STOP);
                self.some_steps_of(Side::Postgres);
                self.scene.redis.signal(Signal::CONT);
            }
            Kind::Network => self.disturb_network(),
            Kind::Flushed => {
                let how = if self.scene.dice.below(2) == 0 { "SYNC" } else { "ASYNC" };
                ask(&mut self.scene.redis.connect(), &["FLUSHALL", how]);
            }
            Kind::ClientsKilled => {
                ask(&mut self.scene.redis.connect(), &["CLIENT", "KILL", "TYPE", "normal"]);
            }
            Kind::Failover => self.fail_over(),
            Kind::MemoryFull => self.fill_memory(),
            Kind::ReadersIdle => (0..2).for_each(|_| self.scene.opened.read(&self.scene.postgres)),
            Kind::WritersIdle => self.leave_writers_open(),
            Kind::LazyCommits => self.lose_commits(),
            Kind::WritesPaused => self.pause_writes(),
        }
    }

    fn kill_worker(&mut self) {
        let mut client = self.scene.postgres.connect();
        let query = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tandem link %'";
        let pid: i32 = wait::until_some("the link has a worker", DEADLINE, || {
            sql::rows(&mut client, query).first().map(|row| row.get(0))
        });
        guard::send(pid.unsigned_abs(), Signal::KILL);
        // Postgres ends every session then, this one too.
        wait::until("Postgres notices", DEADLINE, || client.simple_query("SELECT 1").is_err());
        drop(connect_postgres(self.scene.postgres.port(), ""));
        self.some_steps_of(Side::Redis);
    }

    fn disturb_network(&mut self) {
        let way = if self.scene.dice.below(2) == 0 { Way::ToRedis } else { Way::FromRedis };
        match self.scene.dice.below(6) {
            0 | 1 => self.scene.proxy.cut(),
            2 | 3 => self.scene.proxy.half_close(way),
            4 => {
                let only_newest = self.scene.dice.below(2) == 0;
                self.scene.proxy.swallow(way, only_newest);
            }
            _ => {
                let time = Duration::from_millis(1 + self.scene.dice.below(100));
                self.scene.proxy.delay(time);
            }
        }
        self.some_steps_of(Side::Redis);
    }

    fn fail_over(&mut self) {
        let replica = self.scene.replica.take().expect("there is one failover in a run");
        self.scene.redis.kill_hard();
        self.some_steps_of(Side::Postgres);
        ask(&mut replica.connect(), &["REPLICAOF", "NO", "ONE"]);
        self.stage.replicated.store(false, Ordering::SeqCst);
        self.scene.proxy.retarget(replica.port());
        self.stage.redis_port.store(replica.port(), Ordering::SeqCst);
        self.scene.redis = replica;
    }

    fn leave_writers_open(&mut self) {
        let scene = &mut *self.scene;
        if !scene.opened.is_empty() && scene.dice.below(2) == 0 {
            scene.postgres.kill_hard();
            scene.opened.server_died();
            scene.postgres.restart();
        }
        scene.opened.write_elsewhere(&scene.postgres);
        scene.opened.write_here(&scene.postgres, self.stage);
    }

    /// Kills Postgres, and looks at what it has left before it can hear of it from Redis.
    fn lose_commits(&mut self) {
        let confirmed = self.stage.confirmed.lock().expect("nobody panics with it").clone();
        if self.scene.dice.below(2) == 0 {
            self.scene.postgres.kill_hard();
        } else {
            self.scene.postgres.kill_postmaster();
        }
        self.stage.crashes.fetch_add(1, Ordering::SeqCst);
        self.scene.proxy.shut();
        self.some_steps_of(Side::Redis);
        self.scene.postgres.restart();
        let (mut client, mut redis) = (self.scene.postgres.connect(), self.scene.redis.connect());
        let evidence = Evidence::gather(&mut client, &mut redis, &self.scene.ids, &confirmed, self.stage);
        self.scene.evidence.push(evidence);
        self.scene.proxy.open();
    }

    fn pause_writes(&mut self) {
        let mut redis = self.scene.redis.connect();
        // Longer than any of this takes; it is ended below.
        ask(&mut redis, &["CLIENT", "PAUSE", "600000", "WRITE"]);
        let first = self.scene.dice.below(2) as usize;
        // The second may be put off until the first is done.
        for save in
            [["BGSAVE", "SCHEDULE"].as_slice(), &["BGREWRITEAOF"]].into_iter().cycle().skip(first).take(2)
        {
            ask(&mut redis, save);
        }
        self.some_steps_of(Side::Postgres);
        match self.scene.dice.below(3) {
            0 => self.scene.redis.kill_hard(),
            way => {
                if way == 1 {
                    until_saved(&mut redis);
                }
                ask(&mut redis, &["CLIENT", "UNPAUSE"]);
                self.some_steps_of(Side::Redis);
                until_saved(&mut redis);
                loads_elsewhere(&self.scene.redis);
                self.scene.redis.kill_hard();
            }
        }
        self.some_steps_of(Side::Postgres);
        self.scene.redis.restart();
    }

    fn fill_memory(&mut self) {
        let mut client = self.scene.postgres.connect();
        let mut redis = self.scene.redis.connect();
        let link = self.scene.link.clone();
        sql::run(&mut client, &format!("SELECT tandem.pause_link('{link}')"));
        let workers =
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'tandem link %')";
        wait::until("the worker lets go of the paused link", DEADLINE, || sql::value(&mut client, workers));
        let used = field_of_info(&mut redis, "memory", "used_memory");
        ask(&mut redis, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let limit = used + 50_000 + i64::try_from(self.scene.dice.below(150_000)).expect("small");
        ask(&mut redis, &["CONFIG", "SET", "maxmemory", &limit.to_string()]);
        // The clients may be done by now.
        let content = "x".repeat(self.stage.filler);
        while field_of_info(&mut redis, "stats", "evicted_keys") == 0 {
            let id = format!("fill.{}", self.scene.filled);
            if send(&mut redis, &["TANDEM.PUT", &id, &content]).is_err() {
                break;
            }
            self.scene.filled += 1;
        }
        self.some_steps_of(Side::Redis);
        assert!(
            ask_number(&mut redis, &["TANDEM.LINK", "PENDING"]) > 0,
            "something waits for the paused link"
        );
        sql::run(&mut client, &format!("SELECT tandem.resume_link('{link}')"));
    }
}

fn until_saved(redis: &mut ::redis::Connection) {
    let fields = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"];
    wait::until("what is saved in the background is done", DEADLINE, || {
        fields.iter().all(|field| field_of_info(redis, "persistence", field) == 0)
    });
}

/// Another server loads what was saved while writes were held back.
fn loads_elsewhere(redis: &Redis) {
    wait::until("what was put off is saved", DEADLINE, || redis.rdb().exists());
    let mut other = Redis::start(Options::in_memory());
    other.stop();
    std::fs::copy(redis.rdb(), other.rdb()).expect("there is a file, and room for it");
    other.restart();
    let verified = ask(&mut other.connect(), &["TANDEM.VERIFY"]);
    let ::redis::Value::Array(words) = &verified else { panic!("TANDEM.VERIFY answers with a record") };
    assert_eq!(words[1], ::redis::Value::Int(1), "what was saved in a pause: {verified:?}");
}

fn field_of_info(redis: &mut ::redis::Connection, section: &str, name: &str) -> i64 {
    let told = ask_text(redis, &["INFO", section]).unwrap_or_default();
    let mut fields = told.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(field, _)| *field == name).expect("INFO has the field");
    value.trim().parse().expect("a number")
}
