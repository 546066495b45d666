//! A Postgres installation of our own that has the extension, without a change to the machine's.
//!
//! Postgres finds its libraries and extensions relative to the place its program was started from. So a tree
//! with copies of `postgres` and `initdb`, links to all else, and the freshly built extension is a complete
//! installation.

use crate::scratch::Scratch;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The programs that are in it: the server, what makes a cluster, and what pg_upgrade runs.
const PROGRAMS: [&str; 11] = [
    "postgres",
    "initdb",
    "pg_upgrade",
    "pg_ctl",
    "pg_controldata",
    "pg_resetwal",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "psql",
    "vacuumdb",
];

/// The tree and where its programs are.
pub struct Install {
    scratch: Scratch,
    bin: PathBuf,
}

/// A build of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Build {
    /// As it is released.
    #[default]
    Release,
    /// With places where a worker dies on request.
    FaultPoints,
}

impl Install {
    /// The installation of a build, made once in this process.
    pub fn get(build: Build) -> &'static Install {
        static RELEASE: OnceLock<Install> = OnceLock::new();
        static FAULT_POINTS: OnceLock<Install> = OnceLock::new();
        let made = match build {
            Build::Release => &RELEASE,
            Build::FaultPoints => &FAULT_POINTS,
        };
        made.get_or_init(|| Install::new(Scratch::new("install"), &package(build)))
    }

    /// Makes an installation in a directory.
    fn new(scratch: Scratch, package: &Path) -> Install {
        let root = scratch.path();
        let bin = PathBuf::from(pg_config("--bindir"));
        let lib = pg_config("--pkglibdir");
        let share = pg_config("--sharedir");
        let staged_bin = below(root, &bin);
        make_directory(&staged_bin);
        // Copies, as each program looks for the others, and for the libraries, where it is itself.
        for program in PROGRAMS {
            copy(&bin.join(program), &staged_bin.join(program));
        }
        link_entries(Path::new(&lib), &below(root, Path::new(&lib)));
        link_entries(Path::new(&share), &below(root, Path::new(&share)));
        let extensions = Path::new(&share).join("extension");
        let staged_extensions = below(root, &extensions);
        std::fs::remove_file(&staged_extensions).expect("the link to the extensions was just made");
        link_entries(&extensions, &staged_extensions);
        add_extension(package, root);
        Install { bin: staged_bin, scratch }
    }

    /// A program of the installation.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Leaves the tree behind when we end, for a server that lives on. Where it is.
    pub fn keep(&self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }
}

/// A client program of the machine's Postgres, such as `psql`.
pub fn client_program(name: &str) -> PathBuf {
    PathBuf::from(pg_config("--bindir")).join(name)
}

/// The built extension: a tree with the files at their absolute paths.
fn package(build: Build) -> PathBuf {
    let path = match build {
        Build::Release => built("TANDEM_PG_PACKAGE", "release/tandem-pg15"),
        Build::FaultPoints => built("TANDEM_PG_FAULT_POINTS_PACKAGE", "debug/tandem-pg15-fault-points"),
    };
    assert!(path.is_dir(), "{} is missing: `make build` makes it", path.display());
    path
}

/// The built Redis module.
pub fn redis_module() -> PathBuf {
    let path = built("TANDEM_REDIS_MODULE", "release/libtandem_redis.so");
    assert!(path.is_file(), "{} is missing: `make build` makes it", path.display());
    path
}

fn built(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join(name)
}

fn pg_config(question: &str) -> String {
    let program = std::env::var("PG_CONFIG").unwrap_or("/usr/lib/postgresql/15/bin/pg_config".into());
    let output = Command::new(&program).arg(question).output().unwrap_or_else(|error| {
        panic!("{program} does not start ({error}): `make setup` installs Postgres 15")
    });
    String::from_utf8(output.stdout).expect("paths are UTF-8").trim().to_owned()
}

/// The place of an absolute path below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_directory(path: &Path) {
    std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn copy(source: &Path, target: &Path) {
    std::fs::copy(source, target)
        .unwrap_or_else(|error| panic!("{} to {}: {error}", source.display(), target.display()));
}

/// Links every entry of a directory, but for what an installed tandem left there.
fn link_entries(source: &Path, target: &Path) {
    make_directory(target);
    let entries = std::fs::read_dir(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    for entry in entries {
        let name = entry.expect("a directory can be read").file_name();
        if !name.to_string_lossy().starts_with("tandem") {
            symlink(source.join(&name), target.join(&name)).expect("a link in a directory of ours");
        }
    }
}

fn add_extension(package: &Path, root: &Path) {
    let entries = std::fs::read_dir(package).unwrap_or_else(|error| panic!("{}: {error}", package.display()));
    for entry in entries {
        let entry = entry.expect("a directory can be read");
        let target = root.join(entry.file_name());
        if entry.path().is_dir() {
            make_directory(&target);
            add_extension(&entry.path(), &target);
        } else {
            copy(&entry.path(), &target);
        }
    }
}
