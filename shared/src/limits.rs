//! Every bound of tandem as a constant, unit and qualifier last.

/// Longest id, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 512;
/// Longest state tag, in bytes of UTF-8.
pub const STATE_BYTES_MAX: usize = 64;
/// Largest content in bytes unless a setting lowers it; of JSON it bounds the canonical form, not the text that comes
/// in.
pub const CONTENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest JSON content in bytes as Postgres prints it, unless a setting lowers it. Postgres prints numbers in full,
/// so without this bound 74 kB of content are more than a backend, a dump or a link can hold.
pub const PRINTED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Deepest nesting of arrays and objects in JSON content.
pub const JSON_DEPTH_MAX: usize = 128;
/// Most decimal digits before the point that Postgres' `numeric` holds.
pub const NUMBER_INTEGER_DIGITS_MAX: i64 = 131_072;
/// Most decimal digits after the point that Postgres' `numeric` holds.
pub const NUMBER_FRACTION_DIGITS_MAX: i64 = 16_383;
/// Largest version: `bigint` in Postgres, a signed integer in Redis replies.
pub const VERSION_MAX: u64 = i64::MAX as u64;
/// Largest version that a writer may give: there is always one above it, so nothing can be made that cannot be
/// removed.
pub const VERSION_GIVEN_MAX: u64 = 1 << 62;
/// Largest version of a revision that comes from elsewhere: what writers may give, and what counting on from there
/// gets to. A million writes of one id a second would count for 70,000 years.
pub const VERSION_CARRIED_MAX: u64 = VERSION_GIVEN_MAX + VERSION_GIVEN_MAX / 2;
/// Longest audit object that a writer may give, in bytes of its canonical JSON.
pub const AUDIT_BYTES_MAX: usize = 1024;
/// Longest audit object that a writer may give, in bytes as Postgres prints it: room for the blanks, none for numbers
/// of a hundred thousand digits.
pub const AUDIT_PRINTED_BYTES_MAX: usize = 4096;
/// Longest audit object that is read back: what the codec has room for.
pub const AUDIT_STORED_BYTES_MAX: usize = u16::MAX as usize;
/// Largest encoded revision: content, audit, state and the fixed fields with room to spare.
pub const REVISION_BYTES_MAX: usize = CONTENT_BYTES_MAX + 128 * 1024;
/// Most entries one page of a list returns.
pub const PAGE_ITEMS_MAX: usize = 10_000;
/// Revisions that are carried together: no more are added once they have so many bytes. One is always carried, so
/// memory is bounded by this and the largest revision.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries of a page when the caller names no limit.
pub const PAGE_ITEMS_DEFAULT: usize = 100;

const _: () =
    assert!(CONTENT_BYTES_MAX + AUDIT_STORED_BYTES_MAX + STATE_BYTES_MAX + 128 < REVISION_BYTES_MAX);
const _: () = assert!(AUDIT_BYTES_MAX <= AUDIT_STORED_BYTES_MAX && VERSION_CARRIED_MAX < VERSION_MAX);
const _: () = assert!(ID_BYTES_MAX <= u16::MAX as usize, "ids are length-prefixed with 16 bits");
/// Most operations of one batch.
pub const BATCH_ITEMS_MAX: usize = 10_000;
/// Longest name of a home instance in the audit object, in bytes.
pub const HOME_BYTES_MAX: usize = 128;
/// Longest wait for the links, in milliseconds: a day.
pub const WAIT_MS_MAX: u64 = 86_400_000;
