//! Speculation: how many guessed tokens (a *draft*) the next pass checks.
//!
//! A pass that checks a draft of `k` tokens emits the accepted ones and one more. Whether the rows of the draft pay
//! depends on how many are accepted, which [`Acceptance`] estimates by position, and on the time of a pass, which is
//! that of its reads or of its compute ([`PassTime`]). [`DraftControl`] chooses the length with the most tokens a
//! second.
//!
//! ```
//! use std::time::Duration;
//!
//! use flash_sched::{DraftControl, PassCost, PassEstimate, PassTime};
//!
//! // A pass computes for 10 ms a row, and reads for 50 ms.
//! let mut cost = PassCost::default();
//! [1, 4].map(|n_rows| cost.observe(n_rows, Duration::from_millis(10) * n_rows as u32));
//! let estimate = PassEstimate::of_reading(cost, Duration::from_millis(50));
//! let time = PassTime { estimate: &estimate, n_rows: 1 };
//! let mut control = DraftControl::default();
//! for _ in 0..50 {
//!     let drafted = control.length(&time, 64).n_tokens;
//!     control.observe(drafted, drafted.min(2));
//! }
//! // Of any draft two tokens are accepted. They cost nothing, and more would not either, but bring nothing.
//! assert!((2..=4).contains(&control.length(&time, 64).n_tokens));
//! ```

use crate::rows::PassEstimate;

/// Positions of a draft whose acceptance is estimated; later ones are like the last. Long enough for copies of code.
const N_POSITIONS: usize = 64;
/// Weight of an observation relative to the next one: an estimate covers about 25 drafts, so that it follows a text
/// from prose to a copy within a paragraph.
const FORGET: f64 = 0.96;
/// Acceptance of a first token before any observation: with it, drafts start where rows cost less than half a pass.
const FIRST_PRIOR: f64 = 0.5;
/// Number of observations that the prior of the first token counts as.
const FIRST_PRIOR_WEIGHT: f64 = 2.0;
/// Number of observations that the estimate of a position counts as for the next one. Acceptance varies little from one
/// position to the next, and late positions are seldom reached.
const NEXT_PRIOR_WEIGHT: f64 = 8.0;
/// Minimum ratio of tokens a second with a draft to those without, above the noise of both.
const GAIN_MIN: f64 = 1.01;
/// Passes without a draft until the first probe. It doubles with each probe that changes nothing.
const PROBE_INTERVAL_MIN: u32 = 32;
/// Most passes between probes.
const PROBE_INTERVAL_MAX: u32 = 512;
/// Length of a probe: enough to learn acceptance, as the first token decides whether a draft pays.
const PROBE_TOKENS: usize = 1;
/// Length of a probe while the cost of a row is unknown; [`PassCost`] does not learn it from fewer rows.
const COST_PROBE_TOKENS: usize = 3;
/// Accepted tokens above the expected number from which a probe is repeated at once, since the text seems to have
/// changed.
const SURPRISE: f64 = 0.3;

/// Observations at one position.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    checked: f64,
    accepted: f64,
}

/// Acceptance of drafts by position, from recent drafts: the probability that a token is accepted if all before it are.
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    positions: Vec<Position>,
}

impl Acceptance {
    /// Adds a draft of `drafted` tokens of which the first `accepted` were accepted. More accepted than drafted count
    /// as all.
    pub fn observe(&mut self, drafted: usize, accepted: usize) {
        // The token after the accepted ones was checked and rejected; those after it were not checked.
        let checked = drafted.min(accepted.saturating_add(1)).min(N_POSITIONS);
        if self.positions.len() < checked {
            self.positions.resize(checked, Position::default());
        }
        for (idx, position) in self.positions[..checked].iter_mut().enumerate() {
            position.checked = FORGET * position.checked + 1.0;
            position.accepted = FORGET * position.accepted + f64::from(u8::from(idx < accepted));
        }
    }

    /// Returns the probability that each position is accepted if all before it are, from the first on, without end.
    /// Positions with few observations are assumed to be like those before them.
    pub fn by_position(&self) -> impl Iterator<Item = f64> {
        let (mut prior, mut weight) = (FIRST_PRIOR, FIRST_PRIOR_WEIGHT);
        let observed = self.positions.iter().copied().chain(std::iter::repeat(Position::default()));
        observed.map(move |Position { checked, accepted }| {
            prior = (accepted + weight * prior) / (checked + weight);
            weight = NEXT_PRIOR_WEIGHT;
            prior
        })
    }

    /// Returns the expected number of accepted tokens of drafts of 1, 2, … tokens.
    fn expected_by_length(&self) -> impl Iterator<Item = f64> {
        let (mut all, mut sum) = (1.0, 0.0);
        self.by_position().map(move |p| {
            all *= p;
            sum += all;
            sum
        })
    }

    /// Returns the expected number of accepted tokens of a draft of `n_tokens`.
    pub fn expected(&self, n_tokens: usize) -> f64 {
        n_tokens.checked_sub(1).and_then(|before| self.expected_by_length().nth(before)).unwrap_or(0.0)
    }
}

/// The time of a pass by its rows.
#[derive(Debug, Clone, Copy)]
pub struct PassTime<'a> {
    /// Time by rows.
    pub estimate: &'a PassEstimate,
    /// Rows without the draft, at least one.
    pub n_rows: usize,
}

impl PassTime<'_> {
    /// Returns the seconds of a pass with a draft; none before the first pass was observed.
    fn with_draft_s(&self, n_tokens: usize) -> Option<f64> {
        Some(self.estimate.time(self.n_rows.max(1) + n_tokens)?.as_secs_f64())
    }
}

/// The length of a draft, and its expected gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DraftLength {
    /// Tokens of the draft.
    pub n_tokens: usize,
    /// Expected tokens a second relative to a pass without a draft; 1 for a draft of no tokens.
    pub gain: f64,
}

impl DraftLength {
    const NONE: Self = Self { n_tokens: 0, gain: 1.0 };

    /// Returns the shortest draft of at most `room` tokens with the most expected tokens a second. `expected` are the
    /// expected accepted tokens of drafts of 1, 2, … tokens.
    fn best(expected: impl Iterator<Item = f64>, time: &PassTime<'_>, room: usize) -> Self {
        let Some(alone_s) = time.with_draft_s(0) else { return Self::NONE };
        let mut best = Self { gain: GAIN_MIN, ..Self::NONE };
        for (n_tokens, expected) in (1..=room).zip(expected) {
            let Some(pass_s) = time.with_draft_s(n_tokens) else { break };
            // Without a measurable time, rows cost nothing.
            let slowdown = if alone_s > 0.0 { pass_s / alone_s } else { 1.0 };
            let gain = (1.0 + expected) / slowdown;
            if gain > best.gain {
                best = Self { n_tokens, gain };
            }
        }
        if best.n_tokens == 0 { Self::NONE } else { best }
    }
}

/// Chooses the lengths of one drafter's drafts, and turns drafting off where it does not pay.
///
/// While it is off, a short draft now and then (a *probe*) measures acceptance and the cost of rows again. Probes that
/// change nothing become rarer. There are none if even drafts without a wrong token would not pay, nor while acceptance
/// is known from drafts that were not checked ([`observe_unchecked`](Self::observe_unchecked)).
#[derive(Debug, Clone)]
pub struct DraftControl {
    acceptance: Acceptance,
    /// Passes without a draft until the next probe.
    until_probe: u32,
    probe_interval: u32,
    /// Whether there was an outcome of an unchecked draft since the last probe.
    has_unchecked: bool,
}

impl Default for DraftControl {
    fn default() -> Self {
        Self {
            acceptance: Acceptance::default(),
            until_probe: PROBE_INTERVAL_MIN,
            probe_interval: PROBE_INTERVAL_MIN,
            has_unchecked: false,
        }
    }
}

impl DraftControl {
    /// Adds the outcome of a draft that a pass checked; see [`Acceptance::observe`].
    pub fn observe(&mut self, drafted: usize, accepted: usize) {
        if accepted as f64 - self.acceptance.expected(drafted) > SURPRISE {
            self.until_probe = 1;
        }
        self.acceptance.observe(drafted, accepted);
    }

    /// Adds the outcome of a draft that no pass checked: the tokens that it begins with were sampled later. Where
    /// drafts cost nothing to make, acceptance is known without probes.
    pub fn observe_unchecked(&mut self, drafted: usize, accepted: usize) {
        self.has_unchecked = true;
        self.acceptance.observe(drafted, accepted);
    }

    /// Returns the measured acceptance.
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// Returns the best length for the next pass, without probes.
    pub fn best(&self, time: &PassTime<'_>, room: usize) -> DraftLength {
        DraftLength::best(self.acceptance.expected_by_length(), time, room)
    }

    /// Returns the length of the draft of the next pass, at most `room`; that of a probe has a gain of 1. Call it once
    /// for each pass that could have a draft of this drafter.
    pub fn length(&mut self, time: &PassTime<'_>, room: usize) -> DraftLength {
        let best = self.best(time, room);
        if best.n_tokens > 0 {
            (self.until_probe, self.probe_interval) = (PROBE_INTERVAL_MIN, PROBE_INTERVAL_MIN);
            return best;
        }
        self.until_probe = self.until_probe.saturating_sub(1);
        if self.until_probe > 0 || room == 0 {
            return best;
        }
        self.probe_interval = (2 * self.probe_interval).min(PROBE_INTERVAL_MAX);
        self.until_probe = self.probe_interval;
        let has_unchecked = std::mem::take(&mut self.has_unchecked);
        let n_tokens = if !time.estimate.cost.has_row_cost() {
            COST_PROBE_TOKENS.min(room)
        } else {
            let all_accepted = (1..).map(f64::from);
            let could_pay = DraftLength::best(all_accepted, time, room).n_tokens > 0;
            if could_pay && !has_unchecked { PROBE_TOKENS } else { 0 }
        };
        DraftLength { n_tokens, ..best }
    }
}
