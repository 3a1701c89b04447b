//! The node of a recurrent mixer: updates the state of each segment, and records the inputs of rows that may be taken
//! back.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use flash_kernels::{Pool, StateUpdate};
use mlx_rs::error::Exception;
use parking_lot::Mutex;

use crate::compute::native::expect;
use crate::compute::{Segment, row_ranges};
use crate::kv::{LayerKv, Recorded, StateBuffers};
use crate::mlx::kernel::Kernel;

/// A recurrent mixer over the inputs of its node.
pub(super) trait Mixer: Clone + Debug + Send + Sync + 'static {
    /// Returns the elements of a row of each input that has rows, f32. Inputs after those are weights.
    fn row_lens(&self) -> Vec<usize>;

    /// Returns the elements of a row of the output.
    fn out_len(&self) -> usize;

    /// Computes the output of some rows, and updates the state of their context.
    fn compute(&self, pool: &Pool, rows: MixerRows<'_>);
}

/// Rows of one context.
pub(super) struct MixerRows<'a> {
    /// The inputs of the node.
    pub inputs: &'a [&'a [u8]],
    /// The rows of its inputs.
    pub rows: Range<usize>,
    pub update: StateUpdate<'a>,
    /// The output of the rows.
    pub out: &'a mut [f32],
}

/// The node of a mixer for some segments.
pub(super) struct MixerNode<M> {
    pool: Arc<Pool>,
    mixer: M,
    segments: Vec<SharedState>,
}

/// The state of a segment, shared with MLX's graph.
struct SharedState {
    n_rows: usize,
    state: Arc<Mutex<StateBuffers>>,
}

impl<M: Mixer> MixerNode<M> {
    /// # Errors
    /// If a state is not shared with the graph or has not `state_len` elements, or the segments do not have `n` rows.
    pub(super) fn new(
        pool: &Arc<Pool>,
        mixer: M,
        segments: &[Segment<'_>],
        n: i32,
        state_len: usize,
    ) -> Result<Self, Exception> {
        let n_rows: usize = segments.iter().map(|segment| segment.n_rows).sum();
        expect(n_rows == n as usize, "state for each row")?;
        let shared = |segment: &Segment<'_>| {
            let LayerKv::SharedState(state) = &*segment.kv else {
                return Err(Exception::custom("the layer has no state that is shared with the graph"));
            };
            expect(state.lock().len() == state_len, "state of the layer's length")?;
            Ok(SharedState { n_rows: segment.n_rows, state: Arc::clone(state) })
        };
        let segments = segments.iter().map(shared).collect::<Result<_, _>>()?;
        Ok(Self { pool: Arc::clone(pool), mixer, segments })
    }
}

impl<M: Mixer> Kernel for MixerNode<M> {
    fn run(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [f32]]) {
        let Self { pool, mixer, segments } = self;
        let (row_lens, out_len) = (mixer.row_lens(), mixer.out_len());
        let (row_inputs, weights) = inputs.split_at(row_lens.len());
        // The weights are copied once for all segments: their memory is refilled after the pass.
        let mut owned_weights = None;
        let rows = row_ranges(segments.iter().map(|segment| segment.n_rows));
        for (shared, rows) in segments.iter().zip(rows) {
            let state = &mut *shared.state.lock();
            let (before, next) = state.pass();
            let out = &mut outputs[0][rows.start * out_len..rows.end * out_len];
            let update = StateUpdate { before, state: next };
            mixer.compute(pool, MixerRows { inputs, rows: rows.clone(), update, out });
            if !state.is_recording() {
                continue;
            }
            let weights = owned_weights.get_or_insert_with(|| {
                Arc::<[Vec<u8>]>::from_iter(weights.iter().map(|bytes| bytes.to_vec()))
            });
            let copy = |(bytes, len): (&&[u8], &usize)| {
                bytemuck::cast_slice(bytes)[rows.start * len..rows.end * len].to_vec()
            };
            state.record(Box::new(RecordedRows {
                pool: Arc::clone(pool),
                mixer: mixer.clone(),
                rows: row_inputs.iter().zip(&row_lens).map(copy).collect(),
                n_rows: rows.len(),
                weights: Arc::clone(weights),
            }));
        }
    }
}

/// Copies of the inputs of a segment's rows.
#[derive(Debug)]
struct RecordedRows<M> {
    pool: Arc<Pool>,
    mixer: M,
    rows: Vec<Vec<f32>>,
    n_rows: usize,
    weights: Arc<[Vec<u8>]>,
}

impl<M: Mixer> Recorded for RecordedRows<M> {
    fn n_tokens(&self) -> usize {
        self.n_rows
    }

    fn replay(&self, n_tokens: usize, before: Option<&[f32]>, state: &mut [f32]) {
        let rows = self.rows.iter().map(|rows| bytemuck::cast_slice(rows));
        let inputs: Vec<&[u8]> = rows.chain(self.weights.iter().map(Vec::as_slice)).collect();
        let mut out = vec![0.0; n_tokens * self.mixer.out_len()];
        let update = StateUpdate { before, state };
        self.mixer
            .compute(&self.pool, MixerRows { inputs: &inputs, rows: 0..n_tokens, update, out: &mut out });
    }
}
