//! Recurrent states: the window of a convolution's input, and the state of each head, whose size does not depend on the
//! number of tokens.
//!
//! Each state is double-buffered, as committed and as updated by the pass in progress, so that a failed pass changes
//! nothing. Of tokens that may be taken back, the inputs are recorded: the state after some of them is computed again
//! from the committed one. Committed tokens cannot be taken back: a context continues from its end, or starts over.

mod arrays;
mod buffers;

use std::ops::Range;
use std::sync::Arc;

use flash_io::{Budget, PageBuf};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::{CacheLayout, LayerKv};
use crate::ModelError;

pub(crate) use arrays::StateArrays;
#[cfg(target_os = "linux")]
pub(crate) use buffers::Recorded;
pub(crate) use buffers::StateBuffers;

/// The kind of cache that a layer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// A key and a value per token and KV head.
    KeysValues,
    /// A recurrent state.
    State(StateShape),
    Nothing,
}

/// The shape of a recurrent state, f32, row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateShape {
    /// Rows of convolution input that the next token sees, and channels.
    pub conv: [usize; 2],
    /// Heads, and rows and columns of each.
    pub heads: [usize; 3],
    /// Elements of the inputs from which a token's state is computed, and of the weights.
    pub inputs: [usize; 2],
}

impl StateShape {
    /// The state of a mixer with a convolution of `conv_kernel` tokens over `channels`, and `heads` matrices of
    /// `[heads, rows, columns]`, whose inputs have `input_len` elements a token.
    pub(crate) fn new(conv_kernel: i32, channels: i32, heads: [i32; 3], input_len: i32) -> Self {
        let conv = [conv_kernel - 1, channels].map(|extent| extent as usize);
        let [n_heads, rows, _] = heads;
        // The convolution with a bias, the norm, and three numbers a head.
        let weights = (conv_kernel + 1) * channels + n_heads * rows + 3 * n_heads;
        let inputs = [input_len, weights].map(|len| len as usize);
        Self { conv, heads: heads.map(|extent| extent as usize), inputs }
    }

    /// Returns the bytes that the inputs of `n_rows` rows take that may be taken back.
    pub(crate) fn recorded_bytes(&self, n_rows: usize) -> u64 {
        let [input_len, weights] = self.inputs;
        // A segment may lie in two chunks, each with a copy of the weights.
        ((n_rows * input_len + 2 * weights) * size_of::<f32>()) as u64
    }

    fn conv_len(&self) -> usize {
        self.conv.iter().product()
    }

    /// Returns the number of elements.
    pub(crate) fn len(&self) -> usize {
        self.conv_len() + self.heads.iter().product::<usize>()
    }

    /// Returns the bytes of a state; the convolution window comes first.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * size_of::<f32>()
    }

    /// Returns the bytes of both buffers in a budget.
    pub(crate) fn budget_bytes(&self) -> u64 {
        2 * PageBuf::cost_bytes(self.bytes())
    }

    /// Returns the array shapes of the convolution window and of the heads.
    fn dims(&self) -> [Vec<i32>; 2] {
        let dims = |extents: &[usize]| [1].into_iter().chain(extents.iter().map(|n| *n as i32)).collect();
        [dims(&self.conv), dims(&self.heads)]
    }
}

impl LayerKv {
    /// Allocates the state of a layer, all zeros.
    pub(super) fn state(layout: CacheLayout, shape: StateShape, budget: &Budget) -> Result<Self, ModelError> {
        match layout {
            CacheLayout::Shared => {
                let buffers = StateBuffers::new(shape, budget)?;
                Ok(Self::SharedState(Arc::new(Mutex::new(buffers))))
            }
            CacheLayout::Arrays => Ok(Self::ArrayState(StateArrays::new(shape, budget)?)),
        }
    }

    /// Returns whether the layer has keys and values.
    pub(super) fn has_keys_values(&self) -> bool {
        matches!(self, Self::Arrays { .. } | Self::Shared(_) | Self::Paged(_))
    }

    /// Returns the bytes of the recurrent state, if there is one.
    pub(super) fn state_bytes(&self) -> Option<usize> {
        match self {
            Self::SharedState(buffers) => Some(buffers.lock().held().len()),
            Self::ArrayState(arrays) => Some(arrays.shape.bytes()),
            _ => None,
        }
    }

    /// Returns lazy state arrays, which no output depends on. They have to be evaluated with the output.
    pub(crate) fn lazy_arrays(&self) -> &[Array] {
        match self {
            Self::ArrayState(arrays) => arrays.next(),
            _ => &[],
        }
    }

    /// Begins a pass. If its tokens `may_be_taken_back`, the state records their inputs.
    pub(super) fn begin_state(&mut self, may_be_taken_back: bool) {
        match self {
            Self::SharedState(buffers) => buffers.lock().begin(may_be_taken_back),
            Self::ArrayState(arrays) => arrays.begin(may_be_taken_back),
            _ => {}
        }
    }

    /// Commits the state after the first `n_tokens` of the `n_next` tokens that have been computed.
    ///
    /// # Errors
    /// Errors of computing a state again.
    pub(super) fn commit_state(&mut self, n_tokens: usize, n_next: usize) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => buffers.lock().commit(n_tokens, n_next),
            Self::ArrayState(arrays) => arrays.commit(n_tokens, n_next)?,
            _ => {}
        }
        Ok(())
    }

    /// Discards the state that the pass has computed.
    pub(super) fn discard_next_state(&mut self) {
        match self {
            Self::SharedState(buffers) => buffers.lock().discard_next(),
            Self::ArrayState(arrays) => arrays.discard_next(),
            _ => {}
        }
    }

    /// Resets the state to zeros.
    pub(super) fn clear_state(&mut self) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => buffers.lock().clear(),
            Self::ArrayState(arrays) => arrays.clear()?,
            _ => {}
        }
        Ok(())
    }

    /// Copies the committed state to `bytes`, which are [as many](Self::state_bytes).
    pub(super) fn copy_state(&self, bytes: &mut [u8]) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => bytes.copy_from_slice(buffers.lock().held()),
            Self::ArrayState(StateArrays { shape, held, .. }) => {
                for (range, array) in parts(*shape).into_iter().zip(held) {
                    // Flattens a possibly strided array.
                    let array = array.reshape(&[-1])?;
                    array.eval()?;
                    bytes[range].copy_from_slice(bytemuck::cast_slice(array.as_slice::<f32>()));
                }
            }
            _ => unreachable!("the layer has a state"),
        }
        Ok(())
    }

    /// Sets the committed state from `bytes`.
    pub(super) fn fill_state(&mut self, bytes: &[u8]) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => buffers.lock().fill(bytes),
            Self::ArrayState(arrays) => {
                let array = |(range, dims): (Range<usize>, Vec<i32>)| {
                    let numbers = bytes[range].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    Array::from_slice(&numbers.collect::<Vec<_>>(), &dims)
                };
                let [conv, heads] = parts(arrays.shape);
                let [conv_dims, heads_dims] = arrays.shape.dims();
                arrays.fill([array((conv, conv_dims)), array((heads, heads_dims))]);
            }
            _ => unreachable!("the layer has a state"),
        }
        Ok(())
    }
}

/// Returns the byte ranges of the convolution window and of the heads.
fn parts(shape: StateShape) -> [Range<usize>; 2] {
    let conv_bytes = shape.conv_len() * size_of::<f32>();
    [0..conv_bytes, conv_bytes..shape.bytes()]
}
