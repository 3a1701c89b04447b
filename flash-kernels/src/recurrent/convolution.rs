//! Causal depthwise convolution, followed by `silu`.

use super::{StateUpdate, decode};
use crate::elementwise::{exp, part_width};
use crate::matrix::Floats;
use crate::pool::Pool;

/// Decoded weights of a depthwise convolution.
pub(super) struct Convolution {
    channels: usize,
    /// `[kernel, channels]`.
    weights: Vec<f32>,
    /// `[channels]`.
    bias: Vec<f32>,
}

impl Convolution {
    /// Decodes `weight`, `[channels, kernel]`, and `bias`, `[channels]`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub(super) fn new(channels: usize, kernel: usize, weight: Floats<'_>, bias: Option<Floats<'_>>) -> Self {
        let by_channel = decode(weight);
        assert_eq!(by_channel.len(), channels * kernel, "one weight per channel and tap");
        let weights = (0..kernel * channels).map(|idx| by_channel[idx % channels * kernel + idx / channels]);
        let bias = bias.map_or_else(|| vec![0.0; channels], decode);
        assert_eq!(bias.len(), channels, "one bias per channel");
        Self { channels, weights: weights.collect(), bias }
    }

    /// Convolves rows of channels, `[n, channels]`, which follow the rows of `window`, and updates the window.
    pub(super) fn run<'a>(
        &self,
        pool: &Pool,
        rows: impl Iterator<Item = &'a [f32]>,
        window: StateUpdate<'_>,
    ) -> Vec<f32> {
        let Self { channels, ref weights, ref bias } = *self;
        let StateUpdate { before, state: window } = window;
        let mut x = before.unwrap_or(window).to_vec();
        rows.for_each(|row| x.extend_from_slice(row));
        let len = x.len() - window.len();
        window.copy_from_slice(&x[len..]);
        let mut out = vec![0.0; len];
        let (kernel, width) = (pool.kernels().convolve, part_width(pool, len, channels));
        pool.for_columns(&mut out, len, width, |mut part| {
            let start = part.range().start;
            for (idx, out) in part.row_mut(0).chunks_exact_mut(channels).enumerate() {
                out.copy_from_slice(bias);
                kernel(&x[start + idx * channels..][..weights.len()], weights, out);
            }
        });
        out
    }
}

/// Adds the products of the rows of `x` and `weights` to `out`, and applies `silu`.
#[inline(always)]
pub(crate) fn convolve_row(x: &[f32], weights: &[f32], out: &mut [f32]) {
    let channels = out.len();
    for (x, weights) in x.chunks_exact(channels).zip(weights.chunks_exact(channels)) {
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weights) {
            *out += x * weight;
        }
    }
    for out in out {
        *out /= 1.0 + exp(-*out);
    }
}
