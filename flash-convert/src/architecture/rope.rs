//! RoPE scaling, as config.json describes it.

use serde::Serialize;

/// `rope_scaling` of config.json.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub(crate) enum RopeScaling {
    /// Divides all positions by one factor.
    Linear { factor: f64 },
    /// Divides low frequencies by a factor, keeps high ones, and interpolates between them.
    Llama3(Llama3),
}

/// Parameters of Llama 3's RoPE scaling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low_freq_factor: f64,
    pub(super) high_freq_factor: f64,
    pub(super) original_max_position_embeddings: u32,
}

impl Llama3 {
    /// Returns the divisor of the frequency with wavelength `wave_len`, in tokens.
    pub(super) fn divisor(&self, wave_len: f64) -> f64 {
        let context = f64::from(self.original_max_position_embeddings);
        if wave_len < context / self.high_freq_factor {
            return 1.0;
        }
        if wave_len > context / self.low_freq_factor {
            return self.factor;
        }
        let smooth =
            (context / wave_len - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }
}
