//! Normalization.

use mlx_rs::Array;

/// RMSNorm over the last axis: `x · weight / √(mean(x²) + eps)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    /// A weight per column.
    pub weight: &'a Array,
    pub args: NormArgs,
}

/// Configuration of an RMSNorm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormArgs {
    /// Added to the mean of the squares.
    pub eps: f32,
    /// Added to the weights, which some models store around zero.
    pub weight_offset: f32,
}
