//! What a model is converted to, and what that makes of each parameter.

use std::fmt;

use flash_kernels::{Affine, FloatType};

use crate::architecture::Source;
use crate::error::ConvertError;

/// The group length that every block format fits.
const GROUP_KEPT: usize = 32;

/// What a model is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Every tensor as it is: floats in their type, blocks repacked without loss where MLX's affine format can hold
    /// them. `Q6_K`, which it cannot hold, becomes 8-bit codes in groups of 32.
    #[default]
    Keep,
    /// Matrices rounded to `f16` and quantised anew, everything else as `f16`: what
    /// `mlx_lm.convert(quantize=True, dtype="float16")` makes of an `f16` model. Matrices whose rows are no whole
    /// groups stay `f16`.
    Quantize {
        /// Bits of a code: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Values that share a scale: 32, 64 or 128.
        group_size: usize,
    },
    /// Every tensor as floats of one type.
    Dense(FloatType),
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Becomes {
    /// The same bytes.
    Same(FloatType),
    /// Floats of this type.
    Floats(FloatType),
    /// The same codes in MLX's packing, scales and biases of this type.
    Repacked(Affine, FloatType),
    /// New codes, scales and biases of this type, after rounding the values to it.
    Quantized(Affine, FloatType),
}

impl fmt::Display for Becomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(float) | Self::Floats(float) => f.write_str(float_name(*float)),
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

/// The name of a float type, for people.
pub(crate) const fn float_name(float: FloatType) -> &'static str {
    match float {
        FloatType::F32 => "f32",
        FloatType::F16 => "f16",
        FloatType::BF16 => "bf16",
    }
}

impl Becomes {
    /// The affine format, if there are codes.
    pub(crate) const fn affine(self) -> Option<Affine> {
        match self {
            Self::Repacked(affine, _) | Self::Quantized(affine, _) => Some(affine),
            Self::Same(_) | Self::Floats(_) => None,
        }
    }

    /// The type of the floats: the values, or the scales and biases.
    pub(crate) const fn float(self) -> FloatType {
        match self {
            Self::Same(float)
            | Self::Floats(float)
            | Self::Repacked(_, float)
            | Self::Quantized(_, float) => float,
        }
    }
}

impl Target {
    /// What becomes of `source`. `wide_scales` asks for `f32` scales where `f16` would do.
    pub(crate) fn becomes(self, source: &Source, wide_scales: bool) -> Result<Becomes, ConvertError> {
        let affine =
            |bits, group_size| Affine::new(bits, group_size).map_err(|fault| ConvertError::Target { fault });
        Ok(match self {
            Self::Keep => match (source.format.float(), source.format.affine()) {
                (Some(float), _) => Self::dense(source, float),
                (None, Some((bits, float))) => {
                    let float = if wide_scales { FloatType::F32 } else { float };
                    Becomes::Repacked(affine(bits, GROUP_KEPT)?, float)
                }
                (None, None) => Becomes::Quantized(affine(8, GROUP_KEPT)?, FloatType::F32),
            },
            Self::Quantize { bits, group_size } => {
                let affine = affine(bits, group_size)?;
                if source.is_matrix && source.n_cols.is_multiple_of(group_size as u64) {
                    Becomes::Quantized(affine, FloatType::F16)
                } else {
                    Self::dense(source, FloatType::F16)
                }
            }
            Self::Dense(float) => Self::dense(source, float),
        })
    }

    fn dense(source: &Source, float: FloatType) -> Becomes {
        let is_same = source.format.float() == Some(float) && !source.is_one_greater;
        if is_same { Becomes::Same(float) } else { Becomes::Floats(float) }
    }
}
