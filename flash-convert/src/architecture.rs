//! Model architectures of GGUF files: maps their tensors and settings to MLX's.
//!
//! Source of the names: `gguf/constants.py` (GGUF) and `mlx_lm/models/*.py` (MLX).

mod config;
mod family;
mod rope;
mod rope_factors;
mod settings;
mod tensors;

pub(crate) use config::{AffineParams, Config, Quantization};
pub(crate) use tensors::Source;

use crate::error::ConvertError;
use crate::gguf::GgufFile;
use family::{ARCHITECTURES, KNOWN};
use settings::Settings;

/// A model in a GGUF file whose tensors are known to be complete.
#[derive(Debug)]
pub(crate) struct Model {
    /// config.json, except for the fields that depend on the target.
    pub(crate) config: Config,
    /// The parameters in execution order.
    pub(crate) sources: Vec<Source>,
}

impl Model {
    /// Reads the settings and the tensor table; the only tensor data read are RoPE factors.
    pub(crate) fn read(gguf: &GgufFile) -> Result<Self, ConvertError> {
        let key = "general.architecture";
        let found = gguf.required(key, gguf.metadata().string(key))?;
        let Some(architecture) = ARCHITECTURES.into_iter().find(|known| known.gguf == found) else {
            return Err(ConvertError::Architecture {
                path: gguf.path().to_owned(),
                found: found.to_owned(),
                known: KNOWN,
            });
        };
        let settings = Settings { gguf, architecture };
        let mut config = Config::read(&settings)?;
        let sources = tensors::sources(gguf, &architecture, &config)?;
        config.rope_scaling = rope_factors::scaling(&settings, &config)?;
        Ok(Self { config, sources })
    }
}
