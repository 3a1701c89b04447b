//! Which query tokens are multiplied with which values of a span, and in what order.

use std::ops::Range;

use smallvec::SmallVec;

/// Some rows, and tokens of a span that they all see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MixStep {
    pub rows: Range<usize>,
    pub seen: Range<usize>,
}

/// Cuts what rows `[n, n_heads]` of `n` query tokens see of a span into steps, so that each row's are in order: what only some tokens
/// see, token by token, around what all of them see.
pub(super) fn mix_steps(
    [n, n_heads]: [usize; 2],
    seen_by: impl Fn(usize) -> Range<usize>,
) -> SmallVec<[MixStep; 1]> {
    let start = (0..n).map(|token| seen_by(token).start).max().unwrap_or(0);
    let end = (0..n).map(|token| seen_by(token).end).min().unwrap_or(0);
    let common = start..end.max(start);
    let one =
        |token: usize, seen: Range<usize>| MixStep { rows: token * n_heads..(token + 1) * n_heads, seen };
    let before = (0..n).map(|token| {
        let seen = seen_by(token);
        one(token, seen.start..seen.end.min(common.start))
    });
    let behind = (0..n).map(|token| {
        let seen = seen_by(token);
        one(token, seen.start.max(common.end)..seen.end)
    });
    let all = MixStep { rows: 0..n * n_heads, seen: common.clone() };
    before.chain([all]).chain(behind).filter(|step| !step.seen.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::SPAN_TOKENS;

    #[test]
    fn mix_steps_name_what_each_row_sees_once_and_in_order() {
        for (n, window, first) in
            [(1, None, 5), (21, None, 0), (21, None, 100), (64, Some(9), 40), (9, Some(1), 0)]
        {
            let seen_by = |token: usize| {
                let end = first + token + 1;
                let start = window.map_or(0, |window| end.saturating_sub(window));
                start.min(SPAN_TOKENS)..end.min(SPAN_TOKENS)
            };
            let steps = mix_steps([n, 3], seen_by);
            for row in 0..3 * n {
                let steps = steps.iter().filter(|step| step.rows.contains(&row));
                let seen: Vec<usize> = steps.flat_map(|step| step.seen.clone()).collect();
                assert!(seen.into_iter().eq(seen_by(row / 3)), "row {row} of {n} tokens");
            }
        }
        assert_eq!(mix_steps([1, 8], |_| 3..7).len(), 1, "a single token takes one step");
    }
}
