//! What a configuration of Qwen3.5 says.

use serde::Deserialize;

use crate::compute::Activation;
use crate::experts::{ExpertArgs, ExpertDims, GateArgs, MixtureArgs, Router, Scoring};
use crate::gated_delta::{GatedDeltaArgs, Projections};
use crate::mlp::MlpArgs;
use crate::models::Sizes;
use crate::rope::{Rope, RopeArgs, RopeScaling};
use crate::{Config, ModelError};

/// A model that sees has its text model in here.
#[derive(Debug, Deserialize)]
struct Nested {
    text_config: Option<ModelArgs>,
}

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
    pub tie_word_embeddings: bool,
    pub attention_bias: bool,
    /// Layers up to the next one that attends, itself among them.
    full_attention_interval: usize,
    /// None are there if it is zero, and else in every layer.
    num_experts: usize,
    num_experts_per_tok: usize,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    pub norm_topk_prob: bool,
    rope_parameters: Option<RopeParameters>,
}

/// What is rotated of heads, and how.
#[derive(Debug, Clone, Copy)]
pub(in crate::models) struct Rotation<'a> {
    /// How much of a head.
    pub part: f32,
    pub theta: f32,
    pub scaling: Option<&'a RopeScaling>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeParameters {
    #[serde(default = "default_partial_rotary_factor")]
    partial_rotary_factor: f32,
    #[serde(flatten)]
    scaling: RopeScaling,
}

fn default_partial_rotary_factor() -> f32 {
    0.25
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
            tie_word_embeddings: false,
            attention_bias: false,
            full_attention_interval: 4,
            num_experts: 0,
            num_experts_per_tok: 0,
            moe_intermediate_size: 0,
            shared_expert_intermediate_size: 0,
            norm_topk_prob: true,
            rope_parameters: None,
        }
    }
}

impl ModelArgs {
    pub(super) fn of(config: &Config) -> Result<Self, ModelError> {
        let Nested { text_config } = config.args()?;
        text_config.map_or_else(|| config.args(), Ok)
    }

    /// Whether a layer attends.
    pub(super) fn attends(&self, layer_idx: usize) -> bool {
        (layer_idx + 1).is_multiple_of(self.full_attention_interval)
    }

    pub(super) fn sizes(&self, config: &Config) -> Result<Sizes, ModelError> {
        let sizes = Sizes {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: Some(self.num_key_value_heads),
            head_dim: self.head_dim,
            rms_norm_eps: self.rms_norm_eps,
            vocab_size: self.vocab_size,
            max_position_embeddings: Some(self.max_position_embeddings),
        };
        sizes.check(config)?;
        if !(1..=self.num_hidden_layers).contains(&self.full_attention_interval) {
            let expected = "one layer must attend";
            return Err(config.field_error(
                "full_attention_interval",
                &self.full_attention_interval,
                expected,
            ));
        }
        Ok(sizes)
    }

    /// The experts of each layer, if they have any.
    pub(super) fn mixture(&self, sizes: &Sizes, config: &Config) -> Result<Option<MixtureArgs>, ModelError> {
        if self.num_experts == 0 {
            return Ok(None);
        }
        let widths = [
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("shared_expert_intermediate_size", self.shared_expert_intermediate_size),
        ];
        for (field, width) in widths {
            config.length(field, width)?;
        }
        let (n_experts, top_k) = (self.num_experts, self.num_experts_per_tok);
        let dims =
            ExpertDims { n_experts, hidden: self.hidden_size, intermediate: self.moe_intermediate_size };
        let shared = MlpArgs { intermediate_size: self.shared_expert_intermediate_size, ..sizes.mlp() };
        Ok(Some(MixtureArgs {
            experts: ExpertArgs { dims, bias: false, activation: Some(Activation::Silu) },
            gate: GateArgs { shared_expert: Some(shared), ..GateArgs::default() },
            router: Router::new(top_k, n_experts, self.norm_topk_prob, Scoring::Softmax, config)?,
        }))
    }

    pub(super) fn rotation(&self) -> Rotation<'_> {
        let parameters = self.rope_parameters.as_ref();
        let scaling = parameters.map(|given| &given.scaling);
        Rotation {
            part: parameters.map_or_else(default_partial_rotary_factor, |given| given.partial_rotary_factor),
            theta: scaling.and_then(|scaling| scaling.rope_theta).unwrap_or(100_000.0),
            scaling,
        }
    }

    pub(super) fn gated_delta(
        &self,
        projections: Projections,
        config: &Config,
    ) -> Result<GatedDeltaArgs, ModelError> {
        let extents = [
            ("linear_num_key_heads", self.linear_num_key_heads, 1),
            ("linear_num_value_heads", self.linear_num_value_heads, 1),
            ("linear_key_head_dim", self.linear_key_head_dim, 1),
            ("linear_value_head_dim", self.linear_value_head_dim, 1),
            // With less there is nothing to keep.
            ("linear_conv_kernel_dim", self.linear_conv_kernel_dim, 2),
        ];
        for (field, extent, least) in extents {
            if !(least..=1 << 15).contains(&extent) {
                return Err(config.field_error(field, &extent, "no layer has so many"));
            }
        }
        if self.linear_num_value_heads % self.linear_num_key_heads != 0 {
            let expected = "it must divide linear_num_value_heads";
            return Err(config.field_error("linear_num_key_heads", &self.linear_num_key_heads, expected));
        }
        let args = GatedDeltaArgs {
            hidden_size: self.hidden_size,
            key_heads: self.linear_num_key_heads,
            value_heads: self.linear_num_value_heads,
            key_dim: self.linear_key_head_dim,
            value_dim: self.linear_value_head_dim,
            conv_kernel: self.linear_conv_kernel_dim,
            eps: self.rms_norm_eps,
            projections,
        };
        let rows = [args.key_heads, args.key_dim, args.value_heads, args.value_dim].map(i64::from);
        if 2 * (rows[0] * rows[1] + rows[2] * rows[3]) > i64::from(i32::MAX) {
            let expected = "no matrix has so many rows";
            return Err(config.field_error("linear_num_value_heads", &args.value_heads, expected));
        }
        Ok(args)
    }
}

impl Rotation<'_> {
    pub(super) fn rope(&self, sizes: &Sizes, config: &Config) -> Result<Rope, ModelError> {
        let Self { part, theta, scaling } = *self;
        let dims = (sizes.head_dim() as f32 * part) as i32;
        if !(2..=sizes.head_dim()).contains(&dims) || dims % 2 != 0 {
            let expected = "an even part of a head must be rotated";
            return Err(config.field_error("partial_rotary_factor", &part, expected));
        }
        Rope::new(RopeArgs { dims, ..sizes.rope(theta, scaling) }, config)
    }
}
