//! Where every byte of the converted model goes, known before the first is written.

use std::collections::BTreeMap;

use flash_kernels::FloatType;

use crate::architecture::{AffineParams, Config, Model, Quantization, Source};
use crate::error::ConvertError;
use crate::gguf::GgmlType;
use crate::shards::{self, Packing, Part, Placed};
use crate::target::{Becomes, Target};

/// What is written: which tensors, as what, into which shards.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) config: Config,
    pub(crate) parameters: Vec<Parameter>,
    /// The parameters again, as GGUF tensors and for people.
    pub(crate) tensors: Vec<PlannedTensor>,
    pub(crate) n_shards: usize,
}

/// What becomes of one GGUF tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedTensor {
    /// Its name in the GGUF file.
    pub gguf_name: String,
    /// Its name in the MLX model; codes have it, scales and biases stand beside it.
    pub name: String,
    /// How it is stored in the GGUF file.
    pub from: GgmlType,
    /// How it is stored in the MLX model.
    pub becomes: Becomes,
    /// Its shape, rows first: `[n_rows, n_cols]` or `[n]`.
    pub shape: Vec<u64>,
    /// Its size in the MLX model, with scales and biases.
    pub bytes: u64,
}

impl PlannedTensor {
    /// Whether every value stays exactly what it is (but for the sign of zeros).
    pub fn is_lossless(&self) -> bool {
        match self.becomes {
            Becomes::Same(_) | Becomes::Repacked(..) | Becomes::Floats(FloatType::F32) => true,
            Becomes::Floats(_) | Becomes::Quantized(..) => false,
        }
    }
}

/// A parameter, what becomes of it, and where its parts go.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) source: Source,
    pub(crate) becomes: Becomes,
    /// The tensors it is written as.
    pub(crate) placed: Placed,
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
        let mut packing = Packing::new(shard_bytes_max);
        for source in &model.sources {
            let becomes = target.becomes(source, wide_scales)?;
            let parts = parts(source, becomes);
            let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
            tensors.push(PlannedTensor {
                gguf_name: source.tensor.name.clone(),
                name: parts[0].name.clone(),
                from: source.tensor.kind,
                becomes,
                shape: shape(source, source.n_cols),
                bytes,
            });
            parameters.push(Parameter { source: source.clone(), becomes, placed: packing.place(parts) });
        }
        let mut config = model.config.clone();
        config.torch_dtype = torch_dtype(&parameters);
        config.quantization = quantization(&parameters);
        config.quantization_config.clone_from(&config.quantization);
        Ok(Self { config, parameters, tensors, n_shards: packing.n_shards() })
    }

    /// What all tensors take in the MLX model.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

/// The shape with rows of `n_cols` stored elements.
fn shape(source: &Source, n_cols: u64) -> Vec<u64> {
    if source.is_matrix { vec![source.n_rows, n_cols] } else { vec![source.n_rows] }
}

fn parts(source: &Source, becomes: Becomes) -> Vec<Part> {
    let float = becomes.float();
    let part = |parameter: &str, dtype, n_cols: u64, element_bytes: u64| Part {
        name: format!("{}.{parameter}", source.module),
        dtype,
        shape: shape(source, n_cols),
        bytes: source.n_rows * n_cols * element_bytes,
        offset: 0,
    };
    let (float_dtype, float_bytes) = (shards::dtype(float), float.size_bytes() as u64);
    match becomes.affine() {
        None => vec![part(source.parameter, float_dtype, source.n_cols, float_bytes)],
        Some(affine) => {
            let n_words = source.n_cols * u64::from(affine.bits()) / 32;
            let n_groups = source.n_cols / affine.group_size() as u64;
            vec![
                part(source.parameter, "U32", n_words, 4),
                part("scales", float_dtype, n_groups, float_bytes),
                part("biases", float_dtype, n_groups, float_bytes),
            ]
        }
    }
}

/// The type of the embedding's floats stands for the model's.
fn torch_dtype(parameters: &[Parameter]) -> &'static str {
    match parameters.first().map(|first| first.becomes.float()) {
        Some(FloatType::F16) => "float16",
        Some(FloatType::BF16) => "bfloat16",
        Some(FloatType::F32) | None => "float32",
    }
}

/// The format that most quantised modules have, and those that differ from it.
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
