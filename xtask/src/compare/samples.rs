//! Repeated measurements of a rate.

use std::fmt;

/// Rates, one per round.
#[derive(Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, rate: f64) {
        self.0.push(rate);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the median; NaN without samples.
    pub fn median(&self) -> f64 {
        let n = self.0.len();
        if n == 0 { f64::NAN } else { (self.0[(n - 1) / 2] + self.0[n / 2]) / 2.0 }
    }
}

/// Formats the median, with the range if there are several samples.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", digits(self.median()))?;
        match self.0[..] {
            [min, .., max] => write!(f, " ({}..{})", digits(min), digits(max)),
            _ => Ok(()),
        }
    }
}

/// Formats a number with three significant digits.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_shown_with_its_range() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        samples.push(10.0);
        assert_eq!(samples.to_string(), "10.0");
        samples.push(1.0);
        assert_eq!(samples.to_string(), "5.50 (1.00..10.0)");
        samples.push(123.4);
        assert_eq!(samples.to_string(), "10.0 (1.00..123)");
    }
}
