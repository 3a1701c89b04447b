//! Recurrent mixers between their projections.

mod node;

use std::ops::Range;
use std::sync::Arc;

use flash_kernels::{FloatType, Floats, Pool};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::chain::{Operand, run};
use super::{expect, float_type};
use crate::compute::{
    GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights, Mamba2Dims, Mamba2Weights, Segment, Value,
};
use node::{Mixer, MixerNode, MixerRows};

/// Returns the elements of `rows`, each of `len`.
fn elements(rows: &Range<usize>, len: i32) -> Range<usize> {
    rows.start * len as usize..rows.end * len as usize
}

/// A Mamba-2 mixer. Inputs: the projections; weight and bias of the convolution, `dt_bias`, `A_log`, `D`, the weight of
/// the norm.
#[derive(Debug, Clone)]
struct Mamba2 {
    dims: Mamba2Dims,
    has_bias: bool,
    /// Dtypes of all inputs but the first.
    floats: Vec<FloatType>,
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
    let mixer = Mamba2 { dims, has_bias: conv.bias.is_some(), floats };
    let node = MixerNode::new(pool, mixer, segments, n, dims.state().len())?;
    run(node, &inputs, &[1, n, dims.inner()])
}

impl Mixer for Mamba2 {
    fn row_lens(&self) -> Vec<usize> {
        vec![self.dims.projected() as usize]
    }

    fn out_len(&self) -> usize {
        self.dims.inner() as usize
    }

    fn compute(&self, pool: &Pool, rows: MixerRows<'_>) {
        let MixerRows { inputs, rows, update, out } = rows;
        let Self { dims, has_bias, ref floats } = *self;
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
        mixer.run(pool, &projected[elements(&rows, dims.projected())], update, out);
    }
}

/// A gated delta net. Inputs: the projections in the order of [`GatedDeltaInput`]; the weight of the convolution,
/// `dt_bias`, `A_log`, the weight of the norm.
#[derive(Debug, Clone)]
struct GatedDelta {
    dims: GatedDeltaDims,
    /// Dtypes of the last four inputs.
    floats: [FloatType; 4],
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
    let mixer = GatedDelta { dims, floats };
    let node = MixerNode::new(pool, mixer, segments, n, dims.state().len())?;
    let projected = projected.map(|(rows, _)| Operand::from(rows));
    let inputs = [&projected[..], &weights.map(Operand::from)].concat();
    run(node, &inputs, &[1, n, dims.values()])
}

impl Mixer for GatedDelta {
    fn row_lens(&self) -> Vec<usize> {
        let dims = &self.dims;
        [dims.channels(), dims.values(), dims.value_heads, dims.value_heads].map(|len| len as usize).to_vec()
    }

    fn out_len(&self) -> usize {
        self.dims.values() as usize
    }

    fn compute(&self, pool: &Pool, rows: MixerRows<'_>) {
        let MixerRows { inputs, rows, update, out } = rows;
        let Self { dims, floats } = *self;
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
        let part = |idx: usize, len: i32| &bytemuck::cast_slice(inputs[idx])[elements(&rows, len)];
        let input = flash_kernels::GatedDeltaInput {
            qkv: part(0, dims.channels()),
            gate: part(1, dims.values()),
            beta: part(2, dims.value_heads),
            step: part(3, dims.value_heads),
        };
        net.run(pool, input, update, out);
    }
}
