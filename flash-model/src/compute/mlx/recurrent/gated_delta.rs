//! The gated delta net, token by token: each token's update depends on the state that the tokens before it leave.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, nn, ops};

use super::{array_state, convolve, first_rows, float32, owned, split};
use crate::compute::{Convolution, GatedDeltaDims, GatedDeltaWeights};
use crate::kv::LayerKv;

/// Epsilon of the L2 normalization of queries and keys, added to the sum of squares.
const QK_EPS: f32 = 1e-6;

/// Computes the net for the new tokens of one context. The projections are in the order of
/// [`GatedDeltaInput`](crate::compute::GatedDeltaInput).
pub(in crate::compute::mlx) fn gated_delta(
    net: GatedDeltaWeights<'_>,
    projected: [Array; 4],
    kv: &mut LayerKv,
) -> Result<Array, Exception> {
    let states = array_state(kv)?;
    let (out, next) = compute(net, &projected, states.latest())?;
    states.pass(next);
    if states.is_recording() {
        let GatedDeltaWeights { dims, conv, dt_bias, a_log, norm } = net;
        let [conv, dt_bias, a_log, norm] = owned([conv.weight, dt_bias, a_log, norm])?;
        let replay = move |n: i32, before: &[Array; 2]| {
            let conv = Convolution { weight: &conv, bias: None };
            let net = GatedDeltaWeights { dims, conv, dt_bias: &dt_bias, a_log: &a_log, norm: &norm };
            Ok(compute(net, &first_rows(&projected, n)?, before)?.1)
        };
        states.record(out.dim(1) as usize, Box::new(replay));
    }
    Ok(out)
}

/// Returns the output for new tokens, and the state after them.
fn compute(
    net: GatedDeltaWeights<'_>,
    [qkv, gate, beta, step]: &[Array; 4],
    [window, state]: &[Array; 2],
) -> Result<(Array, [Array; 2]), Exception> {
    let dims = net.dims;
    let GatedDeltaDims { key_heads, value_heads, key_dim, value_dim, eps, .. } = dims;
    let (n, group) = (qkv.dim(1), value_heads / key_heads);
    let [convolved, window] = convolve(net.conv, window, qkv)?;
    let [q, k, v] = split(&convolved, &[dims.keys(), 2 * dims.keys()])?;
    // Queries and keys are normalized to length 1, and queries scaled by `key_dim^-0.5`.
    let scale = (key_dim as f32).powf(-0.5);
    let unit = |x: Array, scale: f32, eps: f32| {
        let x = fast::rms_norm(x.reshape(&[n, key_heads, key_dim])?, None, eps)?;
        x.multiply(Array::from_f32(scale))?.reshape(&[n, key_heads, 1, key_dim, 1])
    };
    let qk_eps = QK_EPS * scale * scale;
    let (q, k) = (unit(q, scale * scale, qk_eps)?, unit(k, scale, qk_eps)?);
    let of_heads = |x: Array, last: &[i32]| x.reshape(&[&[n, key_heads, group][..], last].concat());
    let v = of_heads(v, &[value_dim, 1])?;
    let step = nn::softplus(step.add(float32(net.dt_bias)?)?)?;
    let decay = step.multiply(float32(net.a_log)?.exp()?.negative()?)?.exp()?;
    let (decay, beta) = (of_heads(decay, &[1, 1])?, of_heads(ops::sigmoid(beta)?, &[1, 1])?);

    let mut state = state.reshape(&[key_heads, group, value_dim, key_dim])?;
    let mut outputs = Vec::new();
    for token in 0..n {
        let [q, k, v, decay, beta] = [&q, &k, &v, &decay, &beta].map(|all| all.try_index(token));
        let (k, decayed) = (k?, state.multiply(decay?)?);
        let delta = v?.subtract(ops::matmul(&decayed, &k)?)?.multiply(beta?)?;
        state = decayed.add(delta.multiply(k.swap_axes(-1, -2)?)?)?;
        outputs.push(ops::matmul(&state, q?)?.reshape(&[1, value_heads, value_dim])?);
    }
    let normed = fast::rms_norm(ops::concatenate(&outputs, 0)?, Some(net.norm), eps)?;
    let out = nn::silu(gate)?.multiply(normed.reshape(&[1, n, -1])?)?;
    Ok((out, [window, state.reshape(&[1, value_heads, value_dim, key_dim])?]))
}
