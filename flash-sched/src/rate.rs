//! Transfer rates with the unit in the type.

use std::time::Duration;

/// The error for a rate that is not positive and finite.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a rate must be a positive number of bytes per second, not {bytes_per_s}")]
pub struct InvalidRate {
    /// The rejected value.
    pub bytes_per_s: f64,
}

/// A positive, finite rate in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct ByteRate(f64);

impl ByteRate {
    /// Creates a rate of `bytes_per_s`.
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

    /// Returns the rate of `bytes` in `elapsed`; `None` if either is zero.
    pub fn measured(bytes: u64, elapsed: Duration) -> Option<Self> {
        Self::new(bytes as f64 / elapsed.as_secs_f64()).ok()
    }

    /// Returns the rate in bytes per second.
    pub fn bytes_per_s(self) -> f64 {
        self.0
    }

    /// Returns the time to transfer `bytes`, saturating at [`Duration::MAX`].
    pub fn time_for(self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.0).unwrap_or(Duration::MAX)
    }
}
