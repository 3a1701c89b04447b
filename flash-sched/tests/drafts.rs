//! Draft lengths on simulated machines and texts, checked against the best fixed length and golden traces.
//!
//! The goldens, `tests/goldens/drafts-*.txt`, are output of the simulation itself; they reveal the effect of a change.
//! Regenerate them with `FLASH_UPDATE_GOLDENS=1 cargo test -p flash-sched --test drafts`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use flash_sched::{Acceptance, DraftControl, PassCost, PassEstimate, PassTime};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const MS: Duration = Duration::from_millis(1);
/// Most tokens of a draft.
const ROOM: usize = 64;

/// A machine: the compute time of a pass is `pass` plus `row` for each row, and its weights are read in `reading`.
#[derive(Debug, Clone, Copy)]
struct Machine {
    pass: Duration,
    row: Duration,
    reading: Duration,
}

impl Machine {
    fn compute(self, n_rows: usize) -> Duration {
        self.pass + self.row * n_rows as u32
    }

    fn pass_s(self, n_drafted: usize) -> f64 {
        self.compute(1 + n_drafted).max(self.reading).as_secs_f64()
    }

    /// Returns the most tokens a second that drafts of a fixed length give, and the length.
    fn best(self, p: impl Fn(usize) -> f64) -> (f64, usize) {
        let (mut best, mut all, mut tokens) = ((1.0 / self.pass_s(0), 0), 1.0, 1.0);
        for length in 1..=ROOM {
            all *= p(length - 1);
            tokens += all;
            let rate = tokens / self.pass_s(length);
            if rate > best.0 {
                best = (rate, length);
            }
        }
        best
    }
}

/// Disk-bound: eleven rows cost nothing.
const STREAMING: Machine =
    Machine { pass: MS.saturating_mul(100), row: MS.saturating_mul(20), reading: MS.saturating_mul(320) };
/// In memory, on a processor whose kernels share the reading of weights among few rows.
const IN_MEMORY: Machine =
    Machine { pass: MS.saturating_mul(60), row: MS.saturating_mul(20), reading: Duration::ZERO };
/// In memory, on a processor where each row takes the time of a pass.
const COMPUTE_BOUND: Machine =
    Machine { pass: Duration::ZERO, row: MS.saturating_mul(50), reading: Duration::ZERO };

/// Uniform random numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A run of passes with drafts.
struct Run {
    machine: Machine,
    cost: PassCost,
    control: DraftControl,
    random: Random,
    seconds: f64,
    tokens: usize,
}

impl Run {
    /// Starts a run after the pass of its prompt, of `prompt_rows`.
    fn new(machine: Machine, prompt_rows: usize) -> Self {
        let mut cost = PassCost::default();
        cost.observe(prompt_rows, machine.compute(prompt_rows));
        Self { machine, cost, control: DraftControl::default(), random: Random(1), seconds: 0.0, tokens: 0 }
    }

    /// Runs a pass on a text whose drafts are accepted with probability `p(position)`. Returns the length of its draft
    /// and the number of accepted tokens.
    fn pass(&mut self, p: &impl Fn(usize) -> f64) -> (usize, usize) {
        let estimate = PassEstimate::of_reading(self.cost.clone(), self.machine.reading);
        let time = PassTime { estimate: &estimate, n_rows: 1 };
        let drafted = self.control.length(&time, ROOM).n_tokens;
        let accepted = (0..drafted).take_while(|&position| self.random.uniform() < p(position)).count();
        if drafted > 0 {
            self.control.observe(drafted, accepted);
        }
        self.cost.observe(1 + drafted, self.machine.compute(1 + drafted));
        self.seconds += self.machine.pass_s(drafted);
        self.tokens += 1 + accepted;
        (drafted, accepted)
    }

    /// Runs passes, and returns their tokens a second.
    fn passes(&mut self, n: usize, p: &impl Fn(usize) -> f64) -> f64 {
        (self.seconds, self.tokens) = (0.0, 0);
        for _ in 0..n {
            self.pass(p);
        }
        self.tokens as f64 / self.seconds
    }
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.txt"));
    if std::env::var_os("FLASH_UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{name} has changed; is it better? See the head of this file");
}

#[test]
fn lengths_converge_to_within_five_percent_of_the_best_fixed_length() {
    for machine in [STREAMING, IN_MEMORY, COMPUTE_BOUND] {
        for acceptance in [0.0, 0.2, 0.5, 0.7, 0.85, 0.95, 0.99] {
            for decay in [1.0, 0.9] {
                let p = |position: usize| acceptance * f64::powi(decay, position as i32);
                let mut run = Run::new(machine, 128);
                run.passes(300, &p);
                let rate = run.passes(3000, &p);
                let (best, length) = machine.best(p);
                assert!(
                    rate > 0.95 * best,
                    "{machine:?}, p {acceptance} decay {decay}: {rate}, {best} at {length}"
                );
            }
        }
    }
}

#[test]
fn drafts_that_never_pay_cost_less_than_two_percent() {
    // Without a prompt of many rows, the cost of a row is unknown at first.
    for prompt_rows in [1, 128] {
        for acceptance in [0.0, 0.1, 0.4, 0.9] {
            let p = |_: usize| acceptance;
            let alone = 1.0 / COMPUTE_BOUND.pass_s(0);
            let mut run = Run::new(COMPUTE_BOUND, prompt_rows);
            let rate = run.passes(512, &p);
            assert!(rate > 0.98 * alone, "{prompt_rows} rows, {acceptance}: {} of {alone}", rate / alone);
            let rate = run.passes(4096, &p);
            assert!(rate > 0.995 * alone, "later, {prompt_rows} rows, {acceptance}: {}", rate / alone);
        }
    }
}

#[test]
fn where_rows_cost_nothing_wrong_drafts_cost_nothing() {
    let mut run = Run::new(STREAMING, 128);
    let rate = run.passes(1000, &|_| 0.0);
    assert!(rate > 0.99 / STREAMING.pass_s(0), "{rate}");
}

#[test]
fn the_cost_of_a_row_is_learned_by_a_probe() {
    let mut run = Run::new(IN_MEMORY, 1);
    let p = |_: usize| 0.9;
    run.passes(400, &p);
    let rate = run.passes(1000, &p);
    assert!(rate > 0.95 * IN_MEMORY.best(p).0, "{rate}");
}

#[test]
fn drafting_resumes_soon_after_a_probe_that_succeeds() {
    let mut run = Run::new(IN_MEMORY, 128);
    run.passes(5000, &|_| 0.05);
    let estimate = PassEstimate::of_reading(run.cost.clone(), Duration::ZERO);
    let time = PassTime { estimate: &estimate, n_rows: 1 };
    assert_eq!(run.control.best(&time, ROOM).n_tokens, 0, "off");
    // Two intervals between probes, and some tens of probes.
    run.passes(1100, &|_| 0.95);
    let rate = run.passes(1000, &|_| 0.95);
    assert!(rate > 0.95 * IN_MEMORY.best(|_| 0.95).0, "{rate}");
}

#[test]
fn unchecked_drafts_turn_drafting_on_without_a_probe() {
    let mut run = Run::new(IN_MEMORY, 128);
    run.cost.observe(1, IN_MEMORY.compute(1));
    let estimate = PassEstimate::of_reading(run.cost.clone(), Duration::ZERO);
    let time = PassTime { estimate: &estimate, n_rows: 1 };
    // The prior needs some observations.
    for _ in 0..10 {
        run.control.observe_unchecked(8, 0);
    }
    for _ in 0..2000 {
        assert_eq!(run.control.length(&time, ROOM).n_tokens, 0, "probed");
        run.control.observe_unchecked(8, 0);
    }
    let n_until_on = (1..).find(|_| {
        run.control.observe_unchecked(8, 8);
        run.control.length(&time, ROOM).n_tokens > 0
    });
    assert!(n_until_on < Some(30), "{n_until_on:?}");
}

#[test]
fn nothing_is_probed_where_no_draft_could_pay() {
    let mut run = Run::new(COMPUTE_BOUND, 128);
    for _ in 0..5000 {
        assert_eq!(run.pass(&|_| 1.0), (0, 0));
    }
}

#[test]
fn lengths_follow_a_text_from_prose_to_a_copy_and_back() {
    for (name, machine) in [("drafts-streaming", STREAMING), ("drafts-in-memory", IN_MEMORY)] {
        let mut run = Run::new(machine, 128);
        let mut trace = String::from("acceptance: drafted/accepted of each pass\n");
        for acceptance in [0.3, 0.97, 0.3] {
            write!(trace, "{acceptance}:").unwrap();
            for _ in 0..60 {
                let (drafted, accepted) = run.pass(&|_| acceptance);
                write!(trace, " {drafted}/{accepted}").unwrap();
            }
            trace.push('\n');
        }
        assert_golden(name, &trace);
    }
}

fn cases() -> ProptestConfig {
    let persistence = Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions")) as _);
    ProptestConfig { failure_persistence: persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn expected_tokens_are_concave_and_no_more_than_drafted(
        observed in prop::collection::vec((0_usize..200, 0_usize..200), 0..100),
    ) {
        let mut acceptance = Acceptance::default();
        for (drafted, accepted) in observed {
            acceptance.observe(drafted, accepted);
        }
        prop_assert_eq!(acceptance.expected(0), 0.0);
        let (mut last, mut last_step) = (0.0, 1.0);
        for n_tokens in 1..100 {
            let expected = acceptance.expected(n_tokens);
            let step = expected - last;
            prop_assert!((0.0..=last_step + 1e-12).contains(&step), "{} at {}", step, n_tokens);
            prop_assert!(expected <= n_tokens as f64);
            (last, last_step) = (expected, step);
        }
    }

    #[test]
    fn the_expectation_is_on_average_that_of_the_text(p in 0.05_f64..0.95, seed in any::<u64>()) {
        const LENGTH: usize = 8;
        const N_DRAFTS: usize = 3000;
        let (mut acceptance, mut random) = (Acceptance::default(), Random(seed));
        let (mut expected, mut accepted_in_all) = (0.0, 0.0);
        for _ in 0..N_DRAFTS {
            expected += acceptance.expected(LENGTH) / N_DRAFTS as f64;
            let accepted = (0..LENGTH).take_while(|_| random.uniform() < p).count();
            acceptance.observe(LENGTH, accepted);
            accepted_in_all += accepted as f64 / N_DRAFTS as f64;
        }
        // The prior of a half still counts for two of some 25 drafts.
        let error = (expected - accepted_in_all).abs();
        prop_assert!(error < 0.06 + 0.15 * accepted_in_all, "{} and {}", expected, accepted_in_all);
    }

    #[test]
    fn no_draft_exceeds_its_room(
        passes in prop::collection::vec((1_usize..200, 0_u64..3000), 0..10),
        observed in prop::collection::vec((0_usize..70, 0_usize..70), 0..50),
        reading_ms in 0_u64..3000,
        n_rows in 0_usize..40,
        room in 0_usize..70,
    ) {
        let (mut cost, mut control) = (PassCost::default(), DraftControl::default());
        for &(n_rows, ms) in &passes {
            cost.observe(n_rows, Duration::from_millis(ms));
        }
        for (drafted, accepted) in observed {
            control.observe(drafted, accepted);
        }
        let estimate = PassEstimate::of_reading(cost.clone(), Duration::from_millis(reading_ms));
        let time = PassTime { estimate: &estimate, n_rows };
        let best = control.best(&time, room);
        prop_assert!(best.n_tokens <= room && best.gain >= 1.0 && best.gain.is_finite());
        prop_assert!(!passes.is_empty() || best.n_tokens == 0, "nothing is known of passes");
        for _ in 0..100 {
            prop_assert!(control.length(&time, room).n_tokens <= room);
        }
    }
}
