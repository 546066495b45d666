//! A way to a Redis that refuses what a link pushes under some ids, whatever it is, with an error of the test's.

use crate::ports;
use redis::{Parser, Value};
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A server that goes between a link and its Redis. It ends with the process.
pub struct Picky {
    port: u16,
    is_picky: Arc<AtomicBool>,
    is_lying: Arc<AtomicBool>,
}

impl Picky {
    /// Stands before the Redis of this port, and answers `error` for revisions of ids that begin with `prefix`.
    pub fn before(target: u16, prefix: &'static str, error: &'static str) -> Picky {
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port was free a moment ago");
        let is_picky = Arc::new(AtomicBool::new(true));
        let is_lying = Arc::new(AtomicBool::new(false));
        let (picky, lying) = (Arc::clone(&is_picky), Arc::clone(&is_lying));
        std::thread::spawn(move || {
            for link in listener.incoming().flatten() {
                let (picky, lying) = (Arc::clone(&picky), Arc::clone(&lying));
                let Ok(redis) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                std::thread::spawn(move || serve(link, redis, (prefix, error), &picky, &lying));
            }
        });
        Picky { port, is_picky, is_lying }
    }

    /// The address for `tandem.link`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Gives fingerprints from now on that count one item too many.
    pub fn lie(&self) {
        self.is_lying.store(true, Ordering::SeqCst);
    }

    /// Refuses nothing from now on.
    pub fn relent(&self) {
        self.is_picky.store(false, Ordering::SeqCst);
    }
}

/// Carries commands, each with its reply, until an end closes.
fn serve(
    mut link: TcpStream,
    mut redis: TcpStream,
    (prefix, error): (&str, &str),
    picky: &AtomicBool,
    lying: &AtomicBool,
) {
    let (Ok(from_link), Ok(from_redis)) = (link.try_clone(), redis.try_clone()) else { return };
    let (mut from_link, mut from_redis) = (BufReader::new(from_link), BufReader::new(from_redis));
    let mut parser = Parser::new();
    while let Ok(Value::Array(words)) = parser.parse_value(&mut from_link) {
        let mut words: Vec<Vec<u8>> = words.into_iter().map(word).collect();
        let mut refused = Vec::new();
        let is_push = words.get(1).is_some_and(|verb| verb == b"PUSH");
        if is_push && picky.load(Ordering::SeqCst) {
            let pairs = words.split_off(3);
            for (place, pair) in pairs.chunks(2).enumerate() {
                if pair[0].starts_with(prefix.as_bytes()) {
                    refused.push(place);
                } else {
                    words.extend_from_slice(pair);
                }
            }
        }
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|word| bulk(&mut command, word));
        if redis.write_all(&command).is_err() {
            return;
        }
        let Ok(mut reply) = parser.parse_value(&mut from_redis) else { return };
        if let (Value::Array(answers), false) = (&mut reply, refused.is_empty()) {
            refused.iter().for_each(|place| answers.insert(*place, Value::SimpleString(format!("-{error}"))));
        }
        let is_fingerprint = words.get(1).is_some_and(|verb| verb == b"FINGERPRINT");
        if let (Value::Array(pairs), true) = (&mut reply, is_fingerprint && lying.load(Ordering::SeqCst)) {
            for pair in pairs {
                if let Value::Array(parts) = pair
                    && let Some(Value::Int(count)) = parts.first_mut()
                {
                    *count += 1;
                }
            }
        }
        let mut bytes = Vec::new();
        encode(&mut bytes, reply);
        if link.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn word(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        other => panic!("a command has words, not {other:?}"),
    }
}

fn bulk(bytes: &mut Vec<u8>, word: &[u8]) {
    bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
    bytes.extend_from_slice(word);
    bytes.extend_from_slice(b"\r\n");
}

/// Writes a reply as it came. A text that begins with a hyphen is an error.
fn encode(bytes: &mut Vec<u8>, reply: Value) {
    match reply {
        Value::Nil => bytes.extend_from_slice(b"$-1\r\n"),
        Value::Int(number) => bytes.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::BulkString(word) => bulk(bytes, &word),
        Value::Array(values) => {
            bytes.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
            values.into_iter().for_each(|value| encode(bytes, value));
        }
        Value::SimpleString(text) if text.starts_with('-') => {
            bytes.extend_from_slice(format!("{text}\r\n").as_bytes())
        }
        Value::SimpleString(text) => bytes.extend_from_slice(format!("+{text}\r\n").as_bytes()),
        Value::Okay => bytes.extend_from_slice(b"+OK\r\n"),
        Value::ServerError(error) => {
            let details = error.details().unwrap_or_default();
            bytes.extend_from_slice(format!("-{} {details}\r\n", error.code()).as_bytes());
        }
        other => panic!("the link does not ask for {other:?}"),
    }
}
