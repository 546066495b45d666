//! Transactions that stay open or prepared through a run: they hold back what they have written, and nothing else.

use crate::ledger::{Entry, Outcome};
use crate::workload::{Operation, Side, Stage, Step, content};
use postgres::Client;
use std::sync::atomic::Ordering;
use tandem_tests::pair::root_of_postgres;
use tandem_tests::postgres::Postgres;
use tandem_tests::sql;

/// The client that the ledger names for what these transactions write.
const CLIENT: u64 = 98;

/// Another database of the cluster.
const ELSEWHERE: &str = "elsewhere";

/// What a session that is idle in a transaction has read.
const READS: [&str; 6] = [
    "SELECT tandem.merkle_root()",
    "SELECT * FROM tandem.merkle_children('')",
    "SELECT * FROM tandem.merkle_leaves('shared')",
    "SELECT tandem.dirty_count(), tandem.log_position()",
    "SELECT * FROM tandem.changes_since()",
    "SELECT * FROM tandem.item_status('shared.01')",
];

/// Transactions that are open or prepared.
#[derive(Default)]
pub struct Opened {
    readers: Vec<(Client, Option<String>, bool)>,
    writers: Vec<(Client, Entry)>,
    prepared: Vec<(String, Entry)>,
    elsewhere: Vec<Client>,
    count: u64,
}

impl Opened {
    /// Opens a transaction that reads hashes and stays idle; one in two sees the same for ever.
    pub fn read(&mut self, postgres: &Postgres) {
        let mut client = postgres.connect();
        let is_repeatable = self.count % 2 == 1;
        let level = if is_repeatable { "REPEATABLE READ" } else { "READ COMMITTED" };
        sql::run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}"));
        let root = root_of_postgres(&mut client);
        for read in READS {
            sql::rows(&mut client, read);
        }
        self.count += 1;
        self.readers.push((client, root, is_repeatable));
    }

    /// Opens a transaction that writes in another database of the cluster, and prepares one there.
    pub fn write_elsewhere(&mut self, postgres: &Postgres) {
        if self.count == 0 {
            sql::run(&mut postgres.connect(), &format!("CREATE DATABASE {ELSEWHERE}"));
            sql::run(&mut postgres.connect_as("postgres", ELSEWHERE), "CREATE TABLE t (n int)");
        }
        let mut prepared = postgres.connect_as("postgres", ELSEWHERE);
        let statements = "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION";
        sql::run(&mut prepared, &format!("{statements} 'elsewhere {}'", self.count));
        let mut open = postgres.connect_as("postgres", ELSEWHERE);
        sql::run(&mut open, "BEGIN; INSERT INTO t VALUES (2)");
        self.count += 1;
        self.elsewhere.push(open);
    }

    /// Opens a transaction that writes an item, and prepares one that writes another.
    pub fn write_here(&mut self, postgres: &Postgres, stage: &Stage) {
        let (mut open, mut prepared) = (postgres.connect(), postgres.connect());
        let entry = self.put(&mut open, stage);
        self.writers.push((open, entry));
        let entry = self.put(&mut prepared, stage);
        let name = format!("here {}", self.count);
        sql::run(&mut prepared, &format!("PREPARE TRANSACTION '{name}'"));
        self.prepared.push((name, entry));
    }

    /// Begins a transaction and puts an item in it.
    fn put(&mut self, client: &mut Client, stage: &Stage) -> Entry {
        self.count += 1;
        let (id, number) = (format!("held.{}", self.count), self.count);
        let content = content(CLIENT, number, stage.filler);
        sql::run(client, "BEGIN");
        let put = format!("SELECT version, etag FROM tandem.put('{id}', '{content}'::text)");
        let row = sql::rows(client, &put).remove(0);
        let outcome = Outcome::Acknowledged { version: row.get::<_, i64>(0) as u64, etag: row.get(1) };
        let step = Step { number, id: id.clone(), operation: Operation::Put };
        let crashes = stage.crashes.load(Ordering::SeqCst);
        Entry { id, client: CLIENT, step, side: Side::Postgres, outcome, crashes }
    }

    /// The server has died: what was prepared is there still.
    pub fn server_died(&mut self) {
        self.readers.clear();
        self.writers.clear();
        self.elsewhere.clear();
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Ends all transactions. Every other writer of those that are open gives up; what the others wrote is
    /// acknowledged now.
    pub fn end(&mut self, postgres: &Postgres, stage: &Stage) -> Vec<Entry> {
        for (mut client, root, is_repeatable) in self.readers.drain(..) {
            let now = root_of_postgres(&mut client);
            if is_repeatable && now != root {
                stage.complain(format!("a repeatable read has seen the root {root:?} and then {now:?}"));
            }
            sql::run(&mut client, "COMMIT");
        }
        let mut written = Vec::new();
        for (place, (mut client, entry)) in self.writers.drain(..).enumerate() {
            if place % 2 == 0 {
                sql::run(&mut client, "COMMIT");
                written.push(entry);
            } else {
                sql::run(&mut client, "ROLLBACK");
            }
        }
        let mut client = postgres.connect();
        for (name, entry) in self.prepared.drain(..) {
            sql::run(&mut client, &format!("COMMIT PREPARED '{name}'"));
            written.push(entry);
        }
        self.elsewhere.clear();
        written
    }
}
