//! A choice between drafters by measured acceptance.

use flash_sched::{DraftControl, DraftLength, PassTime};

use super::copies::{DRAFT_MAX, MATCH_MIN};
use super::{Copies, Drafter, Recycling};

/// Least match of each class of copies. The longer the match, the more of its continuation is accepted, so acceptance
/// is measured by class.
const COPY_CLASSES: [usize; 4] = [MATCH_MIN, 6, 12, 24];
/// The class of recycled tokens, after those of copies.
const RECYCLING_CLASS: usize = COPY_CLASSES.len();
const N_CLASSES: usize = RECYCLING_CLASS + 1;
/// Tokens of a draft that is only compared with what is sampled later, enough to see whether longer ones would pay.
const UNCHECKED_TOKENS: usize = 8;

/// The drafter of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DraftSource {
    /// [`Copies`].
    Copies,
    /// [`Recycling`].
    Recycling,
}

/// Counts of the drafts of one drafter that were returned, and whose outcome is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftCounts {
    /// Drafts.
    pub drafts: u64,
    /// Their tokens.
    pub drafted: u64,
    /// Tokens that were sampled as drafted.
    pub accepted: u64,
}

/// A draft that is compared with the tokens that are sampled.
#[derive(Debug, Clone, Default)]
struct Trial {
    draft: Vec<u32>,
    n_matched: usize,
    class: usize,
    /// Whether the draft was returned, not only remembered.
    is_checked: bool,
}

/// The outcome of a trial.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    class: usize,
    is_checked: bool,
    drafted: usize,
    accepted: usize,
}

impl Trial {
    fn is_running(&self) -> bool {
        !self.draft.is_empty()
    }

    /// Starts anew. Returns the outcome of the tokens that were sampled as drafted before, if the draft was not
    /// decided.
    fn start(&mut self, draft: &[u32], class: usize, is_checked: bool) -> Option<Outcome> {
        let unfinished = if self.is_running() { self.end(self.n_matched) } else { None };
        self.draft.extend_from_slice(draft);
        (self.n_matched, self.class, self.is_checked) = (0, class, is_checked);
        unfinished
    }

    /// Ends the trial, of which `drafted` tokens are decided.
    fn end(&mut self, drafted: usize) -> Option<Outcome> {
        self.draft.clear();
        let Self { n_matched: accepted, class, is_checked, .. } = *self;
        (drafted > 0).then_some(Outcome { class, is_checked, drafted, accepted })
    }

    /// Compares a sampled token with the draft. Returns the outcome if it decides the draft.
    fn sampled(&mut self, token: u32) -> Option<Outcome> {
        let expected = *self.draft.get(self.n_matched)?;
        let drafted = self.draft.len();
        if expected != token {
            return self.end(drafted);
        }
        self.n_matched += 1;
        if self.n_matched == drafted { self.end(drafted) } else { None }
    }
}

/// Drafts by [`Copies`] or by [`Recycling`], whichever promises more tokens a second, of the length that promises most.
///
/// Acceptance is measured by comparing drafts with the tokens that are sampled, also while none are returned because
/// they do not pay. So that costs no pass.
#[derive(Debug)]
pub struct DraftChain {
    copies: Copies,
    recycling: Recycling,
    controls: [DraftControl; N_CLASSES],
    /// Of copies, and of recycled tokens.
    trials: [Trial; 2],
    counts: [DraftCounts; 2],
    /// Drafts of both, for the next pass.
    drafts: [Vec<u32>; 2],
}

impl DraftChain {
    /// Creates drafters that know nothing. [`Copies`] knows at most the last `max_tokens` of the text.
    pub fn new(max_tokens: usize) -> Self {
        Self {
            copies: Copies::new(max_tokens),
            recycling: Recycling::new(),
            controls: Default::default(),
            trials: Default::default(),
            counts: Default::default(),
            drafts: Default::default(),
        }
    }

    /// Returns an upper bound of the memory of drafters with this `max_tokens`, as [`Copies::bytes_max`] does.
    pub fn bytes_max(max_tokens: usize) -> usize {
        Copies::bytes_max(max_tokens) + Recycling::BYTES
    }

    /// Appends tokens that were given, not sampled: a prompt.
    pub fn learn_prompt(&mut self, tokens: &[u32]) {
        self.drop_trials();
        self.learn(tokens);
    }

    /// Appends tokens that were sampled: those of a draft that were accepted, and the next one.
    pub fn learn_sampled(&mut self, tokens: &[u32]) {
        for idx in 0..self.trials.len() {
            // Stops at the outcome.
            if let Some(outcome) = tokens.iter().find_map(|&token| self.trials[idx].sampled(token)) {
                self.observe(idx, outcome);
            }
        }
        self.learn(tokens);
    }

    /// Learns the tokens of the largest logits after `token`; see [`Recycling::learn_logits`].
    pub fn learn_logits(&mut self, token: u32, top: &[u32]) {
        self.recycling.learn_logits(token, top);
    }

    /// Continues after the tokens `kept`; see [`Drafter::rewind`].
    pub fn rewind(&mut self, kept: &[u32]) {
        self.drop_trials();
        self.copies.rewind(kept);
        self.recycling.rewind(kept);
    }

    /// Appends a draft of at most `room` tokens to `out`, and returns its drafter; none if no draft pays. `time` is the
    /// time of the pass that would check it.
    pub fn propose(&mut self, time: &PassTime<'_>, room: usize, out: &mut Vec<u32>) -> Option<DraftSource> {
        let classes = [self.copy_class(), Some(RECYCLING_CLASS)];
        self.drafts.iter_mut().for_each(Vec::clear);
        self.copies.propose(DRAFT_MAX, &mut self.drafts[0]);
        self.recycling.propose(DRAFT_MAX, &mut self.drafts[1]);
        let mut best: Option<(usize, DraftLength)> = None;
        for (idx, class) in classes.into_iter().enumerate() {
            let Some(class) = class.filter(|_| !self.drafts[idx].is_empty()) else { continue };
            let length = self.controls[class].length(time, room.min(self.drafts[idx].len()));
            if length.n_tokens > 0 && best.is_none_or(|(_, best)| length.gain > best.gain) {
                best = Some((idx, length));
            }
        }
        let chosen = best.map(|(idx, _)| idx);
        for (idx, class) in classes.into_iter().enumerate() {
            let Some(class) = class.filter(|_| !self.drafts[idx].is_empty()) else { continue };
            let draft = match best {
                Some((chosen, length)) if chosen == idx => &self.drafts[idx][..length.n_tokens],
                _ if self.trials[idx].is_running() => continue,
                _ => &self.drafts[idx][..self.drafts[idx].len().min(UNCHECKED_TOKENS)],
            };
            if let Some(outcome) = self.trials[idx].start(draft, class, chosen == Some(idx)) {
                self.observe(idx, outcome);
            }
        }
        let (idx, length) = best?;
        out.extend_from_slice(&self.drafts[idx][..length.n_tokens]);
        Some(if idx == 0 { DraftSource::Copies } else { DraftSource::Recycling })
    }

    /// Returns the counts of the drafts of a drafter.
    pub fn counts(&self, source: DraftSource) -> DraftCounts {
        match source {
            DraftSource::Copies => self.counts[0],
            DraftSource::Recycling => self.counts[1],
        }
    }

    /// Returns the memory in bytes.
    pub fn bytes(&self) -> usize {
        self.copies.bytes() + self.recycling.bytes()
    }

    fn learn(&mut self, tokens: &[u32]) {
        self.copies.learn(tokens);
        self.recycling.learn(tokens);
    }

    fn copy_class(&self) -> Option<usize> {
        let match_tokens = self.copies.match_tokens();
        COPY_CLASSES.iter().rposition(|least| match_tokens >= *least)
    }

    fn observe(&mut self, idx: usize, Outcome { class, is_checked, drafted, accepted }: Outcome) {
        if !is_checked {
            self.controls[class].observe_unchecked(drafted, accepted);
            return;
        }
        self.controls[class].observe(drafted, accepted);
        let counts = &mut self.counts[idx];
        counts.drafts += 1;
        counts.drafted += drafted as u64;
        counts.accepted += accepted as u64;
    }

    fn drop_trials(&mut self) {
        self.trials.iter_mut().for_each(|trial| trial.draft.clear());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flash_sched::{PassCost, PassEstimate};
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 64;

    /// Returns the cost of passes whose compute takes `pass_ms` and `row_ms` for each row.
    fn cost(pass_ms: u64, row_ms: u64) -> PassCost {
        let mut cost = PassCost::default();
        for n_rows in [128, 1] {
            cost.observe(n_rows, Duration::from_millis(pass_ms + row_ms * n_rows as u64));
        }
        cost
    }

    /// Passes that sample `text`, with their drafts.
    struct Passes<'a> {
        chain: &'a mut DraftChain,
        cost: PassCost,
        reading: Duration,
    }

    impl Passes<'_> {
        /// Samples a text, and returns the number of passes and their seconds.
        fn sample(&mut self, text: &[u32]) -> (usize, f64) {
            let (mut n_passes, mut seconds, mut rest) = (0, 0.0, text);
            while !rest.is_empty() {
                let estimate = PassEstimate::of_reading(self.cost.clone(), self.reading);
                let time = PassTime { estimate: &estimate, n_rows: 1 };
                let mut draft = Vec::new();
                self.chain.propose(&time, ROOM, &mut draft);
                let accepted = draft.iter().zip(rest).take_while(|(drafted, token)| drafted == token).count();
                let (sampled, left) = rest.split_at((accepted + 1).min(rest.len()));
                self.chain.learn_sampled(sampled);
                seconds += self.cost.of(1 + draft.len()).unwrap().max(self.reading).as_secs_f64();
                (n_passes, rest) = (n_passes + 1, left);
            }
            (n_passes, seconds)
        }
    }

    /// Returns text without repetition beyond chance.
    fn prose(random: &mut fastrand::Rng, n: usize) -> Vec<u32> {
        (0..n).map(|_| random.u32(0..20_000)).collect()
    }

    /// Returns a copy with a new token in the place of every 40th.
    fn edited(text: &[u32], random: &mut fastrand::Rng) -> Vec<u32> {
        let edit = |(at, &token): (usize, &u32)| if at % 40 == 39 { random.u32(20_000..) } else { token };
        text.iter().enumerate().map(edit).collect()
    }

    #[test]
    fn an_edited_copy_takes_a_fraction_of_the_passes() {
        let mut random = fastrand::Rng::with_seed(1);
        let original = prose(&mut random, 800);
        let copy = edited(&original, &mut random);
        let mut chain = DraftChain::new(10_000);
        chain.learn_prompt(&original);
        let reading = Duration::from_millis(500);
        let mut passes = Passes { chain: &mut chain, cost: cost(100, 20), reading };
        let (n_passes, _) = passes.sample(&copy);
        assert!(n_passes * 6 < copy.len(), "{n_passes}");
        let counts = chain.counts(DraftSource::Copies);
        assert!(counts.drafts as usize <= n_passes && counts.accepted <= counts.drafted);
        // Each pass samples one token itself, and the last draft may not be decided.
        let accepted = counts.accepted + chain.counts(DraftSource::Recycling).accepted;
        assert!(n_passes + accepted as usize <= copy.len());
        assert!(n_passes + accepted as usize + ROOM > copy.len());
    }

    #[test]
    fn successors_are_drafted_where_nothing_is_copied() {
        let mut random = fastrand::Rng::with_seed(2);
        // Each token has one successor of four, so matches of three tokens are rare, and a half of the time it is the
        // last one.
        let mut text = vec![1];
        for _ in 0..3000 {
            let last = text[text.len() - 1];
            let branch = if random.bool() { 0 } else { random.u32(0..4) };
            text.push((last * 31 + branch * 17 + 7) % 5000);
        }
        let mut chain = DraftChain::new(10_000);
        chain.learn_prompt(&text[..2000]);
        for token in 0..5000 {
            chain.learn_logits(token, &[(token * 31 + 7) % 5000, (token * 31 + 24) % 5000]);
        }
        let reading = Duration::from_millis(500);
        let (n_passes, _) = Passes { chain: &mut chain, cost: cost(100, 20), reading }.sample(&text[2000..]);
        assert!(chain.counts(DraftSource::Recycling).accepted > 100, "{chain:?}");
        assert!(n_passes < 800, "{n_passes}");
    }

    #[test]
    fn drafts_cost_nothing_where_they_cannot_pay() {
        let mut random = fastrand::Rng::with_seed(3);
        let original = prose(&mut random, 800);
        let mut chain = DraftChain::new(10_000);
        chain.learn_prompt(&original);
        let mut passes = Passes { chain: &mut chain, cost: cost(0, 50), reading: Duration::ZERO };
        let (n_passes, _) = passes.sample(&edited(&original, &mut random));
        assert_eq!(n_passes, 800);
        assert_eq!(chain.counts(DraftSource::Copies), DraftCounts::default());
    }

    #[test]
    fn text_that_cannot_be_guessed_costs_less_than_two_percent_and_a_copy_after_it_is_found_at_once() {
        let mut random = fastrand::Rng::with_seed(4);
        // Successors repeat by chance: few different tokens.
        let text: Vec<u32> = (0..2000).map(|_| random.u32(0..60)).collect();
        let mut chain = DraftChain::new(10_000);
        let mut passes = Passes { chain: &mut chain, cost: cost(60, 20), reading: Duration::ZERO };
        let alone_s = passes.cost.of(1).unwrap().as_secs_f64();
        let (_, seconds) = passes.sample(&text);
        assert!(seconds < 1.02 * alone_s * text.len() as f64, "{}", seconds / alone_s);
        let (n_passes, seconds) = passes.sample(&text[500..900]);
        assert!(seconds < 0.6 * alone_s * 400.0 && n_passes < 100, "{n_passes}, {}", seconds / alone_s);
    }

    #[test]
    fn outcomes_end_where_a_prompt_or_a_place_taken_back_follows() {
        let text: Vec<u32> = (0..100).collect();
        let mut chain = DraftChain::new(10_000);
        chain.learn_prompt(&[&text[..], &text[..10]].concat());
        let cost = cost(100, 20);
        let estimate = PassEstimate::of_reading(cost.clone(), Duration::from_secs(2));
        let time = PassTime { estimate: &estimate, n_rows: 1 };
        let mut draft = Vec::new();
        assert_eq!(chain.propose(&time, 5, &mut draft), Some(DraftSource::Copies));
        assert_eq!(draft, [10, 11, 12, 13, 14]);
        chain.learn_sampled(&[10, 11]);
        chain.learn_prompt(&[900, 901]);
        chain.rewind(&text[..10]);
        assert_eq!(chain.counts(DraftSource::Copies), DraftCounts::default());
        draft.clear();
        chain.propose(&time, 5, &mut draft);
        chain.learn_sampled(&[10, 11, 99]);
        let expected = DraftCounts { drafts: 1, drafted: draft.len() as u64, accepted: 2 };
        assert_eq!(chain.counts(DraftSource::Copies), expected);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Prompt(Vec<u32>),
        Sampled(Vec<u32>),
        Logits(u32, Vec<u32>),
        Rewind(usize),
        Propose(usize, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let tokens = || prop::collection::vec(prop_oneof![9 => 0_u32..5, 1 => any::<u32>()], 0..30);
        let step = prop_oneof![
            1 => tokens().prop_map(Step::Prompt),
            3 => tokens().prop_map(Step::Sampled),
            1 => (0_u32..5, tokens()).prop_map(|(token, top)| Step::Logits(token, top)),
            1 => (0_usize..60).prop_map(Step::Rewind),
            4 => (0_usize..80, 0_u64..2000).prop_map(|(room, reading_ms)| Step::Propose(room, reading_ms)),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn any_calls_give_drafts_within_their_room_and_the_same_each_time(steps in steps()) {
            let [mut chain, mut again] = [(); 2].map(|()| DraftChain::new(200));
            let (mut sequence, cost) = (Vec::new(), cost(100, 20));
            for step in steps {
                for (idx, chain) in [&mut chain, &mut again].into_iter().enumerate() {
                    match &step {
                        Step::Prompt(tokens) => chain.learn_prompt(tokens),
                        Step::Sampled(tokens) => chain.learn_sampled(tokens),
                        Step::Logits(token, top) => chain.learn_logits(*token, top),
                        Step::Rewind(kept) => chain.rewind(&sequence[..sequence.len().min(*kept)]),
                        Step::Propose(..) => {}
                    }
                    if let (0, Step::Prompt(tokens) | Step::Sampled(tokens)) = (idx, &step) {
                        sequence.extend_from_slice(tokens);
                    }
                }
                match step {
                    Step::Rewind(kept) => sequence.truncate(kept),
                    Step::Propose(room, reading_ms) => {
                        let reading = Duration::from_millis(reading_ms);
                        let estimate = PassEstimate::of_reading(cost.clone(), reading);
                        let time = PassTime { estimate: &estimate, n_rows: 1 };
                        let [mut draft, mut other] = [vec![7], vec![7]];
                        let source = chain.propose(&time, room, &mut draft);
                        prop_assert_eq!(source, again.propose(&time, room, &mut other));
                        prop_assert!(draft.len() <= 1 + room && draft[0] == 7);
                        prop_assert_eq!(source.is_some(), draft.len() > 1);
                        prop_assert_eq!(draft, other);
                    }
                    _ => {}
                }
            }
            prop_assert!(chain.bytes() <= DraftChain::bytes_max(200));
            for source in [DraftSource::Copies, DraftSource::Recycling] {
                let counts = chain.counts(source);
                prop_assert!(counts.accepted <= counts.drafted);
            }
        }
    }
}
