//! What the two halves of a link say to each other: its version, the names of links, what a link carries ([`scope`]),
//! and the messages that both sides must read alike ([`message`]). The Postgres side writes them, the Redis side
//! reads them.

pub mod message;
pub mod scope;

pub use message::{Acknowledgement, Attachment};
pub use scope::{Direction, Mode, Scope};

use crate::error::{Error, Result, shown};

/// Version of the words between the two halves. It goes up with every change of their form or meaning.
pub const PROTOCOL: u64 = 3;

/// Numbers that an acknowledgement names at most of what was pulled and is not taken yet.
pub const EXCEPTIONS_MAX: usize = 1000;

/// Longest name of a link in bytes: it is part of a worker's name, which Postgres cuts at 96 bytes.
pub const NAME_BYTES_MAX: usize = 48;

/// What a check calls the Postgres that runs it. No link has that name.
pub const LOCAL: &str = "local";

/// Prefix of tandem's own documents, which every link mirrors.
pub const RESERVED_PREFIX: &str = "tandem/";

/// Checks that the other side of a link speaks this version. `theirs`: the version it says, `they`: what it is called.
///
/// Errors: `NOLINK`.
pub fn check_protocol(they: &str, theirs: u64) -> Result<()> {
    if theirs == PROTOCOL {
        return Ok(());
    }
    Err(Error::NoLink {
        what: format!("the link's protocol {PROTOCOL}"),
        problem: format!("is not spoken by {they}, which speaks protocol {theirs}"),
        remedy: "install the extension and the module of one release of tandem, and restart both servers"
            .to_owned(),
    })
}

/// Checks the name of a link. Errors: `INVALID`.
pub fn check_name(name: &str) -> Result<()> {
    let refused = |problem: &str, remedy: String| {
        Err(Error::invalid(format!("link name {}", shown(name)), problem, remedy))
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return refused(
            "is not usable",
            format!("give 1 to {NAME_BYTES_MAX} bytes without control characters"),
        );
    }
    // Where a link is named, a peer may be too.
    if name.contains("://") || name == LOCAL {
        return refused(
            "is what a check calls one of its peers",
            format!("give a name without ://, other than {LOCAL}"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_short_and_no_peers() {
        for name in ["redis", "Redis 2", "ä", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a\nb", "a\0", "redis://x", LOCAL, &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(check_name(name).unwrap_err().code().as_str(), "INVALID", "{name:?}");
        }
    }

    #[test]
    fn another_protocol_is_refused_with_what_to_do() {
        assert!(check_protocol("the module", PROTOCOL).is_ok());
        for theirs in [0, PROTOCOL - 1, PROTOCOL + 1] {
            let error = check_protocol("the module", theirs).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.code().as_str(), "NOLINK");
            assert!(text.contains(&format!("protocol {theirs}")) && text.contains("one release"), "{text}");
        }
    }
}
