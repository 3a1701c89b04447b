//! Quantization settings of a configuration.

use std::collections::HashMap;

use flash_io::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Storage format of a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedFormat {
    /// Number of columns that share a scale.
    pub group_size: i32,
    /// Bits per code.
    pub bits: i32,
    /// Interpretation of codes and scales.
    #[serde(default)]
    pub mode: QuantizedMode,
}

/// Interpretation of the codes and scales of a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantizedMode {
    /// Integer codes; each group has a scale and a bias.
    #[default]
    Affine,
    /// 4-bit float codes (E2M1); each group has a power-of-two scale (E8M0).
    Mxfp4,
    /// 8-bit float codes (E4M3); each group has a power-of-two scale (E8M0).
    Mxfp8,
    /// 4-bit float codes (E2M1) in groups of 16, each with an 8-bit float scale (E4M3).
    Nvfp4,
}

impl QuantizedFormat {
    /// Returns the number of 32-bit words of codes in a row of `n_columns` columns.
    pub(crate) fn row_words(self, n_columns: i32) -> i32 {
        (i64::from(n_columns) * i64::from(self.bits) / 32) as i32
    }

    /// Infers the format of a matrix of `n_columns` columns whose rows have `row_words` words of codes and `row_groups`
    /// scales of `scale_dtype`, as mlx-lm's `infer_quant_config`; `None` if no format fits.
    pub(crate) fn infer(n_columns: i32, row_words: u64, row_groups: u64, scale_dtype: Dtype) -> Option<Self> {
        let columns = u64::try_from(n_columns).ok().filter(|columns| *columns > 0)?;
        let exact = |dividend: u64, divisor: u64| {
            let is_exact = divisor != 0 && dividend.is_multiple_of(divisor);
            is_exact.then(|| i32::try_from(dividend / divisor).ok()).flatten()
        };
        let bits = exact(row_words.checked_mul(32)?, columns)?;
        let group_size = exact(columns, row_groups)?;
        let mode = match (scale_dtype, bits, group_size) {
            (Dtype::U8, 4, 16) => QuantizedMode::Nvfp4,
            (Dtype::U8, 4, 32) => QuantizedMode::Mxfp4,
            (Dtype::U8, 8, 32) => QuantizedMode::Mxfp8,
            (Dtype::U8, ..) => return None,
            _ => QuantizedMode::Affine,
        };
        Self { group_size, bits, mode }.check().ok()
    }

    /// Checks that the group size and bits fit the mode.
    fn check(self) -> Result<Self, &'static str> {
        let Self { group_size, bits, mode } = self;
        match mode {
            QuantizedMode::Affine if !matches!(bits, 2..=6 | 8) => Err("affine codes have 2 to 6 or 8 bits"),
            QuantizedMode::Affine if !matches!(group_size, 32 | 64 | 128) => {
                Err("affine groups have 32, 64 or 128 columns")
            }
            QuantizedMode::Mxfp4 if (bits, group_size) != (4, 32) => Err("mxfp4 has 4 bits and groups of 32"),
            QuantizedMode::Mxfp8 if (bits, group_size) != (8, 32) => Err("mxfp8 has 8 bits and groups of 32"),
            QuantizedMode::Nvfp4 if (bits, group_size) != (4, 16) => Err("nvfp4 has 4 bits and groups of 16"),
            _ => Ok(self),
        }
    }
}

/// Quantization formats of a model: a default, and overrides by path.
#[derive(Debug, Clone)]
pub(super) struct Quantization {
    pub default: QuantizedFormat,
    pub by_path: HashMap<String, QuantizedFormat>,
}

/// Returns the quantization settings, and the name of the field that holds them.
///
/// mlx-lm writes `quantization`, and `quantization_config` beside it for Hugging Face; other tools write only the
/// second, for methods of their own, which have a `quant_method`.
pub(super) fn object_of(json: &Map<String, Value>) -> Option<(&'static str, &Value)> {
    let own = json.get("quantization").map(|value| ("quantization", value));
    let other = || {
        let value = json.get("quantization_config")?;
        (value.get("group_size").is_some() && value.get("quant_method").is_none())
            .then_some(("quantization_config", value))
    };
    own.or_else(other)
}

impl Quantization {
    /// Parses the settings: `group_size`, `bits` and `mode` of the default, and an object with the same fields for each
    /// path that differs. `false` for a path means that the matrix is not quantized, which its tensors show as well.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("it must be an object")?;
        let (mut default, mut by_path) = (Map::new(), HashMap::new());
        for (key, value) in object {
            match (key.as_str(), value) {
                ("group_size" | "bits" | "mode", _) => drop(default.insert(key.clone(), value.clone())),
                (path, Value::Object(_)) => {
                    let given =
                        format(value.clone()).map_err(|expected| format!("at {path:?} {expected}"))?;
                    by_path.insert(path.to_owned(), given);
                }
                (_, Value::Bool(_)) if key.contains('.') || key == "lm_head" => {}
                _ => return Err(format!("{key:?} is not a known setting")),
            }
        }
        Ok(Self { default: format(Value::Object(default))?, by_path })
    }
}

/// Parses and checks one format.
fn format(mut value: Value) -> Result<QuantizedFormat, String> {
    // Modes with a single format may leave out `bits` and `group_size`.
    let mode = value.get("mode").and_then(Value::as_str).unwrap_or("affine");
    let implied = match mode {
        "mxfp4" => Some((4, 32)),
        "mxfp8" => Some((8, 32)),
        "nvfp4" => Some((4, 16)),
        _ => None,
    };
    if let (Some((bits, group_size)), Some(object)) = (implied, value.as_object_mut()) {
        object.entry("bits").or_insert_with(|| bits.into());
        object.entry("group_size").or_insert_with(|| group_size.into());
    }
    let format = QuantizedFormat::deserialize(value).map_err(|error| {
        format!("it must have group_size, bits, and the mode affine, mxfp4, mxfp8 or nvfp4: {error}")
    })?;
    Ok(format.check()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn format_follows_from_shapes_as_in_mlx_lm() {
        let affine =
            |group_size, bits| Some(QuantizedFormat { group_size, bits, mode: QuantizedMode::Affine });
        assert_eq!(QuantizedFormat::infer(256, 32, 4, Dtype::F16), affine(64, 4));
        assert_eq!(QuantizedFormat::infer(256, 48, 2, Dtype::F32), affine(128, 6));
        let mode =
            |words, groups| QuantizedFormat::infer(256, words, groups, Dtype::U8).map(|found| found.mode);
        assert_eq!(mode(32, 16), Some(QuantizedMode::Nvfp4));
        assert_eq!(mode(32, 8), Some(QuantizedMode::Mxfp4));
        assert_eq!(mode(64, 8), Some(QuantizedMode::Mxfp8));
        assert_eq!(mode(64, 16), None);
        assert_eq!(QuantizedFormat::infer(256, 56, 4, Dtype::F16), None, "7 bits");
        assert_eq!(QuantizedFormat::infer(256, 32, 3, Dtype::F16), None, "groups that do not divide a row");
        assert_eq!(QuantizedFormat::infer(0, 32, 3, Dtype::F16), None);
    }

    #[test]
    fn unknown_settings_are_rejected_by_name() {
        for (value, named) in [
            (json!({ "group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": true }), "global_scale"),
            (json!({ "group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": 2.0 }), "global_scale"),
            (json!({ "group_size": 64, "bits": 4, "zero_point": "mid" }), "zero_point"),
            (json!({ "group_size": 64, "bits": 4, "a.b": { "group_size": 64, "bits": 4, "act": 8 } }), "act"),
        ] {
            let error = Quantization::parse(&value).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let only_mode = Quantization::parse(&json!({ "mode": "nvfp4" })).unwrap().default;
        assert_eq!((only_mode.bits, only_mode.group_size), (4, 16));
        let skipped = json!({ "group_size": 64, "bits": 4, "lm_head": false });
        assert!(Quantization::parse(&skipped).is_ok());
        let skipped = json!({ "group_size": 64, "bits": 4, "model.layers.0.mlp.gate": false });
        assert!(Quantization::parse(&skipped).is_ok());
    }
}
