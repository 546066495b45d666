//! What the figures were taken on.

use std::fs::read_to_string;
use std::process::Command;

/// Prints the machine and the versions.
pub fn print() {
    let processors = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&processors, "model name").unwrap_or("unknown processor");
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: u64 = field(&memory, "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("## Machine\n");
    println!("{model}, {count} cores, {} GiB of memory, Linux {}", memory_kib >> 20, kernel.trim());
    let postgres = tandem_tests::install::client_program("postgres").display().to_string();
    for program in ["redis-server", &postgres, "rustc"] {
        let output = Command::new(program).arg("--version").output();
        let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        println!("{}", version.unwrap_or_else(|error| format!("{program}: {error}")));
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}
