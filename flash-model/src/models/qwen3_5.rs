//! Qwen3.5, dense or with experts (`mlx_lm/models/qwen3_5.py`, `qwen3_5_moe.py`): most layers have a gated delta net in
//! place of attention. Of a multimodal checkpoint only the text model runs.

mod args;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, ModuleParameters};

use super::block::{FeedForward, TransformerBlock};
use super::sizes::SILU;
use super::{Architecture, DecoderNames, LayerParts, Sizes, decoder_with_names};
use crate::ModelError;
use crate::compute::{NormArgs, Value};
use crate::kv::CacheKind;
use crate::nn::attention::{Attention, AttentionArgs};
use crate::nn::gated_delta::{GatedDelta, GatedDeltaArgs, Projections};
use crate::nn::layer::{Layer, LayerInput, LayerOutput, Routed};
use crate::nn::layers::RmsNorm;
use crate::nn::mlp::Mlp;
use crate::nn::moe_gate::MoeGate;
use crate::nn::rope::RopeDefaults;
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{Mixture, MixtureArgs, Names};

pub(super) use args::ModelArgs;

/// Tensor paths of the text model and its head: as mlx-lm writes them, in multimodal and in text-only Hugging Face
/// checkpoints.
const PATHS: [(&str, &str); 3] = [
    ("language_model.model", "language_model.lm_head"),
    ("model.language_model", "lm_head"),
    ("model", "lm_head"),
];

/// A block with a gated delta net in place of attention.
#[derive(Debug, ModuleParameters)]
struct LinearBlock<F: ModuleParameters> {
    #[param]
    linear_attn: GatedDelta,
    #[param]
    mlp: F,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl<F: FeedForward> Module<LayerInput<'_>> for LinearBlock<F> {
    type Output = LayerOutput;
    type Error = ModelError;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        let LayerInput { x, segments, tiles } = input;
        let normed = self.input_layernorm.forward(x)?;
        let h = self.linear_attn.add(x, LayerInput { x: &normed, segments, tiles: &mut *tiles })?;
        let normed = self.post_attention_layernorm.forward(&h)?;
        self.mlp.add(h, &normed, tiles)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl<F: FeedForward> Layer for LinearBlock<F> {
    fn predict_routing(&mut self, hidden: &Value) -> Result<Option<Routed>, Exception> {
        self.mlp.predict_routing(self.post_attention_layernorm.forward(hidden)?)
    }
}

/// Differences between the families that share these layers, beside [`ModelArgs`].
pub(super) struct HybridOptions<'a> {
    pub rope: RopeDefaults,
    pub projections: Projections,
    /// Whether the checkpoint has Hugging Face's layout, in which the weights of all norms but those of gated delta
    /// nets are stored around zero.
    pub is_hf_layout: bool,
    /// Whether a layer is sparse, in models with experts.
    pub is_sparse: &'a dyn Fn(usize) -> bool,
}

/// Builds the layers of a hybrid model.
struct LayerBuilder<'a> {
    args: &'a ModelArgs,
    sizes: &'a Sizes,
    norm: NormArgs,
    attention: AttentionArgs,
    delta: GatedDeltaArgs,
}

impl LayerBuilder<'_> {
    /// Builds a layer of attention or a gated delta net, followed by the output of `mlp`.
    fn build<F: FeedForward + 'static>(
        &self,
        layer_idx: usize,
        mlp: impl FnOnce() -> Result<F, ModelError>,
        weights: &VarBuilder<'_>,
    ) -> Result<LayerParts, ModelError> {
        let Self { args, sizes, norm, attention, delta } = self;
        if args.is_full_attention(layer_idx) {
            let self_attn = Attention::new(attention, &weights.at("self_attn"))?;
            return Ok(TransformerBlock::from_parts(sizes, *norm, self_attn, mlp()?, weights)?.into());
        }
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, *norm);
        let block = LinearBlock {
            linear_attn: GatedDelta::new(*delta, &weights.at("linear_attn"))?,
            mlp: mlp()?,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        };
        Ok(LayerParts { keeps: CacheKind::State(delta.dims.state()), ..block.into() })
    }
}

/// Builds a Qwen3.5 decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let args: ModelArgs = weights.config().args()?;
    // The layout of convolutions tells Hugging Face's checkpoints from mlx-lm's.
    let mut tensors = weights.checkpoint().catalog().tensors();
    let is_hf_layout = tensors.any(|tensor| {
        tensor.name.ends_with("conv1d.weight") && tensor.shape.last().is_some_and(|last| *last != 1)
    });
    let rope = RopeDefaults { theta: Some(100_000.0), partial: Some(0.25), ..RopeDefaults::default() };
    let projections = Projections::Separate;
    weights.config().expect("decoder_sparse_step", &[1.into()])?;
    let options = HybridOptions { rope, projections, is_hf_layout, is_sparse: &|_| true };
    build_hybrid(weights, &args, &options)
}

/// Builds a decoder of attention and gated delta layers.
pub(super) fn build_hybrid(
    weights: &VarBuilder<'_>,
    args: &ModelArgs,
    options: &HybridOptions<'_>,
) -> Result<Architecture, ModelError> {
    let (config, checkpoint) = (weights.config(), weights.checkpoint());
    let &HybridOptions { rope, projections, is_hf_layout, is_sparse } = options;
    let sizes = args.sizes(config)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    config.expect("attn_output_gate", &[true.into()])?;
    config.expect("use_qk_norm", &[true.into()])?;
    config.expect("output_gate_type", &SILU.map(Into::into))?;
    let mixture = args.moe_args(&sizes, config)?;
    let paths = PATHS.iter().find(|(model, _)| checkpoint.has(&format!("{model}.embed_tokens.weight")));
    let (model, head) = paths.copied().unwrap_or(PATHS[0]);
    let delta = args.gated_delta_args(projections, config)?;
    let norm = NormArgs { weight_offset: f32::from(u8::from(is_hf_layout)), ..sizes.norm_args() };
    let attention = AttentionArgs {
        qkv_bias: args.attention_bias,
        output_bias: args.attention_bias,
        head_norm: Some(norm),
        output_gate: true,
        ..sizes.attention_args(Some(sizes.rope(config, rope)?))
    };
    let builder = LayerBuilder { args, sizes: &sizes, norm, attention, delta };
    let names = DecoderNames { model, embed: "embed_tokens", norm: "norm", head };
    let fused = projections.fused(&delta.dims);
    let whole = weights.with_fused(&fused);
    let base = decoder_with_names(names, &whole, &sizes, |layer_idx, weights| {
        let mlp = weights.at("mlp");
        let mixture = mixture.as_ref().filter(|_| is_sparse(layer_idx));
        let Some(MixtureArgs { experts, gate, router }) = mixture else {
            return builder.build(layer_idx, || Mlp::new(sizes.mlp_args(), &mlp), weights);
        };
        let gate = || MoeGate::new(&mlp, sizes.hidden_size, experts.dims.n_experts, *gate);
        let parts = builder.build(layer_idx, gate, weights)?;
        let mixture = match Mixture::joined(&mlp.at(Names::USUAL.each), *experts, router.clone())? {
            Some(joined) => joined,
            None => Mixture::new(&mlp, Names::USUAL, *experts, router.clone())?,
        };
        Ok(LayerParts { mixture: Some(mixture), ..parts })
    })?;
    let is_dense = mixture.is_none() || (0..sizes.num_hidden_layers).any(|layer_idx| !is_sparse(layer_idx));
    let dense_size = if is_dense { base.intermediate_size } else { 0 };
    let shared = mixture.and_then(|mixture| mixture.gate.shared_expert);
    let mlp_size = shared.map_or(0, |shared| shared.intermediate_size).max(dense_size);
    Ok(Architecture {
        fused,
        norm: weights.at(model).at("norm").rms_norm(sizes.hidden_size, norm)?,
        // The widest activations of a gated delta net: projected queries, keys and values, and the gate.
        intermediate_size: mlp_size.max(delta.dims.channels() + delta.dims.values()),
        ..base
    })
}
