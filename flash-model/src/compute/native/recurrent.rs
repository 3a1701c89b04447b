//! Recurrent mixers between their projections.

use std::ops::Range;
use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Pool, StateUpdate};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::chain::{Operand, run};
use super::{expect, float_type};
use crate::compute::{
    GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights, Mamba2Dims, Mamba2Weights, Segment, Value, row_ranges,
};
use crate::kv::{LayerKv, StateBuffers};
use crate::mlx::kernel::Kernel;

/// The recurrent states of some segments, shared with MLX's graph.
struct States(Vec<SharedState>);

/// The state of one segment.
struct SharedState {
    n_rows: usize,
    state: Arc<Mutex<StateBuffers>>,
}

impl States {
    /// # Errors
    /// If a state is not shared with the graph or has not `len` elements, or the segments do not have `n` rows.
    fn new(segments: &[Segment<'_>], n: i32, len: usize) -> Result<Self, Exception> {
        expect(
            segments.iter().map(|segment| segment.n_rows).sum::<usize>() == n as usize,
            "state for each row",
        )?;
        let state = |segment: &Segment<'_>| {
            let LayerKv::SharedState(state) = &*segment.kv else {
                return Err(Exception::custom("the layer has no state that is shared with the graph"));
            };
            expect(state.lock().len() == len, "state of the layer's length")?;
            Ok(SharedState { n_rows: segment.n_rows, state: Arc::clone(state) })
        };
        Ok(Self(segments.iter().map(state).collect::<Result<_, _>>()?))
    }

    /// Calls `run` with the rows of each segment, and its state before and after them.
    fn update(&self, mut run: impl FnMut(Range<usize>, StateUpdate<'_>)) {
        let rows = row_ranges(self.0.iter().map(|shared| shared.n_rows));
        for (shared, rows) in self.0.iter().zip(rows) {
            let mut state = shared.state.lock();
            let (before, state) = state.pass();
            run(rows, StateUpdate { before, state });
        }
    }
}

/// Returns the elements of `rows`, each of `len`.
fn elements(rows: &Range<usize>, len: i32) -> Range<usize> {
    rows.start * len as usize..rows.end * len as usize
}

/// A kernel that computes a Mamba-2 mixer. Inputs: the projections; weight and bias of the convolution, `dt_bias`,
/// `A_log`, `D`, the weight of the norm.
struct Mixer {
    pool: Arc<Pool>,
    dims: Mamba2Dims,
    has_bias: bool,
    /// Dtypes of all inputs but the first.
    floats: Vec<FloatType>,
    states: States,
}

pub(super) fn mamba2(
    pool: &Arc<Pool>,
    mixer: Mamba2Weights<'_>,
    projected: &Value,
    segments: &[Segment<'_>],
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
    let states = States::new(segments, n, dims.state().len())?;
    let node = Mixer { pool: Arc::clone(pool), dims, has_bias: conv.bias.is_some(), floats, states };
    run(node, &inputs, &[1, n, dims.inner()])
}

impl Kernel for Mixer {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { ref pool, dims, has_bias, ref floats, ref states } = *self;
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
        let projected: &[f32] = bytemuck::cast_slice(inputs[0]);
        states.update(|rows, update| {
            let out = &mut outputs[0][elements(&rows, dims.inner())];
            mixer.run(pool, &projected[elements(&rows, dims.projected())], update, out);
        });
    }
}

/// A kernel that computes a gated delta net. Inputs: the projections in the order of [`GatedDeltaInput`]; the weight of
/// the convolution, `dt_bias`, `A_log`, the weight of the norm.
struct Net {
    pool: Arc<Pool>,
    dims: GatedDeltaDims,
    /// Dtypes of the last four inputs.
    floats: [FloatType; 4],
    states: States,
}

pub(super) fn gated_delta(
    pool: &Arc<Pool>,
    net: GatedDeltaWeights<'_>,
    input: &GatedDeltaInput,
    segments: &[Segment<'_>],
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
    let states = States::new(segments, n, dims.state().len())?;
    let projected = projected.map(|(rows, _)| Operand::from(rows));
    let inputs = [&projected[..], &weights.map(Operand::from)].concat();
    let node = Net { pool: Arc::clone(pool), dims, floats, states };
    run(node, &inputs, &[1, n, dims.values()])
}

impl Kernel for Net {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { ref pool, dims, floats, ref states } = *self;
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
        states.update(|rows, update| {
            let part = |idx: usize, len: i32| &bytemuck::cast_slice(inputs[idx])[elements(&rows, len)];
            let input = flash_kernels::GatedDeltaInput {
                qkv: part(0, dims.channels()),
                gate: part(1, dims.values()),
                beta: part(2, dims.value_heads),
                step: part(3, dims.value_heads),
            };
            net.run(pool, input, update, &mut outputs[0][elements(&rows, dims.values())]);
        });
    }
}
