//! Which experts of a mixture stay in memory.
//!
//! Each token passes through every layer and takes a few of that layer's experts. A layer may keep so many as its *share*
//! says; what a token takes beyond them is read, used and given up, or stays in the place of another one. Who stays is
//! decided by a [`Policy`], layer by layer: that of another layer is no rival, because all are visited equally often.
//!
//! [`trace`] has made-up routings and replays them, against the best that anyone could do who knew the future.

pub mod trace;

/// What the worth of an expert that was just read counts beside that of one that is held. To exchange them costs about a third
/// of a read: the next one goes into memory that no cache holds, and is computed with from there (docs/performance.md).
const NEWCOMER: f64 = 0.7;

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
    /// Who will probably be used stays: the estimates of a short and of a long memory, averaged. The long one knows what is
    /// popular, the short one what the text is about right now. A newcomer has to be worth half as much again.
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

/// What an expert has been used for so far.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    /// The token of the last one; 0 for none.
    last: u64,
    /// Uses by then, each counted by how long ago it was.
    short: f64,
    long: f64,
}

impl Uses {
    fn add(&mut self, now: u64, n_tokens: usize, policy: Policy) {
        let (short, long) = self.at(now, policy);
        (self.short, self.long) = (short + n_tokens as f64, long + n_tokens as f64);
        self.last = now;
    }

    fn at(&self, now: u64, policy: Policy) -> (f64, f64) {
        let tokens = (now - self.last) as f64;
        let after = |half_life: f64| (-tokens / half_life).exp2();
        match policy {
            Policy::Lru => (0.0, 0.0),
            Policy::Lfu { half_life } => (self.short * after(half_life), 0.0),
            Policy::TwoMemories { short, long } => (self.short * after(short), self.long * after(long)),
        }
    }

    /// How much it is worth to hold it.
    fn worth(&self, now: u64, policy: Policy) -> f64 {
        let (of_short, of_long) = self.at(now, policy);
        match policy {
            Policy::Lru => self.last as f64,
            Policy::Lfu { .. } => of_short,
            // Uses a token: a use counts for half_life / ln 2 tokens altogether.
            Policy::TwoMemories { short, long } => of_short / short + of_long / long,
        }
    }
}

/// One layer's experts.
#[derive(Debug)]
struct Layer {
    share: usize,
    /// Tokens so far, beginning with 1.
    now: u64,
    uses: Vec<Uses>,
    is_held: Vec<bool>,
}

/// The experts that are in memory, by layer.
#[derive(Debug)]
pub struct ExpertCache {
    policy: Policy,
    layers: Vec<Layer>,
}

impl ExpertCache {
    /// Layers of `n_experts` each, of which each may hold its part of `n_held`, and none does.
    pub fn new(n_experts: &[usize], n_held: usize, policy: Policy) -> Self {
        let layer = |(n_experts, share): (&usize, usize)| Layer {
            share,
            now: 0,
            uses: vec![Uses::default(); *n_experts],
            is_held: vec![false; *n_experts],
        };
        let shares = shares(n_experts, n_held);
        Self { policy, layers: n_experts.iter().zip(shares).map(layer).collect() }
    }

    /// Gives each layer its part of another number. Returns who is not held any more, by layer and index.
    pub fn resize(&mut self, n_held: usize) -> Vec<(usize, usize)> {
        let n_experts: Vec<usize> = self.layers.iter().map(|layer| layer.uses.len()).collect();
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
        let layer = &mut self.layers[layer_idx];
        layer.now += n_tokens as u64;
        for (expert_idx, n_tokens) in used {
            layer.uses[expert_idx].add(layer.now, n_tokens, self.policy);
        }
    }

    /// The layer has these in memory beside those it holds, or will have them: it keeps the ones that are worth most, and
    /// returns the others, which are not held any more. Among those are none that were held and used just now.
    pub fn keep(&mut self, layer_idx: usize, loaded: &[usize]) -> Vec<usize> {
        let policy = self.policy;
        let Layer { share, now, uses, is_held } = &mut self.layers[layer_idx];
        let held = (0..is_held.len()).filter(|idx| is_held[*idx]);
        let new = loaded.iter().copied().filter(|idx| !is_held[*idx]);
        let mut all: Vec<usize> = held.chain(new).collect();
        let newcomer = if matches!(policy, Policy::TwoMemories { .. }) { NEWCOMER } else { 1.0 };
        let worth = |idx: usize| {
            let counts = if is_held[idx] { 1.0 } else { newcomer };
            (is_held[idx] && uses[idx].last == *now, counts * uses[idx].worth(*now, policy))
        };
        let by_worth = |a: &usize, b: &usize| {
            let ((a_in_use, a), (b_in_use, b)) = (worth(*a), worth(*b));
            b_in_use.cmp(&a_in_use).then(b.total_cmp(&a))
        };
        // Of equals, those that were held before; the sort is stable.
        all.sort_by(by_worth);
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
