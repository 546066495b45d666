//! A private Postgres with the extension, on a free port.

use crate::guard::{Guard, alive, children, send};
use crate::install::{Build, Install, client_program};
use crate::ports;
use crate::scratch::{Scratch, tail};
use crate::wait::{self, DEADLINE};
use postgres::{Client, Config, NoTls};
use rustix::process::Signal;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether the worker and the settings are there: `shared_preload_libraries = 'tandem'`.
    pub preload: bool,
    /// Whether a commit is on disk when it is acknowledged; needed wherever the server is killed.
    pub fsync: bool,
    /// More lines for postgresql.conf.
    pub settings: Vec<String>,
    /// Which build of the extension is there.
    pub build: Build,
}

impl Default for Options {
    fn default() -> Options {
        Options { preload: true, fsync: false, settings: Vec::new(), build: Build::Release }
    }
}

/// A running server; it is gone when this is dropped or when the process ends.
pub struct Postgres {
    guard: Option<Guard>,
    scratch: Scratch,
    port: u16,
    install: &'static Install,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub fn start(options: &Options) -> Postgres {
        let scratch = Scratch::new("postgres");
        let install = Install::get(options.build);
        let mut server = Postgres { guard: None, scratch, port: ports::free(), install };
        server.initialize(options);
        server.launch();
        server
    }

    /// Copies a running server's cluster and starts it as a standby of it.
    pub fn standby_of(primary: &Postgres) -> Postgres {
        let (scratch, port, install) = (Scratch::new("standby"), ports::free(), primary.install);
        let mut server = Postgres { guard: None, scratch, port, install };
        server.make_data_directory();
        let mut command = Command::new(client_program("pg_basebackup"));
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &primary.port.to_string()]);
        // -R: the copy begins as a standby that knows its primary.
        command.args(["-R", "-X", "stream", "-c", "fast", "-D"]).arg(server.data());
        as_server_user(&mut command);
        let output = command.output().expect("pg_basebackup starts");
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        server.add_settings(&format!("\nport = {port}\n"));
        server.launch();
        server
    }

    /// Makes a cluster, starts it and creates the extension.
    pub fn with_extension(options: &Options) -> Postgres {
        let server = Postgres::start(options);
        server.connect().batch_execute("CREATE EXTENSION tandem").unwrap_or_else(|error| {
            panic!("CREATE EXTENSION tandem: {}\n{}", crate::sql::error_text(&error), server.log_tail())
        });
        server
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its directory: `data` and the log.
    pub fn directory(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// A new connection as superuser.
    pub fn connect(&self) -> Client {
        self.connect_as("postgres", "postgres")
    }

    /// A new connection as `user` to `database`.
    pub fn connect_as(&self, user: &str, database: &str) -> Client {
        self.try_connect(user, database)
            .unwrap_or_else(|error| panic!("connecting to Postgres: {error}\n{}", self.log_tail()))
    }

    /// A new connection, if the server takes any.
    pub fn try_connect(&self, user: &str, database: &str) -> Result<Client, postgres::Error> {
        Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(user)
            .dbname(database)
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)
    }

    /// The words that reach this server with psql.
    pub fn psql_words(&self) -> Vec<String> {
        let psql = client_program("psql").display().to_string();
        let port = self.port.to_string();
        [&psql, "-h", "127.0.0.1", "-p", &port, "-U", "postgres"].map(str::to_owned).to_vec()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Kills the server as a power cut would: the postmaster and every child, none with a chance to tidy up.
    pub fn kill_hard(&mut self) {
        self.kill(true);
    }

    /// Kills the postmaster alone and waits until its children have noticed: they serve on until then.
    pub fn kill_postmaster(&mut self) {
        self.kill(false);
    }

    fn kill(&mut self, children_too: bool) {
        let Some(mut guard) = self.guard.take() else { return };
        let family = children(guard.pid());
        guard.signal(Signal::KILL);
        for child in family.iter().filter(|_| children_too) {
            send(*child, Signal::KILL);
        }
        guard.reap();
        wait::until("the killed server's children are gone", DEADLINE, || {
            !family.iter().any(|child| alive(*child))
        });
    }

    /// Stops the server in order, ending its sessions.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Shuts the server down without a checkpoint, so that it recovers when it starts again.
    pub fn stop_at_once(&mut self) {
        self.end(Signal::QUIT);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut guard) = self.guard.take() else { return };
        guard.signal(signal);
        wait::until_or(
            DEADLINE,
            || guard.ended().is_some(),
            || format!("Postgres stops; {}", self.log_tail()),
        );
    }

    /// Starts it again, on the same port and data.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Stops the server, moves its cluster into a new one by pg_upgrade, and starts that, with these settings.
    pub fn upgrade(&mut self, options: &Options) {
        self.stop();
        let old = self.scratch.path().join("old");
        std::fs::rename(self.data(), &old).expect("a directory of ours can be renamed");
        self.initialize(options);
        let bin = self.install.program("");
        let mut command = Command::new(self.install.program("pg_upgrade"));
        command.arg("-b").arg(&bin).arg("-B").arg(&bin).arg("-d").arg(&old).arg("-D").arg(self.data());
        let (port, directory) = (self.port.to_string(), self.data());
        command.args(["-U", "postgres", "-p", &port, "-P", &port, "-s"]).arg(&directory);
        let log = File::options().append(true).open(self.log()).expect("a log of ours");
        command.stdout(log.try_clone().expect("a file handle")).stderr(log);
        as_server_user(&mut command);
        command.current_dir(&directory);
        let status = command.status().expect("pg_upgrade starts");
        assert!(status.success(), "pg_upgrade failed; {}", self.log_tail());
        self.launch();
    }

    /// Leaves the server running when we end, and says how to stop it.
    pub fn keep(mut self) -> String {
        let pid = self.guard.as_ref().map_or(0, Guard::pid);
        if let Some(guard) = self.guard.take() {
            guard.keep();
        }
        self.scratch.keep();
        let install = self.install.keep();
        format!("kill -INT {pid}; sleep 1; rm -rf {} {}", self.directory().display(), install.display())
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("postgres.log")
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn initialize(&self, options: &Options) {
        self.make_data_directory();
        let data = self.data();
        let log = File::create(self.log()).expect("a log in a directory of ours");
        let mut command = Command::new(self.install.program("initdb"));
        // The database sorts text as people do and not by bytes, so an order left to the default shows.
        command.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]);
        command.args(["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en"]);
        command.arg("-D").arg(&data);
        command.stdout(log.try_clone().expect("a file handle")).stderr(log);
        as_server_user(&mut command);
        let status = command.status().expect("initdb starts");
        assert!(status.success(), "initdb failed; {}", self.log_tail());
        self.add_settings(&self.settings(options));
    }

    fn make_data_directory(&self) {
        let data = self.data();
        std::fs::create_dir(&data).expect("a directory in a directory of ours");
        // The server refuses one that others may read.
        std::fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("the directory is ours");
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(&data, Some(user), Some(group)).expect("root may give directories away");
        }
    }

    /// Adds lines to postgresql.conf; the last one of a setting counts.
    fn add_settings(&self, lines: &str) {
        let path = self.data().join("postgresql.conf");
        let mut settings = std::fs::read_to_string(&path).expect("the cluster has settings");
        settings.push_str(lines);
        std::fs::write(&path, settings).expect("postgresql.conf can be written");
    }

    fn settings(&self, options: &Options) -> String {
        let durable = if options.fsync { "on" } else { "off" };
        let preload = if options.preload { "tandem" } else { "" };
        let mut lines = vec![
            format!("port = {}", self.port),
            "listen_addresses = '127.0.0.1'".to_owned(),
            "unix_socket_directories = ''".to_owned(),
            format!("shared_preload_libraries = '{preload}'"),
            "max_worker_processes = 16".to_owned(),
            format!("fsync = {durable}"),
            format!("full_page_writes = {durable}"),
            "log_line_prefix = '%m [%p] %b '".to_owned(),
        ];
        lines.extend(options.settings.iter().cloned());
        lines.iter().fold(String::from("\n"), |text, line| text + line + "\n")
    }

    fn launch(&mut self) {
        let deadline_each = Duration::from_secs(20);
        let start = std::time::Instant::now();
        loop {
            let mut guard = self.spawn();
            let mut alive = true;
            wait::until_or(
                deadline_each,
                || {
                    alive = guard.ended().is_none();
                    !alive || self.try_connect("postgres", "postgres").is_ok()
                },
                || format!("Postgres answers; {}", self.log_tail()),
            );
            if alive {
                self.guard = Some(guard);
                return;
            }
            // After a hard kill the kernel may hold the old shared memory for a moment.
            assert!(start.elapsed() < deadline_each, "Postgres does not start; {}", self.log_tail());
        }
    }

    fn spawn(&self) -> Guard {
        let log = File::options().append(true).create(true).open(self.log()).expect("a log of ours");
        let mut command = Command::new(self.install.program("postgres"));
        command.arg("-D").arg(self.data());
        command.stdout(log.try_clone().expect("a file handle")).stderr(log);
        as_server_user(&mut command);
        Guard::spawn(&mut command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A postmaster that is killed leaves its children to find out; asked to quit, it takes them along.
        if let Some(guard) = &mut self.guard {
            guard.signal(Signal::QUIT);
            let start = std::time::Instant::now();
            while guard.ended().is_none() && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Postgres refuses to run as root; then it is the user its package made. `None` when we are not root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = fields.into_iter().find(|fields| fields.first() == Some(&"postgres"));
    let account = account.expect("as root the suites need the user `postgres`, which Debian's package makes");
    Some((account[2].parse().expect("a user id"), account[3].parse().expect("a group id")))
}

fn as_server_user(command: &mut Command) {
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group).env("HOME", "/tmp").current_dir("/");
    }
}
