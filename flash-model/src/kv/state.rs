//! Recurrent states: the window of a convolution's input, and the state of each head, whose size does not depend on the
//! number of tokens.
//!
//! Each state is double-buffered, as committed and as updated by the pass in progress, so that a failed pass changes
//! nothing. A state cannot be rewound: a context continues from its end, or starts over.

use std::ops::Range;
use std::sync::Arc;

use flash_io::{Budget, IoError, PageBuf, Reservation};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use super::{CacheLayout, LayerKv};
use crate::ModelError;

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
}

impl StateShape {
    /// The state of a mixer with a convolution of `conv_kernel` tokens over `channels`, and `heads` matrices of
    /// `[heads, rows, columns]`.
    pub(crate) fn new(conv_kernel: i32, channels: i32, heads: [i32; 3]) -> Self {
        let conv = [conv_kernel - 1, channels].map(|extent| extent as usize);
        Self { conv, heads: heads.map(|extent| extent as usize) }
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

/// A recurrent state in buffers shared with custom nodes of MLX's graph.
#[derive(Debug)]
pub(crate) struct StateBuffers {
    held: PageBuf,
    next: PageBuf,
    /// Whether the pass in progress has written `next`.
    has_next: bool,
}

impl StateBuffers {
    fn new(shape: StateShape, budget: &Budget) -> Result<Self, IoError> {
        let [held, next] = [PageBuf::new(shape.bytes(), budget)?, PageBuf::new(shape.bytes(), budget)?];
        let mut buffers = Self { held, next, has_next: false };
        buffers.clear();
        Ok(buffers)
    }

    /// Copies the committed state of another context.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.fill(other.held.as_slice());
    }

    /// Sets the committed state from bytes, as many as it has.
    fn fill(&mut self, bytes: &[u8]) {
        self.held.as_mut_slice().copy_from_slice(bytes);
        self.has_next = false;
    }

    fn clear(&mut self) {
        self.held.as_mut_slice().fill(0);
        self.has_next = false;
    }

    /// Returns the input and output of an update: the committed state, or `None` once `next` holds the latest state to
    /// be updated in place; and `next`.
    #[cfg(target_os = "linux")]
    pub(crate) fn pass(&mut self) -> (Option<&[f32]>, &mut [f32]) {
        let begins = !std::mem::replace(&mut self.has_next, true);
        let held = begins.then(|| bytemuck::cast_slice(self.held.as_slice()));
        (held, bytemuck::cast_slice_mut(self.next.as_mut_slice()))
    }

    /// Returns the number of elements.
    #[cfg(target_os = "linux")]
    pub(crate) fn len(&self) -> usize {
        self.held.len() / size_of::<f32>()
    }
}

/// A recurrent state as MLX arrays: the convolution window, `[1, rows, channels]`, and the heads, `[1, heads, rows,
/// columns]`.
#[derive(Debug)]
pub(crate) struct StateArrays {
    shape: StateShape,
    held: [Array; 2],
    next: Option<[Array; 2]>,
    /// Reserves the memory of both copies.
    _memory: Reservation,
}

impl StateArrays {
    fn new(shape: StateShape, budget: &Budget) -> Result<Self, ModelError> {
        let memory = budget.reserve(shape.budget_bytes())?;
        Ok(Self { shape, held: zeroes(shape)?, next: None, _memory: memory })
    }

    /// Shares the committed state of another context.
    pub(super) fn copy_from(&mut self, other: &Self) {
        (self.held, self.next) = (other.held.clone(), None);
    }

    /// Returns the latest state.
    pub(crate) fn latest(&self) -> &[Array; 2] {
        self.next.as_ref().unwrap_or(&self.held)
    }

    /// Sets the state after more tokens.
    pub(crate) fn pass(&mut self, next: [Array; 2]) {
        self.next = Some(next);
    }
}

fn zeroes(shape: StateShape) -> Result<[Array; 2], Exception> {
    let [conv, heads] = shape.dims();
    Ok([mlx_rs::ops::zeros::<f32>(&conv)?, mlx_rs::ops::zeros::<f32>(&heads)?])
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
            Self::SharedState(buffers) => Some(buffers.lock().held.len()),
            Self::ArrayState(arrays) => Some(arrays.shape.bytes()),
            _ => None,
        }
    }

    /// Returns lazy state arrays, which no output depends on. They have to be evaluated with the output.
    pub(crate) fn lazy_arrays(&self) -> &[Array] {
        match self {
            Self::ArrayState(StateArrays { next: Some(next), .. }) => next,
            _ => &[],
        }
    }

    /// Commits the state that the pass has computed.
    pub(super) fn commit_state(&mut self) {
        match self {
            Self::SharedState(buffers) => {
                let StateBuffers { held, next, has_next } = &mut *buffers.lock();
                if std::mem::take(has_next) {
                    std::mem::swap(held, next);
                }
            }
            Self::ArrayState(StateArrays { held, next, .. }) => {
                if let Some(next) = next.take() {
                    *held = next;
                }
            }
            _ => {}
        }
    }

    /// Discards the state that the pass has computed.
    pub(super) fn discard_next_state(&mut self) {
        match self {
            Self::SharedState(buffers) => buffers.lock().has_next = false,
            Self::ArrayState(arrays) => arrays.next = None,
            _ => {}
        }
    }

    /// Resets the state to zeros.
    pub(super) fn clear_state(&mut self) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => buffers.lock().clear(),
            Self::ArrayState(arrays) => (arrays.held, arrays.next) = (zeroes(arrays.shape)?, None),
            _ => {}
        }
        Ok(())
    }

    /// Copies the committed state to `bytes`, which are [as many](Self::state_bytes).
    pub(super) fn copy_state(&self, bytes: &mut [u8]) -> Result<(), Exception> {
        match self {
            Self::SharedState(buffers) => bytes.copy_from_slice(buffers.lock().held.as_slice()),
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
            Self::ArrayState(StateArrays { shape, held, next, .. }) => {
                let array = |(range, dims): (Range<usize>, Vec<i32>)| {
                    let numbers = bytes[range].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                    Array::from_slice(&numbers.collect::<Vec<_>>(), &dims)
                };
                let [conv, heads] = parts(*shape);
                let [conv_dims, heads_dims] = shape.dims();
                (*held, *next) = ([array((conv, conv_dims)), array((heads, heads_dims))], None);
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
