//! Settings of `convert`.

use std::path::PathBuf;

use flash_convert::Target;
use flash_kernels::{Affine, FloatType};

use crate::args::{ConvertArgs, FloatArg};
use crate::model::ModelName;
use crate::usage::UsageError;

/// Default bits per weight, as in mlx-lm.
const BITS_DEFAULT: u32 = 4;
/// Default weights per group, as in mlx-lm.
const GROUP_SIZE_DEFAULT: usize = 64;

#[derive(Debug)]
pub(crate) struct ConvertOptions {
    pub(crate) source: ConvertSource,
    pub(crate) out: PathBuf,
    pub(crate) shard_bytes: u64,
}

/// Source of a conversion, with its target format.
#[derive(Debug)]
pub(crate) enum ConvertSource {
    Gguf {
        gguf: PathBuf,
        target: Target,
    },
    /// A Hugging Face model to quantize.
    Hf {
        model: ModelName,
        bits: u32,
        group_size: usize,
    },
}

impl ConvertOptions {
    pub(crate) fn resolve(args: ConvertArgs) -> Result<Self, UsageError> {
        // `--keep` names the default, and clap rejects it together with the other targets.
        let ConvertArgs { gguf, hf, out, bits, keep: _, quantize, group_size, dtype, shard_size } = args;
        let group_size = group_size.unwrap_or(GROUP_SIZE_DEFAULT);
        let check = |flag, bits| {
            let affine = Affine::new(bits, group_size);
            affine.map_err(|error| UsageError::Quantize { flag, bits, group_size, error })
        };
        let source = match (gguf, hf) {
            (Some(gguf), _) => {
                let target = match (quantize, dtype) {
                    (Some(bits), _) => {
                        check("--quantize", bits)?;
                        Target::Quantize { bits, group_size }
                    }
                    (None, Some(float)) => Target::Dense(match float {
                        FloatArg::F32 => FloatType::F32,
                        FloatArg::F16 => FloatType::F16,
                        FloatArg::Bf16 => FloatType::BF16,
                    }),
                    (None, None) => Target::Keep,
                };
                ConvertSource::Gguf { gguf, target }
            }
            (None, Some(model)) => {
                let bits = bits.unwrap_or(BITS_DEFAULT);
                check("--bits", bits)?;
                ConvertSource::Hf { model, bits, group_size }
            }
            (None, None) => return Err(UsageError::NoSource),
        };
        Ok(Self { source, out, shard_bytes: shard_size.bytes() })
    }
}
