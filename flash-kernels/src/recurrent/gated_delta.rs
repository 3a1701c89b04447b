//! Gated delta net mixer of Qwen3.5, without its projections.

use super::convolution::Convolution;
use super::{StateUpdate, decode, softplus};
use crate::elementwise::{Gate, part_width};
use crate::matrix::Floats;
use crate::pool::Pool;

/// Epsilon of the L2 norm of queries and keys, added to the sum of squares.
const QK_EPS: f32 = 1e-6;

/// Gated delta net mixer: a convolution, a delta-rule state matrix per value head, and an RMSNorm with a gated output.
#[derive(Debug, Clone, Copy)]
pub struct GatedDelta<'a> {
    /// Query and key heads; each is shared by `value_heads / key_heads` value heads.
    pub key_heads: usize,
    /// Value heads.
    pub value_heads: usize,
    /// Dimension of a query or key head.
    pub key_dim: usize,
    /// Dimension of a value head.
    pub value_dim: usize,
    /// Kernel size of the convolution, in tokens.
    pub kernel: usize,
    /// `[channels, kernel]`.
    pub conv_weight: Floats<'a>,
    /// `[value_heads]`: bias of the step.
    pub dt_bias: Floats<'a>,
    /// `[value_heads]`: log of the decay rate; a step `dt` multiplies the state by `e^(−dt · e^a_log)`.
    pub a_log: Floats<'a>,
    /// `[value_dim]`: weight of the RMSNorm.
    pub norm: Floats<'a>,
    /// Epsilon of the RMSNorm.
    pub eps: f32,
}

/// Projected tokens.
#[derive(Debug, Clone, Copy)]
pub struct GatedDeltaInput<'a> {
    /// Queries, keys and values: `[n, channels]`.
    pub qkv: &'a [f32],
    /// Gate of the output: `[n, value_heads · value_dim]`.
    pub gate: &'a [f32],
    /// Correction strength, before the sigmoid: `[n, value_heads]`.
    pub beta: &'a [f32],
    /// Steps, before the bias and softplus: `[n, value_heads]`.
    pub step: &'a [f32],
}

impl GatedDelta<'_> {
    fn inner(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Returns the channels of the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.inner()
    }

    /// Returns the length of the state in numbers: the window, `[kernel − 1, channels]`, and the head matrices,
    /// `[value_heads, value_dim, key_dim]`.
    pub fn state_len(&self) -> usize {
        (self.kernel - 1) * self.channels() + self.inner() * self.key_dim
    }

    /// Computes the outputs of the tokens, `[n, value_heads · value_dim]`, and updates the state.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn run(&self, pool: &Pool, input: GatedDeltaInput<'_>, update: StateUpdate<'_>, out: &mut [f32]) {
        let Self { key_heads, value_heads, key_dim, value_dim, kernel, eps, .. } = *self;
        let GatedDeltaInput { qkv, gate, beta, step } = input;
        let (inner, channels) = (self.inner(), self.channels());
        let n = qkv.len() / channels;
        assert!(
            qkv.len() == n * channels && gate.len() == n * inner && out.len() == n * inner,
            "lengths do not fit {n} tokens"
        );
        assert!(
            beta.len() == n * value_heads && step.len() == n * value_heads,
            "lengths do not fit {n} tokens"
        );
        assert_eq!(update.state.len(), self.state_len(), "length of the state");
        let (window, states) = update.split((kernel - 1) * channels, value_dim * key_dim);
        let convolution = Convolution::new(channels, kernel, self.conv_weight, None);
        let convolved = convolution.run(pool, qkv.chunks_exact(channels), window);

        let kernels = pool.kernels();
        let [dt_bias, a_log] = [self.dt_bias, self.a_log].map(decode);
        // L2-normalize queries and keys by RMSNorm; the weight of the queries includes the softmax scale.
        let scale = (key_dim as f32).powf(-0.5);
        let (q_weight, k_weight) = (vec![scale * scale; key_dim], vec![scale; key_dim]);
        let qk_eps = QK_EPS * scale * scale;
        let heads = pool.map(value_heads, |head| {
            let key_head = head / (value_heads / key_heads);
            let rate = -a_log[head].exp();
            let (mut q, mut k) = (vec![0.0; key_dim], vec![0.0; key_dim]);
            let mut y = vec![0.0; n * value_dim];
            states.with_state(head, |state| {
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

        let norm = decode(self.norm);
        assert_eq!(norm.len(), value_dim, "one norm weight per value dimension");
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
