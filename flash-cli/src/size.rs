//! Parsing and formatting of sizes in bytes.

use std::fmt;
use std::str::FromStr;

/// A positive number of bytes.
///
/// A number without a unit counts GiB, the usual unit of memory sizes. A unit without its B (`512M`) is a power of
/// 1024, as in most programs that accept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    bytes: u64,
}

const UNITS: [(&str, u64); 17] = [
    ("b", 1),
    ("k", 1 << 10),
    ("ki", 1 << 10),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mi", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gi", 1 << 30),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("ti", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// Unit of a bare number.
const BARE_BYTES: u64 = 1 << 30;

/// Why a size is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error(
        "{given:?} is not a size; use a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB, 2G)"
    )]
    Syntax { given: String },
    #[error("a size must be positive, found {given:?}")]
    NotPositive { given: String },
    #[error("{given:?} is too large: a size must be less than 16 EiB")]
    TooLarge { given: String },
}

impl Size {
    pub(crate) const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(given: &str) -> Result<Self, SizeError> {
        let given = given.trim();
        let syntax = || SizeError::Syntax { given: given.to_owned() };
        let unsigned = given.strip_prefix(['-', '+']).unwrap_or(given);
        let number_len = unsigned.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(unsigned.len());
        let (number, unit) = unsigned.split_at(number_len);
        // The text has no sign, exponent or name such as "nan", so the number is finite.
        let number: f64 = number.parse().map_err(|_| syntax())?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let unit_bytes = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() => BARE_BYTES,
            None => return Err(syntax()),
        };
        let bytes = (number * unit_bytes as f64).round();
        if given.starts_with('-') || bytes < 1.0 {
            return Err(SizeError::NotPositive { given: given.to_owned() });
        }
        if bytes >= u64::MAX as f64 {
            return Err(SizeError::TooLarge { given: given.to_owned() });
        }
        Ok(Self { bytes: bytes as u64 })
    }
}

/// Formats a number of bytes with a binary unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1 << 10 {
            return f.pad(&format!("{} B", self.0));
        }
        let (mut amount, mut unit_idx) = (self.0 as f64 / 1024.0, 0);
        while amount >= 1000.0 && unit_idx + 1 < UNITS.len() {
            amount /= 1024.0;
            unit_idx += 1;
        }
        let decimals = if amount < 10.0 { 2 } else { usize::from(amount < 100.0) };
        f.pad(&format!("{amount:.decimals$} {}", UNITS[unit_idx]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(given: &str) -> u64 {
        given.parse::<Size>().unwrap_or_else(|error| panic!("{given:?}: {error}")).bytes()
    }

    #[test]
    fn bare_numbers_are_gib() {
        assert_eq!(bytes("1"), 1 << 30);
        assert_eq!(bytes("1.5"), 3 << 29);
        assert_eq!(bytes(".25"), 1 << 28);
        assert_eq!(bytes(" 2. "), 2 << 30);
    }

    #[test]
    fn units_are_known_in_any_case_and_with_a_space() {
        let table = [
            ("7B", 7),
            ("3KB", 3000),
            ("3KiB", 3072),
            ("0.1MB", 100_000),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("1.5gb", 1_500_000_000),
            ("2GiB", 2 << 30),
            ("2TB", 2_000_000_000_000),
            ("1 TIB", 1 << 40),
            ("+1GiB", 1 << 30),
            ("1G", 1 << 30),
            ("2g", 2 << 30),
            ("512M", 512 << 20),
            ("1.5Gi", 3 << 29),
            ("64k", 64 << 10),
            ("1T", 1 << 40),
        ];
        for (given, expected) in table {
            assert_eq!(bytes(given), expected, "{given:?}");
        }
    }

    #[test]
    fn zero_and_negative_sizes_are_rejected() {
        for given in ["0", "0GB", "-1", "-2GiB", "0.0000000001", "0.4B"] {
            assert_eq!(
                given.parse::<Size>(),
                Err(SizeError::NotPositive { given: given.to_owned() }),
                "{given:?}"
            );
        }
    }

    #[test]
    fn sizes_beyond_64_bits_are_rejected() {
        for given in ["99999999999999999999", "16777216TiB", "18446744073709551616B"] {
            assert_eq!(
                given.parse::<Size>(),
                Err(SizeError::TooLarge { given: given.to_owned() }),
                "{given:?}"
            );
        }
    }

    #[test]
    fn garbage_is_rejected() {
        let table = [
            "",
            " ",
            "x",
            "GiB",
            "1.2.3",
            "1e3",
            "NaN",
            "inf",
            "12 parsecs",
            "1 Gi B",
            "1GG",
            "--1",
            "0x10",
            "1,5GB",
        ];
        for given in table {
            let expected = SizeError::Syntax { given: given.trim().to_owned() };
            assert_eq!(given.parse::<Size>(), Err(expected), "{given:?}");
        }
    }

    #[test]
    fn bytes_are_shown_with_three_digits() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (999 << 10, "999 KiB"),
            (1023 << 10, "1.00 MiB"),
            (96_468_992, "92.0 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (amount, expected) in table {
            assert_eq!(Bytes(amount).to_string(), expected);
        }
    }
}
