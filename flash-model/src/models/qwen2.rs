//! Qwen2 (`mlx_lm/models/qwen2.py`).

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{WindowPattern, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::nn::attention::AttentionArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;

/// Builds a Qwen2 decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    // The family ignores `head_dim`: it is hidden_size / num_attention_heads.
    let sizes = Sizes::from_config_with(config, |sizes| sizes.head_dim = None)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    let windows =
        Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::FromMaxWindowLayers, None)?;
    let rope = sizes
        .rope(config, RopeDefaults { theta: Some(1_000_000.0), ..RopeDefaults::allowing_traditional() })?;
    decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            qkv_bias: true,
            window: windows.of_layer(layer_idx),
            ..sizes.attention_args(Some(rope.clone()))
        };
        TransformerBlock::new(&sizes, &attention, sizes.mlp_args(), weights)
    })
}
