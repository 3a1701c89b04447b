//! Routings of one layer: made up, and replayed.

use super::{ExpertCache, Policy};

/// The experts that each token takes of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    n_experts: usize,
    tokens: Vec<Vec<usize>>,
}

/// What tokens like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Taste {
    /// All experts alike: the worst case for a cache.
    Uniform,
    /// The expert of rank r is as popular as 1 / r to this power.
    Zipf(f64),
    /// Zipf, but every so many tokens the topic changes, and with it who is popular.
    Topics {
        /// The power.
        exponent: f64,
        /// Tokens of a topic.
        n_tokens: usize,
    },
}

impl Routing {
    /// What each token takes, in order.
    ///
    /// # Panics
    /// If an expert is not below `n_experts`.
    pub fn new(n_experts: usize, tokens: Vec<Vec<usize>>) -> Self {
        assert!(tokens.iter().flatten().all(|idx| *idx < n_experts), "experts below {n_experts}");
        Self { n_experts, tokens }
    }

    /// The experts of each token, in order.
    pub fn tokens(&self) -> impl Iterator<Item = &[usize]> {
        self.tokens.iter().map(Vec::as_slice)
    }

    /// Made-up tokens that take `top_k` different experts each; the same for the same seed.
    ///
    /// # Panics
    /// If there are fewer experts than that.
    pub fn made_up(taste: Taste, n_experts: usize, top_k: usize, n_tokens: usize, seed: u64) -> Self {
        assert!(top_k <= n_experts, "{top_k} different experts of {n_experts}");
        let mut random = SplitMix(seed);
        let mut by_rank: Vec<usize> = (0..n_experts).collect();
        random.shuffle(&mut by_rank);
        let exponent = match taste {
            Taste::Uniform => 0.0,
            Taste::Zipf(exponent) | Taste::Topics { exponent, .. } => exponent,
        };
        let weight = |rank: usize| ((rank + 1) as f64).powf(-exponent);
        let tokens = (0..n_tokens).map(|token| {
            if let Taste::Topics { n_tokens, .. } = taste
                && token > 0
                && token.is_multiple_of(n_tokens)
            {
                random.shuffle(&mut by_rank);
            }
            // The greatest of w / -ln u, for u uniform: a draw without replacement in proportion to the weights.
            let mut keys: Vec<(f64, usize)> =
                (0..n_experts).map(|rank| (weight(rank) / -random.uniform().ln(), by_rank[rank])).collect();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            keys[..top_k].iter().map(|(_, idx)| *idx).collect()
        });
        Self { n_experts, tokens: tokens.collect() }
    }

    /// The part of uses that a cache of `n_held` experts hits, beginning with an empty one.
    pub fn hit_rate(&self, n_held: usize, policy: Policy) -> f64 {
        let mut cache = ExpertCache::new(&[self.n_experts], n_held, policy);
        let (mut hits, mut uses) = (0, 0);
        for used in &self.tokens {
            cache.uses(0, 1, used.iter().map(|idx| (*idx, 1)));
            let missing: Vec<usize> = used.iter().copied().filter(|idx| !cache.is_held(0, *idx)).collect();
            (hits, uses) = (hits + used.len() - missing.len(), uses + used.len());
            cache.keep(0, &missing);
        }
        f64::from(hits as u32) / f64::from((uses as u32).max(1))
    }

    /// The same for who knows the future, and keeps those that are used soonest: nobody hits more (Belady 1966; here what is
    /// read need not be kept).
    pub fn best_hit_rate(&self, n_held: usize) -> f64 {
        let mut next_uses: Vec<Vec<usize>> = vec![Vec::new(); self.n_experts];
        for (token, used) in self.tokens.iter().enumerate().rev() {
            used.iter().for_each(|idx| next_uses[*idx].push(token));
        }
        let (mut held, mut hits, mut uses) = (Vec::<usize>::new(), 0, 0);
        for used in &self.tokens {
            hits += used.iter().filter(|idx| held.contains(idx)).count();
            uses += used.len();
            for idx in used {
                next_uses[*idx].pop();
                if !held.contains(idx) {
                    held.push(*idx);
                }
            }
            held.sort_by_key(|idx| next_uses[*idx].last().copied().unwrap_or(usize::MAX));
            held.truncate(n_held);
        }
        f64::from(hits as u32) / f64::from((uses as u32).max(1))
    }
}

/// Steele, Lea & Flood 2014: a generator of one word, enough to make up tokens.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0 and below 1.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for end in (1..items.len()).rev() {
            items.swap(end, (self.next() % (end as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: [Policy; 3] =
        [Policy::Lru, Policy::Lfu { half_life: 256.0 }, Policy::TwoMemories { short: 24.0, long: 512.0 }];

    #[test]
    fn nobody_hits_more_than_who_knows_the_future() {
        for taste in [Taste::Uniform, Taste::Zipf(1.0), Taste::Topics { exponent: 1.2, n_tokens: 50 }] {
            let routing = Routing::made_up(taste, 32, 4, 600, 1);
            for n_held in [0, 1, 4, 16, 31, 32] {
                let best = routing.best_hit_rate(n_held);
                for policy in POLICIES {
                    let rate = routing.hit_rate(n_held, policy);
                    assert!(rate <= best, "{taste:?}, {n_held}, {policy:?}: {rate} of {best}");
                }
            }
        }
    }

    #[test]
    fn more_places_never_hit_less_if_they_are_enough_to_see() {
        let routing = Routing::made_up(Taste::Uniform, 32, 4, 2000, 2);
        let rates: Vec<f64> = [4, 8, 16, 24, 32].map(|n| routing.hit_rate(n, Policy::default())).into();
        assert!(rates.is_sorted(), "{rates:?}");
    }

    /// What a token takes is independent of what is held, so any cache hits in proportion to its size.
    #[test]
    fn uniform_routing_hits_as_much_as_is_held() {
        let routing = Routing::made_up(Taste::Uniform, 128, 8, 4000, 3);
        for n_held in [16, 32, 64] {
            let part = n_held as f64 / 128.0;
            let rate = routing.hit_rate(n_held, Policy::default());
            assert!((rate - part).abs() < 0.01, "{rate} of {part}");
        }
    }

    #[test]
    fn popular_experts_are_held() {
        for (taste, least) in [(Taste::Zipf(1.0), 0.85), (Taste::Zipf(1.3), 0.85)] {
            let routing = Routing::made_up(taste, 128, 8, 4000, 4);
            for n_held in [16, 32, 64] {
                let of_best = routing.hit_rate(n_held, Policy::default()) / routing.best_hit_rate(n_held);
                assert!(of_best >= least, "{taste:?}, {n_held}: {of_best} of the best");
            }
        }
    }

    #[test]
    fn the_same_seed_makes_up_the_same_tokens() {
        let made = |seed| Routing::made_up(Taste::Zipf(1.0), 16, 2, 50, seed);
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
        assert!(made(7).tokens.iter().all(|used| used.len() == 2 && used[0] != used[1]));
    }
}
