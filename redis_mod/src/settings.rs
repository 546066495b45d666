//! Settings, as `tandem.…` in redis.conf and CONFIG, or as arguments of `loadmodule`.

use crate::engine;
use redis_module::configuration::{ConfigurationContext, ConfigurationFlags};
use redis_module::{ConfigurationValue, Context, RedisGILGuard};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tandem_shared::content::Bounds;
use tandem_shared::decide::Retention;
use tandem_shared::{DigestKey, Result};

/// Default and upper bound of `tandem.content-bytes-max`.
pub const CONTENT_BYTES_DEFAULT: i64 = Bounds::MAX.content_bytes as i64;
/// Default and upper bound of `tandem.printed-bytes-max`.
pub const PRINTED_BYTES_DEFAULT: i64 = Bounds::MAX.printed_bytes as i64;
/// Default of `tandem.pending-bytes-max`.
pub const PENDING_BYTES_DEFAULT: i64 = 256 * 1024 * 1024;
/// Default of `tandem.tombstone-retention-ms`: 7 days.
pub const RETENTION_MS_DEFAULT: i64 = 7 * 24 * 3_600_000;
/// Default of `tandem.fetch-timeout-ms`.
pub const FETCH_TIMEOUT_DEFAULT: i64 = 1000;
/// Default of `tandem.fetch-ids-max`.
pub const FETCH_IDS_DEFAULT: i64 = 10_000;
/// Default of `tandem.absent-memory-ms`.
pub const ABSENT_MEMORY_DEFAULT: i64 = 1000;
/// A number that may be changed at run time.
pub const CHANGEABLE_NUMBER: ConfigurationFlags = ConfigurationFlags::DEFAULT;
/// A size that may be changed at run time.
pub const CHANGEABLE: ConfigurationFlags = ConfigurationFlags::MEMORY;
/// The secret is set at start, and CONFIG GET does not show it in logs.
pub const FIXED_SECRET: ConfigurationFlags =
    ConfigurationFlags::IMMUTABLE.union(ConfigurationFlags::SENSITIVE);

/// Largest content accepted, in bytes.
pub static CONTENT_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(CONTENT_BYTES_DEFAULT));
/// Largest JSON content accepted, in bytes as Postgres prints it.
pub static PRINTED_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(PRINTED_BYTES_DEFAULT));
/// Bound of what may wait for links in one database, in bytes.
pub static PENDING_BYTES_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(PENDING_BYTES_DEFAULT));
/// Length to which `tandem:cdc` is cut, 0 for no stream.
pub static CDC_LENGTH_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(0));
/// How long removed ids are remembered once every link has taken the removal, 0 for ever.
pub static RETENTION_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(RETENTION_MS_DEFAULT));
/// How long a command waits for an id that is fetched from Postgres, in milliseconds.
pub static FETCH_TIMEOUT_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(FETCH_TIMEOUT_DEFAULT));
/// Ids that may be wanted of a link at a time; beyond it commands that need one more are refused.
pub static FETCH_IDS_MAX: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(FETCH_IDS_DEFAULT));
/// How long an id that Postgres does not have is answered for without asking again, in milliseconds.
pub static ABSENT_MEMORY_MS: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(ABSENT_MEMORY_DEFAULT));
/// The secret that the digest key is derived from.
pub static DIGEST_SECRET: LazyLock<RedisGILGuard<String>> = LazyLock::new(RedisGILGuard::default);

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
        engine.cdc_length_max = u64::try_from(CDC_LENGTH_MAX.load(Ordering::Relaxed)).unwrap_or(0);
    })
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
