//! What the attention of all architectures shares.

use std::sync::Arc;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::fast;
use serde::Deserialize;

use crate::compute::{AttentionInput, Backend};
use crate::kv::LayerKv;
use crate::{Config, ModelError};

/// What a layer gets to compute with.
#[derive(Debug)]
pub(crate) struct LayerInput<'a> {
    /// Hidden states, `[1, n, hidden]`.
    pub x: &'a Array,
    /// The layer's keys and values.
    pub kv: &'a mut LayerKv,
    /// Tokens before the first of these.
    pub position: usize,
}

/// What comes between the projections of an attention layer: positions, the KV cache, the softmax.
#[derive(Debug)]
pub(crate) struct CausalAttention {
    pub backend: Backend,
    pub n_heads: i32,
    /// Each is shared by a group of heads.
    pub n_kv_heads: i32,
    /// What scores are multiplied by.
    pub scale: f32,
    pub rope: Rope,
}

impl CausalAttention {
    /// Attends from the new tokens to all so far. `queries` is `[1, n, heads · head_dim]`, `keys` and `values` are
    /// `[1, n, kv_heads · head_dim]`, as the projections gave them; the result has the shape of the queries.
    pub(crate) fn forward(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        kv: &mut LayerKv,
        position: usize,
    ) -> Result<Array, Exception> {
        self.backend.attend(self, AttentionInput { queries, keys, values, position }, kv)
    }
}

/// Rotary position embedding.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    freqs: Option<Array>,
    kernel: Arc<flash_kernels::Rope>,
}

/// `rope_scaling` of a configuration.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RopeScaling {
    /// Older configurations call it `type`, and that name wins, as in mlx-lm.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
}

impl Rope {
    pub(crate) fn new(
        dims: i32,
        theta: f32,
        traditional: bool,
        scaling: Option<&RopeScaling>,
        config: &Config,
    ) -> Result<Self, ModelError> {
        let of = |base, scale, freqs: Option<Vec<f32>>| {
            let inverse_frequencies = match &freqs {
                Some(freqs) => freqs.iter().map(|freq| 1.0 / freq).collect(),
                // In f32, as MLX computes them.
                None => {
                    (0..dims / 2).map(|i| (-(i as f32) * (theta.ln() / (dims / 2) as f32)).exp()).collect()
                }
            };
            let kernel = Arc::new(flash_kernels::Rope { inverse_frequencies, scale, traditional });
            let freqs = freqs.map(|freqs| Array::from_slice(&freqs, &[freqs.len() as i32]));
            Self { dims, traditional, base, scale, freqs, kernel }
        };
        let plain = || of(Some(theta), 1.0, None);
        let Some(scaling) = scaling else { return Ok(plain()) };
        let kind = scaling.old_type.as_deref().or(scaling.rope_type.as_deref()).unwrap_or("default");
        if kind == "default" {
            return Ok(plain());
        }
        let factor =
            scaling.factor.filter(|factor| factor.is_finite() && *factor > 0.0).ok_or_else(|| {
                config.field_error(
                    "rope_scaling.factor",
                    &format!("{:?}", scaling.factor),
                    "it must be a positive number",
                )
            })?;
        match kind {
            "linear" => Ok(of(Some(theta), 1.0 / factor, None)),
            "llama3" => Ok(of(None, 1.0, Some(scaling.llama3(dims, theta, factor)))),
            other => {
                Err(config.field_error("rope_scaling", &other, "default, linear and llama3 are supported"))
            }
        }
    }

    /// What the kernels take.
    pub(crate) fn kernel(&self) -> &Arc<flash_kernels::Rope> {
        &self.kernel
    }

    /// Rotates `x`, `[1, heads, n, head_dim]`, whose first token stands at `position`.
    pub(crate) fn apply(&self, x: &Array, position: usize) -> Result<Array, Exception> {
        fast::rope(
            x,
            self.dims,
            self.traditional,
            self.base,
            self.scale,
            position as i32,
            self.freqs.as_ref(),
        )
    }
}

impl RopeScaling {
    /// Llama 3.1's frequencies: long wavelengths stretched by the factor, short ones kept, and a ramp between. As
    /// mlx-lm's `Llama3RoPE`, in f32.
    fn llama3(&self, dims: i32, theta: f32, factor: f32) -> Vec<f32> {
        let low = self.low_freq_factor.unwrap_or(1.0);
        let high = self.high_freq_factor.unwrap_or(4.0);
        let old_context = self.original_max_position_embeddings.unwrap_or(8192.0);
        let stretch = |idx: i32| {
            let freq = theta.powf((2 * idx) as f32 / dims as f32);
            let wavelength = 2.0 * std::f32::consts::PI * freq;
            if wavelength > old_context / low {
                freq * factor
            } else if wavelength > old_context / high {
                let smooth = (old_context / wavelength - low) / (high - low);
                freq / ((1.0 - smooth) / factor + smooth)
            } else {
                freq
            }
        };
        (0..dims / 2).map(stretch).collect()
    }
}
