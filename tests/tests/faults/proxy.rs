//! A proxy for the link's connections: it can be told to cut them, close one way of them, swallow what they say,
//! delay it, and to go to another Redis from now on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tandem_tests::ports;

/// A way through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What the link says.
    ToRedis,
    /// What Redis answers.
    FromRedis,
}

/// The proxy; it ends with the value.
pub struct Proxy {
    port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    target: AtomicU16,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    shut: AtomicBool,
    open: Mutex<Vec<Pair>>,
}

/// A connection of the link and the one to Redis that belongs to it.
struct Pair {
    link: TcpStream,
    redis: TcpStream,
    swallow_to_redis: Arc<AtomicBool>,
    swallow_from_redis: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a free port and connects to `target` on this machine.
    pub fn start(target: u16) -> Proxy {
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port was free a moment ago");
        let inner = Arc::new(Inner {
            target: AtomicU16::new(target),
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&inner);
        std::thread::spawn(move || {
            for link in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(link) = link
                    && !accepting.shut.load(Ordering::SeqCst)
                {
                    // A Redis that is down shows as a connection that ends at once.
                    let _ = accepting.join(link);
                }
            }
        });
        Proxy { port, inner }
    }

    /// Its address as `tandem.link` takes it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends new connections to another port.
    pub fn retarget(&self, port: u16) {
        self.inner.target.store(port, Ordering::SeqCst);
    }

    /// Delays every piece of what is said from now on.
    pub fn delay(&self, time: Duration) {
        self.inner.delay_ms.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.inner.cut();
    }

    /// Cuts all connections, and those that come later, until it is opened again.
    pub fn shut(&self) {
        self.inner.shut.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets connections through again.
    pub fn open(&self) {
        self.inner.shut.store(false, Ordering::SeqCst);
    }

    /// Tells the far end of one way that no more will come, and leaves the other way open.
    pub fn half_close(&self, way: Way) {
        for pair in self.inner.open().iter() {
            let far = if way == Way::ToRedis { &pair.redis } else { &pair.link };
            let _ = far.shutdown(Shutdown::Write);
        }
    }

    /// Loses whatever goes one way through the connections that are open now, or through the newest of them alone,
    /// and says nothing of it.
    pub fn swallow(&self, way: Way, only_newest: bool) {
        let pairs = self.inner.open();
        for pair in pairs.iter().rev().take(if only_newest { 1 } else { usize::MAX }) {
            let swallow = if way == Way::ToRedis { &pair.swallow_to_redis } else { &pair.swallow_from_redis };
            swallow.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts, so that it sees that we are done.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Vec<Pair>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for pair in self.open().drain(..) {
            let _ = pair.link.shutdown(Shutdown::Both);
            let _ = pair.redis.shutdown(Shutdown::Both);
        }
    }

    fn join(self: &Arc<Inner>, link: TcpStream) -> std::io::Result<()> {
        let redis = TcpStream::connect(("127.0.0.1", self.target.load(Ordering::SeqCst)))?;
        link.set_nodelay(true)?;
        redis.set_nodelay(true)?;
        let pair = Pair {
            link: link.try_clone()?,
            redis: redis.try_clone()?,
            swallow_to_redis: Arc::default(),
            swallow_from_redis: Arc::default(),
        };
        self.pump(link.try_clone()?, redis.try_clone()?, &pair.swallow_to_redis);
        self.pump(redis, link, &pair.swallow_from_redis);
        self.open().push(pair);
        if self.shut.load(Ordering::SeqCst) {
            // It was shut between the look of who accepts and here.
            self.cut();
        }
        Ok(())
    }

    fn pump(self: &Arc<Inner>, mut from: TcpStream, mut to: TcpStream, swallow: &Arc<AtomicBool>) {
        let (inner, swallow) = (Arc::clone(self), Arc::clone(swallow));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if swallow.load(Ordering::SeqCst) {
                    continue;
                }
                std::thread::sleep(Duration::from_millis(inner.delay_ms.load(Ordering::SeqCst)));
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            if !swallow.load(Ordering::SeqCst) {
                let _ = to.shutdown(Shutdown::Write);
            }
        });
    }
}
