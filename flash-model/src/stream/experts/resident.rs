//! The experts in memory: a cache of admitted experts, and those that have been loaded.

use std::collections::HashMap;

use flash_sched::{ExpertCache, Policy};

/// Resident experts `E`, by layer and index.
#[derive(Debug)]
pub(super) struct ResidentExperts<E> {
    cache: ExpertCache,
    capacity: usize,
    /// Admitted experts that have been loaded.
    experts: HashMap<(usize, usize), E>,
}

impl<E: Clone> ResidentExperts<E> {
    /// Creates an empty cache of capacity 0 for layers of `n_experts` each.
    pub(super) fn new(n_experts: &[usize]) -> Self {
        let cache = ExpertCache::new(n_experts, 0, Policy::default());
        Self { cache, capacity: 0, experts: HashMap::new() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the capacity and shares it out among layers. Even when it grows, a layer's share may shrink and evict an
    /// expert.
    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        for expert in self.cache.resize(capacity) {
            self.experts.remove(&expert);
        }
    }

    /// Records the experts of a layer that a pass of `n_tokens` uses, each with its number of tokens.
    pub(super) fn record_uses(
        &mut self,
        layer_idx: usize,
        n_tokens: usize,
        used: impl IntoIterator<Item = (usize, usize)>,
    ) {
        self.cache.uses(layer_idx, n_tokens, used);
    }

    /// Returns whether an expert is admitted.
    pub(super) fn is_admitted(&self, layer_idx: usize, expert_idx: usize) -> bool {
        self.cache.is_held(layer_idx, expert_idx)
    }

    /// Admits those of `missing` that are worth more than admitted experts, which are evicted at once to free their
    /// slots.
    pub(super) fn admit(&mut self, layer_idx: usize, missing: &[usize]) {
        for expert_idx in self.cache.keep(layer_idx, missing) {
            self.experts.remove(&(layer_idx, expert_idx));
        }
    }

    /// Adds a loaded expert, if it is admitted.
    pub(super) fn insert(&mut self, layer_idx: usize, expert_idx: usize, expert: &E) {
        if self.is_admitted(layer_idx, expert_idx) {
            self.experts.insert((layer_idx, expert_idx), expert.clone());
        }
    }

    /// Removes those of `missing` that have not been loaded.
    pub(super) fn remove_absent(&mut self, layer_idx: usize, missing: &[usize]) {
        for &expert_idx in missing {
            if !self.experts.contains_key(&(layer_idx, expert_idx)) {
                self.cache.lose(layer_idx, expert_idx);
            }
        }
    }

    /// Returns a loaded expert.
    ///
    /// # Panics
    /// If the expert is not admitted, or not loaded.
    pub(super) fn expert(&self, layer_idx: usize, expert_idx: usize) -> &E {
        &self.experts[&(layer_idx, expert_idx)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N_EXPERTS: usize = 8;

    /// Layers whose experts are their own indices.
    fn held(n_layers: usize) -> ResidentExperts<usize> {
        ResidentExperts::new(&vec![N_EXPERTS; n_layers])
    }

    fn pass(held: &mut ResidentExperts<usize>, layer_idx: usize, used: &[usize]) {
        held.record_uses(layer_idx, 1, used.iter().map(|expert_idx| (*expert_idx, 1)));
        let missing: Vec<usize> =
            used.iter().copied().filter(|expert_idx| !held.is_admitted(layer_idx, *expert_idx)).collect();
        held.admit(layer_idx, &missing);
        missing.iter().for_each(|expert_idx| held.insert(layer_idx, *expert_idx, expert_idx));
    }

    #[test]
    fn growth_of_the_capacity_may_evict_an_expert_of_a_layer() {
        let mut held = held(5);
        let of_third = |held: &ResidentExperts<usize>| {
            held.experts.keys().filter(|(layer_idx, _)| *layer_idx == 2).count()
        };
        held.resize(7);
        (0..5).for_each(|layer_idx| pass(&mut held, layer_idx, &[0, 1, 2, 3]));
        assert_eq!((held.experts.len(), of_third(&held)), (7, 2));
        held.resize(8);
        assert_eq!((held.experts.len(), of_third(&held)), (6, 1));
    }

    #[test]
    fn expert_that_was_not_loaded_is_removed() {
        let mut held = held(1);
        held.resize(2);
        held.admit(0, &[3, 4]);
        held.insert(0, 4, &4);
        held.remove_absent(0, &[3, 4]);
        assert!(!held.is_admitted(0, 3) && *held.expert(0, 4) == 4);
    }

    proptest! {
        #[test]
        fn experts_fit_the_capacity_and_admitted_ones_are_resident(
            steps in prop::collection::vec((0usize..30, 0usize..3, prop::collection::btree_set(0..N_EXPERTS, 1..4)), 1..40),
        ) {
            let mut held = held(3);
            for (capacity, layer_idx, used) in steps {
                held.resize(capacity);
                pass(&mut held, layer_idx, &used.into_iter().collect::<Vec<_>>());
                prop_assert!(held.experts.len() <= capacity);
                for (layer_idx, expert_idx) in (0..3).flat_map(|layer| (0..N_EXPERTS).map(move |idx| (layer, idx))) {
                    let is_there = held.experts.get(&(layer_idx, expert_idx));
                    prop_assert_eq!(is_there.copied(), held.is_admitted(layer_idx, expert_idx).then_some(expert_idx));
                }
            }
        }
    }
}
