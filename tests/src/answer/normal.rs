//! Answers without what differs between two engines by nature: clocks, batch ids made up on the spot, statistics
//! of one tier and the tier's own name. What is replaced is checked first.

use super::Answer;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Batch ids that a caller gives begin so and stay as they are.
const GIVEN: &str = "00000000-";

/// What one engine has made up so far: batch ids are numbered by their first appearance, so that two engines
/// that stamp the same items with the same batch give the same answers.
#[derive(Debug, Default)]
pub struct Normal {
    batches: Vec<String>,
}

impl Normal {
    /// The answer in the form in which both engines' can be compared.
    pub fn of(&mut self, answer: Answer) -> Answer {
        match answer {
            Answer::List(entries) => Answer::List(entries.into_iter().map(|entry| self.of(entry)).collect()),
            Answer::Record(fields) => Answer::Record(
                fields
                    .into_iter()
                    .map(|(name, value)| {
                        let value = self.field(&name, value);
                        (name, value)
                    })
                    .collect(),
            ),
            other => other,
        }
    }

    fn field(&mut self, name: &str, value: Answer) -> Answer {
        match (name, value) {
            // Timestamps that a revision brought along stay.
            ("timestamp", Answer::Number(ms)) if is_now(ms) => Answer::text("now"),
            ("batch", Answer::Text(id)) => Answer::Text(self.batch(id)),
            ("audit", Answer::Text(audit)) => Answer::Text(self.audit(audit)),
            // Redis counts its reads by itself, Postgres when it is told.
            ("access_count", Answer::Number(0..)) => Answer::text("counted"),
            ("last_accessed", Answer::Nothing) => Answer::text("now or never"),
            ("last_accessed", Answer::Number(ms)) if is_now(ms) => Answer::text("now or never"),
            ("tiers", Answer::Text(tier)) if tier == "redis" || tier == "postgres" => Answer::text("here"),
            ("direction", Answer::Text(away)) if away == "to_redis" || away == "to_postgres" => {
                Answer::text("away")
            }
            (_, other) => self.of(other),
        }
    }

    fn batch(&mut self, id: String) -> String {
        if id.starts_with(GIVEN) {
            return id;
        }
        assert!(is_uuid(&id), "the batch id {id} is no UUID");
        let place = self.batches.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.batches.push(id);
            self.batches.len() - 1
        });
        format!("batch {}", place + 1)
    }

    fn audit(&mut self, audit: String) -> String {
        let Ok(Value::Object(mut members)) = serde_json::from_str(&audit) else { return audit };
        if let Some(Value::String(id)) = members.get("batch") {
            let named = self.batch(id.clone());
            members.insert("batch".to_owned(), named.into());
            return Value::Object(members).to_string();
        }
        audit
    }
}

/// 36 characters, hexadecimal digits in lower case and hyphens where they belong.
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let digits = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(digits)
}

fn is_now(unix_ms: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_millis(u64::try_from(unix_ms).unwrap_or_default());
    now.abs_diff(then) < Duration::from_secs(3600)
}
