//! CPU kernels over slices for the number formats of language-model weights.
//!
//! Every function maps slices to slices: no I/O, no MLX, and no threads other than those of a [`Pool`].
//! Slices of stored numbers are little-endian **bytes** at any alignment, as tensors are stored in a safetensors file;
//! a [`Matrix`] is a view of them. Shapes are row-major, the last index fastest.
//!
//! - [`FloatType`]: f32, f16 and bf16 as stored, decoded to and encoded from `f32`.
//! - [`Affine`]: MLX's affine quantization, `value = scale · code + bias` by groups along the last axis.
//! - [`Mx`]: the microscaling formats mxfp4 and mxfp8, and nvfp4.
//! - [`matmul`]: `y = x · Wᵀ + b` of `f32` activations and a stored [`Matrix`], with bits that do not depend on the
//!   number of rows or threads.
//! - [`matmul_each`], [`matmul_add`] and [`matmul_gated`]: fused products (shared activations, residual, gated MLP).
//! - [`gather_matmul`]: products with one expert of a [`MatrixStack`] per row (mixture of experts).
//! - [`attend`], [`Rope`], [`rms_norm`] and [`gated`]: the other parts of a decoder layer.
//! - [`Mamba2`] and [`GatedDelta`]: recurrent layers with a state of fixed size.
//!
//! ```
//! use flash_kernels::{Affine, FloatType, Isa, Matrix, Pool, matmul};
//!
//! // Quantizes a row of 64 weights to 8 bits, in groups of 32 that share a scale and a bias.
//! let affine = Affine::new(8, 32)?;
//! let row: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
//! let (mut codes, mut scales, mut biases) = (vec![0; 64], vec![0; 8], vec![0; 8]);
//! affine.quantize_row(FloatType::F32, &row, &mut codes, &mut scales, &mut biases)?;
//!
//! let mut back = vec![0.0; 64];
//! affine.dequantize_row(FloatType::F32, &codes, &scales, &biases, &mut back)?;
//! assert!(row.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-3));
//!
//! // Multiplies a row of activations by a matrix `[1, 64]` of these weights.
//! let w = Matrix::affine([1, 64], 8, 32, &codes, FloatType::F32, &scales, &biases)?;
//! let (x, mut y) = ([1.0; 64], [0.0]);
//! matmul(&Pool::for_machine(Isa::best())?, &x, &w, None, &mut y)?;
//! assert!((y[0] - 31.5_f32).abs() < 0.1, "the sum of the row");
//! # Ok::<(), flash_kernels::KernelError>(())
//! ```

// Unit tests use the weights of the integration tests.
#[cfg(test)]
extern crate self as flash_kernels;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;

mod activations;
mod affine;
mod affine_tile;
mod attention;
mod buffer;
mod chains;
mod elementwise;
mod error;
mod float;
mod isa;
mod matrix;
mod memory;
mod mx;
mod pool;
mod prefetch;
mod product;
mod recurrent;
mod rope;
mod stack;
mod strips;
mod tile;
mod tuning;
mod widen;

pub use affine::Affine;
pub use attention::{
    Attention, AttentionParams, Heads, KeysValues, KvCodes, KvRows, SPAN_TOKENS, Span, attend,
};
pub use buffer::Buffer;
pub use elementwise::{Gate, gated, gated_pairs, rms_norm};
pub use error::KernelError;
pub use float::FloatType;
pub use isa::Isa;
pub use matrix::{Floats, Matrix};
pub use memory::sum_words;
pub use mx::{Mx, e4m3};
pub use pool::Pool;
pub use prefetch::{Prefetch, UnknownPrefetch};
pub use product::{Projection, gather_matmul, matmul, matmul_add, matmul_each, matmul_gated};
pub use recurrent::{GatedDelta, GatedDeltaInput, Mamba2, StateUpdate};
pub use rope::Rope;
pub use stack::MatrixStack;
pub use strips::Strips;
pub use tuning::KernelTuning;
