//! The gated delta net of Qwen3.5 and Qwen3-Next: what stands in the place of attention in a layer that keeps a state.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;

use crate::ModelError;
use crate::compute::{Backend, Value};
use crate::convolution::Convolution;
use crate::fused::Fused;
use crate::kv::{LayerKv, StateShape};
use crate::layers::{Linear, NormArgs, RmsNorm, project};
use crate::weights::Weights;

/// How a checkpoint has what projects tokens for a net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projections {
    /// In four matrices.
    Apart,
    /// In two, `in_proj_qkvz` and `in_proj_ba`: of each head of keys query, key, values and gates, and corrections and steps.
    ByKeyHead,
}

impl Projections {
    /// What the two are called here: the rows of a net are told apart when they are there.
    pub(crate) fn fused(self, args: &GatedDeltaArgs) -> Vec<Fused> {
        if self == Self::Apart {
            return Vec::new();
        }
        let all = |whole, part, n_rows| Fused::parts(whole, &[(part, n_rows)]);
        let mut fused =
            all("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", args.channels() + args.values());
        fused.extend(all("linear_attn.in_proj_ba", "linear_attn.in_proj_b", 2 * args.value_heads));
        fused
    }
}

/// The lengths of a net.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GatedDeltaArgs {
    pub hidden_size: i32,
    /// Heads of queries and keys, each shared by as many value heads as the others.
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    /// Tokens that the convolution sees.
    pub conv_kernel: i32,
    /// What the mean of the squares is increased by.
    pub eps: f32,
    pub projections: Projections,
}

impl GatedDeltaArgs {
    /// Queries of a token, and keys.
    pub(crate) fn keys(&self) -> i32 {
        self.key_heads * self.key_dim
    }

    /// Values of a token.
    pub(crate) fn values(&self) -> i32 {
        self.value_heads * self.value_dim
    }

    /// Channels of the convolution: queries, keys, values.
    pub(crate) fn channels(&self) -> i32 {
        2 * self.keys() + self.values()
    }

    /// What the net keeps of the tokens before.
    pub(crate) fn state(&self) -> StateShape {
        let [kernel, channels, heads, rows, columns] =
            [self.conv_kernel, self.channels(), self.value_heads, self.value_dim, self.key_dim]
                .map(|extent| extent as usize);
        StateShape { conv: [kernel - 1, channels], heads: [heads, rows, columns] }
    }
}

/// Tokens as a net projects them.
#[derive(Debug)]
pub(crate) struct GatedDeltaInput {
    /// `[1, n, channels]`.
    pub qkv: Value,
    /// `[1, n, values]`.
    pub gate: Value,
    /// How much is corrected, before the sigmoid: `[1, n, value_heads]`.
    pub beta: Value,
    /// The steps, before what is added to them: `[1, n, value_heads]`.
    pub step: Value,
}

impl GatedDeltaInput {
    /// What was projected by head of keys, `[1, n, …]`, in the order that a net takes it in.
    fn of_key_heads(args: GatedDeltaArgs, qkvz: &Value, ba: &Value) -> Result<Self, Exception> {
        let GatedDeltaArgs { key_heads, value_heads, key_dim, .. } = args;
        let (n, heads, values) = (qkvz.dim(1), value_heads / key_heads, args.values() / key_heads);
        let by_head = |x: &Array| x.reshape(&[1, n, key_heads, -1]);
        let part = |x: &Array, start: i32, len: i32| {
            x.try_index((.., .., .., start..start + len))?.reshape(&[1, n, key_heads * len])
        };
        let (qkvz, ba) = (by_head(&qkvz.array()?)?, by_head(&ba.array()?)?);
        let [queries, keys] = [part(&qkvz, 0, key_dim)?, part(&qkvz, key_dim, key_dim)?];
        Ok(Self {
            qkv: concatenate(&[queries, keys, part(&qkvz, 2 * key_dim, values)?], -1)?.into(),
            gate: part(&qkvz, 2 * key_dim + values, values)?.into(),
            beta: part(&ba, 0, heads)?.into(),
            step: part(&ba, heads, heads)?.into(),
        })
    }
}

/// A net with its projections. Its parameters are named as checkpoints name them.
#[derive(Debug, ModuleParameters)]
#[expect(non_snake_case, reason = "checkpoints name parameters so")]
pub(crate) struct GatedDelta {
    pub args: GatedDeltaArgs,
    backend: Backend,
    #[param]
    in_proj_qkv: Linear,
    /// None where the one above has its rows, as the one of the steps where that of the corrections has them.
    #[param]
    in_proj_z: Option<Linear>,
    #[param]
    in_proj_b: Linear,
    #[param]
    in_proj_a: Option<Linear>,
    #[param]
    pub conv1d: Convolution,
    /// `[value_heads]`, as the next.
    #[param]
    pub dt_bias: Param<Array>,
    #[param]
    pub A_log: Param<Array>,
    /// Of each head.
    #[param]
    pub norm: RmsNorm,
    #[param]
    out_proj: Linear,
}

impl GatedDelta {
    pub(crate) fn new(args: GatedDeltaArgs, weights: &Weights<'_>) -> Result<Self, ModelError> {
        let GatedDeltaArgs { hidden_size, value_heads, value_dim, conv_kernel, eps, .. } = args;
        let projection = |name, output| weights.at(name).linear(hidden_size, output, false);
        let norm = NormArgs { eps, weight_offset: 0.0 };
        let is_apart = args.projections == Projections::Apart;
        let apart = |name, output| is_apart.then(|| projection(name, output)).transpose();
        let [with_gates, with_steps] = if is_apart { [0; 2] } else { [args.values(), value_heads] };
        Ok(Self {
            args,
            backend: weights.backend().clone(),
            in_proj_qkv: projection("in_proj_qkv", args.channels() + with_gates)?,
            in_proj_z: apart("in_proj_z", args.values())?,
            in_proj_b: projection("in_proj_b", value_heads + with_steps)?,
            in_proj_a: apart("in_proj_a", value_heads)?,
            conv1d: Convolution::new(args.channels(), conv_kernel, false, &weights.at("conv1d"))?,
            dt_bias: Param::new(weights.at("dt_bias").vector(value_heads)?),
            A_log: Param::new(weights.at("A_log").vector(value_heads)?),
            norm: weights.at("norm").rms_norm(value_dim, norm)?,
            out_proj: weights.at("out_proj").linear(args.values(), hidden_size, false)?,
        })
    }

    /// Adds to `residual` what it makes of `x`, behind the tokens of which `kv` has the state.
    pub(crate) fn add(&self, residual: &Value, x: &Value, kv: &mut LayerKv) -> Result<Value, Exception> {
        let input = match self.in_proj_z.as_ref().zip(self.in_proj_a.as_ref()) {
            Some((z, a)) => {
                let [qkv, gate, beta, step] = project([&self.in_proj_qkv, z, &self.in_proj_b, a], x)?;
                GatedDeltaInput { qkv, gate, beta, step }
            }
            None => {
                let [qkvz, ba] = project([&self.in_proj_qkv, &self.in_proj_b], x)?;
                GatedDeltaInput::of_key_heads(self.args, &qkvz, &ba)?
            }
        };
        self.out_proj.add(residual, &self.backend.gated_delta(self, &input, kv)?)
    }
}
