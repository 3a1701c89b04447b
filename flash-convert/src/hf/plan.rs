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
use crate::shards::{self, Metadata, Packing, Part, Placed};
use crate::source;
use crate::writer::OutDir;

const WEIGHT: &str = ".weight";

/// What a model directory may have besides config.json and weights: generation settings, tokenizer and chat template, in
/// all forms that programs look for.
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

/// What a quantisation will do: [`Checkpoint::quantize`] makes it, [`run`](Self::run) carries it out.
#[derive(Debug)]
pub struct QuantizePlan<'a> {
    checkpoint: &'a Checkpoint,
    config: Map<String, Value>,
    parameters: Vec<Planned<'a>>,
    n_shards: usize,
}

/// What a quantisation made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quantized {
    /// The model directory.
    pub out_dir: PathBuf,
    /// Parameters of the model.
    pub n_parameters: usize,
    /// Those that were quantised.
    pub n_quantized: usize,
    /// Bytes of weights.
    pub total_bytes: u64,
    /// How many safetensors files there are.
    pub n_shards: usize,
}

/// A parameter, what becomes of it, and where its parts go.
#[derive(Debug)]
struct Planned<'a> {
    parameter: &'a Parameter,
    /// None: it stays a parameter of floats.
    affine: Option<Affine>,
    placed: Placed,
}

impl Checkpoint {
    /// Decides what becomes of each tensor: what `mlx_lm.convert(quantize=True)` makes of it, bit for bit.
    ///
    /// Matrices whose rows are whole groups are quantised, and the routers of some mixtures of experts at 8 bits or not at
    /// all; what is published in mxfp4 or with integers of 4 bits stays so, and floats of 8 bits are multiplied out first. Everything else
    /// stays as it is. Floats have the type that config.json names as `torch_dtype`, or as `dtype` of the text model, or else
    /// that in which they are stored.
    ///
    /// # Errors
    /// [`ConvertError::Target`] for a width or a group size that is not supported.
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
        let mut quantization = self.packing.as_ref().unwrap_or(&params).clone();
        let mut packing = Packing::new(shard_bytes_max);
        let mut parameters = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let module = parameter.name.strip_suffix(WEIGHT);
            let module = module.filter(|module| {
                parameter.is_matrix(common) && !parameter.is_packed() && !self.family.keeps_floats(module)
            });
            let router = module.and_then(|module| self.family.router(module));
            let affine = match (module, router) {
                (Some(module), Some(router)) => {
                    let own = affine(router.bits, router.group_size)?;
                    quantization[module] = json!({"group_size": router.group_size, "bits": router.bits});
                    parameter.is_matrix(own).then_some(own)
                }
                (Some(module), None) => {
                    if self.packing.is_some() {
                        // What holds for all is said of what is packed.
                        quantization[module] = params.clone();
                    }
                    Some(common)
                }
                (None, _) => None,
            };
            let placed = packing.place(parts(parameter, affine));
            parameters.push(Planned { parameter, affine, placed });
        }
        let mut config = self.config.clone();
        let says_tied = config.get("tie_word_embeddings").is_some_and(|tied| !tied.is_null());
        let is_tied_by_default = self.family.is_tied == Some(true);
        if is_tied_by_default && !says_tied && self.parameters.iter().any(|parameter| parameter.name == HEAD)
        {
            // Or mlx-lm takes the model for tied, and leaves the head out.
            config.insert("tie_word_embeddings".to_owned(), false.into());
        }
        config.insert("quantization_config".to_owned(), quantization.clone());
        config.insert("quantization".to_owned(), quantization);
        Ok(QuantizePlan { checkpoint: self, config, parameters, n_shards: packing.n_shards() })
    }
}

impl QuantizePlan<'_> {
    /// What all tensors take in the MLX model, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.parameters.iter().flat_map(|planned| &planned.placed.parts).map(|part| part.bytes).sum()
    }

    /// Writes the model directory `out_dir`, as [`Plan::run`](crate::Plan::run) does. Memory: 2 MiB, and the factors of a matrix
    /// in floats of 8 bits, a number for 16,384.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or what reading and writing may meet.
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
        let placed: Vec<_> = self.parameters.iter().map(|planned| &planned.placed).collect();
        let mut scratch = Scratch::new();
        shards::write(&out, &placed, &Metadata::new(), progress, |parameter_idx, sink| {
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

/// The tensors that a parameter is written as: its values, or codes, scales and biases.
fn parts(parameter: &Parameter, affine: Option<Affine>) -> Vec<Part> {
    let Parameter { name, shape, content } = parameter;
    let part = |name: &str, dtype, n_cols: Option<u64>, element_bytes: usize| {
        let mut shape = shape.clone();
        if let (Some(last), Some(n_cols)) = (shape.last_mut(), n_cols) {
            *last = n_cols;
        }
        // The header of the checkpoint was checked: all of this is less than a file has bytes.
        let bytes = shape.iter().product::<u64>() * element_bytes as u64;
        Part { name: name.to_owned(), dtype, shape, bytes, offset: 0 }
    };
    let module = name.strip_suffix(WEIGHT).unwrap_or(name);
    let (scales, biases) = (format!("{module}.scales"), format!("{module}.biases"));
    let n_cols = shape.last().copied().unwrap_or(1);
    let words =
        |bits| part(name, "U32", Some(n_cols * u64::from(bits) / u64::from(u32::BITS)), size_of::<u32>());
    match content {
        Content::Mxfp4(_) => {
            let n_groups = n_cols / Mx::Fp4.group_size() as u64;
            vec![words(Mx::Fp4.bits()), part(&scales, "U8", Some(n_groups), size_of::<u8>())]
        }
        Content::Floats { float, .. } | Content::Int4 { float, .. } => {
            let (dtype, float_bytes) = (shards::dtype(*float), float.size_bytes());
            let (bits, group_size) = match (affine, content) {
                (Some(affine), _) => (affine.bits(), affine.group_size() as u64),
                (None, Content::Int4 { .. }) => (int4::BITS, int4::GROUP),
                (None, _) => return vec![part(name, dtype, None, float_bytes)],
            };
            let n_groups = Some(n_cols / group_size);
            vec![
                words(bits),
                part(&scales, dtype, n_groups, float_bytes),
                part(&biases, dtype, n_groups, float_bytes),
            ]
        }
    }
}

impl Planned<'_> {
    /// Whether its values are codes in the model.
    fn is_quantized(&self) -> bool {
        self.affine.is_some() || self.parameter.is_packed()
    }
}
