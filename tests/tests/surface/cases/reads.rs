//! Reads by id.

use super::*;

pub fn cases() -> Vec<Case> {
    let many = |list: &[&str]| Request::GetMany(ids(list));
    let exist = |list: &[&str]| Request::ExistsMany(ids(list));
    let truths = |truths: &[i64]| is(Answer::List(truths.iter().map(|truth| number(*truth)).collect()));
    vec![
        read(
            "get.all.fields",
            vec![put_with(
                "get.it",
                r#"{"b":[true,null],"a":"\u00e9"}"#,
                vec![PutOption::Version(3), state_option("s")],
            )],
            get("get.it"),
            Expect::Fields(vec![
                ("id", Answer::text("get.it")),
                ("version", number(3)),
                ("timestamp", Answer::text("now")),
                ("state", Answer::text("s")),
                ("type", Answer::text("json")),
                ("payload", Answer::text(r#"{"a":"é","b":[true,null]}"#)),
                ("audit", Answer::Nothing),
            ]),
        ),
        read("get.absent", vec![], get("get.absent"), is(Answer::Nothing)),
        read(
            "get.removed",
            vec![put("get.gone", "1"), remove("get.gone")],
            get("get.gone"),
            is(Answer::Nothing),
        ),
        read("exists.there", vec![], Request::Exists("get.it".to_owned()), is(number(1))),
        read("exists.removed", vec![], Request::Exists("get.gone".to_owned()), is(number(0))),
        read("exists.never", vec![], Request::Exists("get.absent".to_owned()), is(number(0))),
        read(
            "get.many",
            vec![put("get.one", "1"), put_raw("get.two", &[255], vec![PutOption::Binary])],
            many(&["get.two", "get.absent", "get.one", "get.two"]),
            Expect::Ids(vec!["get.two", "", "get.one", "get.two"]),
        ),
        read("get.many.one", vec![], many(&["get.one"]), Expect::Ids(vec!["get.one"])),
        read("get.many.absent", vec![], many(&["get.absent", "get.gone"]), Expect::Ids(vec!["", ""])),
        read("get.many.bad", vec![], many(&["get.one", ""]), Expect::Refused("INVALID")),
        read(
            "exists.many",
            vec![],
            exist(&["get.two", "get.gone", "get.one", "get.two"]),
            truths(&[1, 0, 1, 1]),
        ),
        read("exists.many.one", vec![], exist(&["get.absent"]), truths(&[0])),
        read("exists.many.bad", vec![], exist(&["get.one", ""]), Expect::Refused("INVALID")),
        read("verify", vec![], Request::Verify, Expect::Fields(vec![("ok", number(1))])),
    ]
}
