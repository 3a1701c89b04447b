//! Phi-3 (`mlx_lm/models/phi3.py`), whose checkpoints store QKV and gate/up projections as fused tensors.

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::windows::{WindowPattern, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::nn::attention::AttentionArgs;
use crate::nn::fused::Fused;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;

/// Default of `max_position_embeddings`.
const MAX_POSITIONS: usize = 131_072;

/// Builds a Phi-3 decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let sizes = Sizes::from_config_with(config, |sizes| {
        sizes.head_dim = None;
        sizes.max_position_embeddings.get_or_insert(MAX_POSITIONS);
    })?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    for without_effect in ["full_attn_mod", "interpolate_factor"] {
        config.expect(without_effect, &[1.into()])?;
    }
    let windows = Windows::from_config(config, sizes.num_hidden_layers, WindowPattern::Sliding, None)?;
    let defaults = RopeDefaults {
        theta: Some(10_000.0),
        partial: Some(1.0),
        original_positions: Some(4096.0),
        max_positions: Some(MAX_POSITIONS),
        ..RopeDefaults::allowing_traditional()
    };
    let attention = sizes.attention_args(Some(sizes.rope(config, defaults)?));

    let (queries, keys) = (sizes.num_attention_heads * sizes.head_dim(), sizes.kv_heads() * sizes.head_dim());
    let fused = [
        Fused::parts(
            "self_attn.qkv_proj",
            &[("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys)],
        ),
        Fused::parts(
            "mlp.gate_up_proj",
            &[("mlp.gate_proj", sizes.intermediate_size), ("mlp.up_proj", sizes.intermediate_size)],
        ),
    ]
    .concat();
    let layers = weights.with_fused(&fused);
    let base = decoder(&layers, &sizes, |layer_idx, weights| {
        let attention = AttentionArgs { window: windows.of_layer(layer_idx), ..attention.clone() };
        TransformerBlock::new(&sizes, &attention, sizes.mlp_args(), weights)
    })?;
    Ok(Architecture { fused, ..base })
}
