//! Mamba-2 mixer, without its projections.

use super::convolution::Convolution;
use super::{StateUpdate, decode, softplus};
use crate::elementwise::{Gate, part_width};
use crate::matrix::Floats;
use crate::pool::Pool;

/// Mamba-2 mixer: a convolution, a selective state space per head, and a gated RMSNorm.
#[derive(Debug, Clone, Copy)]
pub struct Mamba2<'a> {
    /// Number of heads.
    pub n_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// Groups of heads that share `B` and `C`; the RMSNorm is per group.
    pub n_groups: usize,
    /// Dimension of the state: columns of a head's state matrix.
    pub state_dim: usize,
    /// Kernel size of the convolution, in tokens.
    pub kernel: usize,
    /// `[channels, kernel]`.
    pub conv_weight: Floats<'a>,
    /// `[channels]`.
    pub conv_bias: Option<Floats<'a>>,
    /// `[n_heads]`: bias of the step.
    pub dt_bias: Floats<'a>,
    /// `[n_heads]`: log of the decay rate; a step `dt` multiplies the state by `e^(−dt · e^a_log)`.
    pub a_log: Floats<'a>,
    /// `[n_heads]`: skip connection, the factor of the head's input that is added to its output.
    pub d: Floats<'a>,
    /// `[n_heads · head_dim]`: weight of the RMSNorm.
    pub norm: Floats<'a>,
    /// Epsilon of the RMSNorm.
    pub eps: f32,
    /// Minimum and maximum of the step.
    pub dt_limits: [f32; 2],
}

impl Mamba2<'_> {
    fn inner(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Returns the channels of the convolution: the inputs of the heads, then `B` and `C` of each group.
    pub fn channels(&self) -> usize {
        self.inner() + 2 * self.n_groups * self.state_dim
    }

    /// Returns the length of a projected token: the gate, the channels, a step for each head.
    pub fn projected_len(&self) -> usize {
        self.inner() + self.channels() + self.n_heads
    }

    /// Returns the length of the state in numbers: the window, `[kernel − 1, channels]`, and the head matrices,
    /// `[n_heads, head_dim, state_dim]`.
    pub fn state_len(&self) -> usize {
        (self.kernel - 1) * self.channels() + self.inner() * self.state_dim
    }

    /// Computes the outputs, `[n, n_heads · head_dim]`, of tokens, `[n, projected_len]`, and updates the state.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn run(&self, pool: &Pool, projected: &[f32], update: StateUpdate<'_>, out: &mut [f32]) {
        let Self { n_heads, head_dim, n_groups, state_dim, kernel, eps, dt_limits: [least, most], .. } =
            *self;
        let (inner, channels, row_len) = (self.inner(), self.channels(), self.projected_len());
        let n = projected.len() / row_len;
        assert!(projected.len() == n * row_len && out.len() == n * inner, "lengths do not fit {n} tokens");
        assert_eq!(update.state.len(), self.state_len(), "length of the state");
        let row = |token: usize| &projected[token * row_len..][..row_len];
        let (window, states) = update.split((kernel - 1) * channels, head_dim * state_dim);
        let convolution = Convolution::new(channels, kernel, self.conv_weight, self.conv_bias);
        let convolved = convolution.run(pool, (0..n).map(|token| &row(token)[inner..][..channels]), window);

        let kernels = pool.kernels();
        let [dt_bias, a_log, d] = [self.dt_bias, self.a_log, self.d].map(decode);
        let heads = pool.map(n_heads, |head| {
            let group = head / (n_heads / n_groups);
            let rate = -a_log[head].exp();
            let (mut stepped, mut y) = (vec![0.0; head_dim], vec![0.0; n * head_dim]);
            states.with_state(head, |state| {
                for (token, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    let (x, bc) = convolved[token * channels..][..channels].split_at(inner);
                    let x = &x[head * head_dim..][..head_dim];
                    let (b, c) = bc.split_at(n_groups * state_dim);
                    let [b, c] = [b, c].map(|all| &all[group * state_dim..][..state_dim]);
                    let dt = row(token)[inner + channels + head] + dt_bias[head];
                    let dt = softplus(dt).max(least).min(most);
                    for (stepped, x) in stepped.iter_mut().zip(x) {
                        *stepped = dt * x;
                    }
                    (kernels.selective_step)((dt * rate).exp(), &stepped, b, c, state, y);
                    for (y, x) in y.iter_mut().zip(x) {
                        *y += d[head] * x;
                    }
                }
            });
            y
        });

        let norm = decode(self.norm);
        let (len, width, group_len) = (out.len(), part_width(pool, out.len(), inner), inner / n_groups);
        pool.for_columns(out, len, width, |mut part| {
            let first = part.range().start / inner;
            let (mut y, mut gated) = (vec![0.0; inner], vec![0.0; inner]);
            for (token, out) in (first..).zip(part.row_mut(0).chunks_exact_mut(inner)) {
                for (head, y) in heads.iter().zip(y.chunks_exact_mut(head_dim)) {
                    y.copy_from_slice(&head[token * head_dim..][..head_dim]);
                }
                (kernels.gate)(Gate::Silu, &row(token)[..inner], &y, &mut gated);
                for group in (0..n_groups).map(|group| group * group_len..(group + 1) * group_len) {
                    (kernels.rms_norm)(&gated[group.clone()], &norm[group.clone()], eps, &mut out[group]);
                }
            }
        });
    }
}
