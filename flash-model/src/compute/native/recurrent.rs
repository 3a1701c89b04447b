//! Recurrent mixers between their projections.

use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Pool, StateUpdate};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::chain::{Operand, run};
use super::{expect, float_type};
use crate::compute::{GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights, Mamba2Dims, Mamba2Weights, Value};
use crate::kv::{LayerKv, StateBuffers};
use crate::mlx::kernel::Kernel;

/// Returns the recurrent state that a layer shares with MLX's graph.
fn shared_state(kv: &LayerKv, len: usize) -> Result<Arc<Mutex<StateBuffers>>, Exception> {
    let LayerKv::SharedState(state) = kv else {
        return Err(Exception::custom("the layer has no state that is shared with the graph"));
    };
    expect(state.lock().len() == len, "a state of the layer's length")?;
    Ok(Arc::clone(state))
}

/// Calls `run` with the state before and after some tokens.
fn pass(state: &Mutex<StateBuffers>, run: impl FnOnce(StateUpdate<'_>)) {
    let mut state = state.lock();
    let (before, state) = state.pass();
    run(StateUpdate { before, state });
}

/// A kernel that computes a Mamba-2 mixer. Inputs: the projections; weight and bias of the convolution, `dt_bias`,
/// `A_log`, `D`, the weight of the norm.
struct Mixer {
    pool: Arc<Pool>,
    dims: Mamba2Dims,
    has_bias: bool,
    /// Dtypes of all inputs but the first.
    floats: Vec<FloatType>,
    state: Arc<Mutex<StateBuffers>>,
}

pub(super) fn mamba2(
    pool: &Arc<Pool>,
    mixer: Mamba2Weights<'_>,
    projected: &Value,
    kv: &LayerKv,
) -> Result<Value, Exception> {
    let Mamba2Weights { dims, conv, dt_bias, a_log, d, norm } = mixer;
    let n = projected.dim(1);
    let is_projected = projected.is_float32() && projected.shape() == [1, n, dims.projected()];
    expect(is_projected, "a row for each token")?;
    let mut weights: Vec<&Array> = vec![conv.weight];
    weights.extend(conv.bias);
    weights.extend([dt_bias, a_log, d, norm]);
    let floats = weights.iter().map(|weights| float_type(weights)).collect::<Result<_, _>>()?;
    let inputs: Vec<Operand<'_>> =
        [projected.into()].into_iter().chain(weights.into_iter().map(Operand::from)).collect();
    let state = shared_state(kv, dims.state().len())?;
    let node = Mixer { pool: Arc::clone(pool), dims, has_bias: conv.bias.is_some(), floats, state };
    run(node, &inputs, &[1, n, dims.inner()])
}

impl Kernel for Mixer {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { ref pool, dims, has_bias, ref floats, ref state } = *self;
        let mut weights =
            inputs[1..].iter().zip(floats).map(|(bytes, float)| Floats { float: *float, bytes });
        let mut next = || weights.next().expect("pushed with the node");
        let [n_heads, head_dim, n_groups, state_dim, kernel] =
            [dims.n_heads, dims.head_dim, dims.n_groups, dims.state_dim, dims.conv_kernel]
                .map(|extent| extent as usize);
        let mixer = flash_kernels::Mamba2 {
            n_heads,
            head_dim,
            n_groups,
            state_dim,
            kernel,
            conv_weight: next(),
            conv_bias: has_bias.then(&mut next),
            dt_bias: next(),
            a_log: next(),
            d: next(),
            norm: next(),
            eps: dims.eps,
            dt_limits: dims.dt_limits,
        };
        let projected = bytemuck::cast_slice(inputs[0]);
        pass(state, |passing| mixer.run(pool, projected, passing, outputs[0]));
    }
}

/// A kernel that computes a gated delta net. Inputs: the projections in the order of [`GatedDeltaInput`]; the weight of
/// the convolution, `dt_bias`, `A_log`, the weight of the norm.
struct Net {
    pool: Arc<Pool>,
    dims: GatedDeltaDims,
    /// Dtypes of the last four inputs.
    floats: [FloatType; 4],
    state: Arc<Mutex<StateBuffers>>,
}

pub(super) fn gated_delta(
    pool: &Arc<Pool>,
    net: GatedDeltaWeights<'_>,
    input: &GatedDeltaInput,
    kv: &LayerKv,
) -> Result<Value, Exception> {
    let GatedDeltaWeights { dims, conv, dt_bias, a_log, norm } = net;
    let n = input.qkv.dim(1);
    let projected = [
        (&input.qkv, dims.channels()),
        (&input.gate, dims.values()),
        (&input.beta, dims.value_heads),
        (&input.step, dims.value_heads),
    ];
    for (rows, len) in projected {
        expect(rows.is_float32() && rows.shape() == [1, n, len], "a row for each token")?;
    }
    let weights = [conv.weight, dt_bias, a_log, norm];
    let [conv, dt_bias, a_log, norm] = weights.map(float_type);
    let floats = [conv?, dt_bias?, a_log?, norm?];
    let state = shared_state(kv, dims.state().len())?;
    let projected = projected.map(|(rows, _)| Operand::from(rows));
    let inputs = [&projected[..], &weights.map(Operand::from)].concat();
    let node = Net { pool: Arc::clone(pool), dims, floats, state };
    run(node, &inputs, &[1, n, dims.values()])
}

impl Kernel for Net {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { ref pool, dims, floats, ref state } = *self;
        let weight = |idx: usize| Floats { float: floats[idx], bytes: inputs[4 + idx] };
        let [key_heads, value_heads, key_dim, value_dim, kernel] =
            [dims.key_heads, dims.value_heads, dims.key_dim, dims.value_dim, dims.conv_kernel]
                .map(|extent| extent as usize);
        let net = flash_kernels::GatedDelta {
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            kernel,
            conv_weight: weight(0),
            dt_bias: weight(1),
            a_log: weight(2),
            norm: weight(3),
            eps: dims.eps,
        };
        let rows = |idx: usize| bytemuck::cast_slice(inputs[idx]);
        let input =
            flash_kernels::GatedDeltaInput { qkv: rows(0), gate: rows(1), beta: rows(2), step: rows(3) };
        pass(state, |passing| net.run(pool, input, passing, outputs[0]));
    }
}
