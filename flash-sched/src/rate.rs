//! Rates with their unit in the type.

use std::time::Duration;

/// A rate that is no positive, finite number of bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a rate must be a positive number of bytes per second, not {bytes_per_s}")]
pub struct InvalidRate {
    /// What was given.
    pub bytes_per_s: f64,
}

/// Bytes per second: positive and finite.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct ByteRate(f64);

impl ByteRate {
    /// A rate of `bytes_per_s`.
    ///
    /// # Errors
    /// [`InvalidRate`] if it is not positive and finite.
    pub fn new(bytes_per_s: f64) -> Result<Self, InvalidRate> {
        if bytes_per_s.is_finite() && bytes_per_s > 0.0 {
            Ok(Self(bytes_per_s))
        } else {
            Err(InvalidRate { bytes_per_s })
        }
    }

    /// The rate of `bytes` in `elapsed`; none if either is zero.
    pub fn measured(bytes: u64, elapsed: Duration) -> Option<Self> {
        Self::new(bytes as f64 / elapsed.as_secs_f64()).ok()
    }

    /// Bytes per second.
    pub fn bytes_per_s(self) -> f64 {
        self.0
    }

    /// How long `bytes` take; saturates at the longest [`Duration`].
    pub fn time_for(self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.0).unwrap_or(Duration::MAX)
    }
}
