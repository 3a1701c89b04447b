//! Grouped-query attention with its projections.

mod latent;

use mlx_rs::Array;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp;

use crate::ModelError;
use crate::compute::{
    Activation, AttentionInput, AttentionParams, Backend, HeadNorms, NormArgs, Rope, Value,
};
use crate::nn::layer::LayerInput;
use crate::nn::layers::RmsNorm;
use crate::nn::tiled::{TiledLinear, project};
use crate::nn::var_builder::VarBuilder;

pub(crate) use latent::{LatentArgs, LatentAttention};

/// Configuration of an attention layer.
#[derive(Debug, Clone)]
pub(crate) struct AttentionArgs {
    pub hidden_size: i32,
    pub n_heads: i32,
    pub n_kv_heads: i32,
    pub head_dim: i32,
    pub scale: f32,
    pub rope: Option<Rope>,
    pub window: Option<usize>,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Whether each head has an attention sink: a learned logit that takes part in the softmax.
    pub sinks: bool,
    /// Whether `q_proj` also projects a gate, after each head's query, for the output of the head.
    pub output_gate: bool,
    /// The RMSNorm of each query and key head before RoPE, if any.
    pub head_norm: Option<NormArgs>,
}

/// Grouped-query attention, with parameters named as in most checkpoints.
#[derive(Debug, ModuleParameters)]
pub(crate) struct Attention {
    backend: Backend,
    params: AttentionParams,
    output_gate: bool,
    #[param]
    q_proj: TiledLinear,
    #[param]
    k_proj: TiledLinear,
    #[param]
    v_proj: TiledLinear,
    #[param]
    o_proj: TiledLinear,
    #[param]
    q_norm: Option<RmsNorm>,
    #[param]
    k_norm: Option<RmsNorm>,
    #[param]
    sinks: Param<Option<Array>>,
}

impl Attention {
    pub(crate) fn new(args: &AttentionArgs, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let AttentionArgs { hidden_size, n_heads, n_kv_heads, head_dim, scale, window, .. } = *args;
        let linear = |name, input, output, bias| weights.at(name).tiled_linear(input, output, bias);
        let norm = |name| args.head_norm.map(|norm| weights.at(name).rms_norm(head_dim, norm)).transpose();
        let params =
            AttentionParams { n_heads, n_kv_heads, scale, rope: args.rope.clone(), window, value_dim: None };
        let query_len = if args.output_gate { 2 * head_dim } else { head_dim };
        Ok(Self {
            backend: weights.backend().clone(),
            params,
            output_gate: args.output_gate,
            q_proj: linear("q_proj", hidden_size, n_heads * query_len, args.qkv_bias)?,
            k_proj: linear("k_proj", hidden_size, n_kv_heads * head_dim, args.qkv_bias)?,
            v_proj: linear("v_proj", hidden_size, n_kv_heads * head_dim, args.qkv_bias)?,
            o_proj: linear("o_proj", n_heads * head_dim, hidden_size, args.output_bias)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            sinks: Param::new(args.sinks.then(|| weights.vector(n_heads)).transpose()?),
        })
    }

    /// Returns the length of the sliding window, the token itself included; `None` for full attention.
    pub(crate) fn window(&self) -> Option<usize> {
        self.params.window
    }

    /// Returns `residual + self(input)`.
    pub(crate) fn add(&self, residual: &Value, mut input: LayerInput<'_>) -> Result<Value, ModelError> {
        let attended = self.attend(&mut input)?;
        self.o_proj.add(residual, &attended, input.tiles)
    }

    /// Returns `self(input)`.
    pub(crate) fn forward(&self, mut input: LayerInput<'_>) -> Result<Value, ModelError> {
        let attended = self.attend(&mut input)?;
        self.o_proj.forward(&attended, input.tiles)
    }

    /// Attends from the new tokens to all tokens so far; returns the concatenated heads, before the output projection.
    fn attend(&self, LayerInput { x, segments, tiles }: &mut LayerInput<'_>) -> Result<Value, ModelError> {
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [mut queries, keys, values] = project(projections, x, *tiles)?;
        let mut gate = None;
        if self.output_gate {
            let n = queries.dim(1);
            let by_head = queries.array()?.reshape(&[1, n, self.params.n_heads, 2, -1])?;
            let half = |idx: i32| by_head.try_index((.., .., .., idx, ..))?.reshape(&[1, n, -1]);
            (queries, gate) = (half(0)?.into(), Some(half(1)?.into()));
        }
        let norms = self.q_norm.as_ref().zip(self.k_norm.as_ref());
        let norms = norms.map(|(queries, keys)| HeadNorms { queries: queries.norm(), keys: keys.norm() });
        let sinks = self.sinks.value.as_ref();
        let values = Some(&values);
        let input = AttentionInput { queries: &queries, keys: &keys, values, norms, sinks };
        let attended = self.backend.attend(&self.params, input, segments)?;
        match gate {
            Some(gate) => Ok(self.backend.gated(Activation::Sigmoid, &gate, &attended)?),
            None => Ok(attended),
        }
    }
}
