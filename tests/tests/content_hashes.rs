//! What plain SQL stores has the hash and the size that the shared rules give its text: the extension reads `jsonb`
//! where it lies, and must read what Postgres prints.

use postgres::Client;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tandem_shared::Content;
use tandem_shared::content::Bounds;
use tandem_tests::postgres::{Options, Postgres};
use tandem_tests::sql::{refused, rows, run};

/// Numbers as people and machines write them: long, short, with zeros that say nothing, at the edges of groups of four
/// digits.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (-100_000_i64..100_000).prop_map(|number| number.to_string()),
        "-?(0|[1-9][0-9]{0,40})\\.[0-9]{1,40}",
        "-?(0|[1-9][0-9]{0,12})(\\.0{0,9}[0-9]{1,3}0{0,9})?[eE][+-]?[0-9]{1,3}",
        "-?[1-9]0{0,30}",
        "-?0\\.0{0,30}[1-9]0{0,5}",
        Just("-0".to_owned()),
        Just("0.000".to_owned()),
    ]
}

fn string() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[a-z]{0,12}", "[^\u{0}]{0,40}", "[\u{1}-\u{7f}\"\\\\/]{0,20}", "[é-ÿ😀]{0,4}"];
    text.prop_map(|text| serde_json::Value::String(text).to_string())
}

/// The text of a value.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        number(),
        string()
    ];
    leaf.prop_recursive(5, 200, 60, |inner| {
        prop_oneof![
            // More than 32 have an entry that says where it ends and not how long it is.
            prop::collection::vec(inner.clone(), 0..60)
                .prop_map(|elements| format!("[{}]", elements.join(" , "))),
            prop::collection::vec((string(), inner), 0..60).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn check(client: &mut Client, texts: &[String]) {
    let ids: Vec<String> = (0..texts.len()).map(|at| format!("{at:06}")).collect();
    run(client, "TRUNCATE tandem.items");
    client
        .execute(
            "INSERT INTO tandem.items (id, payload) \
             SELECT id, payload::jsonb FROM unnest($1::text[], $2::text[]) AS i (id, payload)",
            &[&ids, &texts],
        )
        .expect("they are stored");
    let stored =
        rows(client, "SELECT payload_hash, octet_length(payload::text) FROM tandem.items ORDER BY id");
    assert_eq!(stored.len(), texts.len());
    for ((row, text), id) in stored.iter().zip(texts).zip(&ids) {
        let expected = Content::json(text.as_bytes(), Bounds::MAX).expect("it is stored");
        assert_eq!(row.get::<_, &[u8]>(0), expected.payload_hash().0, "{text}");
        let printed: i32 = row.get(1);
        let again = format!("UPDATE tandem.items SET payload = jsonb_build_array(payload) WHERE id = '{id}'");
        let allowed = |bytes: i32| format!("SET tandem.printed_bytes_max = {bytes}");
        run(client, &allowed(printed + 1));
        let (state, message) = refused(client, &again);
        assert_eq!(state, "54000", "{text}: {message}");
        run(client, &allowed(printed + 2));
        run(client, &again);
        run(client, "RESET tandem.printed_bytes_max");
    }
}

#[test]
fn what_is_stored_has_the_hash_and_the_size_of_its_text() {
    let server = Postgres::with_extension(&Options::default());
    let mut client = server.connect();
    // The same documents in each run: a failure is seen again.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let mut one = || json().new_tree(&mut runner).expect("there are values").current();
    let texts: Vec<String> = (0..500).map(|_| one()).collect();
    assert!(texts.iter().any(|text| text.len() > 3000), "some are stored apart from their row");
    check(&mut client, &texts);
}

#[test]
fn the_edges_of_what_is_stored_are_read() {
    let server = Postgres::with_extension(&Options::default());
    let mut client = server.connect();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let long = |digits: usize| format!("1{}", "0".repeat(digits));
    let texts = [
        "{}".to_owned(),
        "[]".to_owned(),
        "\"\"".to_owned(),
        "[[], {}, [[]]]".to_owned(),
        r#"{"": {"": ""}, "a": 1, "aa": 2, "b": 3}"#.to_owned(),
        r#"{"a": 1, "b": 2, "a": [1, 2.50]}"#.to_owned(),
        nested(127),
        "1e131000".to_owned(),
        "[1e-16000, 12345678901234567890123456789012345678901234567890.000000000000001000]".to_owned(),
        long(63),
        long(64),
        long(65),
        format!("-0.{}1", "0".repeat(62)),
        format!("[{}]", vec!["10000.00010000"; 5000].join(",")),
        format!("{{{}}}", (0..5000).map(|at| format!("\"{at}\":{at}")).collect::<Vec<_>>().join(",")),
    ];
    check(&mut client, &texts);
    let deep = format!("INSERT INTO tandem.items (id, payload) VALUES ('deep', '{}')", nested(129));
    let (state, message) = refused(&mut client, &deep);
    assert!(message.contains("nested deeper than 128"), "{state} {message}");
    // A number that comes from a column, whose header is a short one there.
    run(
        &mut client,
        "CREATE TABLE numbers (n numeric); INSERT INTO numbers VALUES (1.50), (-70000.25), (0), (1e30)",
    );
    run(&mut client, "TRUNCATE tandem.items");
    run(
        &mut client,
        "INSERT INTO tandem.items (id, payload) SELECT 'n' || n, jsonb_build_object('n', n, 'all', \
         (SELECT jsonb_agg(m.n) FROM numbers m)) FROM numbers",
    );
    for row in rows(&mut client, "SELECT payload::text, payload_hash FROM tandem.items") {
        let expected = Content::json(row.get::<_, &str>(0).as_bytes(), Bounds::MAX).expect("it is stored");
        assert_eq!(row.get::<_, &[u8]>(1), expected.payload_hash().0);
    }
}
