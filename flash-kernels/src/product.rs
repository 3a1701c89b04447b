//! Products of activations and stored weights.
//!
//! A call is a [`job`](mod@job): one or more outputs, each of one or two products of the same rows, split into parts
//! for the threads. A part is computed in [blocks](sums) of tiles, whose sums become columns of the output.

mod gather;
mod input;
mod job;
mod sums;

use crate::elementwise::Gate;
use crate::error::{KernelError, check_len};
use crate::matrix::{Floats, Matrix};
use crate::pool::Pool;
use job::{Output, compute};

pub use gather::gather_matmul;

/// Rows of activations up to which floating-point weights are multiplied as stored. With more rows, decoding a panel
/// once is cheaper than decoding it for every row. For affine weights this depends on the
/// [kernels](crate::isa::Kernels::rows_direct).
const ROWS_DIRECT: usize = 4;

/// Tiles per block: the activations of a panel, up to [`ROWS_BLOCK`](job::ROWS_BLOCK) ·
/// [`PANEL_K`](crate::tile::PANEL_K), come from the last-level cache for the first tile and from a nearer one for the
/// others.
const BLOCK_TILES: usize = 4;

/// A linear layer: a weight matrix and its optional bias, `x · Wᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[n, k]`.
    pub w: Matrix<'a>,
    /// `[n]`.
    pub bias: Option<Floats<'a>>,
}

impl Projection<'_> {
    /// Checks the lengths of `x`, `[m, k]`, `y`, `[m, n]`, and the bias.
    fn check(&self, m: usize, x: &[f32], y: &[f32]) -> Result<(), KernelError> {
        let (n, k) = (self.w.n(), self.w.k());
        check_len("y", size_of::<f32>() * m * n, size_of_val(y))?;
        if n > 0 {
            check_len("x", size_of::<f32>() * m * k, size_of_val(x))?;
        }
        match self.bias {
            Some(bias) => check_len("bias", n * bias.float.size_bytes(), bias.bytes.len()),
            None => Ok(()),
        }
    }
}

/// Computes `y = x · Wᵀ + bias`.
///
/// `x`: `[m, k]`, `w`: `[n, k]`, `bias`: `[n]`, `y`: `[m, n]`, all row-major; `m` is `y.len() / n`, and may be 0.
///
/// The order of additions in an element of `y` depends neither on `m` nor on the number of threads; instruction sets
/// differ in floating-point formats only. Deviations from exact sums of products in `f32`:
/// - affine weights: activations are rounded to multiples of 2⁻¹⁵ of the largest in their group; the contribution of
///   codes and activations is exact for each group, and groups are added in `f32`;
/// - mxfp4 weights: as affine, with codes `2 · value + 12`, half the scale, and a bias of −12 times that;
/// - floating-point, mxfp8 and nvfp4 weights: products are added in `f32`, from the first column to the last.
///
/// NaN and infinity propagate as IEEE 754 says for the sum of products. With mxfp4 weights, a group with a scale of
/// 2¹²⁵ or more, where products of code and scale exceed the range of `f32`, makes the elements of its row infinite or
/// NaN.
///
/// # Errors
/// [`KernelError::SliceLen`] if the length of `x`, `bias` or `y` does not fit the matrix.
///
/// # Panics
/// If called from within a job of the same pool.
pub fn matmul(
    pool: &Pool,
    x: &[f32],
    w: &Matrix<'_>,
    bias: Option<Floats<'_>>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    compute(pool, x, &[Output::Product(Projection { w: *w, bias })], &mut [y])
}

/// Computes `ys[i] = x · W[i]ᵀ + bias[i]` for each projection of the same `x`, with the bits of separate [`matmul`]
/// calls. `x` is prepared once, and threads synchronize once.
///
/// # Errors
/// See [`matmul`].
///
/// # Panics
/// Same as [`matmul`], and if `ys` and `projections` differ in length.
pub fn matmul_each(
    pool: &Pool,
    x: &[f32],
    projections: &[Projection<'_>],
    ys: &mut [&mut [f32]],
) -> Result<(), KernelError> {
    let outputs: Vec<_> = projections.iter().map(|projection| Output::Product(*projection)).collect();
    compute(pool, x, &outputs, ys)
}

/// Computes `y = onto + (x · Wᵀ + bias)`, with the bits of [`matmul`] and an addition. `onto` has the shape of `y`.
///
/// # Errors
/// Same as [`matmul`], and [`KernelError::SliceLen`] if `onto` is not as long as `y`.
///
/// # Panics
/// See [`matmul`].
pub fn matmul_add(
    pool: &Pool,
    x: &[f32],
    projection: Projection<'_>,
    onto: &[f32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    check_len("onto", size_of_val(y), size_of_val(onto))?;
    compute(pool, x, &[Output::Sum(onto, projection)], &mut [y])
}

/// Computes the gated product of `x · Gᵀ + g` and `x · Uᵀ + u`, for the projections `gate` and `up`, with the bits of
/// two [`matmul`] calls and [`gated`](crate::gated).
///
/// # Errors
/// See [`matmul`].
///
/// # Panics
/// See [`matmul`].
pub fn matmul_gated(
    pool: &Pool,
    kind: Gate,
    x: &[f32],
    gate: Projection<'_>,
    up: Projection<'_>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    compute(pool, x, &[Output::Gated(kind, [gate, up])], &mut [y])
}
