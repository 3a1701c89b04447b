//! Residency plans from sizes alone: which bundles are pinned, and how many slots stream the others.
//!
//! With known machine speeds, [`Frontier`](crate::Frontier) trades pinned bundles against slots.

use crate::spread::spread;

/// Input of [`plan`]. All sizes are as allocated, including rounding.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest<'a> {
    /// Size of each bundle, in execution order.
    pub bundle_bytes: &'a [u64],
    /// Memory for everything else in the budget: the program, the KV cache, activations.
    pub fixed_bytes: u64,
    /// Hard cap on total memory.
    pub budget_bytes: u64,
    /// Number of slots for streamed bundles: with 2 the next bundle is read while one computes, with 1 bundles are read
    /// on demand.
    pub n_slots: usize,
}

/// Error: the budget is smaller than any plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a budget of {budget_bytes} B is below the floor of {floor_bytes} B")]
pub struct BelowFloor {
    /// The requested budget.
    pub budget_bytes: u64,
    /// The smallest budget that has a plan.
    pub floor_bytes: u64,
}

/// A residency plan: pinned and streamed bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResidencyPlan {
    /// Whether each bundle is pinned (always resident), in execution order.
    pub pinned: Vec<bool>,
    /// Number of slots for the other bundles; 0 if everything is pinned.
    pub n_slots: usize,
    /// Size of each slot, that of the largest streamed bundle.
    pub slot_bytes: u64,
    /// Total size of the pinned bundles.
    pub pinned_bytes: u64,
    /// Total size of the streamed bundles, read once per pass over the model.
    pub streamed_bytes: u64,
    /// The smallest budget that has a plan.
    pub floor_bytes: u64,
    /// Total memory of this plan, including `fixed_bytes`.
    pub total_bytes: u64,
}

/// Plans the residency of a model from bundle sizes alone.
///
/// Pins as many bundles as fit, in a fixed order that spreads them evenly through the model, so that reading never
/// pauses for long. A larger budget therefore pins a superset, and never streams more.
///
/// # Errors
/// [`BelowFloor`] with the smallest budget that works.
///
/// # Panics
/// If `n_slots` is 0.
pub fn plan(request: &PlanRequest<'_>) -> Result<ResidencyPlan, BelowFloor> {
    assert!(request.n_slots > 0, "streaming needs a slot");
    let &PlanRequest { bundle_bytes, fixed_bytes, budget_bytes, n_slots } = request;
    let all_bytes: u64 = bundle_bytes.iter().sum();
    let slot_bytes = bundle_bytes.iter().copied().max().unwrap_or(0);
    let slots_bytes = slot_bytes * n_slots as u64;
    let floor_bytes = fixed_bytes + slots_bytes.min(all_bytes);
    if budget_bytes < floor_bytes {
        return Err(BelowFloor { budget_bytes, floor_bytes });
    }
    if budget_bytes - fixed_bytes >= all_bytes {
        return Ok(ResidencyPlan {
            pinned: vec![true; bundle_bytes.len()],
            n_slots: 0,
            slot_bytes: 0,
            pinned_bytes: all_bytes,
            streamed_bytes: 0,
            floor_bytes,
            total_bytes: fixed_bytes + all_bytes,
        });
    }
    let room_bytes = budget_bytes - fixed_bytes - slots_bytes;
    let mut pinned = vec![false; bundle_bytes.len()];
    let mut pinned_bytes = 0;
    for index in spread(bundle_bytes.len()) {
        if pinned_bytes + bundle_bytes[index] > room_bytes {
            break;
        }
        pinned[index] = true;
        pinned_bytes += bundle_bytes[index];
    }
    Ok(ResidencyPlan {
        pinned,
        n_slots,
        slot_bytes,
        pinned_bytes,
        streamed_bytes: all_bytes - pinned_bytes,
        floor_bytes,
        total_bytes: fixed_bytes + slots_bytes + pinned_bytes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(bundle_bytes: &[u64], budget_bytes: u64) -> PlanRequest<'_> {
        PlanRequest { bundle_bytes, fixed_bytes: 10, budget_bytes, n_slots: 2 }
    }

    #[test]
    fn below_the_floor_is_refused_with_the_floor() {
        let error = plan(&request(&[100; 8], 209)).unwrap_err();
        assert_eq!(error, BelowFloor { budget_bytes: 209, floor_bytes: 210 });
        assert!(plan(&request(&[100; 8], 210)).is_ok());
    }

    #[test]
    fn everything_fits_needs_no_slots() {
        let plan = plan(&request(&[100; 8], 810)).unwrap();
        assert_eq!((plan.n_slots, plan.streamed_bytes, plan.total_bytes), (0, 0, 810));
        assert!(plan.pinned.iter().all(|&pinned| pinned));
    }

    #[test]
    fn one_bundle_model_has_no_use_for_two_slots() {
        assert_eq!(plan(&request(&[100], 110)).unwrap().n_slots, 0);
    }

    #[test]
    fn pinned_bundles_are_spread_evenly() {
        let plan = plan(&request(&[100; 8], 610)).unwrap();
        assert_eq!(plan.pinned, [true, false, true, false, true, false, true, false]);
    }

    #[test]
    fn a_model_without_bundles_needs_only_the_rest() {
        assert_eq!(plan(&request(&[], 10)).unwrap().total_bytes, 10);
    }

    proptest! {
        #[test]
        fn plan_keeps_to_the_budget_and_more_budget_never_streams_more(
            bundles in prop::collection::vec(1..1000u64, 0..40),
            fixed_bytes in 0..1000u64,
            extra in 0..60_000u64,
            more in 0..10_000u64,
            n_slots in 1..4usize,
        ) {
            let at = |budget_bytes| plan(&PlanRequest { bundle_bytes: &bundles, fixed_bytes, budget_bytes, n_slots });
            let Err(BelowFloor { floor_bytes, .. }) = at(0) else {
                prop_assert!(bundles.is_empty() && fixed_bytes == 0);
                return Ok(());
            };
            let budget_bytes = floor_bytes + extra;
            let small = at(budget_bytes).unwrap();
            prop_assert_eq!(small.floor_bytes, floor_bytes);
            prop_assert!(small.total_bytes <= budget_bytes);
            prop_assert_eq!(small.pinned_bytes + small.streamed_bytes, bundles.iter().sum::<u64>());
            for (index, &bytes) in bundles.iter().enumerate() {
                prop_assert!(small.pinned[index] || bytes <= small.slot_bytes);
            }
            let large = at(budget_bytes + more).unwrap();
            prop_assert!(large.streamed_bytes <= small.streamed_bytes);
            for (small, large) in small.pinned.iter().zip(&large.pinned) {
                prop_assert!(!small || *large, "a larger budget unpinned a bundle");
            }
            prop_assert!(at(floor_bytes - 1).is_err());
        }
    }
}
