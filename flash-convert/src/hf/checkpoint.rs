//! Opens Hugging Face checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use flash_io::{Catalog, IoMode, parse_python_json};
use serde_json::{Map, Value};

use super::family::{self, Family, SanitizeRule};
use super::parameter::{Content, Parameter};
use super::sanitize::{HEAD, Sanitizer, TEXT_CONFIG};
use super::{fp8, gpt_oss, int4};
use crate::error::ConvertError;
use crate::source;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Fields of config.json that describe quantized weights.
const QUANTIZED: [&str; 2] = ["quantization", PUBLISHED];

/// Fields of these that name the quantization method.
const METHODS: [&str; 2] = ["quant_method", "mode"];

/// The quantization field of Hugging Face checkpoints; the other one is MLX's.
const PUBLISHED: &str = "quantization_config";

/// Fields of config.json that do not apply to the converted model.
const UNUSED: [&str; 2] = ["_name_or_path", "vision_config"];

/// A Hugging Face checkpoint that can be quantized: a directory of safetensors. config.json and the headers of the
/// shards have been read.
///
/// (`flash_model::Checkpoint` is another type: an MLX directory to run.)
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) dir: PathBuf,
    pub(super) catalog: Catalog,
    pub(super) config: Map<String, Value>,
    pub(super) family: &'static Family,
    /// `quantization` of config.json for the parameters that are already quantized and keep their format.
    pub(super) prequantized: Option<Value>,
    /// The parameters in execution order.
    pub(super) parameters: Vec<Parameter>,
}

impl Checkpoint {
    /// Opens a directory and validates everything that can be checked without reading weights.
    ///
    /// # Errors
    /// Any [`ConvertError`] that concerns the directory.
    pub fn open(dir: &Path) -> Result<Self, ConvertError> {
        let path = dir.join(CONFIG);
        let mut config = read_json(&path)?;
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let family = family::find(model_type).ok_or_else(|| ConvertError::ModelType {
            path: path.clone(),
            found: model_type.to_owned(),
            known: family::KNOWN,
        })?;
        let kept = check_quantization(&path, &config, family)?;
        config.retain(|field, _| !UNUSED.contains(&field.as_str()));
        let generation = dir.join(GENERATION_CONFIG);
        if generation.exists()
            && let Some(eos) = read_json(&generation)?.remove("eos_token_id")
        {
            // generation_config.json takes precedence: generation stops at its tokens.
            config.insert("eos_token_id".to_owned(), eos);
        }
        let catalog =
            Catalog::open(dir, IoMode::Pread).map_err(|error| ConvertError::Checkpoint { error })?;
        let sanitizer = Sanitizer::new(dir, &catalog, &config, family);
        let mut parameters = sanitizer.parameters()?;
        parameters.sort_by_cached_key(|parameter| execution_order(&parameter.name));
        if let Some([first, _]) = parameters.array_windows().find(|[first, second]| first.name == second.name)
        {
            return Err(ConvertError::DuplicateTensor { path: dir.to_owned(), tensor: first.name.clone() });
        }
        let prequantized = kept.or_else(|| parameters.iter().find_map(prequantized));
        Ok(Self { dir: dir.to_owned(), catalog, config, family, prequantized, parameters })
    }
}

/// Checks that the quantization of the checkpoint is supported, and returns the format of parameters that keep it.
fn check_quantization(
    path: &Path,
    config: &Map<String, Value>,
    family: &Family,
) -> Result<Option<Value>, ConvertError> {
    for field in QUANTIZED {
        let of_text = || config.get(TEXT_CONFIG)?.get(field);
        let found = config.get(field).or_else(of_text).filter(|found| !found.is_null());
        let Some(found) = found else { continue };
        match family.rule {
            SanitizeRule::GptOss if field == PUBLISHED && gpt_oss::is_configured(found) => {
                return Ok(Some(gpt_oss::quantization()));
            }
            SanitizeRule::DeepSeekV3 if field == PUBLISHED && fp8::is_configured(found) => return Ok(None),
            SanitizeRule::DeepSeekV3 if field == PUBLISHED && int4::is_configured(found) => {
                return Ok(Some(int4::quantization()));
            }
            _ => {
                let method = METHODS.iter().find_map(|method| found.get(method)?.as_str());
                let (path, method) = (path.to_owned(), method.unwrap_or("unnamed").to_owned());
                return Err(ConvertError::Quantized { path, field, method });
            }
        }
    }
    Ok(None)
}

/// Returns `quantization` of config.json for a parameter that keeps its quantized format.
fn prequantized(parameter: &Parameter) -> Option<Value> {
    match parameter.content {
        Content::Floats { .. } => None,
        Content::Mxfp4(_) => Some(gpt_oss::quantization()),
        Content::Int4 { .. } => Some(int4::quantization()),
    }
}

/// Returns a sort key for execution order: the embedding, the layers by number, other parameters, the head.
fn execution_order(name: &str) -> (u8, u64, String) {
    let layer = name.split_once("layers.").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    let part = match layer {
        Some(_) => 1,
        None if name.contains("embed") => 0,
        None if name.ends_with(HEAD) => 3,
        None => 2,
    };
    (part, layer.unwrap_or(0), name.to_owned())
}

fn read_json(path: &Path) -> Result<Map<String, Value>, ConvertError> {
    let text =
        fs::read_to_string(path).map_err(|error| ConvertError::Open { path: path.to_owned(), error })?;
    source::reject_lfs_pointer(path, text.as_bytes())?;
    parse_python_json(&text).map_err(|error| ConvertError::Json { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_sorted_in_execution_order() {
        let names = [
            "model.embed_tokens.weight",
            "model.layers.2.mlp.up_proj.weight",
            "model.layers.10.input_layernorm.weight",
            "model.layers.10.mlp.up_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ];
        assert!(names.is_sorted_by_key(|name| execution_order(name)));
    }
}
