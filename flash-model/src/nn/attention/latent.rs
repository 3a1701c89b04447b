//! Multi-head latent attention (MLA), in its absorbed form: the cache stores one latent vector per token and a rotated
//! key that all heads share.
//!
//! Queries are projected into the latent space (`embed_q`), and the attention output back to values (`unembed_out`), so
//! keys and values of heads are never computed. All heads attend to one KV head, whose key is `[rotated, latent]` and
//! whose value is its latent part. mlx-lm does so for single tokens only; doing so for prompts as well gives a token
//! the same bits in both.

use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};
use mlx_rs::ops::{self, concatenate};

use crate::ModelError;
use crate::checkpoint::config::{Config, QuantizedMode};
use crate::compute::{AttentionInput, AttentionParams, Backend, NormArgs, Rope, Value};
use crate::nn::fused::Fused;
use crate::nn::layer::LayerInput;
use crate::nn::layers::{Linear, RmsNorm};
use crate::nn::tiled::{TiledLinear, Tiles, project};
use crate::nn::var_builder::VarBuilder;

/// Configuration of multi-head latent attention.
#[derive(Debug, Clone)]
pub(crate) struct LatentArgs {
    pub hidden_size: i32,
    pub n_heads: i32,
    pub scale: f32,
    pub rope: Rope,
    /// Rank of the query projection; `None` for full rank.
    pub q_lora_rank: Option<i32>,
    /// Dimensions of the latent vector.
    pub kv_lora_rank: i32,
    /// Dimensions of a head's query without RoPE.
    pub nope_dim: i32,
    /// Dimensions of a head's query with RoPE.
    pub rope_dim: i32,
    /// Dimensions of a head's value.
    pub v_dim: i32,
    /// Whether the projections from and to hidden states have biases.
    pub bias: bool,
}

/// Norm of the low-rank queries and the latent vector; its epsilon does not depend on `rms_norm_eps`.
const NORM: NormArgs = NormArgs { eps: 1e-6, weight_offset: 0.0 };

/// Fused projection of hidden states to the latent vector and the rotated key.
const KV_A: &str = "self_attn.kv_a_proj_with_mqa";
/// Projection of latent vectors to keys and values, in checkpoints without `embed_q` and `unembed_out`.
const KV_B: &str = "kv_b_proj";

/// Multi-head latent attention with its projections.
#[derive(Debug, ModuleParameters)]
pub(crate) struct LatentAttention {
    backend: Backend,
    params: AttentionParams,
    nope_dim: i32,
    v_dim: i32,
    #[param]
    q_proj: Option<TiledLinear>,
    #[param]
    q_a_proj: Option<TiledLinear>,
    #[param]
    q_a_layernorm: Option<RmsNorm>,
    #[param]
    q_b_proj: Option<TiledLinear>,
    #[param]
    kv_a_proj: TiledLinear,
    #[param]
    k_pe_proj: TiledLinear,
    #[param]
    kv_a_layernorm: RmsNorm,
    /// Projection of queries into the latent space, one matrix per head.
    #[param]
    embed_q: Linear,
    /// Projection of the attention output from the latent space to values, one matrix per head.
    #[param]
    unembed_out: Linear,
    /// The matrix that `embed_q` and `unembed_out` are derived from, if the checkpoint lacks them.
    #[param]
    kv_b_proj: Option<Linear>,
    #[param]
    o_proj: TiledLinear,
}

impl LatentArgs {
    /// Returns the parts of the fused projection of hidden states.
    pub(crate) fn fused(&self) -> Vec<Fused> {
        let parts = [("self_attn.kv_a_proj", self.kv_lora_rank), ("self_attn.k_pe_proj", self.rope_dim)];
        Fused::parts(KV_A, &parts)
    }

    /// Returns the bytes of the weights that the layers at `paths` derive from `kv_b_proj`, and of deriving them in one
    /// layer: the dequantized matrix, and its parts.
    pub(crate) fn derived_bytes(&self, weights: &VarBuilder<'_>, paths: impl Iterator<Item = String>) -> u64 {
        let parts = ["weight", "scales", "biases"];
        let catalog = weights.checkpoint().catalog();
        let names = paths.flat_map(|path| parts.map(|part| format!("{path}.self_attn.{KV_B}.{part}")));
        // Derived matrices have as many elements, in groups of the same size.
        let kept: u64 = names.filter_map(|name| Some(catalog.get(&name)?.span.len_bytes())).sum();
        if kept == 0 {
            return 0;
        }
        let elements = self.n_heads as u64 * (self.nope_dim + self.v_dim) as u64 * self.kv_lora_rank as u64;
        kept + 2 * size_of::<f32>() as u64 * elements
    }
}

impl LatentAttention {
    /// Builds the module without loading weights.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if the quantization groups of `kv_b_proj` do not fit the heads.
    pub(crate) fn new(args: &LatentArgs, weights: &VarBuilder<'_>) -> Result<Self, ModelError> {
        let LatentArgs { hidden_size, n_heads, kv_lora_rank, nope_dim, rope_dim, v_dim, .. } = *args;
        let linear = |name, input, output, bias| weights.at(name).tiled_linear(input, output, bias);
        let norm = |name, dims| weights.at(name).rms_norm(dims, NORM);
        let queries = n_heads * (nope_dim + rope_dim);
        let low_rank = args.q_lora_rank;
        let direct = if low_rank.is_none() { Some(hidden_size) } else { None };
        let is_joint = weights.checkpoint().has(&format!("{}.{KV_B}.weight", weights.path()));
        let joint = |rows| weights.at(KV_B).linear(kv_lora_rank, rows, false);
        let joint = is_joint.then(|| joint(n_heads * (nope_dim + v_dim))).transpose()?;
        let by_head = |name: &str, input, output| match &joint {
            Some(joint) => weights.derived(joint.format),
            None => weights.at(name).linear_per_head(n_heads, input, output),
        };
        let attention = Self {
            backend: weights.backend().clone(),
            params: AttentionParams {
                n_heads,
                n_kv_heads: 1,
                scale: args.scale,
                rope: Some(args.rope.clone()),
                window: None,
                value_dim: Some(kv_lora_rank),
            },
            nope_dim,
            v_dim,
            q_proj: direct.map(|input| linear("q_proj", input, queries, false)).transpose()?,
            q_a_proj: low_rank.map(|rank| linear("q_a_proj", hidden_size, rank, args.bias)).transpose()?,
            q_a_layernorm: low_rank.map(|rank| norm("q_a_layernorm", rank)).transpose()?,
            kv_a_proj: linear("kv_a_proj", hidden_size, kv_lora_rank, args.bias)?,
            k_pe_proj: linear("k_pe_proj", hidden_size, rope_dim, args.bias)?,
            q_b_proj: low_rank.map(|rank| linear("q_b_proj", rank, queries, false)).transpose()?,
            kv_a_layernorm: norm("kv_a_layernorm", kv_lora_rank)?,
            embed_q: by_head("embed_q", nope_dim, kv_lora_rank)?,
            unembed_out: by_head("unembed_out", kv_lora_rank, v_dim)?,
            kv_b_proj: joint,
            o_proj: linear("o_proj", n_heads * v_dim, hidden_size, args.bias)?,
        };
        if let Some(joint) = &attention.kv_b_proj {
            check_joint(joint, nope_dim, weights.config())?;
        }
        Ok(attention)
    }

    /// Returns `residual + self(input)`.
    pub(crate) fn add(&mut self, residual: &Value, mut input: LayerInput<'_>) -> Result<Value, ModelError> {
        self.derive_weights()?;
        let attended = self.attend(&mut input)?;
        self.o_proj.add(residual, &attended, input.tiles)
    }

    /// Returns the concatenated heads, before the output projection.
    fn attend(&self, LayerInput { x, segments, tiles }: &mut LayerInput<'_>) -> Result<Value, ModelError> {
        let (n, n_heads) = (x.dim(1), self.params.n_heads);
        let [queries, latent, k_pe] = self.project(x, *tiles)?;
        let queries = queries.array()?.reshape(&[1, n, n_heads, -1])?;
        let of_latent = self
            .embed_q
            .forward_per_head(&queries.try_index((Ellipsis, ..self.nope_dim))?.into())?
            .array()?;
        let rotated = queries.try_index((Ellipsis, self.nope_dim..))?;
        let queries = concatenate(&[&rotated, &of_latent], -1)?.reshape(&[1, n, -1])?;
        let keys = concatenate(&[k_pe.array()?, latent.array()?], -1)?;
        let (queries, keys) = (&queries.into(), &keys.into());
        let input = AttentionInput { queries, keys, values: None, norms: None, sinks: None };
        let mixed =
            self.backend.attend(&self.params, input, segments)?.array()?.reshape(&[1, n, n_heads, -1])?;
        let values = self.unembed_out.forward_per_head(&mixed.into())?.array()?;
        Ok(values.reshape(&[1, n, n_heads * self.v_dim])?.into())
    }

    /// Projects hidden states to the queries of all heads, latent vectors, and shared keys before RoPE.
    fn project(&self, x: &Value, tiles: &mut dyn Tiles) -> Result<[Value; 3], ModelError> {
        let first = self.q_a_proj.as_ref().or(self.q_proj.as_ref());
        let first = first.ok_or_else(|| Exception::custom("latent attention without queries"))?;
        let projections = [first, &self.kv_a_proj, &self.k_pe_proj];
        let [mut queries, latent, k_pe] = project(projections, x, tiles)?;
        if let (Some(norm), Some(up)) = (&self.q_a_layernorm, &self.q_b_proj) {
            queries = up.forward(&norm.forward(&queries)?, tiles)?;
        }
        Ok([queries, self.kv_a_layernorm.forward(&latent)?, k_pe])
    }

    /// Derives `embed_q` and `unembed_out` from `kv_b_proj`, unless they are there already. As in mlx-lm's `sanitize`,
    /// quantized weights are quantized again, because rows of keys become columns.
    fn derive_weights(&mut self) -> Result<(), Exception> {
        let Some(joint) = &self.kv_b_proj else { return Ok(()) };
        if self.embed_q.weight.size() > 0 {
            return Ok(());
        }
        let all = match (joint.format, &joint.scales.value) {
            (Some(format), Some(scales)) => {
                let biases = joint.biases.value.as_ref();
                ops::dequantize(&*joint.weight, scales, biases, format.group_size, format.bits)?
            }
            _ => joint.weight.value.clone(),
        };
        let all = all.reshape(&[self.params.n_heads, self.nope_dim + self.v_dim, -1])?;
        let keys = all.try_index((.., ..self.nope_dim, ..))?.swap_axes(-1, -2)?;
        let values = all.try_index((.., self.nope_dim.., ..))?;
        for (linear, weight) in [(&mut self.embed_q, keys), (&mut self.unembed_out, values)] {
            let weight = weight.contiguous()?;
            let Some(format) = linear.format else {
                linear.weight.value = weight;
                continue;
            };
            let (codes, scales, biases) = ops::quantize(&weight, format.group_size, format.bits)?;
            linear.weight.value = codes;
            (linear.scales.value, linear.biases.value) = (Some(scales), Some(biases));
        }
        Ok(())
    }
}

/// Checks that the quantized `kv_b_proj` can be split by head.
fn check_joint(joint: &Linear, nope_dim: i32, config: &Config) -> Result<(), ModelError> {
    let Some(format) = joint.format else { return Ok(()) };
    if format.mode != QuantizedMode::Affine {
        let expected = "kv_b_proj, which is split by head, must be affine";
        return Err(config.field_error("quantization.mode", &format!("{:?}", format.mode), expected));
    }
    if nope_dim % format.group_size != 0 {
        let expected = "the group size of kv_b_proj, which is split by head, must divide it";
        return Err(config.field_error("qk_nope_head_dim", &nope_dim, expected));
    }
    Ok(())
}
