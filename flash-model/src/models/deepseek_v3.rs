//! DeepSeek-V3 (`mlx_lm/models/deepseek_v3.py`): multi-head latent attention, and group-limited routing of experts.

use serde::Deserialize;

use super::block::TransformerBlock;
use super::sizes::SILU;
use super::{Architecture, LayerParts, Sizes, decoder};
use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::Activation;
use crate::nn::attention::{LatentArgs, LatentAttention};
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::moe_gate::{MoeGate, MoeGateArgs};
use crate::nn::rope::{RopeDefaults, RopeSettings};
use crate::nn::router::{ExpertGroups, Router, Scoring};
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{ExpertArgs, ExpertDims, Mixture, Names};

use flash_kv::KvParts;

/// The only supported `topk_method`: routing with a correction bias.
const TOPK_METHOD: &str = "noaux_tc";

#[derive(Debug, Deserialize)]
#[serde(default)]
struct ModelArgs {
    moe_intermediate_size: i32,
    n_shared_experts: Option<i32>,
    routed_scaling_factor: f32,
    kv_lora_rank: i32,
    q_lora_rank: Option<i32>,
    qk_rope_head_dim: i32,
    v_head_dim: i32,
    qk_nope_head_dim: i32,
    topk_method: String,
    norm_topk_prob: bool,
    n_group: usize,
    topk_group: usize,
    num_experts_per_tok: usize,
    /// Every `n`-th layer has experts.
    moe_layer_freq: usize,
    /// Number of first layers without experts.
    first_k_dense_replace: usize,
    attention_bias: bool,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            moe_intermediate_size: 1407,
            n_shared_experts: None,
            routed_scaling_factor: 1.0,
            kv_lora_rank: 512,
            q_lora_rank: None,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            qk_nope_head_dim: 128,
            topk_method: TOPK_METHOD.to_owned(),
            norm_topk_prob: true,
            n_group: 1,
            topk_group: 1,
            num_experts_per_tok: 1,
            moe_layer_freq: 1,
            first_k_dense_replace: 0,
            attention_bias: false,
        }
    }
}

impl ModelArgs {
    fn check(&self, n_heads: i32, config: &Config) -> Result<(), ModelError> {
        let sizes = [
            ("kv_lora_rank", self.kv_lora_rank),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1)),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("v_head_dim", self.v_head_dim),
            ("moe_intermediate_size", self.moe_intermediate_size),
        ];
        for (field, size) in sizes {
            // Products with the number of heads must fit `i32`.
            if size <= 0 || size.checked_mul(4).and_then(|size| size.checked_mul(n_heads)).is_none() {
                return Err(config.field_error(
                    field,
                    &size,
                    "it must be positive, and leave projections fewer than 2^31 rows",
                ));
            }
        }
        if self.qk_rope_head_dim % 2 != 0 {
            return Err(config.field_error("qk_rope_head_dim", &self.qk_rope_head_dim, "it must be even"));
        }
        if self.topk_method != TOPK_METHOD {
            return Err(config.field_error("topk_method", &self.topk_method, "noaux_tc is supported"));
        }
        Ok(())
    }

    fn has_experts(&self, layer_idx: usize) -> bool {
        layer_idx >= self.first_k_dense_replace && layer_idx.is_multiple_of(self.moe_layer_freq.max(1))
    }

    /// Returns the shared experts as one MLP.
    fn shared_mlp_args(&self, mlp: MlpArgs, config: &Config) -> Result<Option<MlpArgs>, ModelError> {
        let Some(n_shared) = self.n_shared_experts.filter(|n_shared| *n_shared != 0) else { return Ok(None) };
        let intermediate_size = Some(n_shared).filter(|n_shared| *n_shared > 0);
        let intermediate_size = intermediate_size.and_then(|n| n.checked_mul(self.moe_intermediate_size));
        let intermediate_size = intermediate_size.ok_or_else(|| {
            config.field_error(
                "n_shared_experts",
                &n_shared,
                "it must be positive, and leave projections fewer than 2^31 rows",
            )
        })?;
        Ok(Some(MlpArgs { intermediate_size, ..mlp }))
    }
}

/// Default of `q_lora_rank` where it is absent or `null`: none if the checkpoint has full-rank query projections.
fn default_q_lora_rank(weights: &VarBuilder<'_>) -> Option<i32> {
    let is_full_rank = weights.checkpoint().has("model.layers.0.self_attn.q_proj.weight");
    (!is_full_rank).then_some(1536)
}

/// Builds a DeepSeek-V3 decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let mut args: ModelArgs = config.args()?;
    args.q_lora_rank = args.q_lora_rank.or_else(|| default_q_lora_rank(weights));
    // The cache stores one key head per token: rotated part and latent vector.
    let sizes = Sizes::from_config_with(config, |sizes| {
        sizes.head_dim = Some(args.qk_rope_head_dim.saturating_add(args.kv_lora_rank));
        sizes.num_key_value_heads = Some(1);
        sizes.rms_norm_eps.get_or_insert(1e-6);
    })?;
    args.check(sizes.num_attention_heads, config)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    config.expect("scoring_func", &["sigmoid".into()])?;
    config.expect("rope_interleave", &[true.into()])?;
    let defaults = RopeDefaults { theta: Some(10_000.0), traditional: true, ..RopeDefaults::default() };
    let rope = RopeSettings::from_config(config, defaults)?;
    let attention = LatentArgs {
        hidden_size: sizes.hidden_size,
        n_heads: sizes.num_attention_heads,
        scale: ((args.qk_nope_head_dim + args.qk_rope_head_dim) as f32).powf(-0.5)
            * rope.scaling.softmax_factor(),
        rope: rope.rope(args.qk_rope_head_dim, config)?,
        q_lora_rank: args.q_lora_rank,
        kv_lora_rank: args.kv_lora_rank,
        nope_dim: args.qk_nope_head_dim,
        rope_dim: args.qk_rope_head_dim,
        v_dim: args.v_head_dim,
        bias: args.attention_bias,
    };
    let mixture = config.n_experts()?.map(|n_experts| {
        let groups = ExpertGroups { n_groups: args.n_group, n_kept: args.topk_group };
        let scoring = Scoring::Sigmoid { groups, scale: args.routed_scaling_factor };
        let router = Router::new(args.num_experts_per_tok, n_experts, args.norm_topk_prob, scoring, config)?;
        let (hidden, intermediate) = (sizes.hidden_size, args.moe_intermediate_size);
        let dims = ExpertDims { n_experts, hidden, intermediate };
        Ok::<_, ModelError>((ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) }, router))
    });
    let mixture = mixture.transpose()?;
    let shared_experts = args.shared_mlp_args(sizes.mlp_args(), config)?;
    let gate = MoeGateArgs { has_correction: true, shared_experts, ..MoeGateArgs::default() };

    let fused = attention.fused();
    let layers = weights.with_fused(&fused);
    let base = decoder(&layers, &sizes, |layer_idx, weights| {
        let self_attn = LatentAttention::new(&attention, &weights.at("self_attn"))?;
        let mlp = weights.at("mlp");
        let Some((experts, router)) = mixture.as_ref().filter(|_| args.has_experts(layer_idx)) else {
            let mlp = Mlp::new(sizes.mlp_args(), &mlp)?;
            let block = TransformerBlock::from_parts(&sizes, sizes.norm_args(), self_attn, mlp, weights)?;
            return Ok(block.into());
        };
        let gate = MoeGate::new(&mlp, sizes.hidden_size, experts.dims.n_experts, gate)?;
        let block = TransformerBlock::from_parts(&sizes, sizes.norm_args(), self_attn, gate, weights)?;
        Ok(LayerParts::with_mixture(block, Mixture::new(&mlp, Names::USUAL, *experts, router.clone())?))
    })?;
    let derived_bytes = attention.derived_bytes(weights, base.layers.iter().map(|(path, _)| path.clone()));
    Ok(Architecture { fused, parts: KvParts::KeysOnly, derived_bytes, ..base })
}
