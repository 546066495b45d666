//! JSON numbers as exact decimals in one normal form.
//!
//! A number is `D × 10^e` with an integer `D` that neither begins nor ends with 0. It is written
//! - as `0` if it is zero, whatever its sign, scale and exponent;
//! - in plain digits if that takes at most [`ZEROS_MAX`] zeros that are not in `D` (`1200`, `0.0012`, `12.5`);
//! - as `De<exponent>` otherwise (`1e400`, `-15e-40`), so that a short text stays short.
//!
//! What Postgres' `numeric` cannot hold is refused: more than 131072 digits before the point, or a scale (digits
//! written after the point, less the exponent) above 16383, trailing zeros included.

use crate::limits::{NUMBER_FRACTION_DIGITS_MAX, NUMBER_INTEGER_DIGITS_MAX};

/// Most zeros that plain digits add to `D`.
const ZEROS_MAX: usize = 20;
/// Postgres takes no exponent from half of `int` on, not even of zero.
const EXPONENT_MAX: i64 = (i32::MAX / 2) as i64;

const NOT_A_NUMBER: &str = "a number is malformed";
const TOO_LARGE: &str = "a number has more digits before the point than Postgres' numeric holds";
const TOO_FINE: &str = "a number has more digits after the point than Postgres' numeric holds";

/// What was read and written of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Bytes read.
    pub read: usize,
    /// Bytes of the normal form when Postgres' `numeric` prints it, which is in full: `1e30` has 31.
    pub printed: usize,
}

/// Reads a number at the start of `text` and appends its normal form to `out`. Errors: what is wrong.
pub fn canonical_number(text: &[u8], out: &mut Vec<u8>) -> Result<Number, &'static str> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let integer = digits(text, start);
    let mut end = start + integer.len();
    if integer.is_empty() || (integer.len() > 1 && integer.first() == Some(&b'0')) {
        return Err(NOT_A_NUMBER);
    }
    let mut fraction: &[u8] = &[];
    if text.get(end) == Some(&b'.') {
        fraction = digits(text, end + 1);
        end += 1 + fraction.len();
        if fraction.is_empty() {
            return Err(NOT_A_NUMBER);
        }
    }
    let mut exponent = 0_i64;
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let (value, length) = read_exponent(text.get(end + 1..).unwrap_or_default())?;
        exponent = value;
        end += 1 + length;
    } else if fraction.is_empty() {
        // The common case, a plain integer, is its own normal form.
        if integer.len() as i64 > NUMBER_INTEGER_DIGITS_MAX {
            return Err(TOO_LARGE);
        }
        write_integer(negative, integer, out);
        let is_negative = negative && integer != b"0";
        return Ok(Number { read: end, printed: usize::from(is_negative) + integer.len() });
    }
    let printed = write(negative, integer, fraction, exponent, out)?;
    Ok(Number { read: end, printed })
}

fn write_integer(negative: bool, integer: &[u8], out: &mut Vec<u8>) {
    let zeros = integer.iter().rev().take_while(|digit| **digit == b'0').count();
    if integer == b"0" || zeros <= ZEROS_MAX {
        if negative && integer != b"0" {
            out.push(b'-');
        }
        out.extend(integer);
        return;
    }
    let kept = integer.get(..integer.len() - zeros).unwrap_or(integer);
    if negative {
        out.push(b'-');
    }
    out.extend(kept);
    out.push(b'e');
    out.extend(zeros.to_string().as_bytes());
}

fn digits(text: &[u8], from: usize) -> &[u8] {
    let rest = text.get(from..).unwrap_or_default();
    let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..length).unwrap_or_default()
}

fn read_exponent(text: &[u8]) -> Result<(i64, usize), &'static str> {
    let signed = matches!(text.first(), Some(b'+' | b'-'));
    let written = digits(text, usize::from(signed));
    if written.is_empty() {
        return Err(NOT_A_NUMBER);
    }
    let value = written.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    if value >= EXPONENT_MAX {
        return Err(if text.first() == Some(&b'-') { TOO_FINE } else { TOO_LARGE });
    }
    let value = if text.first() == Some(&b'-') { -value } else { value };
    Ok((value, usize::from(signed) + written.len()))
}

/// Writes the normal form and returns its bytes in full.
fn write(
    negative: bool,
    integer: &[u8],
    fraction: &[u8],
    exponent: i64,
    out: &mut Vec<u8>,
) -> Result<usize, &'static str> {
    if fraction.len() as i64 - exponent > NUMBER_FRACTION_DIGITS_MAX {
        return Err(TOO_FINE);
    }
    let all = || integer.iter().chain(fraction).copied();
    let count = integer.len() + fraction.len();
    let leading = all().take_while(|digit| *digit == b'0').count();
    if leading == count {
        out.push(b'0');
        return Ok(1);
    }
    let trailing = all().rev().take_while(|digit| *digit == b'0').count();
    let kept = count - leading - trailing;
    let significant = || all().skip(leading).take(kept);
    let power = exponent - fraction.len() as i64 + trailing as i64;
    let before_point = kept as i64 + power;
    if before_point > NUMBER_INTEGER_DIGITS_MAX {
        return Err(TOO_LARGE);
    }
    if negative {
        out.push(b'-');
    }
    let zeros_max = ZEROS_MAX as i64;
    if (0..=zeros_max).contains(&power) {
        out.extend(significant());
        out.extend(std::iter::repeat_n(b'0', power as usize));
    } else if power < 0 && before_point > 0 {
        out.extend(significant().take(before_point as usize));
        out.push(b'.');
        out.extend(significant().skip(before_point as usize));
    } else if power < 0 && -before_point <= zeros_max {
        out.extend(b"0.");
        out.extend(std::iter::repeat_n(b'0', -before_point as usize));
        out.extend(significant());
    } else {
        out.extend(significant());
        out.push(b'e');
        out.extend(power.to_string().as_bytes());
    }
    let before = before_point.max(1) as usize;
    let after = if power < 0 { 1 + power.unsigned_abs() as usize } else { 0 };
    Ok(usize::from(negative) + before + after)
}

#[cfg(test)]
mod tests {
    use super::canonical_number;

    fn canonical(text: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        let number = canonical_number(text.as_bytes(), &mut out)?;
        assert_eq!(number.read, text.len(), "{text}");
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn one_value_has_one_form() {
        let cases: [(&[&str], &str); 10] = [
            (&["0", "-0", "0.000", "0e99", "-0.0e-5", "0e200000"], "0"),
            (&["1", "1.0", "10e-1", "1E0", "0.1e1", "1e+0", "0.0001e4"], "1"),
            (&["-1.5", "-15e-1", "-1.50", "-0.15E1"], "-1.5"),
            (&["1200", "12e2", "1.2e3", "1200.00"], "1200"),
            (&["0.0012", "12e-4", "1.20e-3"], "0.0012"),
            (&["12345678901234567890123", "12345678901234567890123.0"], "12345678901234567890123"),
            (&["1e20", "100000000000000000000"], "100000000000000000000"),
            (&["1e21", "1000000000000000000000", "10000000000000000000000e-1"], "1e21"),
            (&["-1e400", "-0.01e402"], "-1e400"),
            (&["15e-40", "1.5e-39", "0.0000000000000000000000000000000000000015"], "15e-40"),
        ];
        for (spellings, expected) in cases {
            for spelling in spellings {
                assert_eq!(canonical(spelling).as_deref(), Ok(expected), "{spelling}");
            }
        }
    }

    #[test]
    fn the_bounds_of_numeric_hold() {
        assert_eq!(canonical("1e131071").as_deref(), Ok("1e131071"));
        assert!(canonical("1e131072").is_err());
        assert!(canonical("1e-16383").is_ok());
        assert!(canonical("1e-16384").is_err());
        assert!(canonical("10e-16384").is_err(), "the scale counts trailing zeros");
        assert!(canonical(&format!("0.{}", "0".repeat(16384))).is_err());
        assert!(canonical("0e-16384").is_err());
        assert!(canonical("1e99999999999999999999").is_err());
        assert_eq!(canonical("0e1073741822").as_deref(), Ok("0"));
        assert!(canonical("0e1073741823").is_err(), "Postgres takes no such exponent, not even of zero");
    }

    #[test]
    fn what_a_number_prints_as_is_counted() {
        let full = |digits: usize| "9".repeat(digits);
        let cases = [
            ("0", 1),
            ("-0", 1),
            ("-0.00", 1),
            ("0e500", 1),
            ("7", 1),
            ("-7.0", 2),
            ("1200", 4),
            ("-12e2", 5),
            ("1e30", 31),
            ("-1e30", 32),
            ("15e29", 31),
            ("12.5", 4),
            ("0.0012", 6),
            ("-15e-40", 43),
            ("1.5e-39", 42),
            ("1e131071", 131_072),
            ("1e-16383", 16_385),
            (&full(400), 400),
            (&format!("{}e200", full(400)), 600),
        ];
        for (text, printed) in cases {
            let number = canonical_number(text.as_bytes(), &mut Vec::new()).unwrap();
            assert_eq!(number.printed, printed, "{text}");
        }
    }

    #[test]
    fn malformed_numbers_are_refused() {
        for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "--1"] {
            let mut out = Vec::new();
            assert!(canonical_number(text.as_bytes(), &mut out).is_err(), "{text}");
        }
    }
}
