//! The pass: rows of any number of contexts go once through all weights.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flash_sched::{ByteRate, Ema, PassCost};

use super::Context;
use super::contexts::Contexts;
use crate::ModelError;
use crate::compute::row_ranges;
use crate::decoder::{BatchSegment, Decoder, Pass};
use crate::interrupt::Interrupt;
use crate::stream::experts::{ExpertStats, Experts};
use crate::stream::residency::Residency;

/// New tokens of one context in a pass.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The context that the tokens are appended to.
    pub context: &'a mut Context,
    /// The new tokens.
    pub tokens: &'a [u32],
    /// Number of last tokens whose logits are returned: 1 for a prompt, all for a draft, 0 for a part of a prompt.
    pub n_logits: usize,
    /// Whether the tokens are a draft: they are not part of the context until [`Context::commit`] keeps the first of them,
    /// and whatever else is done with the context takes them back.
    pub is_tentative: bool,
}

impl<'a> Segment<'a> {
    /// Returns the segment of `tokens` with the logits of the last one.
    pub fn new(context: &'a mut Context, tokens: &'a [u32]) -> Self {
        Self { context, tokens, n_logits: 1, is_tentative: false }
    }

    /// Returns the segment of a draft, with the logits of all its tokens.
    pub fn tentative(context: &'a mut Context, tokens: &'a [u32]) -> Self {
        Self { context, tokens, n_logits: tokens.len(), is_tentative: true }
    }
}

/// The logits of a pass. Can be reused for further passes.
#[derive(Debug, Clone, Default)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
    /// Rows of each segment.
    rows: Vec<Range<usize>>,
}

impl Logits {
    /// Returns the logits of a segment's last token, if it wanted them. Sampling may change them.
    ///
    /// # Panics
    /// If the pass had no segment of that index.
    pub fn last_mut(&mut self, segment_idx: usize) -> Option<&mut [f32]> {
        let n_rows = self.rows[segment_idx].len();
        Some(self.row_mut(segment_idx, n_rows.checked_sub(1)?))
    }

    /// Returns the logits of one of a segment's rows.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) fn row_mut(&mut self, segment_idx: usize, row_idx: usize) -> &mut [f32] {
        let rows = self.rows[segment_idx].clone();
        assert!(row_idx < rows.len(), "a row of the segment");
        &mut self.values[(rows.start + row_idx) * self.vocab_size..][..self.vocab_size]
    }

    /// Empties the logits for a pass whose segments want `n_logits` rows each.
    fn begin(&mut self, n_logits: impl Iterator<Item = usize>) {
        self.values.clear();
        self.rows.clear();
        self.rows.extend(row_ranges(n_logits));
    }

    /// Takes the length of a row from the values of the pass.
    fn end(&mut self) {
        let n_rows = self.rows.last().map_or(0, |rows| rows.end);
        self.vocab_size = self.values.len().checked_div(n_rows).unwrap_or(0);
    }

    /// Returns empty logits that reuse the memory of `values`.
    pub(super) fn in_buffer(values: Vec<f32>) -> Self {
        Self { values, ..Self::default() }
    }

    /// Returns the logits of all rows.
    pub(super) fn into_buffer(self) -> Vec<f32> {
        self.values
    }

    /// Returns the logits of a segment, one slice of the vocabulary's length for each of the last
    /// [`n_logits`](Segment::n_logits) tokens.
    ///
    /// # Panics
    /// If the pass had no segment of that index.
    pub fn of(&self, segment_idx: usize) -> impl ExactSizeIterator<Item = &[f32]> {
        let rows = self.rows[segment_idx].clone();
        rows.map(|row| &self.values[row * self.vocab_size..][..self.vocab_size])
    }
}

/// A loaded model: the weights, in memory or streamed, and what runs passes over them.
#[derive(Debug)]
pub(super) struct LoadedModel {
    pub decoder: Decoder,
    pub residency: Residency,
    /// The experts of a mixture model.
    pub experts: Option<Experts>,
    pub interrupt: Interrupt,
    /// Compute time of passes of a single row.
    pub token_compute: Ema,
    /// Compute time of passes by their rows.
    pub cost: PassCost,
    /// Identifies the contexts of this engine.
    pub contexts: Arc<Contexts>,
    /// Rows of a pass that may be tentative.
    pub max_tentative_rows: usize,
    /// Whether a row has the same bits in any company.
    pub is_batch_invariant: bool,
}

impl LoadedModel {
    /// Runs the segments, and sets `logits` to those of the rows that want them. See [`Engine::pass`].
    ///
    /// [`Engine::pass`]: super::Engine::pass
    pub(super) fn pass(
        &mut self,
        segments: &mut [Segment<'_>],
        logits: &mut Logits,
    ) -> Result<Vec<Result<(), ModelError>>, ModelError> {
        let mut outcomes = self.prepare(segments);
        logits.begin(segments.iter().zip(&outcomes).map(|(segment, outcome)| match outcome {
            Ok(()) => segment.n_logits,
            Err(_) => 0,
        }));
        let accepted = segments.iter_mut().enumerate().filter(|(idx, _)| outcomes[*idx].is_ok());
        let (places, mut accepted): (Vec<usize>, Vec<_>) = accepted.unzip();
        if accepted.is_empty() {
            return Ok(outcomes);
        }
        let n_rows = accepted.iter().map(|segment| segment.tokens.len()).sum();
        let (begin, stall) = (Instant::now(), self.stall());
        let ran = self.run(&mut accepted, |decoder, pass| decoder.logits(pass, &mut logits.values))?.1;
        let compute = begin.elapsed().saturating_sub(self.stall() - stall);
        self.cost.observe(n_rows, compute);
        if n_rows == 1 {
            self.token_compute.observe(compute);
        }
        places.into_iter().zip(ran).for_each(|(idx, outcome)| outcomes[idx] = outcome);
        logits.end();
        Ok(outcomes)
    }

    /// Checks that each segment can run, and reads its context back if that is parked.
    fn prepare(&self, segments: &mut [Segment<'_>]) -> Vec<Result<(), ModelError>> {
        let mut n_tentative = 0;
        let prepare = |segment: &mut Segment<'_>| {
            let Segment { context, tokens, n_logits, is_tentative } = segment;
            context.check_owner(&self.contexts);
            self.check(context, tokens)?;
            assert!(*n_logits <= tokens.len(), "logits of new tokens");
            if *is_tentative {
                let room = context.tentative_room().min(self.max_tentative_rows - n_tentative);
                if tokens.len() > room {
                    return Err(ModelError::DraftTooLong { tokens: tokens.len(), room });
                }
                n_tentative += tokens.len();
            }
            context.kv().map(drop)
        };
        segments.iter_mut().map(prepare).collect()
    }

    /// Checks that tokens can run in a context.
    pub(super) fn check(&self, context: &Context, tokens: &[u32]) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        self.decoder.embedding().check(tokens)?;
        context.check_room(tokens.len())
    }

    /// Computes the cross-entropy of each token of `ids` but the first, in nats, in an empty context.
    pub(super) fn losses(&mut self, context: &mut Context, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        let ([inputs @ .., _], [_, targets @ ..]) = (ids, ids) else { return Ok(Vec::new()) };
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        context.check_room(ids.len())?;
        let mut segment = Segment { n_logits: 0, ..Segment::new(context, inputs) };
        let (losses, outcomes) =
            self.run(&mut [&mut segment], |decoder, pass| decoder.losses(pass, targets))?;
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(losses)
    }

    /// Runs a pass, and returns its result and the outcome of each segment: the first error of the context's pages.
    ///
    /// # Errors
    /// The error that ended the pass for all segments. All contexts are as they were before.
    fn run<T>(
        &mut self,
        segments: &mut [&mut Segment<'_>],
        run: impl FnOnce(&mut Decoder, &mut Pass<'_>) -> Result<T, ModelError>,
    ) -> Result<(T, Vec<Result<(), ModelError>>), ModelError> {
        let Self { decoder, residency, experts, interrupt, .. } = self;
        let n_rows = segments.iter().map(|segment| segment.tokens.len()).sum();
        let batch = segments.iter_mut().map(|segment| {
            let Segment { context, tokens: ids, n_logits, is_tentative } = &mut **segment;
            let (n_logits, is_tentative) = (*n_logits, *is_tentative);
            Ok(BatchSegment { kv: context.kv()?, ids, n_logits, is_tentative })
        });
        let batch = batch.collect::<Result<_, ModelError>>()?;
        residency.begin_pass(n_rows)?;
        if let Some(experts) = experts {
            experts.begin_pass(n_rows);
        }
        let mut pass = Pass { batch, residency, experts, interrupt };
        let outcome = run(decoder, &mut pass);
        let Pass { residency, experts, .. } = pass;
        if outcome.is_err() {
            // Submitted operations may still write to the caches; their outcome no longer matters.
            drop(residency.settle());
        }
        residency.end_pass(outcome.is_ok());
        if let Some(experts) = experts {
            experts.end_pass(n_rows, outcome.is_ok());
        }
        let is_complete = outcome.is_ok();
        let outcomes = segments
            .iter_mut()
            .map(|segment| segment.context.kv().and_then(|kv| kv.end(is_complete, segment.is_tentative)));
        let outcomes: Vec<_> = outcomes.collect();
        match outcome {
            Ok(result) => Ok((result, outcomes)),
            // What failed first is the cause: a page that could not be read, or else what ended the pass.
            Err(error) => Err(outcomes.into_iter().find_map(Result::err).unwrap_or(error)),
        }
    }

    /// Returns the total time that computation has waited for weights.
    pub(super) fn stall(&self) -> Duration {
        self.residency.stall() + self.expert_traffic().unwrap_or_default().stall
    }

    /// Returns the measured rate of the disk; none before anything was read.
    pub(super) fn disk(&self) -> Option<ByteRate> {
        let reads = self.residency.reader().stats();
        ByteRate::measured(reads.bytes, reads.active)
    }

    pub(super) fn expert_traffic(&self) -> Option<ExpertStats> {
        self.experts.as_ref().map(Experts::traffic)
    }
}
