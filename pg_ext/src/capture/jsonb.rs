//! `jsonb` as Postgres stores it, read where it lies: its hash without the detour through text, which took
//! longer than
//! all else that is done for a row. `utils/jsonb.h` and `adt/numeric.c` describe the form, which no release has
//! changed
//! since 9.4, as it is what is on disk.
//!
//! This file only walks over it; what the canonical form is says [`Builder`]. Whatever is not as expected here
//! is `None`
//! and goes through the text.

use tandem_shared::content::Builder;

// A container begins with the number of its elements or members and what it is.
const COUNT: u32 = 0x0FFF_FFFF;
const IS_SCALAR: u32 = 0x1000_0000;
const IS_OBJECT: u32 = 0x2000_0000;
const IS_ARRAY: u32 = 0x4000_0000;
// An entry for each key and value: its length, or where it ends, and its kind.
const LENGTH: u32 = 0x0FFF_FFFF;
const KIND: u32 = 0x7000_0000;
const IS_END: u32 = 0x8000_0000;
const STRING: u32 = 0x0000_0000;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// A value: its kind and its bytes.
#[derive(Clone, Copy)]
struct Value<'a> {
    kind: u32,
    bytes: &'a [u8],
}

/// Members of the objects being read, innermost last.
type Members<'a> = Vec<(&'a str, Value<'a>)>;

/// Writes a `jsonb`, without its header of variable length, in the canonical form. None where it is not what is
/// expected or
/// nested too deep.
pub fn write(container: &[u8], to: &mut Builder) -> Option<()> {
    write_container(container, to, &mut Vec::new())
}

fn write_container<'a>(container: &'a [u8], to: &mut Builder, members: &mut Members<'a>) -> Option<()> {
    let header = number_at(container, 0)?;
    let count = usize::try_from(header & COUNT).ok()?;
    if header & IS_OBJECT != 0 {
        let object = to.open_object()?;
        let outer = members.len();
        let mut entries = Entries::of(container, count.checked_mul(2)?)?;
        for _ in 0..count {
            let key = entries.next()?;
            members.push((string(key)?, key));
        }
        for at in outer..members.len() {
            members.get_mut(at)?.1 = entries.next()?;
        }
        // Stored in the order of their lengths: in that of their bytes the builder has nothing to move.
        members.get_mut(outer..)?.sort_unstable_by_key(|(key, _)| *key);
        for at in outer..outer + count {
            if at > outer {
                to.comma();
            }
            let (key, value) = *members.get(at)?;
            let key = to.key(key);
            write_value(value, to, members)?;
            to.end_member(key);
        }
        members.truncate(outer);
        to.close_object(object);
    } else if header & IS_SCALAR != 0 {
        write_value(Entries::of(container, 1)?.next()?, to, members)?;
    } else if header & IS_ARRAY != 0 {
        to.open_array()?;
        let mut entries = Entries::of(container, count)?;
        for at in 0..count {
            if at > 0 {
                to.comma();
            }
            write_value(entries.next()?, to, members)?;
        }
        to.close_array();
    } else {
        return None;
    }
    Some(())
}

fn write_value<'a>(value: Value<'a>, to: &mut Builder, members: &mut Members<'a>) -> Option<()> {
    match value.kind {
        STRING => to.string(string(value)?),
        NUMERIC => write_numeric(value.bytes, to)?,
        FALSE => to.word(b"false"),
        TRUE => to.word(b"true"),
        NULL => to.word(b"null"),
        CONTAINER => write_container(value.bytes, to, members)?,
        _ => return None,
    }
    Some(())
}

fn string(value: Value<'_>) -> Option<&str> {
    if value.kind == STRING { std::str::from_utf8(value.bytes).ok() } else { None }
}

/// The entries of a container in their order, which is that of their values.
struct Entries<'a> {
    entries: &'a [u8],
    data: &'a [u8],
    read: usize,
    /// Where the value of the last entry ends.
    end: usize,
}

impl<'a> Entries<'a> {
    fn of(container: &'a [u8], count: usize) -> Option<Entries<'a>> {
        let (entries, data) = container.get(4..)?.split_at_checked(count.checked_mul(4)?)?;
        Some(Entries { entries, data, read: 0, end: 0 })
    }

    fn next(&mut self) -> Option<Value<'a>> {
        let entry = number_at(self.entries, self.read)?;
        self.read += 4;
        let length = usize::try_from(entry & LENGTH).ok()?;
        let start = self.end;
        self.end = if entry & IS_END == 0 { start.checked_add(length)? } else { length };
        let kind = entry & KIND;
        // A number and a container begin at a multiple of four.
        let start =
            if matches!(kind, NUMERIC | CONTAINER) { start.checked_next_multiple_of(4)? } else { start };
        Some(Value { kind, bytes: self.data.get(start..self.end)? })
    }
}

#[allow(clippy::host_endian_bytes, reason = "a server reads what it has written itself")]
fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[allow(clippy::host_endian_bytes, reason = "a server reads what it has written itself")]
fn short_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Writes a `numeric` as Postgres prints it.
fn write_numeric(bytes: &[u8], to: &mut Builder) -> Option<()> {
    const SPECIAL: u16 = 0xC000;
    const SHORT: u16 = 0x8000;
    // Only what has the plain header of four bytes; a shorter one says so in its first bit.
    let is_plain =
        if cfg!(target_endian = "little") { bytes.first()? & 3 == 0 } else { bytes.first()? & 0xC0 == 0 };
    let body = bytes.get(4..).filter(|_| is_plain)?;
    let header = short_at(body, 0)?;
    let (is_negative, fraction, weight, digits) = match header & SPECIAL {
        SPECIAL => return None,
        SHORT => {
            let weight = (header & 0x3F) as i16;
            let weight = if header & 0x40 == 0 { weight } else { weight - 0x40 };
            (header & 0x2000 != 0, (header & 0x1F80) >> 7, weight, body.get(2..)?)
        }
        sign => (sign == 0x4000, header & 0x3FFF, short_at(body, 2)? as i16, body.get(4..)?),
    };
    // Groups of four decimal digits; those that are not stored are zero.
    let group = |at: i32| {
        let stored = usize::try_from(at).ok().and_then(|at| short_at(digits, at * 2));
        stored.unwrap_or(0)
    };
    let weight = i32::from(weight);
    let mut text = Text::default();
    if is_negative {
        text.push(b'-')?;
    }
    let leading = text.length;
    for at in 0..=weight {
        for digit in four(group(at)) {
            // A number does not begin with zeros.
            if digit != b'0' || text.length > leading {
                text.push(digit)?;
            }
        }
    }
    if text.length == leading {
        text.push(b'0')?;
    }
    if fraction > 0 {
        text.push(b'.')?;
        let groups = (weight + 1..).flat_map(|at| four(group(at)));
        for digit in groups.take(usize::from(fraction)) {
            text.push(digit)?;
        }
    }
    to.stored_number(text.bytes.get(..text.length)?)
}

/// The text of a number. A longer one goes through Postgres' own text.
struct Text {
    bytes: [u8; 64],
    length: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text { bytes: [0; 64], length: 0 }
    }
}

impl Text {
    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.length)? = byte;
        self.length += 1;
        Some(())
    }
}

fn four(group: u16) -> [u8; 4] {
    [group / 1000, group / 100 % 10, group / 10 % 10, group % 10].map(|digit| b'0' + digit as u8)
}
