//! Controller and plan on simulated machines, checked against the machines' limits and golden traces.
//!
//! The goldens, `tests/goldens/*.txt`, are output of the simulation itself; they reveal the effect of a change to the
//! controller. Regenerate them with `FLASH_UPDATE_GOLDENS=1 cargo test -p flash-sched --test sim`.

use std::path::PathBuf;
use std::time::Duration;

use flash_sched::sim::{Change, DiskStalls, Machine, run};
use flash_sched::trace::Row;
use flash_sched::{ByteRate, ControllerConfig, Disk, Frontier, Prediction, Speeds, Trace, predict};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const N_BUNDLES: usize = 32;
/// Tokens within which everything must be learned.
const LEARNED: usize = 10;

/// A model of equal layers on a machine, with a budget.
#[derive(Debug, Clone)]
struct Case {
    compute: Vec<Duration>,
    disk: Disk,
    residency: ControllerConfig,
    prediction: Prediction,
}

impl Case {
    /// Creates a case; `budget` is the fraction of the model that fits.
    fn new(bundle_mb: f64, compute_ms: f64, gb_per_s: f64, budget: f64) -> Self {
        let bundle_bytes = vec![(bundle_mb * 1e6) as u64; N_BUNDLES];
        let compute = vec![Duration::from_secs_f64(compute_ms / 1e3); N_BUNDLES];
        let disk = Disk { rate: ByteRate::new(gb_per_s * 1e9).unwrap(), latency: Duration::from_micros(100) };
        let budget_bytes = (budget * bundle_bytes.iter().sum::<u64>() as f64) as u64;
        let frontier = Frontier::new(&bundle_bytes, 2, Speeds { compute: &compute, disk });
        let timed = frontier.plan(0, budget_bytes).unwrap();
        let residency =
            ControllerConfig { pinned: timed.plan.pinned, n_slots: timed.plan.n_slots, bundle_bytes };
        Self { compute, disk, residency, prediction: timed.prediction }
    }

    fn machine(&self) -> Machine<'_> {
        Machine::steady(Speeds { compute: &self.compute, disk: self.disk })
    }

    fn run(&self, machine: &Machine<'_>, n_tokens: usize) -> Trace {
        run(&self.residency, machine, true, n_tokens)
    }

    /// Returns the shortest possible time per token, with disk and compute speed multiplied by the factors.
    fn limit_s(&self, disk_factor: f64, compute_factor: f64) -> f64 {
        let reading_s = self.prediction.reading.as_secs_f64() / disk_factor;
        reading_s.max(self.prediction.compute.as_secs_f64() / compute_factor)
    }

    /// Returns the shortest possible time per token with the least contention: reads spread evenly over all compute.
    fn limit_with_contention_s(&self, contention: f64, disk_factor: f64, compute_factor: f64) -> f64 {
        let reading_s = self.prediction.reading.as_secs_f64();
        let compute_s = self.prediction.compute.as_secs_f64() / compute_factor;
        let rate = (reading_s / compute_s).min(disk_factor);
        (reading_s / disk_factor).max(compute_s * (1.0 + contention * rate * rate))
    }
}

/// A GPU much faster than any disk.
fn m_series() -> Case {
    Case::new(140.0, 0.7, 7.0, 0.5)
}

/// A large model in little memory, with high arithmetic intensity.
fn m_series_compute_bound() -> Case {
    Case::new(100.0, 35.0, 7.0, 0.25)
}

fn nvme() -> Case {
    Case::new(130.0, 4.0, 2.3, 0.5)
}

fn nvme_compute_bound() -> Case {
    Case::new(24.0, 30.0, 2.3, 0.3)
}

fn sata() -> Case {
    Case::new(130.0, 4.0, 0.5, 0.5)
}

fn changed(at_s: f64, disk_factor: f64, compute_factor: f64) -> Vec<Change> {
    vec![Change { at: Duration::from_secs_f64(at_s), disk_factor, compute_factor }]
}

/// Stalls of 200 ms every three seconds.
const STALLS: DiskStalls = DiskStalls { every: Duration::from_secs(3), lasting: Duration::from_millis(200) };

fn total_s(rows: &[Row], time: impl Fn(&Row) -> Duration) -> f64 {
    rows.iter().map(time).sum::<Duration>().as_secs_f64()
}

fn mean_s(rows: &[Row], time: impl Fn(&Row) -> Duration) -> f64 {
    total_s(rows, time) / rows.len() as f64
}

#[track_caller]
fn assert_golden(name: &str, trace: &Trace) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.txt"));
    let text = trace.to_string();
    if std::env::var_os("FLASH_UPDATE_GOLDENS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{name} has changed; is it better? See the head of this file");
}

#[track_caller]
fn assert_never_throttled(trace: &Trace) {
    assert!(trace.rows.iter().all(|row| row.n_throttled == 0), "throttled\n{trace}");
}

/// Asserts that tokens take at most 10 % longer than the limit of the machine.
#[track_caller]
fn assert_near(rows: &[Row], limit_s: f64) {
    let token_s = mean_s(rows, |row| row.token);
    assert!(token_s <= 1.1 * limit_s, "{token_s} s a token, and the limit is {limit_s} s: {rows:#?}");
}

#[test]
fn disk_bound_machines_are_never_throttled_and_near_the_limit() {
    for (name, case) in [("m-series", m_series()), ("nvme", nvme()), ("sata", sata())] {
        let trace = case.run(&Machine { contention: 0.2, ..case.machine() }, 16);
        assert_golden(name, &trace);
        assert_never_throttled(&trace);
        // Contention slows compute, but compute is hidden behind reads.
        assert_near(&trace.rows[1..], case.limit_s(1.0, 1.0));
    }
}

#[test]
fn compute_bound_machines_are_slowed_down_by_less_than_five_percent() {
    for (name, case) in
        [("m-series-compute-bound", m_series_compute_bound()), ("nvme-compute-bound", nvme_compute_bound())]
    {
        let machine = Machine { contention: 0.2, ..case.machine() };
        let trace = case.run(&machine, 40);
        assert_golden(name, &trace);
        let compute_s = case.prediction.compute.as_secs_f64();
        let learned = &trace.rows[LEARNED..];
        assert!(mean_s(learned, |row| row.compute) < 1.05 * compute_s, "slowed down\n{trace}");
        assert!(learned.iter().all(|row| row.n_throttled > 0), "not throttled\n{trace}");
        assert_near(&trace.rows[1..], compute_s);
        let free = run(&case.residency, &machine, false, 40);
        let token_s = |trace: &Trace| mean_s(&trace.rows[LEARNED..], |row| row.token);
        assert!(token_s(&trace) < token_s(&free), "pacing is of no use\n{trace}\n{free}");
    }
}

#[test]
fn without_contention_nothing_is_throttled() {
    let case = nvme_compute_bound();
    let trace = case.run(&case.machine(), 40);
    // Only the pauses that measure contention remain.
    assert!(trace.rows.iter().all(|row| row.n_throttled <= 1), "{trace}");
    assert_near(&trace.rows[1..], case.limit_s(1.0, 1.0));
}

#[test]
fn a_disk_that_stalls_costs_its_stalls_and_not_more() {
    for (name, case) in [("nvme-stalls", nvme()), ("nvme-compute-bound-stalls", nvme_compute_bound())] {
        let machine = Machine { contention: 0.2, stalls: Some(STALLS), ..case.machine() };
        let trace = case.run(&machine, 40);
        assert_golden(name, &trace);
        let limit_s = case.limit_s(1.0, 1.0);
        let n_stalls = total_s(&trace.rows, |row| row.token) / STALLS.every.as_secs_f64();
        let stalled_s = n_stalls * STALLS.lasting.as_secs_f64();
        let token_s = (total_s(&trace.rows[1..], |row| row.token) - stalled_s) / 39.0;
        assert!(token_s <= 1.1 * limit_s, "{token_s} s a token, and the limit is {limit_s} s\n{trace}");
        let disk = trace.rows[39].estimates.unwrap().disk.unwrap();
        let ratio = disk.bytes_per_s() / case.disk.rate.bytes_per_s();
        assert!((ratio - 1.0).abs() < 0.1, "stalls are outliers\n{trace}");
    }
}

#[test]
fn a_laptop_that_throttles_is_learned_within_ten_tokens() {
    for (name, case) in [("laptop", nvme_compute_bound()), ("laptop-disk-bound", nvme())] {
        for (direction, factor) in [("slower", 0.5), ("faster", 2.0)] {
            let change_s = 15.0 * case.limit_s(1.0, 1.0);
            let changes = changed(change_s, 1.0, factor);
            let machine = Machine { contention: 0.2, changes, ..case.machine() };
            let trace = case.run(&machine, 50);
            assert_golden(&format!("{name}-{direction}"), &trace);
            assert_learned(&case, &trace, change_s, (1.0, factor));
        }
    }
}

#[test]
fn a_disk_that_changes_its_speed_is_learned_within_ten_tokens() {
    for (name, case) in [("nvme-disk", nvme()), ("nvme-compute-bound-disk", nvme_compute_bound())] {
        for (direction, factor) in [("slower", 0.5), ("faster", 2.0)] {
            let change_s = 15.0 * case.limit_s(1.0, 1.0);
            let machine =
                Machine { contention: 0.2, changes: changed(change_s, factor, 1.0), ..case.machine() };
            let trace = case.run(&machine, 50);
            assert_golden(&format!("{name}-{direction}"), &trace);
            assert_learned(&case, &trace, change_s, (factor, 1.0));
        }
    }
}

/// Asserts that ten tokens after the change, the estimates match the machine and tokens are near the new limit.
#[track_caller]
fn assert_learned(case: &Case, trace: &Trace, change_s: f64, (disk_factor, compute_factor): (f64, f64)) {
    let mut end_s = 0.0;
    let before = trace.rows.iter().take_while(|row| {
        end_s += row.token.as_secs_f64();
        end_s < change_s
    });
    let learned = &trace.rows[before.count() + 1 + LEARNED..];
    assert!(learned.len() > 10, "too few tokens\n{trace}");
    let limit_s = case.limit_s(disk_factor, compute_factor);
    assert_near(learned, limit_s);
    for row in learned {
        let estimates = row.estimates.unwrap();
        let compute = estimates.compute.unwrap().as_secs_f64() / row.compute.as_secs_f64();
        assert!((compute - 1.0).abs() < 0.05, "compute is known as {compute} of what it is\n{trace}");
        let reading_s = case.prediction.reading.as_secs_f64() / disk_factor;
        let is_compute_bound = reading_s < 0.8 * case.prediction.compute.as_secs_f64() / compute_factor;
        let is_disk_bound = reading_s > 1.1 * case.prediction.compute.as_secs_f64() / compute_factor;
        if is_disk_bound {
            assert_eq!(row.n_throttled, 0, "throttled\n{trace}");
        }
        if is_compute_bound {
            assert_eq!(estimates.is_compute_bound, Some(true), "{trace}");
        }
        let disk = estimates.disk.unwrap().bytes_per_s() / (disk_factor * case.disk.rate.bytes_per_s());
        // Throttled reads do not reveal a faster disk, and it does not matter.
        assert!(
            is_compute_bound && disk < 1.1 || (disk - 1.0).abs() < 0.1,
            "disk is {disk} of what it is\n{trace}"
        );
    }
}

#[test]
fn everything_pinned_needs_no_reads() {
    let case = Case::new(100.0, 1.0, 1.0, 1.0);
    let trace = case.run(&case.machine(), 4);
    assert_never_throttled(&trace);
    assert!(trace.rows.iter().all(|row| row.read_bytes == 0 && row.stall.is_zero()));
}

fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/sim.proptest-regressions");
    ProptestConfig { cases: 256, failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn simulation_without_a_controller_matches_the_prediction(
        bundles in prop::collection::vec((1..1000u64, 0..1000u64, any::<bool>()), 1..20),
        latency_us in 0..2000u64,
        n_slots in 1..6usize,
    ) {
        let bundle_bytes: Vec<u64> = bundles.iter().map(|bundle| bundle.0 * 1000).collect();
        let compute: Vec<_> = bundles.iter().map(|bundle| Duration::from_micros(bundle.1)).collect();
        let pinned: Vec<bool> = bundles.iter().map(|bundle| bundle.2).collect();
        let disk = Disk { rate: ByteRate::new(1e9).unwrap(), latency: Duration::from_micros(latency_us) };
        let speeds = Speeds { compute: &compute, disk };
        let predicted = predict(&bundle_bytes, &pinned, n_slots, &speeds).token.as_secs_f64();
        let residency = ControllerConfig { bundle_bytes, pinned, n_slots };
        let trace = run(&residency, &Machine::steady(speeds), false, 200);
        let simulated = mean_s(&trace.rows[80..], |row| row.token);
        prop_assert!((simulated - predicted).abs() <= 0.01 * predicted, "{simulated} s, predicted {predicted} s");
    }

    #[test]
    fn any_steady_machine_gets_near_its_limit(
        bundle_mb in 20.0..200.0f64,
        gb_per_s in 0.3..8.0f64,
        // Compute time over reading time of all bundles.
        balance in prop_oneof![0.02..0.85f64, 1.2..8.0f64],
        budget in 0.15..0.9f64,
        contention in 0.0..0.15f64,
    ) {
        let compute_ms = balance * bundle_mb / gb_per_s;
        let case = Case::new(bundle_mb, compute_ms, gb_per_s, budget);
        let trace = case.run(&Machine { contention, ..case.machine() }, 40);
        let prediction = &case.prediction;
        let learned = &trace.rows[LEARNED..];
        let token_s = mean_s(learned, |row| row.token);
        // The predicted time is the limit where slots are too few.
        let limit_s = case.limit_with_contention_s(contention, 1.0, 1.0).max(prediction.token.as_secs_f64());
        prop_assert!(token_s <= 1.1 * limit_s, "{token_s} s of {limit_s} s\n{trace}");
        // Between these ranges, contention decides whether compute is the limit.
        if prediction.reading > prediction.compute.mul_f64(1.0 + contention) {
            prop_assert!(trace.rows.iter().all(|row| row.n_throttled == 0), "throttled\n{trace}");
        }
        if prediction.reading < prediction.compute.mul_f64(0.5) {
            let slowdown = mean_s(learned, |row| row.compute) / prediction.compute.as_secs_f64() - 1.0;
            prop_assert!(slowdown < 0.05, "slowed down by {slowdown}\n{trace}");
        }
    }

    #[test]
    fn any_change_by_a_factor_of_two_is_learned_within_ten_tokens(
        compute_ms in prop_oneof![0.5..1.5f64, 30.0..60.0f64],
        is_disk in any::<bool>(),
        factor in prop_oneof![Just(0.5), Just(2.0)],
        at_token in 12.0..20.0f64,
    ) {
        let case = Case::new(24.0, compute_ms, 2.3, 0.3);
        let (disk_factor, compute_factor) = if is_disk { (factor, 1.0) } else { (1.0, factor) };
        let change_s = at_token * case.limit_s(1.0, 1.0);
        let changes = changed(change_s, disk_factor, compute_factor);
        let trace = case.run(&Machine { contention: 0.1, changes, ..case.machine() }, 60);
        assert_learned(&case, &trace, change_s, (disk_factor, compute_factor));
    }
}
