//! Triggers of users on `tandem.items`: whatever they write, edit or keep away, under plain DML, tandem's own
//! functions and the link alike, both sides end up with the same items, and nothing stands still.

use ::redis::Connection;
use postgres::Client;
use tandem_shared::content::canonicalize;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{Options, ask, ask_number, ask_text};
use tandem_tests::sql::{refused, rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn pair() -> Pair {
    Pair::with(&pg::Options::default(), Options::in_memory())
}

fn here(client: &mut Client, id: &str) -> Option<String> {
    let query = format!("SELECT payload::text FROM tandem.items WHERE id = '{id}'");
    rows(client, &query).first().map(|row| row.get(0))
}

fn there(redis: &mut Connection, id: &str) -> Option<String> {
    ask_text(redis, &["TANDEM.GET", id, "PAYLOAD"])
}

/// Waits until Redis holds this content under an id, then holds both sides against each other from the ground up.
fn both_hold(pair: &Pair, id: &str, payload: &str, when: &str) {
    pair.settle(&format!("{when}: {id} is {payload} on both sides"), |client, redis| {
        let canonical = here(client, id).map(|text| canonicalize(text.as_bytes()).expect("jsonb is JSON"));
        canonical.as_deref() == Some(payload.as_bytes()) && there(redis, id).as_deref() == Some(payload)
    });
    let census = check_postgres(&mut pair.sql(), when);
    assert_eq!(census, check_redis(&mut pair.commands(), when), "{when}");
}

fn trigger(client: &mut Client, name: &str, when: &str, body: &str) {
    run(
        client,
        &format!(
            "CREATE FUNCTION public.\"{name}\"() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$; \
             CREATE TRIGGER \"{name}\" {when} ON tandem.items FOR EACH ROW EXECUTE FUNCTION public.\"{name}\"()"
        ),
    );
}

/// A counter over the items of a prefix, as people keep one.
const COUNT: &str = "IF NEW.id LIKE 'c.%' THEN \
        UPDATE tandem.items SET payload = jsonb_build_object('n', (payload->>'n')::int + 1) WHERE id = 'count'; \
    END IF; RETURN NULL;";

#[test]
fn what_a_trigger_writes_is_captured_whoever_has_fired_it() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('count', '{\"n\":0}')");
    trigger(&mut client, "counts", "AFTER INSERT", COUNT);
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('c.plain', '1')");
    run(&mut client, "SELECT tandem.put('c.put', '[1]')");
    run(&mut client, "SELECT tandem.put_many(ARRAY['c.many1', 'c.many2'], ARRAY['[1]', '[2]'])");
    both_hold(&pair, "count", "{\"n\":4}", "after writes here");
    ask(&mut redis, &["TANDEM.PUT", "c.redis", "[1]"]);
    both_hold(&pair, "count", "{\"n\":5}", "after a write in Redis");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters"), 0);
}

#[test]
fn a_trigger_may_put_and_delete_by_tandems_functions() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('old', '[1]'), tandem.put('keep', '[1]')");
    trigger(
        &mut client,
        "puts",
        "AFTER INSERT OR UPDATE",
        "IF NEW.id LIKE 'p.%' THEN \
             PERFORM tandem.put('copy.' || NEW.id, NEW.payload); PERFORM tandem.delete('old'); \
             INSERT INTO tandem.items (id, payload) VALUES ('row.' || NEW.id, NEW.payload) \
                 ON CONFLICT (id) DO UPDATE SET payload = excluded.payload; \
         END IF; RETURN NULL;",
    );
    for (round, write) in [
        "SELECT tandem.put('p.a', '[1]'), tandem.put('p.b', '[1]')",
        "SELECT tandem.put_many(ARRAY['p.a', 'p.b', 'p.c'], ARRAY['[2]', '[2]', '[2]'])",
        "UPDATE tandem.items SET payload = '[3]' WHERE id LIKE 'p.%'",
        "SELECT tandem.merge('p.a', '{\"x\":1}')",
    ]
    .into_iter()
    .enumerate()
    {
        run(&mut client, write);
        check_postgres(&mut client, &format!("after round {round}"));
    }
    both_hold(&pair, "copy.p.a", "{\"x\":1}", "after writes here");
    ask(&mut redis, &["TANDEM.PUT", "p.a", "[4]"]);
    both_hold(&pair, "copy.p.a", "[4]", "after a write in Redis");
    both_hold(&pair, "row.p.a", "[4]", "after a write in Redis");
    assert_eq!(here(&mut client, "old"), None);
}

#[test]
fn what_a_trigger_edits_is_what_both_sides_hold() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    trigger(
        &mut client,
        "edits",
        "BEFORE INSERT OR UPDATE",
        "IF NEW.id LIKE 'e.%' AND NEW.payload IS NOT NULL THEN \
             NEW.payload := NEW.payload || '{\"edited\":true}'; NEW.state := coalesce(NEW.payload->>'state', NEW.state); \
         END IF; RETURN NEW;",
    );
    run(&mut client, "INSERT INTO tandem.items (id, payload) VALUES ('e.plain', '{\"a\":1}')");
    both_hold(&pair, "e.plain", "{\"a\":1,\"edited\":true}", "plain DML");
    let etag: String = value(&mut client, "SELECT etag FROM tandem.put('e.put', '{\"a\":1}')");
    assert_eq!(
        etag,
        value::<String>(&mut client, "SELECT etag FROM tandem.get('e.put')"),
        "the answer is of what is stored"
    );
    both_hold(&pair, "e.put", "{\"a\":1,\"edited\":true}", "put");
    run(&mut client, "SELECT tandem.put_many(ARRAY['e.m1', 'e.m2'], ARRAY['{\"m\":1}', '{\"m\":2}'])");
    both_hold(&pair, "e.m2", "{\"edited\":true,\"m\":2}", "put_many");
    ask(&mut redis, &["TANDEM.PUT", "e.redis", "{\"r\":1}"]);
    both_hold(&pair, "e.redis", "{\"edited\":true,\"r\":1}", "a put in Redis");
    ask(&mut redis, &["TANDEM.PUT", "e.redis", "{\"r\":2,\"state\":\"hot\"}"]);
    both_hold(&pair, "e.redis", "{\"edited\":true,\"r\":2,\"state\":\"hot\"}", "another put in Redis");
    assert_eq!(ask_number(&mut redis, &["TANDEM.STATE", "COUNT", "hot"]), 1);
    assert_eq!(value::<i64>(&mut client, "SELECT tandem.count_state('hot')"), 1);
    run(&mut client, "SELECT tandem.set_state('e.put', 'cold')");
    both_hold(&pair, "e.put", "{\"a\":1,\"edited\":true}", "a change of the state");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters"), 0);
}

#[test]
fn an_edit_after_the_hash_is_refused_by_name() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    trigger(
        &mut client,
        "zzz_late",
        "BEFORE INSERT OR UPDATE",
        "IF NEW.id LIKE 'l.%' THEN NEW.payload := '\"late\"'; END IF; RETURN NEW;",
    );
    for write in [
        "INSERT INTO tandem.items (id, payload) VALUES ('l.plain', '1')",
        "SELECT tandem.put('l.put', '[1]')",
        "INSERT INTO tandem.items (id, payload) VALUES ('free', '1'), ('l.two', '1')",
    ] {
        let (state, text) = refused(&mut client, write);
        assert_eq!(state, "22023", "{text}");
        assert!(text.contains("trigger zzz_late") && text.contains("sorts before zz_tandem_row"), "{text}");
    }
    ask(&mut redis, &["TANDEM.PUT", "l.redis", "[1]"]);
    ask(&mut redis, &["TANDEM.PUT", "other", "[1]"]);
    wait::until("other items flow on", DEADLINE, || here(&mut client, "other").is_some());
    wait::until("the one that is refused is set aside", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters WHERE id = 'l.redis'") == 1
    });
    check_postgres(&mut client, "after refusals");
}

#[test]
fn a_row_that_a_trigger_keeps_away_is_said_to_be() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    trigger(
        &mut client,
        "keeps",
        "BEFORE INSERT OR UPDATE OR DELETE",
        "IF coalesce(NEW.id, OLD.id) LIKE 'k.%' THEN RETURN NULL; END IF; RETURN coalesce(NEW, OLD);",
    );
    let (_, text) = refused(&mut client, "SELECT tandem.put('k.a', '[1]')");
    assert!(text.contains("is kept away") && text.contains("BEFORE trigger"), "{text}");
    let (_, text) = refused(&mut client, "SELECT tandem.put_many(ARRAY['a', 'k.b'], ARRAY['[1]', '[2]'])");
    assert!(text.contains("is kept away"), "{text}");
    ask(&mut redis, &["TANDEM.PUT", "k.redis", "[1]"]);
    wait::until("what is kept away is set aside", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters WHERE id = 'k.redis'") == 1
    });
    check_postgres(&mut client, "after refusals");
}

#[test]
fn removals_of_what_is_not_here_meet_no_constraint_and_no_trigger() {
    let pair = pair();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "ALTER TABLE tandem.items ADD CHECK (jsonb_typeof(payload) = 'object')");
    run(&mut client, "CREATE TABLE public.seen (id text)");
    trigger(
        &mut client,
        "sees",
        "AFTER INSERT OR DELETE",
        "INSERT INTO public.seen VALUES (coalesce(NEW.id, OLD.id)); RETURN NULL;",
    );
    pair.pause();
    ask(&mut redis, &["TANDEM.PUT", "gone", "{}"]);
    ask(&mut redis, &["TANDEM.REMOVE", "gone"]);
    pair.resume();
    wait::until("the removal is known here", DEADLINE, || {
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.tombstones WHERE id = 'gone'") == 1
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM public.seen"), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters"), 0);
    let logged = "SELECT string_agg(op || version, ' ') FROM tandem.changes_since() WHERE id = 'gone'";
    assert_eq!(value::<String>(&mut client, logged), "remove2");
}
