//! A Postgres and a Redis with a link between them.

use crate::postgres::{self as pg, Postgres};
use crate::redis::{self, Redis};
use crate::sql;
use crate::wait::{self, DEADLINE};
use ::postgres::Client;
use ::redis::Connection;

/// Both servers, linked.
pub struct Pair {
    /// The Postgres side.
    pub postgres: Postgres,
    /// The Redis side.
    pub redis: Redis,
    /// The link's name.
    pub link: String,
}

impl Pair {
    /// Starts both, so that neither forgets an acknowledged write when it is killed, and links them.
    pub fn start() -> Pair {
        Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, redis::Options::durable())
    }

    /// Starts both with these options and links them.
    pub fn with(postgres: &pg::Options, redis: redis::Options) -> Pair {
        let redis = Redis::start(redis);
        let postgres = Postgres::with_extension(postgres);
        let link = link(&mut postgres.connect(), &redis);
        Pair { postgres, redis, link }
    }

    /// A connection to Postgres.
    pub fn sql(&self) -> Client {
        self.postgres.connect()
    }

    /// A connection to Redis.
    pub fn commands(&self) -> Connection {
        self.redis.connect()
    }

    /// Pauses the link and waits until its worker has let go.
    pub fn pause(&self) {
        let mut client = self.sql();
        sql::run(&mut client, &format!("SELECT tandem.pause_link('{}')", self.link));
        let query = format!(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'tandem link {}')",
            self.link
        );
        wait::until_or(
            DEADLINE,
            || sql::value(&mut client, &query),
            || format!("the worker lets go of the paused link\n{}", self.report()),
        );
    }

    /// Lets a paused link go on.
    pub fn resume(&self) {
        sql::run(&mut self.sql(), &format!("SELECT tandem.resume_link('{}')", self.link));
    }

    /// The root hashes of Postgres and Redis.
    pub fn roots(&self) -> (Option<String>, Option<String>) {
        (root_of_postgres(&mut self.sql()), root_of_redis(&mut self.commands()))
    }

    /// Waits until both sides have the same root and `condition` holds as well, so that equal roots of before
    /// the change in question do not pass for those after it. Returns the root.
    pub fn settle(
        &self,
        what: &str,
        mut condition: impl FnMut(&mut Client, &mut Connection) -> bool,
    ) -> Option<String> {
        let (mut client, mut connection) = (self.sql(), self.commands());
        let mut roots = (None, None);
        wait::until_or(
            DEADLINE,
            || {
                roots = (root_of_postgres(&mut client), root_of_redis(&mut connection));
                roots.0 == roots.1 && condition(&mut client, &mut connection)
            },
            || format!("{what}, with equal roots\n{}", self.report()),
        );
        roots.0
    }

    /// Waits until both sides hold `count` items and have the same root. Returns the root.
    pub fn settle_at(&self, count: i64) -> Option<String> {
        self.settle(&format!("both sides hold {count} items"), |client, connection| {
            count_of_postgres(client) == count && count_of_redis(connection) == count
        })
    }

    /// What both sides say of themselves, for messages.
    pub fn report(&self) -> String {
        let (mut client, mut connection) = (self.sql(), self.commands());
        let status: Vec<String> = sql::rows(&mut client, "SELECT s::text FROM tandem.status() s")
            .iter()
            .map(|row| row.get(0))
            .collect();
        let links: Vec<String> = sql::rows(&mut client, "SELECT l::text FROM tandem.links() l")
            .iter()
            .map(|row| row.get(0))
            .collect();
        format!(
            "roots {:?}\ncounts {} and {}\nlinks {links:?}\nstatus {status:?}\nINFO {}\n{}\n{}",
            self.roots(),
            count_of_postgres(&mut client),
            count_of_redis(&mut connection),
            redis::ask_text(&mut connection, &["INFO", "tandem"]).unwrap_or_default(),
            self.postgres.log_tail(),
            self.redis.log_tail(),
        )
    }
}

/// Makes a link to a Redis; its name.
pub fn link(client: &mut Client, redis: &Redis) -> String {
    sql::value(client, &format!("SELECT tandem.link('{}')", redis.url()))
}

/// The root hash of the Postgres side.
pub fn root_of_postgres(client: &mut Client) -> Option<String> {
    sql::value(client, "SELECT tandem.merkle_root()")
}

/// The root hash of the Redis side.
pub fn root_of_redis(connection: &mut Connection) -> Option<String> {
    redis::ask_text(connection, &["TANDEM.MERKLE", "ROOT"])
}

/// Number of items of the Postgres side.
pub fn count_of_postgres(client: &mut Client) -> i64 {
    sql::value(client, "SELECT tandem.count()")
}

/// Number of items of the Redis side.
pub fn count_of_redis(connection: &mut Connection) -> i64 {
    redis::ask_number(connection, &["TANDEM.COUNT"])
}
