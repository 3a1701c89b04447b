//! Recurrent states in buffers shared with custom nodes of MLX's graph.

use std::fmt::Debug;

use flash_io::{Budget, IoError, PageBuf};

use super::StateShape;

/// The inputs of some tokens, from which the state after the first of them can be computed again.
pub(crate) trait Recorded: Debug + Send {
    /// Returns the number of tokens.
    fn n_tokens(&self) -> usize;

    /// Computes the state after the first `n_tokens` tokens. `before` is the state before them; if `None`, `state` holds
    /// it.
    fn replay(&self, n_tokens: usize, before: Option<&[f32]>, state: &mut [f32]);
}

/// A recurrent state in buffers shared with custom nodes of MLX's graph.
#[derive(Debug)]
pub(crate) struct StateBuffers {
    held: PageBuf,
    next: PageBuf,
    /// Whether the pass in progress, or tokens that are not committed, have written `next`.
    has_next: bool,
    /// Whether the inputs of the pass are recorded.
    is_recording: bool,
    /// The inputs of tokens that are not committed, in order.
    recorded: Vec<Box<dyn Recorded>>,
}

impl StateBuffers {
    pub(super) fn new(shape: StateShape, budget: &Budget) -> Result<Self, IoError> {
        let [held, next] = [PageBuf::new(shape.bytes(), budget)?, PageBuf::new(shape.bytes(), budget)?];
        let mut buffers = Self { held, next, has_next: false, is_recording: false, recorded: Vec::new() };
        buffers.clear();
        Ok(buffers)
    }

    /// Copies the committed state of another context.
    pub(in crate::kv) fn copy_from(&mut self, other: &Self) {
        self.fill(other.held());
    }

    /// Returns the bytes of the committed state.
    pub(super) fn held(&self) -> &[u8] {
        self.held.as_slice()
    }

    /// Sets the committed state from bytes, as many as it has.
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        self.held.as_mut_slice().copy_from_slice(bytes);
        self.discard_next();
    }

    pub(super) fn clear(&mut self) {
        self.held.as_mut_slice().fill(0);
        self.discard_next();
    }

    /// Begins a pass, whose inputs are recorded if its tokens may be taken back.
    pub(super) fn begin(&mut self, is_recording: bool) {
        self.discard_next();
        self.is_recording = is_recording;
    }

    pub(super) fn discard_next(&mut self) {
        self.has_next = false;
        self.recorded.clear();
    }

    /// Commits the state after the first `n_tokens` of the `n_next` tokens that have been computed.
    pub(super) fn commit(&mut self, n_tokens: usize, n_next: usize) {
        if n_tokens > 0 && self.has_next {
            if n_tokens < n_next {
                self.replay(n_tokens);
            }
            std::mem::swap(&mut self.held, &mut self.next);
        }
        self.discard_next();
    }

    /// Sets the next state to the one after the first `n_tokens` recorded tokens.
    fn replay(&mut self, n_tokens: usize) {
        let mut before = Some(bytemuck::cast_slice(self.held.as_slice()));
        let next = bytemuck::cast_slice_mut(self.next.as_mut_slice());
        let mut left = n_tokens;
        for recorded in &self.recorded {
            let n = left.min(recorded.n_tokens());
            if n > 0 {
                recorded.replay(n, before.take(), next);
            }
            left -= n;
        }
        assert_eq!(left, 0, "the tokens were recorded");
    }

    /// Returns the input and output of an update: the committed state, or `None` once `next` holds the latest state to
    /// be updated in place; and `next`.
    #[cfg(target_os = "linux")]
    pub(crate) fn pass(&mut self) -> (Option<&[f32]>, &mut [f32]) {
        let begins = !std::mem::replace(&mut self.has_next, true);
        let held = begins.then(|| bytemuck::cast_slice(self.held.as_slice()));
        (held, bytemuck::cast_slice_mut(self.next.as_mut_slice()))
    }

    /// Returns whether the inputs of the pass have to be recorded.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Records the inputs of an update.
    #[cfg(target_os = "linux")]
    pub(crate) fn record(&mut self, inputs: Box<dyn Recorded>) {
        self.recorded.push(inputs);
    }

    /// Returns the number of elements.
    #[cfg(target_os = "linux")]
    pub(crate) fn len(&self) -> usize {
        self.held.len() / size_of::<f32>()
    }
}
