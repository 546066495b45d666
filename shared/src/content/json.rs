//! Canonical JSON (DESIGN section 2): one text for one value, so that equal content has equal bytes and equal
//! hashes on both sides. It is what Postgres' `jsonb` distinguishes and no more: white space, key order,
//! duplicate keys (the last wins), escapes and the spelling of numbers leave no trace. RFC 8785 does the same
//! through binary floating point, which would make different `jsonb` numbers equal.
//!
//! One pass, no tree: what is read goes to the [`Builder`], which puts it into its form.

use super::builder::{Builder, Canonical, TOO_DEEP, needs_escape};
use crate::error::{Error, Result};
use crate::limits::JSON_DEPTH_MAX;

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
    let mut writer = Writer { text, at: 0, to: Builder::new(depth_max, text.len()) };
    writer.skip_space();
    writer.value()?;
    writer.skip_space();
    if writer.at < text.len() {
        return Err(writer.refuse("something follows the value"));
    }
    Ok(writer.to.finish())
}

struct Writer<'a> {
    text: &'a [u8],
    at: usize,
    to: Builder,
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

    fn value(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
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
        self.to.word(word);
        self.at = end;
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += self.to.number_at(rest).map_err(|problem| self.refuse(problem))?;
        if self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric()) {
            return Err(self.refuse("a number is malformed"));
        }
        Ok(())
    }

    fn too_deep(&self) -> Error {
        self.refuse(TOO_DEEP)
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

    fn array(&mut self) -> Result<()> {
        self.to.open_array().ok_or_else(|| self.too_deep())?;
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            self.value()?;
            while self.next(b']', "a comma or ] is expected")? {
                self.to.comma();
                self.value()?;
            }
        }
        self.to.close_array();
        Ok(())
    }

    fn object(&mut self) -> Result<()> {
        let opened = self.to.open_object().ok_or_else(|| self.too_deep())?;
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            self.member()?;
            while self.next(b'}', "a comma or } is expected")? {
                self.to.comma();
                self.member()?;
            }
        }
        self.to.close_object(opened);
        Ok(())
    }

    fn member(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.refuse("a key in quotes is expected"));
        }
        let start = self.to.begin_key();
        self.string()?;
        let key = self.to.end_key(start);
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.refuse("a colon is expected"));
        }
        self.at += 1;
        self.skip_space();
        self.value()?;
        self.to.end_member(key);
        Ok(())
    }

    fn string(&mut self) -> Result<()> {
        self.to.quote();
        self.at += 1;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let plain = rest.iter().copied().position(needs_escape).unwrap_or(rest.len());
            self.to.plain(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.to.quote();
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
        self.to.character(character);
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
        self.to.character(character);
        Ok(())
    }

    fn four_hex(&self, from: usize) -> Option<u32> {
        let digits = self.text.get(from..from + 4)?;
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
    }
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
