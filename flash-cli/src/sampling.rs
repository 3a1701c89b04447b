//! Values of the sampling flags, as other programs write them.

use std::num::ParseIntError;
use std::str::FromStr;

/// What `--seed` says: a number, or -1 for one that differs every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    Random,
    Fixed(u64),
}

impl Seed {
    /// The seed to draw with. A random one is short enough to be typed again.
    pub(crate) fn draw(self) -> u64 {
        match self {
            Self::Random => u64::from(fastrand::u32(..)),
            Self::Fixed(seed) => seed,
        }
    }
}

impl FromStr for Seed {
    type Err = ParseIntError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        if given == "-1" { Ok(Self::Random) } else { given.parse().map(Self::Fixed) }
    }
}

/// What `--top-k` says: a number of tokens, 0 or -1 for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopK(pub(crate) usize);

impl FromStr for TopK {
    type Err = ParseIntError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        if given == "-1" { Ok(Self(0)) } else { given.parse().map(Self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_a_random_seed_and_all_tokens() {
        assert_eq!(("-1".parse(), "7".parse()), (Ok(Seed::Random), Ok(Seed::Fixed(7))));
        assert_eq!(("-1".parse(), "0".parse(), "40".parse()), (Ok(TopK(0)), Ok(TopK(0)), Ok(TopK(40))));
        for given in ["-2", "", "1.5", "x", "18446744073709551616"] {
            assert!(given.parse::<Seed>().is_err() && given.parse::<TopK>().is_err(), "{given:?}");
        }
        let seeds: Vec<_> = (0..8).map(|_| Seed::Random.draw()).collect();
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
        assert_eq!(Seed::Fixed(u64::MAX).draw(), u64::MAX);
    }
}
