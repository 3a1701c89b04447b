//! Whether it pays to read what is only guessed to be wanted.
//!
//! Nothing but the tokens' own time tells: guesses fill gaps between reads, and are in the way of others. So tokens with
//! guesses and tokens without take turns for a while, and who was faster stays, until the next trial.

use std::time::Duration;

/// Tokens of a turn. The first one is not counted: guesses of the turn before may still be read for it.
const TURN_TOKENS: usize = 5;
/// Turns of a trial with guesses, and as many without.
const TRIAL_TURNS: usize = 4;
/// Tokens from one trial to the next.
const RUN_TOKENS: usize = 256;
/// Guesses that save less than this part of a token do not pay: it is less than what trials can tell from noise.
const GAIN_MIN: f64 = 0.01;

/// Decides, token by token, whether guesses are read.
#[derive(Debug, Clone, Default)]
pub struct Lookahead {
    phase: Phase,
    /// Seconds of the tokens of a trial with guesses, and without.
    with_s: Vec<f64>,
    without_s: Vec<f64>,
    gain: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Tokens take turns, beginning with guesses.
    Trial { n_tokens: usize },
    /// What the trial said.
    Run { guesses: bool, left_tokens: usize },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Trial { n_tokens: 0 }
    }
}

impl Lookahead {
    /// Whether guesses are to be read while the next token passes.
    pub fn guesses(&self) -> bool {
        match self.phase {
            Phase::Trial { n_tokens } => (n_tokens / TURN_TOKENS).is_multiple_of(2),
            Phase::Run { guesses, .. } => guesses,
        }
    }

    /// What part of a token's time guesses saved in the last trial, or less than nothing; none before it has ended.
    pub fn gain(&self) -> Option<f64> {
        self.gain
    }

    /// A token has passed, in so much time.
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

    /// Passes tokens on a machine on which one takes so many milliseconds with guesses, and without; tells how many had
    /// guesses.
    fn pass(lookahead: &mut Lookahead, n_tokens: usize, with_ms: u64, without_ms: u64) -> usize {
        let mut n_guesses = 0;
        for token in 0..n_tokens {
            let guesses = lookahead.guesses();
            n_guesses += usize::from(guesses);
            // Now and then another program is in the way.
            let noise = if token % 7 == 3 { 3 } else { 1 };
            lookahead.observe(Duration::from_millis(noise * if guesses { with_ms } else { without_ms }));
        }
        n_guesses
    }

    #[test]
    fn guesses_stay_where_they_pay() {
        let mut lookahead = Lookahead::default();
        assert_eq!(pass(&mut lookahead, TRIAL_TOKENS, 90, 100), TRIAL_TOKENS / 2);
        assert!((lookahead.gain().unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(pass(&mut lookahead, RUN_TOKENS, 90, 100), RUN_TOKENS);
    }

    #[test]
    fn guesses_go_where_they_cost_or_do_nothing() {
        for with_ms in [110, 100] {
            let mut lookahead = Lookahead::default();
            pass(&mut lookahead, TRIAL_TOKENS, with_ms, 100);
            assert_eq!(pass(&mut lookahead, RUN_TOKENS, with_ms, 100), 0);
        }
    }

    #[test]
    fn a_machine_that_changes_is_tried_again() {
        let mut lookahead = Lookahead::default();
        pass(&mut lookahead, TRIAL_TOKENS + RUN_TOKENS, 110, 100);
        assert_eq!(pass(&mut lookahead, TRIAL_TOKENS, 80, 100), TRIAL_TOKENS / 2);
        assert_eq!(pass(&mut lookahead, RUN_TOKENS, 80, 100), RUN_TOKENS);
    }

    #[test]
    fn tokens_of_no_time_decide_nothing_wrong() {
        let mut lookahead = Lookahead::default();
        pass(&mut lookahead, TRIAL_TOKENS, 0, 0);
        assert_eq!(lookahead.gain(), Some(0.0));
    }
}
