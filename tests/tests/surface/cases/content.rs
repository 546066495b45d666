//! JSON or binary: what content is taken for when nobody says.

use super::*;

/// Content, whether it is taken for JSON, and what is read back.
const DETECTED: &[(&str, &str, bool, &str)] = &[
    ("object", r#"{"b":1,"a":2.0}"#, true, r#"{"a":2,"b":1}"#),
    ("array", "[1.0]", true, "[1]"),
    ("string", r#""\u0041""#, true, r#""A""#),
    ("blanks", " \t\r\n{ } ", true, "{}"),
    ("number", "1", false, "1"),
    ("negative", "-1", false, "-1"),
    ("true", "true", false, "true"),
    ("null", "null", false, "null"),
    ("number.blank", " 1", false, " 1"),
    ("nothing", "", false, ""),
    ("only.blanks", " \n ", false, " \n "),
    ("word", "hello", false, "hello"),
    ("broken.object", r#"{"a":"#, false, r#"{"a":"#),
    ("broken.array", "[1,]", false, "[1,]"),
    ("broken.string", r#""abc"#, false, r#""abc"#),
    ("trailing", r#"{"a":1} x"#, false, r#"{"a":1} x"#),
    ("two", "{}{}", false, "{}{}"),
    ("mark", "\u{feff}{}", false, "\u{feff}{}"),
    ("form.feed", "\u{c}{}", false, "\u{c}{}"),
    ("nul.escape", r#""\u0000""#, false, r#""\u0000""#),
    ("lone.surrogate", r#"["\ud800"]"#, false, r#"["\ud800"]"#),
    ("huge.number", "[1e131072]", false, "[1e131072]"),
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = DETECTED
        .iter()
        .flat_map(|(name, text, json, read_back)| {
            let id = format!("content.{name}");
            let kind = if *json { "json" } else { "binary" };
            let fields = vec![("type", Answer::text(kind)), ("payload", Answer::text(read_back))];
            [
                write(id.clone(), vec![], put_raw(&id, text.as_bytes(), vec![]), version(1, 1)),
                read(format!("{id}.read"), vec![], get(&id), Expect::Fields(fields)),
            ]
        })
        .collect();
    cases.extend(said());
    cases
}

fn said() -> Vec<Case> {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let raw = |id: &str, text: &str, option: PutOption| put_raw(id, text.as_bytes(), vec![option]);
    vec![
        write("content.128", vec![], put_raw("content.128", deep(128).as_bytes(), vec![]), version(1, 1)),
        read("content.128.read", vec![], get("content.128"), field("type", "json")),
        write("content.129", vec![], put_raw("content.129", deep(129).as_bytes(), vec![]), version(1, 1)),
        read("content.129.read", vec![], get("content.129"), field("type", "binary")),
        write("content.json.said", vec![], raw("content.said", "1", PutOption::Json), version(1, 1)),
        read("content.json.said.read", vec![], get("content.said"), field("type", "json")),
        write("content.undetected.over.json", vec![], put_raw("content.said", b"1", vec![]), version(2, 1)),
        read("content.undetected.same", vec![], put_raw("content.said", b"1", vec![]), version(2, 0)),
        write("content.binary.said", vec![], raw("content.text", "{}", PutOption::BinaryText), version(1, 1)),
        read("content.binary.said.read", vec![], get("content.text"), field("type", "binary")),
        read(
            "content.binary.bytes.same",
            vec![],
            raw("content.text", "{}", PutOption::Binary),
            version(1, 0),
        ),
        write("content.detected.over.binary", vec![], put_raw("content.text", b"{}", vec![]), version(2, 1)),
        read("content.detected.read", vec![], get("content.text"), field("type", "json")),
        read(
            "content.json.said.broken",
            vec![],
            raw("content.bad", "{", PutOption::Json),
            Expect::Refused("BADJSON"),
        ),
        write("content.jsonb.scalar", vec![], raw("content.jsonb", "true", PutOption::Jsonb), version(1, 1)),
        read("content.jsonb.scalar.read", vec![], get("content.jsonb"), field("type", "json")),
        write(
            "content.17.MiB.of.blanks",
            vec![],
            raw("content.many.blanks", &(" ".repeat(17 * 1024 * 1024) + "[1]"), PutOption::Json),
            version(1, 1),
        ),
        read("content.17.MiB.of.blanks.read", vec![], get("content.many.blanks"), payload("[1]")),
        read(
            "content.undetected.17.MiB",
            vec![],
            put_raw("content.bad", &vec![b'x'; 17 * 1024 * 1024], vec![]),
            Expect::RefusedSaying("TOOLARGE", "16777216"),
        ),
        read(
            "content.type.unknown",
            vec![],
            Request::Odd(
                ids(&["TANDEM.PUT", "content.bad", "1", "XML"]),
                "put('content.bad', '1'::text, type => 'xml')".to_owned(),
            ),
            Expect::RefusedApart { sql: "INVALID", redis: "INVALID" },
        ),
    ]
}
