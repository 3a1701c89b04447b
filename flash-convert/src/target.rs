//! Target formats of a conversion, and the format each parameter gets.

use std::fmt;

use flash_kernels::{Affine, FloatType};

use crate::architecture::Source;
use crate::error::ConvertError;

/// Group size of repacked blocks; it divides the block length of every format.
const GROUP_KEPT: usize = 32;

/// Target format of a GGUF conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Keeps every tensor: floats in their type, and blocks repacked losslessly where MLX's affine format can represent
    /// them. `Q6_K`, which it cannot represent, becomes 8-bit codes in groups of 32.
    #[default]
    Keep,
    /// Rounds matrices to `f16` and quantizes them; everything else becomes `f16`. Same result as
    /// `mlx_lm.convert(quantize=True, dtype="float16")` of an `f16` model. Matrices whose rows are not a whole number
    /// of groups stay `f16`.
    Quantize {
        /// Bits of a code: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Values that share a scale: 32, 64 or 128.
        group_size: usize,
    },
    /// Converts every tensor to floats of one type.
    Dense(FloatType),
}

/// Output format of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorFormat {
    /// Floats copied byte for byte.
    Copied(FloatType),
    /// Floats rounded to this type.
    Floats(FloatType),
    /// The source's codes in MLX's packing, with scales and biases of this type.
    Repacked(Affine, FloatType),
    /// Values rounded to this type and quantized, with scales and biases of this type.
    Quantized(Affine, FloatType),
}

impl fmt::Display for TensorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied(float) | Self::Floats(float) => f.write_str(float_name(*float)),
            Self::Repacked(affine, float) | Self::Quantized(affine, float) => write!(
                f,
                "{}-bit codes in groups of {} with {} scales",
                affine.bits(),
                affine.group_size(),
                float_name(*float)
            ),
        }
    }
}

/// Returns the name of a float type for messages.
pub(crate) const fn float_name(float: FloatType) -> &'static str {
    match float {
        FloatType::F32 => "f32",
        FloatType::F16 => "f16",
        FloatType::BF16 => "bf16",
    }
}

impl TensorFormat {
    /// Returns the affine format of a quantized tensor.
    pub(crate) const fn affine(self) -> Option<Affine> {
        match self {
            Self::Repacked(affine, _) | Self::Quantized(affine, _) => Some(affine),
            Self::Copied(_) | Self::Floats(_) => None,
        }
    }

    /// Returns the float type of the values, or of the scales and biases.
    pub(crate) const fn float(self) -> FloatType {
        match self {
            Self::Copied(float)
            | Self::Floats(float)
            | Self::Repacked(_, float)
            | Self::Quantized(_, float) => float,
        }
    }
}

impl Target {
    /// Returns the output format of `source`. `wide_scales` forces `f32` scales where `f16` would be used.
    pub(crate) fn becomes(self, source: &Source, wide_scales: bool) -> Result<TensorFormat, ConvertError> {
        let affine =
            |bits, group_size| Affine::new(bits, group_size).map_err(|fault| ConvertError::Target { fault });
        Ok(match self {
            Self::Keep => match (source.format.float(), source.format.affine()) {
                (Some(float), _) => Self::dense(source, float),
                (None, Some((bits, float))) => {
                    let float = if wide_scales { FloatType::F32 } else { float };
                    TensorFormat::Repacked(affine(bits, GROUP_KEPT)?, float)
                }
                (None, None) => TensorFormat::Quantized(affine(8, GROUP_KEPT)?, FloatType::F32),
            },
            Self::Quantize { bits, group_size } => {
                let affine = affine(bits, group_size)?;
                if source.is_matrix && source.n_cols.is_multiple_of(group_size as u64) {
                    TensorFormat::Quantized(affine, FloatType::F16)
                } else {
                    Self::dense(source, FloatType::F16)
                }
            }
            Self::Dense(float) => Self::dense(source, float),
        })
    }

    fn dense(source: &Source, float: FloatType) -> TensorFormat {
        let is_same = source.format.float() == Some(float) && !source.is_offset_by_one;
        if is_same { TensorFormat::Copied(float) } else { TensorFormat::Floats(float) }
    }
}
