//! Processes that never outlive ours, however it ends.

use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A shell that waits for our end: when its standard input closes before a word came through, it does its work.
/// Drop does not run for statics, nor when we are killed; a closed pipe is noticed always.
pub struct Watcher {
    shell: Child,
}

impl Watcher {
    fn start(script: &str, argument: &str) -> Watcher {
        let script = format!("read -r word && exit 0\n{script}");
        let shell = Command::new("sh")
            .args(["-c", &script, "watcher", argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Watcher { shell }
    }

    /// Stops process `pid`: politely first, as a Postgres whose postmaster is killed leaves its children running.
    pub fn of_process(pid: u32) -> Watcher {
        Watcher::start(
            "kill -QUIT $1; for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $1 || exit 0; sleep 0.2; done; kill -KILL $1",
            &pid.to_string(),
        )
    }

    /// Removes a directory, more than once because a dying server may still be writing into it.
    pub fn of_directory(path: &Path) -> Watcher {
        Watcher::start(
            "for _ in 1 2 3; do rm -rf \"$1\"; sleep 1; done; rm -rf \"$1\"",
            path.to_str().expect("a UTF-8 path"),
        )
    }

    /// Lets what was watched live on, or tells that it is gone.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            let _ = pipe.write_all(b"dismissed\n");
        }
        let _ = self.shell.wait();
    }
}

/// A server process, killed and reaped when this is dropped.
pub struct Guard {
    child: Child,
    watcher: Option<Watcher>,
}

impl Guard {
    /// Starts a process in a group of its own, so that Ctrl-C at a terminal reaches us and not it.
    pub fn spawn(command: &mut Command) -> Guard {
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let watcher = Some(Watcher::of_process(child.id()));
        Guard { child, watcher }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for a child of ours works")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for its end, as long as it takes.
    pub fn reap(&mut self) -> ExitStatus {
        self.child.wait().expect("waiting for a child of ours works")
    }

    /// Lets the process live on when we end.
    pub fn keep(mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.dismiss();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A kept process has no watcher any more.
        let Some(watcher) = self.watcher.take() else { return };
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        watcher.dismiss();
    }
}

/// Sends a signal to a process that may be gone already.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The living children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|candidate| parent(*candidate) == Some(pid))
        .collect()
}

/// Whether a process runs; one that is dead and not yet reaped does not.
pub fn alive(pid: u32) -> bool {
    parent(pid).is_some()
}

/// The parent of a living process.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields are counted from its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.next()?.parse().ok() }
}
