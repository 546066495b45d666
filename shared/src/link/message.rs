//! The messages of a link's worker that say more than one thing, as the words of a command.

use super::{EXCEPTIONS_MAX, PROTOCOL, Scope, check_name, check_protocol};
use crate::decide::Retention;
use crate::error::{Error, Result};
use crate::owner::Owner;
use crate::request::integer;

/// `ATTACH name protocol key-check retention-ms cluster timeline database prefix mode direction [CHECK]`: who comes
/// for which link, and what the link carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the link.
    pub link: String,
    /// Check value of the sender's digest key, in hex.
    pub key_check: String,
    /// How long the sender keeps tombstones.
    pub retention: Retention,
    /// The database that sends it.
    pub owner: Owner,
    /// What the link carries.
    pub scope: Scope,
    /// It comes from a check beside the link's session: what the session has sent for readers stays.
    pub is_check: bool,
}

impl Attachment {
    /// What the words are, for who gives others.
    pub const USAGE: &str = "TANDEM.LINK ATTACH name protocol key-check retention-ms cluster timeline database prefix \
                             mirror|cache both|to_redis|from_redis [CHECK]";

    /// The words after the command's name.
    pub fn words(&self) -> Vec<String> {
        let mut words =
            vec!["ATTACH".to_owned(), self.link.clone(), PROTOCOL.to_string(), self.key_check.clone()];
        words.push(self.retention.ms().to_string());
        words.extend(self.owner.words());
        words.extend(self.scope.words().map(str::to_owned));
        if self.is_check {
            words.push("CHECK".to_owned());
        }
        words
    }

    /// Reads the words after `ATTACH`. Errors: `NOLINK` for another protocol, whatever follows it; `INVALID`.
    pub fn parse(words: &[&str]) -> Result<Attachment> {
        let wrong =
            || Error::invalid("number of arguments", "is wrong", format!("usage: {}", Attachment::USAGE));
        let [link, protocol, rest @ ..] = words else { return Err(wrong()) };
        check_name(link)?;
        check_protocol("the Postgres side", unsigned("protocol", protocol)?)?;
        let (rest, is_check) = match rest {
            [rest @ .., last] if rest.len() == 8 && last.eq_ignore_ascii_case("CHECK") => (rest, true),
            rest => (rest, false),
        };
        let [key_check, retention, cluster, timeline, database, prefix, mode, direction] = rest else {
            return Err(wrong());
        };
        Ok(Attachment {
            link: (*link).to_owned(),
            key_check: (*key_check).to_owned(),
            retention: Retention::of_ms(unsigned("retention", retention)?),
            owner: Owner::parse([cluster, timeline, database])?,
            scope: Scope::parse(prefix, mode, direction)?,
            is_check,
        })
    }
}

/// `ACK name run seq [EXCEPT count number …] [REFUSED id …]`: everything up to a sequence number was taken, but for what
/// has one of the numbers named, and for what was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Name of the link.
    pub link: String,
    /// The run that the link was attached to.
    pub run: String,
    /// The sequence number.
    pub seq: u64,
    /// Numbers up to it, in order, of what was pulled and is not taken yet, as somebody is in its way.
    pub except: Vec<u64>,
    /// Ids up to it whose revision Postgres has refused and set aside.
    pub refused: Vec<String>,
}

impl Acknowledgement {
    /// What the words are, for who gives others.
    pub const USAGE: &str =
        "TANDEM.LINK ACK name run seq [EXCEPT count number [number ...]] [REFUSED id [id ...]]";

    /// How far can be acknowledged where everything up to `pulled` was pulled and what has the numbers `held`, in order, is
    /// not taken yet: the number, and the exceptions up to it. What is held beyond [`EXCEPTIONS_MAX`] is not
    /// acknowledged, nor is what comes after that.
    pub fn reach(pulled: u64, held: impl Iterator<Item = u64>) -> (u64, Vec<u64>) {
        let mut held = held.take_while(|number| *number <= pulled);
        let except: Vec<u64> = held.by_ref().take(EXCEPTIONS_MAX).collect();
        (held.next().map_or(pulled, |first| first.saturating_sub(1)), except)
    }

    /// The words after the command's name.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["ACK".to_owned(), self.link.clone(), self.run.clone(), self.seq.to_string()];
        if !self.except.is_empty() {
            words.extend(["EXCEPT".to_owned(), self.except.len().to_string()]);
            words.extend(self.except.iter().map(u64::to_string));
        }
        if !self.refused.is_empty() {
            words.push("REFUSED".to_owned());
            words.extend(self.refused.iter().cloned());
        }
        words
    }

    /// Reads the words after `ACK`. Errors: `INVALID`.
    pub fn parse(words: &[&str]) -> Result<Acknowledgement> {
        let wrong = || {
            let usage = format!("usage: {}", Acknowledgement::USAGE);
            Error::invalid("arguments of ACK", "are not understood", usage)
        };
        let [link, run, seq, rest @ ..] = words else { return Err(wrong()) };
        let (except, rest) = match rest {
            [word, count, rest @ ..] if word.eq_ignore_ascii_case("EXCEPT") => {
                let count = usize::try_from(unsigned("count", count)?).map_err(|_| wrong())?;
                rest.split_at_checked(count).ok_or_else(wrong)?
            }
            rest => (&[][..], rest),
        };
        let refused = match rest {
            [] => &[][..],
            [word, refused @ ..] if word.eq_ignore_ascii_case("REFUSED") && !refused.is_empty() => refused,
            _ => return Err(wrong()),
        };
        check_name(link)?;
        Ok(Acknowledgement {
            link: (*link).to_owned(),
            run: (*run).to_owned(),
            seq: unsigned("seq", seq)?,
            except: except.iter().map(|number| unsigned("number", number)).collect::<Result<_>>()?,
            refused: refused.iter().map(|id| (*id).to_owned()).collect(),
        })
    }
}

/// A number that is not negative. Errors: `INVALID`.
pub(crate) fn unsigned(what: &str, text: &str) -> Result<u64> {
    let number = integer(what, text)?;
    u64::try_from(number)
        .map_err(|_| Error::invalid(format!("{what} {number}"), "is negative", "give a number from 0 on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(is_check: bool) -> Attachment {
        Attachment {
            link: "redis".to_owned(),
            key_check: "00ff".to_owned(),
            retention: Retention::of_ms(7),
            owner: Owner { cluster: "76543".into(), timeline: 2, database: 16384 },
            scope: Scope::parse("a:", "cache", "both").unwrap(),
            is_check,
        }
    }

    fn reread(words: &[String]) -> Result<Attachment> {
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        Attachment::parse(&words)
    }

    #[test]
    fn attachments_are_read_as_they_were_written() {
        for is_check in [false, true] {
            let attachment = attachment(is_check);
            assert_eq!(reread(&attachment.words()).unwrap(), attachment);
        }
        let words = attachment(false).words();
        for length in 0..words.len() {
            assert!(reread(&words[..length]).is_err(), "{length} words");
        }
        let mut more = words.clone();
        more.push("more".to_owned());
        assert!(reread(&more).is_err());
    }

    #[test]
    fn another_protocol_is_told_of_before_anything_else() {
        let mut words = attachment(false).words();
        words[2] = "9".to_owned();
        assert_eq!(reread(&words).unwrap_err().code().as_str(), "NOLINK");
        words.truncate(3);
        assert_eq!(reread(&words).unwrap_err().code().as_str(), "NOLINK");
        words[2] = "00ff".to_owned();
        assert_eq!(reread(&words).unwrap_err().code().as_str(), "INVALID");
    }

    #[test]
    fn acknowledgements_are_read_as_they_were_written() {
        for refused in [vec![], vec!["a".to_owned(), "REFUSED".to_owned()]] {
            for except in [vec![], vec![4], vec![1, 2, 5]] {
                let refused = refused.clone();
                let ack = Acknowledgement { link: "redis".into(), run: "r".into(), seq: 5, except, refused };
                let words = ack.words();
                let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
                assert_eq!(Acknowledgement::parse(&words).unwrap(), ack);
            }
        }
        for words in [
            &["redis", "r"][..],
            &["redis", "r", "x"],
            &["redis", "r", "1", "REFUSED"],
            &["redis", "r", "1", "a"],
            &["redis", "r", "1", "EXCEPT"],
            &["redis", "r", "1", "EXCEPT", "2", "1"],
            &["redis", "r", "1", "EXCEPT", "1", "x"],
            &["redis", "r", "1", "EXCEPT", "-1", "x"],
            &["redis", "r", "1", "EXCEPT", "1", "1", "2"],
        ] {
            assert!(Acknowledgement::parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_is_held_is_named_up_to_a_bound() {
        let reach = |pulled, held: &[u64]| Acknowledgement::reach(pulled, held.iter().copied());
        assert_eq!(reach(0, &[]), (0, vec![]));
        assert_eq!(reach(9, &[]), (9, vec![]));
        assert_eq!(reach(9, &[3, 7]), (9, vec![3, 7]));
        assert_eq!(reach(5, &[3, 7]), (5, vec![3]));
        let bound = EXCEPTIONS_MAX as u64;
        let (seq, except) = Acknowledgement::reach(10 * bound, 1..=bound);
        assert_eq!((seq, except.len()), (10 * bound, EXCEPTIONS_MAX));
        let (seq, except) = Acknowledgement::reach(10 * bound, (1..=bound).chain([2 * bound, 3 * bound]));
        assert_eq!((seq, except.len()), (2 * bound - 1, EXCEPTIONS_MAX));
    }
}
