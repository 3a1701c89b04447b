//! The passes that are measured of each program.

/// Decode and prefill measurements of a comparison.
pub struct Passes {
    /// Number of tokens to decode.
    pub n_tokens: usize,
    /// Context length before these tokens.
    pub depth: usize,
    /// Prompt lengths of the prefill measurements.
    pub prompts: Vec<usize>,
    /// Numbers of clients whose tokens are decoded at once.
    pub clients: Vec<usize>,
}
