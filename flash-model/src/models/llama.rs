//! Llama, as `mlx_lm/models/llama.py` has it, and Mistral, which is the same with a window.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{Unlisted, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::nn::attention::AttentionArgs;
use crate::nn::layer::Layer;
use crate::nn::mlp::MlpArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::weights::Weights;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let is_mistral = weights.config().model_type() == "mistral";
    let unlisted = if is_mistral { Unlisted::Sliding } else { Unlisted::Full };
    with_positions(weights, unlisted, |_| true)
}

/// The model, whose layers know of positions where `has_positions` says so of them.
pub(super) fn with_positions(
    weights: &Weights<'_>,
    unlisted: Unlisted,
    has_positions: impl Fn(usize) -> bool,
) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let (sizes, args) = (Sizes::of(config)?, config.args::<ModelArgs>()?);
    config.expect("hidden_act", &SILU.map(Into::into))?;
    // Falcon 3 says it twice.
    config.expect("activation", &["swiglu".into(), "silu".into()])?;
    let windows = Windows::of(config, sizes.num_hidden_layers, unlisted, None)?;
    let rope = sizes.rope(config, RopeDefaults { theta: Some(10_000.0), ..RopeDefaults::either_pairs() })?;
    decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            qkv_bias: args.attention_bias,
            output_bias: args.attention_bias,
            window: windows.of_layer(layer_idx),
            ..sizes.attention(has_positions(layer_idx).then(|| rope.clone()))
        };
        let mlp = MlpArgs { bias: args.mlp_bias, ..sizes.mlp() };
        let block: Box<dyn Layer> = Box::new(TransformerBlock::new(&sizes, &attention, mlp, weights)?);
        Ok(block)
    })
}
