//! Qwen3 (`mlx_lm/models/qwen3.py`).

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{WindowPattern, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::nn::attention::AttentionArgs;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;

/// Builds a Qwen3 decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let sizes = Sizes::from_config(config)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    config.expect("use_qk_norm", &[true.into()])?;
    let windows =
        Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::FromMaxWindowLayers, None)?;
    let rope = sizes.rope(config, RopeDefaults::default())?;
    decoder(weights, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs {
            head_norm: Some(sizes.norm_args()),
            window: windows.of_layer(layer_idx),
            ..sizes.attention_args(Some(rope.clone()))
        };
        TransformerBlock::new(&sizes, &attention, sizes.mlp_args(), weights)
    })
}
