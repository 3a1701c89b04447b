//! Rotary position embedding.

use std::sync::Arc;

use mlx_rs::error::Exception;
use mlx_rs::{Array, fast};

/// Rotary position embedding with given frequencies.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    freqs: Option<Array>,
    kernel: Arc<flash_kernels::Rope>,
}

/// Frequencies of a rotary embedding.
#[derive(Debug)]
pub(crate) enum Frequencies {
    /// Powers of the base, as in the original RoPE.
    Plain,
    /// The reciprocal of each frequency: tokens per radian.
    Given(Vec<f32>),
}

impl Rope {
    /// Creates a rotation of the first `dims` elements of a head, in adjacent pairs if `traditional`. Positions are
    /// multiplied by `scale`, and rotated elements by `magnitude`.
    pub(crate) fn new(
        dims: i32,
        theta: f32,
        traditional: bool,
        frequencies: Frequencies,
        scale: f32,
        magnitude: f32,
    ) -> Self {
        let (base, freqs, inverse_frequencies) = match frequencies {
            Frequencies::Given(freqs) => {
                let inverse = freqs.iter().map(|freq| 1.0 / freq).collect();
                (None, Some(Array::from_slice(&freqs, &[freqs.len() as i32])), inverse)
            }
            // In f32, as MLX computes them.
            Frequencies::Plain => {
                let step = theta.ln() / (dims / 2) as f32;
                (Some(theta), None, (0..dims / 2).map(|i| (-(i as f32) * step).exp()).collect())
            }
        };
        let kernel = Arc::new(flash_kernels::Rope { inverse_frequencies, scale, magnitude, traditional });
        Self { dims, traditional, base, scale, freqs, kernel }
    }

    /// Returns the parameters of the CPU kernels.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "used by the CPU kernels"))]
    pub(crate) fn kernel(&self) -> &Arc<flash_kernels::Rope> {
        &self.kernel
    }

    /// Rotates `x`, `[1, heads, n, head_dim]`, whose first token is at `position`.
    pub(crate) fn apply(&self, x: &Array, position: usize) -> Result<Array, Exception> {
        let rotate = |x: &Array| {
            let Self { dims, traditional, base, scale, .. } = *self;
            fast::rope(x, dims, traditional, base, scale, position as i32, self.freqs.as_ref())
        };
        let magnitude = self.kernel.magnitude;
        if magnitude == 1.0 {
            return rotate(x);
        }
        let head_dim = x.dim(-1);
        let factors: Vec<f32> = (0..head_dim).map(|i| if i < self.dims { magnitude } else { 1.0 }).collect();
        rotate(&x.multiply(Array::from_slice(&factors, &[head_dim]))?)
    }
}
