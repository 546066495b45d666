//! What a link carries, and which way.

use super::RESERVED_PREFIX;
use crate::error::{Error, Result, shown};
use crate::id::{Range, check_prefix};

/// How much of what a link carries is to be found in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of it.
    Mirror,
    /// What was read or written there.
    Cache,
}

impl Mode {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Mirror => "mirror",
            Mode::Cache => "cache",
        }
    }

    /// Reads a name. Errors: `INVALID`.
    pub fn parse(name: &str) -> Result<Mode> {
        one_of("mode", name, [Mode::Mirror, Mode::Cache], Mode::as_str)
    }
}

/// Which side of a link takes what the other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Each takes what the other has.
    Both,
    /// Redis takes what Postgres has.
    ToRedis,
    /// Postgres takes what Redis has.
    FromRedis,
}

impl Direction {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Both => "both",
            Direction::ToRedis => "to_redis",
            Direction::FromRedis => "from_redis",
        }
    }

    /// Reads a name. Errors: `INVALID`.
    pub fn parse(name: &str) -> Result<Direction> {
        let all = [Direction::Both, Direction::ToRedis, Direction::FromRedis];
        one_of("direction", name, all, Direction::as_str)
    }
}

fn one_of<T: Copy, const N: usize>(
    what: &str,
    name: &str,
    all: [T; N],
    word: impl Fn(T) -> &'static str,
) -> Result<T> {
    all.into_iter().find(|each| word(*each) == name).ok_or_else(|| {
        let words = all.map(&word).join(", ");
        Error::invalid(format!("{what} {}", shown(name)), "is not known", format!("give one of {words}"))
    })
}

/// What a link carries: the ids under its prefix and tandem's own documents, in one direction or both, all of them or,
/// where Redis is a cache, those that are used there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    prefix: Box<str>,
    mode: Mode,
    direction: Direction,
}

impl Scope {
    /// A scope. Errors: `INVALID` for a prefix that no id can have, and for a cache that nothing is brought to.
    pub fn new(prefix: &str, mode: Mode, direction: Direction) -> Result<Scope> {
        check_prefix(prefix)?;
        if mode == Mode::Cache && direction == Direction::FromRedis {
            return Err(Error::invalid(
                "direction from_redis",
                "brings nothing to a cache",
                "give direction both or to_redis, or mode mirror",
            ));
        }
        Ok(Scope { prefix: prefix.into(), mode, direction })
    }

    /// Everything, both ways.
    pub fn everything() -> Scope {
        Scope { prefix: "".into(), mode: Mode::Mirror, direction: Direction::Both }
    }

    /// Reads a scope from its words. Errors: `INVALID`.
    pub fn parse(prefix: &str, mode: &str, direction: &str) -> Result<Scope> {
        Scope::new(prefix, Mode::parse(mode)?, Direction::parse(direction)?)
    }

    /// The words that [`Scope::parse`] reads: prefix, mode, direction.
    pub fn words(&self) -> [&str; 3] {
        [&self.prefix, self.mode.as_str(), self.direction.as_str()]
    }

    /// The prefix of the ids that are carried beside tandem's own documents.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How much of them is to be found in Redis.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether Redis holds what is used there, and not everything.
    pub fn is_cache(&self) -> bool {
        self.mode == Mode::Cache
    }

    /// Whether Redis takes what Postgres has.
    pub fn to_redis(&self) -> bool {
        self.direction != Direction::FromRedis
    }

    /// Whether Postgres takes what Redis has.
    pub fn to_postgres(&self) -> bool {
        self.direction != Direction::ToRedis
    }

    /// Whether an id is under the prefix.
    pub fn covers(&self, id: &str) -> bool {
        id.starts_with(&*self.prefix)
    }

    /// Whether the link carries an id.
    pub fn carries(&self, id: &str) -> bool {
        self.covers(id) || id.starts_with(RESERVED_PREFIX)
    }

    /// Whether the link carries an id, and both sides are to have it at all times.
    pub fn mirrors(&self, id: &str) -> bool {
        id.starts_with(RESERVED_PREFIX) || (self.mode == Mode::Mirror && self.covers(id))
    }

    /// The ranges of ids of which both sides have all, and the one of which Redis, being a cache, holds some. No two
    /// of the former overlap.
    pub fn ranges(&self) -> (Vec<Range>, Option<Range>) {
        // The prefixes were checked when the scope was made.
        let of = |prefix: &str| Range::of_prefix(prefix).unwrap_or_default();
        let reserved = of(RESERVED_PREFIX);
        if self.is_cache() {
            return (vec![reserved], Some(of(&self.prefix)));
        }
        let mirrored = if RESERVED_PREFIX.starts_with(&*self.prefix) {
            vec![of(&self.prefix)]
        } else if self.prefix.starts_with(RESERVED_PREFIX) {
            vec![reserved]
        } else {
            vec![of(&self.prefix), reserved]
        };
        (mirrored, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(words: [&str; 3]) -> Result<Scope> {
        Scope::parse(words[0], words[1], words[2])
    }

    #[test]
    fn words_are_read_back_and_others_refused() {
        for words in [["", "mirror", "both"], ["a:", "cache", "to_redis"], ["a", "mirror", "from_redis"]] {
            assert_eq!(scope(words).unwrap().words(), words);
        }
        for (words, wrong) in [
            (["", "none", "both"], "mirror, cache"),
            (["", "mirror", "sideways"], "both, to_redis, from_redis"),
            (["a\0", "mirror", "both"], "NUL"),
            (["", "cache", "from_redis"], "cache"),
        ] {
            let text = scope(words).unwrap_err().to_string();
            assert!(text.contains(wrong), "{text}");
        }
    }

    #[test]
    fn a_scope_says_what_it_carries_and_which_way() {
        let cache = scope(["c:", "cache", "to_redis"]).unwrap();
        assert!(cache.carries("c:1") && cache.carries("tandem/x") && !cache.carries("d"));
        assert!(cache.mirrors("tandem/x") && !cache.mirrors("c:1"));
        assert!(cache.to_redis() && !cache.to_postgres());
        let mirror = scope(["c:", "mirror", "from_redis"]).unwrap();
        assert!(mirror.mirrors("c:1") && mirror.mirrors("tandem/x") && !mirror.mirrors("d"));
        assert!(!mirror.to_redis() && mirror.to_postgres());
        assert!(Scope::everything().to_redis() && Scope::everything().to_postgres());
    }

    proptest! {
        #[test]
        fn ranges_hold_what_is_carried_once(
            prefix in "(t|ta|tandem|tandem/|tandem/x|u|a:|)", rest in "(tandem/[a-z/]{0,3}|[t-u]{0,2}|a:[a-z]{0,2})",
            mode in prop::sample::select(vec![Mode::Mirror, Mode::Cache]),
        ) {
            let scope = Scope::new(&prefix, mode, Direction::Both).unwrap();
            let (mirrored, cached) = scope.ranges();
            for id in [rest.clone(), format!("{prefix}{rest}")].iter().filter(|id| !id.is_empty()) {
                let times = mirrored.iter().filter(|range| range.contains(id)).count();
                prop_assert_eq!(times, usize::from(scope.mirrors(id)), "{}", id);
                let is_cached = cached.as_ref().is_some_and(|range| range.contains(id));
                prop_assert_eq!(scope.carries(id), times > 0 || is_cached, "{}", id);
            }
        }
    }
}
