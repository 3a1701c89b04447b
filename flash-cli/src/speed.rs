//! Parsing and formatting of disk rates and compute speeds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use flash_sched::ByteRate;

use crate::size::{Size, SizeError};

/// Unit of a bare number.
const BARE_UNIT: &str = "GB";
const UNITS: [(&str, f64); 4] = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];

/// A rate in bytes per second.
///
/// A number without a unit counts GB/s, the unit of SSD data sheets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate(pub(crate) ByteRate);

/// Compute speed with all weights in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ComputeSpeed {
    /// Time per token.
    Token(Duration),
    /// Rate at which weights are processed.
    Weights(Rate),
}

/// Why a speed is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpeedError {
    #[error("{given:?} is not a rate; use a number of GB/s (7), or a number with a unit (7GB/s, 500MiB/s)")]
    Rate { given: String },
    #[error("{given:?} is neither a time per token (100ms, 0.1s) nor a rate of weights (40GB/s)")]
    Compute { given: String },
    #[error("a speed must be positive, found {given:?}")]
    NotPositive { given: String },
    #[error("{given:?} is too large")]
    TooLarge { given: String },
}

impl FromStr for Rate {
    type Err = SpeedError;

    fn from_str(given: &str) -> Result<Self, SpeedError> {
        let given = given.trim();
        let syntax = || SpeedError::Rate { given: given.to_owned() };
        let is_bare = given.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        let bytes = match given.strip_suffix("/s").or_else(|| given.strip_suffix("/S")) {
            Some(bytes) => bytes.to_owned(),
            None if is_bare => format!("{given}{BARE_UNIT}"),
            None => return Err(syntax()),
        };
        // `Size` would read a bare number as GiB, and a unit without its B as bytes, although in a rate it may mean
        // bits.
        if !bytes.trim_end().ends_with(['b', 'B']) {
            return Err(syntax());
        }
        let size: Size = bytes.parse().map_err(|error| match error {
            SizeError::Syntax { .. } => syntax(),
            SizeError::NotPositive { .. } => SpeedError::NotPositive { given: given.to_owned() },
            SizeError::TooLarge { .. } => SpeedError::TooLarge { given: given.to_owned() },
        })?;
        ByteRate::new(size.bytes() as f64).map(Self).map_err(|_| syntax())
    }
}

impl FromStr for ComputeSpeed {
    type Err = SpeedError;

    fn from_str(given: &str) -> Result<Self, SpeedError> {
        let given = given.trim();
        let syntax = || SpeedError::Compute { given: given.to_owned() };
        let Some(unit_at) = given.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')))
        else {
            return Err(syntax());
        };
        let (number, unit) = given.split_at(unit_at);
        let unit = unit.trim_start().to_ascii_lowercase();
        let Some((_, unit_s)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return given.parse().map(Self::Weights).map_err(|error| match error {
                SpeedError::Rate { .. } => syntax(),
                error => error,
            });
        };
        let time_s = number.parse::<f64>().map_err(|_| syntax())? * unit_s;
        if time_s <= 0.0 {
            return Err(SpeedError::NotPositive { given: given.to_owned() });
        }
        let time = Duration::try_from_secs_f64(time_s);
        time.map(Self::Token).map_err(|_| SpeedError::TooLarge { given: given.to_owned() })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb_per_s = self.0.bytes_per_s() / 1e6;
        if mb_per_s >= 1000.0 {
            write!(f, "{} GB/s", Digits(mb_per_s / 1000.0))
        } else {
            write!(f, "{} MB/s", Digits(mb_per_s))
        }
    }
}

impl fmt::Display for ComputeSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(time) => write!(f, "{} ms per token", Digits(time.as_secs_f64() * 1e3)),
            Self::Weights(rate) => write!(f, "weights at {rate}"),
        }
    }
}

/// Formats a number with three significant digits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digits(pub(crate) f64);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The thresholds account for rounding: 9.996 rounds to 10.0, which has one decimal less.
        let decimals = match self.0 {
            ..0.09995 => 4,
            ..0.9995 => 3,
            ..9.995 => 2,
            ..99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{:.decimals$}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(given: &str) -> f64 {
        let Rate(rate) = given.parse().unwrap_or_else(|error| panic!("{given:?}: {error}"));
        rate.bytes_per_s()
    }

    #[test]
    fn bare_rates_are_gb_per_s() {
        assert_eq!(rate("7"), 7e9);
        assert_eq!(rate(" 2.5 "), 2.5e9);
    }

    #[test]
    fn rates_have_the_units_of_sizes() {
        let table = [
            ("7GB/s", 7e9),
            ("500MB/s", 5e8),
            ("1.5 gib/s", 1.5 * (1u64 << 30) as f64),
            ("600 MiB/S", 600.0 * 1048576.0),
        ];
        for (given, expected) in table {
            assert_eq!(rate(given), expected, "{given:?}");
        }
    }

    #[test]
    fn invalid_rates_are_rejected() {
        let syntax = |given: &str| SpeedError::Rate { given: given.to_owned() };
        for given in ["", "x", "7GB", "7/s", "/s", "GB/s", "7Gbit/s", "7G/s", "NaN", "7GB/h", "1e3", "1.2.3"]
        {
            assert_eq!(given.parse::<Rate>(), Err(syntax(given)), "{given:?}");
        }
        for given in ["0", "-1", "-1GB/s", "0MB/s"] {
            let expected = SpeedError::NotPositive { given: given.to_owned() };
            assert_eq!(given.parse::<Rate>(), Err(expected), "{given:?}");
        }
        let huge = "99999999999999999999GB/s";
        assert_eq!(huge.parse::<Rate>(), Err(SpeedError::TooLarge { given: huge.to_owned() }));
    }

    #[test]
    fn compute_is_a_time_or_a_rate() {
        let time = |time| Ok(ComputeSpeed::Token(time));
        assert_eq!("100ms".parse(), time(Duration::from_millis(100)));
        assert_eq!("0.25 s".parse(), time(Duration::from_millis(250)));
        assert_eq!("50µs".parse(), time(Duration::from_micros(50)));
        let rate = |bytes_per_s| ByteRate::new(bytes_per_s).map(|rate| ComputeSpeed::Weights(Rate(rate)));
        assert_eq!("40GB/s".parse().ok(), rate(40e9).ok());
    }

    #[test]
    fn compute_that_is_neither_is_rejected() {
        // A bare number is ambiguous.
        for given in ["", "100", "ms", "1.2.3s", "1-2ms", "40GB", "40 parsecs", "native"] {
            let expected = SpeedError::Compute { given: given.to_owned() };
            assert_eq!(given.parse::<ComputeSpeed>(), Err(expected), "{given:?}");
        }
        for given in ["0ms", "-1s", "0GB/s"] {
            let expected = SpeedError::NotPositive { given: given.to_owned() };
            assert_eq!(given.parse::<ComputeSpeed>(), Err(expected), "{given:?}");
        }
        let huge = "99999999999999999999s";
        assert_eq!(huge.parse::<ComputeSpeed>(), Err(SpeedError::TooLarge { given: huge.to_owned() }));
    }

    #[test]
    fn speeds_are_shown_with_three_digits() {
        let rate = |bytes_per_s| Rate(ByteRate::new(bytes_per_s).unwrap()).to_string();
        assert_eq!([20e9, 2.3e9, 5e8, 1.5e5].map(rate), ["20.0 GB/s", "2.30 GB/s", "500 MB/s", "0.150 MB/s"]);
        let time = |us| ComputeSpeed::Token(Duration::from_micros(us)).to_string();
        assert_eq!([time(1234), time(1_234_567)], ["1.23 ms per token", "1235 ms per token"]);
        assert_eq!(
            [0.0123, 9.996, 99.99].map(|number| Digits(number).to_string()),
            ["0.0123", "10.0", "100"]
        );
    }
}
