//! Recurrent layers with a state of fixed size instead of a KV cache: a short causal convolution, then a recurrence.
//!
//! Tokens are processed one by one, and heads independently, so no bit depends on how tokens are batched or on the
//! number of threads. Nothing is fused, so all instruction sets give the same bits.

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

/// Recurrent state of a layer before and after some tokens. Row-major: the convolution window,
/// `[kernel − 1, channels]`, then a matrix per head.
#[derive(Debug)]
pub struct StateUpdate<'a> {
    /// State before the tokens; if `None`, `state` holds it.
    pub before: Option<&'a [f32]>,
    /// Receives the state after the tokens.
    pub state: &'a mut [f32],
}

/// State matrices of the heads, each locked by the thread that computes the head.
struct HeadStates<'a> {
    before: Option<&'a [f32]>,
    states: Vec<Mutex<&'a mut [f32]>>,
}

impl<'a> StateUpdate<'a> {
    /// Splits the state into the convolution window and the head matrices of `head_len` numbers.
    fn split(self, window_len: usize, head_len: usize) -> (StateUpdate<'a>, HeadStates<'a>) {
        let before = self.before.map(|before| before.split_at(window_len));
        let (window, heads) = self.state.split_at_mut(window_len);
        let states = heads.chunks_exact_mut(head_len).map(Mutex::new).collect();
        let heads = HeadStates { before: before.map(|(_, heads)| heads), states };
        (StateUpdate { before: before.map(|(window, _)| window), state: window }, heads)
    }
}

impl HeadStates<'_> {
    /// Calls `pass` with the state matrix of a head, initialized with the state before the tokens.
    fn with_state<T>(&self, head: usize, pass: impl FnOnce(&mut [f32]) -> T) -> T {
        let state = &mut **self.states[head].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = self.before {
            state.copy_from_slice(&before[head * state.len()..][..state.len()]);
        }
        pass(state)
    }
}

/// Computes ln(1 + eˣ).
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn decode(floats: Floats<'_>) -> Vec<f32> {
    let mut values = vec![0.0; floats.bytes.len() / floats.float.size_bytes()];
    floats.float.decode_into(floats.bytes, &mut values).expect("the length was computed from the bytes");
    values
}
