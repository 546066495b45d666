//! Short hands for SQL in tests.

use postgres::types::{FromSql, Type};
use postgres::{Client, Row};
use std::error::Error;

/// Runs a query without parameters. Panics with the query and the server's error.
pub fn rows(client: &mut Client, query: &str) -> Vec<Row> {
    client.query(query, &[]).unwrap_or_else(|error| panic!("{query}: {}", error_text(&error)))
}

/// The single value of a query without parameters.
pub fn value<T: for<'a> FromSql<'a>>(client: &mut Client, query: &str) -> T {
    let rows = rows(client, query);
    let row = rows.first().unwrap_or_else(|| panic!("{query}: no row"));
    row.try_get(0).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Runs statements. Panics with them and the server's error.
pub fn run(client: &mut Client, statements: &str) {
    client.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {}", error_text(&error)));
}

/// Runs statements that must be refused; the SQLSTATE and all the server said.
pub fn refused(client: &mut Client, statements: &str) -> (String, String) {
    match client.batch_execute(statements) {
        Ok(()) => panic!("{statements}: it was accepted"),
        Err(error) => (error.code().map_or("", |state| state.code()).to_owned(), error_text(&error)),
    }
}

/// The whole of a server's error: message, detail, hint and SQLSTATE.
pub fn error_text(error: &postgres::Error) -> String {
    let Some(server) = error.as_db_error() else { return error.to_string() };
    let detail = server.detail().unwrap_or("-");
    let hint = server.hint().unwrap_or("-");
    format!("{} (SQLSTATE {}, detail: {detail}, hint: {hint})", server.message(), server.code().code())
}

/// A `jsonb` value as the text it was sent as; numbers keep every digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonText(pub String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<JsonText, Box<dyn Error + Sync + Send>> {
        // The wire form of jsonb is a version byte, 1, and the text.
        let text = if *kind == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(JsonText(std::str::from_utf8(text)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB || *kind == Type::JSON
    }
}

/// A `uuid` value in its usual form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UuidText(pub String);

impl<'a> FromSql<'a> for UuidText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<UuidText, Box<dyn Error + Sync + Send>> {
        let digits = tandem_shared::digest::hex(raw);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default());
        Ok(UuidText(parts.join("-")))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}
