//! Free ports on the loopback address.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below the range that Linux gives to outgoing connections. A server that is killed and started again must
/// find its port free, and a client that dials a dead server on a port of that range can even end up connected
/// to itself.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on. Each process begins elsewhere, so that suites can run side by side.
pub fn free() -> u16 {
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + (std::process::id().wrapping_mul(97).wrapping_add(step)) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on, of {COUNT}");
}
