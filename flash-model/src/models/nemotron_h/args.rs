//! Configuration of Nemotron-H.

use serde::Deserialize;

use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::Mamba2Dims;
use crate::models::Sizes;
use crate::nn::mamba2::Mamba2Args;
use crate::nn::mlp::MlpArgs;
use crate::nn::moe_gate::{ExpertLatent, MoeGateArgs};
use crate::nn::router::{ExpertGroups, Router, Scoring};
use crate::stream::experts::{ExpertArgs, ExpertDims, MixtureArgs};

#[derive(Debug, Deserialize)]
pub(super) struct ModelArgs {
    vocab_size: i32,
    hidden_size: i32,
    intermediate_size: i32,
    max_position_embeddings: usize,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: Option<i32>,
    pub attention_bias: bool,
    mamba_num_heads: i32,
    mamba_head_dim: i32,
    mamba_proj_bias: bool,
    ssm_state_size: i32,
    conv_kernel: i32,
    n_groups: i32,
    mlp_bias: bool,
    layer_norm_epsilon: f32,
    use_conv_bias: bool,
    num_hidden_layers: Option<usize>,
    hybrid_override_pattern: Option<Pattern>,
    layers_block_type: Option<Vec<String>>,
    layer_types: Option<Vec<String>>,
    time_step_limit: Option<[Limit; 2]>,
    moe_intermediate_size: Option<i32>,
    moe_shared_expert_intermediate_size: Option<i32>,
    moe_latent_size: Option<i32>,
    n_group: Option<usize>,
    topk_group: Option<usize>,
    n_shared_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
}

/// `hybrid_override_pattern`: a sign for each layer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pattern {
    Text(String),
    Signs(Vec<String>),
}

/// A number, or the infinity that Python writes into JSON: see [`flash_io::parse_python_json`].
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Limit {
    Finite(f32),
    Other {
        #[serde(rename = "__float__")]
        limit: Unbounded,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Unbounded {
    Infinity,
}

/// The kind of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerKind {
    Mamba,
    Attention,
    Mlp,
    Moe,
}

impl LayerKind {
    fn of_sign(sign: &str) -> Option<Self> {
        match sign {
            "M" => Some(Self::Mamba),
            "*" => Some(Self::Attention),
            "-" => Some(Self::Mlp),
            "E" => Some(Self::Moe),
            _ => None,
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        match name {
            "linear_attention" | "mamba" | "conv" => Some(Self::Mamba),
            "full_attention" | "attention" => Some(Self::Attention),
            "mlp" => Some(Self::Mlp),
            "moe" => Some(Self::Moe),
            _ => None,
        }
    }
}

impl ModelArgs {
    /// Returns the kind of each layer; at least one is attention.
    pub(super) fn kinds(&self, config: &Config) -> Result<Vec<LayerKind>, ModelError> {
        let listed = |field, given: &[String], kind: fn(&str) -> Option<LayerKind>, expected| {
            given
                .iter()
                .map(|given| kind(given).ok_or_else(|| config.field_error(field, given, expected)))
                .collect::<Result<Vec<_>, _>>()
        };
        let (field, names) = match (&self.layers_block_type, &self.layer_types) {
            (Some(names), _) => ("layers_block_type", Some(names)),
            (None, names) => ("layer_types", names.as_ref()),
        };
        let (field, kinds) = match (&self.hybrid_override_pattern, names) {
            (Some(pattern), _) => {
                let signs = match pattern {
                    Pattern::Text(signs) => signs.chars().map(String::from).collect(),
                    Pattern::Signs(signs) => signs.clone(),
                };
                let field = "hybrid_override_pattern";
                let expected = "layers must be M (Mamba-2), * (attention), - (MLP) or E (experts)";
                (field, listed(field, &signs, LayerKind::of_sign, expected)?)
            }
            (None, Some(names)) => {
                let expected = "layers must be linear_attention, full_attention, mlp or moe";
                (field, listed(field, names, LayerKind::of_name, expected)?)
            }
            (None, None) => {
                let expected = "it or layers_block_type must list the layers";
                return Err(config.field_error("hybrid_override_pattern", &"missing", expected));
            }
        };
        if !kinds.contains(&LayerKind::Attention) {
            return Err(config.field_error(
                field,
                &"without attention",
                "at least one layer must be attention",
            ));
        }
        if let Some(given) = self.num_hidden_layers.filter(|given| *given != kinds.len()) {
            let expected = format!("{field} has {} layers", kinds.len());
            return Err(config.field_error("num_hidden_layers", &given, expected));
        }
        Ok(kinds)
    }

    pub(super) fn sizes(&self, num_hidden_layers: usize, config: &Config) -> Result<Sizes, ModelError> {
        let sizes = Sizes {
            hidden_size: self.hidden_size,
            num_hidden_layers,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: Some(self.num_key_value_heads),
            head_dim: self.head_dim,
            rms_norm_eps: Some(self.layer_norm_epsilon),
            vocab_size: self.vocab_size,
            max_position_embeddings: Some(self.max_position_embeddings),
        };
        sizes.check(config)?;
        Ok(sizes)
    }

    pub(super) fn mlp_args(&self) -> MlpArgs {
        MlpArgs {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            bias: self.mlp_bias,
            activation: None,
        }
    }

    pub(super) fn moe_args(&self, config: &Config) -> Result<MixtureArgs, ModelError> {
        let missing = |field| config.field_error(field, &"missing", "layers with experts need it");
        let width = |field, given: Option<i32>| config.length(field, given.ok_or_else(|| missing(field))?);
        let n_experts = config.n_experts()?.ok_or_else(|| missing("n_routed_experts"))?;
        let intermediate = width("moe_intermediate_size", self.moe_intermediate_size)?;
        let shared = self.n_shared_experts.map(|_| {
            let field = "moe_shared_expert_intermediate_size";
            let intermediate_size = width(field, self.moe_shared_expert_intermediate_size)?;
            Ok::<_, ModelError>(MlpArgs { intermediate_size, ..self.mlp_args() })
        });
        let groups =
            ExpertGroups { n_groups: self.n_group.unwrap_or(1), n_kept: self.topk_group.unwrap_or(1) };
        let scale = self.routed_scaling_factor.unwrap_or(1.0);
        config.positive("routed_scaling_factor", scale)?;
        let top_k = self.num_experts_per_tok.ok_or_else(|| missing("num_experts_per_tok"))?;
        let norm_topk_prob = self.norm_topk_prob.unwrap_or(false);
        let scoring = Scoring::Sigmoid { groups, scale };
        let latent = self.moe_latent_size.map(|size| {
            let size = width("moe_latent_size", Some(size))?;
            Ok::<_, ModelError>(ExpertLatent { size, bias: self.mlp_bias })
        });
        let latent = latent.transpose()?;
        let hidden = latent.map_or(self.hidden_size, |latent| latent.size);
        let shared_experts = shared.transpose()?;
        Ok(MixtureArgs {
            experts: ExpertArgs {
                dims: ExpertDims { n_experts, hidden, intermediate },
                bias: false,
                activation: None,
            },
            gate: MoeGateArgs { has_correction: true, shared_experts, latent, ..MoeGateArgs::default() },
            router: Router::new(top_k, n_experts, norm_topk_prob, scoring, config)?,
        })
    }

    pub(super) fn mamba2_args(&self, config: &Config) -> Result<Mamba2Args, ModelError> {
        let extents = [
            ("mamba_num_heads", self.mamba_num_heads, 1),
            ("mamba_head_dim", self.mamba_head_dim, 1),
            ("ssm_state_size", self.ssm_state_size, 1),
            ("n_groups", self.n_groups, 1),
            // The cache keeps `conv_kernel - 1` rows, at least one.
            ("conv_kernel", self.conv_kernel, 2),
        ];
        config.within(20, &extents)?;
        if self.mamba_num_heads % self.n_groups != 0 {
            return Err(config.field_error("n_groups", &self.n_groups, "it must divide mamba_num_heads"));
        }
        let [heads, head_dim, groups, state_dim] =
            [self.mamba_num_heads, self.mamba_head_dim, self.n_groups, self.ssm_state_size].map(i64::from);
        if 2 * heads * head_dim + 2 * groups * state_dim + heads > i64::from(i32::MAX) {
            return Err(config.field_error(
                "mamba_num_heads",
                &heads,
                "the input projection would have 2^31 rows or more",
            ));
        }
        let limits =
            self.time_step_limit.unwrap_or([Limit::Finite(0.0), Limit::Other { limit: Unbounded::Infinity }]);
        let dt_limits = limits.map(|limit| match limit {
            Limit::Finite(limit) => limit,
            Limit::Other { limit: Unbounded::Infinity } => f32::INFINITY,
        });
        if dt_limits[0] > dt_limits[1] {
            return Err(config.field_error(
                "time_step_limit",
                &dt_limits[0],
                "the first of the two limits must not exceed the second",
            ));
        }
        let dims = Mamba2Dims {
            n_heads: self.mamba_num_heads,
            head_dim: self.mamba_head_dim,
            n_groups: self.n_groups,
            state_dim: self.ssm_state_size,
            conv_kernel: self.conv_kernel,
            eps: self.layer_norm_epsilon,
            dt_limits,
        };
        Ok(Mamba2Args {
            hidden_size: self.hidden_size,
            dims,
            conv_bias: self.use_conv_bias,
            bias: self.mamba_proj_bias,
        })
    }
}
