//! What it is worth to hold an expert: how often it will be used, as far as the past tells.

use super::Policy;

/// What an exchange costs, in reads: the next one goes into memory that no cache holds, and is computed with from there
/// (docs/performance.md).
const EXCHANGE_READS: f64 = 1.0 / 3.0;
/// Tokens in which that has to come back.
const PAID_BACK_TOKENS: f64 = 32.0;

/// How far memories are trusted before anything has come true: the long one is right.
const FIRST_TRUST: [f64; 2] = [0.0, 1.0];
/// How much evidence that outweighs, in uses a token, squared: what about ten tokens of even routing over 128 experts have
/// in the short memory.
const FIRST_EVIDENCE: f64 = 1.0;

/// Fewer uses are none: numbers as small as that are slow to compute with.
const FORGOTTEN: f64 = 1e-12;

/// A pass of tokens through a layer: the experts that it uses, and each for how many of the tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uses<'a> {
    pub n_tokens: usize,
    pub by_expert: &'a [(usize, usize)],
}

/// What is known of the experts of a layer.
#[derive(Debug)]
pub(super) enum Worth {
    Lru { now: f64, last: Vec<f64> },
    Lfu(Memory),
    TwoMemories { memories: [Memory; 2], trust: Trust },
}

impl Worth {
    pub(super) fn new(policy: Policy, n_experts: usize) -> Self {
        match policy {
            Policy::Lru => Self::Lru { now: 0.0, last: vec![0.0; n_experts] },
            Policy::Lfu { half_life } => Self::Lfu(Memory::new(half_life, n_experts)),
            Policy::TwoMemories { short, long } => Self::TwoMemories {
                memories: [short, long].map(|half_life| Memory::new(half_life, n_experts)),
                trust: Trust::new(long),
            },
        }
    }

    pub(super) fn observe(&mut self, uses: Uses<'_>) {
        match self {
            Self::Lru { now, last } => {
                *now += 1.0;
                uses.by_expert.iter().for_each(|(expert_idx, _)| last[*expert_idx] = *now);
            }
            Self::Lfu(memory) => memory.observe(uses),
            Self::TwoMemories { memories, trust } => {
                trust.observe(memories, uses);
                memories.iter_mut().for_each(|memory| memory.observe(uses));
            }
        }
    }

    /// Who is worth more is better held.
    pub(super) fn of(&self, expert_idx: usize) -> f64 {
        match self {
            Self::Lru { last, .. } => last[expert_idx],
            Self::Lfu(memory) => memory.rate(expert_idx),
            // The part that all experts have in common is left out.
            Self::TwoMemories { memories: [short, long], trust } => {
                trust.weights[0] * short.rate(expert_idx) + trust.weights[1] * long.rate(expert_idx)
            }
        }
    }

    /// What an expert has to be worth more than one whose place it takes.
    pub(super) fn of_exchange(&self) -> f64 {
        match self {
            Self::Lru { .. } | Self::Lfu(_) => 0.0,
            Self::TwoMemories { .. } => EXCHANGE_READS / PAID_BACK_TOKENS,
        }
    }
}

/// How often experts were used, where what is long ago counts less.
#[derive(Debug)]
pub(super) struct Memory {
    /// What a token counts beside the one after it.
    decay: f64,
    n_tokens: f64,
    uses: Vec<f64>,
}

impl Memory {
    /// In which a token counts half after `half_life` others.
    fn new(half_life: f64, n_experts: usize) -> Self {
        Self { decay: (-1.0 / half_life).exp2(), n_tokens: 0.0, uses: vec![0.0; n_experts] }
    }

    fn observe(&mut self, Uses { n_tokens, by_expert }: Uses<'_>) {
        let decay = self.decay.powf(n_tokens as f64);
        self.n_tokens = self.n_tokens * decay + n_tokens as f64;
        self.uses.iter_mut().for_each(|uses| *uses = if *uses < FORGOTTEN { 0.0 } else { *uses * decay });
        by_expert.iter().for_each(|(expert_idx, n_uses)| self.uses[*expert_idx] += *n_uses as f64);
    }

    /// Uses a token.
    fn rate(&self, expert_idx: usize) -> f64 {
        self.uses[expert_idx] / self.n_tokens.max(1.0)
    }
}

/// How far what memories say comes true.
///
/// An expert's uses a token are estimated as the mean of all experts, and what each memory says beyond its own mean, times a
/// weight. The weights are those with which past estimates would have been best (least squares, in which what is long ago
/// counts less). Where tokens take all experts alike, memories hold nothing but chance, and both weights become 0; where
/// a text stays with its topic, the short memory's is about 1.
#[derive(Debug)]
pub(super) struct Trust {
    decay: f64,
    /// Squares of what the two memories said, and what they said times each other.
    said: [f64; 2],
    said_both: f64,
    /// What they said, times what came.
    came: [f64; 2],
    weights: [f64; 2],
}

impl Trust {
    /// In which a token counts half after `half_life` others.
    fn new(half_life: f64) -> Self {
        Self {
            decay: (-1.0 / half_life).exp2(),
            said: [FIRST_EVIDENCE; 2],
            said_both: 0.0,
            came: FIRST_TRUST.map(|trust| trust * FIRST_EVIDENCE),
            weights: FIRST_TRUST,
        }
    }

    /// Compares what memories say with what comes.
    fn observe(&mut self, memories: &[Memory; 2], Uses { n_tokens, by_expert }: Uses<'_>) {
        let [short, long] = memories;
        let n_experts = short.uses.len();
        if n_tokens == 0 || short.n_tokens == 0.0 {
            return;
        }
        let mean = |memory: &Memory| memory.uses.iter().sum::<f64>() / n_experts as f64 / memory.n_tokens;
        let (mean_short, mean_long) = (mean(short), mean(long));
        let says = |expert_idx| [short.rate(expert_idx) - mean_short, long.rate(expert_idx) - mean_long];
        let decay = self.decay.powf(n_tokens as f64);
        // What was trusted at first stays in both, and is not forgotten.
        let fade = |sum: f64, first: f64| first + (sum - first) * decay;
        for (memory, trust) in FIRST_TRUST.into_iter().enumerate() {
            self.said[memory] = fade(self.said[memory], FIRST_EVIDENCE);
            self.came[memory] = fade(self.came[memory], trust * FIRST_EVIDENCE);
        }
        self.said_both = fade(self.said_both, 0.0);
        for [of_short, of_long] in (0..n_experts).map(says) {
            self.said[0] += of_short * of_short;
            self.said[1] += of_long * of_long;
            self.said_both += of_short * of_long;
        }
        for (expert_idx, n_uses) in by_expert {
            let rate = *n_uses as f64 / n_tokens as f64;
            let [of_short, of_long] = says(*expert_idx);
            self.came[0] += of_short * rate;
            self.came[1] += of_long * rate;
        }
        let ([ss, ll], sl, [cs, cl]) = (self.said, self.said_both, self.came);
        // Above 0: each of the squares has FIRST_EVIDENCE more than its part of the product.
        let determinant = ss * ll - sl * sl;
        self.weights = [(cs * ll - cl * sl) / determinant, (cl * ss - cs * sl) / determinant];
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::{Routing, Taste};
    use super::*;

    /// The trust in the short and the long memory behind so many tokens.
    fn trust(taste: Taste, n_tokens: usize) -> [f64; 2] {
        let routing = Routing::made_up(taste, 128, 8, n_tokens, 5);
        let mut worth = Worth::new(Policy::default(), 128);
        for used in routing.tokens() {
            let by_expert: Vec<(usize, usize)> = used.iter().map(|expert_idx| (*expert_idx, 1)).collect();
            worth.observe(Uses { n_tokens: 1, by_expert: &by_expert });
        }
        let Worth::TwoMemories { trust, .. } = worth else { unreachable!("it is the default") };
        trust.weights
    }

    #[test]
    fn memories_are_trusted_as_far_as_they_come_true() {
        let [short, long] = trust(Taste::Uniform, 4000);
        assert!(short.abs() < 0.2 && long.abs() < 0.5, "even routing: {short}, {long}");
        let [short, long] = trust(Taste::Zipf(1.0), 4000);
        assert!(short.abs() < 0.2 && (long - 1.0).abs() < 0.2, "one taste: {short}, {long}");
        let [short, long] = trust(Taste::Topics { exponent: 1.2, n_tokens: 200 }, 4000);
        assert!((short - 1.0).abs() < 0.2 && long < 0.2, "topics: {short}, {long}");
    }

    #[test]
    fn a_pass_of_many_tokens_counts_as_they_would_one_by_one() {
        let mut together = Memory::new(24.0, 4);
        together.observe(Uses { n_tokens: 3, by_expert: &[(1, 3), (2, 1)] });
        together.observe(Uses { n_tokens: 0, by_expert: &[] });
        assert!((together.rate(1) - 1.0).abs() < 1e-12);
        assert!((together.rate(2) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(together.rate(0), 0.0);
    }

    #[test]
    fn what_is_forgotten_is_exactly_nothing() {
        let mut memory = Memory::new(1.0, 2);
        memory.observe(Uses { n_tokens: 1, by_expert: &[(0, 1)] });
        memory.observe(Uses { n_tokens: 45, by_expert: &[] });
        memory.observe(Uses { n_tokens: 1, by_expert: &[] });
        assert_eq!(memory.rate(0), 0.0);
    }
}
