//! The filters: which tokens stay in the draw.
//!
//! Each of top-p, min-p and top-k keeps the tokens from some logit on, so the order of the three makes
//! no difference, and top-p and top-k are a number each. Scratch space is given in, and nothing is
//! sorted that need not be.

use super::error::SampleError;
use super::exp::exp;

/// How many of the largest logits top-p sorts first; if their mass is not enough, four times as many
/// next, and so on. Most models put 0.95 on far fewer.
const N_SORTED_FIRST: usize = 128;

/// Makes the tokens of `window` less likely (or more, if `penalty` is less than 1), each of them once.
pub(super) fn penalize(logits: &mut [f32], window: &[u32], penalty: f32) -> Result<(), SampleError> {
    let n_logits = logits.len();
    for (index, &token) in window.iter().enumerate() {
        let position = usize::try_from(token).ok().filter(|&position| position < n_logits);
        let Some(position) = position else { return Err(SampleError::HistoryToken { token, n_logits }) };
        if window[..index].contains(&token) {
            continue;
        }
        let logit = &mut logits[position];
        *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
    }
    Ok(())
}

/// The smallest logit that top-p keeps. `top` is the largest logit.
pub(super) fn top_p_floor(logits: &[f32], top: f32, top_p: f32, scratch: &mut Vec<f32>) -> f32 {
    let total: f64 = logits.iter().map(|&logit| f64::from(exp(logit - top))).sum();
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

/// Where top-k cuts.
pub(super) struct Edge {
    /// The smallest logit that is kept.
    pub(super) logit: f32,
    /// How many tokens of exactly that logit are kept.
    pub(super) n_kept: usize,
}

/// The edge of the `top_k` largest logits, for `top_k` from 1 to less than their number.
pub(super) fn top_k_edge(logits: &[f32], top_k: usize, scratch: &mut Vec<f32>) -> Edge {
    scratch.clear();
    scratch.extend_from_slice(logits);
    let (above, &mut logit, _) =
        scratch.select_nth_unstable_by(top_k - 1, |left, right| right.total_cmp(left));
    let n_kept = 1 + above.iter().filter(|&&other| other == logit).count();
    Edge { logit, n_kept }
}
