//! Phi-3, as `mlx_lm/models/phi3.py` has it. Its fused projections are rows of one tensor each.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::{Architecture, Layer, Sizes, decoder};
use crate::ModelError;
use crate::fused::Fused;
use crate::rope::{Rope, RopeArgs, RopeScaling};
use crate::weights::Weights;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModelArgs {
    rope_theta: f32,
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    partial_rotary_factor: f32,
    max_position_embeddings: usize,
    original_max_position_embeddings: f32,
    tie_word_embeddings: bool,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            rope_theta: 10_000.0,
            rope_traditional: false,
            rope_scaling: None,
            partial_rotary_factor: 1.0,
            max_position_embeddings: 131_072,
            original_max_position_embeddings: 4096.0,
            tie_word_embeddings: false,
        }
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    let sizes = Sizes::with(config, |sizes| {
        sizes.head_dim = None;
        sizes.max_position_embeddings = Some(args.max_position_embeddings);
    })?;
    let rotated = (sizes.head_dim() as f32 * args.partial_rotary_factor) as i32;
    if !(2..=sizes.head_dim()).contains(&rotated) || rotated % 2 != 0 {
        let expected = "an even part of a head must be rotated";
        return Err(config.field_error("partial_rotary_factor", &args.partial_rotary_factor, expected));
    }
    let mut scaling = args.rope_scaling;
    if let Some(scaling) = &mut scaling {
        // mlx-lm leaves any other out.
        if !matches!(scaling.kind(), "default" | "linear" | "longrope" | "su") {
            let expected = "default, linear and longrope are supported by phi3";
            return Err(config.field_error("rope_scaling", &scaling.kind(), expected));
        }
        scaling.original_max_position_embeddings = Some(args.original_max_position_embeddings);
    }
    let rope = sizes.rope(args.rope_theta, scaling.as_ref());
    let rope = RopeArgs { dims: rotated, traditional: args.rope_traditional, ..rope };
    let attention = sizes.attention(Some(Rope::new(rope, config)?));

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
    let usual = decoder(&layers, &sizes, args.tie_word_embeddings, |_, weights| {
        let block: Box<dyn Layer> =
            Box::new(TransformerBlock::new(&sizes, &attention, sizes.mlp(), weights)?);
        Ok(block)
    })?;
    Ok(Architecture { fused, ..usual })
}
