//! Qwen3.5, with experts or without, as `mlx_lm/models/qwen3_5.py` and `qwen3_5_moe.py` have it: most layers have a gated delta net
//! in the place of attention. Of a model that sees, the text model alone is run.

mod args;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, ModuleParameters};

use super::block::{Feed, TransformerBlock};
use super::sizes::SILU;
use super::{Architecture, DecoderNames, LayerParts, Sizes, decoder_of};
use crate::ModelError;
use crate::compute::NormArgs;
use crate::compute::Value;
use crate::kv::Keeps;
use crate::nn::attention::{Attention, AttentionArgs};
use crate::nn::gate::Gate;
use crate::nn::gated_delta::{GatedDelta, GatedDeltaArgs, Projections};
use crate::nn::layer::{Layer, LayerInput, LayerOutput, Routed};
use crate::nn::layers::RmsNorm;
use crate::nn::mlp::Mlp;
use crate::nn::rope::RopeDefaults;
use crate::nn::weights::Weights;
use crate::stream::experts::{Mixture, MixtureArgs, Names};

pub(super) use args::ModelArgs;

/// Where a checkpoint has the text model: its parts and its head, as mlx-lm writes them, as the model that sees is trained, and as
/// one that does not.
const PLACES: [(&str, &str); 3] = [
    ("language_model.model", "language_model.lm_head"),
    ("model.language_model", "lm_head"),
    ("model", "lm_head"),
];

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

impl<F: Feed> Module<LayerInput<'_>> for LinearBlock<F> {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, .. }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let h = self.linear_attn.add(x, &self.input_layernorm.of(x)?, kv)?;
        let normed = self.post_attention_layernorm.of(&h)?;
        self.mlp.add(h, normed)
    }

    fn training_mode(&mut self, _: bool) {}
}

impl<F: Feed> Layer for LinearBlock<F> {
    fn predict_routing(&mut self, hidden: &Value) -> Result<Option<Routed>, Exception> {
        self.mlp.predict_routing(self.post_attention_layernorm.of(hidden)?)
    }
}

/// What there is to say of a model beside [`ModelArgs`].
pub(super) struct Hybrid<'a> {
    pub rope: RopeDefaults,
    pub projections: Projections,
    /// Whether norms, but those of the nets, have their weights around zero.
    pub is_trained: bool,
    /// Whether a layer has experts, if there are any.
    pub is_sparse: &'a dyn Fn(usize) -> bool,
}

/// What layers are made of.
struct Layers<'a> {
    args: &'a ModelArgs,
    sizes: &'a Sizes,
    norm: NormArgs,
    attention: AttentionArgs,
    delta: GatedDeltaArgs,
}

impl Layers<'_> {
    /// A layer with `mlp` behind what comes first in it, and what it keeps.
    fn layer<F: Feed + 'static>(
        &self,
        layer_idx: usize,
        mlp: F,
        weights: &Weights<'_>,
    ) -> Result<(Box<dyn Layer>, Keeps), ModelError> {
        let Self { args, sizes, norm, attention, delta } = self;
        if args.attends(layer_idx) {
            let self_attn = Attention::new(attention, &weights.at("self_attn"))?;
            let block = TransformerBlock::with(sizes, *norm, self_attn, mlp, weights)?;
            return Ok((Box::new(block), Keeps::KeysValues));
        }
        let norm = |name| weights.at(name).rms_norm(sizes.hidden_size, *norm);
        let block = LinearBlock {
            linear_attn: GatedDelta::new(*delta, &weights.at("linear_attn"))?,
            mlp,
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
        };
        Ok((Box::new(block), Keeps::State(delta.dims.state())))
    }
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let args: ModelArgs = weights.config().args()?;
    // Convolutions tell whether a checkpoint is as it is trained.
    let mut tensors = weights.checkpoint().catalog().tensors();
    let is_trained = tensors.any(|tensor| {
        tensor.name.ends_with("conv1d.weight") && tensor.shape.last().is_some_and(|last| *last != 1)
    });
    let rope = RopeDefaults { theta: Some(100_000.0), partial: Some(0.25), ..RopeDefaults::default() };
    let projections = Projections::Apart;
    weights.config().expect("decoder_sparse_step", &[1.into()])?;
    hybrid(weights, &args, &Hybrid { rope, projections, is_trained, is_sparse: &|_| true })
}

/// A decoder of such layers.
pub(super) fn hybrid(
    weights: &Weights<'_>,
    args: &ModelArgs,
    hybrid: &Hybrid<'_>,
) -> Result<Architecture, ModelError> {
    let (config, checkpoint) = (weights.config(), weights.checkpoint());
    let &Hybrid { rope, projections, is_trained, is_sparse } = hybrid;
    let sizes = args.sizes(config)?;
    config.expect("hidden_act", &SILU.map(Into::into))?;
    config.expect("attn_output_gate", &[true.into()])?;
    config.expect("use_qk_norm", &[true.into()])?;
    config.expect("output_gate_type", &SILU.map(Into::into))?;
    let mixture = args.mixture(&sizes, config)?;
    let place = PLACES.iter().find(|(model, _)| checkpoint.has(&format!("{model}.embed_tokens.weight")));
    let (model, head) = place.copied().unwrap_or(PLACES[0]);
    let delta = args.gated_delta(projections, config)?;
    let norm = NormArgs { weight_offset: f32::from(u8::from(is_trained)), ..sizes.norm() };
    let attention = AttentionArgs {
        qkv_bias: args.attention_bias,
        output_bias: args.attention_bias,
        head_norm: Some(norm),
        output_gate: true,
        ..sizes.attention(Some(sizes.rope(config, rope)?))
    };
    let layers = Layers { args, sizes: &sizes, norm, attention, delta };
    let names = DecoderNames { model, embed: "embed_tokens", norm: "norm", head };
    let fused = projections.fused(&delta.dims);
    let whole = weights.with_fused(&fused);
    let usual = decoder_of(names, &whole, &sizes, |layer_idx, weights| {
        let mlp = weights.at("mlp");
        let mixture = mixture.as_ref().filter(|_| is_sparse(layer_idx));
        let Some(MixtureArgs { experts, gate, router }) = mixture else {
            let (layer, keeps) = layers.layer(layer_idx, Mlp::new(sizes.mlp(), &mlp)?, weights)?;
            return Ok(LayerParts { keeps, ..layer.into() });
        };
        let gate = Gate::new(&mlp, sizes.hidden_size, experts.dims.n_experts, *gate)?;
        let (layer, keeps) = layers.layer(layer_idx, gate, weights)?;
        let mixture = match Mixture::joined(&mlp.at(Names::USUAL.each), *experts, router.clone())? {
            Some(trained) => trained,
            None => Mixture::new(&mlp, Names::USUAL, *experts, router.clone())?,
        };
        Ok(LayerParts { keeps, ..LayerParts::mixed(layer, mixture) })
    })?;
    let is_dense = mixture.is_none() || (0..sizes.num_hidden_layers).any(|layer_idx| !is_sparse(layer_idx));
    let dense_size = if is_dense { usual.intermediate_size } else { 0 };
    let shared = mixture.and_then(|mixture| mixture.gate.shared_expert);
    let mlp_size = shared.map_or(0, |shared| shared.intermediate_size).max(dense_size);
    Ok(Architecture {
        fused,
        norm: weights.at(model).at("norm").rms_norm(sizes.hidden_size, norm)?,
        // Between its projections a net has what was projected and convolved.
        intermediate_size: mlp_size.max(delta.dims.channels() + delta.dims.values()),
        ..usual
    })
}
