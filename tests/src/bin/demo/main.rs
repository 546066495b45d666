//! The demo: a real Redis and a real Postgres hold the same real data and prove it, through a crash of Redis and
//! through drift that is made on purpose and mended. `make demo` runs it; it exits non-zero if anything does not
//! hold. With KEEP=1 both servers stay up.

mod drift;
mod load;
mod show;

use show::Stage;
use std::process::ExitCode;
use tandem_tests::data;
use tandem_tests::pair::Pair;
use tandem_tests::redis::ask_text;
use tandem_tests::{postgres as pg, redis, sql};

fn main() -> ExitCode {
    // What does not hold is a panic of the harness; its message is for a reader of the demo, not of the source.
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message =
            message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("an unknown failure");
        eprintln!("\nIT DOES NOT HOLD: {message}");
    }));
    match std::panic::catch_unwind(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() {
    let mut stage = Stage::new(9);
    let mut pair = start(&mut stage);
    let count = load_both(&mut stage, &pair);
    read_one(&mut stage, &pair, count);
    read_branch(&mut stage, &pair, count);
    update_each(&mut stage, &pair, count);
    let count = crash(&mut stage, &mut pair, count);
    drift::make_and_mend(&mut stage, &mut pair, count);
    finish(&mut stage, pair, count);
}

fn start(stage: &mut Stage) -> Pair {
    stage.step(
        "Start a private Postgres and a private Redis, and link them",
        "one SQL call joins the two; nothing else runs in between",
    );
    // Every acknowledged write is on disk, on both sides: one of them will be killed.
    let pair = Pair::with(&pg::Options { fsync: true, ..pg::Options::default() }, redis::Options::durable());
    let directories = [pair.postgres.directory(), pair.redis.directory()];
    stage.say(&format!("Postgres on port {}, in {}", pair.postgres.port(), directories[0].display()));
    stage.say(&format!("Redis on port {}, in {}", pair.redis.port(), directories[1].display()));
    stage.say(&format!("SELECT tandem.link('{}')  ->  {}", pair.redis.url(), pair.link));
    stage.roots(&pair, 0);
    pair
}

fn load_both(stage: &mut Stage, pair: &Pair) -> i64 {
    let (languages, subdivisions) = (data::languages(""), data::subdivisions());
    stage.step(
        "Load languages through Redis and country subdivisions through SQL",
        "a write on either side reaches the other, and both come to the same root hash",
    );
    load::through_redis(stage, &mut pair.commands(), &languages);
    load::through_sql(stage, &mut pair.sql(), &subdivisions);
    let count = i64::try_from(languages.len() + subdivisions.len()).expect("a small number");
    stage.roots(pair, count);
    count
}

fn read_one(stage: &mut Stage, pair: &Pair, count: i64) {
    stage.step(
        "Read one item of each load with redis-cli and with psql",
        "the same item has the same version, hash and etag on both sides, wherever it was written",
    );
    for id in ["iso.639-3.deu", "iso.3166-2.DE.BY"] {
        show::redis_cli(stage, pair, &["TANDEM.GET", id]);
        show::psql(stage, pair, &format!("SELECT * FROM tandem.get('{id}')"));
        let etag: String = sql::value(&mut pair.sql(), &format!("SELECT etag FROM tandem.get('{id}')"));
        let hash: String = sql::value(&mut pair.sql(), &format!("SELECT hash FROM tandem.get('{id}')"));
        let reply = format!("{:?}", redis::ask(&mut pair.commands(), &["TANDEM.GET", id]));
        for value in [etag, hash] {
            assert!(
                reply.contains(&value),
                "{id}: Redis does not answer {value}, which Postgres does: {reply}"
            );
        }
    }
    stage.roots(pair, count);
}

fn read_branch(stage: &mut Stage, pair: &Pair, count: i64) {
    stage.step(
        "Compare a branch: the hash of iso.3166-2.DE and of its children",
        "any subtree can be compared by one hash, without reading its items",
    );
    let ours: Option<String> = sql::value(&mut pair.sql(), "SELECT tandem.merkle_hash('iso.3166-2.DE')");
    let theirs = ask_text(&mut pair.commands(), &["TANDEM.MERKLE", "HASH", "iso.3166-2.DE"]);
    stage.say(&format!("Postgres  iso.3166-2.DE  {}", ours.as_deref().unwrap_or("-")));
    stage.say(&format!("Redis     iso.3166-2.DE  {}", theirs.as_deref().unwrap_or("-")));
    assert!(ours.is_some() && ours == theirs, "the branch differs: {ours:?} and {theirs:?}");
    show::redis_cli(stage, pair, &["TANDEM.MERKLE", "CHILDREN", "iso"]);
    show::psql(stage, pair, "SELECT * FROM tandem.merkle_children('iso')");
    show::psql(stage, pair, "SELECT * FROM tandem.merkle_children('iso.3166-2.DE', lim => 5)");
    stage.roots(pair, count);
}

fn update_each(stage: &mut Stage, pair: &Pair, count: i64) {
    stage.step(
        "Update on each side, with plain SQL too, and look at the other",
        "it does not matter where or how an item is written",
    );
    let in_redis = r#"{"name":"German","seen_by":"redis"}"#;
    redis::ask(&mut pair.commands(), &["TANDEM.PUT", "iso.639-3.deu", in_redis]);
    stage.say(&format!("redis> TANDEM.PUT iso.639-3.deu {in_redis}"));
    let statement =
        "UPDATE tandem.items SET payload = payload || '{\"seen_by\": \"sql\"}' WHERE id = 'iso.3166-2.DE.BY'";
    sql::run(&mut pair.sql(), statement);
    stage.say(&format!("sql>   {statement}"));
    pair.settle("both updates are on both sides", |client, connection| {
        let query = "SELECT coalesce(payload->>'seen_by', '') FROM tandem.items WHERE id = 'iso.639-3.deu'";
        let arrived: String = sql::value(client, query);
        let reply = format!("{:?}", redis::ask(connection, &["TANDEM.GET", "iso.3166-2.DE.BY"]));
        arrived == "redis" && reply.contains("seen_by")
    });
    show::psql(stage, pair, "SELECT id, version, payload FROM tandem.get('iso.639-3.deu')");
    show::redis_cli(stage, pair, &["TANDEM.GET", "iso.3166-2.DE.BY"]);
    stage.roots(pair, count);
}

fn crash(stage: &mut Stage, pair: &mut Pair, count: i64) -> i64 {
    let items = data::languages("load2.");
    stage.step(
        "Kill Redis with SIGKILL in the middle of a second load, and start it again",
        "every write that was acknowledged is on both sides",
    );
    let acknowledged = load::until_killed(stage, pair, &items);
    stage.say(&format!("killed; {} writes had been acknowledged", acknowledged.len()));
    pair.redis.restart();
    stage.say("Redis is up again; the link reconnects by itself");
    let expected = count + i64::try_from(acknowledged.len()).expect("a small number");
    pair.settle("the link has caught up", |client, _| {
        tandem_tests::pair::count_of_postgres(client) >= expected
    });
    let (in_redis, in_postgres) = load::present(pair, &acknowledged);
    stage.say(&format!(
        "of {} acknowledged: {in_redis} in Redis, {in_postgres} in Postgres",
        acknowledged.len()
    ));
    assert_eq!(
        (in_redis, in_postgres),
        (acknowledged.len(), acknowledged.len()),
        "an acknowledged write is lost"
    );
    stage.say("and the load goes on where it was cut off");
    load::through_redis(stage, &mut pair.commands(), &items[acknowledged.len()..]);
    let count = count + i64::try_from(items.len()).expect("a small number");
    stage.roots(pair, count);
    count
}

fn finish(stage: &mut Stage, pair: Pair, count: i64) {
    stage.step("Check both sides from the ground up", "what the hashes rest on is what is stored");
    show::redis_cli(stage, &pair, &["TANDEM.VERIFY"]);
    show::psql(stage, &pair, "SELECT * FROM tandem.verify()");
    let ok: bool = sql::value(&mut pair.sql(), "SELECT ok FROM tandem.verify()");
    assert!(ok, "tandem.verify() found a problem");
    stage.roots(&pair, count);
    println!("\nEverything held.");
    if std::env::var_os("KEEP").is_none_or(|value| value.is_empty() || value == "0") {
        return;
    }
    let Pair { postgres, redis, .. } = pair;
    println!("\nBoth servers stay up:");
    println!("  {}", postgres.psql_words().join(" "));
    println!("  redis-cli -p {}", redis.port());
    println!("To stop and remove them:");
    println!("  {}", postgres.keep());
    println!("  {}", redis.keep());
}
