//! The configuration of a model, `config.json`.
//!
//! No field is ignored silently: a [`Config`] tracks the fields that were read, and [`Config::refuse_unread`] rejects
//! unread ones that may change the output of layers.

mod fields;
mod quantization;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flash_io::{IoError, LfsPointer, parse_python_json};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::ModelError;

use fields::Verdict;
use quantization::Quantization;

pub use quantization::{QuantizedFormat, QuantizedMode};

/// File name of the configuration.
pub(crate) const FILE: &str = "config.json";

/// Field with the configuration of the text model, in multimodal models.
const TEXT: &str = "text_config";

/// The only supported `quant_method`: that of the published `gpt_oss` models.
const PUBLISHED_METHOD: &str = "mxfp4";

/// The configuration of a model. Fields that are `null` count as absent.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    json: Map<String, Value>,
    /// Fields of the text model that are `null`.
    nulls: BTreeSet<String>,
    /// Fields that have not been read yet; those inside of [`TEXT`] are prefixed with it and a dot.
    unread: Arc<Mutex<BTreeSet<String>>>,
    model_type: String,
    quantization: Option<Quantization>,
}

/// The object that fields are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// The top-level object.
    Top,
    /// The object [`TEXT`] if it exists, else the top-level object.
    Text,
}

impl Config {
    /// Reads the configuration in `dir`.
    ///
    /// # Errors
    /// [`ModelError::File`], [`IoError::LfsPointer`], [`ModelError::Json`], or [`ModelError::ConfigField`] if
    /// `model_type` or the quantization is invalid.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(FILE);
        let text =
            fs::read_to_string(&path).map_err(|error| ModelError::File { path: path.clone(), error })?;
        if let Some(pointer) = LfsPointer::detect(text.as_bytes()) {
            return Err(IoError::LfsPointer { path, pointer }.into());
        }
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, ModelError> {
        let json: Map<String, Value> =
            parse_python_json(text).map_err(|error| ModelError::Json { path: path.clone(), error })?;
        let nulls = null_names(text_of(&json).unwrap_or(&json));
        let json = normalized(json);
        let field = |field, given: &Value, expected: String| ModelError::ConfigField {
            path: path.clone(),
            field: String::from(field),
            given: given.to_string(),
            expected,
        };
        let given = json.get("model_type").unwrap_or(&Value::Null);
        let model_type = given
            .as_str()
            .ok_or_else(|| field("model_type", given, "it must be a string".to_owned()))?
            .to_owned();
        let quantization = match quantization::object_of(&json) {
            None => None,
            Some((name, value)) => {
                Some(Quantization::parse(value).map_err(|expected| field(name, value, expected))?)
            }
        };
        let method = json.get("quantization_config").and_then(|config| config.get("quant_method"));
        if let Some(method) = method.filter(|method| quantization.is_none() && *method != PUBLISHED_METHOD) {
            let expected = "weights of this method are not supported directly: `flash-cli convert --hf` says whether it \
                            converts them";
            return Err(field("quantization_config.quant_method", method, expected.to_owned()));
        }
        let mut unread: BTreeSet<String> = json.keys().cloned().collect();
        if let Some(text) = text_of(&json) {
            unread.remove(TEXT);
            unread.extend(text.keys().map(|name| format!("{TEXT}.{name}")));
        }
        Ok(Self { path, json, nulls, unread: Arc::new(Mutex::new(unread)), model_type, quantization })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `model_type`, which names the architecture.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// Deserializes the fields of the text model that `T` has.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] with the field that is missing or invalid.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        self.args_at(Level::Text)
    }

    /// Deserializes top-level fields, also in multimodal models, whose text model has an object of its own.
    pub(crate) fn top_args<T: DeserializeOwned>(&self) -> Result<T, ModelError> {
        self.args_at(Level::Top)
    }

    fn args_at<T: DeserializeOwned>(&self, level: Level) -> Result<T, ModelError> {
        let (prefix, fields) = self.fields(level);
        let mut ignored = BTreeSet::new();
        // `serde_ignored` writes an `Option` in a path as a question mark.
        let mut note = |path: serde_ignored::Path<'_>| {
            ignored.insert(path.to_string().replace(".?", "").replace("?.", ""));
        };
        let parsed = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(fields, &mut note));
        let parsed = parsed.map_err(|error| {
            let name = error.path().to_string();
            let expected = error.into_inner().to_string();
            // serde names a missing field only in the message.
            let missing = expected.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            let json = Value::Object(fields.clone());
            let given = json.pointer(&format!("/{}", name.replace('.', "/")));
            let given =
                given.filter(|_| missing.is_none()).map_or_else(|| "missing".to_owned(), Value::to_string);
            let within = if name == "." { String::new() } else { name };
            let field = match (within.as_str(), missing) {
                ("", missing) => missing.unwrap_or(FILE).to_owned(),
                (within, Some(missing)) => format!("{within}.{missing}"),
                (within, None) => within.to_owned(),
            };
            self.field_error(&format!("{prefix}{field}"), &given, expected)
        })?;
        let read = fields.keys().filter(|name| !ignored.contains(name.as_str()));
        let mut unread = self.unread.lock();
        for name in read {
            unread.remove(&format!("{prefix}{name}"));
        }
        Ok(parsed)
    }

    /// Returns the fields at a level, and their prefix in errors.
    fn fields(&self, level: Level) -> (&'static str, &Map<String, Value>) {
        match text_of(&self.json) {
            Some(text) if level == Level::Text => ("text_config.", text),
            _ => ("", &self.json),
        }
    }

    /// Returns whether a field of the text model is `null`, for fields whose default differs from `null`.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.nulls.contains(field)
    }

    /// Checks a field of which a family supports only the `accepted` values. An absent field is accepted.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] for any other value.
    pub(crate) fn expect(&self, field: &str, accepted: &[Value]) -> Result<(), ModelError> {
        self.skip(field);
        let (prefix, fields) = self.fields(Level::Text);
        let Some(given) = fields.get(field).filter(|given| !accepted.contains(given)) else { return Ok(()) };
        let accepted: Vec<String> = accepted.iter().map(Value::to_string).collect();
        let expected = format!("{} supports {}", self.model_type, accepted.join(" or "));
        Err(self.field_error(&format!("{prefix}{field}"), given, expected))
    }

    /// Marks a field as read that the family does not use.
    pub(crate) fn skip(&self, field: &str) {
        let (prefix, _) = self.fields(Level::Text);
        self.unread.lock().remove(&format!("{prefix}{field}"));
    }

    /// Checks that no unread field may change the output of layers. Unread fields of unknown meaning are logged.
    ///
    /// # Errors
    /// [`ModelError::UnknownField`] with the first such field.
    pub(crate) fn refuse_unread(&self) -> Result<(), ModelError> {
        // Fields outside of the text model's object do not apply to it, in mlx-lm and transformers as well.
        let (prefix, fields) = self.fields(Level::Text);
        for name in self.unread.lock().iter().filter(|name| name.starts_with(prefix)) {
            let leaf = &name[prefix.len()..];
            let value = fields.get(leaf).unwrap_or(&Value::Null);
            match fields::classify(leaf, value) {
                Verdict::Harmless => {}
                Verdict::Unknown => {
                    tracing::warn!("{}: field {name} is not known, and ignored", self.path.display());
                }
                Verdict::Refused => {
                    return Err(ModelError::UnknownField {
                        path: self.path.clone(),
                        field: name.clone(),
                        given: shortened(value),
                        model_type: self.model_type.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the format that the configuration lists for the matrix at `path`, if any.
    pub(crate) fn listed_format(&self, path: &str) -> Option<QuantizedFormat> {
        self.quantization.as_ref()?.by_path.get(path).copied()
    }

    /// Returns the format of quantized matrices that are not listed by path; `None` without quantization settings.
    pub(crate) fn default_format(&self) -> Option<QuantizedFormat> {
        self.quantization.as_ref().map(|quantization| quantization.default)
    }

    /// Checks that a number is positive and finite.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if not.
    pub(crate) fn positive(&self, field: &str, value: f32) -> Result<(), ModelError> {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(self.field_error(field, &value, "it must be a positive number"))
    }

    /// Checks that a length is positive, and returns it.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if not.
    pub(crate) fn length(&self, field: &str, length: i32) -> Result<i32, ModelError> {
        if length > 0 {
            return Ok(length);
        }
        Err(self.field_error(field, &length, "it must be positive"))
    }

    /// Checks that the value of each field is from its minimum to `2^max_log2`. `fields`: name, value, minimum.
    pub(crate) fn within(&self, max_log2: u32, fields: &[(&str, i32, i32)]) -> Result<(), ModelError> {
        let is_outside = |&&(_, value, min): &&(&str, i32, i32)| !(min..=1 << max_log2).contains(&value);
        match fields.iter().find(is_outside) {
            None => Ok(()),
            Some((field, value, min)) => {
                Err(self.field_error(field, value, format!("it must be from {min} to 2^{max_log2}")))
            }
        }
    }

    /// Returns an error about a field of this configuration.
    pub(crate) fn field_error(
        &self,
        field: &str,
        given: &dyn std::fmt::Display,
        expected: impl Into<String>,
    ) -> ModelError {
        let (field, given, expected) = (field.to_owned(), given.to_string(), expected.into());
        ModelError::ConfigField { path: self.path.clone(), field, given, expected }
    }

    /// Returns the number of experts, under any of the field names that families and versions of transformers use.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] if two fields differ.
    pub(crate) fn n_experts(&self) -> Result<Option<usize>, ModelError> {
        #[derive(Deserialize)]
        struct Counts {
            num_experts: Option<usize>,
            num_local_experts: Option<usize>,
            n_routed_experts: Option<usize>,
        }
        let Counts { num_experts, num_local_experts, n_routed_experts } = self.args()?;
        let given = [
            ("num_experts", num_experts),
            ("num_local_experts", num_local_experts),
            ("n_routed_experts", n_routed_experts),
        ];
        let mut given = given.into_iter().filter_map(|(name, count)| Some((name, count?)));
        let Some((first, count)) = given.next() else { return Ok(None) };
        match given.find(|(_, other)| *other != count) {
            None => Ok(Some(count)),
            Some((name, other)) => {
                let expected = format!("{first} is {count}, and both are the number of experts");
                Err(self.field_error(name, &other, expected))
            }
        }
    }
}

/// Returns the names of fields that are `null`.
fn null_names(fields: &Map<String, Value>) -> BTreeSet<String> {
    fields.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name.clone()).collect()
}

/// Returns the object of the text model, if there is one.
fn text_of(json: &Map<String, Value>) -> Option<&Map<String, Value>> {
    json.get(TEXT).and_then(Value::as_object).filter(|text| !text.is_empty())
}

/// Removes `null` fields at any depth, and turns integral floats into integers: Python writes `4096.0` for a length
/// that was divided.
fn normalized(fields: Map<String, Value>) -> Map<String, Value> {
    let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
    kept.map(|(name, value)| match value {
        Value::Object(fields) => (name, Value::Object(normalized(fields))),
        Value::Number(number) => (name, Value::Number(integral(number))),
        value => (name, value),
    })
    .collect()
}

/// Turns an integral float into an integer.
fn integral(number: Number) -> Number {
    /// Floats beyond 2^53 may have been rounded to an integer.
    const LARGEST: f64 = (1_u64 << 53) as f64;
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() <= LARGEST => {
            (value as i64).into()
        }
        _ => number,
    }
}

/// Returns a value for an error message, cut to 60 characters.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
