//! The text model of Gemma 3 (`mlx_lm/models/gemma3_text.py`).

use half::bf16;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;

use super::windows::{WindowPattern, Windows};
use super::{Architecture, Sizes, decoder};
use crate::ModelError;
use crate::checkpoint::config::Config;
use crate::compute::{Activation, NormArgs};
use crate::nn::attention::{Attention, AttentionArgs};
use crate::nn::layer::{Layer, LayerInput, LayerOutput};
use crate::nn::layers::RmsNorm;
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::rope::{RopeDefaults, RopeLayers};
use crate::nn::var_builder::VarBuilder;

/// The supported activation of the MLPs.
const GELU: &str = "gelu_pytorch_tanh";

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct ModelArgs {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    pub num_attention_heads: Option<i32>,
    head_dim: i32,
    rms_norm_eps: f32,
    pub vocab_size: Option<i32>,
    pub num_key_value_heads: Option<i32>,
    rope_local_base_freq: Option<f32>,
    query_pre_attn_scalar: f32,
    sliding_window: usize,
    sliding_window_pattern: Option<usize>,
    /// `sliding_window_pattern` as transformers writes it beside `layer_types`.
    #[serde(rename = "_sliding_window_pattern")]
    private_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    max_position_embeddings: usize,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            hidden_size: 1152,
            num_hidden_layers: 26,
            intermediate_size: 6912,
            num_attention_heads: None,
            head_dim: 256,
            rms_norm_eps: 1e-6,
            vocab_size: None,
            num_key_value_heads: None,
            rope_local_base_freq: None,
            query_pre_attn_scalar: 256.0,
            sliding_window: 512,
            sliding_window_pattern: None,
            private_pattern: None,
            layer_types: None,
            max_position_embeddings: 32_768,
        }
    }
}

impl ModelArgs {
    fn sizes(&self, config: &Config) -> Result<Sizes, ModelError> {
        let sizes = Sizes {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads.unwrap_or(4),
            num_key_value_heads: Some(self.num_key_value_heads.unwrap_or(1)),
            head_dim: Some(self.head_dim),
            rms_norm_eps: Some(self.rms_norm_eps),
            vocab_size: self.vocab_size.unwrap_or(262_144),
            max_position_embeddings: Some(self.max_position_embeddings),
        };
        sizes.check(config)?;
        config.positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        for (field, given) in
            [("sliding_window", self.sliding_window), ("sliding_window_pattern", self.pattern())]
        {
            if given == 0 {
                return Err(config.field_error(field, &given, "it must be positive"));
            }
        }
        config.expect("hidden_act", &[GELU.into()])?;
        config.expect("hidden_activation", &[GELU.into()])?;
        Ok(sizes)
    }

    /// Returns the period of full-attention layers.
    fn pattern(&self) -> usize {
        self.sliding_window_pattern.or(self.private_pattern).unwrap_or(6)
    }

    /// Reads the window of each layer, from `layer_types` or the pattern.
    fn windows(&self, sizes: &Sizes, config: &Config) -> Result<Windows, ModelError> {
        let default = Some(self.sliding_window);
        Windows::from_config(
            config,
            sizes.num_hidden_layers,
            WindowPattern::AllButEvery(self.pattern()),
            default,
        )
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
    #[param]
    pre_feedforward_layernorm: RmsNorm,
    #[param]
    post_feedforward_layernorm: RmsNorm,
}

impl TransformerBlock {
    fn new(sizes: &Sizes, attention: &AttentionArgs, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, norm_args(sizes));
        let mlp = MlpArgs { activation: Some(Activation::GeluTanh), ..sizes.mlp_args() };
        Ok(Self {
            self_attn: Attention::new(attention, &weights.at("self_attn"))?,
            mlp: Mlp::new(mlp, &weights.at("mlp"))?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
        })
    }
}

impl Module<LayerInput<'_>> for TransformerBlock {
    type Output = LayerOutput;
    type Error = ModelError;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        let LayerInput { x, segments, tiles } = input;
        let normed = self.input_layernorm.forward(x)?;
        let attended = self.self_attn.forward(LayerInput { x: &normed, segments, tiles: &mut *tiles })?;
        let h = self.post_attention_layernorm.add(x, &attended)?;
        let fed = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?, tiles)?;
        Ok(self.post_feedforward_layernorm.add(&h, &fed)?.into())
    }

    fn training_mode(&mut self, _: bool) {}
}

impl Layer for TransformerBlock {
    fn window(&self) -> Option<usize> {
        self.self_attn.window()
    }
}

/// Returns the norm of the family, whose weights are stored around zero.
fn norm_args(sizes: &Sizes) -> NormArgs {
    NormArgs { weight_offset: 1.0, ..sizes.norm_args() }
}

/// Builds the text model of Gemma 3.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    build_with(weights, &weights.config().args()?)
}

/// Builds the text model of Gemma 3 from these arguments.
pub(super) fn build_with(weights: &VarBuilder<'_>, args: &ModelArgs) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let sizes = args.sizes(config)?;
    let windows = args.windows(&sizes, config)?;
    let defaults = RopeDefaults { theta: Some(1_000_000.0), ..RopeDefaults::default() };
    let RopeLayers { full, sliding } = RopeLayers::from_config(config, defaults)?;
    let local_theta = args.rope_local_base_freq;
    let sliding = match (sliding, local_theta) {
        (Some(given), Some(theta)) if given.given_theta() != Some(theta) => {
            let expected = "it differs from rope_theta of sliding_attention in rope_parameters";
            return Err(config.field_error("rope_local_base_freq", &theta, expected));
        }
        (Some(given), _) => given,
        (None, theta) => full.unscaled(theta.unwrap_or(10_000.0)),
    };
    config.positive("rope_local_base_freq", sliding.given_theta().unwrap_or(0.0))?;
    let local_rope = sliding.rope(sizes.head_dim(), config)?;
    let global_rope = full.rope(sizes.head_dim(), config)?;
    let attention = AttentionArgs {
        scale: args.query_pre_attn_scalar.powf(-0.5),
        head_norm: Some(norm_args(&sizes)),
        ..sizes.attention_args(Some(global_rope))
    };
    let base = decoder(weights, &sizes, |layer_idx, weights| {
        let attention = match windows.of_layer(layer_idx) {
            None => attention.clone(),
            window => AttentionArgs { window, rope: Some(local_rope.clone()), ..attention.clone() },
        };
        TransformerBlock::new(&sizes, &attention, weights)
    })?;
    Ok(Architecture {
        // Rounded to bf16, the precision of training, as in mlx-lm.
        embed_scale: bf16::from_f64(f64::from(sizes.hidden_size).sqrt()).to_f32(),
        norm: weights.at("model.norm").rms_norm(sizes.hidden_size, norm_args(&sizes))?,
        ..base
    })
}
