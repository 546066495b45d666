//! A connection to Redis whose socket is ours, so that a worker can wait for a reply and its latch at once. Commands
//! and replies are encoded and parsed by the `redis` crate; every read and write has a time-out and hears interrupts.

use super::patient::{Patient, connect_tcp, connect_unix};
use super::tls::{self, TlsStream};
use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Parser, Value};
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use tandem_shared::Error;

enum Socket {
    Plain(Patient<socket2::Socket>),
    Tls(Box<TlsStream>),
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.read(buffer),
            Socket::Tls(stream) => stream.read(buffer),
        }
    }
}

/// A connection.
pub struct Connection {
    reader: BufReader<Socket>,
    parser: Parser,
    host: String,
    /// A part of a command or of a reply is under way. After an interrupt in the middle of one nobody knows what the
    /// next bytes answer.
    is_midway: bool,
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
        Connection::open_at(url, None)
    }

    /// The same at another address (host:port), as another node of the cluster that the URL names one of.
    pub fn open_at(url: &str, address: Option<&str>) -> Result<Connection, Broken> {
        let (info, is_tls) = parse(url).ok_or_else(|| Broken("the link's url is not valid".into()))?;
        let elsewhere = match address {
            Some(address) => {
                let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
                let port = port.parse().map_err(|error| broken("the port of a node", error))?;
                Some(ConnectionAddr::Tcp(host.to_owned(), port))
            }
            None => None,
        };
        let host = match elsewhere.as_ref().unwrap_or(info.addr()) {
            ConnectionAddr::Tcp(host, _) => host.clone(),
            _ => "localhost".to_owned(),
        };
        let socket = match elsewhere.as_ref().unwrap_or(info.addr()) {
            ConnectionAddr::Tcp(host, port) if is_tls => {
                Socket::Tls(Box::new(tls::wrap(host, connect_tcp(host, *port)?)?))
            }
            ConnectionAddr::Tcp(host, port) => Socket::Plain(connect_tcp(host, *port)?),
            ConnectionAddr::Unix(path) => Socket::Plain(connect_unix(path)?),
            _ => return Err(Broken("the url is of a kind that is not supported".into())),
        };
        let mut connection = Connection {
            reader: BufReader::new(socket),
            parser: Parser::new(),
            host,
            is_midway: false,
            bytes: 0,
        };
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

    /// The host that was connected to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.reader.get_ref(), Socket::Tls(_))
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> RawFd {
        match self.reader.get_ref() {
            Socket::Plain(stream) => stream.as_raw_fd(),
            Socket::Tls(stream) => stream.sock.as_raw_fd(),
        }
    }

    /// Does a part of the conversation. Errors: also if the part before was not finished.
    fn part<T>(
        &mut self,
        what: &str,
        part: impl FnOnce(&mut Connection) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        if self.is_midway {
            return Err(Broken(format!("{what}: the conversation was interrupted before")));
        }
        self.is_midway = true;
        let done = part(self)?;
        self.is_midway = false;
        Ok(done)
    }

    /// Sends a command without waiting for its reply.
    pub fn send(&mut self, command: &Cmd) -> Result<(), Broken> {
        let packed = command.get_packed_command();
        self.part("writing", |connection| {
            connection.bytes += packed.len() as u64;
            let written = match connection.reader.get_mut() {
                Socket::Plain(stream) => stream.write_all(&packed),
                Socket::Tls(stream) => stream.write_all(&packed).and_then(|()| stream.flush()),
            };
            written.map_err(|error| broken("writing", error))
        })
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
        self.part("reading", |connection| {
            let mut counted = Counted { reader: &mut connection.reader, bytes: 0 };
            let value = connection.parser.parse_value(&mut counted).map_err(|error| broken("reading", error));
            let bytes = counted.bytes;
            connection.bytes += bytes;
            value
        })
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
