//! Rotary position embedding.

use crate::pool::Pool;

/// Rotary position embedding of queries and keys (Su et al. 2021).
///
/// The first `2 · inverse_frequencies.len()` numbers of each head are rotated in pairs, the pair `i` by
/// `position · scale · inverse_frequencies[i]`. A pair is two neighbors (`traditional`), or one number from the first
/// half and one from the second.
///
/// Angles are products in `f32`, as in MLX, with a relative error of up to 6·10⁻⁸: 0.06 for the first pair at position
/// 10⁶. Positions from 2²⁴ on are not distinguished from their neighbors.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Inverse frequency of each pair.
    pub inverse_frequencies: Vec<f32>,
    /// Factor applied to positions.
    pub scale: f32,
    /// Factor applied to rotated numbers.
    pub magnitude: f32,
    /// Whether pairs are neighbors instead of split halves.
    pub traditional: bool,
}

/// Tokens per part: about as long as waking another thread takes.
const PART_TOKENS: usize = 8;

impl Rope {
    /// Rotates the heads of tokens at the given positions: `x` and `out` are `[positions, heads, head_dim]`.
    ///
    /// # Panics
    /// Same as [`rotate`](Self::rotate), and if the slices do not have a token for each position.
    pub fn rotate_tokens(
        &self,
        pool: &Pool,
        positions: &[usize],
        [heads, head_dim]: [usize; 2],
        x: &[f32],
        out: &mut [f32],
    ) {
        let (len, token_len) = (out.len(), heads * head_dim);
        assert!(x.len() == len && len == positions.len() * token_len, "a token for each position");
        let width = PART_TOKENS * token_len;
        pool.for_columns(out, len, width, |mut part| {
            let start = part.range().start;
            let tokens = x[part.range()].chunks_exact(token_len);
            let outs = part.row_mut(0).chunks_exact_mut(token_len);
            for (position, (x, out)) in positions[start / token_len..].iter().zip(tokens.zip(outs)) {
                self.rotate(*position, head_dim, x, out);
            }
        });
    }

    /// Rotates the heads of one token: `x` and `out` are `[heads, head_dim]`.
    ///
    /// # Panics
    /// If the lengths do not fit, or a head is shorter than the numbers to rotate.
    pub fn rotate(&self, position: usize, head_dim: usize, x: &[f32], out: &mut [f32]) {
        let half = self.inverse_frequencies.len();
        assert!(
            x.len() == out.len() && x.len().is_multiple_of(head_dim) && 2 * half <= head_dim,
            "whole heads"
        );
        let angle = |frequency: &f32| {
            let (sin, cos) = (position as f32 * self.scale * frequency).sin_cos();
            (sin * self.magnitude, cos * self.magnitude)
        };
        let angles: Vec<(f32, f32)> = self.inverse_frequencies.iter().map(angle).collect();
        out.copy_from_slice(x);
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            if self.traditional {
                let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
                for (([a, b], out), (sin, cos)) in pairs.zip(&angles) {
                    *out = [a * cos - b * sin, a * sin + b * cos];
                }
            } else {
                let (left, right) = x[..2 * half].split_at(half);
                let (out_left, out_right) = out[..2 * half].split_at_mut(half);
                let outs = out_left.iter_mut().zip(out_right);
                for (((a, b), (out_a, out_b)), (sin, cos)) in left.iter().zip(right).zip(outs).zip(&angles) {
                    (*out_a, *out_b) = (a * cos - b * sin, a * sin + b * cos);
                }
            }
        }
    }
}
