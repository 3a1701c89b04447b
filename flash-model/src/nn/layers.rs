//! Linear layers and RMSNorm, on any backend.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;

use crate::checkpoint::config::QuantizedFormat;
use crate::compute::{Activation, Backend, Matrix, Norm, NormArgs, Quantized, Value};

/// A linear layer, `y = x · Wᵀ (+ b)`, quantized or not.
#[derive(Debug, Clone, ModuleParameters)]
pub(crate) struct Linear {
    pub(crate) backend: Backend,
    /// Format of a quantized weight, which has scales, and biases if it is affine; `None` for floats.
    pub(crate) format: Option<QuantizedFormat>,
    /// Whether activations must keep the precision of f32 sums, for outputs whose small differences decide, such as
    /// router logits.
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
    /// Returns the arrays for a backend.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let scales = self.format.zip(self.scales.value.as_ref());
        let quantized =
            scales.map(|(format, scales)| Quantized { format, scales, biases: self.biases.value.as_ref() });
        Matrix { weight: &self.weight, quantized, bias: self.bias.value.as_ref(), is_wide: self.is_wide }
    }

    /// Sets [`is_wide`](Self::is_wide).
    pub(crate) fn with_wide_activations(self) -> Self {
        Self { is_wide: true, ..self }
    }

    /// Returns `self(x)`.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.product(x, self.matrix())
    }

    /// Returns `self(x)` for `x` `[1, n, heads, input]` and a stack of one matrix per head.
    pub(crate) fn forward_per_head(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.product_each(x, self.matrix())
    }

    /// Returns `residual + self(x)`.
    pub(crate) fn add(&self, residual: &Value, x: &Value) -> Result<Value, Exception> {
        self.backend.add_product(residual, x, self.matrix())
    }
}

/// Applies each of `layers` to the same `x`.
pub(crate) fn project<const N: usize>(layers: [&Linear; N], x: &Value) -> Result<[Value; N], Exception> {
    const { assert!(N > 0, "at least one layer") };
    let products = layers[0].backend.products(x, &layers.map(Linear::matrix))?;
    Ok(products.try_into().expect("a product for each layer"))
}

/// Returns `activation(gate(x)) · up(x)`.
pub(crate) fn gated(
    activation: Activation,
    gate: &Linear,
    up: &Linear,
    x: &Value,
) -> Result<Value, Exception> {
    gate.backend.gated_product(activation, x, gate.matrix(), up.matrix())
}

/// Returns `relu(up(x))²`.
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
    /// Returns the weight and arguments for a backend.
    pub(crate) fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.weight, args: self.args }
    }

    /// Returns `self(x)`.
    pub(crate) fn forward(&self, x: &Value) -> Result<Value, Exception> {
        self.backend.rms_norm(x, self.norm())
    }

    /// Returns `residual + self(x)`.
    pub(crate) fn add(&self, residual: &Value, x: &Value) -> Result<Value, Exception> {
        self.backend.sum(residual, &self.forward(x)?)
    }
}
