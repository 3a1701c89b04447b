//! What the attention of all architectures shares.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as Mask};
use serde::Deserialize;

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

/// Causal attention of new tokens over all so far. `queries` is `[1, heads, n, head_dim]`, `keys` and `values` are
/// `[1, kv_heads, n, head_dim]`, after RoPE; the result is `[1, n, heads · head_dim]`.
pub(crate) fn attend(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    kv: &mut LayerKv,
    position: usize,
) -> Result<Array, Exception> {
    let n = queries.dim(2);
    let (keys, values) = kv.append(keys, values, position)?;
    let attended = if n == 1 {
        fast::scaled_dot_product_attention(queries, keys, values, scale, None::<Mask<'_>>, None)?
    } else {
        fast::scaled_dot_product_attention(queries, keys, values, scale, Mask::Causal, None)?
    };
    attended.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, n, -1])
}

/// `[1, n, heads · head_dim]` to `[1, heads, n, head_dim]`.
pub(crate) fn split_heads(x: &Array, n_heads: i32) -> Result<Array, Exception> {
    x.reshape(&[1, x.dim(1), n_heads, -1])?.transpose_axes(&[0, 2, 1, 3])
}

/// Rotary position embedding.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    dims: i32,
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    freqs: Option<Array>,
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
        let plain = Self { dims, traditional, base: Some(theta), scale: 1.0, freqs: None };
        let Some(scaling) = scaling else { return Ok(plain) };
        let kind = scaling.old_type.as_deref().or(scaling.rope_type.as_deref()).unwrap_or("default");
        if kind == "default" {
            return Ok(plain);
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
            "linear" => Ok(Self { scale: 1.0 / factor, ..plain }),
            "llama3" => Ok(Self { base: None, freqs: Some(scaling.llama3(dims, theta, factor)), ..plain }),
            other => {
                Err(config.field_error("rope_scaling", &other, "default, linear and llama3 are supported"))
            }
        }
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
    fn llama3(&self, dims: i32, theta: f32, factor: f32) -> Array {
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
        let freqs: Vec<f32> = (0..dims / 2).map(stretch).collect();
        Array::from_slice(&freqs, &[dims / 2])
    }
}
