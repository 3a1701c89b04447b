//! The gated delta net of Qwen3.5, between its projections.

use super::convolution::Convolution;
use super::{Passing, decoded, softplus};
use crate::elementwise::{Gate, part_width};
use crate::matrix::Floats;
use crate::pool::Pool;

/// What queries and keys are normalised with, beside the mean of their squares: it is 1e-6 of their sum.
const QK_EPS: f32 = 1e-6;

/// A matrix for each value head that is corrected, token by token, towards what a key should read there; behind a convolution
/// and in front of an RMSNorm whose output passes a gate.
#[derive(Debug, Clone, Copy)]
pub struct GatedDelta<'a> {
    /// Heads of queries and keys, each shared by as many value heads as the others.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Numbers of a query or a key.
    pub key_dim: usize,
    /// Numbers of a value.
    pub value_dim: usize,
    /// Tokens that the convolution sees.
    pub kernel: usize,
    /// `[channels, kernel]`.
    pub conv_weight: Floats<'a>,
    /// `[value_heads]`, as the next.
    pub dt_bias: Floats<'a>,
    /// The logarithm of what a state decays by in a step of 1, negated.
    pub a_log: Floats<'a>,
    /// `[value_dim]`.
    pub norm: Floats<'a>,
    /// What the mean of the squares is increased by.
    pub eps: f32,
}

/// Tokens as they were projected.
#[derive(Debug, Clone, Copy)]
pub struct GatedDeltaInput<'a> {
    /// Queries, keys and values: `[n, channels]`.
    pub qkv: &'a [f32],
    /// What gates the output: `[n, value_heads · value_dim]`.
    pub gate: &'a [f32],
    /// How much is corrected, before the sigmoid: `[n, value_heads]`.
    pub beta: &'a [f32],
    /// The steps, before what is added to them: `[n, value_heads]`.
    pub step: &'a [f32],
}

impl GatedDelta<'_> {
    fn inner(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Channels of the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.inner()
    }

    /// Numbers of the state: the window, `[kernel − 1, channels]`, and the heads', `[value_heads, value_dim, key_dim]`.
    pub fn state_len(&self) -> usize {
        (self.kernel - 1) * self.channels() + self.inner() * self.key_dim
    }

    /// Passes tokens to `out`, `[n, value_heads · value_dim]`.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn run(&self, pool: &Pool, input: GatedDeltaInput<'_>, passing: Passing<'_>, out: &mut [f32]) {
        let Self { key_heads, value_heads, key_dim, value_dim, kernel, eps, .. } = *self;
        let GatedDeltaInput { qkv, gate, beta, step } = input;
        let (inner, channels) = (self.inner(), self.channels());
        let n = qkv.len() / channels;
        assert!(qkv.len() == n * channels && gate.len() == n * inner && out.len() == n * inner, "{n} tokens");
        assert!(beta.len() == n * value_heads && step.len() == n * value_heads, "{n} tokens");
        assert_eq!(passing.state.len(), self.state_len(), "length of the state");
        let (window, states) = passing.split((kernel - 1) * channels, value_dim * key_dim);
        let convolution = Convolution::new(channels, kernel, self.conv_weight, None);
        let convolved = convolution.run(pool, qkv.chunks_exact(channels), window);

        let kernels = pool.kernels();
        let [dt_bias, a_log] = [self.dt_bias, self.a_log].map(decoded);
        // Queries and keys of length 1; what scores are multiplied by is a part of the queries.
        let scale = (key_dim as f32).powf(-0.5);
        let (q_weight, k_weight) = (vec![scale * scale; key_dim], vec![scale; key_dim]);
        let qk_eps = QK_EPS * scale * scale;
        let heads = pool.map(value_heads, |head| {
            let key_head = head / (value_heads / key_heads);
            let rate = -a_log[head].exp();
            let (mut q, mut k) = (vec![0.0; key_dim], vec![0.0; key_dim]);
            let mut y = vec![0.0; n * value_dim];
            states.with(head, |state| {
                for (token, y) in y.chunks_exact_mut(value_dim).enumerate() {
                    let row = &convolved[token * channels..][..channels];
                    let at = |start: usize, len: usize| &row[start..][..len];
                    let keys = key_heads * key_dim;
                    (kernels.rms_norm)(at(key_head * key_dim, key_dim), &q_weight, qk_eps, &mut q);
                    (kernels.rms_norm)(at(keys + key_head * key_dim, key_dim), &k_weight, qk_eps, &mut k);
                    let v = at(2 * keys + head * value_dim, value_dim);
                    let of_head = token * value_heads + head;
                    let decay = (rate * softplus(step[of_head] + dt_bias[head])).exp();
                    let beta = 1.0 / (1.0 + (-beta[of_head]).exp());
                    (kernels.delta_step)([decay, beta], &q, &k, v, state, y);
                }
            });
            y
        });

        let norm = decoded(self.norm);
        assert_eq!(norm.len(), value_dim, "a weight for each number of a value");
        let (len, width) = (out.len(), part_width(pool, out.len(), inner));
        pool.for_columns(out, len, width, |mut part| {
            let start = part.range().start;
            let mut normed = vec![0.0; value_dim];
            for (idx, out) in part.row_mut(0).chunks_exact_mut(value_dim).enumerate() {
                let place = start / value_dim + idx;
                let (token, head) = (place / value_heads, place % value_heads);
                (kernels.rms_norm)(&heads[head][token * value_dim..][..value_dim], &norm, eps, &mut normed);
                (kernels.gate)(Gate::Silu, &gate[place * value_dim..][..value_dim], &normed, out);
            }
        });
    }
}
