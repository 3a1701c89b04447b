//! Prefetching policies.

use std::fmt;
use std::str::FromStr;

/// Prefetching policy of weights in memory: the distance, and the target cache. Kernels whose instruction set has no
/// choice ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prefetch {
    /// A few KiB ahead, into all caches.
    Near,
    /// A few KiB ahead, bypassing the outer caches, since each line is used once.
    NonTemporal,
    /// Many KiB ahead.
    Far,
}

impl Prefetch {
    const ALL: [Self; 3] = [Self::Near, Self::NonTemporal, Self::Far];

    /// Returns the name that [`FromStr`] parses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::NonTemporal => "non-temporal",
            Self::Far => "far",
        }
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Prefetch {
    type Err = UnknownPrefetch;

    fn from_str(name: &str) -> Result<Self, UnknownPrefetch> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPrefetch(name.to_owned()))
    }
}

/// The error of parsing a [`Prefetch`] from another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no prefetching policy (near, non-temporal and far are)")]
pub struct UnknownPrefetch(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_others_refused() {
        for policy in Prefetch::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("Near".parse::<Prefetch>().unwrap_err().to_string().contains("\"Near\""));
    }
}
