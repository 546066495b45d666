//! Temporary directories that are gone when we are.

use crate::guard::Watcher;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of our own below the system's temporary one.
pub struct Scratch {
    path: PathBuf,
    watcher: Mutex<Option<Watcher>>,
}

impl Scratch {
    /// Makes a directory that other users may read, as Postgres refuses to run as root and so runs as another.
    pub fn new(what: &str) -> Scratch {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tandem-{what}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, readable).expect("a directory of ours can be changed");
        let watcher = Mutex::new(Some(Watcher::of_directory(&path)));
        Scratch { path, watcher }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory behind when we end.
    pub fn keep(&self) {
        if let Some(watcher) = self.take_watcher() {
            watcher.dismiss();
        }
    }

    fn take_watcher(&self) -> Option<Watcher> {
        self.watcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(watcher) = self.take_watcher() else { return };
        // On failure, which can only be a server still writing, the watcher tries again.
        if std::fs::remove_dir_all(&self.path).is_ok() {
            watcher.dismiss();
        }
    }
}

/// The last lines of a log, for messages.
pub fn tail(path: &Path) -> String {
    const LINES: usize = 40;
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("the end of {}:\n{last}", path.display())
}
