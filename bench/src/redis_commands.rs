//! TANDEM.PUT and TANDEM.GET against SET and GET.

use crate::table::{begin, per_second, ratio, row};
use crate::{Size, payload};
use redis::Connection;
use std::process::Command;
use tandem_tests::redis::{Options, Redis};

const FILL_BATCH: usize = 1000;

/// Measures with redis-benchmark, 50 clients, pipelines of 16.
pub fn measure(size: Size) {
    let server = Redis::start(Options::in_memory());
    fill(&mut server.connect(), size.keys);
    // redis-benchmark puts another number into each place, so every write is a change.
    let content = payload("__rand_int__");
    let commands: [&[&str]; 5] = [
        &["SET", "bare:__rand_int__", &content],
        &["TANDEM.PUT", "item:__rand_int__", &content],
        &["GET", "bare:__rand_int__"],
        &["TANDEM.GET", "item:__rand_int__"],
        &["TANDEM.GET", "item:__rand_int__", "PAYLOAD"],
    ];
    let mut rates = [const { Vec::new() }; 5];
    for _ in 0..size.rounds {
        for (command, rates) in commands.iter().zip(&mut rates) {
            rates.push(benchmark(&server, size, command));
        }
    }
    let method = format!(
        "redis-benchmark, 50 clients, pipeline 16, 250 bytes of JSON that changes with every write, {} keys, no \
         persistence; {} rounds in turn of {} requests each; medians",
        size.keys, size.rounds, size.requests
    );
    begin("Redis commands", &method, &["command", "requests/s", "bare", "requests/s", "ratio (range)"]);
    let names = ["SET", "TANDEM.PUT", "GET", "TANDEM.GET", "TANDEM.GET … PAYLOAD"];
    for (ours, bare) in [(1, 0), (3, 2), (4, 2)] {
        let ratio = ratio(&rates[ours], &rates[bare]);
        row(&[&names[ours], &per_second(&rates[ours]), &names[bare], &per_second(&rates[bare]), &ratio]);
    }
}

/// Every key that redis-benchmark may pick: twelve digits.
fn fill(connection: &mut Connection, keys: usize) {
    let numbers: Vec<usize> = (0..keys).collect();
    for batch in numbers.chunks(FILL_BATCH) {
        let mut pipeline = redis::pipe();
        for number in batch {
            let content = payload(&format!("{number:012}"));
            pipeline.cmd("SET").arg(format!("bare:{number:012}")).arg(&content).ignore();
            pipeline.cmd("TANDEM.PUT").arg(format!("item:{number:012}")).arg(&content).ignore();
        }
        pipeline.query::<()>(connection).unwrap_or_else(|error| panic!("filling Redis: {error}"));
    }
}

fn benchmark(server: &Redis, size: Size, command: &[&str]) -> f64 {
    let (port, requests, keys) =
        (server.port().to_string(), size.requests.to_string(), size.keys.to_string());
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "-n", &requests, "-r", &keys, "-P", "16", "--csv"])
        .args(command)
        .output()
        .expect("redis-benchmark starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!complaint.contains("rror"), "{}: {complaint}", command[0]);
    // "command",requests per second and six latencies; the command may hold what parts the fields.
    let line = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    let rate = line.rsplit("\",\"").nth(6).and_then(|rate| rate.parse().ok());
    rate.unwrap_or_else(|| panic!("redis-benchmark {}: {text}{complaint}", command[0]))
}
