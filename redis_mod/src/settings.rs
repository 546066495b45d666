//! Settings, as `tandem.…` in redis.conf and CONFIG, or as arguments of `loadmodule`.

use crate::engine;
use redis_module::configuration::{ConfigurationContext, ConfigurationFlags};
use redis_module::{ConfigurationValue, Context, ContextFlags, RedisError, RedisGILGuard, RedisString, raw};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tandem_shared::content::Bounds;
use tandem_shared::decide::Retention;
use tandem_shared::{DigestKey, Error, Result};

/// A setting that is a number, as `tandem.` and its name in redis.conf and CONFIG.
pub struct Number {
    /// Its name as an argument of `loadmodule`.
    pub name: &'static str,
    /// Its value where nobody sets it.
    pub default: i64,
    /// The least that it may be.
    pub min: i64,
    /// The most that it may be.
    pub max: i64,
}

const fn number(name: &'static str, default: i64, min: i64, max: i64) -> Number {
    Number { name, default, min, max }
}

/// Largest content accepted, in bytes.
pub const CONTENT_BYTES: Number =
    number("content-bytes-max", Bounds::MAX.content_bytes as i64, 1, Bounds::MAX.content_bytes as i64);
/// Largest JSON content accepted, in bytes as Postgres prints it.
pub const PRINTED_BYTES: Number =
    number("printed-bytes-max", Bounds::MAX.printed_bytes as i64, 1, Bounds::MAX.printed_bytes as i64);
/// Length to which `tandem:cdc` is cut, 0 for no stream.
pub const CDC_LENGTH: Number = number("cdc-maxlen", 0, 0, i64::MAX);
/// How long removed ids are remembered once every link has taken the removal, 0 for ever; 7 days.
pub const RETENTION: Number = number("tombstone-retention-ms", 7 * 24 * HOUR_MS, 0, i64::MAX);
/// How long a command waits for an id that is fetched from Postgres.
pub const FETCH_TIMEOUT: Number = number("fetch-timeout-ms", 1000, 1, HOUR_MS);
/// Ids that may be wanted of a link at a time.
pub const FETCH_IDS: Number = number("fetch-ids-max", 10_000, 1, 10_000_000);
/// How long an id that Postgres does not have is answered for without asking again.
pub const ABSENT_MEMORY: Number = number("absent-memory-ms", 1000, 0, HOUR_MS);
/// Bound of what may wait for links in one database, in bytes.
pub const PENDING_BYTES: Number = number("pending-bytes-max", 256 * 1024 * 1024, 1024, i64::MAX);

const HOUR_MS: i64 = 3_600_000;
const NUMBERS: [Number; 8] = [
    CONTENT_BYTES,
    PRINTED_BYTES,
    CDC_LENGTH,
    RETENTION,
    FETCH_TIMEOUT,
    FETCH_IDS,
    ABSENT_MEMORY,
    PENDING_BYTES,
];
/// The name of the secret that the digest key is derived from.
pub const DIGEST_SECRET_NAME: &str = "digest-secret";

/// A number that may be changed at run time.
pub const CHANGEABLE_NUMBER: ConfigurationFlags = ConfigurationFlags::DEFAULT;
/// A size that may be changed at run time.
pub const CHANGEABLE: ConfigurationFlags = ConfigurationFlags::MEMORY;
/// The secret is set at start, and CONFIG GET does not show it in logs.
pub const FIXED_SECRET: ConfigurationFlags =
    ConfigurationFlags::IMMUTABLE.union(ConfigurationFlags::SENSITIVE);

/// Largest content accepted, in bytes.
pub static CONTENT_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(CONTENT_BYTES.default));
/// Largest JSON content accepted, in bytes as Postgres prints it.
pub static PRINTED_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(PRINTED_BYTES.default));
/// Bound of what may wait for links in one database, in bytes.
pub static PENDING_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(PENDING_BYTES.default));
/// Length to which `tandem:cdc` is cut, 0 for no stream.
pub static CDC_LENGTH_MAX: LazyLock<StreamLength> = LazyLock::new(StreamLength::default);
/// How long removed ids are remembered once every link has taken the removal, 0 for ever.
pub static RETENTION_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(RETENTION.default));
/// How long a command waits for an id that is fetched from Postgres, in milliseconds.
pub static FETCH_TIMEOUT_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(FETCH_TIMEOUT.default));
/// Ids that may be wanted of a link at a time; beyond it commands that need one more are refused.
pub static FETCH_IDS_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(FETCH_IDS.default));
/// How long an id that Postgres does not have is answered for without asking again, in milliseconds.
pub static ABSENT_MEMORY_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(ABSENT_MEMORY.default));
/// The secret that the digest key is derived from.
pub static DIGEST_SECRET: LazyLock<RedisGILGuard<String>> = LazyLock::new(RedisGILGuard::default);

/// The length of the stream. In a cluster there is none: the key `tandem:cdc` is served by one node, and what the
/// others write could not be appended.
#[derive(Debug, Default)]
pub struct StreamLength(AtomicI64);

impl ConfigurationValue<i64> for StreamLength {
    fn get(&self, _: &ConfigurationContext) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, _: &ConfigurationContext, length: i64) -> std::result::Result<(), RedisError> {
        if length != 0 && is_in_cluster() {
            return Err(RedisError::String(no_stream().to_string()));
        }
        self.0.store(length, Ordering::Relaxed);
        Ok(())
    }
}

fn is_in_cluster() -> bool {
    // SAFETY: the call is allowed without a context, and answers then for the server.
    let flags = unsafe { raw::RedisModule_GetContextFlags.map_or(0, |flags| flags(std::ptr::null_mut())) };
    ContextFlags::from_bits_truncate(flags).contains(ContextFlags::CLUSTER)
}

fn no_stream() -> Error {
    let remedy = "leave it at 0, and read changes_since in Postgres";
    Error::invalid(
        "cdc-maxlen",
        "has no meaning in a cluster, where one node serves the stream's key",
        remedy,
    )
}

/// A size was changed by CONFIG SET.
pub fn changed<V: ConfigurationValue<i64>>(_: &ConfigurationContext, _: &str, _: &'static V) {
    let _ = take_sizes();
}

fn take_sizes() -> Result<()> {
    let bytes = |setting: &AtomicI64| usize::try_from(setting.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
    let time = |setting: &AtomicI64| {
        Duration::from_millis(u64::try_from(setting.load(Ordering::Relaxed)).unwrap_or(0))
    };
    engine::with(|engine| {
        engine.fetch_timeout = time(&FETCH_TIMEOUT_MS);
        engine.fetch_ids_max = bytes(&FETCH_IDS_MAX);
        engine.absent_memory = time(&ABSENT_MEMORY_MS);
        engine.bounds =
            Bounds { content_bytes: bytes(&CONTENT_BYTES_MAX), printed_bytes: bytes(&PRINTED_BYTES_MAX) };
        engine.pending_bytes_max = bytes(&PENDING_BYTES_MAX);
        engine.retention = Retention::of_ms(RETENTION_MS.load(Ordering::Relaxed).try_into().unwrap_or(0));
        engine.cdc_length_max = u64::try_from(CDC_LENGTH_MAX.0.load(Ordering::Relaxed)).unwrap_or(0);
    })
}

/// Checks the arguments of `loadmodule`: names and values of settings, in pairs. The server takes them as defaults and
/// asks nothing about those. Errors: `INVALID` for what is no setting, and for a value that it cannot have.
pub fn check_arguments(arguments: &[RedisString]) -> Result<()> {
    let pairs = arguments.chunks_exact(2);
    if let [name] = pairs.remainder() {
        let remedy = "give loadmodule the name and the value of each setting".to_owned();
        return Err(Error::invalid("loadmodule", format!("'{name}' has no value"), remedy));
    }
    for pair in pairs {
        let [name, value] = pair else { continue };
        let name = name.to_string();
        if name == DIGEST_SECRET_NAME {
            continue;
        }
        let Some(number) = NUMBERS.iter().find(|number| number.name == name) else {
            let names: Vec<&str> = NUMBERS.iter().map(|number| number.name).collect();
            let remedy = format!("name one of {DIGEST_SECRET_NAME}, {}", names.join(", "));
            return Err(Error::invalid("loadmodule", format!("there is no setting '{name}'"), remedy));
        };
        let is_within = |value: &i64| (number.min..=number.max).contains(value);
        if value.parse_integer().ok().filter(is_within).is_none() {
            let problem = format!("{name} cannot be '{value}'");
            let remedy = format!("give a number from {} to {}", number.min, number.max);
            return Err(Error::invalid("loadmodule", problem, remedy));
        }
        if name == CDC_LENGTH.name && value.parse_integer().is_ok_and(|length| length != 0) && is_in_cluster()
        {
            return Err(no_stream());
        }
    }
    Ok(())
}

/// Takes the settings over when the module loads.
pub fn install(context: &Context) -> Result<()> {
    take_sizes()?;
    let secret = DIGEST_SECRET.lock(context).clone();
    engine::with(|engine| {
        engine.key = DigestKey::new(secret.as_bytes());
        engine.run = uuid::Uuid::new_v4().simple().to_string();
    })
}
