//! The architectures of GGUF files: what GGUF calls their tensors and settings, and what MLX does.
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

/// A model of one of them, found complete in a GGUF file.
#[derive(Debug)]
pub(crate) struct Model {
    /// config.json, but for what depends on the target.
    pub(crate) config: Config,
    /// The parameters in the order of execution.
    pub(crate) sources: Vec<Source>,
}

impl Model {
    /// Reads settings and tensor table; of the data only the rotary factors, if there are any.
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
