//! Who computes: MLX's own operations, or the kernels of `flash-kernels`. The only module that knows; what layers are
//! made of asks it.

mod mlx;
#[cfg(target_os = "linux")]
mod native;
mod value;

#[cfg(target_os = "linux")]
use std::ops::Deref;
use std::sync::Arc;

use flash_io::Budget;
use flash_kernels::{Isa, Pool};
use flash_kv::LayerBuffers;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Device, DeviceType};
use parking_lot::Mutex;

use crate::ModelError;
use crate::attention::CausalAttention;
use crate::config::{QuantizedFormat, QuantizedMode};
use crate::experts::Expert;
use crate::gated_delta::{GatedDelta, GatedDeltaInput};
use crate::kv::{LayerKv, StateShape};
use crate::layers::NormArgs;
use crate::mamba2::Mamba2;

pub(crate) use value::Value;

/// What a thread of the kernels keeps: for 128 rows of weights their scales and biases, and two sums with each of 512 rows of
/// activations; panels, scores of attention.
#[cfg(target_os = "linux")]
const KERNEL_THREAD_BYTES: u64 = 2 << 20;

/// Who computes a model's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compute {
    /// [`Native`](Self::Native) where MLX's default device is a CPU on Linux, else [`Mlx`](Self::Mlx).
    #[default]
    Auto,
    /// MLX's own operations.
    Mlx,
    /// The CPU kernels of `flash-kernels`, as nodes of MLX's graph.
    Native,
}

/// Who computes a model's layers, and with which instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ComputeOptions {
    /// Who computes.
    pub compute: Compute,
    /// The instruction set of the CPU kernels, if not the best of this machine. MLX's operations do not ask.
    pub isa: Option<Isa>,
    /// Whether the CPU kernels take activations with 30 bits in every product with quantised weights, so that results differ from
    /// MLX's in float32 by no more than the order of additions does. Otherwise they are rounded to 15 bits, except in the inputs of
    /// routers. Products with weights in memory take 1.6 to 2.6 times as long; where the disk is the limit, nothing is lost.
    pub is_exact: bool,
}

impl From<Compute> for ComputeOptions {
    fn from(compute: Compute) -> Self {
        Self { compute, ..Self::default() }
    }
}

/// The operations that layers are made of.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Mlx,
    #[cfg(target_os = "linux")]
    Native(Kernels),
}

/// The threads that the kernels run on, and how exact they are.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone)]
pub(crate) struct Kernels {
    pool: Arc<Pool>,
    /// As [`ComputeOptions::is_exact`].
    is_exact: bool,
}

#[cfg(target_os = "linux")]
impl Deref for Kernels {
    type Target = Arc<Pool>;

    fn deref(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// The arrays of a matrix `W`, `[n, k]`: `y = x · Wᵀ (+ bias)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// f32, f16 or bf16 `[n, k]`, or codes, u32 `[n, k · bits / 32]`; in strips of `s` rows they are `[n / s, s · k · bits / 32]`.
    pub weight: &'a Array,
    pub quantized: Option<Quantized<'a>>,
    /// `[n]`.
    pub bias: Option<&'a Array>,
    /// Whether activations must be rounded no further than sums in f32 are. With MLX's operations they never are.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only kernels of ours ask"))]
    pub is_wide: bool,
}

#[cfg(target_os = "linux")]
impl Matrix<'_> {
    /// Rows of `W`, however its codes lie.
    pub(crate) fn n_rows(&self) -> i32 {
        self.quantized.map_or(self.weight, |quantized| quantized.scales).dim(0)
    }
}

/// What makes numbers of codes, each `[n, k / group_size]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantized<'a> {
    pub format: QuantizedFormat,
    pub scales: &'a Array,
    /// Of affine codes.
    pub biases: Option<&'a Array>,
}

/// What lets numbers through a gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    Silu,
    /// Approximated by a hyperbolic tangent.
    GeluTanh,
    /// `u / (1 + e^−g)`.
    Sigmoid,
    /// `g / (1 + e^(−alpha · g)) · (u + 1)` for the gate `g`, at most `limit`, and `u` from `−limit` to `limit`.
    ClampedSilu {
        alpha: f32,
        limit: f32,
    },
}

impl Activation {
    /// What the kernels call it.
    #[cfg(target_os = "linux")]
    fn kernel(self) -> flash_kernels::Gate {
        match self {
            Self::Silu => flash_kernels::Gate::Silu,
            Self::GeluTanh => flash_kernels::Gate::GeluTanh,
            Self::Sigmoid => flash_kernels::Gate::Sigmoid,
            Self::ClampedSilu { alpha, limit } => flash_kernels::Gate::ClampedSilu { alpha, limit },
        }
    }
}

/// RMSNorm over the last axis: `x · weight / √(mean(x²) + eps)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    /// Of each column.
    pub weight: &'a Array,
    pub args: NormArgs,
}

/// Those of each head of queries and keys, before they are rotated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorms<'a> {
    pub queries: Norm<'a>,
    pub keys: Norm<'a>,
}

/// What an attention layer projected of the new tokens: `[1, n, heads · head_dim]` each, with KV heads for keys and values. There
/// are no values where they are in the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionInput<'a> {
    pub queries: &'a Value,
    pub keys: &'a Value,
    pub values: Option<&'a Value>,
    pub norms: Option<HeadNorms<'a>>,
    /// `[heads]`: a score that each head's softmax has beside those of the tokens.
    pub sinks: Option<&'a Array>,
    /// Tokens before the first of these.
    pub position: usize,
}

/// An expert, and the rows that it gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub expert: &'a Expert,
    pub tokens: &'a [u32],
}

/// What is added to a token: a row, times a weight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    pub token: usize,
    /// Counted through all parts.
    pub row: usize,
    pub weight: f32,
}

impl Backend {
    /// # Errors
    /// [`ModelError::NativeCompute`] where there are no kernels, or none of the wanted instruction set.
    pub(crate) fn new(options: ComputeOptions) -> Result<Self, ModelError> {
        let ComputeOptions { compute, isa, is_exact } = options;
        match compute {
            Compute::Mlx => Ok(Self::Mlx),
            Compute::Native => Self::native(isa, is_exact),
            Compute::Auto if cfg!(target_os = "linux") => match Device::try_default()?.get_type()? {
                DeviceType::Cpu => Self::native(isa, is_exact),
                DeviceType::Gpu => Ok(Self::Mlx),
            },
            Compute::Auto => Ok(Self::Mlx),
        }
    }

    #[cfg(target_os = "linux")]
    fn native(isa: Option<Isa>, is_exact: bool) -> Result<Self, ModelError> {
        let pool = Pool::for_machine(isa.unwrap_or_else(Isa::best));
        let pool = pool.map_err(|error| ModelError::NativeCompute { reason: error.to_string() })?;
        Ok(Self::Native(Kernels { pool: Arc::new(pool), is_exact }))
    }

    #[cfg(not(target_os = "linux"))]
    fn native(_isa: Option<Isa>, _is_exact: bool) -> Result<Self, ModelError> {
        Err(ModelError::NativeCompute { reason: "it is there on Linux only".to_owned() })
    }

    /// Who computes: others round otherwise.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            #[cfg(target_os = "linux")]
            Self::Native(Kernels { is_exact: false, .. }) => "native",
            #[cfg(target_os = "linux")]
            Self::Native(Kernels { is_exact: true, .. }) => "native exactly",
        }
    }

    /// What computing takes beside activations of `activation_bytes`, where MLX would widen weights to `widened_bytes`.
    pub(crate) fn scratch_bytes(&self, widened_bytes: u64, activation_bytes: u64) -> u64 {
        match self {
            Self::Mlx => widened_bytes,
            // Weights are read as they are stored. Activations are copied once, to numbers of half their size; if they are wide, as
            // two rows each, and these to numbers of half their size.
            #[cfg(target_os = "linux")]
            Self::Native(kernels) => {
                let copied_bytes = if kernels.is_exact { 3 * activation_bytes } else { activation_bytes / 2 };
                copied_bytes + KERNEL_THREAD_BYTES * kernels.n_threads() as u64
            }
        }
    }

    /// Whether products round activations no further than sums in f32 do, also those that are not [wide](Matrix::is_wide).
    pub(crate) fn is_exact(&self) -> bool {
        match self {
            Self::Mlx => true,
            #[cfg(target_os = "linux")]
            Self::Native(kernels) => kernels.is_exact,
        }
    }

    /// Whether the scores of all tokens of a cache in one piece are there at once.
    pub(crate) fn scores_all_at_once(&self) -> bool {
        matches!(self, Self::Mlx)
    }

    /// Whether a layer that sees a window can do with memory for that alone, in one piece.
    pub(crate) fn wraps_windows(&self) -> bool {
        // MLX's attention takes tokens that lie in their order.
        !matches!(self, Self::Mlx)
    }

    /// Whether a product copies half-precision weights to f32 first.
    pub(crate) fn widens_weights(&self) -> bool {
        matches!(self, Self::Mlx)
    }

    /// Whether products are faster if codes of this format lie in strips.
    pub(crate) fn prefers_strips(&self, format: QuantizedFormat) -> bool {
        match self {
            Self::Mlx => false,
            #[cfg(target_os = "linux")]
            Self::Native(pool) => {
                format.mode == QuantizedMode::Affine && pool.prefers_strips(format.bits as u32)
            }
        }
    }

    /// A layer's KV cache over `buffers`, each `[kv_heads, capacity_tokens, head_dim]`, f32.
    pub(crate) fn layer_kv(
        &self,
        buffers: LayerBuffers,
        kv_heads: usize,
        capacity_tokens: usize,
        head_dim: usize,
    ) -> Result<LayerKv, Exception> {
        match self {
            Self::Mlx => {
                LayerKv::arrays(buffers, &[1, kv_heads as i32, capacity_tokens as i32, head_dim as i32])
            }
            #[cfg(target_os = "linux")]
            Self::Native(_) => Ok(LayerKv::Shared(Arc::new(Mutex::new(buffers)))),
        }
    }

    /// The state of a layer, all zeroes.
    pub(crate) fn layer_state(&self, shape: StateShape, budget: &Budget) -> Result<LayerKv, ModelError> {
        match self {
            Self::Mlx => LayerKv::array_state(shape, budget),
            #[cfg(target_os = "linux")]
            Self::Native(_) => LayerKv::shared_state(shape, budget),
        }
    }

    /// `x · Wᵀ (+ bias)`, for `x` `[…, k]`.
    pub(crate) fn product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::product(&x.array()?, matrix)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::product(pool, x, matrix),
        }
    }

    /// [`product`](Self::product) for each matrix.
    pub(crate) fn products<const N: usize>(
        &self,
        x: &Value,
        matrices: [Matrix<'_>; N],
    ) -> Result<[Value; N], Exception> {
        match self {
            Self::Mlx => Ok(mlx::products(&x.array()?, matrices)?.map(Value::from)),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::products(pool, x, matrices),
        }
    }

    /// `onto + x · Wᵀ (+ bias)`.
    pub(crate) fn add_product(
        &self,
        onto: &Value,
        x: &Value,
        matrix: Matrix<'_>,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(onto.array()?.add(mlx::product(&x.array()?, matrix)?)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::add_product(pool, onto, x, matrix),
        }
    }

    /// What `activation` lets through of `values`: `gate` has as many, or one for each row.
    pub(crate) fn gated(
        &self,
        activation: Activation,
        gate: &Value,
        values: &Value,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::gated(activation, &gate.array()?, &values.array()?)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::gated(pool, activation, gate, values),
        }
    }

    /// What `activation` lets through of both products with `x`.
    pub(crate) fn gated_product(
        &self,
        activation: Activation,
        x: &Value,
        gate: Matrix<'_>,
        up: Matrix<'_>,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::gated_product(activation, &x.array()?, gate, up)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::gated_product(pool, activation, x, gate, up),
        }
    }

    /// `x · Wᵀ` for `x` `[1, n, heads, k]`, with a matrix for each head: its arrays have a dimension more, `[heads, …]`.
    pub(crate) fn product_each(&self, x: &Value, matrices: Matrix<'_>) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::product_each(&x.array()?, matrices)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::product_each(pool, x, matrices),
        }
    }

    /// `relu(x · Wᵀ (+ bias))²`.
    pub(crate) fn squared_relu_product(&self, x: &Value, matrix: Matrix<'_>) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::squared_relu_product(&x.array()?, matrix)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::squared_relu_product(pool, x, matrix),
        }
    }

    /// Normalises the heads if that is asked for, rotates the queries and keys, appends keys and values to the cache, and
    /// attends to all tokens so far.
    pub(crate) fn attend(
        &self,
        attention: &CausalAttention,
        input: AttentionInput<'_>,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::attend(attention, input, kv)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::attend(pool, attention, input, kv),
        }
    }

    /// What a gated delta net makes of tokens as they were projected, behind those of which `kv` has the state: `[1, n, values]`.
    pub(crate) fn gated_delta(
        &self,
        net: &GatedDelta,
        input: &GatedDeltaInput,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::gated_delta(net, input, kv)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::gated_delta(pool, net, input, kv),
        }
    }

    /// What a mixer makes of tokens as they were projected, `[1, n, projected]`, behind those of which `kv` has the state:
    /// `[1, n, inner]`.
    pub(crate) fn mamba2(
        &self,
        mixer: &Mamba2,
        projected: &Value,
        kv: &mut LayerKv,
    ) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::mamba2(mixer, &projected.array()?, kv)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::mamba2(pool, mixer, projected, kv),
        }
    }

    /// What each expert makes of its rows of `x`, `[1, n, hidden]`, one expert's behind another's: `[rows, hidden]`.
    pub(crate) fn expert_rows(&self, x: &Value, work: &[Work<'_>]) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::expert_rows(&x.array()?, work)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::expert_rows(pool, x, work),
        }
    }

    /// `onto`, `[1, n, hidden]`, and for each term in order its row of `parts`, each `[rows, hidden]`, times its weight.
    pub(crate) fn add_rows(&self, onto: &Value, parts: &[Value], terms: &[Term]) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::add_rows(&onto.array()?, &arrays(parts)?, terms)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(_) => native::add_rows(onto, parts, terms),
        }
    }

    pub(crate) fn rms_norm(&self, x: &Value, norm: Norm<'_>) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(mlx::rms_norm(&x.array()?, norm)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(pool) => native::rms_norm(pool, x, norm),
        }
    }

    /// `a + b`.
    pub(crate) fn sum(&self, a: &Value, b: &Value) -> Result<Value, Exception> {
        match self {
            Self::Mlx => Ok(a.array()?.add(b.array()?)?.into()),
            #[cfg(target_os = "linux")]
            Self::Native(_) => native::sum(a, b),
        }
    }
}

/// These values as arrays.
pub(crate) fn arrays(values: &[Value]) -> Result<Vec<Array>, Exception> {
    values.iter().map(Value::array).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_is_an_option_and_one_of_other_machines_is_refused() {
        for isa in Isa::available() {
            for compute in [Compute::Native, Compute::Auto] {
                match Backend::new(ComputeOptions { compute, isa: Some(*isa), is_exact: false }).unwrap() {
                    Backend::Native(pool) => assert_eq!(pool.isa(), *isa),
                    // Auto on a GPU.
                    Backend::Mlx => assert_eq!(compute, Compute::Auto),
                }
            }
        }
        let other = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        let refused = Backend::new(ComputeOptions { isa: Some(other), ..Compute::Native.into() });
        assert!(matches!(refused, Err(ModelError::NativeCompute { .. })));
        let Backend::Native(pool) = Backend::new(Compute::Native.into()).unwrap() else { panic!("native") };
        assert_eq!(pool.isa(), Isa::best());
    }

    #[test]
    fn who_computes_exactly_has_another_name() {
        let exact = ComputeOptions { is_exact: true, ..Compute::Native.into() };
        let [exact, usual] = [exact, Compute::Native.into()].map(|options| Backend::new(options).unwrap());
        assert_ne!(exact.name(), usual.name(), "sessions of one are not gone on with by the other");
        assert!(exact.is_exact() && !usual.is_exact());
    }
}
