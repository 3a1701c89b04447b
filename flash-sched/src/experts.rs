//! Which experts of a mixture stay in memory.
//!
//! Each token passes through every layer and takes a few of that layer's experts. A layer may keep so many as its *share*
//! says; what a token takes beyond them is read, used and given up, or stays in the place of another one. Who stays is
//! decided by a [`Policy`], layer by layer: that of another layer is no rival, because all are visited equally often.
//!
//! [`trace`] has made-up routings and replays them, against the best that anyone could do who knew the future.

pub mod trace;
mod worth;

use worth::{Uses, Worth};

/// How experts are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Policy {
    /// Who was used last stays.
    Lru,
    /// Who was used most stays; a use counts half after so many tokens.
    Lfu {
        /// Tokens, more than 0.
        half_life: f64,
    },
    /// Who will probably be used stays: the estimates of a short and of a long memory, each as far as it has come true. The long
    /// one knows what is popular, the short one what the text is about right now. A newcomer has to be worth more by what an
    /// exchange costs.
    TwoMemories {
        /// Tokens after which a use counts half in the short memory.
        short: f64,
        /// The same for the long one.
        long: f64,
    },
}

impl Default for Policy {
    /// The best of those that `flash-cli bench experts` compares.
    fn default() -> Self {
        Self::TwoMemories { short: 24.0, long: 512.0 }
    }
}

/// One layer's experts.
#[derive(Debug)]
struct Layer {
    share: usize,
    worth: Worth,
    is_held: Vec<bool>,
    /// Used by the last pass.
    in_use: Vec<bool>,
}

/// The experts that are in memory, by layer.
#[derive(Debug)]
pub struct ExpertCache {
    layers: Vec<Layer>,
}

impl ExpertCache {
    /// Layers of `n_experts` each, of which each may hold its part of `n_held`, and none does.
    pub fn new(n_experts: &[usize], n_held: usize, policy: Policy) -> Self {
        let layer = |(n_experts, share): (&usize, usize)| Layer {
            share,
            worth: Worth::new(policy, *n_experts),
            is_held: vec![false; *n_experts],
            in_use: vec![false; *n_experts],
        };
        let shares = shares(n_experts, n_held);
        Self { layers: n_experts.iter().zip(shares).map(layer).collect() }
    }

    /// Gives each layer its part of another number. Returns who is not held any more, by layer and index.
    pub fn resize(&mut self, n_held: usize) -> Vec<(usize, usize)> {
        let n_experts: Vec<usize> = self.layers.iter().map(|layer| layer.is_held.len()).collect();
        let mut given_up = Vec::new();
        for (idx, share) in shares(&n_experts, n_held).into_iter().enumerate() {
            self.layers[idx].share = share;
            given_up.extend(self.keep(idx, &[]).into_iter().map(|expert_idx| (idx, expert_idx)));
        }
        given_up
    }

    /// How many experts a layer may hold.
    ///
    /// # Panics
    /// If there is no such layer, as all of these functions do.
    pub fn share(&self, layer_idx: usize) -> usize {
        self.layers[layer_idx].share
    }

    /// Whether an expert is in memory.
    pub fn is_held(&self, layer_idx: usize, expert_idx: usize) -> bool {
        self.layers[layer_idx].is_held[expert_idx]
    }

    /// A pass of `n_tokens` uses these experts of a layer, each for so many of the tokens.
    pub fn uses(
        &mut self,
        layer_idx: usize,
        n_tokens: usize,
        used: impl IntoIterator<Item = (usize, usize)>,
    ) {
        let Layer { worth, in_use, .. } = &mut self.layers[layer_idx];
        let by_expert: Vec<(usize, usize)> = used.into_iter().collect();
        worth.observe(Uses { n_tokens, by_expert: &by_expert });
        in_use.fill(false);
        by_expert.iter().for_each(|(expert_idx, _)| in_use[*expert_idx] = true);
    }

    /// The layer has these in memory beside those it holds, or will have them: it keeps the ones that are worth most, and
    /// returns the others, which are not held any more. Among those are none that were held and used just now.
    pub fn keep(&mut self, layer_idx: usize, loaded: &[usize]) -> Vec<usize> {
        let Layer { share, worth, is_held, in_use } = &mut self.layers[layer_idx];
        let worth_of = |expert_idx: usize| {
            let is_held = is_held[expert_idx];
            let charge = if is_held { 0.0 } else { worth.of_exchange() };
            (is_held && in_use[expert_idx], worth.of(expert_idx) - charge)
        };
        let held = (0..is_held.len()).filter(|idx| is_held[*idx]);
        let new = loaded.iter().copied().filter(|idx| !is_held[*idx]);
        let mut all: Vec<(usize, (bool, f64))> = held.chain(new).map(|idx| (idx, worth_of(idx))).collect();
        // Of equals, those that were held before; the sort is stable.
        all.sort_by(|(_, (a_in_use, a)), (_, (b_in_use, b))| b_in_use.cmp(a_in_use).then(b.total_cmp(a)));
        let mut all: Vec<usize> = all.into_iter().map(|(idx, _)| idx).collect();
        let given_up = all.split_off(all.len().min(*share));
        all.iter().for_each(|idx| is_held[*idx] = true);
        given_up.iter().for_each(|idx| is_held[*idx] = false);
        given_up
    }

    /// An expert is not in memory any more.
    pub fn lose(&mut self, layer_idx: usize, expert_idx: usize) {
        self.layers[layer_idx].is_held[expert_idx] = false;
    }
}

/// `n_held` places, spread over layers in proportion to their experts, none with more than it has.
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
    fn lru_gives_up_who_was_used_longest_ago() {
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
    fn who_is_worth_about_as_much_as_who_is_held_does_not_take_its_place() {
        let exchanges = |policy| {
            let mut cache = ExpertCache::new(&[8], 1, policy);
            token(&mut cache, &[0]);
            // In turn, so that who was used just now is always worth a little more.
            (0..40).filter(|turn| token(&mut cache, &[turn % 2]) == [1 - turn % 2]).count()
        };
        assert_eq!(exchanges(Policy::default()), 0);
        assert_eq!(exchanges(Policy::Lru), 39);
    }

    #[test]
    fn what_was_popular_long_ago_is_forgotten() {
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
    fn a_smaller_share_gives_up_the_rest_at_once() {
        let mut cache = ExpertCache::new(&[4, 4], 8, Policy::Lru);
        token(&mut cache, &[0, 1, 2]);
        token(&mut cache, &[3]);
        assert_eq!(cache.resize(2), [(0, 0), (0, 1), (0, 2)]);
        assert!(cache.is_held(0, 3));
    }

    #[test]
    fn who_is_in_use_is_not_given_up() {
        let mut cache = ExpertCache::new(&[8], 1, Policy::default());
        token(&mut cache, &[1]);
        // Three tokens use another one, and one this.
        cache.uses(0, 4, [(1, 1), (2, 3)]);
        assert_eq!(cache.keep(0, &[2]), [2]);
    }

    #[test]
    fn nothing_is_held_without_a_place() {
        let mut cache = ExpertCache::new(&[4, 4], 0, Policy::default());
        assert_eq!(token(&mut cache, &[2, 1]), [2, 1]);
        assert!(!cache.is_held(0, 2));
    }
}
