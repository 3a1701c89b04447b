use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::{Catalog, Dtype, IoMode, Tensor};
use flash_kernels::FloatType;
use serde_json::{Map, Value};

use super::family::{self, COMPUTED, Family};
use crate::error::ConvertError;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const HEAD: &str = "lm_head.weight";

/// Fields of config.json that say that the weights are no plain floats.
const QUANTIZED: [&str; 2] = ["quantization", "quantization_config"];

/// A Hugging Face directory whose tensors can be quantised: config.json and the headers of its shards were read.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) dir: PathBuf,
    pub(super) catalog: Catalog,
    pub(super) config: Map<String, Value>,
    pub(super) family: &'static Family,
    /// In the order of execution.
    pub(super) parameters: Vec<Parameter>,
}

/// A parameter of the model, and the tensors that it is made of.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// The type that its values are rounded to.
    pub(super) float: FloatType,
    /// One tensor, or one for each expert.
    pub(super) tensors: Vec<Tensor>,
}

impl Checkpoint {
    /// Opens a directory and checks all that can be checked before any weight is read.
    ///
    /// # Errors
    /// Any [`ConvertError`] about the directory.
    pub fn open(dir: &Path) -> Result<Self, ConvertError> {
        let path = dir.join(CONFIG);
        let mut config = read_json(&path)?;
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let family = family::find(model_type).ok_or_else(|| ConvertError::ModelType {
            path: path.clone(),
            found: model_type.to_owned(),
            known: family::KNOWN,
        })?;
        if let Some(field) = QUANTIZED.iter().find(|field| config.get(**field).is_some_and(|v| !v.is_null()))
        {
            return Err(ConvertError::Quantized { path, field });
        }
        let generation = dir.join(GENERATION_CONFIG);
        if generation.exists()
            && let Some(eos) = read_json(&generation)?.remove("eos_token_id")
        {
            // Whoever generates stops at these.
            config.insert("eos_token_id".to_owned(), eos);
        }
        let catalog =
            Catalog::open(dir, IoMode::Pread).map_err(|error| ConvertError::Checkpoint { error })?;
        let parameters = parameters(dir, &catalog, &config, family)?;
        Ok(Self { dir: dir.to_owned(), catalog, config, family, parameters })
    }
}

/// What the tensors of a checkpoint become, in the order of execution.
fn parameters(
    dir: &Path,
    catalog: &Catalog,
    config: &Map<String, Value>,
    family: &Family,
) -> Result<Vec<Parameter>, ConvertError> {
    let dtype = match config.get("torch_dtype").and_then(Value::as_str) {
        Some("float32") => Some(FloatType::F32),
        Some("float16") => Some(FloatType::F16),
        Some("bfloat16") => Some(FloatType::BF16),
        _ => None,
    };
    let says_tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
    let is_tied = family.is_tied.is_some_and(|default| says_tied.unwrap_or(default));
    let mut parameters = Vec::new();
    let mut stacks: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for tensor in catalog.tensors() {
        if tensor.name.contains(COMPUTED) || is_tied && tensor.name == HEAD {
            continue;
        }
        let stored = float(dir, catalog, tensor)?;
        if let Some((name, expert_idx)) =
            family.experts.as_ref().and_then(|experts| experts.stacked(&tensor.name))
        {
            stacks.entry(name).or_default().insert(expert_idx, tensor.clone());
            continue;
        }
        parameters.push(Parameter {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            float: dtype.unwrap_or(stored),
            tensors: vec![tensor.clone()],
        });
    }
    for (name, experts) in stacks {
        parameters.push(stack(dir, catalog, config, family, dtype, name, experts)?);
    }
    parameters.sort_by_cached_key(|parameter| place(&parameter.name));
    Ok(parameters)
}

/// The tensors of all experts as one.
fn stack(
    dir: &Path,
    catalog: &Catalog,
    config: &Map<String, Value>,
    family: &Family,
    dtype: Option<FloatType>,
    name: String,
    experts: BTreeMap<usize, Tensor>,
) -> Result<Parameter, ConvertError> {
    let field = family.experts.as_ref().map_or("", |experts| experts.count);
    let wanted = config.get(field).and_then(Value::as_u64);
    let found = experts.len() as u64;
    // Those that are there are the first ones if the last has the highest number.
    let last = experts.keys().next_back().map_or(0, |last| *last as u64 + 1);
    if last != found || wanted != Some(found) {
        return Err(ConvertError::Experts { path: dir.to_owned(), parameter: name, field, wanted, found });
    }
    let tensors: Vec<Tensor> = experts.into_values().collect();
    let first = &tensors[0];
    let stored = float(dir, catalog, first)?;
    if let Some(other) = tensors.iter().find(|t| t.shape != first.shape || t.dtype != first.dtype) {
        return Err(ConvertError::ExpertShape {
            path: dir.to_owned(),
            tensor: other.name.clone(),
            wanted: first.shape.clone(),
            found: other.shape.clone(),
        });
    }
    let shape = [&[found], &first.shape[..]].concat();
    Ok(Parameter { name, shape, float: dtype.unwrap_or(stored), tensors })
}

/// How the values of a tensor are stored.
pub(super) fn float(dir: &Path, catalog: &Catalog, tensor: &Tensor) -> Result<FloatType, ConvertError> {
    match tensor.dtype {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::BF16 => Ok(FloatType::BF16),
        found => Err(ConvertError::TensorDtype {
            path: catalog.shards().get(tensor.shard.0).map_or(dir.to_owned(), |shard| shard.path.clone()),
            tensor: tensor.name.clone(),
            found,
        }),
    }
}

/// Where a parameter stands in the order of execution: the embedding, layer after layer, and the rest.
fn place(name: &str) -> (u8, u64, String) {
    let layer = name.split_once("layers.").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    let part = match layer {
        Some(_) => 1,
        None if name.contains("embed") => 0,
        None if name == HEAD => 3,
        None => 2,
    };
    (part, layer.unwrap_or(0), name.to_owned())
}

fn read_json(path: &Path) -> Result<Map<String, Value>, ConvertError> {
    let text = fs::read(path).map_err(|error| ConvertError::Open { path: path.to_owned(), error })?;
    serde_json::from_slice(&text).map_err(|error| ConvertError::Json { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stand_in_the_order_of_execution() {
        let names = [
            "model.embed_tokens.weight",
            "model.layers.2.mlp.up_proj.weight",
            "model.layers.10.input_layernorm.weight",
            "model.layers.10.mlp.up_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        ];
        assert!(names.is_sorted_by_key(|name| place(name)));
    }
}
