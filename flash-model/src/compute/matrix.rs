//! Weight matrices and activation functions.

use mlx_rs::Array;

use crate::checkpoint::config::QuantizedFormat;

/// The arrays of a matrix `W`, `[n, k]`: `y = x · Wᵀ (+ bias)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// f32, f16 or bf16 `[n, k]`, or quantized codes, u32 `[n, k · bits / 32]`; in strips of `s` rows
    /// `[n / s, s · k · bits / 32]`.
    pub weight: &'a Array,
    pub quantized: Option<Quantized<'a>>,
    /// `[n]`.
    pub bias: Option<&'a Array>,
    /// Whether activations must not be rounded further than f32 sums are. MLX's operations never round them further.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "read by the CPU kernels"))]
    pub is_wide: bool,
}

#[cfg(target_os = "linux")]
impl Matrix<'_> {
    /// Returns the number of rows of `W`, which has `k` columns, whatever the layout of its codes and scales.
    pub(crate) fn n_rows(&self, k: i32) -> i32 {
        match self.quantized {
            None => self.weight.dim(0),
            Some(Quantized { format, scales, .. }) => match k / format.group_size {
                // Without columns there is nothing to interleave.
                0 => scales.dim(0),
                n_groups => (scales.size() / n_groups as usize) as i32,
            },
        }
    }
}

/// The quantization format of a matrix, and its scales and biases, each `[n, k / group_size]`; in strips of `s` rows
/// `[n / s, s · k / group_size]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantized<'a> {
    pub format: QuantizedFormat,
    pub scales: &'a Array,
    /// Biases, of affine formats only.
    pub biases: Option<&'a Array>,
}

/// A gated activation function, of a gate `g` and a value `u`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// `silu(g) · u`.
    Silu,
    /// `gelu(g) · u`, with the tanh approximation.
    GeluTanh,
    /// `u / (1 + e^−g)`.
    Sigmoid,
    /// `g / (1 + e^(−alpha · g)) · (u + 1)`, with `g` clamped to at most `limit` and `u` to `−limit..limit`.
    ClampedSilu { alpha: f32, limit: f32 },
}
