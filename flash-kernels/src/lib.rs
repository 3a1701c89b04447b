//! CPU kernels over slices for the number formats of language-model weights.
//!
//! Everything here is a function from slices to slices: no I/O, no MLX, and no threads but those of a [`Pool`].
//! Slices of stored numbers are little-endian **bytes** and may start at any address, because that is how a
//! tensor lies in a safetensors file.
//!
//! - [`FloatType`]: f32, f16 and bf16 as stored, decoded to and encoded from `f32`.
//! - [`Affine`]: MLX's affine quantisation, `value = scale · code + bias` by groups along the last axis.
//! - [`Mx`]: the microscaling formats mxfp4 and mxfp8, and nvfp4.
//! - [`matmul`]: `y = x · Wᵀ + b` of `f32` activations and a stored [`Matrix`], with the same bits whatever the number
//!   of rows and threads.
//! - [`attend`], [`Rope`], [`rms_norm`] and [`gated`]: what a decoder's layer computes besides.
//! - [`matmul_each`], [`matmul_add`] and [`matmul_gated`]: several products as one, and what comes behind a product.
//! - [`Mamba2`] and [`GatedDelta`]: layers with a state of a fixed size, token by token.
//! - [`gather_matmul`]: the same with a matrix of its own for each row, out of a [`MatrixStack`] of experts.
//!
//! ```
//! use flash_kernels::{Affine, FloatType};
//!
//! let affine = Affine::new(8, 32)?;
//! let row: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
//! let (mut codes, mut scales, mut biases) = (vec![0; 64], vec![0; 8], vec![0; 8]);
//! affine.quantize_row(FloatType::F32, &row, &mut codes, &mut scales, &mut biases)?;
//!
//! let mut back = vec![0.0; 64];
//! affine.dequantize_row(FloatType::F32, &codes, &scales, &biases, &mut back)?;
//! assert!(row.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-3));
//! # Ok::<(), flash_kernels::KernelError>(())
//! ```

// The weights of the integration tests serve the tests of single modules too.
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
mod mx;
mod pool;
mod product;
mod recurrent;
mod rope;
mod stack;
mod strips;
mod tile;
mod widen;

pub use affine::Affine;
pub use attention::{Attention, Codes, Gaze, Heads, KeysValues, Numbers, SPAN_TOKENS, Span, attend};
pub use buffer::Buffer;
pub use elementwise::{Gate, gated, gated_pairs, rms_norm};
pub use error::KernelError;
pub use float::FloatType;
pub use isa::Isa;
pub use matrix::{Floats, Matrix};
pub use mx::{Mx, e4m3};
pub use pool::Pool;
pub use product::{Projection, gather_matmul, matmul, matmul_add, matmul_each, matmul_gated};
pub use recurrent::{GatedDelta, GatedDeltaInput, Mamba2, Passing};
pub use rope::Rope;
pub use stack::MatrixStack;
pub use strips::{STRIP_ROWS, into_strips};
