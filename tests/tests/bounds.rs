//! Bounds of content, audit and versions: what one side accepts the other one holds, prints, dumps and reads back.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use redis::Value;
use tandem_shared::content::measure;
use tandem_shared::limits::JSON_DEPTH_MAX;
use tandem_tests::census::{check_postgres, check_redis};
use tandem_tests::pair::Pair;
use tandem_tests::postgres::{self as pg, Postgres};
use tandem_tests::redis::{Options, Redis, ask, send};
use tandem_tests::sql::{refused, run, value};

/// So many numbers of 131,072 digits.
fn long_numbers(count: usize) -> String {
    format!("[{}]", vec!["1e131071"; count].join(","))
}

/// JSON text as writers spell it: numbers of all sizes, escapes, blanks, and keys that come twice.
fn json() -> impl Strategy<Value = String> {
    let number = (
        prop_oneof![Just(""), Just("-")],
        "0|[1-9][0-9]{0,24}",
        prop_oneof![2 => Just(String::new()), 1 => "\\.[0-9]{1,24}"],
        prop_oneof![2 => Just(String::new()), 1 => (-300..300).prop_map(|power| format!("e{power}"))],
    )
        .prop_map(|(sign, integer, fraction, exponent)| format!("{sign}{integer}{fraction}{exponent}"));
    let text = "[ -!#-\\[\\]-~éß日😀]{0,8}".prop_map(|text| format!("\"{text}\""));
    let escaped = prop_oneof![
        Just(r#""\n\t\"\\\/\u001f\u0001\u007f""#.to_owned()),
        Just(r#""\u00e9\ud83d\ude00\u0041""#.to_owned())
    ];
    let word = prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned);
    let leaf = prop_oneof![4 => number, 2 => text, 1 => escaped, 1 => word];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| format!("[{}]", values.join(" , "))),
            prop::collection::vec(("[a-c]{0,2}|\\\\u0061|\\\\n", inner), 0..6).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

#[test]
fn the_size_that_is_computed_is_what_jsonb_prints() {
    let server = Postgres::start(&pg::Options::default());
    let mut client = server.connect();
    let mut runner = TestRunner::deterministic();
    let statement = client.prepare("SELECT octet_length($1::text::jsonb::text)").expect("a good query");
    for _ in 0..1500 {
        let text = json().new_tree(&mut runner).expect("a strategy gives values").current();
        let canonical =
            measure(text.as_bytes(), JSON_DEPTH_MAX).unwrap_or_else(|error| panic!("{text}: {error}"));
        let kept = String::from_utf8(canonical.bytes).expect("canonical JSON is UTF-8");
        let printed: i32 = client.query_one(&statement, &[&kept]).expect("jsonb takes canonical JSON").get(0);
        assert_eq!(canonical.printed_bytes, printed as usize, "{text}");
    }
}

#[test]
fn numbers_that_print_long_reach_the_other_side_and_come_back() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    let numbers = long_numbers(130);
    ask(&mut redis, &["TANDEM.PUT", "from.redis", &numbers]);
    run(&mut client, &format!("SELECT tandem.put('from.postgres', '{numbers}'::text)"));
    pair.settle("both are on both sides", |client, redis| {
        value(client, "SELECT count(*) = 2 FROM tandem.items")
            && ask(redis, &["TANDEM.COUNT"]) == Value::Int(2)
    });
    // Plain DML measures the canonical form as well, though jsonb hands out 17 MB.
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'copied', payload FROM tandem.items LIMIT 1",
    );
    ask(&mut redis, &["DEL", "from.redis"]);
    pair.settle("the copy and what was dropped are in Redis", |_, redis| {
        ask(redis, &["TANDEM.COUNT"]) == Value::Int(3)
    });
    for id in ["from.redis", "from.postgres", "copied"] {
        let payload = ask(&mut redis, &["TANDEM.GET", id, "PAYLOAD"]);
        assert_eq!(payload, Value::BulkString(numbers.clone().into_bytes()), "{id}");
    }
    check_postgres(&mut client, "with long numbers");
    check_redis(&mut redis, "with long numbers");
}

#[test]
fn what_would_print_too_long_is_refused_on_every_way_in() {
    let server = Postgres::with_extension(&pg::Options::default());
    let redis = Redis::start(Options::in_memory());
    let (mut client, mut commands) = (server.connect(), redis.connect());
    let numbers = long_numbers(600);
    let zeros = format!("0.{}", "0".repeat(16_383));
    let says = "has 78644400 bytes, at most 67108864 are allowed";
    for statement in [
        format!("SELECT tandem.put('x', '{numbers}'::text)"),
        format!("SELECT tandem.put('x', '{numbers}'::jsonb)"),
        format!("SELECT tandem.merge('x', '{{\"a\":{numbers}}}')"),
        format!("INSERT INTO tandem.items (id, payload) VALUES ('x', '{numbers}')"),
        // jsonb keeps the zeros that plain DML gives it, and prints them.
        format!(
            "INSERT INTO tandem.items (id, payload) SELECT 'x', jsonb_agg('{zeros}'::jsonb) FROM generate_series(1, 5000)"
        ),
    ] {
        let (code, message) = refused(&mut client, &statement);
        assert_eq!(code, "54000", "{message}");
        let expected = if statement.contains("jsonb_agg") || statement.contains("merge") {
            "at most 67108864"
        } else {
            says
        };
        assert!(message.contains(expected), "{message}");
    }
    for words in [
        &["TANDEM.PUT", "x", &numbers][..],
        &["TANDEM.MPUT", "1", "x", &numbers],
        &["TANDEM.MERGE", "x", &format!("{{\"a\":{numbers}}}")],
        &["TANDEM.BATCH", &format!("[{{\"op\":\"put\",\"id\":\"x\",\"payload\":{numbers}}}]")],
    ] {
        let error = send(&mut commands, words).expect_err("it is too long");
        assert!(error.to_string().contains("TOOLARGE"), "{error}");
        assert!(error.to_string().contains("at most 67108864"), "{error}");
    }
    assert!(value::<bool>(&mut client, "SELECT count(*) = 0 FROM tandem.items"));
    assert_eq!(ask(&mut commands, &["TANDEM.COUNT"]), Value::Int(0));
}

#[test]
fn a_bound_that_is_lowered_binds_writers_and_not_what_is_stored() {
    let pair = Pair::with(&pg::Options::default(), Options::in_memory());
    let (mut client, mut redis) = (pair.sql(), pair.commands());
    run(&mut client, "SELECT tandem.put('x', '[1e200,2]'::text)");
    pair.settle("it is in Redis", |_, redis| ask(redis, &["TANDEM.COUNT"]) == Value::Int(1));
    run(&mut client, "ALTER SYSTEM SET tandem.printed_bytes_max = 100");
    run(&mut client, "ALTER SYSTEM SET tandem.content_bytes_max = 4");
    run(&mut client, "SELECT pg_reload_conf()");
    ask(&mut redis, &["CONFIG", "SET", "tandem.printed-bytes-max", "100"]);
    let mut client = pair.sql();
    let printed = "has 203 bytes, at most 100 are allowed";
    run(&mut client, "SET tandem.content_bytes_max = 100");
    let (_, message) = refused(&mut client, "SELECT tandem.put('y', '[1e200]'::text)");
    assert!(message.contains(printed), "{message}");
    let error = send(&mut redis, &["TANDEM.PUT", "y", "[1e200]"]).expect_err("it is too long").to_string();
    assert!(error.contains(printed), "{error}");
    assert!(send(&mut redis, &["CONFIG", "SET", "tandem.printed-bytes-max", "67108865"]).is_err());
    assert_eq!(refused(&mut client, "SET tandem.printed_bytes_max = 67108865").0, "22023");
    // What is there is read, restated, checked and sent all the same.
    run(&mut client, "SET tandem.content_bytes_max = 4; SELECT tandem.set_state('x', 'kept')");
    ask(&mut redis, &["DEL", "x"]);
    pair.settle("it is in Redis again", |_, redis| {
        ask(redis, &["TANDEM.STATE", "HAS", "x", "kept"]) == Value::Int(1)
    });
    check_postgres(&mut client, "under the lower bound");
}

#[test]
fn rows_have_versions_that_can_be_counted_on_from() {
    let server = Postgres::with_extension(&pg::Options::default());
    let mut client = server.connect();
    let (code, message) = refused(
        &mut client,
        "INSERT INTO tandem.items (id, version, payload) VALUES ('x', 9223372036854775807, '1')",
    );
    assert_eq!(code, "22023", "{message}");
    assert!(message.contains("give an integer from 1 to 6917529027641081856"), "{message}");
    run(
        &mut client,
        "INSERT INTO tandem.items (id, version, payload) VALUES ('x', 4611686018427387904, '1'), ('y', 4611686018427387905, '1'); \
         UPDATE tandem.items SET payload = '2' WHERE id = 'x'; \
         DELETE FROM tandem.items WHERE id = 'x'; TRUNCATE tandem.items",
    );
    let versions: String =
        value(&mut client, "SELECT string_agg(id || ' ' || version, ',' ORDER BY id) FROM tandem.tombstones");
    assert_eq!(versions, "x 4611686018427387906,y 4611686018427387906");
    check_postgres(&mut client, "after the removals");
}
