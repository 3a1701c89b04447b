//! The row budget: how many rows the next pass carries, and for whom.
//!
//! A pass over streamed weights takes at least as long as reading them, so further rows cost nothing until their compute
//! takes as long. In a mixture of experts, further rows read further experts, which is counted, too. Every context that decodes gets a row; what is left goes to prompts that wait, oldest first.

use std::time::Duration;

use crate::ByteRate;

/// Weight of an observation relative to the next one.
const FORGET: f64 = 0.9;
/// Minimum variance of the numbers of rows from which the cost of a row is estimated.
const VARIANCE_MIN: f64 = 0.5;
/// Time constant of the average of read experts, in passes.
const READ_PASSES: f64 = 16.0;
/// Rows of the oldest prompt in every pass, even if they make it longer, so that no prompt waits forever.
const PROMPT_ROWS_MIN: usize = 4;

/// An estimate of a pass's compute time, linear in its rows, from recent passes.
#[derive(Debug, Clone, Default)]
pub struct PassCost {
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    rows_seconds: f64,
    /// Seconds a row, once passes of different numbers of rows were observed.
    row_s: Option<f64>,
}

impl PassCost {
    /// Adds the compute time of a pass, without waits for weights.
    pub fn observe(&mut self, n_rows: usize, compute: Duration) {
        let (rows, seconds) = (n_rows as f64, compute.as_secs_f64());
        let sums = [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.rows_squared, rows * rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_seconds, rows * seconds),
        ];
        for (sum, value) in sums {
            *sum = FORGET * *sum + value;
        }
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_squared / self.weight - rows * rows;
        if variance >= VARIANCE_MIN {
            let covariance = self.rows_seconds / self.weight - rows * seconds;
            // More rows never take less time; noise may look so.
            self.row_s = Some((covariance / variance).max(0.0));
        }
    }

    /// Returns the expected compute time of a pass; none before the first observation. As long as all passes had the same
    /// number of rows, each row is assumed to take its share of their time: that is too much where a part is for the pass.
    pub fn of(&self, n_rows: usize) -> Option<Duration> {
        if self.weight == 0.0 {
            return None;
        }
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let row_s = self.row_s.unwrap_or(seconds / rows.max(1.0));
        Some(Duration::from_secs_f64((seconds + row_s * (n_rows as f64 - rows)).max(0.0)))
    }

    /// Whether passes of different numbers of rows were observed, so that the cost of a row is known.
    pub fn has_row_cost(&self) -> bool {
        self.row_s.is_some()
    }
}

/// An estimate of the bytes of experts that a pass reads, by its rows, from recent passes.
///
/// Rows that choose `top_k` of `n_experts` alike and independently need `n_experts · (1 − (1 − top_k / n_experts)^rows)`
/// different ones. Real rows share more, so that is an upper bound where passes get longer than those observed.
#[derive(Debug, Clone, Default)]
pub struct ExpertReads {
    n_experts: f64,
    top_k: f64,
    /// Moving average of the bytes read for each expert that a layer needs.
    expert_bytes: Option<f64>,
}

impl ExpertReads {
    /// Creates an estimate for layers whose tokens take `top_k` of `n_experts`.
    pub fn new(n_experts: usize, top_k: usize) -> Self {
        let n_experts = n_experts.max(1) as f64;
        Self { n_experts, top_k: (top_k as f64).min(n_experts), expert_bytes: None }
    }

    /// Returns how many different experts of a layer some rows need.
    fn n_needed(&self, n_rows: usize) -> f64 {
        self.n_experts * (1.0 - (1.0 - self.top_k / self.n_experts).powf(n_rows as f64))
    }

    /// Adds the bytes that a pass has read.
    pub fn observe(&mut self, n_rows: usize, read_bytes: u64) {
        if n_rows > 0 && self.top_k > 0.0 {
            let sample = read_bytes as f64 / self.n_needed(n_rows);
            let average =
                self.expert_bytes.map_or(sample, |average| average + (sample - average) / READ_PASSES);
            self.expert_bytes = Some(average);
        }
    }

    /// Returns the expected bytes of a pass; 0 before the first observation.
    pub fn bytes(&self, n_rows: usize) -> u64 {
        (self.expert_bytes.unwrap_or(0.0) * self.n_needed(n_rows)).round() as u64
    }
}

/// An estimate of the time of a pass by its rows: computing and reading overlap.
#[derive(Debug, Clone, Default)]
pub struct PassEstimate {
    /// Compute time.
    pub cost: PassCost,
    /// Bytes of weights that every pass reads.
    pub streamed_bytes: u64,
    /// Bytes of experts, for a mixture.
    pub experts: Option<ExpertReads>,
    /// Rate of the disk; none before it is known.
    pub disk: Option<ByteRate>,
}

impl PassEstimate {
    /// Creates the estimate of passes that all read for `reading`.
    pub fn of_reading(cost: PassCost, reading: Duration) -> Self {
        // A byte a nanosecond.
        let disk = ByteRate::new(1e9).ok();
        Self { cost, streamed_bytes: reading.as_nanos() as u64, experts: None, disk }
    }

    /// Returns the expected time to read what a pass needs.
    pub fn reading(&self, n_rows: usize) -> Duration {
        let expert_bytes = self.experts.as_ref().map_or(0, |experts| experts.bytes(n_rows));
        self.disk.map_or(Duration::ZERO, |disk| disk.time_for(self.streamed_bytes + expert_bytes))
    }

    /// Returns the expected time of a pass; none before the first observation.
    pub fn time(&self, n_rows: usize) -> Option<Duration> {
        Some(self.cost.of(n_rows)?.max(self.reading(n_rows)))
    }

    /// Returns the most rows, up to `max_rows`, of a pass within `time`; 0 before the first observation.
    fn rows_within(&self, time: Duration, max_rows: usize) -> usize {
        let fits = |n_rows: usize| self.time(n_rows).is_some_and(|expected| expected <= time);
        // The largest number that fits: a longer pass never takes less time.
        let (mut fitting, mut too_many) = (0, max_rows + 1);
        while too_many - fitting > 1 {
            let middle = usize::midpoint(fitting, too_many);
            *(if fits(middle) { &mut fitting } else { &mut too_many }) = middle;
        }
        fitting
    }
}

/// Limits of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassLimits {
    /// Maximum rows, for which there is memory.
    pub max_rows: usize,
    /// Time that a pass may take for the sake of prompts while contexts decode. A pass that reads longer has the time of its
    /// reads.
    pub max_pass: Duration,
}

/// Allots the rows of the next pass to waiting prompts: `prompts` are their remaining tokens, oldest first, and
/// `n_decoding` contexts get a row each. Returns the rows of each prompt.
///
/// A pass may take as long as reading what its decoding rows need, or as long as [`PassLimits::max_pass`], whichever is
/// more. If no context decodes, prompts run as whole as there is memory for, since each pass reads all weights.
pub fn allot(
    estimate: &PassEstimate,
    limits: PassLimits,
    n_decoding: usize,
    prompts: &[usize],
) -> Vec<usize> {
    let room = limits.max_rows.saturating_sub(n_decoding);
    let mut left = match n_decoding {
        0 => room,
        _ => {
            let longest = limits.max_pass.max(estimate.reading(n_decoding));
            let within = estimate.rows_within(longest, limits.max_rows);
            within.saturating_sub(n_decoding).max(PROMPT_ROWS_MIN).min(room)
        }
    };
    let take = |tokens: &usize| {
        let rows = left.min(*tokens);
        left -= rows;
        rows
    };
    prompts.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The compute time of a pass on a machine that takes 200 ms for any pass, and 20 ms more a row.
    fn machine(n_rows: usize) -> Duration {
        200 * MS + 20 * MS * n_rows as u32
    }

    #[test]
    fn more_rows_of_a_mixture_read_more_experts_until_all_are_read() {
        let mut reads = ExpertReads::new(128, 8);
        assert_eq!(reads.bytes(4), 0);
        reads.observe(1, 800);
        assert_eq!(reads.bytes(1), 800);
        // 8, 15.5, 29.1, 82 and 128 of 128 experts.
        assert_eq!([2, 4, 16, 500].map(|n_rows| reads.bytes(n_rows)), [1550, 2912, 8242, 12800]);
        let unused = ExpertReads::new(0, 0);
        assert_eq!(unused.bytes(3), 0);
    }

    #[test]
    fn a_prompt_in_a_mixture_gets_few_rows_if_they_read_further_experts() {
        let mut estimate = PassEstimate::of_reading(PassCost::default(), 400 * MS);
        [1, 5, 9].into_iter().for_each(|n_rows| estimate.cost.observe(n_rows, machine(n_rows) / 10));
        let mut experts = ExpertReads::new(128, 8);
        experts.observe(4, 600_000_000);
        estimate.experts = Some(experts);
        let limits = PassLimits { max_rows: 512, max_pass: 300 * MS };
        // Four rows read for a second; 16 rows would read for 2.1 s.
        assert_eq!(estimate.reading(4), 1000 * MS);
        assert_eq!(allot(&estimate, limits, 4, &[512]), [PROMPT_ROWS_MIN]);
        // A limit of two seconds is used.
        let patient = PassLimits { max_pass: 2000 * MS, ..limits };
        let rows = allot(&estimate, patient, 4, &[512])[0];
        assert!((8..12).contains(&rows), "{rows}");
        assert!(estimate.time(4 + rows).unwrap() <= patient.max_pass);
        assert!(estimate.time(5 + rows).unwrap() > patient.max_pass);
    }

    #[test]
    fn cost_is_learned_from_passes_of_different_lengths() {
        let mut cost = PassCost::default();
        assert_eq!(cost.of(1), None);
        cost.observe(1, machine(1));
        // One pass alone does not tell what is for the pass, and what for its row.
        assert_eq!(cost.of(2), Some(440 * MS));
        for n_rows in [4, 1, 8, 1] {
            cost.observe(n_rows, machine(n_rows));
        }
        let expected = cost.of(16).unwrap().as_secs_f64();
        assert!((expected / machine(16).as_secs_f64() - 1.0).abs() < 1e-6, "{expected}");
        let estimate = PassEstimate { cost, ..PassEstimate::default() };
        assert_eq!(estimate.rows_within(machine(30) + MS, 1000), 30);
        assert_eq!(estimate.rows_within(machine(30) + MS, 20), 20);
        assert_eq!(estimate.rows_within(MS, 1000), 0);
        assert_eq!(PassEstimate::default().rows_within(1000 * MS, 1000), 0, "nothing is known");
    }

    #[test]
    fn a_prompt_gets_what_a_pass_carries_for_nothing() {
        let mut cost = PassCost::default();
        [1, 5, 9].into_iter().for_each(|n_rows| cost.observe(n_rows, machine(n_rows)));
        let limits = PassLimits { max_rows: 512, max_pass: 300 * MS };
        let of = |n_decoding, prompts: &[usize], reading| {
            allot(&PassEstimate::of_reading(cost.clone(), reading), limits, n_decoding, prompts)
        };
        // Reading for 1.2 s, a pass computes 50 rows.
        assert_eq!(of(4, &[512], 1201 * MS), [46]);
        assert_eq!(of(4, &[30, 100, 7], 1201 * MS), [30, 16, 0]);
        // Without reads, the limit of a pass counts: five rows within 300 ms, and never less than the minimum.
        assert_eq!(of(1, &[512], Duration::ZERO), [4]);
        assert_eq!(of(8, &[512], Duration::ZERO), [PROMPT_ROWS_MIN]);
        // Alone, a prompt runs in one pass.
        assert_eq!(of(0, &[500, 100], 1201 * MS), [500, 12]);
        assert_eq!(of(512, &[100], 1201 * MS), [0], "no room");
    }

    /// Simulates a prompt that arrives while contexts decode on a machine that reads for `reading` a pass. Returns the time
    /// of a pass before, the slowest one meanwhile, and the time until the prompt's first token.
    fn join(n_decoding: usize, prompt_tokens: usize, reading: Duration) -> [Duration; 3] {
        let pass = |n_rows: usize| machine(n_rows).max(reading);
        let limits = PassLimits { max_rows: 512, max_pass: 300 * MS };
        let mut cost = PassCost::default();
        for n_rows in [1, n_decoding, n_decoding] {
            cost.observe(n_rows, machine(n_rows));
        }
        let (mut left, mut slowest, mut first_token) = (prompt_tokens, Duration::ZERO, Duration::ZERO);
        while left > 0 {
            let rows =
                allot(&PassEstimate::of_reading(cost.clone(), reading), limits, n_decoding, &[left])[0];
            assert!(rows > 0, "starved");
            let time = pass(n_decoding + rows);
            cost.observe(n_decoding + rows, machine(n_decoding + rows));
            (left, slowest, first_token) = (left - rows, slowest.max(time), first_token + time);
        }
        [pass(n_decoding), slowest, first_token]
    }

    #[test]
    fn decoding_goes_on_at_the_rate_of_reads_while_a_prompt_joins() {
        let reading = 1500 * MS;
        let [before, meanwhile, first_token] = join(4, 512, reading);
        assert!(meanwhile.as_secs_f64() <= before.as_secs_f64() / 0.8, "{meanwhile:?}, {before:?} before");
        // Alone it computes for 10 s.
        assert!(first_token.as_secs_f64() <= 1.5 * machine(512).as_secs_f64(), "{first_token:?}");
    }

    proptest! {
        #[test]
        fn no_prompt_starves_and_no_pass_exceeds_its_memory(
            observed in prop::collection::vec((1_usize..600, 1_u64..5000), 0..12),
            n_decoding in 0_usize..40,
            prompts in prop::collection::vec(1_usize..2000, 1..6),
            reading_ms in 0_u64..3000,
            max_rows in 41_usize..600,
        ) {
            let mut cost = PassCost::default();
            for (n_rows, ms) in observed {
                cost.observe(n_rows, Duration::from_millis(ms));
            }
            let limits = PassLimits { max_rows, max_pass: 100 * MS };
            let estimate = PassEstimate::of_reading(cost, Duration::from_millis(reading_ms));
            let rows = allot(&estimate, limits, n_decoding, &prompts);
            prop_assert_eq!(rows.len(), prompts.len());
            prop_assert!(rows[0] > 0);
            prop_assert!(n_decoding + rows.iter().sum::<usize>() <= max_rows);
            prop_assert!(rows.iter().zip(&prompts).all(|(rows, tokens)| rows <= tokens));
            // Oldest first: a prompt gets rows only if those before it got all they want.
            let first_part = rows.iter().zip(&prompts).position(|(rows, tokens)| rows < tokens);
            prop_assert!(first_part.is_none_or(|at| rows[at + 1..].iter().all(|rows| *rows == 0)));
        }
    }
}
