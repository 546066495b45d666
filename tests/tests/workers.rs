//! tandem's processes in a database whose settings, objects and locks are somebody else's.

use postgres::Client;
use tandem_tests::pair::Pair;
use tandem_tests::postgres as pg;
use tandem_tests::redis::{self, ask, ask_text};
use tandem_tests::sql::{rows, run, value};
use tandem_tests::wait::{self, DEADLINE};

fn start() -> Pair {
    Pair::with(&pg::Options::default(), redis::Options::in_memory())
}

/// Ends all processes of tandem and waits until others have taken their place.
fn begin_anew(client: &mut Client) {
    let pids = "SELECT coalesce(array_agg(pid ORDER BY pid), '{}') FROM pg_catalog.pg_stat_activity \
        WHERE backend_type LIKE 'tandem %'";
    let before: Vec<i32> = value(client, pids);
    rows(
        client,
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE backend_type LIKE 'tandem %'",
    );
    wait::until("other processes have come", DEADLINE, || {
        let now: Vec<i32> = value(client, pids);
        now.len() >= 3 && !now.iter().any(|pid| before.contains(pid))
    });
}

/// What is written on each side is on the other.
fn goes_both_ways(pair: &Pair, client: &mut Client, round: &str) {
    let mut redis = pair.commands();
    ask(&mut redis, &["TANDEM.PUT", &format!("r.{round}"), "1"]);
    run(client, &format!("SELECT tandem.put('p.{round}', '1')"));
    wait::until_or(
        DEADLINE,
        || {
            value::<bool>(client, &format!("SELECT tandem.exists('r.{round}')"))
                && ask_text(&mut redis, &["TANDEM.GET", &format!("p.{round}"), "PAYLOAD"]).is_some()
        },
        || format!("{round}: writes go both ways; {}", pair.postgres.log_tail()),
    );
}

/// Whoever may make objects in a schema that others look into could otherwise have them run by a superuser.
#[test]
fn no_object_of_a_user_runs_in_a_process_of_tandem() {
    let pair = start();
    let mut client = pair.sql();
    run(
        &mut client,
        "CREATE TABLE public.caught (what text, who text DEFAULT current_user); \
         CREATE FUNCTION public.format(text, smallint) RETURNS text LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO public.caught VALUES ('format 2'); RETURN pg_catalog.format($1, $2); END$$; \
         CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO public.caught VALUES ('format 3'); RETURN pg_catalog.format($1, $2, $3); END$$; \
         CREATE FUNCTION public.glued(bigint, text) RETURNS text LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO public.caught VALUES ('||'); RETURN $1::text OPERATOR(pg_catalog.||) $2; END$$; \
         CREATE OPERATOR public.|| (FUNCTION = public.glued, LEFTARG = bigint, RIGHTARG = text); \
         CREATE FUNCTION public.starts_with(text, varchar) RETURNS boolean LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO public.caught VALUES ('starts_with'); RETURN true; END$$; \
         CREATE FUNCTION public.same(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO public.caught VALUES ('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END$$; \
         CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = bigint, RIGHTARG = bigint); \
         ALTER DATABASE postgres SET search_path = public, pg_catalog",
    );
    begin_anew(&mut client);
    run(&mut client, "SET search_path = pg_catalog");
    for round in 0..3 {
        goes_both_ways(&pair, &mut client, &round.to_string());
        wait::until("what was written is folded", DEADLINE, || {
            value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0
        });
    }
    let link = pair.link.clone();
    run(
        &mut client,
        &format!("UPDATE tandem.links SET needs_check = true; SELECT tandem.pause_link('{link}')"),
    );
    run(&mut client, &format!("SELECT tandem.resume_link('{link}')"));
    goes_both_ways(&pair, &mut client, "after a check");
    let caught: Vec<String> = rows(&mut client, "SELECT DISTINCT what || ' as ' || who FROM public.caught")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(caught.is_empty(), "functions of a user ran: {caught:?}");
}

/// A runbook may set any of these for the database or the role, and means its sessions.
#[test]
fn settings_of_the_database_are_not_those_of_the_processes() {
    let pair = start();
    let mut client = pair.sql();
    let settings = [
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_deferrable = on",
        "session_replication_role = replica",
        "lock_timeout = '1ms'",
        "statement_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "row_security = off",
        "role = 'bystander'",
        "search_path = 'nowhere'",
        "synchronous_commit = off",
    ];
    run(&mut client, "CREATE ROLE bystander; CREATE ROLE admin SUPERUSER LOGIN");
    for setting in settings {
        run(&mut client, &format!("ALTER ROLE postgres IN DATABASE postgres SET {setting}"));
    }
    let mut client = pair.postgres.connect_as("admin", "postgres");
    begin_anew(&mut client);
    goes_both_ways(&pair, &mut client, "set");
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM tandem.dead_letters"),
        0,
        "nothing was set aside"
    );
    ask(&mut pair.commands(), &["TANDEM.REMOVE", "r.set"]);
    wait::until("a removal arrives, with a tombstone", DEADLINE, || {
        value::<bool>(&mut client, "SELECT EXISTS (SELECT FROM tandem.tombstones WHERE id = 'r.set')")
    });
}

/// An advisory lock may be taken by anybody, under any number that a name of ours gives.
#[test]
fn no_lock_that_a_user_can_take_stops_a_process() {
    let pair = start();
    let mut client = pair.sql();
    run(&mut client, "CREATE ROLE nobody LOGIN");
    let mut nobody = pair.postgres.connect_as("nobody", "postgres");
    let take = format!(
        "SELECT pg_try_advisory_lock(1952542308, hashtext(kind || ' {}')) FROM unnest(ARRAY['link', 'reader', 'fill']) kind",
        pair.link
    );
    wait::until("somebody has all these locks", DEADLINE, || {
        rows(
            &mut client,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'tandem %'",
        );
        run(&mut nobody, &take);
        let held = "SELECT count(DISTINCT (classid, objid)) FROM pg_locks WHERE locktype = 'advisory' AND granted \
            AND pid IN (SELECT pid FROM pg_stat_activity WHERE usename = 'nobody')";
        value::<i64>(&mut client, held) == 3
    });
    begin_anew(&mut client);
    goes_both_ways(&pair, &mut client, "locked");
}

/// Without that, vacuum and analyze never look at what came over a link.
#[test]
fn what_a_process_writes_is_in_the_statistics() {
    let pair = start();
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    for number in 0..50 {
        ask(&mut redis, &["TANDEM.PUT", &format!("a.{number}"), "1"]);
    }
    pair.settle_at(50);
    wait::until("the statistics count what came from Redis", DEADLINE, || {
        value::<i64>(
            &mut client,
            "SELECT n_tup_ins FROM pg_stat_user_tables WHERE schemaname = 'tandem' AND relname = 'items_default'",
        ) >= 50
    });
}

/// Transactions without a number leave nothing to freeze and nothing in the WAL. Some hundred of them are what the
/// processes need in half a minute to look whether there is anything to do.
#[test]
fn a_database_in_which_nothing_happens_takes_no_numbers_of_transactions() {
    let pair = start();
    let mut client = pair.sql();
    goes_both_ways(&pair, &mut client, "before");
    wait::until("what was written is folded", DEADLINE, || {
        value::<i64>(&mut client, "SELECT tandem.dirty_count()") == 0
    });
    let number = "SELECT pg_current_xact_id()::text::bigint";
    let ended = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    // What was written is noted now and then: the first of these numbers are of that.
    let taken = wait::until_some("hundreds of transactions end without a number", DEADLINE, || {
        let (first, before): (i64, i64) = (value(&mut client, number), value(&mut client, ended));
        wait::until("the processes have looked around", DEADLINE, || {
            value::<i64>(&mut client, ended) > before + 300
        });
        let taken = value::<i64>(&mut client, number) - first;
        println!("{taken} numbers");
        (taken <= 2).then_some(taken)
    });
    assert!(taken <= 2, "{taken} numbers were taken");
}
