//! What is in the workload beside plain writes: triggers of users, items that expire, contents that are as large as may
//! be or larger, and clients whose ACL shows them only some ids.

use crate::bombs::{self, Bomb};
use crate::intruder;
use crate::workload::{Dice, Operation};
use postgres::Client;
use tandem_tests::sql;

/// What the workload has beside plain writes in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Nothing.
    Plain,
    /// Triggers on `tandem.items` that edit, write other items, and refuse.
    Triggers,
    /// Copies in Redis that expire.
    Expiring,
    /// Numbers, nesting, audit objects and versions at their bounds and beyond.
    Bombs,
    /// Clients of Redis that may touch `user:*` alone, and try all else.
    Limited,
}

/// All of them; a seed's is that of its place.
pub const COMPANIES: [Company; 5] =
    [Company::Plain, Company::Triggers, Company::Expiring, Company::Bombs, Company::Limited];

/// SQLSTATEs that the trigger raises for `cursed.<place>`: one that nobody knows, and those of a lock, a conflict of
/// transactions, a resource, a cancel, a connection and a defect, which all are the trigger's here.
pub const CURSES: [&str; 8] = ["ZX001", "XX000", "40001", "55P03", "53400", "57014", "08006", "P0004"];

/// The item that a trigger counts in.
pub const COUNTER: &str = "counter";

/// The user of Redis whose ACL has `~user:*`.
pub const LIMITED: &str = "limited";

/// Whether a client has the limited user.
pub fn is_limited(company: Company, client: u64) -> bool {
    company == Company::Limited && client % 4 == 3
}

/// Whether the trigger refuses an id.
pub fn is_cursed(id: &str) -> bool {
    id.starts_with("cursed.")
}

/// Whether the SQLSTATE of a cursed id says that the refusal may pass: then it is tried again and again.
pub fn may_pass(id: &str) -> bool {
    let place = id.rsplit('.').next().and_then(|place| place.parse::<usize>().ok());
    let state = place.and_then(|place| CURSES.get(place)).copied().unwrap_or_default();
    ["40", "55P03", "53", "57", "08"].iter().any(|class| state.starts_with(class))
}

/// Words for the command line of a Redis that knows the limited user.
pub fn user_words() -> Vec<String> {
    ["--user", LIMITED, "on", ">secret", "~user:*", "+@all"].map(str::to_owned).to_vec()
}

const TRIGGERS: &str = "\
    CREATE TABLE public.fired (id text, op text); \
    CREATE FUNCTION public.edits() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
        IF NEW.id LIKE 'edit.%' AND jsonb_typeof(NEW.payload) = 'object' THEN \
            NEW.payload := NEW.payload || '{\"edited\": true}'; \
        END IF; \
        RETURN NEW; END$$; \
    CREATE FUNCTION public.counts() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
        IF coalesce(NEW.id, OLD.id) LIKE 'count.%' THEN \
            UPDATE tandem.items SET payload = jsonb_build_object('n', (payload->>'n')::int + 1) WHERE id = 'counter'; \
            INSERT INTO public.fired VALUES (coalesce(NEW.id, OLD.id), TG_OP); \
        END IF; \
        RETURN NULL; END$$; \
    CREATE FUNCTION public.curses() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
        IF NEW.id LIKE 'cursed.%' THEN \
            RAISE EXCEPTION 'this id is cursed' USING ERRCODE = ({curses})[1 + right(NEW.id, 1)::int]; \
        END IF; \
        RETURN NEW; END$$; \
    CREATE TRIGGER edits BEFORE INSERT OR UPDATE ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.edits(); \
    CREATE TRIGGER counts AFTER INSERT OR UPDATE OR DELETE ON tandem.items FOR EACH ROW \
        EXECUTE FUNCTION public.counts(); \
    CREATE TRIGGER curses BEFORE INSERT OR UPDATE ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.curses(); \
    SELECT tandem.put('counter', '{\"n\": 0}')";

impl Company {
    /// That of a seed.
    pub fn of(seed: u64) -> Company {
        COMPANIES[seed as usize % COMPANIES.len()]
    }

    /// Gives Postgres what the workload needs there.
    pub fn prepare(self, client: &mut Client) {
        if self == Company::Triggers {
            let curses = format!("ARRAY['{}']", CURSES.join("','"));
            sql::run(client, &TRIGGERS.replace("{curses}", &curses));
        }
    }

    /// A step that only this company has, of a client; none where the client does a plain step.
    pub fn step(self, dice: &mut Dice, client: u64) -> Option<(String, Operation)> {
        let in_redis = client % 2 == 1;
        match self {
            Company::Triggers if dice.below(3) == 0 => Some(triggering(dice, client)),
            Company::Expiring if in_redis && dice.below(4) == 0 => {
                let ms = [1, 5, 20, 100, 500, 1500, 5000][dice.below(7) as usize];
                Some(match dice.below(3) {
                    0 => (format!("own.{client}.{:02}", dice.below(25)), Operation::Expire(ms)),
                    _ => (format!("brief.{client}.{:02}", dice.below(8)), Operation::Brief(ms)),
                })
            }
            Company::Bombs if dice.below(5) == 0 => {
                let bomb = Bomb { which: dice.below(bombs::KINDS), way: dice.below(bombs::WAYS) };
                Some((format!("bomb.{client}.{:02}", dice.below(12)), Operation::Bomb(bomb)))
            }
            Company::Limited if is_limited(self, client) && dice.below(2) == 0 => {
                Some((format!("user:{client}.00"), Operation::Intrude(dice.below(intruder::ATTEMPTS))))
            }
            _ => None,
        }
    }
}

fn triggering(dice: &mut Dice, client: u64) -> (String, Operation) {
    let id = match dice.below(6) {
        0 => format!("edit.shared.{:02}", dice.below(3)),
        1 | 2 => format!("edit.{client}.{:02}", dice.below(6)),
        3 | 4 => format!("count.{client}.{:02}", dice.below(6)),
        _ => format!("cursed.{}", dice.below(CURSES.len() as u64)),
    };
    let operation = match dice.below(8) {
        0..=2 => Operation::Put,
        3 => Operation::Merge,
        4 => Operation::Upsert,
        5 => Operation::Update,
        6 => Operation::PutMatching,
        _ => Operation::Remove,
    };
    (id, operation)
}
