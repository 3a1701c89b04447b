//! Matrices of weights, and activation functions between their products.

use mlx_rs::Array;

use crate::checkpoint::config::QuantizedFormat;

/// The arrays of a matrix `W`, `[n, k]`: `y = x · Wᵀ (+ bias)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// f32, f16 or bf16 `[n, k]`, or codes, u32 `[n, k · bits / 32]`; in strips of `s` rows they are `[n / s, s · k · bits / 32]`.
    pub weight: &'a Array,
    pub quantized: Option<Quantized<'a>>,
    /// `[n]`.
    pub bias: Option<&'a Array>,
    /// Whether activations must be rounded no further than sums in f32 are. With MLX's operations they never are.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "read by the CPU kernels"))]
    pub is_wide: bool,
}

#[cfg(target_os = "linux")]
impl Matrix<'_> {
    /// Rows of `W`, however its codes are laid out.
    pub(crate) fn n_rows(&self) -> i32 {
        self.quantized.map_or(self.weight, |quantized| quantized.scales).dim(0)
    }
}

/// The format of a matrix's codes, and their scales and biases, each `[n, k / group_size]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantized<'a> {
    pub format: QuantizedFormat,
    pub scales: &'a Array,
    /// Of affine codes.
    pub biases: Option<&'a Array>,
}

/// A gated activation function of a gate `g` and a value `u`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// `silu(g) · u`.
    Silu,
    /// `gelu(g) · u`, approximated by a hyperbolic tangent.
    GeluTanh,
    /// `u / (1 + e^−g)`.
    Sigmoid,
    /// `g / (1 + e^(−alpha · g)) · (u + 1)` for the gate `g`, at most `limit`, and `u` from `−limit` to `limit`.
    ClampedSilu { alpha: f32, limit: f32 },
}
