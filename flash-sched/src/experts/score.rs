//! Scores of experts: predicted use, estimated from past uses.

use super::Policy;

/// Cost of replacing an expert, in reads: the next expert goes into memory outside any cache, and is computed from
/// there (docs/performance.md).
const EXCHANGE_READS: f64 = 1.0 / 3.0;
/// Tokens within which an exchange must pay off.
const PAID_BACK_TOKENS: f64 = 32.0;

/// Initial weights of the short- and the long-term frequency: only the long-term one counts.
const FIRST_WEIGHTS: [f64; 2] = [0.0, 1.0];
/// Strength of the initial weights, in squared uses per token: about that of ten tokens of uniform routing over 128
/// experts in the short-term frequency.
const FIRST_EVIDENCE: f64 = 1.0;

/// Counts below this become 0, because arithmetic on subnormal numbers is slow.
const NEGLIGIBLE_USES: f64 = 1e-12;

/// A pass of tokens through a layer: the experts used, each with its number of tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassUses<'a> {
    pub n_tokens: usize,
    pub by_expert: &'a [(usize, usize)],
}

/// Scores of the experts of a layer under a policy.
#[derive(Debug)]
pub(super) enum Scores {
    Lru { now: f64, last: Vec<f64> },
    Lfu(DecayedFrequency),
    BlendedLfu { frequencies: [DecayedFrequency; 2], fit: BlendFit },
}

impl Scores {
    pub(super) fn new(policy: Policy, n_experts: usize) -> Self {
        match policy {
            Policy::Lru => Self::Lru { now: 0.0, last: vec![0.0; n_experts] },
            Policy::Lfu { half_life } => Self::Lfu(DecayedFrequency::new(half_life, n_experts)),
            Policy::BlendedLfu { short, long } => Self::BlendedLfu {
                frequencies: [short, long].map(|half_life| DecayedFrequency::new(half_life, n_experts)),
                fit: BlendFit::new(long),
            },
        }
    }

    pub(super) fn observe(&mut self, uses: PassUses<'_>) {
        match self {
            Self::Lru { now, last } => {
                *now += 1.0;
                uses.by_expert.iter().for_each(|(expert_idx, _)| last[*expert_idx] = *now);
            }
            Self::Lfu(frequency) => frequency.observe(uses),
            Self::BlendedLfu { frequencies, fit } => {
                fit.observe(frequencies, uses);
                frequencies.iter_mut().for_each(|frequency| frequency.observe(uses));
            }
        }
    }

    /// Returns the score of an expert; higher is better to hold.
    pub(super) fn of(&self, expert_idx: usize) -> f64 {
        match self {
            Self::Lru { last, .. } => last[expert_idx],
            Self::Lfu(frequency) => frequency.rate(expert_idx),
            // The mean, common to all experts, is left out.
            Self::BlendedLfu { frequencies: [short, long], fit } => {
                fit.weights[0] * short.rate(expert_idx) + fit.weights[1] * long.rate(expert_idx)
            }
        }
    }

    /// Returns the margin by which a new expert's score must exceed that of the one it replaces.
    pub(super) fn exchange_cost(&self) -> f64 {
        match self {
            Self::Lru { .. } | Self::Lfu(_) => 0.0,
            Self::BlendedLfu { .. } => EXCHANGE_READS / PAID_BACK_TOKENS,
        }
    }
}

/// Exponentially decayed use frequency of experts.
#[derive(Debug)]
pub(super) struct DecayedFrequency {
    /// Decay factor per token.
    decay: f64,
    n_tokens: f64,
    uses: Vec<f64>,
}

impl DecayedFrequency {
    /// Creates an empty frequency with a half-life in tokens.
    fn new(half_life: f64, n_experts: usize) -> Self {
        Self { decay: (-1.0 / half_life).exp2(), n_tokens: 0.0, uses: vec![0.0; n_experts] }
    }

    fn observe(&mut self, PassUses { n_tokens, by_expert }: PassUses<'_>) {
        let decay = self.decay.powf(n_tokens as f64);
        self.n_tokens = self.n_tokens * decay + n_tokens as f64;
        self.uses
            .iter_mut()
            .for_each(|uses| *uses = if *uses < NEGLIGIBLE_USES { 0.0 } else { *uses * decay });
        by_expert.iter().for_each(|(expert_idx, n_uses)| self.uses[*expert_idx] += *n_uses as f64);
    }

    /// Returns the uses of an expert per token.
    fn rate(&self, expert_idx: usize) -> f64 {
        self.uses[expert_idx] / self.n_tokens.max(1.0)
    }
}

/// Blend weights of the two frequencies, fitted online to past predictions.
///
/// The predicted uses per token of an expert are the mean over all experts, plus each frequency's deviation from its
/// own mean times a weight. The weights are the least-squares fit of past predictions, with exponential decay. Under
/// uniform routing the frequencies are noise and both weights approach 0; within a topic, the short-term weight is
/// about 1.
#[derive(Debug)]
pub(super) struct BlendFit {
    decay: f64,
    /// Decayed sums of the squared deviations of both frequencies, and of their product.
    squares: [f64; 2],
    product: f64,
    /// Decayed sums of each deviation times the observed uses.
    correlations: [f64; 2],
    weights: [f64; 2],
}

impl BlendFit {
    /// Creates a fit at the initial weights, with a half-life in tokens.
    fn new(half_life: f64) -> Self {
        Self {
            decay: (-1.0 / half_life).exp2(),
            squares: [FIRST_EVIDENCE; 2],
            product: 0.0,
            correlations: FIRST_WEIGHTS.map(|weight| weight * FIRST_EVIDENCE),
            weights: FIRST_WEIGHTS,
        }
    }

    /// Updates the fit with the deviations before a pass and the uses in it.
    fn observe(
        &mut self,
        frequencies: &[DecayedFrequency; 2],
        PassUses { n_tokens, by_expert }: PassUses<'_>,
    ) {
        let [short, long] = frequencies;
        let n_experts = short.uses.len();
        if n_tokens == 0 || short.n_tokens == 0.0 {
            return;
        }
        let mean = |frequency: &DecayedFrequency| {
            frequency.uses.iter().sum::<f64>() / n_experts as f64 / frequency.n_tokens
        };
        let (mean_short, mean_long) = (mean(short), mean(long));
        let deviations =
            |expert_idx| [short.rate(expert_idx) - mean_short, long.rate(expert_idx) - mean_long];
        let decay = self.decay.powf(n_tokens as f64);
        // The prior does not decay.
        let fade = |sum: f64, first: f64| first + (sum - first) * decay;
        for (idx, weight) in FIRST_WEIGHTS.into_iter().enumerate() {
            self.squares[idx] = fade(self.squares[idx], FIRST_EVIDENCE);
            self.correlations[idx] = fade(self.correlations[idx], weight * FIRST_EVIDENCE);
        }
        self.product = fade(self.product, 0.0);
        for [short_deviation, long_deviation] in (0..n_experts).map(deviations) {
            self.squares[0] += short_deviation * short_deviation;
            self.squares[1] += long_deviation * long_deviation;
            self.product += short_deviation * long_deviation;
        }
        for (expert_idx, n_uses) in by_expert {
            let rate = *n_uses as f64 / n_tokens as f64;
            let [short_deviation, long_deviation] = deviations(*expert_idx);
            self.correlations[0] += short_deviation * rate;
            self.correlations[1] += long_deviation * rate;
        }
        let ([ss, ll], sl, [cs, cl]) = (self.squares, self.product, self.correlations);
        // Positive, because each square includes `FIRST_EVIDENCE` beyond its part of the product.
        let determinant = ss * ll - sl * sl;
        self.weights = [(cs * ll - cl * sl) / determinant, (cl * ss - cs * sl) / determinant];
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::{Routing, RoutingDistribution};
    use super::*;

    /// Returns the weights of the short- and the long-term frequency after `n_tokens` tokens.
    fn fit(distribution: RoutingDistribution, n_tokens: usize) -> [f64; 2] {
        let routing = Routing::synthetic(distribution, 128, 8, n_tokens, 5);
        let mut scores = Scores::new(Policy::default(), 128);
        for used in routing.tokens() {
            let by_expert: Vec<(usize, usize)> = used.iter().map(|expert_idx| (*expert_idx, 1)).collect();
            scores.observe(PassUses { n_tokens: 1, by_expert: &by_expert });
        }
        let Scores::BlendedLfu { fit, .. } = scores else { unreachable!("it is the default") };
        fit.weights
    }

    #[test]
    fn frequencies_are_weighted_by_how_well_they_predict() {
        let [short, long] = fit(RoutingDistribution::Uniform, 4000);
        assert!(short.abs() < 0.2 && long.abs() < 0.5, "even routing: {short}, {long}");
        let [short, long] = fit(RoutingDistribution::Zipf(1.0), 4000);
        assert!(short.abs() < 0.2 && (long - 1.0).abs() < 0.2, "one distribution: {short}, {long}");
        let [short, long] = fit(RoutingDistribution::Topics { exponent: 1.2, n_tokens: 200 }, 4000);
        assert!((short - 1.0).abs() < 0.2 && long < 0.2, "topics: {short}, {long}");
    }

    #[test]
    fn a_pass_of_many_tokens_counts_like_single_tokens() {
        let mut together = DecayedFrequency::new(24.0, 4);
        together.observe(PassUses { n_tokens: 3, by_expert: &[(1, 3), (2, 1)] });
        together.observe(PassUses { n_tokens: 0, by_expert: &[] });
        assert!((together.rate(1) - 1.0).abs() < 1e-12);
        assert!((together.rate(2) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(together.rate(0), 0.0);
    }

    #[test]
    fn negligible_uses_become_zero() {
        let mut frequency = DecayedFrequency::new(1.0, 2);
        frequency.observe(PassUses { n_tokens: 1, by_expert: &[(0, 1)] });
        frequency.observe(PassUses { n_tokens: 45, by_expert: &[] });
        frequency.observe(PassUses { n_tokens: 1, by_expert: &[] });
        assert_eq!(frequency.rate(0), 0.0);
    }
}
