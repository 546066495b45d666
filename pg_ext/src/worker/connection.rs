//! A connection to Redis whose socket is ours, so that a worker can wait for a reply and its latch at once. Commands
//! and replies are encoded and parsed by the `redis` crate; every read and write has a time-out.

use super::tls::{self, TlsStream};
use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Parser, Value};
use std::io::{BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tandem_shared::Error;

/// Time to connect, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(10);

enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Tls(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

/// A connection.
pub struct Connection {
    reader: BufReader<Socket>,
    parser: Parser,
    /// Bytes sent and received, for reports.
    pub bytes: u64,
}

/// Why a conversation with Redis failed.
#[derive(Debug)]
pub struct Broken(pub String);

impl Broken {
    /// Whether Redis has no room. That passes, and only what is pushed has to wait for it.
    pub fn is_full(&self) -> bool {
        self.0.starts_with("BACKPRESSURE") || self.0.starts_with("OOM")
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn broken(what: &str, error: impl std::fmt::Display) -> Broken {
    Broken(format!("{what}: {error}"))
}

/// Checks a link's address without connecting. Errors: `INVALID`; the message does not repeat the address, which
/// may hold a password.
pub fn check_url(url: &str) -> Result<(), Error> {
    let refused =
        |problem: &str, remedy: &str| Err(Error::invalid("url", problem.to_owned(), remedy.to_owned()));
    match parse(url) {
        None => refused("is not a Redis URL", "give redis[s]://[user:password@]host:port[/database]"),
        Some((_, true)) if url.ends_with("#insecure") => {
            refused("asks for TLS without a check of the certificate", "set tandem.tls_ca_file instead")
        }
        Some(_) => Ok(()),
    }
}

/// The address in a URL, without user and password.
pub fn redis_name(url: &str) -> String {
    let Some((info, is_tls)) = parse(url) else { return "redis://".to_owned() };
    let scheme = if is_tls { "rediss" } else { "redis" };
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("{scheme}://{host}:{port}"),
        ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
        _ => format!("{scheme}://"),
    };
    format!("{address}/{}", info.redis_settings().db())
}

/// Reads an address, and whether it is spoken to by TLS: the client crate takes `rediss` only with a TLS of its own.
fn parse(url: &str) -> Option<(ConnectionInfo, bool)> {
    match url.strip_prefix("rediss://") {
        Some(rest) => Some((format!("redis://{rest}").into_connection_info().ok()?, true)),
        None => Some((url.into_connection_info().ok()?, false)),
    }
}

impl Connection {
    /// Connects, authenticates and selects the database of the URL.
    pub fn open(url: &str) -> Result<Connection, Broken> {
        let (info, is_tls) = parse(url).ok_or_else(|| Broken("the link's url is not valid".into()))?;
        let socket = match info.addr() {
            ConnectionAddr::Tcp(host, port) if is_tls => {
                Socket::Tls(Box::new(tls::wrap(host, connect_tcp(host, *port)?)?))
            }
            ConnectionAddr::Tcp(host, port) => Socket::Tcp(connect_tcp(host, *port)?),
            ConnectionAddr::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(|error| broken("connecting", error))?;
                stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| broken("connecting", error))?;
                stream.set_write_timeout(Some(TIMEOUT)).map_err(|error| broken("connecting", error))?;
                Socket::Unix(stream)
            }
            _ => return Err(Broken("the url is of a kind that is not supported".into())),
        };
        let mut connection = Connection { reader: BufReader::new(socket), parser: Parser::new(), bytes: 0 };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            connection.ask(auth.arg(password))?;
        }
        if settings.db() != 0 {
            connection.ask(redis::cmd("SELECT").arg(settings.db()))?;
        }
        if is_tls {
            // Reads what the server sends after the handshake, so that later a readable socket means a reply.
            connection.ask(&redis::cmd("PING"))?;
        }
        Ok(connection)
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> RawFd {
        match self.reader.get_ref() {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Tls(stream) => stream.sock.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// Sends a command without waiting for its reply.
    pub fn send(&mut self, command: &Cmd) -> Result<(), Broken> {
        let packed = command.get_packed_command();
        self.bytes += packed.len() as u64;
        let written = match self.reader.get_mut() {
            Socket::Tcp(stream) => stream.write_all(&packed),
            Socket::Tls(stream) => stream.write_all(&packed).and_then(|()| stream.flush()),
            Socket::Unix(stream) => stream.write_all(&packed),
        };
        written.map_err(|error| broken("writing", error))
    }

    /// Reads a reply; an error that Redis replies is one here too.
    pub fn receive(&mut self) -> Result<Value, Broken> {
        match self.receive_raw()? {
            Value::ServerError(error) => Err(Broken(reply_error(&error))),
            value => Ok(value),
        }
    }

    /// Reads a reply, which may be an error that Redis replies.
    pub fn receive_raw(&mut self) -> Result<Value, Broken> {
        let mut counted = Counted { reader: &mut self.reader, bytes: 0 };
        let value = self.parser.parse_value(&mut counted).map_err(|error| broken("reading", error));
        let bytes = counted.bytes;
        self.bytes += bytes;
        value
    }

    /// Sends a command and reads its reply.
    pub fn ask(&mut self, command: &Cmd) -> Result<Value, Broken> {
        self.send(command)?;
        self.receive()
    }
}

/// What Redis said, as `CODE message`.
pub fn reply_error(error: &redis::ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, Broken> {
    let addresses = (host, port).to_socket_addrs().map_err(|error| broken("resolving the host", error))?;
    let mut last = Broken("the host has no address".into());
    for address in addresses {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                let set = stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(TIMEOUT)))
                    .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)));
                return set.map(|()| stream).map_err(|error| broken("connecting", error));
            }
            Err(error) => last = broken("connecting", error),
        }
    }
    Err(last)
}

struct Counted<'a, R> {
    reader: &'a mut R,
    bytes: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
