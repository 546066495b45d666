//! Arguments of a command, taken one after the other and turned into the shared crate's types.

use redis_module::RedisString;
use tandem_shared::error::shown;
use tandem_shared::id::{check_id, utf8};
use tandem_shared::request::{PutOptions, PutRequest, RemoveRequest, integer};
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

/// What a put does to the key's time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// None afterwards, as after SET.
    Clear,
    /// As it was.
    Keep,
    /// So many milliseconds from now.
    After(u64),
}

/// How a put is called.
pub const PUT_USAGE: &str = "TANDEM.PUT id payload [JSON|BINARY] [VERSION n] [STATE s] [EX s|PX ms|KEEPTTL] \
                             [IFMATCH etag|IFABSENT] [AUDIT json]";

/// Reads payload and options of a put.
pub fn put(args: &mut Args<'_>, content_bytes_max: usize) -> Result<(PutRequest, Expiry)> {
    let payload = args.bytes()?;
    let mut options = PutOptions::default();
    let mut expiry = Expiry::Clear;
    while let Some(word) = args.option() {
        match word.as_str() {
            "JSON" => options.content_type = Some(ContentType::Json),
            "BINARY" => options.content_type = Some(ContentType::Binary),
            "VERSION" => options.version = Some(args.text("version")?),
            "STATE" => options.state = Some(args.text("state")?),
            "IFMATCH" => options.if_match = Some(args.text("etag")?),
            "IFABSENT" => options.if_absent = true,
            "AUDIT" => options.audit = Some(args.text("audit")?),
            "EX" => expiry = Expiry::After(positive("EX", args)?.saturating_mul(1000)),
            "PX" => expiry = Expiry::After(positive("PX", args)?),
            "KEEPTTL" => expiry = Expiry::Keep,
            other => return Err(unknown_option(other, PUT_USAGE)),
        }
    }
    Ok((PutRequest::parse(payload, &options, content_bytes_max)?, expiry))
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

/// Reads the options of a removal.
pub fn remove(args: &mut Args<'_>, usage: &'static str) -> Result<RemoveRequest> {
    let (mut if_match, mut audit) = (None, None);
    while let Some(word) = args.option() {
        match word.as_str() {
            "IFMATCH" => if_match = Some(args.text("etag")?),
            "AUDIT" => audit = Some(args.text("audit")?),
            other => return Err(unknown_option(other, usage)),
        }
    }
    RemoveRequest::parse(None, if_match, audit)
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
