//! Filters of the sampler: repetition penalty, top-p, min-p and top-k.
//!
//! Each of top-p, min-p and top-k keeps the tokens from some logit on, so the order of the three makes no difference,
//! and top-p and top-k reduce to one logit each. Scratch memory is an argument, and only as many logits are sorted as
//! needed.

use super::exp::exp;
use crate::error::SampleError;

/// Number of largest logits that top-p sorts first; if their mass is not enough, it sorts four times as many next, and
/// so on. Most models put 0.95 of the mass on far fewer tokens.
const N_SORTED_FIRST: usize = 128;

/// Applies the repetition penalty once to each token of `window`. Changes nothing if one of them has no logit.
pub(super) fn penalize(logits: &mut [f32], window: &[u32], penalty: f32) -> Result<(), SampleError> {
    let mut tokens = window.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    let n_logits = logits.len();
    let positions = || tokens.iter().map(|&token| usize::try_from(token).unwrap_or(usize::MAX));
    if let Some((position, &token)) = positions().zip(&tokens).next_back()
        && position >= n_logits
    {
        return Err(SampleError::HistoryToken { token, n_logits });
    }
    for position in positions() {
        let logit = &mut logits[position];
        *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
    }
    Ok(())
}

/// Returns the smallest logit that top-p keeps. `top` is the largest logit.
pub(super) fn top_p_floor(logits: &[f32], top: f32, top_p: f32, scratch: &mut Vec<f32>) -> f32 {
    // Separate from the sum, so that the compiler can vectorize the exponentials.
    scratch.clear();
    scratch.extend(logits.iter().map(|&logit| exp(logit - top)));
    let total: f64 = scratch.iter().map(|&p| f64::from(p)).sum();
    let wanted = f64::from(top_p) * total;
    scratch.clear();
    scratch.extend_from_slice(logits);
    let mut mass = 0.0;
    let mut floor = top;
    let mut n_sorted = N_SORTED_FIRST;
    let mut rest = scratch.as_mut_slice();
    while !rest.is_empty() {
        let n_next = n_sorted.min(rest.len());
        if n_next < rest.len() {
            rest.select_nth_unstable_by(n_next, |left, right| right.total_cmp(left));
        }
        let (next, others) = rest.split_at_mut(n_next);
        next.sort_unstable_by(|left, right| right.total_cmp(left));
        for &mut logit in next {
            if mass >= wanted {
                return floor;
            }
            floor = logit;
            mass += f64::from(exp(logit - top));
        }
        rest = others;
        n_sorted *= 4;
    }
    floor
}

/// Returns a lower bound on the logits that min-p keeps, which excludes most tokens cheaply. The bound is loose because
/// the logarithm differs between platforms, and the kept tokens must not.
pub(super) fn min_p_floor(top: f32, min_p: f32) -> f32 {
    const SLACK: f32 = 0.01;
    top + min_p.ln() - SLACK
}

/// The cut-off of top-k.
pub(super) struct Edge {
    /// The smallest logit that is kept.
    pub(super) logit: f32,
    /// Number of tokens with exactly that logit that are kept.
    pub(super) n_kept: usize,
}

/// Returns the edge of the `top_k` largest logits, for `top_k` from 1 to less than their number.
pub(super) fn top_k_edge(logits: &[f32], top_k: usize, scratch: &mut Vec<f32>) -> Edge {
    scratch.clear();
    scratch.extend_from_slice(logits);
    let (above, &mut logit, _) =
        scratch.select_nth_unstable_by(top_k - 1, |left, right| right.total_cmp(left));
    let n_kept = 1 + above.iter().filter(|&&other| other == logit).count();
    Edge { logit, n_kept }
}
