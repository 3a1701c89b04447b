//! CPU kernels over slices for the number formats of language-model weights.
//!
//! Everything here is a pure function from slices to slices: no allocation, no I/O, no threads, no MLX.
//! Slices of stored numbers are little-endian **bytes** and may start at any address, because that is how a
//! tensor lies in a safetensors file.
//!
//! - [`FloatType`]: f32, f16 and bf16 as stored, decoded to and encoded from `f32`.
//! - [`Affine`]: MLX's affine quantisation, `value = scale · code + bias` by groups along the last axis.
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

mod affine;
mod error;
mod float;

pub use affine::Affine;
pub use error::KernelError;
pub use float::FloatType;
