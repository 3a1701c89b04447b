//! Expert cache: which experts of a mixture-of-experts model stay in memory.
//!
//! Each token is routed to a few experts in every layer. The cache has room for a number of experts, which is divided
//! among the layers. A layer may hold as many experts as its *share*; an expert beyond that is read, used and dropped,
//! or replaces another one. A [`Policy`] decides layer by layer: layers do not
//! compete, because every token visits all of them.
//!
//! [`trace`] generates synthetic routings and replays them, also against Belady's optimum, which knows the future.

mod score;
pub mod trace;

use score::{PassUses, Scores};

/// A cache replacement policy.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Policy {
    /// Least recently used experts are evicted.
    Lru,
    /// Least frequently used experts are evicted; uses decay exponentially.
    Lfu {
        /// Half-life in tokens, more than 0.
        half_life: f64,
    },
    /// Experts with the lowest predicted use are evicted. The prediction blends a short-term and a long-term decayed
    /// use frequency, each weighted by how well it has predicted so far: the long-term one captures overall popularity,
    /// the short-term one the current topic. A new expert must beat a held one by the cost of an exchange.
    BlendedLfu {
        /// Half-life of the short-term frequency, in tokens.
        short: f64,
        /// Half-life of the long-term frequency, in tokens.
        long: f64,
    },
}

impl Default for Policy {
    /// Returns the best policy in the comparison of `flash-cli bench experts`.
    fn default() -> Self {
        Self::BlendedLfu { short: 24.0, long: 512.0 }
    }
}

/// Cache state of one layer.
#[derive(Debug)]
struct Layer {
    share: usize,
    scores: Scores,
    is_held: Vec<bool>,
    /// Whether the latest pass used each expert.
    in_use: Vec<bool>,
}

/// Cache of experts: tracks which are in memory, layer by layer, and decides which stay. It holds no weights.
///
/// For each layer of a pass, call [`uses`](Self::uses) with the experts that the router chose, read those that are not
/// [held](Self::is_held), and call [`keep`](Self::keep) with them.
#[derive(Debug)]
pub struct ExpertCache {
    layers: Vec<Layer>,
}

impl ExpertCache {
    /// Creates an empty cache with a capacity of `n_held` experts, distributed over layers of `n_experts` experts each.
    pub fn new(n_experts: &[usize], n_held: usize, policy: Policy) -> Self {
        let layer = |(n_experts, share): (&usize, usize)| Layer {
            share,
            scores: Scores::new(policy, *n_experts),
            is_held: vec![false; *n_experts],
            in_use: vec![false; *n_experts],
        };
        let shares = shares(n_experts, n_held);
        Self { layers: n_experts.iter().zip(shares).map(layer).collect() }
    }

    /// Changes the total capacity to `n_held`. Returns the evicted experts as (layer, expert) indices.
    pub fn resize(&mut self, n_held: usize) -> Vec<(usize, usize)> {
        let n_experts: Vec<usize> = self.layers.iter().map(|layer| layer.is_held.len()).collect();
        let mut evicted = Vec::new();
        for (idx, share) in shares(&n_experts, n_held).into_iter().enumerate() {
            self.layers[idx].share = share;
            evicted.extend(self.keep(idx, &[]).into_iter().map(|expert_idx| (idx, expert_idx)));
        }
        evicted
    }

    /// Returns the capacity of a layer in experts.
    ///
    /// # Panics
    /// If the layer does not exist, as in all methods of this type.
    pub fn share(&self, layer_idx: usize) -> usize {
        self.layers[layer_idx].share
    }

    /// Returns whether an expert is in memory.
    pub fn is_held(&self, layer_idx: usize, expert_idx: usize) -> bool {
        self.layers[layer_idx].is_held[expert_idx]
    }

    /// Records that a pass of `n_tokens` uses these experts of a layer, as (expert, number of tokens).
    pub fn uses(
        &mut self,
        layer_idx: usize,
        n_tokens: usize,
        used: impl IntoIterator<Item = (usize, usize)>,
    ) {
        let Layer { scores, in_use, .. } = &mut self.layers[layer_idx];
        let by_expert: Vec<(usize, usize)> = used.into_iter().collect();
        scores.observe(PassUses { n_tokens, by_expert: &by_expert });
        in_use.fill(false);
        by_expert.iter().for_each(|(expert_idx, _)| in_use[*expert_idx] = true);
    }

    /// Offers the `loaded` experts (in memory, or about to be) to a layer's cache: it keeps the highest-scoring ones of
    /// these and the held ones, and returns the evicted others. Held experts in use by the latest pass are never
    /// evicted in favor of new ones.
    pub fn keep(&mut self, layer_idx: usize, loaded: &[usize]) -> Vec<usize> {
        let Layer { share, scores, is_held, in_use } = &mut self.layers[layer_idx];
        let score_of = |expert_idx: usize| {
            let is_held = is_held[expert_idx];
            let charge = if is_held { 0.0 } else { scores.exchange_cost() };
            (is_held && in_use[expert_idx], scores.of(expert_idx) - charge)
        };
        let held = (0..is_held.len()).filter(|idx| is_held[*idx]);
        let new = loaded.iter().copied().filter(|idx| !is_held[*idx]);
        let mut candidates: Vec<(usize, (bool, f64))> =
            held.chain(new).map(|idx| (idx, score_of(idx))).collect();
        // Ties go to held experts, because the sort is stable.
        candidates
            .sort_by(|(_, (a_in_use, a)), (_, (b_in_use, b))| b_in_use.cmp(a_in_use).then(b.total_cmp(a)));
        let mut candidates: Vec<usize> = candidates.into_iter().map(|(idx, _)| idx).collect();
        let evicted = candidates.split_off(candidates.len().min(*share));
        candidates.iter().for_each(|idx| is_held[*idx] = true);
        evicted.iter().for_each(|idx| is_held[*idx] = false);
        evicted
    }

    /// Records that an expert is no longer in memory.
    pub fn lose(&mut self, layer_idx: usize, expert_idx: usize) {
        self.layers[layer_idx].is_held[expert_idx] = false;
    }
}

/// Distributes a capacity of `n_held` over layers in proportion to their experts, none with more than it has.
fn shares(n_experts: &[usize], n_held: usize) -> Vec<usize> {
    let total: usize = n_experts.iter().sum();
    let n_held = n_held.min(total);
    let mut before = 0;
    let place = |experts: usize| n_held * experts / total.max(1);
    n_experts
        .iter()
        .map(|experts| {
            let share = place(before + experts) - place(before);
            before += experts;
            share.min(*experts)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_use_all_places_and_differ_by_one_at_most() {
        for n_held in 0..=40 {
            let shares = shares(&[8; 5], n_held);
            assert_eq!(shares.iter().sum::<usize>(), n_held);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{shares:?}");
        }
        assert_eq!(shares(&[8, 16], 1000), [8, 16]);
        assert_eq!(shares(&[], 3), [0; 0]);
    }

    fn token(cache: &mut ExpertCache, used: &[usize]) -> Vec<usize> {
        cache.uses(0, 1, used.iter().map(|idx| (*idx, 1)));
        let missing: Vec<usize> = used.iter().copied().filter(|idx| !cache.is_held(0, *idx)).collect();
        cache.keep(0, &missing)
    }

    #[test]
    fn lru_evicts_the_least_recently_used() {
        let mut cache = ExpertCache::new(&[8], 2, Policy::Lru);
        assert_eq!(token(&mut cache, &[1]), []);
        assert_eq!(token(&mut cache, &[2]), []);
        assert_eq!(token(&mut cache, &[1]), []);
        assert_eq!(token(&mut cache, &[3]), [2]);
        assert!(cache.is_held(0, 1) && cache.is_held(0, 3));
    }

    #[test]
    fn a_rare_expert_does_not_displace_a_popular_one() {
        for policy in [Policy::Lfu { half_life: 100.0 }, Policy::default()] {
            let mut cache = ExpertCache::new(&[8], 1, policy);
            for _ in 0..10 {
                token(&mut cache, &[5]);
            }
            assert_eq!(token(&mut cache, &[6]), [6], "{policy:?}");
            assert!(cache.is_held(0, 5));
        }
    }

    #[test]
    fn an_expert_of_about_equal_score_does_not_replace_a_held_one() {
        let exchanges = |policy| {
            let mut cache = ExpertCache::new(&[8], 1, policy);
            token(&mut cache, &[0]);
            // Two experts take turns, so the one used just now always scores slightly higher.
            (0..40).filter(|turn| token(&mut cache, &[turn % 2]) == [1 - turn % 2]).count()
        };
        assert_eq!(exchanges(Policy::default()), 0);
        assert_eq!(exchanges(Policy::Lru), 39);
    }

    #[test]
    fn past_popularity_is_forgotten() {
        for policy in [Policy::Lfu { half_life: 10.0 }, Policy::default()] {
            let mut cache = ExpertCache::new(&[8], 1, policy);
            for _ in 0..50 {
                token(&mut cache, &[5]);
            }
            for _ in 0..200 {
                token(&mut cache, &[6]);
            }
            assert!(cache.is_held(0, 6), "{policy:?}");
        }
    }

    #[test]
    fn a_smaller_share_evicts_the_rest_at_once() {
        let mut cache = ExpertCache::new(&[4, 4], 8, Policy::Lru);
        token(&mut cache, &[0, 1, 2]);
        token(&mut cache, &[3]);
        assert_eq!(cache.resize(2), [(0, 0), (0, 1), (0, 2)]);
        assert!(cache.is_held(0, 3));
    }

    #[test]
    fn an_expert_in_use_is_not_evicted() {
        let mut cache = ExpertCache::new(&[8], 1, Policy::default());
        token(&mut cache, &[1]);
        // Three tokens use expert 2, and one the held expert.
        cache.uses(0, 4, [(1, 1), (2, 3)]);
        assert_eq!(cache.keep(0, &[2]), [2]);
    }

    #[test]
    fn a_cache_without_capacity_holds_nothing() {
        let mut cache = ExpertCache::new(&[4, 4], 0, Policy::default());
        assert_eq!(token(&mut cache, &[2, 1]), [2, 1]);
        assert!(!cache.is_held(0, 2));
    }
}
