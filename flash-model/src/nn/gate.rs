//! What a layer has of its experts itself: the matrix that scores them, and those that every token takes.

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};

use crate::ModelError;
use crate::compute::{Activation, Value};
use crate::nn::layer::{LayerOutput, Routed};
use crate::nn::layers::{Linear, project};
use crate::nn::mlp::{Mlp, MlpArgs};
use crate::nn::weights::Weights;

/// It stands where a layer without experts has its MLP.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Gate {
    #[param]
    gate: Scorer,
    /// What brings a token to the numbers that experts work on, if those are not its hidden state.
    #[param]
    fc1_latent_proj: Option<Linear>,
    #[param]
    shared_experts: Option<Mlp>,
    #[param]
    shared_expert: Option<Mlp>,
    #[param]
    shared_expert_gate: Option<Linear>,
}

/// What experts work on in the place of hidden states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latent {
    /// Numbers of a token.
    pub size: i32,
    /// Whether the projections to them, and back, have biases.
    pub bias: bool,
}

/// What there is beside the router's matrix.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GateArgs {
    /// Whether the matrix has biases.
    pub bias: bool,
    /// Whether experts are chosen with a correction of their scores.
    pub corrected: bool,
    /// The experts that every token takes, as one MLP.
    pub shared_experts: Option<MlpArgs>,
    /// The one that every token takes as far as a gate of its own lets it through: a number for each token.
    pub shared_expert: Option<MlpArgs>,
    pub latent: Option<Latent>,
}

/// The router's matrix, and the correction of each expert.
#[derive(Debug, ModuleParameters)]
struct Scorer {
    #[param]
    inner: Linear,
    #[param]
    e_score_correction_bias: Param<Option<Array>>,
}

impl Gate {
    /// For layers with hidden states of so many numbers.
    pub(crate) fn new(
        weights: &Weights<'_>,
        hidden: i32,
        n_experts: usize,
        args: GateArgs,
    ) -> Result<Self, ModelError> {
        let n_experts = n_experts as i32;
        // Wide: a difference of the last bits chooses other experts, and these matrices are small.
        let inner = weights.at("gate").linear(hidden, n_experts, args.bias)?.wide();
        let correction = args.corrected.then(|| weights.vector(n_experts)).transpose()?;
        let shared =
            |name, args: Option<MlpArgs>| args.map(|args| Mlp::new(args, &weights.at(name))).transpose();
        let opening =
            || Ok::<_, ModelError>(weights.at("shared_expert_gate").linear(hidden, 1, false)?.wide());
        let opening = args.shared_expert.map(|_| opening());
        let latent =
            args.latent.map(|Latent { size, bias }| weights.at("fc1_latent_proj").linear(hidden, size, bias));
        Ok(Self {
            gate: Scorer { inner, e_score_correction_bias: Param::new(correction) },
            fc1_latent_proj: latent.transpose()?,
            shared_experts: shared("shared_experts", args.shared_experts)?,
            shared_expert: shared("shared_expert", args.shared_expert)?,
            shared_expert_gate: opening.transpose()?,
        })
    }

    /// Sends `x`, `[1, n, hidden]`, to the experts, whose output will be added to `onto`. What every token takes is added at once.
    pub(crate) fn send(&self, onto: Value, x: &Value) -> Result<LayerOutput, Exception> {
        // First, for it is waited for.
        let routed = self.route(x)?;
        let mut hidden = match &self.shared_experts {
            Some(shared) => shared.add(&onto, x)?,
            None => onto,
        };
        if let Some((gate, shared)) = self.shared_expert_gate.as_ref().zip(self.shared_expert.as_ref()) {
            let passed = gate.backend.gated(Activation::Sigmoid, &gate.of(x)?, &shared.of(x)?)?;
            hidden = gate.backend.sum(&hidden, &passed)?;
        }
        Ok(LayerOutput { hidden, routed: Some(routed) })
    }

    /// What `x` is sent with to the experts.
    pub(crate) fn route(&self, x: &Value) -> Result<Routed, Exception> {
        let Scorer { inner, e_score_correction_bias } = &self.gate;
        let (x, logits) = match &self.fc1_latent_proj {
            Some(latent) => {
                let [x, logits] = project([latent, inner], x)?;
                (x, logits)
            }
            None => {
                let logits = inner.of(x)?;
                (x.clone(), logits)
            }
        };
        // A copy: the layer's slot may be needed while its experts compute.
        let copy = |bias: &Array| bias.as_dtype(Dtype::Float32)?.add(Array::from_f32(0.0));
        let correction = e_score_correction_bias.value.as_ref().map(copy).transpose()?;
        Ok(Routed { x: x.array()?, logits: logits.array()?, correction })
    }
}
