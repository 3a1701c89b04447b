//! Speculation: an answer's next tokens are drafted, and checked by the pass that computes the first of them.

use std::time::Duration;

use flash_sched::{PassEstimate, PassTime};

use super::draft::{DraftChain, DraftCounts, DraftSource};

/// Most tokens of a draft.
const DRAFT_TOKENS_MAX: usize = 48;

/// The time of a pass beside which no row takes any.
const FOREVER: Duration = Duration::from_secs(3600);

/// Successors of a token that drafts are made of.
const N_SUCCESSORS: usize = 8;

/// Whether the next tokens of an answer are drafted. It changes the time of an answer, and no token of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Speculation {
    /// As long as it saves time, if CPU kernels compute. MLX's operations round a row differently in other company, so that
    /// drafts could change tokens.
    #[default]
    Auto,
    /// Always, as if passes took as long whatever their rows, to measure what drafts would bring. With MLX's operations, it
    /// can change tokens.
    Always,
    /// Never.
    Off,
}

/// Passes and drafts of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpeculationStats {
    /// Passes after the prompt's.
    pub passes: u64,
    /// Drafts that continued an earlier occurrence of the last tokens.
    pub copies: DraftCounts,
    /// Drafts of likely successors.
    pub recycling: DraftCounts,
}

impl SpeculationStats {
    /// Returns the drafted tokens.
    pub fn drafted(&self) -> u64 {
        self.copies.drafted + self.recycling.drafted
    }

    /// Returns the drafted tokens that were accepted.
    pub fn accepted(&self) -> u64 {
        self.copies.accepted + self.recycling.accepted
    }
}

/// Drafts the next tokens of an answer.
#[derive(Debug)]
pub(super) struct Speculator {
    speculation: Speculation,
    /// None if nothing is drafted.
    chain: Option<DraftChain>,
    /// The drafter of the pass in progress, and the tokens of its draft.
    draft: Option<(DraftSource, usize)>,
    stats: SpeculationStats,
    /// The likeliest tokens of a row, for the drafters to learn.
    top: Vec<u32>,
}

impl Speculator {
    /// Creates a speculator after the tokens `held` and `prompt`. `draft_rows` is the number of rows of a pass that may be
    /// drafted, with the token before them; below 2, nothing is drafted.
    pub(super) fn new(
        speculation: Speculation,
        draft_rows: usize,
        context_tokens: usize,
        [held, prompt]: [&[u32]; 2],
    ) -> Self {
        let chain = (draft_rows > 1).then(|| {
            let mut chain = DraftChain::new(context_tokens);
            chain.learn_prompt(held);
            chain.learn_prompt(prompt);
            chain
        });
        Self { speculation, chain, draft: None, stats: SpeculationStats::default(), top: Vec::new() }
    }

    /// Returns the memory of the drafters in a context of `context_tokens`.
    pub(super) fn bytes_max(context_tokens: usize) -> u64 {
        DraftChain::bytes_max(context_tokens) as u64
    }

    /// Appends to `tokens`, the next token of the answer, a draft of those after it: at most `room`, and as many as are
    /// expected to save time.
    pub(super) fn draft(
        &mut self,
        estimate: impl FnOnce() -> PassEstimate,
        room: usize,
        tokens: &mut Vec<u32>,
    ) {
        if let Some(chain) = &mut self.chain {
            let mut estimate = estimate();
            if self.speculation == Speculation::Always {
                estimate = PassEstimate::of_reading(estimate.cost, FOREVER);
            }
            let time = PassTime { estimate: &estimate, n_rows: 1 };
            let source = chain.propose(&time, room.min(DRAFT_TOKENS_MAX), tokens);
            self.draft = source.map(|source| (source, tokens.len() - 1));
        }
        self.stats.passes += 1;
    }

    /// Counts the tokens of the last draft that were accepted.
    pub(super) fn accept(&mut self, n_tokens: usize) {
        let Some((source, drafted)) = self.draft.take() else { return };
        let counts = match source {
            DraftSource::Copies => &mut self.stats.copies,
            DraftSource::Recycling => &mut self.stats.recycling,
        };
        counts.drafts += 1;
        counts.drafted += drafted as u64;
        counts.accepted += n_tokens as u64;
    }

    /// Learns the logits after `token`.
    pub(super) fn learn_logits(&mut self, token: u32, logits: &[f32]) {
        if let Some(chain) = &mut self.chain {
            largest(logits, &mut self.top);
            chain.learn_logits(token, &self.top);
        }
    }

    /// Learns tokens that were sampled.
    pub(super) fn learn_sampled(&mut self, tokens: &[u32]) {
        if let Some(chain) = &mut self.chain {
            chain.learn_sampled(tokens);
        }
    }

    pub(super) fn stats(&self) -> SpeculationStats {
        self.stats
    }
}

/// Sets `top` to the tokens of the largest logits, the largest first.
fn largest(logits: &[f32], top: &mut Vec<u32>) {
    const BLOCK: usize = 64;
    top.clear();
    let mut least = f32::NEG_INFINITY;
    for (block_idx, block) in logits.chunks(BLOCK).enumerate() {
        // Most blocks have none of the largest, which a vectorized maximum tells.
        let max = block.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
        if max <= least {
            continue;
        }
        for (idx, &logit) in block.iter().enumerate() {
            // Also false for a NaN.
            let is_large = logit > least;
            if !is_large {
                continue;
            }
            let at = top.partition_point(|&token| logits[token as usize] >= logit);
            top.insert(at, (block_idx * BLOCK + idx) as u32);
            top.truncate(N_SUCCESSORS);
            if let (N_SUCCESSORS, Some(&last)) = (top.len(), top.last()) {
                least = logits[last as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_logits_are_found_in_order(logits in prop::collection::vec(-9_i16..9, 0..300)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut wanted: Vec<u32> = (0..logits.len() as u32).collect();
            wanted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            wanted.truncate(N_SUCCESSORS);
            let mut top = Vec::new();
            largest(&logits, &mut top);
            prop_assert_eq!(top, wanted);
        }
    }

    #[test]
    fn logits_that_are_not_numbers_are_no_successors() {
        let mut top = Vec::new();
        largest(&[f32::NAN, 1.0, f32::NAN], &mut top);
        assert_eq!(top, [1]);
    }
}
