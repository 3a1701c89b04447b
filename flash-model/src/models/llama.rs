//! Llama, as `mlx_lm/models/llama.py` has it.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;

use super::{Architecture, Layer, LayerOutput};
use crate::attention::{CausalAttention, LayerInput, Rope, RopeScaling};
use crate::layers::{Linear, RmsNorm, project, swiglu};
use crate::weights::Weights;
use crate::{Config, ModelError};

#[derive(Debug, Deserialize)]
struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    head_dim: Option<i32>,
    max_position_embeddings: Option<usize>,
    num_key_value_heads: Option<i32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_rope_theta")]
    rope_theta: f32,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<RopeScaling>,
    #[serde(default = "default_tie_word_embeddings")]
    tie_word_embeddings: bool,
    layer_types: Option<Vec<String>>,
}

fn default_rope_theta() -> f32 {
    10_000.0
}

fn default_tie_word_embeddings() -> bool {
    true
}

impl ModelArgs {
    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads)
    }

    fn kv_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn check(&self, config: &Config) -> Result<(), ModelError> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
        ];
        for (field, size) in sizes {
            if size <= 0 {
                return Err(config.field_error(field, &size, "it must be positive"));
            }
        }
        if self.num_hidden_layers == 0 {
            return Err(config.field_error("num_hidden_layers", &0, "it must be positive"));
        }
        if self.head_dim() <= 0 || self.head_dim() % 2 != 0 {
            return Err(config.field_error("head_dim", &self.head_dim(), "it must be positive and even"));
        }
        if self.num_attention_heads % self.kv_heads() != 0 {
            return Err(config.field_error(
                "num_key_value_heads",
                &self.kv_heads(),
                "it must divide num_attention_heads",
            ));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(config.field_error("rope_theta", &self.rope_theta, "it must be a positive number"));
        }
        if let Some(other) = self.layer_types.iter().flatten().find(|kind| *kind != "full_attention") {
            return Err(config.field_error("layer_types", &other, "only full_attention is supported"));
        }
        Ok(())
    }
}

#[derive(Debug, ModuleParameters)]
struct Attention {
    attention: CausalAttention,
    #[param]
    q_proj: Linear,
    #[param]
    k_proj: Linear,
    #[param]
    v_proj: Linear,
    #[param]
    o_proj: Linear,
}

impl Attention {
    fn new(args: &ModelArgs, weights: &Weights<'_>, config: &Config) -> Result<Self, ModelError> {
        let (dim, head_dim) = (args.hidden_size, args.head_dim());
        let (n_heads, n_kv_heads) = (args.num_attention_heads, args.kv_heads());
        let linear = |name, input, output| weights.at(name).linear(input, output, args.attention_bias);
        let scaling = args.rope_scaling.as_ref();
        let attention = CausalAttention {
            backend: weights.backend().clone(),
            n_heads,
            n_kv_heads,
            scale: (head_dim as f32).powf(-0.5),
            rope: Rope::new(head_dim, args.rope_theta, args.rope_traditional, scaling, config)?,
        };
        Ok(Self {
            attention,
            q_proj: linear("q_proj", dim, n_heads * head_dim)?,
            k_proj: linear("k_proj", dim, n_kv_heads * head_dim)?,
            v_proj: linear("v_proj", dim, n_kv_heads * head_dim)?,
            o_proj: linear("o_proj", n_heads * head_dim, dim)?,
        })
    }
}

impl Attention {
    /// Adds what it makes of the input to `residual`.
    fn add(&self, residual: &Array, input: LayerInput<'_>) -> Result<Array, Exception> {
        let LayerInput { x, kv, position } = input;
        let [queries, keys, values] = project([&self.q_proj, &self.k_proj, &self.v_proj], x)?;
        let attended = self.attention.forward(&queries, &keys, &values, kv, position)?;
        self.o_proj.add(residual, &attended)
    }
}

#[derive(Debug, ModuleParameters)]
struct Mlp {
    #[param]
    gate_proj: Linear,
    #[param]
    down_proj: Linear,
    #[param]
    up_proj: Linear,
}

impl Mlp {
    fn new(args: &ModelArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let (dim, hidden_dim) = (args.hidden_size, args.intermediate_size);
        let linear = |name, input, output| weights.at(name).linear(input, output, args.mlp_bias);
        Ok(Self {
            gate_proj: linear("gate_proj", dim, hidden_dim)?,
            down_proj: linear("down_proj", hidden_dim, dim)?,
            up_proj: linear("up_proj", dim, hidden_dim)?,
        })
    }
}

impl Mlp {
    /// Adds what it makes of `x` to `residual`.
    fn add(&self, residual: &Array, x: &Array) -> Result<Array, Exception> {
        self.down_proj.add(residual, &swiglu(&self.gate_proj, &self.up_proj, x)?)
    }
}

#[derive(Debug, ModuleParameters)]
struct TransformerBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl TransformerBlock {
    fn new(args: &ModelArgs, weights: &Weights<'_>, config: &Config) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(args.hidden_size, args.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(args, &weights.at("self_attn"), config)?,
            mlp: Mlp::new(args, &weights.at("mlp"))?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        })
    }
}

impl Module<LayerInput<'_>> for TransformerBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, position }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let normed = self.input_layernorm.forward(x)?;
        let h = self.self_attn.add(x, LayerInput { x: &normed, kv, position })?;
        Ok(self.mlp.add(&h, &self.post_attention_layernorm.forward(&h)?)?.into())
    }

    fn training_mode(&mut self, _: bool) {}
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    args.check(config)?;
    let layers = (0..args.num_hidden_layers)
        .map(|layer_idx| {
            let weights = weights.at(&format!("model.layers.{layer_idx}"));
            let block: Box<dyn Layer> = Box::new(TransformerBlock::new(&args, &weights, config)?);
            Ok((weights.path().to_owned(), block))
        })
        .collect::<Result<_, ModelError>>()?;
    Ok(Architecture {
        layers,
        mixtures: Vec::new(),
        embed_path: "model.embed_tokens",
        norm_path: "model.norm",
        head_path: if args.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" },
        hidden_size: args.hidden_size,
        intermediate_size: args.intermediate_size,
        n_heads: args.num_attention_heads,
        kv_heads: args.kv_heads(),
        head_dim: args.head_dim(),
        vocab_size: args.vocab_size,
        norm_eps: args.rms_norm_eps,
        max_position_embeddings: args.max_position_embeddings,
    })
}
