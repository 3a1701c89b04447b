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
/// Products per choice, of which the fastest counts: whatever else disturbs a machine makes them slower.
const ROUNDS: usize = 7;
/// Fraction of the time of the usual choice below which another one replaces it. Minima of few products differ by some
/// percent between two measurements of one choice; and strips, if they are usual, multiply several rows of activations
/// faster, which is worth some percent of a single row.
const CLEARLY_LESS: f64 = 0.9;
/// Byte of all codes, scales and biases: two of them are a small number in f16, so sums are finite.
const BYTE: u8 = 1;

/// Returns the fastest tuning: threads first, then prefetching policy and layout of codes of 4 bits, then the layout of
/// codes of 8 bits.
pub(super) fn fastest(usual: KernelTuning) -> Result<KernelTuning, KernelError> {
    let kernels = usual.isa.kernels()?;
    let threads = cores::choices().into_iter().map(|n_threads| KernelTuning { n_threads, ..usual });
    let best = fastest_of(4, usual, threads)?;
    let layouts: &[bool] = if kernels.strips.is_some() { &[true, false] } else { &[false] };
    let policies = kernels.prefetches.iter().flat_map(|prefetch| {
        layouts.iter().map(|strips| KernelTuning { prefetch: *prefetch, strips_4_bits: *strips, ..best })
    });
    let best = fastest_of(4, best, policies)?;
    let layouts = layouts.iter().map(|strips| KernelTuning { strips_8_bits: *strips, ..best });
    fastest_of(8, best, layouts)
}

/// Returns `usual`, or the choice that multiplies codes of `bits` in clearly less time, twice.
fn fastest_of(
    bits: u32,
    usual: KernelTuning,
    choices: impl Iterator<Item = KernelTuning>,
) -> Result<KernelTuning, KernelError> {
    let others: Vec<_> = choices.filter(|choice| *choice != usual).collect();
    let Some(found) = clearly_faster(bits, usual, &others)? else { return Ok(usual) };
    Ok(clearly_faster(bits, usual, &[found])?.unwrap_or(usual))
}

/// Returns the fastest of `others` if it takes clearly less time than `usual`.
fn clearly_faster(
    bits: u32,
    usual: KernelTuning,
    others: &[KernelTuning],
) -> Result<Option<KernelTuning>, KernelError> {
    if others.is_empty() {
        return Ok(None);
    }
    let pools = [&usual].into_iter().chain(others).map(|tuning| Pool::new(*tuning));
    let times = product_times(bits, &pools.collect::<Result<Vec<_>, _>>()?)?;
    let (usual_time, times) = times.split_first().expect("a time for each pool");
    let fastest = others.iter().zip(times).min_by_key(|(_, time)| **time);
    let is_clearly_less = |time: &Duration| time.as_secs_f64() < CLEARLY_LESS * usual_time.as_secs_f64();
    Ok(fastest.filter(|(_, time)| is_clearly_less(time)).map(|(tuning, _)| *tuning))
}

/// Measures the product of one row of activations and a matrix outside of all caches, with each pool in turn.
fn product_times(bits: u32, pools: &[Pool]) -> Result<Vec<Duration>, KernelError> {
    let [n, k] = SHAPE;
    let (codes_bytes, scales_bytes) = (n * k / 8 * bits as usize, n * (k / GROUP) * 2);
    let weights = vec![BYTE; codes_bytes + 2 * scales_bytes];
    let (codes, scales_and_biases) = weights.split_at(codes_bytes);
    let (scales, biases) = scales_and_biases.split_at(scales_bytes);
    let rows = Matrix::affine(SHAPE, bits, GROUP, codes, FloatType::F16, scales, biases)?;
    let x: Vec<f32> = (0..k).map(|idx| (idx * 29 % 31) as f32 / 31.0 - 0.5).collect();
    let mut y = vec![0.0; n];
    let mut times = vec![Duration::MAX; pools.len()];
    for _ in 0..ROUNDS {
        for (pool, time) in pools.iter().zip(&mut times) {
            // All bytes are the same, so they need not be rearranged.
            let w = pool.strips(bits).map_or(Ok(rows), |strips| rows.in_strips(strips))?;
            evict(pool, &weights);
            let start = Instant::now();
            matmul(pool, &x, &w, None, &mut y)?;
            *time = start.elapsed().min(*time);
        }
    }
    Ok(times)
}
