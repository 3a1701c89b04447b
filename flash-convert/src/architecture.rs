//! The architectures of GGUF files: what GGUF calls their tensors and settings, and what MLX does.
//!
//! Source of the names: `gguf/constants.py` (GGUF) and `mlx_lm/models/*.py` (MLX).

mod config;
mod rope;
mod settings;
mod tensors;

pub(crate) use config::{AffineParams, Config, Quantization};
pub(crate) use tensors::Source;

use crate::error::ConvertError;
use crate::gguf::GgufFile;
use settings::Settings;

/// What `general.architecture` may say.
const KNOWN: &str = "llama, qwen2, qwen3, gemma3";

/// What models of an architecture have of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Architecture {
    /// What GGUF calls it; its settings begin with that.
    gguf: &'static str,
    /// What config.json calls it.
    model_type: &'static str,
    class: &'static str,
    /// Whether the file has the rows of queries and keys in the order of llama.cpp's older rotation.
    is_interleaved: bool,
    /// Whether queries, keys and values have biases; None: they do if the file has them, and the output then, too.
    has_qkv_biases: Option<bool>,
    has_qk_norms: bool,
    /// Gemma: norms before and after each block, whose weights the file has 1 greater than the model, and layers that see
    /// only recent tokens.
    is_gemma: bool,
    /// Whether the size of a head may be another than that of the hidden state divided by their number.
    has_head_dim: bool,
}

const LLAMA: Architecture = Architecture {
    gguf: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    is_interleaved: true,
    has_qkv_biases: None,
    has_qk_norms: false,
    is_gemma: false,
    has_head_dim: true,
};

const ARCHITECTURES: [Architecture; 4] = [
    LLAMA,
    Architecture {
        gguf: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(true),
        has_head_dim: false,
        ..LLAMA
    },
    Architecture {
        gguf: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(false),
        has_qk_norms: true,
        ..LLAMA
    },
    Architecture {
        gguf: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        is_interleaved: false,
        has_qkv_biases: Some(false),
        has_qk_norms: true,
        is_gemma: true,
        ..LLAMA
    },
];

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
        config.rope_scaling = rope::scaling(&settings, &config)?;
        Ok(Self { config, sources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_known_architectures_are_named() {
        assert_eq!(ARCHITECTURES.map(|known| known.gguf).join(", "), KNOWN);
    }
}
