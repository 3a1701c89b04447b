//! Recovers RoPE scaling from GGUF metadata and the tensor of frequency factors.
//!
//! For Llama 3's scaling GGUF stores only the factor of each frequency, in the tensor `rope_freqs.weight`. The four
//! parameters of config.json are recovered from these factors and accepted only if they reproduce them.
//! Source of the formula: `mlx_lm/models/rope_utils.py` (`Llama3RoPE`), and the converter of llama.cpp.

use std::f64::consts::TAU;

use super::config::{Config, shortest};
use super::rope::{Llama3, RopeScaling};
use super::settings::Settings;
use super::tensors::ROPE_FREQS;
use crate::error::ConvertError;
use crate::gguf::{BlockFormat, GgufFile};

/// Relative tolerance of recovered factors: the stored ones were rounded to `f32`.
const FACTOR_TOLERANCE: f64 = 1e-5;

/// Relative distance within which a recovered parameter is rounded to an integer.
const SNAP_TOLERANCE: f64 = 1e-3;

/// Parameters of every published Llama 3, tried first; the fallback if too few frequencies lie between the two limits.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_CONTEXT: u32 = 8192;

/// Returns the scaling described by the metadata and the factor tensor, if any.
pub(super) fn scaling(settings: &Settings<'_>, config: &Config) -> Result<Option<RopeScaling>, ConvertError> {
    let gguf = settings.gguf;
    let linear = linear(settings)?;
    let Some(factors) = factors(gguf, config)? else {
        return Ok(linear);
    };
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(linear);
    }
    let fitted = fit(&factors, &wave_lens(config));
    match (linear, fitted) {
        (None, Some(llama3)) => Ok(Some(RopeScaling::Llama3(llama3))),
        _ => Err(ConvertError::RopeFactors { path: gguf.path().to_owned(), tensor: ROPE_FREQS.to_owned() }),
    }
}

/// Returns the linear scaling in the metadata, if any.
fn linear(settings: &Settings<'_>) -> Result<Option<RopeScaling>, ConvertError> {
    let (kind_name, factor_name) = ("rope.scaling.type", "rope.scaling.factor");
    let kind = settings.string(kind_name)?;
    let mut factor = settings.float(factor_name)?;
    if factor.is_none() {
        factor = settings.float("rope.scale_linear")?;
    }
    match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => Ok(None),
        (None | Some("linear"), Some(factor)) if factor.is_finite() && factor > 0.0 => {
            Ok(Some(RopeScaling::Linear { factor: shortest(factor) }))
        }
        (None | Some("linear"), Some(factor)) => {
            Err(settings.unsupported(factor_name, factor.to_string(), "it must be a positive number"))
        }
        (Some(other), _) => {
            let reason = "only none, linear and Llama 3's scaling can be converted";
            Err(settings.unsupported(kind_name, format!("{other:?}"), reason))
        }
    }
}

/// Reads the factor tensor, which has one value per frequency.
fn factors(gguf: &GgufFile, config: &Config) -> Result<Option<Vec<f64>>, ConvertError> {
    let Some(tensor) = gguf.tensor(ROPE_FREQS) else {
        return Ok(None);
    };
    let n_freqs = u64::from(config.head_dim / 2);
    if tensor.dims != [n_freqs] {
        return Err(ConvertError::TensorShape {
            path: gguf.path().to_owned(),
            tensor: tensor.name.clone(),
            wanted: vec![n_freqs],
            found: tensor.dims.clone(),
        });
    }
    if BlockFormat::of(tensor.kind) != Some(BlockFormat::F32) {
        return Err(ConvertError::tensor_type(gguf.path(), tensor, "F32"));
    }
    let mut factors = Vec::new();
    for freq_idx in 0..n_freqs {
        let mut bytes = [0; 4];
        gguf.read_at(tensor, 4 * freq_idx, &mut bytes)?;
        factors.push(f64::from(f32::from_le_bytes(bytes)));
    }
    Ok(Some(factors))
}

/// Returns the wavelength of each frequency, in tokens.
fn wave_lens(config: &Config) -> Vec<f64> {
    let head_dim = f64::from(config.head_dim);
    (0..config.head_dim / 2)
        .map(|freq_idx| TAU * config.rope_theta.powf(2.0 * f64::from(freq_idx) / head_dim))
        .collect()
}

/// Returns the parameters that reproduce `factors`, if any do.
///
/// Between the limits the inverse factor is linear in the inverse wavelength, so two frequencies there determine the
/// last three parameters up to a common multiple, which `low_freq_factor = 1` fixes.
fn fit(factors: &[f64], wave_lens: &[f64]) -> Option<Llama3> {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let smooths: Vec<(f64, f64)> = factors
        .iter()
        .zip(wave_lens)
        .filter(|(f, _)| **f > 1.0 + FACTOR_TOLERANCE && **f < factor * (1.0 - FACTOR_TOLERANCE))
        .map(|(f, wave_len)| (1.0 / wave_len, (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let published = Llama3 {
        factor,
        low_freq_factor: LOW_FREQ_FACTOR,
        high_freq_factor: HIGH_FREQ_FACTOR,
        original_max_position_embeddings: ORIGINAL_CONTEXT,
    };
    let recovered = match (smooths.first(), smooths.last()) {
        (Some((x0, s0)), Some((x1, s1))) if x0 != x1 => {
            let slope = (s0 - s1) / (x0 - x1);
            let width = LOW_FREQ_FACTOR / (slope * x0 - s0);
            Llama3 {
                high_freq_factor: snap(LOW_FREQ_FACTOR + width),
                // The cast saturates; a saturated value does not reproduce the factors and is rejected below.
                original_max_position_embeddings: (slope * width).round() as u32,
                ..published
            }
        }
        _ => published,
    };
    let matches = |fitted: &Llama3| {
        factors
            .iter()
            .zip(wave_lens)
            .all(|(f, wave_len)| (fitted.divisor(*wave_len) - f).abs() <= FACTOR_TOLERANCE * f.abs())
    };
    [published, recovered].into_iter().find(matches)
}

/// Rounds `value` to an integer if it is within [`SNAP_TOLERANCE`].
fn snap(value: f64) -> f64 {
    if (value - value.round()).abs() <= SNAP_TOLERANCE * value.abs() { value.round() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns factors as llama.cpp's converter writes them, and their wavelengths.
    fn stored(llama3: Llama3, theta: f64, head_dim: u32) -> (Vec<f64>, Vec<f64>) {
        let wave_lens: Vec<f64> = (0..head_dim / 2)
            .map(|idx| TAU * theta.powf(2.0 * f64::from(idx) / f64::from(head_dim)))
            .collect();
        let factors = wave_lens.iter().map(|len| f64::from(llama3.divisor(*len) as f32));
        (factors.collect(), wave_lens)
    }

    #[test]
    fn the_settings_of_llama_3_are_recovered_from_their_factors() {
        for (factor, low, high, context, head_dim) in [
            (8.0, 1.0, 4.0, 8192, 128),
            (32.0, 1.0, 4.0, 8192, 64),
            (32.0, 1.0, 4.0, 8192, 16),
            (16.0, 1.0, 2.0, 4096, 128),
            (8.0, 1.0, 8.0, 32768, 128),
        ] {
            let llama3 = Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            };
            let (factors, wave_lens) = stored(llama3, 500_000.0, head_dim);
            assert_eq!(fit(&factors, &wave_lens), Some(llama3));
        }
    }

    #[test]
    fn settings_are_recovered_but_for_a_common_multiple() {
        let llama3 = Llama3 {
            factor: 8.0,
            low_freq_factor: 2.0,
            high_freq_factor: 8.0,
            original_max_position_embeddings: 8192,
        };
        let (factors, wave_lens) = stored(llama3, 500_000.0, 128);
        let fitted = fit(&factors, &wave_lens).unwrap();
        assert_eq!(fitted.high_freq_factor, 4.0);
        assert_eq!(fitted.original_max_position_embeddings, 4096);
    }

    #[test]
    fn other_factors_are_not_taken_for_llama_3() {
        let wave_lens: Vec<f64> = (0..32).map(|idx| TAU * 10f64.powf(f64::from(idx) / 6.0)).collect();
        for factors in [
            (0..32).map(|idx| 1.0 + f64::from(idx)).collect::<Vec<_>>(),
            vec![0.5; 32],
            vec![2.0; 32],
            vec![f64::NAN; 32],
            vec![f64::INFINITY; 32],
        ] {
            assert_eq!(fit(&factors, &wave_lens), None, "{factors:?}");
        }
    }
}
