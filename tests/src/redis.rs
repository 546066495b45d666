//! A private Redis with the module, on a free port.

use crate::guard::Guard;
use crate::install::redis_module;
use crate::ports;
use crate::scratch::{Scratch, tail};
use crate::wait::{self, DEADLINE};
use redis::{Cmd, Connection, RedisResult, ToRedisArgs, Value};
use rustix::process::Signal;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether every acknowledged write is on disk (`appendonly yes`, `appendfsync always`).
    pub durable: bool,
    /// More words for its command line, as `--maxmemory 100mb`.
    pub settings: Vec<String>,
}

impl Options {
    /// A server that keeps nothing on disk.
    pub fn in_memory() -> Options {
        Options { durable: false, settings: Vec::new() }
    }

    /// A server that keeps every acknowledged write.
    pub fn durable() -> Options {
        Options { durable: true, settings: Vec::new() }
    }

    /// The same with one more setting.
    pub fn with(mut self, name: &str, value: &str) -> Options {
        self.settings.extend([format!("--{name}"), value.to_owned()]);
        self
    }
}

/// A running server; it is gone when this is dropped or when the process ends.
pub struct Redis {
    guard: Option<Guard>,
    scratch: Scratch,
    port: u16,
    options: Options,
}

impl Redis {
    /// Starts a server.
    pub fn start(options: Options) -> Redis {
        let mut server = Redis { guard: None, scratch: Scratch::new("redis"), port: ports::free(), options };
        server.launch();
        server
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as `tandem.link` takes it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its directory: RDB, AOF and log.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Where SAVE writes to.
    pub fn rdb(&self) -> PathBuf {
        self.directory().join("dump.rdb")
    }

    /// What the next start is done with.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// A new connection, protocol 2.
    pub fn connect(&self) -> Connection {
        self.connect_to("")
    }

    /// A new connection, protocol 3.
    pub fn connect_resp3(&self) -> Connection {
        self.connect_to("/?protocol=resp3")
    }

    fn connect_to(&self, suffix: &str) -> Connection {
        self.try_connect(suffix)
            .unwrap_or_else(|error| panic!("connecting to Redis: {error}\n{}", self.log_tail()))
    }

    fn try_connect(&self, suffix: &str) -> RedisResult<Connection> {
        let client = redis::Client::open(format!("{}{suffix}", self.url()))?;
        client.get_connection_with_timeout(Duration::from_secs(5))
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Kills the server, as a power cut would.
    pub fn kill_hard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.signal(Signal::KILL);
            guard.reap();
        }
    }

    /// Whether it was started and neither stopped nor killed.
    pub fn is_running(&self) -> bool {
        self.guard.is_some()
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(guard) = &self.guard {
            guard.signal(signal);
        }
    }

    /// Stops the server in order, without saving.
    pub fn stop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        let _ = send(&mut self.connect(), &["SHUTDOWN", "NOSAVE"]);
        wait::until_or(DEADLINE, || guard.ended().is_some(), || format!("Redis stops; {}", self.log_tail()));
    }

    /// Starts it again, on the same port and data, after a stop or a kill.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Leaves the server running when we end, and says how to stop it.
    pub fn keep(mut self) -> String {
        if let Some(guard) = self.guard.take() {
            guard.keep();
        }
        self.scratch.keep();
        format!("redis-cli -p {} shutdown nosave; rm -rf {}", self.port, self.directory().display())
    }

    fn log(&self) -> PathBuf {
        self.directory().join("redis.log")
    }

    fn launch(&mut self) {
        let log = File::options().append(true).create(true).open(self.log()).expect("a log of ours");
        let mut command = Command::new("redis-server");
        command.args(self.words());
        command.stdout(log.try_clone().expect("a file handle")).stderr(log);
        let mut guard = Guard::spawn(&mut command);
        wait::until_or(
            DEADLINE,
            || {
                assert!(guard.ended().is_none(), "redis-server ended; {}", self.log_tail());
                // While it loads its data it accepts connections and answers LOADING.
                let Ok(mut connection) = self.try_connect("") else { return false };
                send(&mut connection, &["PING"]).is_ok()
            },
            || format!("Redis answers; {}", self.log_tail()),
        );
        self.guard = Some(guard);
    }

    fn words(&self) -> Vec<String> {
        let port = self.port.to_string();
        let directory = self.directory().display().to_string();
        let module = redis_module().display().to_string();
        let append = if self.options.durable { "yes" } else { "no" };
        let fixed = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--dir", &directory],
            ["--save", ""],
            ["--appendonly", append],
            ["--appendfsync", "always"],
            ["--enable-debug-command", "yes"],
            ["--loadmodule", &module],
        ];
        let mut words: Vec<String> = fixed.as_flattened().iter().map(|word| (*word).to_owned()).collect();
        words.extend(self.options.settings.iter().cloned());
        words
    }
}

/// Sends a command, given as words, and returns its reply or its refusal.
pub fn send<A: ToRedisArgs>(connection: &mut Connection, words: &[A]) -> RedisResult<Value> {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command.query(connection)
}

/// Sends a command that must be answered. Panics with the command and the error.
pub fn ask(connection: &mut Connection, words: &[&str]) -> Value {
    send(connection, words).unwrap_or_else(|error| panic!("{}: {error}", words.join(" ")))
}

/// Sends a command whose answer is a number.
pub fn ask_number(connection: &mut Connection, words: &[&str]) -> i64 {
    match ask(connection, words) {
        Value::Int(number) => number,
        other => panic!("{}: {other:?} is not a number", words.join(" ")),
    }
}

/// Sends a command whose answer is text or nothing.
pub fn ask_text(connection: &mut Connection, words: &[&str]) -> Option<String> {
    match ask(connection, words) {
        Value::Nil => None,
        Value::Okay => Some("OK".to_owned()),
        Value::SimpleString(text) => Some(text),
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Value::VerbatimString { text, .. } => Some(text),
        other => panic!("{}: {other:?} is not text", words.join(" ")),
    }
}
