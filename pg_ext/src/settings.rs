//! Settings (GUCs) of the extension.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::ops::RangeInclusive;
use std::time::Duration;
use tandem_shared::DigestKey;
use tandem_shared::content::Bounds;
use tandem_shared::decide::Retention;
use tandem_shared::limits::{CONTENT_BYTES_MAX, PRINTED_BYTES_MAX};

static DIGEST_SECRET_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"postgres"));
static CONTENT_MAX: GucSetting<i32> = GucSetting::<i32>::new(CONTENT_BYTES_MAX as i32);
static PRINTED_MAX: GucSetting<i32> = GucSetting::<i32>::new(PRINTED_BYTES_MAX as i32);

static TLS_CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_CERT_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TLS_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

static REDIS_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);
static CHECKS_KEPT: GucSetting<i32> = GucSetting::<i32>::new(20);
static TOMBSTONE_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 3600);
static REPORT_ROWS_MAX: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// Files for TLS to Redis, those that are set.
pub struct TlsFiles {
    /// Certificates of authorities.
    pub ca: Option<String>,
    /// The worker's certificate.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

/// The files for TLS.
pub fn tls_files() -> TlsFiles {
    let path =
        |setting: &GucSetting<Option<CString>>| Some(text(setting.get())).filter(|path| !path.is_empty());
    TlsFiles { ca: path(&TLS_CA_FILE), cert: path(&TLS_CERT_FILE), key: path(&TLS_KEY_FILE) }
}

/// How long to wait for Redis to go on.
pub fn redis_timeout() -> Duration {
    Duration::from_millis(REDIS_TIMEOUT.get().max(0).unsigned_abs().into())
}

/// Defines the settings.
pub fn define() {
    define_files();
    define_bounds();
    define_of_start();
}

fn define_files() {
    for (name, what, setting) in [
        (
            c"tandem.tls_ca_file",
            c"Certificates that Redis' own is checked against; the system's if empty",
            &TLS_CA_FILE,
        ),
        (c"tandem.tls_cert_file", c"Certificate that the worker shows to Redis", &TLS_CERT_FILE),
        (c"tandem.tls_key_file", c"Key of tandem.tls_cert_file", &TLS_KEY_FILE),
    ] {
        let flags = GucFlags::SUPERUSER_ONLY;
        GucRegistry::define_string_guc(name, what, c"A file in PEM.", setting, GucContext::Sighup, flags);
    }
}

/// A setting that is a whole number.
struct Bound {
    name: &'static CStr,
    what: &'static CStr,
    more: &'static CStr,
    setting: &'static GucSetting<i32>,
    range: RangeInclusive<i32>,
    context: GucContext,
    flags: GucFlags,
}

fn define_bounds() {
    for bound in [
        Bound {
            name: c"tandem.redis_timeout",
            what: c"How long to wait for Redis to accept a connection, or to go on with an answer",
            more: c"A link whose Redis is silent for longer connects anew.",
            setting: &REDIS_TIMEOUT,
            range: 100..=3_600_000,
            context: GucContext::Sighup,
            flags: GucFlags::UNIT_MS,
        },
        Bound {
            name: c"tandem.checks_kept",
            what: c"Runs of checks of each link that tandem.checks and tandem.reports keep",
            more: c"",
            setting: &CHECKS_KEPT,
            range: 1..=100_000,
            context: GucContext::Sighup,
            flags: GucFlags::default(),
        },
        Bound {
            name: c"tandem.tombstone_retention",
            what: c"How long removed ids are remembered once every link has taken the removal, 0 for ever; \
                as Redis' tandem.tombstone-retention-ms",
            more: c"A side that was away for longer, or was restored from a copy that is older, brings back \
                what was removed.",
            setting: &TOMBSTONE_RETENTION,
            range: 0..=i32::MAX,
            context: GucContext::Sighup,
            flags: GucFlags::UNIT_S,
        },
        Bound {
            name: c"tandem.report_rows_max",
            what: c"Ids that tandem.reports names of one run of a check; the counts are of all",
            more: c"",
            setting: &REPORT_ROWS_MAX,
            range: 0..=10_000_000,
            context: GucContext::Sighup,
            flags: GucFlags::default(),
        },
        Bound {
            name: c"tandem.content_bytes_max",
            what: c"Largest content of an item, JSON in its canonical form",
            more: c"",
            setting: &CONTENT_MAX,
            range: 1..=CONTENT_BYTES_MAX as i32,
            context: GucContext::Suset,
            flags: GucFlags::UNIT_BYTE,
        },
        Bound {
            name: c"tandem.printed_bytes_max",
            what: c"Largest JSON content of an item as jsonb prints it, with every number in full",
            more: c"",
            setting: &PRINTED_MAX,
            range: 1..=PRINTED_BYTES_MAX as i32,
            context: GucContext::Suset,
            flags: GucFlags::UNIT_BYTE,
        },
    ] {
        let Bound { name, what, more, setting, range, context, flags } = bound;
        GucRegistry::define_int_guc(name, what, more, setting, *range.start(), *range.end(), context, flags);
    }
}

/// What is read once, when the server starts.
fn define_of_start() {
    // SAFETY: a plain flag of the postmaster, read where it is set. Postgres takes a setting of the postmaster's only
    // while it starts; where the library is loaded later, the other kind keeps the names known.
    let is_starting = unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress };
    for (name, what, more, setting) in [
        (
            c"tandem.digest_secret_file",
            c"File with the secret that the key of all digests is derived from; the same as Redis' \
                tandem.digest-secret",
            c"A line end at its end does not count. After a change restart and run tandem.rebuild_blocks().",
            &DIGEST_SECRET_FILE,
        ),
        (
            c"tandem.databases",
            c"Databases that tandem's worker serves, separated by commas",
            c"Of use only where the library is in shared_preload_libraries.",
            &DATABASES,
        ),
    ] {
        let context = if is_starting { GucContext::Postmaster } else { GucContext::Sighup };
        GucRegistry::define_string_guc(name, what, more, setting, context, GucFlags::default());
    }
    if is_starting {
        // Read once, before there are processes: all of them make digests with one secret.
        digest_key();
    }
}

/// Has the server refuse settings that begin as ours do and that there are not; called when all are defined.
pub fn reserve() {
    // SAFETY: the name is a literal.
    unsafe {
        #[cfg(feature = "pg14")]
        pgrx::pg_sys::EmitWarningsOnPlaceholders(c"tandem".as_ptr());
        #[cfg(not(feature = "pg14"))]
        pgrx::pg_sys::MarkGUCPrefixReserved(c"tandem".as_ptr());
    }
}

fn text(value: Option<CString>) -> String {
    value.as_deref().map(CStr::to_string_lossy).unwrap_or_default().into_owned()
}

/// The databases that have a worker.
pub fn databases() -> Vec<String> {
    let list = text(DATABASES.get());
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// How large content may be that is written.
pub fn content_bounds() -> Bounds {
    Bounds {
        content_bytes: usize::try_from(CONTENT_MAX.get()).unwrap_or(CONTENT_BYTES_MAX),
        printed_bytes: usize::try_from(PRINTED_MAX.get()).unwrap_or(PRINTED_BYTES_MAX),
    }
}

/// How long tombstones are kept.
pub fn tombstone_retention() -> Retention {
    Retention::of_ms(u64::try_from(TOMBSTONE_RETENTION.get()).unwrap_or(0) * 1000)
}

/// Runs of checks kept of each link.
pub fn checks_kept() -> i32 {
    CHECKS_KEPT.get()
}

/// Ids that a report names.
pub fn report_rows_max() -> usize {
    usize::try_from(REPORT_ROWS_MAX.get()).unwrap_or(0)
}

/// The key of digests. Ends the statement where the secret's file cannot be read.
pub fn digest_key() -> DigestKey {
    thread_local! {
        // Deriving a key takes longer than a digest, and a statement makes many digests.
        static DERIVED: RefCell<Option<(Option<CString>, DigestKey)>> = const { RefCell::new(None) };
    }
    let file = DIGEST_SECRET_FILE.get();
    let known = DERIVED.with_borrow(|derived| match derived {
        Some((of, key)) if *of == file => Some(key.clone()),
        _ => None,
    });
    known.unwrap_or_else(|| {
        let secret = crate::error::answer(secret_in(&text(file.clone())).map_err(Into::into));
        let key = DigestKey::new(&secret);
        DERIVED.with_borrow_mut(|derived| *derived = Some((file, key.clone())));
        key
    })
}

/// What a file has but for a line end, empty without a file.
fn secret_in(path: &str) -> tandem_shared::Result<Vec<u8>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let mut secret = std::fs::read(path).map_err(|error| {
        tandem_shared::Error::invalid(
            format!("tandem.digest_secret_file {path}"),
            format!("cannot be read: {error}"),
            "name a file that the server's user can read, and nobody else",
        )
    })?;
    for end in [b'\n', b'\r'] {
        if secret.last() == Some(&end) {
            secret.pop();
        }
    }
    Ok(secret)
}
