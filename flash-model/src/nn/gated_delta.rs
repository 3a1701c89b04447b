//! The gated delta net of Qwen3.5 and Qwen3-Next: linear attention with a recurrent state.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;

use crate::ModelError;
use crate::compute::{Backend, GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights, NormArgs, Value};
use crate::nn::convolution::Convolution;
use crate::nn::fused::Fused;
use crate::nn::layer::LayerInput;
use crate::nn::layers::RmsNorm;
use crate::nn::tiled::{TiledLinear, project};
use crate::nn::var_builder::VarBuilder;

/// The layout of the input projections in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projections {
    /// Four matrices: `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`.
    Separate,
    /// Two matrices, `in_proj_qkvz` and `in_proj_ba`, whose rows are grouped by key head: query, key, values and gates;
    /// betas and time steps.
    ByKeyHead,
}

impl Projections {
    /// Renames the fused matrices to parameters of [`GatedDelta`], which splits their outputs by key head.
    pub(crate) fn fused(self, dims: &GatedDeltaDims) -> Vec<Fused> {
        if self == Self::Separate {
            return Vec::new();
        }
        let all = |whole, part, n_rows| Fused::parts(whole, &[(part, n_rows)]);
        let mut fused =
            all("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", dims.channels() + dims.values());
        fused.extend(all("linear_attn.in_proj_ba", "linear_attn.in_proj_b", 2 * dims.value_heads));
        fused
    }
}

/// Configuration of a gated delta net.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaArgs {
    pub hidden_size: i32,
    pub dims: GatedDeltaDims,
    pub projections: Projections,
}

/// Splits the outputs of the matrices fused by key head, `[1, n, …]`, into the inputs of a gated delta net.
fn split_by_key_head(dims: GatedDeltaDims, qkvz: &Value, ba: &Value) -> Result<GatedDeltaInput, Exception> {
    let GatedDeltaDims { key_heads, value_heads, key_dim, .. } = dims;
    let (n, heads, values) = (qkvz.dim(1), value_heads / key_heads, dims.values() / key_heads);
    let by_head = |x: &Array| x.reshape(&[1, n, key_heads, -1]);
    let part = |x: &Array, start: i32, len: i32| {
        x.try_index((.., .., .., start..start + len))?.reshape(&[1, n, key_heads * len])
    };
    let (qkvz, ba) = (by_head(&qkvz.array()?)?, by_head(&ba.array()?)?);
    let [queries, keys] = [part(&qkvz, 0, key_dim)?, part(&qkvz, key_dim, key_dim)?];
    Ok(GatedDeltaInput {
        qkv: concatenate(&[queries, keys, part(&qkvz, 2 * key_dim, values)?], -1)?.into(),
        gate: part(&qkvz, 2 * key_dim + values, values)?.into(),
        beta: part(&ba, 0, heads)?.into(),
        step: part(&ba, heads, heads)?.into(),
    })
}

/// A gated delta net with its projections.
#[derive(Debug, ModuleParameters)]
#[expect(non_snake_case, reason = "checkpoints name parameters so")]
pub(crate) struct GatedDelta {
    dims: GatedDeltaDims,
    backend: Backend,
    #[param]
    in_proj_qkv: TiledLinear,
    /// `None` where `in_proj_qkv` has its rows.
    #[param]
    in_proj_z: Option<TiledLinear>,
    #[param]
    in_proj_b: TiledLinear,
    /// `None` where `in_proj_b` has its rows.
    #[param]
    in_proj_a: Option<TiledLinear>,
    #[param]
    conv1d: Convolution,
    /// `[value_heads]`.
    #[param]
    dt_bias: Param<Array>,
    /// `[value_heads]`.
    #[param]
    A_log: Param<Array>,
    /// The norm of each head.
    #[param]
    norm: RmsNorm,
    #[param]
    out_proj: TiledLinear,
}

impl GatedDelta {
    pub(crate) fn new(args: GatedDeltaArgs, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let GatedDeltaArgs { hidden_size, dims, projections } = args;
        let GatedDeltaDims { value_heads, value_dim, conv_kernel, eps, .. } = dims;
        let projection = |name, output| weights.at(name).tiled_linear(hidden_size, output, false);
        let norm = NormArgs { eps, weight_offset: 0.0 };
        let is_separate = projections == Projections::Separate;
        let separate = |name, output| is_separate.then(|| projection(name, output)).transpose();
        let [gate_rows, step_rows] = if is_separate { [0; 2] } else { [dims.values(), value_heads] };
        Ok(Self {
            dims,
            backend: weights.backend().clone(),
            in_proj_qkv: projection("in_proj_qkv", dims.channels() + gate_rows)?,
            in_proj_z: separate("in_proj_z", dims.values())?,
            in_proj_b: projection("in_proj_b", value_heads + step_rows)?,
            in_proj_a: separate("in_proj_a", value_heads)?,
            conv1d: Convolution::new(dims.channels(), conv_kernel, false, &weights.at("conv1d"))?,
            dt_bias: Param::new(weights.at("dt_bias").vector(value_heads)?),
            A_log: Param::new(weights.at("A_log").vector(value_heads)?),
            norm: weights.at("norm").rms_norm(value_dim, norm)?,
            out_proj: weights.at("out_proj").tiled_linear(dims.values(), hidden_size, false)?,
        })
    }

    /// Returns `residual + self(input)`, and advances the recurrent state.
    pub(crate) fn add(&self, residual: &Value, input: LayerInput<'_>) -> Result<Value, ModelError> {
        let LayerInput { x, mut segments, tiles } = input;
        let input = match self.in_proj_z.as_ref().zip(self.in_proj_a.as_ref()) {
            Some((z, a)) => {
                let [qkv, gate, beta, step] = project([&self.in_proj_qkv, z, &self.in_proj_b, a], x, tiles)?;
                GatedDeltaInput { qkv, gate, beta, step }
            }
            None => {
                let [qkvz, ba] = project([&self.in_proj_qkv, &self.in_proj_b], x, tiles)?;
                split_by_key_head(self.dims, &qkvz, &ba)?
            }
        };
        let net = GatedDeltaWeights {
            dims: self.dims,
            conv: self.conv1d.weights(),
            dt_bias: &self.dt_bias,
            a_log: &self.A_log,
            norm: &self.norm.weight,
        };
        self.out_proj.add(residual, &self.backend.gated_delta(net, &input, &mut segments)?, tiles)
    }
}
