//! Llama (`mlx_lm/models/llama.py`), and Mistral: Llama with a sliding window.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{WindowPattern, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::nn::attention::AttentionArgs;
use crate::nn::mlp::MlpArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// Builds a Llama or Mistral decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let is_mistral = weights.config().model_type() == "mistral";
    let pattern = if is_mistral { WindowPattern::Sliding } else { WindowPattern::Full };
    build_with(weights, pattern, |_| true)
}

/// Builds a Llama decoder with this pattern of windows, and RoPE in the layers for which `has_rope` returns true.
pub(super) fn build_with(
    weights: &VarBuilder<'_>,
    pattern: WindowPattern,
    has_rope: impl Fn(usize) -> bool,
) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::from_config(config)?, config.args::<ModelArgs>()?);
    config.expect("hidden_act", &SILU.map(Into::into))?;
    // Falcon 3 repeats the activation here.
    config.expect("activation", &["swiglu".into(), "silu".into()])?;
    let windows = Windows::from_config(config, sizes.num_hidden_layers, pattern, None)?;
    let rope =
        sizes.rope(config, RopeDefaults { theta: Some(10_000.0), ..RopeDefaults::allowing_traditional() })?;
    decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            qkv_bias: args.attention_bias,
            output_bias: args.attention_bias,
            window: windows.of_layer(layer_idx),
            ..sizes.attention_args(has_rope(layer_idx).then(|| rope.clone()))
        };
        let mlp = MlpArgs { bias: args.mlp_bias, ..sizes.mlp_args() };
        TransformerBlock::new(&sizes, &attention, mlp, weights)
    })
}
