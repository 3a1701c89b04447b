//! The gated delta net, token by token: what a token corrects follows from what those before left.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, nn, ops};

use super::{array_state, convolve, cut, float32};
use crate::compute::{GatedDeltaDims, GatedDeltaInput, GatedDeltaWeights};
use crate::kv::LayerKv;

/// What queries and keys are normalised with, beside the sum of their squares.
const QK_EPS: f32 = 1e-6;

pub(in crate::compute::mlx) fn gated_delta(
    net: GatedDeltaWeights<'_>,
    input: &GatedDeltaInput,
    kv: &mut LayerKv,
) -> Result<Array, Exception> {
    let dims = net.dims;
    let GatedDeltaDims { key_heads, value_heads, key_dim, value_dim, eps, .. } = dims;
    let GatedDeltaInput { qkv, gate, beta, step } = input;
    let [qkv, gate, beta, step] = [qkv.array()?, gate.array()?, beta.array()?, step.array()?];
    let (n, of_key) = (qkv.dim(1), value_heads / key_heads);
    let kept = array_state(kv)?;
    let [window, state] = kept.latest();
    let [convolved, window] = convolve(net.conv, window, &qkv)?;
    let [q, k, v] = cut(&convolved, &[dims.keys(), 2 * dims.keys()])?;
    // Of length 1; what scores are multiplied by is a part of the queries.
    let scale = (key_dim as f32).powf(-0.5);
    let unit = |x: Array, scale: f32, eps: f32| {
        let x = fast::rms_norm(x.reshape(&[n, key_heads, key_dim])?, None, eps)?;
        x.multiply(Array::from_f32(scale))?.reshape(&[n, key_heads, 1, key_dim, 1])
    };
    let qk_eps = QK_EPS * scale * scale;
    let (q, k) = (unit(q, scale * scale, qk_eps)?, unit(k, scale, qk_eps)?);
    let of_heads = |x: Array, last: &[i32]| x.reshape(&[&[n, key_heads, of_key][..], last].concat());
    let v = of_heads(v, &[value_dim, 1])?;
    let step = nn::softplus(step.add(float32(net.dt_bias)?)?)?;
    let decay = step.multiply(float32(net.a_log)?.exp()?.negative()?)?.exp()?;
    let (decay, beta) = (of_heads(decay, &[1, 1])?, of_heads(ops::sigmoid(beta)?, &[1, 1])?);

    let mut state = state.reshape(&[key_heads, of_key, value_dim, key_dim])?;
    let mut read = Vec::new();
    for token in 0..n {
        let [q, k, v, decay, beta] = [&q, &k, &v, &decay, &beta].map(|all| all.try_index(token));
        let (k, decayed) = (k?, state.multiply(decay?)?);
        let delta = v?.subtract(ops::matmul(&decayed, &k)?)?.multiply(beta?)?;
        state = decayed.add(delta.multiply(k.swap_axes(-1, -2)?)?)?;
        read.push(ops::matmul(&state, q?)?.reshape(&[1, value_heads, value_dim])?);
    }
    kept.pass([window, state.reshape(&[1, value_heads, value_dim, key_dim])?]);
    let normed = fast::rms_norm(ops::concatenate(&read, 0)?, Some(net.norm), eps)?;
    nn::silu(gate)?.multiply(normed.reshape(&[1, n, -1])?)
}
