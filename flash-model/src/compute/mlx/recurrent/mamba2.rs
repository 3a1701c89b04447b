//! Mamba-2 in blocks: tokens of a block interact as in attention, with decaying weights, and with earlier tokens
//! through the state.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, fast, nn, ops};

use super::{array_state, convolve, first_rows, float32, owned, split};
use crate::compute::{Convolution, Mamba2Dims, Mamba2Weights};
use crate::kv::LayerKv;

/// Tokens of a block; each pair of them has a weight per head.
const BLOCK_TOKENS: i32 = 64;

/// Inputs of the heads for a block of tokens.
struct Block {
    /// Inputs times steps, `[n, heads, head_dim]`.
    x: Array,
    /// Logarithms of the steps' decay factors, `[n, heads]`.
    decay: Array,
    /// Input matrix `B`, `[groups, n, state_dim]`.
    b: Array,
    /// Output matrix `C`, `[groups, n, state_dim]`.
    c: Array,
}

pub(in crate::compute::mlx) fn mamba2(
    mixer: Mamba2Weights<'_>,
    projected: &Array,
    kv: &mut LayerKv,
) -> Result<Array, Exception> {
    let states = array_state(kv)?;
    let (out, next) = compute(mixer, projected, states.latest())?;
    states.pass(next);
    if states.is_recording() {
        let Mamba2Weights { dims, conv, dt_bias, a_log, d, norm } = mixer;
        let bias = conv.bias.map(|bias| owned([bias])).transpose()?;
        let [conv, dt_bias, a_log, d, norm] = owned([conv.weight, dt_bias, a_log, d, norm])?;
        let projected = projected.clone();
        let replay = move |n: i32, before: &[Array; 2]| {
            let bias = bias.as_ref().map(|[bias]| bias);
            let conv = Convolution { weight: &conv, bias };
            let (dt_bias, a_log, d, norm) = (&dt_bias, &a_log, &d, &norm);
            let [first] = first_rows(std::array::from_ref(&projected), n)?;
            Ok(compute(Mamba2Weights { dims, conv, dt_bias, a_log, d, norm }, &first, before)?.1)
        };
        states.record(out.dim(1) as usize, Box::new(replay));
    }
    Ok(out)
}

/// Returns the output for new tokens, and the state after them.
fn compute(
    mixer: Mamba2Weights<'_>,
    projected: &Array,
    [window, state]: &[Array; 2],
) -> Result<(Array, [Array; 2]), Exception> {
    let dims = mixer.dims;
    let Mamba2Dims { n_heads, head_dim, n_groups, state_dim, eps, dt_limits: [least, most], .. } = dims;
    let (n, inner, channels) = (projected.dim(1), dims.inner(), dims.channels());
    let [gate, x, dt] = split(projected, &[inner, inner + channels])?;
    let [convolved, window] = convolve(mixer.conv, window, &x)?;
    let [x, b, c] = split(&convolved, &[inner, inner + n_groups * state_dim])?;
    let x = x.reshape(&[n, n_heads, head_dim])?;
    let by_group = |of_groups: Array| of_groups.reshape(&[n, n_groups, state_dim])?.swap_axes(0, 1);
    let (b, c) = (by_group(b)?, by_group(c)?);

    let dt = nn::softplus(dt.reshape(&[n, n_heads])?.add(float32(mixer.dt_bias)?)?)?;
    let dt = ops::minimum(ops::maximum(dt, Array::from_f32(least))?, Array::from_f32(most))?;
    let decay = dt.multiply(float32(mixer.a_log)?.exp()?.negative()?)?;
    let stepped = x.multiply(dt.reshape(&[n, n_heads, 1])?)?;
    let (mut state, mut blocks) = (state.clone(), Vec::new());
    for start in (0..n).step_by(BLOCK_TOKENS as usize) {
        let tokens = start..n.min(start + BLOCK_TOKENS);
        let block = Block {
            x: stepped.try_index(tokens.clone())?,
            decay: decay.try_index(tokens.clone())?,
            b: b.try_index((.., tokens.clone()))?,
            c: c.try_index((.., tokens))?,
        };
        let (y, next) = if block.x.dim(0) == 1 { block.step(&state)? } else { block.pass(&state)? };
        blocks.push(y);
        state = next;
    }
    let y = ops::concatenate(&blocks, 0)?;
    let y = y.add(x.multiply(float32(mixer.d)?.reshape(&[n_heads, 1])?)?)?;

    let gated = nn::silu(gate)?.multiply(y.reshape(&[1, n, inner])?)?;
    let normed = fast::rms_norm(gated.reshape(&[1, n, n_groups, -1])?, None, eps)?;
    Ok((normed.reshape(&[1, n, inner])?.multiply(mixer.norm)?, [window, state]))
}

impl Block {
    /// Returns the outputs of the heads for a single token, `[1, heads, head_dim]`, and the next state.
    fn step(&self, state: &Array) -> Result<(Array, Array), Exception> {
        let (groups, heads, head_dim) = (self.b.dim(0), self.x.dim(1), self.x.dim(2));
        let of_group = heads / groups;
        let b = self.b.reshape(&[groups, 1, 1, -1])?;
        let x = self.x.reshape(&[groups, of_group, head_dim, 1])?;
        let decay = self.decay.exp()?.reshape(&[1, heads, 1, 1])?;
        let next = state.multiply(decay)?.add(x.multiply(b)?.reshape(state.shape())?)?;
        let c = self.c.reshape(&[groups, 1, -1, 1])?;
        let y = ops::matmul(next.reshape(&[groups, of_group, head_dim, -1])?, c)?;
        Ok((y.reshape(&[1, heads, head_dim])?, next))
    }

    /// Returns the outputs of the heads for several tokens, `[n, heads, head_dim]`, and the next state.
    fn pass(&self, state: &Array) -> Result<(Array, Array), Exception> {
        let (groups, n) = (self.b.dim(0), self.x.dim(0));
        let (heads, head_dim) = (self.x.dim(1), self.x.dim(2));
        let of_group = heads / groups;
        let x = self.x.swap_axes(0, 1)?.reshape(&[groups, of_group, n, head_dim])?;
        let decay = self.decay.swap_axes(0, 1)?;
        // Decay between each pair of tokens. Sums just the logarithms between the two, rather than subtracting longer
        // cumulative sums.
        let each = ops::broadcast_to(decay.reshape(&[heads, n, 1])?, &[heads, n, n])?;
        let sums = ops::cumsum(ops::tril(each, -1)?, 1, None, None)?;
        let left = ops::tril(sums.exp()?, None)?.reshape(&[groups, of_group, n, n])?;
        // Decay of the state before the block.
        let left_before = ops::cumsum(&decay, 1, None, None)?.exp()?.reshape(&[groups, of_group, n, 1])?;

        let by_heads = state.reshape(&[groups, of_group, head_dim, -1])?;
        let (b, c) = (self.b.expand_dims(1)?, self.c.expand_dims(1)?);
        let scores = ops::matmul(&c, b.swap_axes(-1, -2)?)?;
        let among = ops::matmul(scores.multiply(&left)?, &x)?;
        let before = ops::matmul(&c, by_heads.swap_axes(-1, -2)?)?.multiply(&left_before)?;
        let y = among.add(before)?.reshape(&[heads, n, head_dim])?.swap_axes(0, 1)?;

        let at_end = left.try_index((.., .., n - 1, ..))?.expand_dims(-1)?;
        let came = ops::matmul(x.multiply(at_end)?.swap_axes(-1, -2)?, &b)?;
        let stayed = by_heads.multiply(left_before.try_index((.., .., n - 1.., ..))?)?;
        Ok((y, stayed.add(came)?.reshape(state.shape())?))
    }
}
