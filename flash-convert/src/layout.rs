//! The layout of a converted GGUF model, planned before the first byte is written.

use std::collections::BTreeMap;

use flash_kernels::FloatType;

use crate::architecture::{AffineParams, Config, Model, Quantization, Source};
use crate::error::ConvertError;
use crate::gguf::GgmlType;
use crate::shards::{self, ShardPlanner, TensorEntry, TensorGroup};
use crate::target::{Target, TensorFormat};

/// Layout of the output: its tensors, their formats and their shards.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) config: Config,
    pub(crate) parameters: Vec<Parameter>,
    /// The parameters in the form that the plan and the report show.
    pub(crate) tensors: Vec<PlannedTensor>,
    pub(crate) n_shards: usize,
}

/// The conversion of one GGUF tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedTensor {
    /// Name in the GGUF file.
    pub gguf_name: String,
    /// Name in the MLX model: that of the values or codes; scales and biases are separate tensors of the same module.
    pub name: String,
    /// Type in the GGUF file.
    pub from: GgmlType,
    /// Format in the MLX model.
    pub becomes: TensorFormat,
    /// Shape, rows first: `[n_rows, n_cols]` or `[n]`.
    pub shape: Vec<u64>,
    /// Size in the MLX model in bytes, including scales and biases.
    pub bytes: u64,
}

impl PlannedTensor {
    /// Returns whether every value is preserved exactly (except for the sign of zeros).
    pub fn is_lossless(&self) -> bool {
        match self.becomes {
            TensorFormat::Copied(_) | TensorFormat::Repacked(..) | TensorFormat::Floats(FloatType::F32) => {
                true
            }
            TensorFormat::Floats(_) | TensorFormat::Quantized(..) => false,
        }
    }
}

/// A parameter, its output format, and the tensors it is written as.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) source: Source,
    pub(crate) becomes: TensorFormat,
    pub(crate) group: TensorGroup,
}

impl Layout {
    pub(crate) fn new(
        model: &Model,
        target: Target,
        shard_bytes_max: u64,
        wide_scales: bool,
    ) -> Result<Self, ConvertError> {
        let mut parameters = Vec::with_capacity(model.sources.len());
        let mut tensors = Vec::with_capacity(model.sources.len());
        let mut planner = ShardPlanner::new(shard_bytes_max);
        for source in &model.sources {
            let becomes = target.becomes(source, wide_scales)?;
            let entries = entries(source, becomes);
            let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
            tensors.push(PlannedTensor {
                gguf_name: source.tensor.name.clone(),
                name: entries[0].name.clone(),
                from: source.tensor.kind,
                becomes,
                shape: shape(source, source.n_cols),
                bytes,
            });
            parameters.push(Parameter { source: source.clone(), becomes, group: planner.place(entries) });
        }
        let mut config = model.config.clone();
        config.torch_dtype = torch_dtype(&parameters);
        config.quantization = quantization(&parameters);
        config.quantization_config.clone_from(&config.quantization);
        Ok(Self { config, parameters, tensors, n_shards: planner.n_shards() })
    }

    /// Returns the size of all tensors of the MLX model, in bytes.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

/// Returns the shape of a tensor with `n_cols` stored elements a row.
fn shape(source: &Source, n_cols: u64) -> Vec<u64> {
    if source.is_matrix { vec![source.n_rows, n_cols] } else { vec![source.n_rows] }
}

/// Returns the tensors that a parameter is written as: its values, or codes, scales and biases.
fn entries(source: &Source, becomes: TensorFormat) -> Vec<TensorEntry> {
    let float = becomes.float();
    let entry = |parameter: &str, dtype, n_cols: u64, element_bytes: u64| TensorEntry {
        name: format!("{}.{parameter}", source.module),
        dtype,
        shape: shape(source, n_cols),
        bytes: source.n_rows * n_cols * element_bytes,
        offset: 0,
    };
    let (float_dtype, float_bytes) = (shards::dtype(float), float.size_bytes() as u64);
    match becomes.affine() {
        None => vec![entry(source.parameter, float_dtype, source.n_cols, float_bytes)],
        Some(affine) => {
            let n_words = source.n_cols * u64::from(affine.bits()) / 32;
            let n_groups = source.n_cols / affine.group_size() as u64;
            vec![
                entry(source.parameter, "U32", n_words, 4),
                entry("scales", float_dtype, n_groups, float_bytes),
                entry("biases", float_dtype, n_groups, float_bytes),
            ]
        }
    }
}

/// Returns `torch_dtype` of config.json: the float type of the embedding.
fn torch_dtype(parameters: &[Parameter]) -> &'static str {
    match parameters.first().map(|first| first.becomes.float()) {
        Some(FloatType::F16) => "float16",
        Some(FloatType::BF16) => "bfloat16",
        Some(FloatType::F32) | None => "float32",
    }
}

/// Returns the most common affine format, with overrides for the modules that differ from it.
fn quantization(parameters: &[Parameter]) -> Option<Quantization> {
    let of = |parameter: &Parameter| {
        parameter.becomes.affine().map(|affine| AffineParams {
            group_size: affine.group_size(),
            bits: affine.bits(),
            mode: "affine",
        })
    };
    let mut counts: Vec<(AffineParams, usize)> = Vec::new();
    for params in parameters.iter().filter_map(of) {
        match counts.iter_mut().find(|(counted, _)| *counted == params) {
            Some((_, count)) => *count += 1,
            None => counts.push((params, 1)),
        }
    }
    let (common, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let overrides: BTreeMap<_, _> = parameters
        .iter()
        .filter_map(|parameter| Some((parameter.source.module.clone(), of(parameter)?)))
        .filter(|(_, params)| *params != common)
        .collect();
    Some(Quantization { common, overrides })
}
