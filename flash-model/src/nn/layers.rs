//! The layers that have weights, whoever computes them.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::checkpoint::config::QuantizedFormat;
use crate::compute::{Activation, Backend, Matrix, Norm, NormArgs, Quantized, Value};

/// `y = x · Wᵀ (+ b)`. Its parameters are named as checkpoints name them.
#[derive(Debug, Clone, ModuleParameters)]
pub(crate) struct Linear {
    pub(crate) backend: Backend,
    /// How the weight is quantised, if it is: then there are scales, and biases if it is affine.
    pub(crate) format: Option<QuantizedFormat>,
    /// Whether `x` must be rounded no further than sums in f32 are: what follows decides by small differences.
    pub(crate) is_wide: bool,
    #[param]
    pub(crate) weight: Param<Array>,
    #[param]
    pub(crate) scales: Param<Option<Array>>,
    #[param]
    pub(crate) biases: Param<Option<Array>>,
    #[param]
    pub(crate) bias: Param<Option<Array>>,
}

impl Linear {
    /// Its arrays, for whoever computes.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let scales = self.format.zip(self.scales.value.as_ref());
        let quantized =
            scales.map(|(format, scales)| Quantized { format, scales, biases: self.biases.value.as_ref() });
        Matrix { weight: &self.weight, quantized, bias: self.bias.value.as_ref(), is_wide: self.is_wide }
    }

    /// The same layer, whose products round `x` no further than sums in f32 are.
    pub(crate) fn wide(self) -> Self {
        Self { is_wide: true, ..self }
    }

    /// `self(x)`.
    pub(crate) fn of(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.product(x, self.matrix())
    }

    /// `self(x)` for `x` `[1, n, heads, input]`, where it has a matrix for each head.
    pub(crate) fn of_each(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.product_each(x, self.matrix())
    }

    /// `onto + self(x)`.
    pub(crate) fn add(&self, onto: &Value, x: &Value) -> Result<Value, Exception> {
        self.backend.add_product(onto, x, self.matrix())
    }
}

/// What each layer makes of the same `x`.
pub(crate) fn project<const N: usize>(layers: [&Linear; N], x: &Value) -> Result<[Value; N], Exception> {
    const { assert!(N > 0, "there is a layer") };
    let products = layers[0].backend.products(x, &layers.map(Linear::matrix))?;
    Ok(products.try_into().expect("a product for each layer"))
}

/// `activation(gate(x)) · up(x)`.
pub(crate) fn gated(
    activation: Activation,
    gate: &Linear,
    up: &Linear,
    x: &Value,
) -> Result<Value, Exception> {
    gate.backend.gated_product(activation, x, gate.matrix(), up.matrix())
}

/// `relu(up(x))²`.
pub(crate) fn squared_relu(up: &Linear, x: &Value) -> Result<Value, Exception> {
    up.backend.squared_relu_product(x, up.matrix())
}

/// RMSNorm over the last axis.
#[derive(Debug, ModuleParameters)]
pub(crate) struct RmsNorm {
    pub(crate) backend: Backend,
    pub(crate) args: NormArgs,
    #[param]
    pub(crate) weight: Param<Array>,
}

impl RmsNorm {
    /// What computes it.
    pub(crate) fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.weight, args: self.args }
    }

    /// `self(x)`.
    pub(crate) fn of(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.rms_norm(x, self.norm())
    }

    /// `onto + self(x)`.
    pub(crate) fn add(&self, onto: &Value, x: &Value) -> Result<Value, Exception> {
        self.backend.sum(onto, &self.of(x)?)
    }
}
