//! Configuration of Qwen3.5.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::{Activation, GatedDeltaDims};
use crate::models::Sizes;
use crate::nn::gated_delta::{GatedDeltaArgs, Projections};
use crate::nn::mlp::MlpArgs;
use crate::nn::moe_gate::MoeGateArgs;
use crate::nn::router::{Router, Scoring};
use crate::stream::experts::{ExpertArgs, ExpertDims, MixtureArgs};

/// Values of `layer_types`.
const FULL: &str = "full_attention";
const LINEAR: &str = "linear_attention";

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(in crate::models) struct ModelArgs {
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: usize,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: Option<i32>,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: usize,
    linear_num_value_heads: i32,
    linear_num_key_heads: i32,
    linear_key_head_dim: i32,
    linear_value_head_dim: i32,
    linear_conv_kernel_dim: i32,
    pub attention_bias: bool,
    /// Period of full-attention layers.
    full_attention_interval: usize,
    /// 0 in models without experts.
    num_experts_per_tok: usize,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    pub norm_topk_prob: bool,
    /// Types of the layers; takes precedence over `full_attention_interval`.
    layer_types: Option<Vec<String>>,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: None,
            rms_norm_eps: 1e-6,
            vocab_size: 151_936,
            max_position_embeddings: 131_072,
            linear_num_value_heads: 64,
            linear_num_key_heads: 16,
            linear_key_head_dim: 192,
            linear_value_head_dim: 128,
            linear_conv_kernel_dim: 4,
            attention_bias: false,
            full_attention_interval: 4,
            num_experts_per_tok: 0,
            moe_intermediate_size: 0,
            shared_expert_intermediate_size: 0,
            norm_topk_prob: true,
            layer_types: None,
        }
    }
}

impl ModelArgs {
    /// Returns whether a layer is full attention.
    pub(super) fn is_full_attention(&self, layer_idx: usize) -> bool {
        match &self.layer_types {
            Some(types) => types[layer_idx] == FULL,
            None => (layer_idx + 1).is_multiple_of(self.full_attention_interval),
        }
    }

    pub(super) fn sizes(&self, config: &Config) -> Result<Sizes, ModelError> {
        let sizes = Sizes {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: Some(self.num_key_value_heads),
            head_dim: self.head_dim,
            rms_norm_eps: Some(self.rms_norm_eps),
            vocab_size: self.vocab_size,
            max_position_embeddings: Some(self.max_position_embeddings),
        };
        sizes.check(config)?;
        if let Some(types) = &self.layer_types {
            let known = |given: &&String| [FULL, LINEAR].contains(&given.as_str());
            if let Some(other) = types.iter().find(|given| !known(given)) {
                return Err(config.field_error(
                    "layer_types",
                    other,
                    "it must be full_attention or linear_attention",
                ));
            }
            if types.len() != self.num_hidden_layers {
                let given = format!("{} types", types.len());
                return Err(config.field_error("layer_types", &given, "it must have one for each layer"));
            }
            if !types.iter().any(|given| given == FULL) {
                return Err(config.field_error(
                    "layer_types",
                    &"all linear",
                    "at least one layer must be full_attention",
                ));
            }
        } else if !(1..=self.num_hidden_layers).contains(&self.full_attention_interval) {
            let expected = "at least one layer must be full attention";
            return Err(config.field_error(
                "full_attention_interval",
                &self.full_attention_interval,
                expected,
            ));
        }
        Ok(sizes)
    }

    /// Returns the mixture of sparse layers; `None` in models without experts.
    pub(super) fn moe_args(&self, sizes: &Sizes, config: &Config) -> Result<Option<MixtureArgs>, ModelError> {
        let Some(n_experts) = config.n_experts()?.filter(|n_experts| *n_experts > 0) else { return Ok(None) };
        let widths = [
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("shared_expert_intermediate_size", self.shared_expert_intermediate_size),
        ];
        for (field, width) in widths {
            config.length(field, width)?;
        }
        let top_k = self.num_experts_per_tok;
        let dims =
            ExpertDims { n_experts, hidden: self.hidden_size, intermediate: self.moe_intermediate_size };
        let shared = MlpArgs { intermediate_size: self.shared_expert_intermediate_size, ..sizes.mlp_args() };
        Ok(Some(MixtureArgs {
            experts: ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) },
            gate: MoeGateArgs { shared_expert: Some(shared), ..MoeGateArgs::default() },
            router: Router::new(top_k, n_experts, self.norm_topk_prob, Scoring::Softmax, config)?,
        }))
    }

    pub(super) fn gated_delta_args(
        &self,
        projections: Projections,
        config: &Config,
    ) -> Result<GatedDeltaArgs, ModelError> {
        let extents = [
            ("linear_num_key_heads", self.linear_num_key_heads, 1),
            ("linear_num_value_heads", self.linear_num_value_heads, 1),
            ("linear_key_head_dim", self.linear_key_head_dim, 1),
            ("linear_value_head_dim", self.linear_value_head_dim, 1),
            // The cache keeps `conv_kernel - 1` rows, at least one.
            ("linear_conv_kernel_dim", self.linear_conv_kernel_dim, 2),
        ];
        config.within(15, &extents)?;
        if self.linear_num_value_heads % self.linear_num_key_heads != 0 {
            let expected = "it must divide linear_num_value_heads";
            return Err(config.field_error("linear_num_key_heads", &self.linear_num_key_heads, expected));
        }
        let dims = GatedDeltaDims {
            key_heads: self.linear_num_key_heads,
            value_heads: self.linear_num_value_heads,
            key_dim: self.linear_key_head_dim,
            value_dim: self.linear_value_head_dim,
            conv_kernel: self.linear_conv_kernel_dim,
            eps: self.rms_norm_eps,
        };
        let rows = [dims.key_heads, dims.key_dim, dims.value_heads, dims.value_dim].map(i64::from);
        if 2 * (rows[0] * rows[1] + rows[2] * rows[3]) > i64::from(i32::MAX) {
            let expected = "a projection would have 2^31 rows or more";
            return Err(config.field_error("linear_num_value_heads", &dims.value_heads, expected));
        }
        Ok(GatedDeltaArgs { hidden_size: self.hidden_size, dims, projections })
    }
}
