//! Values of the sampling flags, as other programs write them.

use std::str::FromStr;

/// Why a text is no such value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SamplingError {
    #[error("a seed is a number from 0 on, or -1 for one that differs every time")]
    Seed,
    #[error("it is a number of tokens, or 0 or -1 for all")]
    TopK,
}

/// Value of `--seed`: a number, or -1 for one that differs every time.
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
    type Err = SamplingError;

    fn from_str(given: &str) -> Result<Self, SamplingError> {
        if given == "-1" {
            return Ok(Self::Random);
        }
        given.parse().map(Self::Fixed).map_err(|_| SamplingError::Seed)
    }
}

/// What `--top-k` says: a number of tokens, 0 or -1 for all.
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
