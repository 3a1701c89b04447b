//! Plans and runs the quantization of a checkpoint.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flash_kernels::{Affine, Mx};
use serde_json::{Map, Value, json};

use super::checkpoint::Checkpoint;
use super::parameter::{Content, Parameter};
use super::sanitize::HEAD;
use super::{int4, stream};
use crate::error::ConvertError;
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::shards::{self, Metadata, ShardPlanner, TensorEntry, TensorGroup};
use crate::source;
use crate::writer::OutDir;

const WEIGHT: &str = ".weight";

/// Files of a model directory besides config.json and weights: generation settings, tokenizer and chat template, in all
/// formats that programs read.
pub const COMPANION_FILES: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Plan of a quantization, made by [`Checkpoint::quantize`] and executed by [`run`](Self::run).
#[derive(Debug)]
pub struct QuantizePlan<'a> {
    checkpoint: &'a Checkpoint,
    config: Map<String, Value>,
    parameters: Vec<Planned<'a>>,
    n_shards: usize,
}

/// Result of a finished quantization.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantized {
    /// The model directory.
    pub out_dir: PathBuf,
    /// Number of parameters.
    pub n_parameters: usize,
    /// Number of quantized parameters, including those that were already quantized.
    pub n_quantized: usize,
    /// Bytes of weights.
    pub total_bytes: u64,
    /// Number of safetensors files.
    pub n_shards: usize,
}

/// A parameter, its output format, and the tensors it is written as.
#[derive(Debug)]
struct Planned<'a> {
    parameter: &'a Parameter,
    /// Affine format to quantize to; None keeps floats or the format of the checkpoint.
    affine: Option<Affine>,
    group: TensorGroup,
}

impl Checkpoint {
    /// Plans a quantization with the same result as `mlx_lm.convert(quantize=True)`, bit for bit.
    ///
    /// Matrices whose rows are a whole number of groups are quantized; routers of some mixtures of experts get 8 bits
    /// or stay floats. mxfp4 and int4 weights keep their codes, and fp8 weights are dequantized first. Everything else
    /// stays unchanged. Floats get the type named by `torch_dtype` in config.json, or by `dtype` of its text model, or
    /// else keep their own.
    ///
    /// # Errors
    /// [`ConvertError::Target`] if the bit width or group size is not supported.
    pub fn quantize(
        &self,
        bits: u32,
        group_size: usize,
        shard_bytes_max: u64,
    ) -> Result<QuantizePlan<'_>, ConvertError> {
        let affine =
            |bits, group_size| Affine::new(bits, group_size).map_err(|fault| ConvertError::Target { fault });
        let common = affine(bits, group_size)?;
        let params = json!({"group_size": group_size, "bits": bits, "mode": "affine"});
        let mut quantization = self.prequantized.as_ref().unwrap_or(&params).clone();
        let mut planner = ShardPlanner::new(shard_bytes_max);
        let mut parameters = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let module = parameter.name.strip_suffix(WEIGHT);
            let module = module.filter(|module| {
                parameter.is_quantizable(common)
                    && !parameter.is_prequantized()
                    && !self.family.keeps_floats(module)
            });
            let router = module.and_then(|module| self.family.router(module));
            let affine = match (module, router) {
                (Some(module), Some(router)) => {
                    let own = affine(router.bits, router.group_size)?;
                    quantization[module] = json!({"group_size": router.group_size, "bits": router.bits});
                    parameter.is_quantizable(own).then_some(own)
                }
                (Some(module), None) => {
                    if self.prequantized.is_some() {
                        // The top-level format describes the prequantized parameters, so others need an entry.
                        quantization[module] = params.clone();
                    }
                    Some(common)
                }
                (None, _) => None,
            };
            let group = planner.place(entries(parameter, affine));
            parameters.push(Planned { parameter, affine, group });
        }
        let mut config = self.config.clone();
        let says_tied = config.get("tie_word_embeddings").is_some_and(|tied| !tied.is_null());
        let is_tied_by_default = self.family.is_tied == Some(true);
        if is_tied_by_default && !says_tied && self.parameters.iter().any(|parameter| parameter.name == HEAD)
        {
            // Without the field mlx-lm assumes tied embeddings and drops the head.
            config.insert("tie_word_embeddings".to_owned(), false.into());
        }
        config.insert("quantization_config".to_owned(), quantization.clone());
        config.insert("quantization".to_owned(), quantization);
        Ok(QuantizePlan { checkpoint: self, config, parameters, n_shards: planner.n_shards() })
    }
}

impl QuantizePlan<'_> {
    /// Returns the size of all tensors of the MLX model, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.parameters.iter().flat_map(|planned| &planned.group.tensors).map(|entry| entry.bytes).sum()
    }

    /// Writes the model directory `out_dir` atomically, like [`Plan::run`](crate::Plan::run). Memory: 2 MiB, plus the
    /// scales of one fp8 matrix, a number for 16,384 values.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or any error of reading and writing.
    pub fn run(
        &self,
        out_dir: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Quantized, ConvertError> {
        let Checkpoint { dir, catalog, .. } = self.checkpoint;
        let total_bytes = self.total_bytes();
        let out = OutDir::new(out_dir, total_bytes)?;
        out.write_json("config.json", &self.config, true)?;
        for name in COMPANION_FILES {
            let from = dir.join(name);
            if from.exists() {
                source::copy(&from, name, &out)?;
            }
        }
        let groups: Vec<_> = self.parameters.iter().map(|planned| &planned.group).collect();
        let mut scratch = Scratch::new();
        shards::write(&out, &groups, &Metadata::new(), progress, |parameter_idx, sink| {
            let Planned { parameter, affine, .. } = &self.parameters[parameter_idx];
            stream::write(&mut scratch, catalog, &parameter.content, *affine, sink)
        })?;
        out.finish()?;
        Ok(Quantized {
            out_dir: out_dir.to_owned(),
            n_parameters: self.parameters.len(),
            n_quantized: self.parameters.iter().filter(|planned| planned.is_quantized()).count(),
            total_bytes,
            n_shards: self.n_shards,
        })
    }
}

/// Returns the tensors that a parameter is written as: its values, or codes, scales and biases.
fn entries(parameter: &Parameter, affine: Option<Affine>) -> Vec<TensorEntry> {
    let Parameter { name, shape, content } = parameter;
    let entry = |name: &str, dtype, n_cols: Option<u64>, element_bytes: usize| {
        let mut shape = shape.clone();
        if let (Some(last), Some(n_cols)) = (shape.last_mut(), n_cols) {
            *last = n_cols;
        }
        // Cannot overflow: the checkpoint's headers were checked against the sizes of its files.
        let bytes = shape.iter().product::<u64>() * element_bytes as u64;
        TensorEntry { name: name.to_owned(), dtype, shape, bytes, offset: 0 }
    };
    let module = name.strip_suffix(WEIGHT).unwrap_or(name);
    let (scales, biases) = (format!("{module}.scales"), format!("{module}.biases"));
    let n_cols = shape.last().copied().unwrap_or(1);
    let words =
        |bits| entry(name, "U32", Some(n_cols * u64::from(bits) / u64::from(u32::BITS)), size_of::<u32>());
    match content {
        Content::Mxfp4(_) => {
            let n_groups = n_cols / Mx::Fp4.group_size() as u64;
            vec![words(Mx::Fp4.bits()), entry(&scales, "U8", Some(n_groups), size_of::<u8>())]
        }
        Content::Floats { float, .. } | Content::Int4 { float, .. } => {
            let (dtype, float_bytes) = (shards::dtype(*float), float.size_bytes());
            let (bits, group_size) = match (affine, content) {
                (Some(affine), _) => (affine.bits(), affine.group_size() as u64),
                (None, Content::Int4 { .. }) => (int4::BITS, int4::GROUP_LEN),
                (None, _) => return vec![entry(name, dtype, None, float_bytes)],
            };
            let n_groups = Some(n_cols / group_size);
            vec![
                words(bits),
                entry(&scales, dtype, n_groups, float_bytes),
                entry(&biases, dtype, n_groups, float_bytes),
            ]
        }
    }
}

impl Planned<'_> {
    /// Returns whether the parameter is quantized in the output.
    fn is_quantized(&self) -> bool {
        self.affine.is_some() || self.parameter.is_prequantized()
    }
}
