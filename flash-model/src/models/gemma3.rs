//! Gemma 3 with a vision tower, of which only the text model runs (`mlx_lm/models/gemma3.py`).

use serde::Deserialize;

use super::{Architecture, gemma3_text};
use crate::ModelError;
use crate::nn::var_builder::VarBuilder;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    #[serde(default = "default_vocab_size")]
    vocab_size: i32,
}

fn default_vocab_size() -> i32 {
    262_208
}

/// Builds the text model of a multimodal Gemma 3.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let ModelArgs { vocab_size } = config.top_args()?;
    let mut args: gemma3_text::ModelArgs = config.args()?;
    args.vocab_size = Some(vocab_size);
    args.num_attention_heads.get_or_insert(8);
    args.num_key_value_heads.get_or_insert(4);
    gemma3_text::build_with(&weights.at("language_model"), &args)
}
