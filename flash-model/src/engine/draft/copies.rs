//! Drafts that continue an earlier occurrence of the last tokens.

use super::Drafter;
use super::automaton::{self, SuffixAutomaton, reserve_one};

/// Fewest repeated tokens that are continued. Pairs of tokens repeat everywhere.
pub(super) const MATCH_MIN: usize = 3;
/// Most tokens of a draft: copies of code are rarely longer without an edit.
pub(super) const DRAFT_MAX: usize = 64;
/// Tokens of a draft for each repeated token: a short match is often a coincidence.
const DRAFT_PER_MATCH: usize = 4;
/// Tokens that are read again after tokens were taken back, to find the place where the text continues.
const ANCHOR_TOKENS: usize = 32;
/// Upper bound of the memory of the tables' first elements.
const EMPTY_BYTES_MAX: usize = 2048;
/// Between text that was taken back and text after it. No vocabulary has this token.
const SEPARATOR: u32 = u32::MAX;

/// Drafts the continuation of the longest suffix that occurred before, in the prompt, the output, or earlier turns.
///
/// Text that was taken back stays known: an answer that is generated again often begins like the first.
#[derive(Debug)]
pub struct Copies {
    /// All tokens, with a separator wherever tokens were taken back.
    text: Vec<u32>,
    automaton: SuffixAutomaton,
    max_tokens: usize,
}

impl Copies {
    /// Upper bound of the memory for each token of the text.
    pub const BYTES_PER_TOKEN_MAX: usize = automaton::BYTES_PER_TOKEN_MAX + 5;

    /// Returns an upper bound of the memory of a drafter with this `max_tokens`, but for the old copy of a table while
    /// it grows.
    pub fn bytes_max(max_tokens: usize) -> usize {
        Self::kept_tokens(max_tokens) * Self::BYTES_PER_TOKEN_MAX + EMPTY_BYTES_MAX
    }

    fn kept_tokens(max_tokens: usize) -> usize {
        max_tokens.clamp(4 * ANCHOR_TOKENS, automaton::TOKENS_MAX)
    }

    /// Creates a drafter that knows nothing. Of a text longer than `max_tokens`, the older half is forgotten; at least
    /// some tens of tokens are kept.
    pub fn new(max_tokens: usize) -> Self {
        let max_tokens = Self::kept_tokens(max_tokens);
        Self { text: Vec::new(), automaton: SuffixAutomaton::new(), max_tokens }
    }

    /// Returns the number of last tokens that occurred before.
    pub fn match_tokens(&self) -> usize {
        self.automaton.repeat().map_or(0, |repeat| repeat.len)
    }

    fn push(&mut self, token: u32) {
        if self.text.len() == self.max_tokens {
            self.forget_older_half();
        }
        reserve_one(&mut self.text);
        self.text.push(token);
        self.automaton.push(token);
    }

    /// Builds the automaton of the newer half again, which each token pays for once on average.
    fn forget_older_half(&mut self) {
        self.text.drain(..self.text.len() / 2);
        self.automaton.clear();
        for &token in &self.text {
            self.automaton.push(token);
        }
    }
}

impl Drafter for Copies {
    fn learn(&mut self, tokens: &[u32]) {
        tokens.iter().for_each(|&token| self.push(token));
    }

    fn rewind(&mut self, kept: &[u32]) {
        self.push(SEPARATOR);
        self.learn(&kept[kept.len().saturating_sub(ANCHOR_TOKENS)..]);
    }

    fn propose(&mut self, room: usize, out: &mut Vec<u32>) {
        let Some(repeat) = self.automaton.repeat().filter(|repeat| repeat.len >= MATCH_MIN) else { return };
        let n_tokens = room.min(DRAFT_MAX).min(DRAFT_PER_MATCH * repeat.len);
        let begin = out.len();
        for at in repeat.end..repeat.end + n_tokens {
            // Beyond the end of the text is the draft itself, as in a text that repeats without end.
            let token = self.text.get(at).copied().unwrap_or_else(|| out[begin + at - self.text.len()]);
            if token == SEPARATOR {
                break;
            }
            out.push(token);
        }
    }

    fn bytes(&self) -> usize {
        self.text.capacity() * size_of::<u32>() + self.automaton.bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(copies: &mut Copies, room: usize) -> Vec<u32> {
        let mut out = Vec::new();
        copies.propose(room, &mut out);
        out
    }

    fn learned(text: &[u32]) -> Copies {
        let mut copies = Copies::new(10_000);
        copies.learn(text);
        copies
    }

    #[test]
    fn the_continuation_of_the_longest_match_is_drafted() {
        let mut copies = learned(&[1, 2, 3, 4, 50, 51, 9, 2, 3, 4, 60, 61, 7, 1, 2, 3, 4]);
        assert_eq!(copies.match_tokens(), 4);
        assert_eq!(draft(&mut copies, 3), [50, 51, 9]);
        assert!(draft(&mut copies, 0).is_empty());
    }

    #[test]
    fn a_draft_is_appended_and_no_longer_than_room_match_and_maximum_allow() {
        let text: Vec<u32> = (0..200).collect();
        let mut copies = learned(&[&text[..], &text[..MATCH_MIN]].concat());
        let mut out = vec![77];
        copies.propose(100, &mut out);
        assert_eq!(out[..2], [77, 3]);
        assert_eq!(out.len(), 1 + DRAFT_PER_MATCH * MATCH_MIN);
        copies.learn(&text[MATCH_MIN..100]);
        assert_eq!(draft(&mut copies, 1000), text[100..100 + DRAFT_MAX]);
        assert_eq!(draft(&mut copies, 5).len(), 5);
    }

    #[test]
    fn nothing_is_drafted_from_short_matches() {
        assert!(draft(&mut learned(&[]), 10).is_empty());
        assert!(draft(&mut learned(&[1, 2, 3, 4]), 10).is_empty());
        assert!(draft(&mut learned(&[1, 2, 9, 9, 8, 1, 2]), 10).is_empty());
    }

    #[test]
    fn a_periodic_text_continues_beyond_its_end() {
        let mut copies = learned(&[1, 2, 1, 2, 1, 2, 1]);
        assert_eq!(draft(&mut copies, 7), [2, 1, 2, 1, 2, 1, 2]);
        assert_eq!(draft(&mut learned(&[5; 9]), 20), [5; 20]);
    }

    #[test]
    fn an_answer_that_was_taken_back_is_drafted_again() {
        let mut copies = learned(&[1, 2, 3, 4, 5, 6, 7, 8]);
        copies.rewind(&[1, 2, 3, 4]);
        assert_eq!(copies.match_tokens(), 4, "no match goes beyond the place");
        // The draft ends where the text was taken back.
        assert_eq!(draft(&mut copies, 10), [5, 6, 7, 8]);
        copies.learn(&[5, 60]);
        assert!(draft(&mut copies, 10).is_empty());
        copies.rewind(&[]);
        assert!(copies.match_tokens() < MATCH_MIN);
    }

    #[test]
    fn the_older_half_of_a_long_text_is_forgotten() {
        let mut copies = Copies::new(1000);
        let text: Vec<u32> = (0..1000).collect();
        copies.learn(&text);
        copies.learn(&[900, 901, 902]);
        assert_eq!(draft(&mut copies, 2), [903, 904]);
        copies.learn(&[10, 11, 12]);
        assert!(draft(&mut copies, 2).is_empty(), "forgotten");
        copies.learn(&text.repeat(20));
        assert!(copies.bytes() <= Copies::bytes_max(1000), "{}", copies.bytes());
    }

    #[test]
    fn text_of_ordinary_repetition_takes_about_half_of_the_bound() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut copies = Copies::new(100_000);
        let n = 50_000;
        // Ids as of words: the square makes small ones frequent.
        copies.learn(&(0..n).map(|_| (random.f64().powi(4) * 30_000.0) as u32).collect::<Vec<_>>());
        assert!(copies.bytes() / n <= 100, "{}", copies.bytes() / n);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Learn(Vec<u32>),
        Rewind(usize),
        Propose(usize),
    }

    proptest! {
        #[test]
        fn drafts_are_copies_of_the_text_and_the_same_each_time(
            steps in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(0_u32..4, 0..50).prop_map(Step::Learn),
                    prop::collection::vec(any::<u32>(), 0..9).prop_map(Step::Learn),
                    (0_usize..60).prop_map(Step::Rewind),
                    (0_usize..90).prop_map(Step::Propose),
                ],
                0..20,
            ),
        ) {
            // Forgets several times.
            let [mut copies, mut again] = [(); 2].map(|()| Copies::new(0));
            let (mut sequence, mut known) = (Vec::new(), std::collections::HashSet::new());
            for step in steps {
                match step {
                    Step::Learn(tokens) => {
                        known.extend(tokens.iter().copied());
                        sequence.extend_from_slice(&tokens);
                        copies.learn(&tokens);
                        again.learn(&tokens);
                    }
                    Step::Rewind(kept) => {
                        sequence.truncate(kept);
                        copies.rewind(&sequence);
                        again.rewind(&sequence);
                    }
                    Step::Propose(room) => {
                        let out = draft(&mut copies, room);
                        prop_assert!(out.len() <= room.min(DRAFT_MAX));
                        prop_assert!(out.iter().all(|token| known.contains(token)));
                        prop_assert_eq!(&out, &draft(&mut copies, room));
                        prop_assert_eq!(out, draft(&mut again, room));
                    }
                }
            }
        }
    }
}
