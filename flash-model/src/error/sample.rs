//! The errors of sampling.

/// Why no token could be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A setting is out of its range.
    #[error("{field} must be {expected}, found {value}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What it was set to.
        value: f32,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// There are no logits.
    #[error("no logits to draw a token from")]
    NoLogits,
    /// A logit is NaN or positive infinity: the computation before it went wrong.
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
        /// How many there are.
        n_logits: usize,
    },
    /// The history holds a token that has no logit.
    #[error("token {token} of the history has no logit, there are {n_logits}")]
    HistoryToken {
        /// The token.
        token: u32,
        /// How many logits there are.
        n_logits: usize,
    },
}
