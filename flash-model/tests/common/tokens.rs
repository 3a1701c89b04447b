//! Tokens and logits of contexts, for tests.

/// Returns the tokens of the context `idx`.
pub(crate) fn sequence(idx: usize, len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|at| ((at * at * 7 + at * (31 + idx) + idx * 101 + 5) % vocab) as u32).collect()
}

pub(crate) fn bits<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Vec<Vec<u32>> {
    rows.into_iter().map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}
