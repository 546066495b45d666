//! What the demo prints.

use std::io::Write;
use std::process::Command;
use std::time::Instant;
use tandem_tests::pair::{Pair, count_of_postgres, count_of_redis};

/// Numbers the steps and indents what belongs to one.
pub struct Stage {
    step: usize,
    steps: usize,
    start: Instant,
}

impl Stage {
    /// A demo of so many steps.
    pub fn new(steps: usize) -> Stage {
        Stage { step: 0, steps, start: Instant::now() }
    }

    /// Begins a step, with what it proves.
    pub fn step(&mut self, what: &str, proves: &str) {
        self.step += 1;
        let seconds = self.start.elapsed().as_secs();
        println!("\n[{}/{}] {what}  ({seconds} s)\n      proves: {proves}", self.step, self.steps);
    }

    /// One line of a step.
    pub fn say(&self, line: &str) {
        println!("      {line}");
        let _ = std::io::stdout().flush();
    }

    /// Waits until both sides hold `count` items under one root, and prints both sides.
    pub fn roots(&self, pair: &Pair, count: i64) {
        self.say("waiting for equal roots …");
        pair.settle_at(count);
        self.roots_now(pair);
        let (ours, theirs) = pair.roots();
        assert_eq!(ours, theirs, "the roots were equal and are not any more");
    }

    /// Prints both sides as they are.
    pub fn roots_now(&self, pair: &Pair) {
        let (ours, theirs) = pair.roots();
        let counts = [count_of_postgres(&mut pair.sql()), count_of_redis(&mut pair.commands())];
        self.say(&format!("Postgres  {:>6} items  root {}", counts[0], ours.as_deref().unwrap_or("(none)")));
        self.say(&format!(
            "Redis     {:>6} items  root {}",
            counts[1],
            theirs.as_deref().unwrap_or("(none)")
        ));
        self.say(if ours == theirs { "          equal" } else { "          DIFFERENT" });
    }
}

/// Runs redis-cli and prints the command and its output.
pub fn redis_cli(stage: &Stage, pair: &Pair, words: &[&str]) {
    let port = pair.redis.port().to_string();
    stage.say(&format!("$ redis-cli -p {port} {}", words.join(" ")));
    let mut command = Command::new("redis-cli");
    run(stage, command.args(["-p", &port, "--no-raw"]).args(words));
}

/// Runs psql and prints the command and its output.
pub fn psql(stage: &Stage, pair: &Pair, query: &str) {
    let words = pair.postgres.psql_words();
    stage.say(&format!("$ psql -p {} -c \"{query}\"", pair.postgres.port()));
    let mut command = Command::new(&words[0]);
    run(
        stage,
        command.args(&words[1..]).args(["-X", "-P", "pager=off", "-P", "footer=off", "-x", "-c", query]),
    );
}

fn run(stage: &Stage, command: &mut Command) {
    let output = command.output().expect("the client program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !line.trim().is_empty()).for_each(|line| stage.say(&format!("  {line}")));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "it answered: {text}{error}");
    assert!(!text.starts_with("(error)"), "it answered: {text}");
}
