//! Contents, audit objects and versions at their bounds and beyond: each is refused, or carried to the other side, and
//! stops nobody.

use crate::workload::{Effect, Stage, Verdicts};
use tandem_shared::content::canonicalize;

/// Number of bombs.
pub const KINDS: u64 = 24;
/// Ways to write each: a put, plain SQL or a batch, and a merge.
pub const WAYS: u64 = 3;

/// A bomb and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bomb {
    /// Its number.
    pub which: u64,
    /// 0: a put; 1: plain SQL in Postgres, a batch in Redis; 2: a merge.
    pub way: u64,
}

/// What is large.
pub enum Charge {
    /// The content.
    Content(String),
    /// The audit object.
    Audit(String),
    /// The version.
    Version(u64),
}

fn numbers(count: usize) -> String {
    format!("[{}]", vec!["1e131071"; count].join(","))
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

impl Bomb {
    /// What it is.
    pub fn charge(self) -> Charge {
        let content = |text: &str| Charge::Content(text.to_owned());
        let audit = |text: &str| Charge::Audit(text.to_owned());
        match self.which {
            0 => Charge::Content(numbers(1)),
            1 => Charge::Content(numbers(8)),
            2 => Charge::Content(numbers(40)),
            // 75 MiB as Postgres prints it, and more than it can print.
            3 => Charge::Content(numbers(600)),
            4 => Charge::Content(numbers(9000)),
            5 => content("[1e131072]"),
            6 => content("[-9.9e131071,1e-16383]"),
            7 => content("[1e-16384]"),
            8 => content("[1e999999999999999999999]"),
            9 => content("[1e-999999999999999999999]"),
            10 => content("[0e999999999999,1e2147483648]"),
            11 => Charge::Content(nested("[", "]", 128)),
            12 => Charge::Content(nested("[", "]", 129)),
            13 => Charge::Content(nested(r#"{"a":"#, "}", 128)),
            14 => Charge::Content(nested("[", "]", 20_000)),
            15 => content(r#"["\u0000"]"#),
            16 => content(r#"["\ud800"]"#),
            17 => audit(r#"{"n":1e1100}"#),
            18 => audit(r#"{"n":1e131071}"#),
            19 => audit(&format!(r#"{{"pad":"{}"}}"#, "x".repeat(1100))),
            20 => audit(r#"{"n":[1e1000,1e1000,1e1000,1e1000,1e1000]}"#),
            21 => Charge::Version(1 << 62),
            22 => Charge::Version((1 << 62) + 1),
            _ => Charge::Version(i64::MAX as u64),
        }
    }

    /// The merge patch or content that carries it.
    pub fn content(self) -> String {
        match self.charge() {
            Charge::Content(text) if self.way == 2 => format!(r#"{{"bomb":{text}}}"#),
            Charge::Content(text) => text,
            Charge::Audit(_) | Charge::Version(_) => format!(r#"{{"bomb":{}}}"#, self.which),
        }
    }

    /// Whether a side's answer to a put of it says something of the bomb, and of nothing else.
    pub fn is_comparable(self) -> bool {
        self.way == 0 && !matches!(self.charge(), Charge::Version(_))
    }

    /// What is under the id afterwards.
    pub fn effect(self) -> Effect {
        match canonicalize(self.content().as_bytes()) {
            Ok(canonical) if self.way != 2 => Effect::Content(canonical),
            _ => Effect::Depends,
        }
    }
}

/// Bombs that one side has taken and the other refused.
pub fn unequal_verdicts(stage: &Stage) -> Vec<String> {
    let verdicts = stage.verdicts.lock().expect("nobody panics with it");
    let is_unequal = |told: &Verdicts| {
        told.keys().any(|(_, is_taken)| *is_taken) && told.keys().any(|(_, is_taken)| !is_taken)
    };
    let unequal = verdicts.iter().filter(|(_, told)| is_unequal(told));
    unequal.map(|(bomb, told)| format!("{bomb} is refused here and taken there: {told:?}")).collect()
}
