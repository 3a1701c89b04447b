//! Derives the parameters of a model from the tensors of its checkpoint, like `sanitize` in mlx-lm.

use std::collections::BTreeMap;
use std::path::Path;

use flash_io::{Catalog, Dtype, Tensor};
use flash_kernels::FloatType;
use serde_json::{Map, Value};

use super::family::{Family, SanitizeRule};
use super::parameter::{Content, Encoding, Parameter, Piece};
use super::{fp8, gpt_oss, int4, latent, qwen3_5, tensors};
use crate::error::ConvertError;

/// Name of the output head.
pub(super) const HEAD: &str = "lm_head.weight";

/// Field of config.json with the text model's configuration in a vision-language model.
pub(super) const TEXT_CONFIG: &str = "text_config";

/// Prefix of a layer's number.
const LAYERS: &str = "model.layers.";

/// Derives parameters from tensors.
#[derive(Debug)]
pub(super) struct Sanitizer<'a> {
    dir: &'a Path,
    catalog: &'a Catalog,
    config: &'a Map<String, Value>,
    family: &'a Family,
    /// Float type named in config.json, for all parameters that do not keep theirs.
    float: Option<FloatType>,
    is_tied: bool,
    has_zero_centered_norms: bool,
}

impl<'a> Sanitizer<'a> {
    pub(super) fn new(
        dir: &'a Path,
        catalog: &'a Catalog,
        config: &'a Map<String, Value>,
        family: &'a Family,
    ) -> Self {
        let of_text = || config.get(TEXT_CONFIG)?.get("dtype");
        let dtype = config.get("torch_dtype").filter(|dtype| !dtype.is_null()).or_else(of_text);
        let float = match dtype.and_then(Value::as_str) {
            Some("float32") => Some(FloatType::F32),
            Some("float16") => Some(FloatType::F16),
            Some("bfloat16") => Some(FloatType::BF16),
            _ => None,
        };
        let says_tied = config.get("tie_word_embeddings").and_then(Value::as_bool);
        // A head in the checkpoint is dropped only if config.json calls it tied; by default Hugging Face uses it.
        let has_head = catalog.get(HEAD).is_some();
        let is_tied = family.is_tied.is_some_and(|default| says_tied.unwrap_or(default && !has_head));
        let has_zero_centered_norms = qwen3_5::has_zero_centered_norms(catalog, family.rule);
        Self { dir, catalog, config, family, float, is_tied, has_zero_centered_norms }
    }

    /// Returns all parameters, in any order.
    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, ConvertError> {
        let mut parameters = Vec::new();
        let mut stacks: BTreeMap<String, BTreeMap<usize, &Tensor>> = BTreeMap::new();
        for tensor in self.catalog.tensors().filter(|tensor| !self.is_dropped(&tensor.name)) {
            let name = self.matrix(tensor).unwrap_or(&tensor.name);
            match self.family.experts.as_ref().and_then(|experts| experts.stacked(name)) {
                Some((parameter, expert_idx)) => {
                    let stack = stacks.entry(parameter.clone()).or_default();
                    if stack.insert(expert_idx, tensor).is_some() {
                        return Err(ConvertError::DuplicateTensor {
                            path: self.dir.to_owned(),
                            tensor: parameter,
                        });
                    }
                }
                None => parameters.extend(self.parameters_of(tensor)?),
            }
        }
        for (name, experts) in stacks {
            parameters.push(self.stack(name, experts)?);
        }
        Ok(parameters)
    }

    /// Returns whether a tensor is not a parameter of the model.
    fn is_dropped(&self, name: &str) -> bool {
        self.family.is_dropped(name)
            || self.is_tied && name == HEAD
            || self.family.rule == SanitizeRule::Qwen3_5 && qwen3_5::is_dropped(name)
            || self.family.rule == SanitizeRule::DeepSeekV3
                && (fp8::is_scales(name) || int4::is_companion(name) || self.is_mtp_layer(name))
    }

    /// Returns the name of the matrix whose int4 codes a tensor holds.
    fn matrix<'t>(&self, tensor: &'t Tensor) -> Option<&'t str> {
        int4::matrix(&tensor.name).filter(|_| self.family.rule == SanitizeRule::DeepSeekV3)
    }

    /// Returns whether a tensor belongs to a multi-token prediction layer, numbered after the model's own layers.
    fn is_mtp_layer(&self, name: &str) -> bool {
        let n_layers = self.config.get("num_hidden_layers").and_then(Value::as_u64);
        let layer_idx =
            name.strip_prefix(LAYERS).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        n_layers.zip(layer_idx).is_some_and(|(n_layers, layer_idx)| layer_idx >= n_layers)
    }

    /// Returns the parameters made from a tensor that is not an expert to be stacked.
    fn parameters_of(&self, tensor: &Tensor) -> Result<Vec<Parameter>, ConvertError> {
        let name = self.matrix(tensor).unwrap_or(&tensor.name);
        let cut = match self.family.rule {
            SanitizeRule::GptOss => self.with_float_type(gpt_oss::parameters(self.catalog, tensor)?),
            SanitizeRule::DeepSeekV3 => {
                let content = self.content(name, &[tensor])?;
                latent::parameters(self.catalog, self.config, tensor, &content)?
            }
            SanitizeRule::None
            | SanitizeRule::NemotronH
            | SanitizeRule::Qwen3Next
            | SanitizeRule::Qwen3_5 => None,
        };
        if let Some(parameters) = cut {
            return Ok(parameters);
        }
        let content = self.content(name, &[tensor])?;
        let mut shape = content.shape(&tensor.shape);
        if matches!(
            self.family.rule,
            SanitizeRule::NemotronH | SanitizeRule::Qwen3Next | SanitizeRule::Qwen3_5
        ) && name.contains("conv1d.weight")
            && let &[n_channels, 1, n_taps] = shape.as_slice()
        {
            // Swapping the axes does not move values, because one has length 1.
            shape = vec![n_channels, n_taps, 1];
        }
        let mut parameter = Parameter { name: name.to_owned(), shape, content };
        if self.has_zero_centered_norms {
            qwen3_5::add_one_to_norm(&mut parameter);
        }
        match self.family.rule {
            SanitizeRule::Qwen3_5 => qwen3_5::parameters(self.catalog, tensor, parameter),
            _ => Ok(vec![parameter]),
        }
    }

    /// Sets the float type of parameters to the one in config.json.
    fn with_float_type(&self, mut parameters: Option<Vec<Parameter>>) -> Option<Vec<Parameter>> {
        for parameter in parameters.iter_mut().flatten() {
            if let (Content::Floats { float, .. }, Some(wanted)) = (&mut parameter.content, self.float) {
                *float = wanted;
            }
        }
        parameters
    }

    /// Returns the contents of the parameter `name`, made from one tensor or from several of the same type and shape.
    fn content(&self, name: &str, tensors: &[&Tensor]) -> Result<Content, ConvertError> {
        let piece = |tensor: &&Tensor| Ok(Piece::whole(tensor, self.encoding(tensor)?));
        let pieces = tensors.iter().map(piece).collect::<Result<Vec<_>, ConvertError>>()?;
        let wanted = self.float.filter(|_| !self.family.keeps_type(name));
        Ok(match pieces.first().map(|piece| &piece.encoding) {
            Some(Encoding::Float(float)) => Content::Floats { float: wanted.unwrap_or(*float), pieces },
            Some(Encoding::Int4 { scales }) => {
                let stored = tensors::float_type(self.catalog, scales)?;
                Content::Int4 { float: wanted.unwrap_or(stored), pieces }
            }
            _ => Content::Floats { float: wanted.unwrap_or(fp8::PRODUCT_TYPE), pieces },
        })
    }

    /// Returns the encoding of a tensor.
    fn encoding(&self, tensor: &Tensor) -> Result<Encoding, ConvertError> {
        if let Some(matrix) = self.matrix(tensor) {
            return Ok(Encoding::Int4 { scales: int4::scales_of(self.catalog, tensor, matrix)? });
        }
        match tensor.dtype {
            Dtype::F8E4M3 if self.family.rule == SanitizeRule::DeepSeekV3 => {
                Ok(Encoding::Fp8 { scales: fp8::scales_of(self.catalog, tensor)? })
            }
            _ => Ok(Encoding::Float(tensors::float_type(self.catalog, tensor)?)),
        }
    }

    /// Stacks the tensors of all experts.
    fn stack(&self, name: String, experts: BTreeMap<usize, &Tensor>) -> Result<Parameter, ConvertError> {
        let field = self.family.experts.as_ref().map_or("", |experts| experts.count);
        // transformers 5 uses one name for all model types.
        let wanted =
            [field, "num_local_experts"].into_iter().find_map(|field| self.config.get(field)?.as_u64());
        let found = experts.len() as u64;
        // The indices are contiguous from 0 if and only if the highest one is their number minus 1.
        let last = experts.keys().next_back().map_or(0, |last| *last as u64 + 1);
        if last != found || wanted != Some(found) {
            let path = self.dir.to_owned();
            return Err(ConvertError::Experts { path, parameter: name, field, wanted, found });
        }
        let tensors: Vec<&Tensor> = experts.into_values().collect();
        let first = tensors[0];
        if let Some(other) = tensors.iter().find(|t| t.shape != first.shape || t.dtype != first.dtype) {
            return Err(ConvertError::ExpertShape {
                path: self.dir.to_owned(),
                tensor: other.name.clone(),
                wanted: first.shape.clone(),
                found: other.shape.clone(),
            });
        }
        let content = self.content(&name, &tensors)?;
        let shape = [&[found], &content.shape(&first.shape)[..]].concat();
        Ok(Parameter { name, shape, content })
    }
}
