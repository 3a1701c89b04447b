//! The errors of sampling.

/// An error of sampling a token.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A setting is out of its range.
    #[error("{field} must be {expected}, found {value}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: f32,
        /// The accepted range.
        expected: &'static str,
    },
    /// There are no logits.
    #[error("no logits to draw a token from")]
    NoLogits,
    /// A logit is NaN or positive infinity, which no intact model computes.
    #[error("the logit of token {token} is {logit}")]
    BadLogit {
        /// The first such token.
        token: u32,
        /// Its logit.
        logit: f32,
    },
    /// All logits are negative infinity.
    #[error("all {n_logits} logits are negative infinity")]
    AllMasked {
        /// Number of logits.
        n_logits: usize,
    },
    /// The history has a token id beyond the logits.
    #[error("token {token} of the history has no logit, there are {n_logits}")]
    HistoryToken {
        /// The token.
        token: u32,
        /// Number of logits.
        n_logits: usize,
    },
}
