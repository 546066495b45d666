//! Another Postgres with tandem as a side of a check. It is asked through the functions `tandem.peer_…` there.
//!
//! The client runs on a loop of our own on this thread: a backend must not have others, and an interrupt is to end it.

use super::connection::{Broken, broken};
use super::patient::resolve;
use super::peer::{Answer, Named, Peer, Refusal};
use super::tls;
use crate::store::Page;
use std::collections::HashSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tandem_shared::codec::{Source, decode, encode};
use tandem_shared::decide::Outcome;
use tandem_shared::id::Range;
use tandem_shared::index::Part;
use tandem_shared::reconcile::{Entry, Replica};
use tandem_shared::{Digest, Error, Fingerprint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Time to connect to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the other server may work on one statement.
const STATEMENT: Duration = Duration::from_secs(60);
/// How long an answer may take, the network's time included.
const ANSWER: Duration = Duration::from_secs(75);
/// How often an interrupt is looked for while an answer is awaited.
const LOOK: Duration = Duration::from_millis(100);
/// Port of a URL that names none.
const PORT: u16 = 5432;

/// A Postgres with tandem.
pub struct Database {
    runtime: Runtime,
    client: Client,
    bytes: Arc<AtomicU64>,
}

/// Whether a URL is one of a Postgres.
pub fn is_postgres(url: &str) -> bool {
    url.starts_with("postgresql://") || url.starts_with("postgres://")
}

/// Reads the URL of a Postgres. The certificate of the server is always checked where there is TLS, and so is its
/// name, so the two words of libpq that ask for it mean no more than `require`. Errors: `INVALID`, without the URL,
/// which may hold a password.
pub fn config_of(url: &str) -> Result<Config, Error> {
    let url = ["verify-ca", "verify-full"]
        .iter()
        .fold(url.to_owned(), |url, word| url.replace(&format!("sslmode={word}"), "sslmode=require"));
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        Error::invalid(
            "url",
            format!("is not one of a Postgres: {}", cause(&error)),
            "give postgresql://[user[:password]@]host[:port][/database][?sslmode=require]",
        )
    })?;
    if config.get_hosts().is_empty() {
        return Err(Error::invalid("url", "names no host", "give postgresql://host[:port]/database"));
    }
    let limit = format!("-c statement_timeout={}", STATEMENT.as_millis());
    let options = config.get_options().map_or(limit.clone(), |options| format!("{options} {limit}"));
    config.options(&options).application_name("tandem");
    Ok(config)
}

/// A host of a URL and its port.
fn hosts(config: &Config) -> impl Iterator<Item = (&Host, u16)> {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
    config.get_hosts().iter().enumerate().map(move |(at, host)| (host, port(at)))
}

/// The address in a URL, without user, password and options.
pub fn name_of(config: &Config) -> String {
    let host = |(host, port): (&Host, u16)| match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => format!("{}:{port}", path.display()),
    };
    let hosts: Vec<String> = hosts(config).map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgresql://{}/{database}", hosts.join(","))
}

/// What an error of the client says, with what the server says to do about it.
fn cause(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    if let Some(server) = error.as_db_error() {
        let remedy = match server.code().code() {
            "3F000" | "42883" => Some("CREATE EXTENSION tandem there, of this version"),
            "28P01" | "28000" => Some("give the url a user that may log in there, and its password"),
            "42501" => Some("give the url a user who is in tandem_writer there"),
            _ => server.hint(),
        };
        return match remedy {
            Some(remedy) => format!("{}; {remedy}", server.message()),
            None => server.message().to_owned(),
        };
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Runs the loop until `work` has ended, looking for interrupts now and then.
fn run<T>(
    runtime: &Runtime,
    time: Duration,
    work: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
    let mut work = pin!(work);
    let end = Instant::now() + time;
    loop {
        let step = runtime.block_on(async { tokio::time::timeout(LOOK, work.as_mut()).await });
        if let Ok(done) = step {
            return done;
        }
        pgrx::check_for_interrupts!();
        if Instant::now() >= end {
            return Err(Broken(format!("the other Postgres did not answer within {} s", time.as_secs())));
        }
    }
}

impl Database {
    /// Connects to the first of its hosts that answers.
    pub fn open(config: &Config) -> Result<Database, Broken> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken("connecting", error))?;
        let bytes = Arc::new(AtomicU64::new(0));
        let mut last = Broken("the url names no host".into());
        for (host, port) in hosts(config) {
            match run(&runtime, CONNECT, connect(config, host, port, &bytes)) {
                Ok(client) => return Ok(Database { runtime, client, bytes }),
                Err(error) => last = broken("connecting to the other Postgres", error),
            }
        }
        Err(last)
    }

    fn rows(&self, query: &str, args: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Broken> {
        run(&self.runtime, ANSWER, async {
            self.client.query(query, args).await.map_err(|error| Broken(cause(&error)))
        })
    }
}

async fn connect(config: &Config, host: &Host, port: u16, bytes: &Arc<AtomicU64>) -> Result<Client, Broken> {
    match host {
        Host::Unix(path) => {
            let path = path.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(|error| broken("connecting", error))?;
            // There is nobody between two ends of such a socket.
            let config = config.clone().ssl_mode(SslMode::Disable).clone();
            begin(&config, Counted { stream, bytes: Arc::clone(bytes) }, NoTls).await
        }
        Host::Tcp(name) => {
            // Looked up here, as tokio would do it on a thread that gets the server's signals.
            let addresses = resolve(name, port)?;
            let stream = TcpStream::connect(addresses.as_slice())
                .await
                .map_err(|error| broken("connecting", error))?;
            stream.set_nodelay(true).map_err(|error| broken("connecting", error))?;
            let stream = Counted { stream, bytes: Arc::clone(bytes) };
            let tls = match (config.get_ssl_mode(), tls::config()) {
                (SslMode::Disable, _) | (SslMode::Prefer, Err(_)) => {
                    return begin(config, stream, NoTls).await;
                }
                (_, tls) => tls?,
            };
            let mut tls = MakeRustlsConnect::new(tls);
            let tls = MakeTlsConnect::<Counted<TcpStream>>::make_tls_connect(&mut tls, name);
            begin(config, stream, tls.map_err(|error| broken("beginning TLS", error))?).await
        }
    }
}

async fn begin<S, T>(config: &Config, stream: S, tls: T) -> Result<Client, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: tokio_postgres::tls::TlsConnect<S>,
    T::Stream: Send + 'static,
{
    let (client, connection) =
        config.connect_raw(stream, tls).await.map_err(|error| Broken(cause(&error)))?;
    // What goes wrong with it, the requests tell.
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

/// A stream that counts what goes through it.
struct Counted<S> {
    stream: S,
    bytes: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.bytes.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.bytes.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A column of a row.
fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Broken> {
    row.try_get(column).map_err(|error| broken("the other Postgres answers in another form", error))
}

fn bounds(ranges: &[Range]) -> (Vec<&str>, Vec<Option<&str>>) {
    ranges.iter().map(|range| (range.start.as_str(), range.end.as_deref())).unzip()
}

/// Puts what rows say of their places (from 1) in order.
fn by_place<T>(
    count: usize,
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, Broken>,
) -> Result<Vec<Vec<T>>, Broken> {
    let mut places: Vec<Vec<T>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for row in rows {
        let place = usize::try_from(get::<i64>(row, 0)?).unwrap_or(0);
        match place.checked_sub(1).and_then(|place| places.get_mut(place)) {
            Some(found) => found.push(read(row)?),
            None => {
                return Err(Broken("the other Postgres answers of a range that was not asked for".into()));
            }
        }
    }
    Ok(places)
}

fn fingerprint(row: &Row, column: usize) -> Result<Fingerprint, Broken> {
    let count = get::<i64>(row, column)? as u64;
    Fingerprint::from_parts(count, get(row, column + 1)?).map_err(|error| Broken(error.to_string()))
}

impl Replica for Database {
    type Error = Broken;

    fn fingerprints(&mut self, ranges: &[Range]) -> Result<Vec<Fingerprint>, Broken> {
        let (starts, ends) = bounds(ranges);
        let rows = self.rows("SELECT * FROM tandem.peer_fingerprints($1, $2)", &[&starts, &ends])?;
        let sums = by_place(ranges.len(), &rows, |row| fingerprint(row, 1))?;
        // A place without a row would pass for an empty range.
        Ok(sums.into_iter().filter_map(|sums| sums.first().copied()).collect())
    }

    fn splits(&mut self, ranges: &[Range], parts: usize) -> Result<Vec<Vec<Part>>, Broken> {
        let (starts, ends) = bounds(ranges);
        let parts = i64::try_from(parts).unwrap_or(i64::MAX);
        let rows = self.rows("SELECT * FROM tandem.peer_splits($1, $2, $3)", &[&parts, &starts, &ends])?;
        by_place(ranges.len(), &rows, |row| {
            let range = Range::new(get::<String>(row, 1)?, get::<Option<String>>(row, 2)?);
            Ok(Part { range, fingerprint: fingerprint(row, 3)? })
        })
    }

    fn lists(&mut self, ranges: &[Range], limit_each: usize) -> Result<Vec<Vec<Entry>>, Broken> {
        let (starts, ends) = bounds(ranges);
        let limit = i64::try_from(limit_each).unwrap_or(i64::MAX);
        let rows = self.rows("SELECT * FROM tandem.peer_lists($1, $2, $3)", &[&limit, &starts, &ends])?;
        by_place(ranges.len(), &rows, |row| {
            let digest = Digest::from_slice(get(row, 3)?).map_err(|error| Broken(error.to_string()))?;
            Ok(Entry { id: get(row, 1)?, version: get::<i64>(row, 2)? as u64, digest })
        })
    }
}

/// Bytes of revisions sent in one statement.
const JOIN_BYTES_MAX: usize = 4 << 20;

impl Peer for Database {
    fn has_key(&mut self, check: &str) -> Result<bool, Broken> {
        let rows = self.rows("SELECT tandem.peer_has_key($1)", &[&check])?;
        rows.first().map_or(Ok(false), |row| get(row, 0))
    }

    fn fetch(&mut self, ids: &[String]) -> Result<Page, Broken> {
        let mut page = Page::default();
        for row in self.rows("SELECT * FROM tandem.peer_fetch($1)", &[&ids])? {
            let id = get(&row, 0)?;
            match (get::<Option<&[u8]>>(&row, 1)?, get::<Option<String>>(&row, 2)?) {
                (Some(encoded), _) => match decode(encoded, Source::Foreign) {
                    Ok(revision) => drop(page.found.insert(id, revision)),
                    Err(error) => drop(page.unreadable.insert(id, error.to_string())),
                },
                (None, Some(reason)) => drop(page.unreadable.insert(id, reason)),
                (None, None) => drop(page.later.insert(id)),
            }
        }
        Ok(page)
    }

    fn join(&mut self, revisions: &[Named<'_>]) -> Result<Vec<Answer>, Broken> {
        let mut answers = Vec::with_capacity(revisions.len());
        let mut rest = revisions.iter().map(|(id, revision)| (*id, encode(revision))).peekable();
        while rest.peek().is_some() {
            let (mut ids, mut encoded, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((id, revision)) = rest.next_if(|_| bytes < JOIN_BYTES_MAX) {
                bytes += revision.len();
                ids.push(id);
                encoded.push(revision);
            }
            let rows = self.rows("SELECT * FROM tandem.peer_join($1, $2)", &[&ids, &encoded])?;
            if rows.len() != ids.len() {
                return Err(Broken("the other Postgres did not answer every revision".into()));
            }
            for row in &rows {
                answers.push(match get::<Option<&str>>(row, 0)?.and_then(Outcome::of_word) {
                    Some(outcome) => Ok(outcome),
                    None => Err(Refusal::of_data(get::<Option<String>>(row, 1)?.unwrap_or_default())),
                });
            }
        }
        Ok(answers)
    }

    fn waiting(&mut self, ids: &[&str]) -> Result<HashSet<String>, Broken> {
        let rows = self.rows("SELECT * FROM tandem.peer_waiting($1)", &[&ids])?;
        rows.iter().map(|row| get(row, 0)).collect()
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn records_conflicts(&self) -> bool {
        true
    }
}
