//! Nemotron-H (`mlx_lm/models/nemotron_h.py`): each layer is a norm and one mixer, which is Mamba-2, attention, an MLP
//! or a mixture of experts.

mod args;

use std::fmt::Debug;

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::{Module, ModuleParameters};

use super::sizes::SILU;
use super::{Architecture, DecoderNames, LayerParts, decoder_with_names};
use crate::ModelError;
use crate::compute::Value;
use crate::kv::CacheKind;
use crate::nn::attention::{Attention, AttentionArgs};
use crate::nn::layer::{Layer, LayerInput, LayerOutput, Routed};
use crate::nn::layers::RmsNorm;
use crate::nn::mamba2::Mamba2;
use crate::nn::mlp::Mlp;
use crate::nn::moe_gate::{ExpertLatent, MoeGate};
use crate::nn::var_builder::VarBuilder;
use crate::stream::experts::{Mixture, MixtureArgs, Names};

use args::{LayerKind, ModelArgs};

const EXPERTS: Names = Names {
    stacked: "switch_mlp",
    stacked_matrices: ["", "fc1", "fc2"],
    each: "experts",
    each_matrices: ["", "up_proj", "down_proj"],
};

const NAMES: DecoderNames =
    DecoderNames { model: "backbone", embed: "embeddings", norm: "norm_f", head: "lm_head" };

/// The mixer of a layer.
trait Mixer: ModuleParameters + Debug + 'static {
    /// Returns `residual + self(input)`, where `input` is the normed residual.
    fn mix(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<LayerOutput, ModelError>;

    /// Predicts the routing of normed hidden states; `None` for a mixer without experts.
    fn predict_routing(&self, _normed: Value) -> Result<Option<Routed>, Exception> {
        Ok(None)
    }
}

impl Mixer for Attention {
    fn mix(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        Ok(self.add(residual, input)?.into())
    }
}

impl Mixer for Mamba2 {
    fn mix(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        Ok(self.add(residual, input)?.into())
    }
}

impl Mixer for MoeGate {
    fn mix(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        self.forward(residual.clone(), input.x, input.tiles)
    }

    fn predict_routing(&self, normed: Value) -> Result<Option<Routed>, Exception> {
        self.route(&normed).map(Some)
    }
}

impl Mixer for Mlp {
    fn mix(&mut self, residual: &Value, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        Ok(self.add(residual, input.x, input.tiles)?.into())
    }
}

#[derive(Debug, ModuleParameters)]
struct Block<M: Mixer> {
    #[param]
    norm: RmsNorm,
    #[param]
    mixer: M,
}

impl<M: Mixer> Module<LayerInput<'_>> for Block<M> {
    type Output = LayerOutput;
    type Error = ModelError;

    fn forward(&mut self, input: LayerInput<'_>) -> Result<LayerOutput, ModelError> {
        let LayerInput { x, segments, tiles } = input;
        let normed = self.norm.forward(x)?;
        self.mixer.mix(x, LayerInput { x: &normed, segments, tiles })
    }

    fn training_mode(&mut self, _: bool) {}
}

impl<M: Mixer> Layer for Block<M> {
    fn predict_routing(&mut self, hidden: &Value) -> Result<Option<Routed>, Exception> {
        self.mixer.predict_routing(self.norm.forward(hidden)?)
    }
}

/// Builds a Nemotron-H decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    config.expect("mlp_hidden_act", &["relu2".into()])?;
    config.expect("mamba_hidden_act", &SILU.map(Into::into))?;
    // Attention has no RoPE, norms use `layer_norm_epsilon`, and the other bias fields replace `use_bias`.
    for unused in
        ["hidden_act", "rope_theta", "partial_rotary_factor", "rms_norm_eps", "norm_eps", "use_bias"]
    {
        config.skip(unused);
    }
    let kinds = args.kinds(config)?;
    let sizes = args.sizes(kinds.len(), config)?;
    config.expect("attention_head_dim", &[sizes.head_dim().into()])?;
    let mamba = args.mamba2_args(config)?;
    let moe = kinds.contains(&LayerKind::Moe).then(|| args.moe_args(config)).transpose()?;
    let attention = AttentionArgs {
        qkv_bias: args.attention_bias,
        output_bias: args.attention_bias,
        ..sizes.attention_args(None)
    };
    let base = decoder_with_names(NAMES, weights, &sizes, |layer_idx, weights| {
        let norm = weights.at("norm").rms_norm(sizes.hidden_size, sizes.norm_args())?;
        let mixer = weights.at("mixer");
        let (mut mixture, mut experts_out) = (None, None);
        let (layer, keeps): (Box<dyn Layer>, _) = match kinds[layer_idx] {
            LayerKind::Mamba => {
                let mixer = Mamba2::new(mamba, &mixer)?;
                (Box::new(Block { norm, mixer }), CacheKind::State(mamba.dims.state()))
            }
            LayerKind::Attention => {
                let mixer = Attention::new(&attention, &mixer)?;
                (Box::new(Block { norm, mixer }), CacheKind::KeysValues)
            }
            LayerKind::Moe => {
                let MixtureArgs { experts, gate, router } = moe.as_ref().expect("read for MoE layers");
                mixture = Some(Mixture::new(&mixer, EXPERTS, *experts, router.clone())?);
                if let Some(ExpertLatent { size, bias }) = gate.latent {
                    let out = mixer.at("fc2_latent_proj");
                    experts_out = Some((out.path().to_owned(), out.linear(size, sizes.hidden_size, bias)?));
                }
                let mixer = MoeGate::new(&mixer, sizes.hidden_size, experts.dims.n_experts, *gate)?;
                (Box::new(Block { norm, mixer }), CacheKind::Nothing)
            }
            LayerKind::Mlp => {
                let mixer = Mlp::new(args.mlp_args(), &mixer)?;
                (Box::new(Block { norm, mixer }), CacheKind::Nothing)
            }
        };
        Ok(LayerParts { layer, mixture, experts_out, keeps })
    })?;
    // Activations of a Mamba-2 mixer are as wide as the output of its input projection.
    let shared = moe.and_then(|moe| moe.gate.shared_experts).map_or(0, |shared| shared.intermediate_size);
    let intermediate_size = base.intermediate_size.max(mamba.dims.projected()).max(shared);
    Ok(Architecture { intermediate_size, ..base })
}
