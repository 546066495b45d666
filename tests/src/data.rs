//! Real data: the code lists of Debian's package iso-codes.

use serde_json::Value;
use std::path::Path;

const FOLDER: &str = "/usr/share/iso-codes/json";

/// An item to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Its JSON.
    pub payload: String,
}

/// The languages of ISO 639-3, about 7,900, as `iso.639-3.deu` below a prefix.
pub fn languages(prefix: &str) -> Vec<Item> {
    list("639-3", "alpha_3", &format!("{prefix}iso.639-3"))
}

/// The country subdivisions of ISO 3166-2, about 5,100, as `iso.3166-2.DE.BY`.
pub fn subdivisions() -> Vec<Item> {
    list("3166-2", "code", "iso.3166-2")
}

fn list(name: &str, key: &str, path: &str) -> Vec<Item> {
    let file = Path::new(FOLDER).join(format!("iso_{name}.json"));
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; `make setup` installs it", file.display()));
    let document: Value = serde_json::from_str(&text).expect("Debian's code lists are JSON");
    let entries = document[name].as_array().expect("a code list is an array");
    entries
        .iter()
        .map(|entry| {
            let code = entry[key].as_str().expect("an entry has a code");
            Item { id: format!("{path}.{}", code.replace('-', ".")), payload: entry.to_string() }
        })
        .collect()
}
