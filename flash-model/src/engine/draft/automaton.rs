//! A suffix automaton: the smallest automaton that accepts every substring of a text, built token by token.
//!
//! Blumer, Blumer, Haussler, Ehrenfeucht, Chen and Seiferas, "The smallest automaton recognizing the subwords of a
//! text" (1985). A text of `n` tokens has at most `2n` states and `3n` transitions, and each token takes constant time
//! on average. The suffix link of the state of the whole text is the longest suffix that occurred before, so no search
//! is needed.

use hashbrown::HashTable;

/// The state of the empty string.
const ROOT: u32 = 0;
/// No state, or no transition.
const NONE: u32 = u32::MAX;
/// States on the way from the longest repeated suffix to shorter ones whose most recent occurrence is recorded with
/// each token. All of them would not be constant time; shorter suffixes are seldom asked for, and have an earlier
/// occurrence.
const N_RECORDED: usize = 8;
/// Most tokens of a text, so that the numbers of its transitions fit.
pub(super) const TOKENS_MAX: usize = 1 << 28;
/// Vectors grow by this part of their length: doubling would leave up to half of the memory unused.
const GROWTH_DIVISOR: usize = 4;

/// Upper bound of the memory of an automaton for each token: two states and three transitions, each with the growth of
/// its vector, and a hash table that is at least 7/16 full.
pub(super) const BYTES_PER_TOKEN_MAX: usize = 136;

/// A set of substrings that end at the same places.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Length of the longest of them.
    len: u32,
    /// State of its longest suffix that also ends elsewhere.
    link: u32,
    /// Number of tokens up to the end of a recent occurrence.
    end: u32,
    /// First of the list of its transitions.
    first: u32,
}

#[derive(Debug, Clone, Copy)]
struct Transition {
    state: u32,
    token: u32,
    target: u32,
    /// Next transition of the state.
    next: u32,
}

/// A suffix of a text that also occurs before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeat {
    /// Length of the suffix.
    pub(super) len: usize,
    /// Number of tokens up to the end of the other occurrence.
    pub(super) end: usize,
}

/// The suffix automaton of a text.
#[derive(Debug)]
pub(super) struct SuffixAutomaton {
    states: Vec<State>,
    transitions: Vec<Transition>,
    /// Transitions by state and token.
    index: HashTable<u32>,
    /// The state of the whole text.
    last: u32,
    repeat: Option<Repeat>,
}

impl SuffixAutomaton {
    pub(super) fn new() -> Self {
        let root = State { len: 0, link: NONE, end: 0, first: NONE };
        Self {
            states: vec![root],
            transitions: Vec::new(),
            index: HashTable::new(),
            last: ROOT,
            repeat: None,
        }
    }

    /// Removes all tokens, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.states.truncate(1);
        self.states[ROOT as usize].first = NONE;
        self.transitions.clear();
        self.index.clear();
        self.last = ROOT;
        self.repeat = None;
    }

    /// Returns the longest suffix of the text that also occurs before, and where, at a recent place.
    pub(super) fn repeat(&self) -> Option<Repeat> {
        self.repeat
    }

    /// Returns the memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.states.capacity() * size_of::<State>()
            + self.transitions.capacity() * size_of::<Transition>()
            + self.index.allocation_size()
    }

    /// Appends a token.
    ///
    /// # Panics
    /// If the text has [`TOKENS_MAX`] tokens.
    pub(super) fn push(&mut self, token: u32) {
        let end = self.state(self.last).len + 1;
        assert!(end as usize <= TOKENS_MAX, "a text of {TOKENS_MAX} tokens is full");
        let whole = self.add_state(State { len: end, link: ROOT, end, first: NONE });
        // Suffixes that had no occurrence followed by this token have their first one now.
        let mut suffix = self.last;
        let mut found = None;
        while suffix != NONE {
            found = self.find(suffix, token);
            if found.is_some() {
                break;
            }
            self.add_transition(suffix, token, whole);
            suffix = self.state(suffix).link;
        }
        if let Some(transition) = found {
            let target = self.transitions[transition].target;
            let link = if self.state(suffix).len + 1 == self.state(target).len {
                target
            } else {
                self.split(suffix, token, target)
            };
            self.states[whole as usize].link = link;
        }
        self.last = whole;
        self.record(end);
    }

    /// Keeps the longest repeated suffix, and records that it and shorter ones occur at `end`.
    fn record(&mut self, end: u32) {
        let mut suffix = self.state(self.last).link;
        let State { len, end: recent, .. } = self.state(suffix);
        self.repeat = (len > 0).then_some(Repeat { len: len as usize, end: recent as usize });
        for _ in 0..N_RECORDED {
            if suffix == ROOT {
                break;
            }
            self.states[suffix as usize].end = end;
            suffix = self.state(suffix).link;
        }
    }

    /// Splits the substrings of `target` that are no longer than those of `suffix` followed by `token`, which now end
    /// at one more place, off to a state of their own, and returns it.
    fn split(&mut self, mut suffix: u32, token: u32, target: u32) -> u32 {
        let State { link, end, first, .. } = self.state(target);
        let short = self.add_state(State { len: self.state(suffix).len + 1, link, end, first: NONE });
        let mut at = first;
        while at != NONE {
            let Transition { token, target, next, .. } = self.transitions[at as usize];
            self.add_transition(short, token, target);
            at = next;
        }
        self.states[target as usize].link = short;
        while suffix != NONE
            && let Some(transition) = self.find(suffix, token)
            && self.transitions[transition].target == target
        {
            self.transitions[transition].target = short;
            suffix = self.state(suffix).link;
        }
        short
    }

    fn state(&self, state: u32) -> State {
        self.states[state as usize]
    }

    fn add_state(&mut self, state: State) -> u32 {
        reserve_one(&mut self.states);
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    fn add_transition(&mut self, state: u32, token: u32, target: u32) {
        let next = std::mem::replace(&mut self.states[state as usize].first, self.transitions.len() as u32);
        reserve_one(&mut self.transitions);
        self.transitions.push(Transition { state, token, target, next });
        let transitions = &self.transitions;
        let hash_of = |&at: &u32| {
            let Transition { state, token, .. } = transitions[at as usize];
            hash(state, token)
        };
        self.index.insert_unique(hash(state, token), transitions.len() as u32 - 1, hash_of);
    }

    fn find(&self, state: u32, token: u32) -> Option<usize> {
        let is_it = |&at: &u32| {
            let other = self.transitions[at as usize];
            (other.state, other.token) == (state, token)
        };
        self.index.find(hash(state, token), is_it).map(|&at| at as usize)
    }
}

/// Makes room for one more element.
pub(super) fn reserve_one<T>(elements: &mut Vec<T>) {
    if elements.len() == elements.capacity() {
        elements.reserve_exact(elements.len() / GROWTH_DIVISOR + 16);
    }
}

/// Mixes a state and a token. The mixer is `SplitMix64`'s, which is a bijection: no two pairs have the same hash.
fn hash(state: u32, token: u32) -> u64 {
    let key = u64::from(state) << 32 | u64::from(token);
    let mixed = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the length of the longest suffix that also ends before the last token.
    fn longest_repeat(text: &[u32]) -> usize {
        let common =
            |end: usize| text.iter().rev().zip(text[..end].iter().rev()).take_while(|(a, b)| a == b).count();
        (0..text.len()).map(common).max().unwrap_or(0)
    }

    fn check(text: &[u32]) -> Result<(), TestCaseError> {
        let mut automaton = SuffixAutomaton::new();
        for n in 1..=text.len() {
            automaton.push(text[n - 1]);
            let repeat = automaton.repeat();
            prop_assert_eq!(repeat.map_or(0, |repeat| repeat.len), longest_repeat(&text[..n]), "after {}", n);
            if let Some(Repeat { len, end }) = repeat {
                prop_assert!(end < n);
                prop_assert_eq!(&text[end - len..end], &text[n - len..n]);
            }
        }
        let n = text.len().max(2);
        prop_assert!(automaton.states.len() <= 2 * n);
        prop_assert!(automaton.transitions.len() <= 3 * n);
        Ok(())
    }

    fn persisted() -> ProptestConfig {
        use proptest::test_runner::FileFailurePersistence;
        let persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
        ProptestConfig { failure_persistence: persistence, ..ProptestConfig::with_cases(300) }
    }

    proptest! {
        #![proptest_config(persisted())]

        #[test]
        fn the_longest_repeated_suffix_is_that_of_a_search(
            text in prop_oneof![
                prop::collection::vec(0_u32..2, 0..120),
                prop::collection::vec(0_u32..4, 0..120),
                prop::collection::vec(any::<u32>(), 0..60),
            ],
            is_doubled in any::<bool>(),
        ) {
            check(&if is_doubled { text.repeat(2) } else { text })?;
        }
    }

    #[test]
    fn texts_with_the_most_states_and_transitions_are_within_the_bounds() {
        let most_states: Vec<u32> = std::iter::once(0).chain([1; 100]).collect();
        let most_transitions: Vec<u32> = std::iter::once(0).chain([1; 100]).chain([2]).collect();
        for text in [most_states, most_transitions, vec![7; 200]] {
            check(&text).unwrap();
        }
    }

    #[test]
    fn a_recent_occurrence_is_preferred() {
        let mut automaton = SuffixAutomaton::new();
        for token in [1, 2, 3, 9, 1, 2, 3, 8, 5, 1, 2, 3] {
            automaton.push(token);
        }
        assert_eq!(automaton.repeat(), Some(Repeat { len: 3, end: 7 }));
    }

    #[test]
    fn memory_is_linear_and_within_its_bound() {
        let mut random = fastrand::Rng::with_seed(1);
        for alphabet in [1, 2, 50, 100_000] {
            let mut automaton = SuffixAutomaton::new();
            for n in 1..=40_000_usize {
                automaton.push(random.u32(0..alphabet));
                let bound = BYTES_PER_TOKEN_MAX * n + 1024;
                assert!(automaton.bytes() <= bound, "{} at {n}, alphabet {alphabet}", automaton.bytes());
            }
        }
    }

    #[test]
    fn a_cleared_automaton_is_like_a_new_one() {
        let mut automaton = SuffixAutomaton::new();
        for token in [1, 2, 1, 2, 3] {
            automaton.push(token);
        }
        automaton.clear();
        let repeats = [1, 2, 3, 1, 2].map(|token| {
            automaton.push(token);
            automaton.repeat()
        });
        let at = |len, end| Some(Repeat { len, end });
        assert_eq!(repeats, [None, None, None, at(1, 1), at(2, 2)]);
    }
}
