//! Arguments of a command, taken one after the other and turned into the shared crate's types.

use crate::store::Ttl;
use redis_module::RedisString;
use tandem_shared::error::shown;
use tandem_shared::id::{check_id, utf8};
use tandem_shared::request::{PutOptions, RemoveRequest, bulk_limit, integer};
use tandem_shared::{ContentType, Error, Result};

/// The arguments that are left.
pub struct Args<'a> {
    rest: std::slice::Iter<'a, RedisString>,
    usage: &'static str,
}

impl<'a> Args<'a> {
    /// The arguments after the command's name; `usage` is shown when their number is wrong.
    pub fn new(args: &'a [RedisString], usage: &'static str) -> Args<'a> {
        let mut rest = args.iter();
        rest.next();
        Args { rest, usage }
    }

    /// Number of arguments left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next argument as given. Errors: `INVALID` when there is none.
    pub fn string(&mut self) -> Result<&'a RedisString> {
        self.rest.next().ok_or_else(|| wrong_number(self.usage))
    }

    /// The next argument as bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        Ok(self.string()?.as_slice())
    }

    /// The next argument as text; `what` names it in the error.
    pub fn text(&mut self, what: &str) -> Result<&'a str> {
        utf8(what, self.bytes()?)
    }

    /// The next argument as an id, with the string that names the key.
    pub fn id(&mut self) -> Result<(&'a str, &'a RedisString)> {
        let string = self.string()?;
        let id = utf8("id", string.as_slice())?;
        check_id(id)?;
        Ok((id, string))
    }

    /// The next argument as an unsigned integer.
    pub fn unsigned(&mut self, what: &str) -> Result<u64> {
        let number = integer(what, self.text(what)?)?;
        u64::try_from(number)
            .map_err(|_| Error::invalid(format!("{what} {number}"), "is negative", "give a number from 0 on"))
    }

    /// The next argument in upper case, as options and subcommands are compared. `None` at the end.
    pub fn option(&mut self) -> Option<String> {
        self.rest.next().map(|word| word.to_string_lossy().to_ascii_uppercase())
    }

    /// Checks that nothing is left. Errors: `INVALID`.
    pub fn end(&self) -> Result<()> {
        if self.left() == 0 { Ok(()) } else { Err(wrong_number(self.usage)) }
    }
}

fn wrong_number(usage: &str) -> Error {
    Error::invalid("number of arguments", "is wrong", format!("usage: {usage}"))
}

/// An option word the command does not have.
pub fn unknown_option(word: &str, usage: &str) -> Error {
    Error::invalid(format!("option {}", shown(word)), "is not known", format!("usage: {usage}"))
}

/// The options that a write was given.
#[derive(Default)]
pub struct WriteOptions<'a> {
    /// As the shared crate reads them.
    pub put: PutOptions<'a>,
    /// What becomes of the time to live; `None` if nothing is said of it.
    pub ttl: Option<Ttl>,
}

/// Words that a command takes besides those that all writes take: VERSION, IFMATCH and AUDIT.
#[derive(Clone, Copy, Default)]
pub struct Takes {
    /// JSON, BINARY and LOCAL.
    pub content_type: bool,
    /// STATE and IFABSENT.
    pub state: bool,
    /// EX, PX and KEEPTTL.
    pub ttl: bool,
    /// VERSION, IFMATCH and, where STATE is taken, IFABSENT; batches have none.
    pub condition: bool,
}

/// How a put is called.
pub const PUT_USAGE: &str = "TANDEM.PUT id payload [JSON|BINARY] [VERSION n] [STATE s] [EX s|PX ms|KEEPTTL] \
                             [IFMATCH etag|IFABSENT] [AUDIT json] [LOCAL]";

/// Reads the options of a write to the end of the arguments. Errors: `INVALID`.
pub fn write_options<'a>(args: &mut Args<'a>, takes: Takes, usage: &'static str) -> Result<WriteOptions<'a>> {
    let mut options = WriteOptions::default();
    let put = &mut options.put;
    while let Some(word) = args.option() {
        match word.as_str() {
            "AUDIT" => put.audit = Some(args.text("audit")?),
            "JSON" if takes.content_type => once(&mut put.content_type, ContentType::Json, &word)?,
            "BINARY" if takes.content_type => once(&mut put.content_type, ContentType::Binary, &word)?,
            "LOCAL" if takes.content_type => put.local = true,
            "STATE" if takes.state => put.state = Some(args.text("state")?),
            "VERSION" if takes.condition => put.version = Some(args.text("version")?),
            "IFMATCH" if takes.condition => put.if_match = Some(args.text("etag")?),
            "IFABSENT" if takes.condition && takes.state => put.if_absent = true,
            "EX" if takes.ttl => {
                let seconds = positive("EX", args)?;
                once(&mut options.ttl, Ttl::After(seconds.saturating_mul(1000)), &word)?;
            }
            "PX" if takes.ttl => once(&mut options.ttl, Ttl::After(positive("PX", args)?), &word)?,
            "KEEPTTL" if takes.ttl => once(&mut options.ttl, Ttl::Keep, &word)?,
            other => return Err(unknown_option(other, usage)),
        }
    }
    Ok(options)
}

/// Sets what one of several words says. Errors: `INVALID` where another has said it.
fn once<T>(slot: &mut Option<T>, value: T, word: &str) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Error::invalid(
            format!("option {word}"),
            "contradicts an option before it",
            "give one of the two",
        ));
    }
    Ok(())
}

/// Longest time to live: what Redis can add to its clock without overflow.
const EXPIRY_MAX: u64 = 1 << 50;

fn positive(what: &str, args: &mut Args<'_>) -> Result<u64> {
    match args.unsigned(what)? {
        number @ 1..=EXPIRY_MAX => Ok(number),
        number => Err(Error::invalid(
            format!("{what} {number}"),
            "is out of range",
            format!("give a time to live from 1 to {EXPIRY_MAX}"),
        )),
    }
}

/// Reads `[LIMIT n] [AUDIT json]` of a bulk removal.
pub fn bulk(args: &mut Args<'_>, usage: &'static str) -> Result<(usize, RemoveRequest)> {
    let (mut limit, mut audit) = (None, None);
    while let Some(word) = args.option() {
        match word.as_str() {
            "LIMIT" => limit = Some(integer("limit", args.text("limit")?)?),
            "AUDIT" => audit = Some(args.text("audit")?),
            other => return Err(unknown_option(other, usage)),
        }
    }
    let limit = bulk_limit(limit)?.unwrap_or(usize::MAX);
    Ok((limit, RemoveRequest::parse(None, None, audit)?))
}

/// Reads `[AFTER text] [LIMIT n]`.
pub fn page<'a>(args: &mut Args<'a>, usage: &'static str) -> Result<(Option<&'a str>, usize)> {
    let (mut after, mut limit) = (None, None);
    while let Some(word) = args.option() {
        match word.as_str() {
            "AFTER" => after = Some(args.text("after")?),
            "LIMIT" => limit = Some(integer("limit", args.text("limit")?)?),
            other => return Err(unknown_option(other, usage)),
        }
    }
    Ok((after, tandem_shared::request::page_limit(limit)?))
}
