//! `config.json`: what a model directory says of itself.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::python_json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ModelError;

/// The name of the file.
pub(crate) const FILE: &str = "config.json";

/// The configuration of a model, as read.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    json: Value,
    model_type: String,
    quantization: Option<Quantization>,
}

/// How a quantised matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct QuantizedFormat {
    /// Columns that share a scale.
    pub group_size: i32,
    /// Bits of a code.
    pub bits: i32,
    /// What codes and scales stand for.
    #[serde(default)]
    pub mode: QuantizedMode,
}

/// What the codes and scales of a quantised matrix stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantizedMode {
    /// Codes are integers; each group has a scale and a bias.
    #[default]
    Affine,
    /// Codes are numbers of four bits; each group has a power of two for its scale.
    Mxfp4,
    /// The same with numbers of eight bits.
    Mxfp8,
    /// Codes as in mxfp4, in groups of 16, whose scales are numbers of eight bits.
    Nvfp4,
}

impl QuantizedFormat {
    /// Words of codes in a row of so many numbers.
    pub(crate) fn row_words(self, n_columns: i32) -> i32 {
        (i64::from(n_columns) * i64::from(self.bits) / 32) as i32
    }

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

/// The formats of a model: one for all matrices, and others for some.
#[derive(Debug, Clone)]
struct Quantization {
    default: QuantizedFormat,
    by_path: HashMap<String, QuantizedFormat>,
}

impl Config {
    /// Reads the configuration in `dir`.
    ///
    /// # Errors
    /// [`ModelError::File`], [`ModelError::Json`], or [`ModelError::ConfigField`] if `model_type` or the quantisation
    /// is not what it should be.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(FILE);
        let text =
            fs::read_to_string(&path).map_err(|error| ModelError::File { path: path.clone(), error })?;
        let json: Value =
            python_json(&text).map_err(|error| ModelError::Json { path: path.clone(), error })?;
        let field = |field, given: &Value, expected| ModelError::ConfigField {
            path: path.clone(),
            field,
            given: given.to_string(),
            expected,
        };
        let model_type = json["model_type"]
            .as_str()
            .ok_or_else(|| field("model_type", &json["model_type"], "it must be a string"))?
            .to_owned();
        let quantization = match quantization_of(&json) {
            None => None,
            Some(value) => {
                Some(Quantization::parse(value).map_err(|expected| field("quantization", value, expected))?)
            }
        };
        Ok(Self { path, json, model_type, quantization })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// The fields that an architecture needs.
    ///
    /// # Errors
    /// [`ModelError::Json`], which names the field that is missing or wrong.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        T::deserialize(&self.json).map_err(|error| ModelError::Json { path: self.path.clone(), error })
    }

    /// How the matrix at `path` is stored if it is quantised; none if no quantisation is configured at all.
    pub fn quantized_format(&self, path: &str) -> Option<QuantizedFormat> {
        let quantization = self.quantization.as_ref()?;
        Some(quantization.by_path.get(path).copied().unwrap_or(quantization.default))
    }

    /// Checks a number that must be positive.
    pub(crate) fn positive(&self, field: &'static str, value: f32) -> Result<(), ModelError> {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(self.field_error(field, &value, "it must be a positive number"))
    }

    /// Checks a length, which must be positive.
    pub(crate) fn length(&self, field: &'static str, length: i32) -> Result<i32, ModelError> {
        if length > 0 {
            return Ok(length);
        }
        Err(self.field_error(field, &length, "it must be positive"))
    }

    /// An error about a field of this file.
    pub(crate) fn field_error(
        &self,
        field: &'static str,
        given: &dyn std::fmt::Display,
        expected: &'static str,
    ) -> ModelError {
        ModelError::ConfigField { path: self.path.clone(), field, given: given.to_string(), expected }
    }
}

/// mlx-lm writes `quantization`, and `quantization_config` beside it for Hugging Face; other tools write only the second,
/// for methods of their own, which has no `group_size`.
fn quantization_of(json: &Value) -> Option<&Value> {
    let own = json.get("quantization").filter(|value| !value.is_null());
    own.or_else(|| json.get("quantization_config").filter(|value| value.get("group_size").is_some()))
}

impl Quantization {
    fn parse(value: &Value) -> Result<Self, &'static str> {
        let format = |value: &Value| {
            let format = QuantizedFormat::deserialize(value);
            format
                .map_err(|_| "it must have group_size, bits, and the mode affine, mxfp4, mxfp8 or nvfp4")?
                .check()
        };
        let by_path = value
            .as_object()
            .ok_or("it must be an object")?
            .iter()
            .filter(|(_, value)| value.is_object())
            .map(|(path, value)| Ok((path.clone(), format(value)?)))
            .collect::<Result<_, &'static str>>()?;
        Ok(Self { default: format(value)?, by_path })
    }
}
