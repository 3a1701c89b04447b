//! The `llama` architecture: what GGUF calls its tensors and settings, and what MLX does.
//!
//! Source of the names: `gguf/constants.py` (GGUF) and `mlx_lm/models/llama.py` (MLX).

mod config;
mod rope;
mod tensors;

pub(crate) use config::{AffineParams, Config, Quantization};
pub(crate) use tensors::Source;

use crate::error::ConvertError;
use crate::gguf::GgufFile;

/// What `general.architecture` may say.
const KNOWN: &str = "llama";

/// A model of this architecture, found complete in a GGUF file.
#[derive(Debug)]
pub(crate) struct Llama {
    /// config.json, but for what depends on the target.
    pub(crate) config: Config,
    /// The parameters in the order of execution.
    pub(crate) sources: Vec<Source>,
}

impl Llama {
    /// Reads settings and tensor table; of the data only the rotary factors, if there are any.
    pub(crate) fn read(gguf: &GgufFile) -> Result<Self, ConvertError> {
        let key = "general.architecture";
        let found = gguf.required(key, gguf.metadata().string(key))?;
        if found != KNOWN {
            return Err(ConvertError::Architecture {
                path: gguf.path().to_owned(),
                found: found.to_owned(),
                known: KNOWN,
            });
        }
        let mut config = Config::read(gguf)?;
        let sources = tensors::sources(gguf, &config)?;
        config.rope_scaling = rope::scaling(gguf, &config)?;
        Ok(Self { config, sources })
    }
}
