//! Sockets that wait beside the process' latch: whoever waits for Redis still hears a cancel, a SIGTERM, a changed
//! configuration and what the server's other processes ask of it, and loses no reply by any of them.

use super::connection::{Broken, broken};
use crate::settings;
use pgrx::pg_sys;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A set of events to wait for: the latch, sockets, and the death of Postgres' main process.
pub struct Events {
    set: *mut pg_sys::WaitEventSet,
    room: usize,
}

impl Events {
    /// The latch and room for so many sockets.
    pub fn new(sockets: usize) -> Events {
        let room = sockets + 2;
        let (none, no_socket) = (std::ptr::null_mut(), pg_sys::PGINVALID_SOCKET);
        // SAFETY: MyLatch is this process' own latch. The set belongs to no resource owner and to the context that
        // lives as long as the process, and is freed when this is dropped.
        let set = unsafe {
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), room as i32);
            #[cfg(not(any(feature = "pg17", feature = "pg18")))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, room as i32);
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, no_socket, pg_sys::MyLatch, none);
            let no_latch = std::ptr::null_mut();
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_EXIT_ON_PM_DEATH, no_socket, no_latch, none);
            set
        };
        Events { set, room }
    }

    /// Adds a socket, which must stay open as long as this; returns the position for [`Events::change`].
    pub fn add(&mut self, socket: RawFd, events: u32, place: usize) -> i32 {
        let (no_latch, data) = (std::ptr::null_mut(), std::ptr::without_provenance_mut(place));
        // SAFETY: the set is alive, the socket is open, and `place` is a number, which nobody follows.
        unsafe { pg_sys::AddWaitEventToSet(self.set, events, socket, no_latch, data) }
    }

    /// Waits for other events of a socket.
    pub fn change(&mut self, position: i32, events: u32) {
        // SAFETY: the set is alive, and the position is one that it gave.
        unsafe { pg_sys::ModifyWaitEvent(self.set, position, events, std::ptr::null_mut()) }
    }

    /// Waits until something happens, at most so long. Returns the places of the sockets that it happened to. What the
    /// latch is set for is done: a cancel or a SIGTERM ends the caller.
    pub fn wait(&mut self, time: Duration) -> Vec<usize> {
        let mut events = vec![pg_sys::WaitEvent::default(); self.room];
        // Rounded up, so that what is left of a millisecond is not waited for in a busy loop.
        let milliseconds = time.as_micros().div_ceil(1000);
        // SAFETY: the set is alive and there is room for as many events as it has.
        let met = unsafe {
            let met = pg_sys::WaitEventSetWait(
                self.set,
                std::ffi::c_long::try_from(milliseconds).unwrap_or(std::ffi::c_long::MAX),
                events.as_mut_ptr(),
                self.room as i32,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            met
        };
        pgrx::check_for_interrupts!();
        let met = events.iter().take(usize::try_from(met).unwrap_or(0));
        let of_sockets = pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE;
        met.filter(|event| event.events & of_sockets != 0).map(|event| event.user_data.addr()).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: the set is alive; this is its only owner. Closed sockets leave it by themselves.
        unsafe { pg_sys::FreeWaitEventSet(self.set) }
    }
}

/// A socket that does not block, read and written as if it did.
pub struct Patient<S> {
    // Dropped before the socket.
    events: Events,
    position: i32,
    stream: S,
}

impl<S: AsRawFd> Patient<S> {
    /// `stream` does not block.
    fn new(stream: S) -> Patient<S> {
        let mut events = Events::new(1);
        let position = events.add(stream.as_raw_fd(), pg_sys::WL_SOCKET_READABLE, 0);
        Patient { events, position, stream }
    }

    /// Waits until the socket can be read, or written. Errors: in the time that the settings give it could not.
    fn wait(&mut self, event: u32) -> std::io::Result<()> {
        let timeout = settings::redis_timeout();
        let end = Instant::now() + timeout;
        self.events.change(self.position, event);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if !self.events.wait(left).is_empty() {
                return Ok(());
            }
            if left.is_zero() {
                let what = format!("no answer within {} ms (tandem.redis_timeout)", timeout.as_millis());
                return Err(Error::new(ErrorKind::TimedOut, what));
            }
        }
    }

    fn patiently<T>(
        &mut self,
        event: u32,
        mut attempt: impl FnMut(&mut S) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        loop {
            match attempt(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(event)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl<S: AsRawFd> AsRawFd for Patient<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl<S: Read + AsRawFd> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.patiently(pg_sys::WL_SOCKET_READABLE, |stream| stream.read(buffer))
    }
}

impl<S: Write + AsRawFd> Write for Patient<S> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.patiently(pg_sys::WL_SOCKET_WRITEABLE, |stream| stream.write(buffer))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.patiently(pg_sys::WL_SOCKET_WRITEABLE, Write::flush)
    }
}

/// Connects to a host, at the first of its addresses that answers.
pub fn connect_tcp(host: &str, port: u16) -> Result<Patient<Socket>, Broken> {
    let mut last = Broken("connecting: the host has no address".into());
    for address in resolve(host, port)? {
        let connected = connect(Domain::for_address(address), &address.into());
        let connected = connected.and_then(|socket| socket.stream.set_tcp_nodelay(true).map(|()| socket));
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => last = broken("connecting", error),
        }
    }
    Err(last)
}

/// Connects to a socket of this machine.
pub fn connect_unix(path: &Path) -> Result<Patient<Socket>, Broken> {
    let address = SockAddr::unix(path).map_err(|error| broken("connecting", error))?;
    connect(Domain::UNIX, &address).map_err(|error| broken("connecting", error))
}

fn connect(domain: Domain, address: &SockAddr) -> std::io::Result<Patient<Socket>> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => Ok(Patient::new(socket)),
        // What a socket of the network says that connects meanwhile; one of the machine never does.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            let mut socket = Patient::new(socket);
            socket.wait(pg_sys::WL_SOCKET_WRITEABLE)?;
            match socket.stream.take_error()? {
                None => Ok(socket),
                Some(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The addresses of a host. The system's resolver knows neither time-outs of ours nor latches, and so it works on a
/// thread of its own, which touches nothing of Postgres and gets none of its signals.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Broken> {
    const WHAT: &str = "resolving the host";
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |error: Error| broken(WHAT, error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let (answer, answered) = mpsc::channel();
    let host = host.to_owned();
    without_signals(|| {
        std::thread::Builder::new().name("tandem resolver".into()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // Whoever asked may be gone.
            let _ = answer.send(found);
            drop(theirs);
        })
    })
    .map_err(failed)?;
    // The other end is closed when the answer is there.
    Patient::new(ours).read(&mut [0]).map_err(failed)?;
    let found = answered.try_recv().map_err(|_| Broken(format!("{WHAT}: the resolver gave no answer")))?;
    found.map_err(failed)
}

/// Runs `work` with all signals blocked, as threads keep the mask of who begins them.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are plain values of this frame, and the mask becomes what it was; `work` does not unwind past
    // this but by a failed allocation, which ends the process.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed::<libc::sigset_t>(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let done = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        done
    }
}
