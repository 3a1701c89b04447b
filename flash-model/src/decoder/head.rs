//! The output head. It is the largest matrix of a small model, so it is split into tiles, bundles no larger than the
//! largest one before.

use mlx_rs::Array;

use crate::ModelError;
use crate::compute::Value;
use crate::compute::arrays::{positions, to_arrays, values};
use crate::interrupt::Interrupt;
use crate::nn::layers::Linear;
use crate::nn::tiled::tile_ranges;
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::Bundles;
use crate::stream::proxy::{StreamingProxy, WeightOwner};
use crate::stream::residency::Residency;

/// Positions whose logits are held at once while losses are computed.
const LOSS_POSITIONS: usize = 16;

/// The output projection, split into tiles of rows.
#[derive(Debug)]
pub(crate) struct Head {
    tiles: Vec<StreamingProxy<Linear>>,
    vocab_size: usize,
    /// Whether a product widens half-precision weights to f32 first.
    widens_weights: bool,
}

impl Head {
    /// Creates a head, `[vocab, hidden]`, in tiles of at most `tile_bytes`, and adds their bundles to `bundles`.
    pub(crate) fn new(
        weights: &VarBuilder<'_>,
        [vocab_size, hidden_size]: [i32; 2],
        tile_bytes: u64,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let (checkpoint, path) = (weights.checkpoint(), weights.path());
        let n_rows = vocab_size as u64;
        let mut tiles = Vec::new();
        for rows in tile_ranges(n_rows, tile_bytes / weights.row_bytes().max(1)) {
            let tile = weights.linear(hidden_size, (rows.end - rows.start) as i32, false)?;
            let place = (path, rows, n_rows);
            let tile = StreamingProxy::with_rows(Box::new(tile), place, &[], checkpoint, bundles)?;
            tiles.push(tile.with_strips(weights.backend(), checkpoint, bundles));
        }
        let widens_weights = weights.backend().widens_weights();
        Ok(Self { tiles, vocab_size: n_rows as usize, widens_weights })
    }

    /// Returns the tiles as weight owners.
    pub(super) fn weight_owners(&mut self) -> impl Iterator<Item = &mut dyn WeightOwner> {
        self.tiles.iter_mut().map(|tile| tile as &mut dyn WeightOwner)
    }

    /// Sets `logits` to the logits of the rows of `x`, `[1, n, hidden]`: `[n, vocab]`.
    pub(crate) fn logits(
        &mut self,
        residency: &mut Residency,
        x: &Value,
        interrupt: &Interrupt,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let mut parts = Vec::with_capacity(self.tiles.len());
        for tile in &mut self.tiles {
            interrupt.check()?;
            let part = tile.run(residency, |tile| tile.forward(x))?;
            if self.widens_weights {
                // Tile by tile, so that the widened weights of only one tile exist at a time, even when all are pinned.
                part.array()?.eval()?;
            }
            parts.push(part);
        }
        let parts = to_arrays(&parts)?;
        mlx_rs::transforms::eval(&parts)?;
        let parts = parts.iter().map(values).collect::<Result<Vec<_>, _>>()?;
        let n = x.dim(1) as usize;
        logits.clear();
        logits.reserve_exact(n * self.vocab_size);
        for row in 0..n {
            for part in &parts {
                let tile_rows = part.len() / n;
                logits.extend_from_slice(&part[row * tile_rows..][..tile_rows]);
            }
        }
        Ok(())
    }

    /// Returns the cross-entropy of each position of `x`, `[1, n, hidden]`, against its target, in nats.
    ///
    /// Logits are reduced tile by tile, in f64, so that the logits of a whole text never exist at once.
    ///
    /// # Errors
    /// [`ModelError::LossNan`] for the first loss that is not a number.
    pub(crate) fn losses(
        &mut self,
        residency: &mut Residency,
        x: &Array,
        targets: &[u32],
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>, ModelError> {
        let mut sums = vec![LogSumExp::default(); targets.len()];
        let mut first_row = 0;
        for tile in &mut self.tiles {
            let n_rows = tile.scope(residency, |tile, _, _| {
                let mut n_rows = 0;
                for start in (0..targets.len()).step_by(LOSS_POSITIONS) {
                    interrupt.check()?;
                    let end = (start + LOSS_POSITIONS).min(targets.len());
                    let logits = tile.forward(&positions(x, start, end)?.into())?.array()?;
                    n_rows = logits.dim(-1) as usize;
                    let rows = values(&logits)?.chunks_exact(n_rows);
                    for ((row, sum), &target) in rows.zip(&mut sums[start..end]).zip(&targets[start..end]) {
                        sum.add(row, (target as usize).checked_sub(first_row));
                    }
                }
                Ok(n_rows)
            })?;
            first_row += n_rows;
        }
        let losses = sums.iter().map(LogSumExp::loss).enumerate();
        losses
            .map(|(position, loss)| match loss.is_nan() {
                true => Err(ModelError::LossNan { position: position + 1, token: targets[position] }),
                false => Ok(loss),
            })
            .collect()
    }

    /// Returns the bytes that the logits of a pass take, if `n_logits` rows want them.
    pub(crate) fn activation_bytes(&self, n_logits: usize) -> u64 {
        // One tile's logits for several positions while losses are computed, or all tiles' logits for the rows, in one
        // piece, and with the sampler's copy of one row.
        let tile_rows = self.vocab_size.div_ceil(self.tiles.len());
        4 * (2 * LOSS_POSITIONS * tile_rows).max((2 * n_logits + 1) * self.vocab_size) as u64
    }
}

/// A streaming log-sum-exp over logits that arrive in parts, with the logit of the target.
#[derive(Debug, Clone)]
struct LogSumExp {
    max: f64,
    sum: f64,
    target: f64,
}

impl Default for LogSumExp {
    fn default() -> Self {
        Self { max: f64::NEG_INFINITY, sum: 0.0, target: f64::NAN }
    }
}

impl LogSumExp {
    fn add(&mut self, logits: &[f32], target: Option<usize>) {
        if let Some(&logit) = target.and_then(|target| logits.get(target)) {
            self.target = f64::from(logit);
        }
        // One by one, so that the bits do not depend on where parts end.
        for &logit in logits {
            let logit = f64::from(logit);
            if logit == f64::NEG_INFINITY {
                // Adds nothing, and has no difference to a maximum that is infinite, too.
                continue;
            }
            if logit > self.max {
                self.sum *= (self.max - logit).exp();
                self.max = logit;
            }
            self.sum += (logit - self.max).exp();
        }
    }

    fn loss(&self) -> f64 {
        (self.max - self.target) + self.sum.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_does_not_depend_on_where_parts_end() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 23) as f32 / 7.0 - 3.0).collect();
        let loss = |cut: usize| {
            let mut sum = LogSumExp::default();
            sum.add(&logits[..cut], Some(20).filter(|target| *target < cut));
            sum.add(&logits[cut..], 20usize.checked_sub(cut));
            sum.loss().to_bits()
        };
        assert!((0..50).all(|cut| loss(cut) == loss(0)));
    }

    #[test]
    fn loss_of_parts_is_that_of_the_whole() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 37) % 23) as f32 - 30.0).collect();
        let naive = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        for cut in [1, 7, 49] {
            let mut sum = LogSumExp::default();
            sum.add(&logits[..cut], Some(20));
            sum.add(&logits[cut..], 20usize.checked_sub(cut));
            assert!((sum.loss() - (naive - f64::from(logits[20]))).abs() < 1e-12);
        }
    }

    #[test]
    fn loss_of_large_logits_does_not_overflow() {
        let mut sum = LogSumExp::default();
        sum.add(&[3e38, 3e38], Some(0));
        assert!((sum.loss() - 2f64.ln()).abs() < 1e-9);
    }
}
