//! An expert of a mixture.

use mlx_rs::macros::ModuleParameters;

use super::layers::Linear;
use crate::compute::{Activation, ExpertMatrices};

/// An expert: `down(activation(gate(x), up(x)))`, or without a gate `down(relu(up(x))²)`.
#[derive(Debug, Clone, ModuleParameters)]
pub(crate) struct Expert {
    /// The gate's activation, if there is a gate.
    pub activation: Option<Activation>,
    /// None if there is no gate, or if `up_proj` holds its rows as well: then they alternate, the gate's first.
    #[param]
    pub gate_proj: Option<Linear>,
    #[param]
    pub up_proj: Linear,
    #[param]
    pub down_proj: Linear,
}

impl Expert {
    /// Its arrays, for a backend.
    pub(crate) fn matrices(&self) -> ExpertMatrices<'_> {
        ExpertMatrices {
            activation: self.activation,
            gate: self.gate_proj.as_ref().map(Linear::matrix),
            up: self.up_proj.matrix(),
            down: self.down_proj.matrix(),
        }
    }
}
