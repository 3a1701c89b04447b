//! Synthetic and recorded routings of one layer, replayed through a cache. (The text form of a [simulation](crate::sim)
//! is another module, [`trace`](crate::trace).)

use super::{ExpertCache, Policy};

/// The experts that each token is routed to in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    n_experts: usize,
    tokens: Vec<Vec<usize>>,
}

/// Distribution of synthetic routings over experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RoutingDistribution {
    /// Uniform over all experts: the worst case for a cache.
    Uniform,
    /// Zipf: the expert of rank r has a weight of 1 / r to this power.
    Zipf(f64),
    /// Zipf, with the ranks shuffled at every change of topic.
    Topics {
        /// Exponent of the Zipf distribution.
        exponent: f64,
        /// Length of a topic in tokens.
        n_tokens: usize,
    },
}

impl Routing {
    /// Creates a routing from the experts of each token, in order.
    ///
    /// # Panics
    /// If an expert is not below `n_experts`.
    pub fn new(n_experts: usize, tokens: Vec<Vec<usize>>) -> Self {
        assert!(tokens.iter().flatten().all(|idx| *idx < n_experts), "experts below {n_experts}");
        Self { n_experts, tokens }
    }

    /// Iterates over the experts of each token, in order.
    pub fn tokens(&self) -> impl Iterator<Item = &[usize]> {
        self.tokens.iter().map(Vec::as_slice)
    }

    /// Generates a routing of `n_tokens` to `top_k` distinct experts each, reproducible from the seed.
    ///
    /// # Panics
    /// If `top_k` exceeds `n_experts`.
    pub fn synthetic(
        distribution: RoutingDistribution,
        n_experts: usize,
        top_k: usize,
        n_tokens: usize,
        seed: u64,
    ) -> Self {
        assert!(top_k <= n_experts, "{top_k} different experts of {n_experts}");
        let mut random = SplitMix(seed);
        let mut by_rank: Vec<usize> = (0..n_experts).collect();
        random.shuffle(&mut by_rank);
        let exponent = match distribution {
            RoutingDistribution::Uniform => 0.0,
            RoutingDistribution::Zipf(exponent) | RoutingDistribution::Topics { exponent, .. } => exponent,
        };
        let weight = |rank: usize| ((rank + 1) as f64).powf(-exponent);
        let tokens = (0..n_tokens).map(|token| {
            if let RoutingDistribution::Topics { n_tokens, .. } = distribution
                && token > 0
                && token.is_multiple_of(n_tokens)
            {
                random.shuffle(&mut by_rank);
            }
            // The largest keys w / -ln u, for uniform u, are a weighted sample without replacement.
            let mut keys: Vec<(f64, usize)> =
                (0..n_experts).map(|rank| (weight(rank) / -random.uniform().ln(), by_rank[rank])).collect();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            keys[..top_k].iter().map(|(_, idx)| *idx).collect()
        });
        Self { n_experts, tokens: tokens.collect() }
    }

    /// Returns the hit rate of a cache of `n_held` experts that starts empty.
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

    /// Returns the hit rate of the optimal cache, which knows the future and keeps the experts used soonest (Belady
    /// 1966; here, unlike there, an expert just read need not be kept).
    pub fn optimal_hit_rate(&self, n_held: usize) -> f64 {
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

/// The `SplitMix64` generator (Steele, Lea & Flood 2014), whose one word of state suffices for synthetic tokens.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a uniform number above 0 and below 1.
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
        [Policy::Lru, Policy::Lfu { half_life: 256.0 }, Policy::BlendedLfu { short: 24.0, long: 512.0 }];

    #[test]
    fn no_policy_hits_more_than_the_optimum() {
        for distribution in [
            RoutingDistribution::Uniform,
            RoutingDistribution::Zipf(1.0),
            RoutingDistribution::Topics { exponent: 1.2, n_tokens: 50 },
        ] {
            let routing = Routing::synthetic(distribution, 32, 4, 600, 1);
            for n_held in [0, 1, 4, 16, 31, 32] {
                let best = routing.optimal_hit_rate(n_held);
                for policy in POLICIES {
                    let rate = routing.hit_rate(n_held, policy);
                    assert!(rate <= best, "{distribution:?}, {n_held}, {policy:?}: {rate} of {best}");
                }
            }
        }
    }

    #[test]
    fn larger_caches_hit_more() {
        let routing = Routing::synthetic(RoutingDistribution::Uniform, 32, 4, 2000, 2);
        let rates: Vec<f64> = [4, 8, 16, 24, 32].map(|n| routing.hit_rate(n, Policy::default())).into();
        assert!(rates.is_sorted(), "{rates:?}");
    }

    /// With routings independent of what is held, every cache hits in proportion to its size.
    #[test]
    fn uniform_routing_hits_as_much_as_is_held() {
        let routing = Routing::synthetic(RoutingDistribution::Uniform, 128, 8, 4000, 3);
        for n_held in [16, 32, 64] {
            let part = n_held as f64 / 128.0;
            let rate = routing.hit_rate(n_held, Policy::default());
            assert!((rate - part).abs() < 0.01, "{rate} of {part}");
        }
    }

    #[test]
    fn popular_experts_are_held() {
        for (distribution, least) in
            [(RoutingDistribution::Zipf(1.0), 0.85), (RoutingDistribution::Zipf(1.3), 0.85)]
        {
            let routing = Routing::synthetic(distribution, 128, 8, 4000, 4);
            for n_held in [16, 32, 64] {
                let of_best = routing.hit_rate(n_held, Policy::default()) / routing.optimal_hit_rate(n_held);
                assert!(of_best >= least, "{distribution:?}, {n_held}: {of_best} of the best");
            }
        }
    }

    #[test]
    fn synthetic_routings_are_reproducible() {
        let synthetic = |seed| Routing::synthetic(RoutingDistribution::Zipf(1.0), 16, 2, 50, seed);
        assert_eq!(synthetic(7), synthetic(7));
        assert_ne!(synthetic(7), synthetic(8));
        assert!(synthetic(7).tokens.iter().all(|used| used.len() == 2 && used[0] != used[1]));
    }
}
