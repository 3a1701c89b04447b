//! Values of the sampling flags, with the conventions of other programs.

use std::str::FromStr;

/// Why the value of a sampling flag is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SamplingError {
    #[error("the seed must be a non-negative integer, or -1 for a different one each time")]
    Seed,
    #[error("must be a number of tokens, or 0 or -1 for all")]
    TopK,
}

/// Value of `--seed`: a number, or -1 for a different one each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    Random,
    Fixed(u64),
}

impl Seed {
    /// Returns the seed. A random one has 32 bits, short enough to type again.
    pub(crate) fn draw(self) -> u64 {
        match self {
            Self::Random => u64::from(fastrand::u32(..)),
            Self::Fixed(seed) => seed,
        }
    }
}

impl FromStr for Seed {
    type Err = SamplingError;

    fn from_str(given: &str) -> Result<Self, SamplingError> {
        if given == "-1" {
            return Ok(Self::Random);
        }
        given.parse().map(Self::Fixed).map_err(|_| SamplingError::Seed)
    }
}

/// Value of `--top-k`: a number of tokens, or 0 or -1 for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopK(pub(crate) usize);

impl FromStr for TopK {
    type Err = SamplingError;

    fn from_str(given: &str) -> Result<Self, SamplingError> {
        if given == "-1" {
            return Ok(Self(0));
        }
        given.parse().map(Self).map_err(|_| SamplingError::TopK)
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
