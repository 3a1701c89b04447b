//! An expert of a mixture of experts.

use mlx_rs::macros::ModuleParameters;

use super::layers::Linear;
use crate::compute::{Activation, ExpertMatrices};

/// An expert: `down(activation(gate(x), up(x)))`, or without a gate `down(relu(up(x))²)`.
#[derive(Debug, Clone, ModuleParameters)]
pub(crate) struct Expert {
    /// Activation of the gate; `None` without a gate.
    pub activation: Option<Activation>,
    /// `None` without a gate, or if `up_proj` interleaves its rows with those of the gate, the gate's first.
    #[param]
    pub gate_proj: Option<Linear>,
    #[param]
    pub up_proj: Linear,
    #[param]
    pub down_proj: Linear,
}

impl Expert {
    /// Returns the arrays for a backend.
    pub(crate) fn matrices(&self) -> ExpertMatrices<'_> {
        ExpertMatrices {
            activation: self.activation,
            gate: self.gate_proj.as_ref().map(Linear::matrix),
            up: self.up_proj.matrix(),
            down: self.down_proj.matrix(),
        }
    }
}
