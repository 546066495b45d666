//! What an engine answered, in a form in which the answers of both can be compared.

mod normal;

pub use normal::Normal;

use crate::request::Shape;
use crate::sql::{JsonText, UuidText, error_text};
use postgres::Row;
use postgres::types::Type;
use redis::{RedisResult, Value};

/// An answer or a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nil, NULL, or no row where one was asked for.
    Nothing,
    /// A number or a truth value.
    Number(i64),
    /// Text; content that is not UTF-8 comes as `hex:…`.
    Text(String),
    /// Several answers.
    List(Vec<Answer>),
    /// Named fields in their order.
    Record(Vec<(String, Answer)>),
    /// An error: its code word and its message.
    Refused {
        /// The code word of DESIGN section 9, or what came instead.
        code: String,
        /// The message without the code.
        message: String,
    },
}

impl Answer {
    /// A refusal.
    pub fn refused(code: &str, message: &str) -> Answer {
        Answer::Refused { code: code.to_owned(), message: message.to_owned() }
    }

    /// Text.
    pub fn text(text: &str) -> Answer {
        Answer::Text(text.to_owned())
    }

    /// Bytes, as text where they are.
    pub fn bytes(bytes: &[u8]) -> Answer {
        match std::str::from_utf8(bytes) {
            Ok(text) => Answer::text(text),
            Err(_) => Answer::Text(format!("hex:{}", tandem_shared::digest::hex(bytes))),
        }
    }

    /// A field of a record.
    pub fn field(&self, name: &str) -> Option<&Answer> {
        let Answer::Record(fields) = self else { return None };
        fields.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value)
    }

    /// A field of a record that must be there and be text.
    pub fn text_field(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Answer::Text(text)) => text,
            other => panic!("{name} is {other:?} in {self:?}, not text"),
        }
    }
}

/// Reads what Redis replied to a request whose answer has this shape.
pub fn of_redis(shape: Shape, reply: RedisResult<Value>) -> Answer {
    match reply {
        Ok(value) => shaped(shape, value),
        Err(error) => match error.code() {
            Some(code) => Answer::refused(code, error.detail().unwrap_or_default()),
            None => Answer::refused("?", &error.to_string()),
        },
    }
}

fn shaped(shape: Shape, value: Value) -> Answer {
    match (shape, value) {
        (_, Value::ServerError(error)) => Answer::refused(error.code(), error.details().unwrap_or_default()),
        (Shape::Record, Value::Array(words)) => record(words),
        (Shape::Records, Value::Array(entries)) => {
            Answer::List(entries.into_iter().map(|entry| shaped(Shape::Record, entry)).collect())
        }
        (shape, Value::Array(entries)) => {
            Answer::List(entries.into_iter().map(|entry| shaped(shape, entry)).collect())
        }
        (_, Value::Map(fields)) => Answer::Record(
            fields.into_iter().map(|(name, value)| (word(name), shaped(Shape::Plain, value))).collect(),
        ),
        (_, Value::Nil) => Answer::Nothing,
        (_, Value::Int(number)) => Answer::Number(number),
        (_, Value::Boolean(truth)) => Answer::Number(truth.into()),
        (_, Value::BulkString(bytes)) => Answer::bytes(&bytes),
        (_, Value::SimpleString(text) | Value::VerbatimString { text, .. }) => Answer::Text(text),
        (_, Value::Okay) => Answer::text("OK"),
        (_, other) => panic!("a reply of a kind no command gives: {other:?}"),
    }
}

/// Protocol 2 has no maps: names and values alternate.
fn record(words: Vec<Value>) -> Answer {
    let mut fields = Vec::new();
    let mut words = words.into_iter();
    while let Some(name) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{name:?} has no value after it"));
        fields.push((word(name), shaped(Shape::Plain, value)));
    }
    Answer::Record(fields)
}

fn word(value: Value) -> String {
    match shaped(Shape::Plain, value) {
        Answer::Text(text) => text,
        other => panic!("{other:?} is not the name of a field"),
    }
}

/// Reads what Postgres returned for a request whose answer has this shape.
pub fn of_sql(shape: Shape, result: Result<Vec<Row>, postgres::Error>) -> Answer {
    let rows = match result {
        Ok(rows) => rows,
        Err(error) => return refusal(&error),
    };
    let mut answers = rows.iter().map(|row| match shape {
        Shape::Record | Shape::Records => row_record(row),
        Shape::Plain | Shape::Values => column(row, 0),
    });
    match shape {
        Shape::Records => Answer::List(answers.collect()),
        Shape::Values => {
            let mut values: Vec<Answer> = answers.collect();
            let one_array = matches!(values.as_slice(), [Answer::List(_)]);
            if one_array { values.remove(0) } else { Answer::List(values) }
        }
        Shape::Plain | Shape::Record => answers.next().unwrap_or(Answer::Nothing),
    }
}

/// The code word stands in the error's DETAIL. What Postgres itself refused has none; its SQLSTATE stands for it.
fn refusal(error: &postgres::Error) -> Answer {
    let Some(server) = error.as_db_error() else { return Answer::refused("?", &error_text(error)) };
    let code = server.detail().and_then(|detail| detail.lines().find_map(|line| line.strip_prefix("code ")));
    match code {
        Some(code) => {
            let expected = sqlstate(code);
            assert_eq!(server.code().code(), expected, "SQLSTATE of {code}: {}", server.message());
            Answer::refused(code, server.message())
        }
        None => Answer::refused(server.code().code(), server.message()),
    }
}

/// The SQLSTATE that docs/surface.md promises for a code word.
fn sqlstate(code: &str) -> &'static str {
    match code {
        "INVALID" => "22023",
        "BADJSON" => "22P02",
        "TOOLARGE" => "54000",
        "NOTFOUND" => "P0002",
        "EXISTS" => "23505",
        "CONFLICT" => "40001",
        "STALE" => "55000",
        "SCHEMA" => "23514",
        "AMBIGUOUS" => "21000",
        "SEALED" => "25006",
        "CORRUPT" => "XX001",
        "BACKPRESSURE" => "53400",
        "TIMEOUT" => "57014",
        "NOLINK" => "08003",
        other => panic!("{other} is no code word of DESIGN section 9"),
    }
}

/// A row as a record. A row of NULLs stands for an absent item, and the two columns for content are one field.
fn row_record(row: &Row) -> Answer {
    let mut fields = Vec::new();
    for (index, described) in row.columns().iter().enumerate() {
        let value = column(row, index);
        match described.name() {
            "payload_blob" if value == Answer::Nothing => {}
            "payload_blob" => set(&mut fields, "payload", value),
            name => fields.push((name.to_owned(), value)),
        }
    }
    if fields.iter().all(|(_, value)| *value == Answer::Nothing) {
        return Answer::Nothing;
    }
    Answer::Record(fields)
}

fn set(fields: &mut [(String, Answer)], name: &str, value: Answer) {
    let field = fields.iter_mut().find(|(candidate, _)| candidate == name);
    field.unwrap_or_else(|| panic!("there is no field {name}")).1 = value;
}

fn column(row: &Row, index: usize) -> Answer {
    let kind = row.columns()[index].type_();
    let answer = match *kind {
        Type::BOOL => row.get::<_, Option<bool>>(index).map(|truth| Answer::Number(truth.into())),
        Type::INT4 => row.get::<_, Option<i32>>(index).map(|number| Answer::Number(number.into())),
        Type::INT8 => row.get::<_, Option<i64>>(index).map(Answer::Number),
        Type::TEXT => row.get::<_, Option<String>>(index).map(Answer::Text),
        Type::UUID => row.get::<_, Option<UuidText>>(index).map(|UuidText(text)| Answer::Text(text)),
        Type::BYTEA => row.get::<_, Option<Vec<u8>>>(index).map(|bytes| Answer::bytes(&bytes)),
        Type::JSONB => row.get::<_, Option<JsonText>>(index).map(|JsonText(text)| canonical(&text)),
        Type::BOOL_ARRAY => row.get::<_, Option<Vec<bool>>>(index).map(|truths| {
            Answer::List(truths.into_iter().map(|truth| Answer::Number(truth.into())).collect())
        }),
        Type::TEXT_ARRAY => row
            .get::<_, Option<Vec<String>>>(index)
            .map(|texts| Answer::List(texts.into_iter().map(Answer::Text).collect())),
        ref other => {
            panic!("column {} has type {other}, which no function returns", row.columns()[index].name())
        }
    };
    answer.unwrap_or(Answer::Nothing)
}

/// `jsonb` writes a form of its own; what users of Redis see is the canonical one.
fn canonical(text: &str) -> Answer {
    let bytes = tandem_shared::content::canonicalize(text.as_bytes())
        .unwrap_or_else(|error| panic!("jsonb holds what is not canonical JSON: {error}: {text}"));
    Answer::bytes(&bytes)
}
