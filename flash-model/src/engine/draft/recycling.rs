//! Drafts from the successors that each token had (token recycling).
//!
//! Luo and others, "Turning trash into treasure: accelerating inference of large language models with token recycling"
//! (2024): the tokens with the largest logits of a pass are kept as the likely successors of its token, also those of
//! rejected drafts. That paper checks a tree of successors; this is its likeliest path.

use super::Drafter;

/// Successors that are kept for each token.
const N_SUCCESSORS: usize = 8;
/// Rows of the table. Texts use fewer different tokens, and frequent tokens have low ids, which keep a row of their
/// own.
const N_ROWS: usize = 1 << 14;
/// Most tokens of a draft: beyond some tokens nearly none is accepted.
const DRAFT_MAX: usize = 16;
/// No token.
const NONE: u32 = u32::MAX;

/// Successors of a token, the likeliest first.
#[derive(Debug, Clone, Copy)]
struct Row {
    token: u32,
    successors: [u32; N_SUCCESSORS],
}

impl Row {
    /// Puts a token before the others, and drops the last one if it is new.
    fn put_first(&mut self, token: u32) {
        let known = self.successors.iter().position(|successor| *successor == token);
        self.successors[..=known.unwrap_or(N_SUCCESSORS - 1)].rotate_right(1);
        self.successors[0] = token;
    }
}

/// Drafts the likeliest successor of each token, one after the other.
#[derive(Debug)]
pub struct Recycling {
    /// The row of a token is that of its low bits. Two tokens with the same ones take it from each other.
    rows: Vec<Row>,
    /// The last token of the sequence.
    last: Option<u32>,
}

impl Recycling {
    /// Memory in bytes.
    pub const BYTES: usize = N_ROWS * size_of::<Row>();

    /// Creates a drafter that knows nothing.
    pub fn new() -> Self {
        let empty = Row { token: NONE, successors: [NONE; N_SUCCESSORS] };
        Self { rows: vec![empty; N_ROWS], last: None }
    }

    /// Learns which tokens the model finds likeliest after `token`: those of the largest logits, the likeliest first.
    /// The logits after rejected tokens of a draft are good as well.
    pub fn learn_logits(&mut self, token: u32, top: &[u32]) {
        for &successor in top.iter().take(N_SUCCESSORS).rev() {
            self.add(token, successor);
        }
    }

    fn add(&mut self, token: u32, successor: u32) {
        if successor == NONE {
            return;
        }
        let row = &mut self.rows[token as usize % N_ROWS];
        if row.token != token {
            *row = Row { token, successors: [NONE; N_SUCCESSORS] };
        }
        row.put_first(successor);
    }

    /// Returns the known successors of a token, the likeliest first.
    pub fn successors(&self, token: u32) -> &[u32] {
        let row = &self.rows[token as usize % N_ROWS];
        let n_known = row.successors.iter().take_while(|successor| **successor != NONE).count();
        if row.token == token { &row.successors[..n_known] } else { &[] }
    }
}

impl Default for Recycling {
    fn default() -> Self {
        Self::new()
    }
}

impl Drafter for Recycling {
    fn learn(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if let Some(last) = self.last.replace(token) {
                self.add(last, token);
            }
        }
    }

    fn rewind(&mut self, kept: &[u32]) {
        self.last = kept.last().copied();
    }

    fn propose(&mut self, room: usize, out: &mut Vec<u32>) {
        let begin = out.len();
        let mut last = self.last;
        while out.len() - begin < room.min(DRAFT_MAX)
            && let Some(&next) = last.and_then(|token| self.successors(token).first())
            // A circle has no end, and texts have.
            && !out[begin..].contains(&next)
        {
            out.push(next);
            last = Some(next);
        }
    }

    fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(recycling: &mut Recycling, room: usize) -> Vec<u32> {
        let mut out = Vec::new();
        recycling.propose(room, &mut out);
        out
    }

    #[test]
    fn the_last_seen_successors_are_drafted() {
        let mut recycling = Recycling::new();
        recycling.learn(&[1, 2, 3, 4, 1, 5, 6, 1]);
        assert_eq!(draft(&mut recycling, 10), [5, 6, 1]);
        assert_eq!(draft(&mut recycling, 2), [5, 6]);
        assert_eq!(recycling.successors(1), [5, 2]);
        assert!(draft(&mut Recycling::new(), 10).is_empty());
    }

    #[test]
    fn top_logits_come_before_what_was_known() {
        let mut recycling = Recycling::new();
        recycling.learn(&[1, 2, 1, 3, 1]);
        recycling.learn_logits(1, &[7, 2, 8]);
        assert_eq!(recycling.successors(1), [7, 2, 8, 3]);
        recycling.learn_logits(1, &(20..60).collect::<Vec<_>>());
        assert_eq!(recycling.successors(1), (20..20 + N_SUCCESSORS as u32).collect::<Vec<_>>());
        recycling.learn_logits(20, &[30]);
        assert_eq!(draft(&mut recycling, 10), [20, 30]);
    }

    #[test]
    fn a_token_that_shares_its_row_replaces_the_other() {
        let mut recycling = Recycling::new();
        let other = 1 + N_ROWS as u32;
        recycling.learn(&[1, 2, other, 3, 1]);
        assert!(recycling.successors(1).is_empty());
        assert_eq!(recycling.successors(other), [3]);
    }

    #[test]
    fn a_rewound_sequence_continues_after_its_last_token() {
        let mut recycling = Recycling::new();
        recycling.learn(&[1, 2, 3, 4]);
        recycling.rewind(&[1, 2]);
        assert_eq!(draft(&mut recycling, 10), [3, 4]);
        recycling.learn(&[9]);
        assert_eq!(recycling.successors(2), [9, 3]);
        assert!(recycling.successors(4).is_empty());
        recycling.rewind(&[]);
        assert!(draft(&mut recycling, 10).is_empty());
    }

    proptest! {
        #[test]
        fn any_tokens_give_short_drafts_without_repetition(
            tokens in prop::collection::vec(prop_oneof![0_u32..6, any::<u32>()], 0..200),
            logits in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u32>(), 0..12)), 0..20),
            room in 0_usize..40,
        ) {
            let mut recycling = Recycling::new();
            recycling.learn(&tokens);
            for (token, top) in &logits {
                recycling.learn_logits(*token, top);
            }
            let out = draft(&mut recycling, room);
            prop_assert!(out.len() <= room.min(DRAFT_MAX));
            prop_assert!((1..out.len()).all(|at| !out[..at].contains(&out[at])));
            prop_assert_eq!(out, draft(&mut recycling, room));
            prop_assert_eq!(recycling.bytes(), Recycling::BYTES);
        }
    }
}
