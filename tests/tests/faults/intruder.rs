//! What a client of Redis tries whose ACL has `~user:*` alone: nothing of it may read or write another id.

use crate::workload::Dice;
use ::redis::{RedisResult, Value};

/// Number of attempts there are.
pub const ATTEMPTS: u64 = ATTEMPTS_EACH.len() as u64;

/// What an attempt may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// A refusal.
    BeRefused,
    /// A refusal, or what shows no other id.
    ShowOwn,
}

use May::{BeRefused, ShowOwn};

/// Words of attempts. `{own}` stands for an id of the client's own, `{other}` for one that it may not touch,
/// `{begin}` for a prefix of others, `~` for a blank in a word.
const ATTEMPTS_EACH: [(May, &str); 41] = [
    (BeRefused, "TANDEM.PUT {other} {stolen}"),
    (BeRefused, "TANDEM.GETORPUT {other} {stolen}"),
    (BeRefused, "TANDEM.MERGE {other} {stolen}"),
    (BeRefused, "TANDEM.GET {other}"),
    (BeRefused, "TANDEM.GET {other} PAYLOAD"),
    (BeRefused, "TANDEM.MGET {own} {other}"),
    (BeRefused, "TANDEM.EXISTS {own} {other}"),
    (BeRefused, "TANDEM.MEXISTS {own} {other}"),
    (BeRefused, "TANDEM.STATUS {other}"),
    (BeRefused, "TANDEM.REMOVE {other}"),
    (BeRefused, "TANDEM.MREMOVE 2 {own} {other}"),
    (BeRefused, "TANDEM.MPUT 2 {own} {stolen} {other} {stolen}"),
    (
        BeRefused,
        r#"TANDEM.BATCH [{"op":"put","id":"{own}","payload":{stolen}},{"op":"put","id":"{other}","payload":{stolen}}]"#,
    ),
    (BeRefused, r#"TANDEM.BATCH [{"op":"merge","id":"{other}","patch":{stolen}}]"#),
    (BeRefused, r#"TANDEM.BATCH [{"op":"delete","id":"{other}"}]"#),
    (BeRefused, r#"TANDEM.BATCH [{"op":"set_state","id":"{other}","state":"stolen"}]"#),
    (BeRefused, "TANDEM.STATE SET {other} stolen"),
    (BeRefused, "TANDEM.STATE MOVE {other} default stolen"),
    (BeRefused, "TANDEM.STATE HAS {other} default"),
    (BeRefused, "RENAME {own} {other}"),
    (BeRefused, "RENAME {other} {own}"),
    (BeRefused, "COPY {other} {own} REPLACE"),
    (BeRefused, "COPY {own} {other} REPLACE"),
    (BeRefused, "DUMP {other}"),
    (BeRefused, "DEL {other}"),
    (BeRefused, "PEXPIRE {other} 1"),
    (ShowOwn, "TANDEM.SCAN "),
    (ShowOwn, "TANDEM.SCAN {begin} LIMIT 10000"),
    (ShowOwn, "TANDEM.SCAN {begin} AFTER {begin}"),
    (ShowOwn, "TANDEM.STATE LIST default LIMIT 10000"),
    (ShowOwn, "TANDEM.STATE GET default LIMIT 10000"),
    (ShowOwn, "TANDEM.STATE GET state~1"),
    (ShowOwn, "TANDEM.MERKLE CHILDREN "),
    (ShowOwn, "TANDEM.MERKLE CHILDREN {begin}"),
    (ShowOwn, "TANDEM.MERKLE LEAVES  LIMIT 10000"),
    (ShowOwn, "TANDEM.MERKLE LEAVES {begin}"),
    (ShowOwn, "TANDEM.MERKLE DIRTY "),
    (ShowOwn, "TANDEM.MERKLE DIRTYPREFIXES "),
    (ShowOwn, "TANDEM.REMOVEPREFIX {begin}"),
    (ShowOwn, "TANDEM.REMOVEPREFIX {other}"),
    (ShowOwn, "TANDEM.MERKLE CLEAN "),
];

/// What an intruder writes, if it can.
pub const STOLEN: &str = r#"{"by":"intruder"}"#;

/// An attempt.
pub struct Attempt {
    /// The command.
    pub words: Vec<String>,
    may: May,
}

/// An attempt by its number, of a client; which ids it is about is up to the dice.
pub fn attempt(which: u64, own: &str, dice: &mut Dice) -> Attempt {
    let (may, form) = ATTEMPTS_EACH[which as usize];
    let other = match dice.below(3) {
        0 => format!("shared.{:02}", dice.below(10)),
        1 => format!("own.1.{:02}", dice.below(25)),
        _ => format!("own.0.{:02}", dice.below(25)),
    };
    let begin = if dice.below(2) == 0 { "shared" } else { "own" };
    let filled = |word: &str| {
        let word = word.replace("{other}", &other).replace("{own}", own).replace("{begin}", begin);
        word.replace("{stolen}", STOLEN).replace('~', " ")
    };
    Attempt { words: form.split(' ').map(filled).collect(), may }
}

/// Refusals that say nothing of the ids: the server takes no commands, or no writes.
const UNAVAILABLE: [&str; 6] = ["LOADING", "OOM", "READONLY", "BUSY", "MISCONF", "BACKPRESSURE"];

impl Attempt {
    /// What is wrong with an answer. Its connection may be lost; then nothing is.
    pub fn problem(&self, answer: &RedisResult<Value>) -> Option<String> {
        let is_wrong = match answer {
            Ok(Value::Int(number)) if self.may == ShowOwn => *number > 0,
            Ok(answer) => self.may == BeRefused || shows_others(answer),
            Err(error) => error.code().is_some_and(|code| {
                self.may == BeRefused && code != "NOPERM" && !UNAVAILABLE.contains(&code)
            }),
        };
        is_wrong.then(|| format!("{:?} was answered to who may see user:* alone: {answer:?}", self.words))
    }
}

fn shows_others(answer: &Value) -> bool {
    let is_other =
        |text: &str| ["shared", "own", "probe", "counter"].iter().any(|begin| text.starts_with(begin));
    match answer {
        Value::BulkString(bytes) => is_other(&String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) => is_other(text),
        Value::Array(values) => values.iter().any(shows_others),
        Value::Map(pairs) => pairs.iter().any(|(name, value)| shows_others(name) || shows_others(value)),
        _ => false,
    }
}
