//! The frontier against brute force over all pinned sets and numbers of slots.

use std::time::Duration;

use flash_sched::{BelowFloor, ByteRate, Disk, Frontier, PlanRequest, Speeds, plan, predict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const FIXED_BYTES: u64 = 1_000_000;

/// A synthetic model on a synthetic machine.
#[derive(Debug, Clone)]
struct Case {
    bundle_bytes: Vec<u64>,
    compute: Vec<Duration>,
    disk: Disk,
    n_slots_min: usize,
}

impl Case {
    fn speeds(&self) -> Speeds<'_> {
        Speeds { compute: &self.compute, disk: self.disk }
    }

    fn frontier(&self) -> Frontier {
        Frontier::new(&self.bundle_bytes, self.n_slots_min, self.speeds())
    }

    fn floor_bytes(&self) -> u64 {
        let request = PlanRequest {
            bundle_bytes: &self.bundle_bytes,
            fixed_bytes: FIXED_BYTES,
            budget_bytes: 0,
            n_slots: self.n_slots_min,
        };
        plan(&request).unwrap_err().floor_bytes
    }

    /// Returns the shortest time per token among all pinned sets and numbers of slots, for each of `budgets`.
    fn best_by_brute_force(&self, budgets: &[u64]) -> Vec<Duration> {
        let n = self.bundle_bytes.len();
        let mut best = vec![Duration::MAX; budgets.len()];
        for set in 0..1u32 << n {
            let pinned: Vec<bool> = (0..n).map(|index| set >> index & 1 == 1).collect();
            let bytes = || self.bundle_bytes.iter().zip(&pinned);
            let pinned_bytes: u64 = bytes().filter(|(_, pinned)| **pinned).map(|(bytes, _)| bytes).sum();
            let slot_bytes = bytes().filter(|(_, pinned)| !**pinned).map(|(bytes, _)| *bytes).max();
            let n_slots =
                if slot_bytes.is_some() { self.n_slots_min..=n.max(self.n_slots_min) } else { 0..=0 };
            for n_slots in n_slots {
                let need_bytes = FIXED_BYTES + pinned_bytes + n_slots as u64 * slot_bytes.unwrap_or(0);
                if budgets.iter().all(|&budget_bytes| need_bytes > budget_bytes) {
                    break;
                }
                let token = predict(&self.bundle_bytes, &pinned, n_slots, &self.speeds()).token;
                for (best, &budget_bytes) in best.iter_mut().zip(budgets) {
                    if need_bytes <= budget_bytes {
                        *best = token.min(*best);
                    }
                }
            }
        }
        best
    }
}

/// Bundle sizes: equal layers; layers and the smaller tiles of a head; alternating attention blocks and MLPs.
fn shapes() -> impl Strategy<Value = Vec<u64>> {
    let layers = (2..9usize).prop_map(|n| vec![10; n]);
    let with_head = (2..7usize, 1..3usize, 3..10u64)
        .prop_map(|(n, n_tiles, tile)| [vec![10; n], vec![tile; n_tiles]].concat());
    let blocks = (1..5usize, 2..8u64).prop_map(|(n, attention)| [attention, 10].repeat(n));
    prop_oneof![layers, with_head, blocks]
}

fn cases() -> impl Strategy<Value = Case> {
    // Log ratio of compute to reading, and latency relative to the reading time of a bundle: from disk-bound to
    // compute-bound.
    (shapes(), -2.5..2.5f64, 0.0..4.0f64, 1..4usize).prop_map(|(sizes, balance, latency, n_slots_min)| {
        let read_s = 10e-3;
        let disk = Disk {
            rate: ByteRate::new(10e6 / read_s).unwrap(),
            latency: Duration::from_secs_f64(if latency < 2.0 { 0.0 } else { (latency - 2.0) * read_s }),
        };
        let compute = |&size: &u64| Duration::from_secs_f64(size as f64 / 10.0 * read_s * balance.exp());
        let compute = sizes.iter().map(compute).collect();
        let bundle_bytes = sizes.iter().map(|size| size * 1_000_000).collect();
        Case { bundle_bytes, compute, disk, n_slots_min }
    })
}

fn any_cases() -> impl Strategy<Value = Case> {
    let bundles = prop::collection::vec((1..1000u64, 0..50_000u64), 1..30);
    (bundles, 0..20_000u64, 1..4usize).prop_map(|(bundles, latency_us, n_slots_min)| Case {
        bundle_bytes: bundles.iter().map(|bundle| bundle.0 * 100_000).collect(),
        compute: bundles.iter().map(|bundle| Duration::from_micros(bundle.1)).collect(),
        disk: Disk { rate: ByteRate::new(2e9).unwrap(), latency: Duration::from_micros(latency_us) },
        n_slots_min,
    })
}

/// Compares the plans for 21 budgets, from the floor to everything, with the optimum.
fn assert_best(case: &Case) -> Result<(), TestCaseError> {
    let floor_bytes = case.floor_bytes();
    let all_bytes: u64 = FIXED_BYTES + case.bundle_bytes.iter().sum::<u64>();
    let budgets: Vec<u64> = (0..=20).map(|k| floor_bytes + (all_bytes - floor_bytes) * k / 20).collect();
    let frontier = case.frontier();
    for (budget_bytes, best) in budgets.iter().zip(case.best_by_brute_force(&budgets)) {
        let timed = frontier.plan(FIXED_BYTES, *budget_bytes).unwrap();
        let ratio = timed.prediction.token.as_secs_f64() / best.as_secs_f64();
        prop_assert!(ratio <= 1.01, "{ratio} at {budget_bytes} B: {best:?} against {timed:?}");
    }
    Ok(())
}

fn config(cases: u32) -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/frontier.proptest-regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn no_other_pinned_set_or_number_of_slots_is_faster_by_more_than_one_percent(case in cases()) {
        assert_best(&case)?;
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn a_larger_budget_is_never_predicted_slower(case in any_cases()) {
        let floor_bytes = case.floor_bytes();
        let all_bytes: u64 = FIXED_BYTES + case.bundle_bytes.iter().sum::<u64>();
        let frontier = case.frontier();
        let mut token = Duration::MAX;
        for k in 0..=40 {
            let budget_bytes = floor_bytes + (all_bytes - floor_bytes) * k / 40;
            let timed = frontier.plan(FIXED_BYTES, budget_bytes).unwrap();
            prop_assert!(timed.prediction.token <= token);
            token = timed.prediction.token;
        }
        prop_assert_eq!(frontier.plan(FIXED_BYTES, all_bytes).unwrap().plan.streamed_bytes, 0);
    }

    #[test]
    fn plans_keep_to_the_budget_and_their_numbers_agree(case in any_cases(), part in 0.0..1.1f64) {
        let floor_bytes = case.floor_bytes();
        let all_bytes: u64 = case.bundle_bytes.iter().sum();
        let budget_bytes = floor_bytes + (all_bytes as f64 * part) as u64;
        let frontier = case.frontier();
        let timed = frontier.plan(FIXED_BYTES, budget_bytes).unwrap();
        let plan = &timed.plan;
        prop_assert!(plan.total_bytes <= budget_bytes);
        prop_assert_eq!(plan.floor_bytes, floor_bytes);
        prop_assert_eq!(plan.total_bytes, FIXED_BYTES + plan.pinned_bytes + plan.n_slots as u64 * plan.slot_bytes);
        let bytes_of = |pinned: bool| {
            let matching = case.bundle_bytes.iter().zip(&plan.pinned).filter(move |bundle| *bundle.1 == pinned);
            matching.map(|bundle| *bundle.0)
        };
        prop_assert_eq!(plan.pinned_bytes, bytes_of(true).sum::<u64>());
        prop_assert_eq!(plan.streamed_bytes, bytes_of(false).sum::<u64>());
        prop_assert_eq!(plan.slot_bytes, bytes_of(false).max().unwrap_or(0));
        prop_assert!(plan.n_slots >= case.n_slots_min || plan.streamed_bytes == 0);
        let expected = BelowFloor { budget_bytes: floor_bytes - 1, floor_bytes };
        prop_assert_eq!(frontier.plan(FIXED_BYTES, floor_bytes - 1).unwrap_err(), expected);
    }

    #[test]
    fn speeds_never_make_a_plan_slower_than_one_from_sizes_only(case in any_cases(), part in 0.0..1.1f64) {
        let budget_bytes = case.floor_bytes() + (case.bundle_bytes.iter().sum::<u64>() as f64 * part) as u64;
        let request = PlanRequest {
            bundle_bytes: &case.bundle_bytes,
            fixed_bytes: FIXED_BYTES,
            budget_bytes,
            n_slots: case.n_slots_min,
        };
        let simple = plan(&request).unwrap();
        let simple = predict(&case.bundle_bytes, &simple.pinned, simple.n_slots, &case.speeds());
        let timed = case.frontier().plan(FIXED_BYTES, budget_bytes).unwrap();
        let ratio = timed.prediction.token.as_secs_f64() / simple.token.as_secs_f64().max(1e-12);
        prop_assert!(ratio <= 1.01, "{ratio}: {timed:?} against {simple:?}");
    }
}

fn layers(n: usize, bytes: u64, compute_ms: f64, rate: f64, latency_us: u64) -> Case {
    Case {
        bundle_bytes: vec![bytes; n],
        compute: vec![Duration::from_secs_f64(compute_ms / 1000.0); n],
        disk: Disk { rate: ByteRate::new(rate).unwrap(), latency: Duration::from_micros(latency_us) },
        n_slots_min: 2,
    }
}

/// Cases missed by a search over evenly spread placements alone: reading and compute take about equal time.
#[test]
fn balanced_machines_get_the_best_placement() {
    let table: [(&[u64], f64, u64, usize); 4] = [
        (&[10, 10, 10, 10, 3], 0.587, 0, 1),
        (&[10, 10, 10, 10, 10, 10, 7, 7], 0.590, 0, 2),
        (&[2, 10, 2, 10, 2, 10, 2, 10], 0.661, 0, 1),
        (&[10, 10, 10, 10, 10, 4, 4], 0.701, 18_294, 2),
    ];
    for (sizes, compute_ms, latency_us, n_slots_min) in table {
        let mut case = layers(sizes.len(), 0, 0.0, 1e9, latency_us);
        case.bundle_bytes = sizes.iter().map(|size| size * 1_000_000).collect();
        case.compute =
            sizes.iter().map(|&size| Duration::from_secs_f64(size as f64 * compute_ms / 1e3)).collect();
        case.n_slots_min = n_slots_min;
        assert_best(&case).unwrap();
    }
}

/// With 20 MB for weights, two slots are the fastest; 19 MB has room for only one, and for pinning the last bundle.
#[test]
fn a_larger_budget_may_stream_more() {
    let case = Case {
        bundle_bytes: vec![10_000_000, 10_000_000, 3_000_000],
        compute: [10, 10, 3].map(Duration::from_millis).to_vec(),
        n_slots_min: 1,
        ..layers(0, 0, 0.0, 1e9, 16_700)
    };
    let at = |budget_bytes| case.frontier().plan(0, budget_bytes).unwrap();
    let (small, large) = (at(19_000_000), at(20_000_000));
    assert!(large.prediction.token < small.prediction.token);
    assert!(large.plan.streamed_bytes > small.plan.streamed_bytes);
}

#[test]
fn two_slots_are_enough_for_large_bundles_on_a_slow_disk() {
    let case = layers(32, 120_000_000, 3.0, 2.3e9, 200);
    let timed = case.frontier().plan(0, 2_000_000_000).unwrap();
    assert_eq!((timed.plan.n_slots, timed.plan.pinned_bytes), (2, 14 * 120_000_000));
}

#[test]
fn small_bundles_get_the_slots_that_keep_the_queue_full() {
    // 7 GB/s × 1 ms: 7 MB must be in flight, and a bundle has 2 MB.
    let case = layers(48, 2_000_000, 0.1, 7e9, 1000);
    let timed = case.frontier().plan(0, 48_000_000).unwrap();
    assert!((5..=8).contains(&timed.plan.n_slots), "{:?}", timed.plan);
    let two_slots = predict(&case.bundle_bytes, &[false; 48], 2, &case.speeds());
    assert!(timed.prediction.token * 3 < two_slots.token, "{:?}", timed.prediction);
}

#[test]
fn a_model_without_bundles_takes_no_time() {
    let case = layers(0, 0, 0.0, 1e9, 0);
    let timed = case.frontier().plan(10, 10).unwrap();
    assert_eq!((timed.plan.total_bytes, timed.prediction.token), (10, Duration::ZERO));
}

#[test]
fn thousands_of_bundles_are_planned() {
    let case = layers(6144, 4_000_000, 0.05, 7e9, 100);
    let timed = case.frontier().plan(0, 8_000_000_000).unwrap();
    assert!(timed.plan.pinned_bytes > 7_500_000_000, "{} B pinned", timed.plan.pinned_bytes);
}

#[test]
fn a_budget_for_some_of_thousands_of_bundles_of_many_sizes_is_used() {
    let sizes = [5u64, 5, 5, 17, 3, 5].map(|mb| mb * 1_000_000);
    let bundle_bytes: Vec<u64> = sizes.into_iter().cycle().take(6_700).collect();
    let compute = bundle_bytes.iter().map(|bytes| Duration::from_nanos(bytes / 20)).collect();
    let disk = Disk { rate: ByteRate::new(2e9).unwrap(), latency: Duration::from_millis(2) };
    let case = Case { bundle_bytes, compute, disk, n_slots_min: 2 };
    let model_bytes: u64 = case.bundle_bytes.iter().sum();
    let frontier = case.frontier();
    for percent in [2, 5, 30] {
        let room_bytes = model_bytes * percent / 100;
        let plan = frontier.plan(FIXED_BYTES, case.floor_bytes() + room_bytes).unwrap().plan;
        assert!(plan.pinned_bytes > room_bytes - model_bytes / 100, "{percent} %: {} B", plan.pinned_bytes);
    }
}
