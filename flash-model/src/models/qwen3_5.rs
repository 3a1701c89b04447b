//! Qwen3.5, as `mlx_lm/models/qwen3_5.py` has it: most layers have a gated delta net in the place of attention. Of a model that
//! sees, the text model alone is run.

mod args;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;

use super::block::TransformerBlock;
use super::{Architecture, DecoderNames, Layer, LayerOutput, LayerParts, decoder_of};
use crate::ModelError;
use crate::attention::{Attention, AttentionArgs, LayerInput};
use crate::gated_delta::GatedDelta;
use crate::kv::Keeps;
use crate::layers::{NormArgs, RmsNorm};
use crate::mlp::Mlp;
use crate::weights::Weights;

use args::ModelArgs;

/// Where a checkpoint has the text model: its parts and its head, as mlx-lm writes them, as the model that sees is trained, and as
/// one that does not.
const PLACES: [(&str, &str); 3] =
    [("language_model.model", "language_model"), ("model.language_model", ""), ("model", "")];

#[derive(Debug, ModuleParameters)]
struct LinearBlock {
    #[param]
    linear_attn: GatedDelta,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl Module<LayerInput<'_>> for LinearBlock {
    type Output = LayerOutput;
    type Error = Exception;

    fn forward(&mut self, LayerInput { x, kv, .. }: LayerInput<'_>) -> Result<LayerOutput, Exception> {
        let h = self.linear_attn.add(x, &self.input_layernorm.forward(x)?, kv)?;
        Ok(self.mlp.add(&h, &self.post_attention_layernorm.forward(&h)?)?.into())
    }

    fn training_mode(&mut self, _: bool) {}
}

impl Layer for LinearBlock {}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let (config, checkpoint) = (weights.config(), weights.checkpoint());
    let args = ModelArgs::of(config)?;
    let sizes = args.sizes(config)?;
    let place = PLACES.iter().find(|(model, _)| checkpoint.has(&format!("{model}.embed_tokens.weight")));
    let (model, head) = place.copied().unwrap_or(PLACES[0]);
    let delta = args.gated_delta(config)?;
    // Checkpoints as they are trained have the weights of norms around zero, but those of the nets; convolutions tell.
    let mut tensors = checkpoint.catalog().tensors();
    let is_trained = tensors.any(|tensor| {
        tensor.name.ends_with("conv1d.weight") && tensor.shape.last().is_some_and(|last| *last != 1)
    });
    let norm = NormArgs { weight_offset: f32::from(u8::from(is_trained)), ..sizes.norm() };
    let attention = AttentionArgs {
        qkv_bias: args.attention_bias,
        output_bias: args.attention_bias,
        head_norm: Some(norm),
        output_gate: true,
        ..sizes.attention(Some(args.rope(&sizes, config)?))
    };
    let names = DecoderNames { model, embed: "embed_tokens", norm: "norm" };
    let usual = decoder_of(names, weights, &sizes, args.tie_word_embeddings, |layer_idx, weights| {
        let mlp = Mlp::new(sizes.mlp(), &weights.at("mlp"))?;
        let (layer, keeps): (Box<dyn Layer>, _) = if args.attends(layer_idx) {
            let self_attn = Attention::new(&attention, &weights.at("self_attn"))?;
            let block = TransformerBlock::with(&sizes, norm, self_attn, mlp, weights)?;
            (Box::new(block), Keeps::KeysValues)
        } else {
            let linear_attn = GatedDelta::new(delta, &weights.at("linear_attn"))?;
            let norm_of = |name| weights.at(name).rms_norm(sizes.hidden_size, norm);
            let block = LinearBlock {
                linear_attn,
                mlp,
                input_layernorm: norm_of("input_layernorm")?,
                post_attention_layernorm: norm_of("post_attention_layernorm")?,
            };
            (Box::new(block), Keeps::State(delta.state()))
        };
        Ok(LayerParts { layer, mixture: None, keeps })
    })?;
    let lm_head = weights.at(head).at("lm_head");
    Ok(Architecture {
        norm: weights.at(model).at("norm").rms_norm(sizes.hidden_size, norm)?,
        head_path: if args.tie_word_embeddings {
            usual.embed_path.clone()
        } else {
            lm_head.path().to_owned()
        },
        // Between its projections a net has what was projected and convolved.
        intermediate_size: usual.intermediate_size.max(delta.channels() + delta.values()),
        ..usual
    })
}
