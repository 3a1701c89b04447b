//! Splits the weighted sum over a span into matrix products whose rows all see the same tokens.

use std::ops::Range;

use smallvec::SmallVec;

/// A block of rows and the tokens of a span that all of them see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MixStep {
    pub rows: Range<usize>,
    pub seen: Range<usize>,
}

/// Target number of rows per step: as many as kernels multiply at a time.
const STEP_ROWS: usize = 8;

/// Splits the tokens that rows `[n, n_heads]` see in a span into steps, in token order for each row: first the tokens
/// that only some rows see, by blocks of a few query tokens and then by single ones, around the tokens that all rows
/// see.
pub(super) fn mix_steps(
    [n, n_heads]: [usize; 2],
    seen_by: impl Fn(usize) -> Range<usize>,
) -> SmallVec<[MixStep; 1]> {
    let mut steps = SmallVec::new();
    let few = STEP_ROWS / n_heads;
    let lens: &[usize] = if few < 2 { &[1] } else { &[few, 1] };
    cut(0..n, n_heads, lens, &seen_by, &mut steps);
    steps
}

/// Appends the steps of the query tokens `tokens`, split recursively by the block lengths `lens`, the last of which is
/// 1.
fn cut(
    tokens: Range<usize>,
    n_heads: usize,
    lens: &[usize],
    seen_by: &dyn Fn(usize) -> Range<usize>,
    steps: &mut SmallVec<[MixStep; 1]>,
) {
    let start = tokens.clone().map(|token| seen_by(token).start).max().unwrap_or(0);
    let end = tokens.clone().map(|token| seen_by(token).end).min().unwrap_or(0);
    let common = start..end.max(start);
    let parts = || {
        let (len, end) = (lens[0], tokens.end);
        tokens.clone().step_by(len).map(move |first| first..end.min(first + len))
    };
    let is_alike = tokens.len() < 2 || tokens.clone().all(|token| seen_by(token) == common);
    if !is_alike {
        let before = |token: usize| {
            let seen = seen_by(token);
            seen.start..seen.end.min(common.start)
        };
        parts().for_each(|part| cut(part, n_heads, &lens[1..], &before, steps));
    }
    if !common.is_empty() {
        let rows = tokens.start * n_heads..tokens.end * n_heads;
        steps.push(MixStep { rows, seen: common.clone() });
    }
    if !is_alike {
        let after = |token: usize| {
            let seen = seen_by(token);
            seen.start.max(common.end)..seen.end
        };
        parts().for_each(|part| cut(part, n_heads, &lens[1..], &after, steps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::SPAN_TOKENS;

    #[test]
    fn mix_steps_name_what_each_row_sees_once_and_in_order() {
        let cases = [
            (1, None, 5),
            (21, None, 0),
            (21, None, 100),
            (64, Some(9), 40),
            (9, Some(1), 0),
            (64, Some(90), 60),
        ];
        for ((n, window, first), n_heads) in
            cases.into_iter().flat_map(|case| [1, 3, 8].map(|n_heads| (case, n_heads)))
        {
            let seen_by = |token: usize| {
                let end = first + token + 1;
                let start = window.map_or(0, |window| end.saturating_sub(window));
                start.min(SPAN_TOKENS)..end.min(SPAN_TOKENS)
            };
            let steps = mix_steps([n, n_heads], seen_by);
            for row in 0..n_heads * n {
                let steps = steps.iter().filter(|step| step.rows.contains(&row));
                let seen: Vec<usize> = steps.flat_map(|step| step.seen.clone()).collect();
                assert!(seen.into_iter().eq(seen_by(row / n_heads)), "row {row} of {n} tokens");
            }
        }
        assert_eq!(mix_steps([1, 8], |_| 3..7).len(), 1, "a single token takes one step");
    }
}
