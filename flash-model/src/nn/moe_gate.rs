//! The resident part of a mixture-of-experts block: router projection and shared experts.
//!
//! Matrices that route are never in tiles: they are small, and later layers' are used ahead of time.

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};

use crate::ModelError;
use crate::compute::{Activation, Value};
use crate::nn::layer::{LayerOutput, Routed};
use crate::nn::layers::{Linear, project};
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::tiled::Tiles;
use crate::nn::var_builder::VarBuilder;

/// Router projection and shared experts, in place of the MLP of a dense layer. The routed experts are loaded
/// separately.
#[derive(Debug, ModuleParameters)]
pub(crate) struct MoeGate {
    #[param]
    gate: RouterProjection,
    /// Projection of hidden states to the experts' latent space, if they have one.
    #[param]
    fc1_latent_proj: Option<Linear>,
    #[param]
    shared_experts: Option<Mlp>,
    #[param]
    shared_expert: Option<Mlp>,
    #[param]
    shared_expert_gate: Option<Linear>,
}

/// The latent space that experts work on instead of hidden states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertLatent {
    /// Dimensions of the latent space.
    pub size: i32,
    /// Whether the projections to and from the latent space have biases.
    pub bias: bool,
}

/// Configuration of the resident part of a mixture-of-experts block.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MoeGateArgs {
    /// Whether the router projection has a bias.
    pub bias: bool,
    /// Whether a correction bias is added to the scores when experts are chosen (`e_score_correction_bias`).
    pub has_correction: bool,
    /// The shared experts, as one MLP.
    pub shared_experts: Option<MlpArgs>,
    /// The shared expert whose output is scaled by a sigmoid gate, one value per token.
    pub shared_expert: Option<MlpArgs>,
    /// The latent space of the experts; `None` if they work on hidden states.
    pub latent: Option<ExpertLatent>,
}

/// The router projection, and the correction bias of each expert.
#[derive(Debug, ModuleParameters)]
struct RouterProjection {
    #[param]
    inner: Linear,
    #[param]
    e_score_correction_bias: Param<Option<Array>>,
}

impl MoeGate {
    /// Creates the module for a layer of hidden size `hidden`.
    pub(crate) fn new(
        weights: &VarBuilder<'_>,
        hidden: i32,
        n_experts: usize,
        args: MoeGateArgs,
    ) -> Result<Self, ModelError> {
        let n_experts = n_experts as i32;
        // The last bits of a logit can change the choice of experts, and these matrices are small.
        let inner = weights.at("gate").linear(hidden, n_experts, args.bias)?.with_wide_activations();
        let correction = args.has_correction.then(|| weights.vector(n_experts)).transpose()?;
        let shared =
            |name, args: Option<MlpArgs>| args.map(|args| Mlp::new(args, &weights.at(name))).transpose();
        let shared_gate = || {
            let gate = weights.at("shared_expert_gate").linear(hidden, 1, false)?;
            Ok::<_, ModelError>(gate.with_wide_activations())
        };
        let shared_gate = args.shared_expert.map(|_| shared_gate());
        let latent = args
            .latent
            .map(|ExpertLatent { size, bias }| weights.at("fc1_latent_proj").linear(hidden, size, bias));
        Ok(Self {
            gate: RouterProjection { inner, e_score_correction_bias: Param::new(correction) },
            fc1_latent_proj: latent.transpose()?,
            shared_experts: shared("shared_experts", args.shared_experts)?,
            shared_expert: shared("shared_expert", args.shared_expert)?,
            shared_expert_gate: shared_gate.transpose()?,
        })
    }

    /// Routes `x`, `[1, n, hidden]`, and adds the shared experts to `residual`; the caller adds the routed experts.
    pub(crate) fn forward(
        &self,
        residual: Value,
        x: &Value,
        tiles: &mut dyn Tiles,
    ) -> Result<LayerOutput, ModelError> {
        // Submitted first: the host waits for the logits.
        let routed = self.route(x)?;
        let mut hidden = match &self.shared_experts {
            Some(shared) => shared.add(&residual, x, tiles)?,
            None => residual,
        };
        if let Some((gate, shared)) = self.shared_expert_gate.as_ref().zip(self.shared_expert.as_ref()) {
            let shared = shared.forward(x, tiles)?;
            let gated = gate.backend.gated(Activation::Sigmoid, &gate.forward(x)?, &shared)?;
            hidden = gate.backend.sum(&hidden, &gated)?;
        }
        Ok(LayerOutput { hidden, routed: Some(routed) })
    }

    /// Computes the router logits of `x`, and the input of the experts.
    pub(crate) fn route(&self, x: &Value) -> Result<Routed, Exception> {
        let RouterProjection { inner, e_score_correction_bias } = &self.gate;
        let (x, logits) = match &self.fc1_latent_proj {
            Some(latent) => {
                let [x, logits] = project([latent, inner], x)?;
                (x, logits)
            }
            None => {
                let logits = inner.forward(x)?;
                (x.clone(), logits)
            }
        };
        // A copy, because the layer's slot may be reused while its experts compute.
        let copy = |bias: &Array| bias.as_dtype(Dtype::Float32)?.add(Array::from_f32(0.0));
        let correction = e_score_correction_bias.value.as_ref().map(copy).transpose()?;
        Ok(Routed { x: x.array()?, logits: logits.array()?, correction })
    }
}
