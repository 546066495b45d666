//! What is there after a crash of a Postgres that acknowledges commits before they are on its disk. It may lose
//! those, but nothing that it has told Redis of, and nothing that Redis was told it has.

use crate::company::is_cursed;
use crate::ledger::{Entry, Outcome, Standing, revisions_of_redis, standing, standings_of_postgres};
use crate::workload::{Side, Stage};
use ::redis::{Connection, Value};
use postgres::Client;
use std::collections::{BTreeMap, BTreeSet};
use tandem_tests::redis::ask;

/// What both sides had after a crash, before they spoke with each other again.
pub struct Evidence {
    postgres: BTreeMap<String, Standing>,
    redis: BTreeMap<String, Standing>,
}

impl Evidence {
    /// Looks at both sides while the link cannot reach Redis. Notes what Postgres should have and has not:
    /// `confirmed` was called committed before the crash.
    pub fn gather(
        client: &mut Client,
        connection: &mut Connection,
        ids: &BTreeSet<String>,
        confirmed: &[(String, u64)],
        stage: &Stage,
    ) -> Evidence {
        let revisions = revisions_of_redis(connection, ids.iter());
        // Asked after the revisions were read: what waits for nobody now has waited for nobody then.
        let words: Vec<&str> =
            ["TANDEM.LINK", "PENDING"].into_iter().chain(ids.iter().map(String::as_str)).collect();
        let Value::Array(pending) = ask(connection, &words) else { panic!("PENDING answers with an array") };
        let redis: BTreeMap<String, Standing> =
            revisions.iter().map(|(id, revision)| (id.clone(), standing(id, revision))).collect();
        let postgres = standings_of_postgres(client);
        let version = |id: &str| postgres.get(id).map_or(0, |(version, _)| *version);
        for (id, pending) in ids.iter().zip(pending) {
            let Some((in_redis, _)) = redis.get(id) else { continue };
            if pending == Value::Int(0) && !is_cursed(id) && version(id) < *in_redis {
                let had = version(id);
                stage.complain(format!(
                    "{id} is {in_redis} in Redis and waits for nobody, and the crash left {had}"
                ));
            }
        }
        for (id, confirmed) in confirmed.iter().filter(|(id, _)| !is_cursed(id)) {
            if version(id) < *confirmed {
                let had = version(id);
                stage
                    .complain(format!("TANDEM.WAIT said that {id} is {confirmed}, and the crash left {had}"));
            }
        }
        Evidence { postgres, redis }
    }

    /// Whether a write is known to have outlived the crash.
    fn knows(&self, id: &str, told: &Standing) -> bool {
        let knows = |there: &BTreeMap<String, Standing>| {
            there.get(id).is_some_and(|there| there.0 > told.0 || there == told)
        };
        knows(&self.postgres) || knows(&self.redis)
    }
}

/// Takes what no evidence shows after each crash that came later for a write whose answer was lost.
pub fn discount(entries: &mut [Entry], evidence: &[Evidence]) {
    for entry in entries.iter_mut().filter(|entry| entry.side == Side::Postgres) {
        let Outcome::Acknowledged { version, etag } = &entry.outcome else { continue };
        let told = (*version, etag.clone());
        let later = evidence.iter().skip(entry.crashes as usize);
        if later.into_iter().any(|after| !after.knows(&entry.id, &told)) {
            entry.outcome = Outcome::Unknown;
        }
    }
}
