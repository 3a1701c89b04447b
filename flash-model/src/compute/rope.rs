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

/// The frequencies of a rotation.
#[derive(Debug)]
pub(crate) enum Frequencies {
    /// From the base.
    Plain,
    /// Each by itself: how many tokens a radian takes.
    Given(Vec<f32>),
}

impl Rope {
    /// A rotation of the first `dims` numbers of a head, in neighbouring pairs if it is `traditional`. Positions are multiplied by
    /// `scale`, and what is rotated by `magnitude`.
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

    /// The rotation as the CPU kernels take it.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "used by the CPU kernels"))]
    pub(crate) fn kernel(&self) -> &Arc<flash_kernels::Rope> {
        &self.kernel
    }

    /// Rotates `x`, `[1, heads, n, head_dim]`, whose first token stands at `position`.
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
