//! Canonical JSON (DESIGN section 2): one text for one value, so that equal content has equal bytes and equal
//! hashes on both sides. It is what Postgres' `jsonb` distinguishes and no more: white space, key order,
//! duplicate keys (the last wins), escapes and the spelling of numbers leave no trace. RFC 8785 does the same
//! through binary floating point, which would make different `jsonb` numbers equal.
//!
//! One pass, no tree: members are written as they come, and only an object whose keys turn out unsorted is put
//! in order afterwards.

use super::number::canonical_number;
use crate::error::{Error, Result};
use crate::limits::JSON_DEPTH_MAX;
use std::cmp::Ordering;

/// A canonical form and its size in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    /// The canonical form.
    pub bytes: Vec<u8>,
    /// Bytes of the text that `jsonb` of the canonical form prints: a blank after each colon and comma, and every
    /// number in full. 8 bytes such as `1e131071` are 131,072 of it.
    pub printed_bytes: usize,
}

/// The canonical form of JSON text.
///
/// Errors: `BADJSON` with the byte where the text stops being JSON that both engines hold; `\u0000`, lone
/// surrogates, nesting deeper than 128 and numbers beyond Postgres' `numeric` are refused.
pub fn canonicalize(text: &[u8]) -> Result<Vec<u8>> {
    Ok(measure(text, JSON_DEPTH_MAX)?.bytes)
}

/// As [`canonicalize`], with the size of the printed form, and with a bound for the nesting: JSON that contents are
/// wrapped in nests deeper than they.
pub fn measure(text: &[u8], depth_max: usize) -> Result<Canonical> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(Error::bad_json(error.valid_up_to(), "it is not UTF-8"));
    }
    let mut writer = Writer {
        text,
        at: 0,
        out: Vec::with_capacity(text.len()),
        members: Vec::new(),
        spare: Vec::new(),
        unwritten: 0,
        depth_max,
    };
    writer.skip_space();
    writer.value(0)?;
    writer.skip_space();
    if writer.at < text.len() {
        return Err(writer.refuse("something follows the value"));
    }
    let printed_bytes = writer.out.len() + writer.unwritten;
    Ok(Canonical { bytes: writer.out, printed_bytes })
}

/// Where an object's member stands in the output: its key with quotes, and the end of its value.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    key_end: usize,
    end: usize,
    /// What Postgres prints of it beyond that.
    unwritten: usize,
    /// The key has escapes: its bytes in the output do not sort as what they stand for.
    escaped: bool,
}

struct Writer<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// Members of the objects being read, innermost last.
    members: Vec<Member>,
    /// Where members are put in order; kept from object to object.
    spare: Vec<u8>,
    /// Bytes that Postgres prints beyond those in `out`.
    unwritten: usize,
    depth_max: usize,
}

impl Writer<'_> {
    fn refuse(&self, problem: &'static str) -> Error {
        Error::bad_json(self.at, problem)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<()> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) => Err(self.refuse("a value is expected")),
            None => Err(self.refuse("the text ends where a value is expected")),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<()> {
        let end = self.at + word.len();
        let whole = self.text.get(self.at..end) == Some(word)
            && !self.text.get(end).is_some_and(u8::is_ascii_alphanumeric);
        if !whole {
            return Err(self.refuse("a value is expected"));
        }
        self.out.extend(word);
        self.at = end;
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let start = self.out.len();
        match canonical_number(rest, &mut self.out) {
            Ok(number) => {
                self.at += number.read;
                self.unwritten += number.printed.saturating_sub(self.out.len() - start);
                if self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
                    return Err(self.refuse("a number is malformed"));
                }
                Ok(())
            }
            Err(problem) => Err(self.refuse(problem)),
        }
    }

    fn open(&mut self, bracket: u8, depth: usize) -> Result<()> {
        if depth > self.depth_max {
            return Err(self.refuse("it is nested deeper than 128"));
        }
        self.out.push(bracket);
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// After an element: true if another one follows, false after the closing bracket.
    fn next(&mut self, closing: u8, problem: &'static str) -> Result<bool> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == closing => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.refuse(problem)),
        }
    }

    fn array(&mut self, depth: usize) -> Result<()> {
        self.open(b'[', depth)?;
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            self.value(depth)?;
            while self.next(b']', "a comma or ] is expected")? {
                self.out.push(b',');
                self.unwritten += 1;
                self.value(depth)?;
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<()> {
        self.open(b'{', depth)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.out.push(b'}');
            return Ok(());
        }
        let outer = self.members.len();
        let body = self.out.len();
        let unwritten = self.unwritten;
        self.member(depth)?;
        while self.next(b'}', "a comma or } is expected")? {
            self.out.push(b',');
            self.unwritten += 1;
            self.member(depth)?;
        }
        self.order_members(outer, body, unwritten);
        self.members.truncate(outer);
        self.out.push(b'}');
        Ok(())
    }

    fn member(&mut self, depth: usize) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.refuse("a key in quotes is expected"));
        }
        let start = self.out.len();
        self.string()?;
        let key_end = self.out.len();
        let escaped = self.out.get(start..key_end).is_some_and(|key| key.contains(&b'\\'));
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.refuse("a colon is expected"));
        }
        self.at += 1;
        self.out.push(b':');
        let before = self.unwritten;
        self.unwritten += 1;
        self.skip_space();
        self.value(depth)?;
        let unwritten = self.unwritten - before;
        self.members.push(Member { start, key_end, end: self.out.len(), unwritten, escaped });
        Ok(())
    }

    /// Sorts the members written since `body`, where `unwritten` was as given, by key and keeps the last of equal
    /// keys.
    fn order_members(&mut self, outer: usize, body: usize, mut unwritten: usize) {
        let out = &self.out;
        let members = self.members.get_mut(outer..).unwrap_or_default();
        if members.is_sorted_by(|a, b| compare_keys(out, a, b) == Ordering::Less) {
            return;
        }
        // Stable: of equal keys the last one written stays last.
        members.sort_by(|a, b| compare_keys(out, a, b));
        self.spare.clear();
        let mut rest = members.iter().peekable();
        while let Some(member) = rest.next() {
            if rest.peek().is_some_and(|next| compare_keys(out, member, next) == Ordering::Equal) {
                continue;
            }
            if !self.spare.is_empty() {
                self.spare.push(b',');
                unwritten += 1;
            }
            unwritten += member.unwritten;
            self.spare.extend_from_slice(out.get(member.start..member.end).unwrap_or_default());
        }
        self.out.truncate(body);
        self.out.extend_from_slice(&self.spare);
        self.unwritten = unwritten;
    }

    fn string(&mut self) -> Result<()> {
        self.out.push(b'"');
        self.at += 1;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain =
                rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
            self.out.extend(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.out.push(b'"');
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.refuse("a control character in a string is not escaped")),
                None => return Err(self.refuse("a string does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        let character = match self.text.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.refuse("an escape is not known")),
        };
        self.at += 2;
        write_character(character, &mut self.out);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<()> {
        let first = self.four_hex(self.at + 2).ok_or_else(|| self.refuse("\\u needs four hex digits"))?;
        let (code, length) = match first {
            0 => return Err(self.refuse("\\u0000 cannot be stored by Postgres")),
            0xD800..=0xDBFF => {
                let escaped = self.text.get(self.at + 6..self.at + 8) == Some(b"\\u");
                let second = if escaped { self.four_hex(self.at + 8) } else { None };
                match second {
                    Some(second @ 0xDC00..=0xDFFF) => {
                        (0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00), 12)
                    }
                    _ => return Err(self.refuse("a high surrogate is not followed by a low one")),
                }
            }
            _ => (first, 6),
        };
        let character =
            char::from_u32(code).ok_or_else(|| self.refuse("a low surrogate follows no high one"))?;
        self.at += length;
        write_character(character, &mut self.out);
        Ok(())
    }

    fn four_hex(&self, from: usize) -> Option<u32> {
        let digits = self.text.get(from..from + 4)?;
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
    }
}

/// Writes a character of a string in its shortest form.
fn write_character(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend(b"\\\""),
        '\\' => out.extend(b"\\\\"),
        '\u{8}' => out.extend(b"\\b"),
        '\u{c}' => out.extend(b"\\f"),
        '\n' => out.extend(b"\\n"),
        '\r' => out.extend(b"\\r"),
        '\t' => out.extend(b"\\t"),
        '\0'..='\u{1f}' => out.extend(format!("\\u{:04x}", character as u32).as_bytes()),
        _ => {
            let mut buffer = [0; 4];
            out.extend(character.encode_utf8(&mut buffer).as_bytes());
        }
    }
}

/// Compares two keys by their unescaped bytes.
fn compare_keys(out: &[u8], a: &Member, b: &Member) -> Ordering {
    let key = |member: &Member| out.get(member.start + 1..member.key_end - 1).unwrap_or_default();
    if a.escaped || b.escaped {
        // Byte by byte without a buffer: sorting 840 000 such keys took 1.3 s with one per comparison.
        unescaped(key(a)).cmp(unescaped(key(b)))
    } else {
        key(a).cmp(key(b))
    }
}

/// The bytes that a canonical string stands for.
fn unescaped(key: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = key.iter().copied();
    std::iter::from_fn(move || {
        let byte = rest.next()?;
        if byte != b'\\' {
            return Some(byte);
        }
        Some(match rest.next()? {
            b'b' => 8,
            b'f' => 0xc,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => rest.by_ref().take(4).fold(0_u8, |value, digit| {
                value.wrapping_mul(16).wrapping_add((digit as char).to_digit(16).unwrap_or(0) as u8)
            }),
            other => other,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        String::from_utf8(canonicalize(text.as_bytes()).unwrap()).unwrap()
    }

    fn refused_at(text: &[u8]) -> usize {
        match canonicalize(text) {
            Err(Error::BadJson { offset, .. }) => offset,
            other => panic!("{other:?} for {}", String::from_utf8_lossy(text)),
        }
    }

    #[test]
    fn keys_are_sorted_and_the_last_duplicate_wins() {
        assert_eq!(
            canonical(r#"{"b":1,"a":[1.0,10e-1,12345678901234567890123]}"#),
            r#"{"a":[1,1,12345678901234567890123],"b":1}"#
        );
        assert_eq!(
            canonical(r#"{ "a" : 1 , "b" : { "d":1,"c":2 }, "a" : 3 }"#),
            r#"{"a":3,"b":{"c":2,"d":1}}"#
        );
        assert_eq!(canonical(r#"{"aa":1,"a":2,"":3,"é":4,"z":5}"#), r#"{"":3,"a":2,"aa":1,"z":5,"é":4}"#);
        assert_eq!(
            canonical(r##"{"\\":1,"!":2,"\u0001":3,"#":4,"\"":5}"##),
            r##"{"\u0001":3,"!":2,"\"":5,"#":4,"\\":1}"##,
            "escaped keys sort by what they stand for"
        );
        assert_eq!(canonical(r#"{"a":1,"\u0061":2}"#), r#"{"a":2}"#);
    }

    #[test]
    fn strings_have_their_shortest_form() {
        assert_eq!(
            canonical(r#""\u00e9\/\u0041\u001f\u007f\n\u000a\ud83d\ude00""#),
            "\"é/A\\u001f\u{7f}\\n\\n😀\""
        );
        assert_eq!(canonical(" \t\r\n\"\" "), "\"\"");
    }

    #[test]
    fn what_is_not_json_is_refused_where_it_breaks() {
        let cases: [(&[u8], usize); 22] = [
            (b"", 0),
            (b"  ", 2),
            (b"{\"a\":", 5),
            (b"{\"a\" 1}", 5),
            (b"{a:1}", 1),
            (b"{\"a\":1,}", 7),
            (b"[1,]", 3),
            (b"[1 2]", 3),
            (b"[1", 2),
            (b"tru", 0),
            (b"truex", 0),
            (b"1x", 1),
            (b"1 2", 2),
            (b"\"abc", 4),
            (b"\"a\nb\"", 2),
            (b"\"\\x\"", 1),
            (b"\"\\u12g4\"", 1),
            (b"\"\\u0000\"", 1),
            (b"\"\\ud800\"", 1),
            (b"\"\\udc00\"", 1),
            (b"\"\xff\"", 1),
            (b"\xef\xbb\xbf{}", 0),
        ];
        for (text, offset) in cases {
            assert_eq!(refused_at(text), offset, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn the_printed_form_is_measured() {
        for (text, printed) in [
            ("{}", "{}"),
            (" [ ] ", "[]"),
            ("[1,2]", "[1, 2]"),
            (r#"{"b":[1,{"c":1e3}],"a":"é\n\u0001"}"#, r#"{"a": "é\n\u0001", "b": [1, {"c": 1000}]}"#),
            (r#"{"a":1e40,"a":[1e30,2],"a":[3,4]}"#, r#"{"a": [3, 4]}"#),
            (r#"{"b":1,"a":1e40,"b":-1.50,"a":null}"#, r#"{"a": null, "b": -1.5}"#),
        ] {
            let canonical = measure(text.as_bytes(), 128).unwrap();
            assert_eq!(canonical.printed_bytes, printed.len(), "{text}");
            assert_eq!(measure(&canonical.bytes, 128).unwrap().printed_bytes, printed.len(), "{text}");
        }
        assert_eq!(measure(b"[1e131071,-1e131071]", 128).unwrap().printed_bytes, 2 + 2 + 131_072 + 131_073);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonicalize(nested(128).as_bytes()).is_ok());
        assert_eq!(refused_at(nested(129).as_bytes()), 128);
        assert_eq!(refused_at("[".repeat(1_000_000).as_bytes()), 128);
    }
}
