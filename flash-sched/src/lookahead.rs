//! Decides whether *lookahead*, reading experts that are predicted for the next layer, pays off.
//!
//! Only measured token times tell: predicted reads fill gaps between demand reads, but also delay them. Trials
//! alternate turns of 5 tokens with and without lookahead, 4 turns of each; the faster setting stays for 256 tokens.

use std::time::Duration;

/// Tokens per turn. The first one is not counted, because reads of the previous turn may still be in progress.
const TURN_TOKENS: usize = 5;
/// Turns with lookahead in a trial, and as many without.
const TRIAL_TURNS: usize = 4;
/// Tokens between trials.
const RUN_TOKENS: usize = 256;
/// Minimum relative gain for which lookahead stays on: smaller differences are noise.
const GAIN_MIN: f64 = 0.01;

/// An A/B test that switches lookahead on or off, token by token.
#[derive(Debug, Clone, Default)]
pub struct LookaheadTrial {
    phase: Phase,
    /// Token times of the current trial in seconds, with and without lookahead.
    with_s: Vec<f64>,
    without_s: Vec<f64>,
    gain: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A trial is running; its first turn is with lookahead.
    Trial { n_tokens: usize },
    /// The result of the last trial applies.
    Run { guesses: bool, left_tokens: usize },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Trial { n_tokens: 0 }
    }
}

impl LookaheadTrial {
    /// Returns whether lookahead is on for the next token.
    pub fn guesses(&self) -> bool {
        match self.phase {
            Phase::Trial { n_tokens } => (n_tokens / TURN_TOKENS).is_multiple_of(2),
            Phase::Run { guesses, .. } => guesses,
        }
    }

    /// Returns the fraction of a token's time that lookahead saved in the last trial, negative if it cost time; `None`
    /// before the first trial has ended.
    pub fn gain(&self) -> Option<f64> {
        self.gain
    }

    /// Records the time of a token.
    pub fn observe(&mut self, token: Duration) {
        let guesses = self.guesses();
        self.phase = match self.phase {
            Phase::Run { left_tokens: 0 | 1, .. } => Phase::default(),
            Phase::Run { left_tokens, .. } => Phase::Run { guesses, left_tokens: left_tokens - 1 },
            Phase::Trial { n_tokens } => {
                if !n_tokens.is_multiple_of(TURN_TOKENS) {
                    let samples = if guesses { &mut self.with_s } else { &mut self.without_s };
                    samples.push(token.as_secs_f64());
                }
                let n_tokens = n_tokens + 1;
                if n_tokens < 2 * TRIAL_TURNS * TURN_TOKENS {
                    Phase::Trial { n_tokens }
                } else {
                    self.decide()
                }
            }
        };
    }

    fn decide(&mut self) -> Phase {
        let [with_s, without_s] = [&mut self.with_s, &mut self.without_s].map(|samples| {
            samples.sort_by(f64::total_cmp);
            let median = samples[samples.len() / 2];
            samples.clear();
            median
        });
        let gain = if without_s > 0.0 { 1.0 - with_s / without_s } else { 0.0 };
        self.gain = Some(gain);
        Phase::Run { guesses: gain >= GAIN_MIN, left_tokens: RUN_TOKENS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL_TOKENS: usize = 2 * TRIAL_TURNS * TURN_TOKENS;

    /// Runs tokens that take `with_ms` with lookahead and `without_ms` without; returns how many had lookahead.
    fn pass(lookahead: &mut LookaheadTrial, n_tokens: usize, with_ms: u64, without_ms: u64) -> usize {
        let mut n_guesses = 0;
        for token in 0..n_tokens {
            let guesses = lookahead.guesses();
            n_guesses += usize::from(guesses);
            // Every seventh token is slow, as if another program interfered.
            let noise = if token % 7 == 3 { 3 } else { 1 };
            lookahead.observe(Duration::from_millis(noise * if guesses { with_ms } else { without_ms }));
        }
        n_guesses
    }

    #[test]
    fn lookahead_stays_on_where_it_pays() {
        let mut lookahead = LookaheadTrial::default();
        assert_eq!(pass(&mut lookahead, TRIAL_TOKENS, 90, 100), TRIAL_TOKENS / 2);
        assert!((lookahead.gain().unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(pass(&mut lookahead, RUN_TOKENS, 90, 100), RUN_TOKENS);
    }

    #[test]
    fn lookahead_is_switched_off_where_it_costs_or_does_nothing() {
        for with_ms in [110, 100] {
            let mut lookahead = LookaheadTrial::default();
            pass(&mut lookahead, TRIAL_TOKENS, with_ms, 100);
            assert_eq!(pass(&mut lookahead, RUN_TOKENS, with_ms, 100), 0);
        }
    }

    #[test]
    fn trials_are_repeated() {
        let mut lookahead = LookaheadTrial::default();
        pass(&mut lookahead, TRIAL_TOKENS + RUN_TOKENS, 110, 100);
        assert_eq!(pass(&mut lookahead, TRIAL_TOKENS, 80, 100), TRIAL_TOKENS / 2);
        assert_eq!(pass(&mut lookahead, RUN_TOKENS, 80, 100), RUN_TOKENS);
    }

    #[test]
    fn tokens_of_zero_time_are_no_gain() {
        let mut lookahead = LookaheadTrial::default();
        pass(&mut lookahead, TRIAL_TOKENS, 0, 0);
        assert_eq!(lookahead.gain(), Some(0.0));
    }
}
