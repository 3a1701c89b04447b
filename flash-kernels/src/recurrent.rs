//! Layers that keep a state of a fixed size instead of keys and values: a short causal convolution, then a recurrence.
//!
//! Tokens pass one by one, whatever the batch, and heads go their own ways: so no bit depends on the pieces in which tokens
//! come, nor on the number of threads. Nothing is fused, so all instruction sets give the same bits.

mod convolution;
mod gated_delta;
mod mamba2;
mod step;

use std::sync::{Mutex, PoisonError};

use crate::matrix::Floats;

pub(crate) use convolution::convolve_row;
pub use gated_delta::{GatedDelta, GatedDeltaInput};
pub use mamba2::Mamba2;
pub(crate) use step::{DeltaStep, SelectiveStep, delta_step, selective_step};

/// The state of a layer while tokens pass: `[kernel − 1, channels]`, what the next token sees of the convolution's input, then a
/// matrix for each head; row-major, one behind the other.
#[derive(Debug)]
pub struct Passing<'a> {
    /// As the tokens before left it; none if `state` holds that.
    pub before: Option<&'a [f32]>,
    /// Where it is written as these tokens leave it.
    pub state: &'a mut [f32],
}

/// The matrices of heads, each for the thread that takes the head.
struct HeadStates<'a> {
    before: Option<&'a [f32]>,
    states: Vec<Mutex<&'a mut [f32]>>,
}

impl<'a> Passing<'a> {
    /// The window of a convolution, and the matrices of the heads, each of `head_len` numbers.
    fn split(self, window_len: usize, head_len: usize) -> (Passing<'a>, HeadStates<'a>) {
        let before = self.before.map(|before| before.split_at(window_len));
        let (window, heads) = self.state.split_at_mut(window_len);
        let states = heads.chunks_exact_mut(head_len).map(Mutex::new).collect();
        let heads = HeadStates { before: before.map(|(_, heads)| heads), states };
        (Passing { before: before.map(|(window, _)| window), state: window }, heads)
    }
}

impl HeadStates<'_> {
    /// Gives `pass` the matrix of a head, to go on from.
    fn with<T>(&self, head: usize, pass: impl FnOnce(&mut [f32]) -> T) -> T {
        let state = &mut **self.states[head].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = self.before {
            state.copy_from_slice(&before[head * state.len()..][..state.len()]);
        }
        pass(state)
    }
}

/// ln(1 + eˣ).
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn decoded(floats: Floats<'_>) -> Vec<f32> {
    let mut values = vec![0.0; floats.bytes.len() / floats.float.size_bytes()];
    floats.float.decode_into(floats.bytes, &mut values).expect("counted from the bytes");
    values
}
