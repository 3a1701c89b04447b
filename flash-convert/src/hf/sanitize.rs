//! Which parameters a model has, by the tensors of its checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use flash_io::{Catalog, Dtype, Tensor};
use flash_kernels::FloatType;
use serde_json::{Map, Value};

use super::family::{Family, Own};
use super::parameter::{Content, Parameter, Piece, Stored};
use super::{fp8, gpt_oss, int4, latent, qwen3_5, tensors};
use crate::error::ConvertError;

/// The name of the head.
pub(super) const HEAD: &str = "lm_head.weight";

/// What config.json says of the text model, where it sees as well.
pub(super) const TEXT_CONFIG: &str = "text_config";

/// How a layer is called, before its number.
const LAYERS: &str = "model.layers.";

/// What it is that makes parameters of tensors.
#[derive(Debug)]
pub(super) struct Sanitizer<'a> {
    dir: &'a Path,
    catalog: &'a Catalog,
    config: &'a Map<String, Value>,
    family: &'a Family,
    /// The type of all floats, if config.json names one.
    float: Option<FloatType>,
    is_tied: bool,
    /// Whether some norms have their weights around zero.
    is_trained: bool,
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
        // A head that is there is not left out unless config.json says so: Hugging Face's default is that it is used.
        let has_head = catalog.get(HEAD).is_some();
        let is_tied = family.is_tied.is_some_and(|default| says_tied.unwrap_or(default && !has_head));
        let is_trained = qwen3_5::is_trained(catalog, family.own);
        Self { dir, catalog, config, family, float, is_tied, is_trained }
    }

    /// All of them, in any order.
    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, ConvertError> {
        let mut parameters = Vec::new();
        let mut stacks: BTreeMap<String, BTreeMap<usize, &Tensor>> = BTreeMap::new();
        for tensor in self.catalog.tensors().filter(|tensor| !self.drops(&tensor.name)) {
            let name = self.matrix(tensor).unwrap_or(&tensor.name);
            match self.family.experts.as_ref().and_then(|experts| experts.stacked(name)) {
                Some((parameter, expert_idx)) => {
                    let stack = stacks.entry(parameter.clone()).or_default();
                    if stack.insert(expert_idx, tensor).is_some() {
                        return Err(ConvertError::Twice { path: self.dir.to_owned(), tensor: parameter });
                    }
                }
                None => parameters.extend(self.become_of(tensor)?),
            }
        }
        for (name, experts) in stacks {
            parameters.push(self.stack(name, experts)?);
        }
        Ok(parameters)
    }

    /// Whether a tensor is no parameter of the model.
    fn drops(&self, name: &str) -> bool {
        self.family.drops(name)
            || self.is_tied && name == HEAD
            || self.family.own == Own::Text && qwen3_5::drops(name)
            || self.family.own == Own::Latent
                && (fp8::is_scales(name) || int4::is_beside(name) || self.is_behind(name))
    }

    /// What a matrix is called of which a tensor has the codes.
    fn matrix<'t>(&self, tensor: &'t Tensor) -> Option<&'t str> {
        int4::matrix(&tensor.name).filter(|_| self.family.own == Own::Latent)
    }

    /// Whether a layer is none of the model but one behind it, which predicts further tokens.
    fn is_behind(&self, name: &str) -> bool {
        let n_layers = self.config.get("num_hidden_layers").and_then(Value::as_u64);
        let layer_idx =
            name.strip_prefix(LAYERS).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        n_layers.zip(layer_idx).is_some_and(|(n_layers, layer_idx)| layer_idx >= n_layers)
    }

    /// What a tensor becomes that is not one of many.
    fn become_of(&self, tensor: &Tensor) -> Result<Vec<Parameter>, ConvertError> {
        let name = self.matrix(tensor).unwrap_or(&tensor.name);
        let cut = match self.family.own {
            Own::Blocks => self.typed(gpt_oss::parameters(self.catalog, tensor)?),
            Own::Latent => {
                let content = self.content(name, &[tensor])?;
                latent::parameters(self.catalog, self.config, tensor, &content)?
            }
            Own::Nothing | Own::Convolutions | Own::Norms | Own::Text => None,
        };
        if let Some(parameters) = cut {
            return Ok(parameters);
        }
        let content = self.content(name, &[tensor])?;
        let mut shape = content.shape(&tensor.shape);
        if matches!(self.family.own, Own::Convolutions | Own::Norms | Own::Text)
            && name.contains("conv1d.weight")
            && let &[n_channels, 1, n_taps] = shape.as_slice()
        {
            // The numbers stay where they are.
            shape = vec![n_channels, n_taps, 1];
        }
        let mut parameter = Parameter { name: name.to_owned(), shape, content };
        if self.is_trained {
            qwen3_5::raise_norm(&mut parameter);
        }
        match self.family.own {
            Own::Text => qwen3_5::parameters(self.catalog, tensor, parameter),
            _ => Ok(vec![parameter]),
        }
    }

    /// The same parameters, of the type of all floats.
    fn typed(&self, mut parameters: Option<Vec<Parameter>>) -> Option<Vec<Parameter>> {
        for parameter in parameters.iter_mut().flatten() {
            if let (Content::Floats { float, .. }, Some(wanted)) = (&mut parameter.content, self.float) {
                *float = wanted;
            }
        }
        parameters
    }

    /// The numbers of one tensor, or of several that are alike, for a parameter of that name.
    fn content(&self, name: &str, tensors: &[&Tensor]) -> Result<Content, ConvertError> {
        let piece = |tensor: &&Tensor| Ok(Piece::whole(tensor, self.stored(tensor)?));
        let pieces = tensors.iter().map(piece).collect::<Result<Vec<_>, ConvertError>>()?;
        let wanted = self.float.filter(|_| !self.family.keeps_type(name));
        Ok(match pieces.first().map(|piece| &piece.stored) {
            Some(Stored::Float(float)) => Content::Floats { float: wanted.unwrap_or(*float), pieces },
            Some(Stored::Int4 { scales }) => {
                let stored = tensors::float(self.catalog, scales)?;
                Content::Int4 { float: wanted.unwrap_or(stored), pieces }
            }
            _ => Content::Floats { float: wanted.unwrap_or(fp8::PRODUCT), pieces },
        })
    }

    /// How a tensor is stored.
    fn stored(&self, tensor: &Tensor) -> Result<Stored, ConvertError> {
        if let Some(matrix) = self.matrix(tensor) {
            return Ok(Stored::Int4 { scales: int4::scales_of(self.catalog, tensor, matrix)? });
        }
        match tensor.dtype {
            Dtype::F8E4M3 if self.family.own == Own::Latent => {
                Ok(Stored::Fp8 { scales: fp8::scales_of(self.catalog, tensor)? })
            }
            _ => Ok(Stored::Float(tensors::float(self.catalog, tensor)?)),
        }
    }

    /// The tensors of all experts as one.
    fn stack(&self, name: String, experts: BTreeMap<usize, &Tensor>) -> Result<Parameter, ConvertError> {
        let field = self.family.experts.as_ref().map_or("", |experts| experts.count);
        // transformers 5 has one name for all families.
        let wanted =
            [field, "num_local_experts"].into_iter().find_map(|field| self.config.get(field)?.as_u64());
        let found = experts.len() as u64;
        // Those that are there are the first ones if the last has the highest number.
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
