//! Measurement of tunings.

use std::time::{Duration, Instant};

use super::KernelTuning;
use crate::error::KernelError;
use crate::float::FloatType;
use crate::matrix::Matrix;
use crate::memory::evict;
use crate::pool::{Pool, cores};
use crate::product::matmul;

/// Rows and columns of the weights: half a matrix of attention in a model with 8 · 10⁹ parameters.
const SHAPE: [usize; 2] = [2048, 4096];
/// Codes per scale and bias, the most common number.
const GROUP: usize = 64;
/// Rounds in which each choice is measured once.
const ROUNDS: usize = 7;
/// Fraction of the time of the usual choice below which another one replaces it. Times of one choice differ by some percent
/// between two measurements.
const CLEARLY_LESS: f64 = 0.9;
/// Byte of all codes, scales and biases: two of them are a small number in f16, so sums are finite.
const BYTE: u8 = 1;

/// Numbers of rows of activations, and how often each is counted.
type Workload = &'static [(usize, u32)];

/// Decoding for a single context.
const ONE_ROW: Workload = &[(1, 1)];
/// Decoding for a single context most of the time, and sometimes for several.
const FEW_ROWS: Workload = &[(1, 3), (4, 1)];

/// Returns the fastest tuning: threads first, then the prefetching policy, then the layout of codes of 4 and of 8 bits.
pub(super) fn fastest(usual: KernelTuning) -> Result<KernelTuning, KernelError> {
    let kernels = usual.isa.kernels()?;
    let threads = cores::choices().into_iter().map(|n_threads| KernelTuning { n_threads, ..usual });
    let best = fastest_of(4, ONE_ROW, usual, threads)?;
    let policies = kernels.prefetches.iter().map(|prefetch| KernelTuning { prefetch: *prefetch, ..best });
    let best = fastest_of(4, ONE_ROW, best, policies)?;
    let layouts: &[bool] = if kernels.strips.is_some() { &[true, false] } else { &[false] };
    let of_4_bits = layouts.iter().map(|strips| KernelTuning { strips_4_bits: *strips, ..best });
    let best = fastest_of(4, FEW_ROWS, best, of_4_bits)?;
    let of_8_bits = layouts.iter().map(|strips| KernelTuning { strips_8_bits: *strips, ..best });
    fastest_of(8, FEW_ROWS, best, of_8_bits)
}

/// Returns `usual`, or the choice that multiplies codes of `bits` in clearly less time, twice.
fn fastest_of(
    bits: u32,
    workload: Workload,
    usual: KernelTuning,
    choices: impl Iterator<Item = KernelTuning>,
) -> Result<KernelTuning, KernelError> {
    let others: Vec<_> = choices.filter(|choice| *choice != usual).collect();
    let Some(found) = clearly_faster(bits, workload, usual, &others)? else { return Ok(usual) };
    Ok(clearly_faster(bits, workload, usual, &[found])?.unwrap_or(usual))
}

/// Returns the fastest of `others` if it takes clearly less time than `usual`.
fn clearly_faster(
    bits: u32,
    workload: Workload,
    usual: KernelTuning,
    others: &[KernelTuning],
) -> Result<Option<KernelTuning>, KernelError> {
    if others.is_empty() {
        return Ok(None);
    }
    let pools = [&usual].into_iter().chain(others).map(|tuning| Pool::new(*tuning));
    let times = measure(bits, workload, &pools.collect::<Result<Vec<_>, _>>()?)?;
    let (usual_times, times) = times.split_first().expect("times for each pool");
    let fastest = others.iter().zip(times).min_by_key(|(_, times)| times.least);
    Ok(fastest.filter(|(_, times)| times.are_clearly_less(usual_times)).map(|(tuning, _)| *tuning))
}

/// The times of a choice. Whatever else runs on a machine makes some rounds slower, so a choice must be faster by both.
#[derive(Debug)]
struct Times {
    least: Duration,
    median: Duration,
}

impl Times {
    /// # Panics
    /// If there are none.
    fn of(mut rounds: Vec<Duration>) -> Self {
        rounds.sort();
        Self { least: rounds[0], median: rounds[rounds.len() / 2] }
    }

    fn are_clearly_less(&self, other: &Self) -> bool {
        let is_less = |a: Duration, b: Duration| a.as_secs_f64() < CLEARLY_LESS * b.as_secs_f64();
        is_less(self.least, other.least) && is_less(self.median, other.median)
    }
}

/// Measures products with a matrix outside of all caches, with each pool in turn.
fn measure(bits: u32, workload: Workload, pools: &[Pool]) -> Result<Vec<Times>, KernelError> {
    let [n, k] = SHAPE;
    let (codes_bytes, scales_bytes) = (n * k / 8 * bits as usize, n * (k / GROUP) * 2);
    let weights = vec![BYTE; codes_bytes + 2 * scales_bytes];
    let (codes, scales_and_biases) = weights.split_at(codes_bytes);
    let (scales, biases) = scales_and_biases.split_at(scales_bytes);
    let rows = Matrix::affine(SHAPE, bits, GROUP, codes, FloatType::F16, scales, biases)?;
    let most_rows = workload.iter().map(|(m, _)| *m).max().unwrap_or(0);
    let x: Vec<f32> = (0..most_rows * k).map(|idx| (idx * 29 % 31) as f32 / 31.0 - 0.5).collect();
    let mut y = vec![0.0; most_rows * n];
    let mut rounds = vec![Vec::with_capacity(ROUNDS); pools.len()];
    for _ in 0..ROUNDS {
        for (pool, times) in pools.iter().zip(&mut rounds) {
            // All bytes are the same, so they need not be rearranged.
            let w = pool.strips(bits).map_or(Ok(rows), |strips| rows.in_strips(strips))?;
            let mut time = Duration::ZERO;
            for (m, n_times) in workload {
                evict(pool, &weights);
                let start = Instant::now();
                matmul(pool, &x[..m * k], &w, None, &mut y[..m * n])?;
                time += start.elapsed() * *n_times;
            }
            times.push(time);
        }
    }
    Ok(rounds.into_iter().map(Times::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_faster_by_its_least_and_its_median_time() {
        let times = |rounds: &[u64]| Times::of(rounds.iter().map(|ms| Duration::from_millis(*ms)).collect());
        let usual = times(&[100, 110, 120]);
        assert!(times(&[98, 85, 250]).are_clearly_less(&usual));
        assert!(!times(&[50, 105, 105]).are_clearly_less(&usual), "once by chance");
        assert!(!times(&[95, 96, 97]).are_clearly_less(&usual), "too little");
    }
}
