//! What a GGUF file is converted to.

use std::path::PathBuf;

use flash_convert::Target;
use flash_kernels::{Affine, FloatType};

use super::UsageError;
use crate::args::{ConvertArgs, FloatArg};

/// As in mlx-lm.
const GROUP_SIZE_DEFAULT: usize = 64;

#[derive(Debug)]
pub(crate) struct ConvertOptions {
    pub(crate) gguf: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) target: Target,
    pub(crate) shard_bytes: u64,
}

impl ConvertOptions {
    pub(crate) fn resolve(args: ConvertArgs) -> Result<Self, UsageError> {
        // `--keep` is the default: it is there to be said, and excludes the others.
        let ConvertArgs { gguf, out, keep: _, quantize, group_size, dtype, shard_size } = args;
        let target = match (quantize, dtype) {
            (Some(bits), _) => {
                let group_size = group_size.unwrap_or(GROUP_SIZE_DEFAULT);
                Affine::new(bits, group_size).map_err(|error| UsageError::Quantize {
                    bits,
                    group_size,
                    error,
                })?;
                Target::Quantize { bits, group_size }
            }
            (None, Some(float)) => Target::Dense(match float {
                FloatArg::F32 => FloatType::F32,
                FloatArg::F16 => FloatType::F16,
                FloatArg::Bf16 => FloatType::BF16,
            }),
            (None, None) => Target::Keep,
        };
        Ok(Self { gguf, out, target, shard_bytes: shard_size.bytes() })
    }
}
