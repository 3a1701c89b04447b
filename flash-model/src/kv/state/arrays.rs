//! Recurrent states as MLX arrays.

use std::fmt;

use flash_io::{Budget, Reservation};
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::StateShape;
use crate::ModelError;

/// Returns the state after the first tokens of some, from the state before them.
pub(crate) type Replay = Box<dyn Fn(i32, &[Array; 2]) -> Result<[Array; 2], Exception>>;

/// A recurrent state as MLX arrays: the convolution window, `[1, rows, channels]`, and the heads, `[1, heads, rows,
/// columns]`.
#[derive(Debug)]
pub(crate) struct StateArrays {
    pub(super) shape: StateShape,
    pub(super) held: [Array; 2],
    next: Option<[Array; 2]>,
    /// Whether the inputs of the pass are recorded.
    is_recording: bool,
    recorded: Vec<Recorded>,
    /// Reserves the memory of both copies.
    _memory: Reservation,
}

/// The inputs of some tokens that are not committed.
struct Recorded {
    n_tokens: usize,
    replay: Replay,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("n_tokens", &self.n_tokens).finish_non_exhaustive()
    }
}

impl StateArrays {
    pub(super) fn new(shape: StateShape, budget: &Budget) -> Result<Self, ModelError> {
        let memory = budget.reserve(shape.budget_bytes())?;
        let held = zeroes(shape)?;
        Ok(Self { shape, held, next: None, is_recording: false, recorded: Vec::new(), _memory: memory })
    }

    /// Shares the committed state of another context.
    pub(in crate::kv) fn copy_from(&mut self, other: &Self) {
        self.fill(other.held.clone());
    }

    /// Sets the committed state.
    pub(super) fn fill(&mut self, held: [Array; 2]) {
        self.held = held;
        self.discard_next();
    }

    pub(super) fn clear(&mut self) -> Result<(), Exception> {
        self.fill(zeroes(self.shape)?);
        Ok(())
    }

    /// Returns the latest state.
    pub(crate) fn latest(&self) -> &[Array; 2] {
        self.next.as_ref().unwrap_or(&self.held)
    }

    /// Returns the state that the pass has computed; empty before it has.
    pub(super) fn next(&self) -> &[Array] {
        self.next.as_ref().map_or(&[], |next| next)
    }

    /// Sets the state after more tokens.
    pub(crate) fn pass(&mut self, next: [Array; 2]) {
        self.next = Some(next);
    }

    /// Begins a pass, whose inputs are recorded if its tokens may be taken back.
    pub(super) fn begin(&mut self, is_recording: bool) {
        self.discard_next();
        self.is_recording = is_recording;
    }

    /// Returns whether the inputs of the pass have to be recorded.
    pub(crate) fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Records the inputs of the last update, of `n_tokens` tokens.
    pub(crate) fn record(&mut self, n_tokens: usize, replay: Replay) {
        self.recorded.push(Recorded { n_tokens, replay });
    }

    pub(super) fn discard_next(&mut self) {
        self.next = None;
        self.recorded.clear();
    }

    /// Commits the state after the first `n_tokens` of the `n_next` tokens that have been computed.
    ///
    /// # Errors
    /// Errors of computing a state again. The committed state is unchanged then.
    pub(super) fn commit(&mut self, n_tokens: usize, n_next: usize) -> Result<(), Exception> {
        if n_tokens > 0 && n_tokens < n_next {
            self.next = Some(self.replay(n_tokens)?);
        }
        if let (Some(next), true) = (self.next.take(), n_tokens > 0) {
            self.held = next;
        }
        self.discard_next();
        Ok(())
    }

    /// Returns the state after the first `n_tokens` recorded tokens, evaluated.
    fn replay(&self, n_tokens: usize) -> Result<[Array; 2], Exception> {
        let mut state = self.held.clone();
        let mut left = n_tokens;
        for Recorded { n_tokens, replay } in &self.recorded {
            let n = left.min(*n_tokens);
            if n > 0 {
                state = replay(n as i32, &state)?;
            }
            left -= n;
        }
        assert_eq!(left, 0, "the tokens were recorded");
        mlx_rs::transforms::eval(&state)?;
        Ok(state)
    }
}

fn zeroes(shape: StateShape) -> Result<[Array; 2], Exception> {
    let [conv, heads] = shape.dims();
    Ok([mlx_rs::ops::zeros::<f32>(&conv)?, mlx_rs::ops::zeros::<f32>(&heads)?])
}
