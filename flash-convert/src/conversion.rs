use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::architecture::Model;
use crate::error::ConvertError;
use crate::gguf::GgufFile;
use crate::layout::{Layout, PlannedTensor};
use crate::progress::Progress;
use crate::scratch::Scratch;
use crate::shards::{self, Metadata};
use crate::stream::StreamError;
use crate::target::Target;
use crate::tokenizer::Tokenizer;
use crate::writer::OutDir;

/// Default shard size in bytes, that of Hugging Face's tools.
pub const SHARD_BYTES_DEFAULT: u64 = 5_000_000_000;

/// A GGUF model ready for conversion: everything except tensor data has been read and validated.
#[derive(Debug)]
pub struct Conversion {
    gguf: GgufFile,
    model: Model,
}

/// Plan of a conversion, made by [`Conversion::plan`] and executed by [`run`](Self::run).
#[derive(Debug)]
pub struct Plan<'a> {
    conversion: &'a Conversion,
    target: Target,
    shard_bytes_max: u64,
    layout: Layout,
}

/// Result of a finished conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The model directory.
    pub out_dir: PathBuf,
    /// The converted tensors.
    pub tensors: Vec<PlannedTensor>,
    /// Bytes of weights.
    pub total_bytes: u64,
    /// Number of safetensors files.
    pub n_shards: usize,
}

impl Conversion {
    /// Opens a GGUF file and validates everything that can be checked without reading weights.
    ///
    /// # Errors
    /// Any [`ConvertError`] that concerns the GGUF file: it cannot be read, is damaged, or has an architecture, tensor
    /// or tokenizer that is not supported.
    pub fn open(gguf: &Path) -> Result<Self, ConvertError> {
        let gguf = GgufFile::open(gguf)?;
        let model = Model::read(&gguf)?;
        let conversion = Self { gguf, model };
        conversion.tokenizer()?;
        Ok(conversion)
    }

    /// Returns the GGUF file.
    pub fn gguf(&self) -> &GgufFile {
        &self.gguf
    }

    /// Plans the output format and the shard of each tensor.
    ///
    /// A shard holds whole parameters (codes, scales and biases together) in execution order, and at most
    /// `shard_bytes_max` bytes unless a single parameter is larger.
    ///
    /// # Errors
    /// [`ConvertError::Target`] if the target's bit width or group size is not supported.
    pub fn plan(&self, target: Target, shard_bytes_max: u64) -> Result<Plan<'_>, ConvertError> {
        Ok(Plan {
            conversion: self,
            target,
            shard_bytes_max,
            layout: Layout::new(&self.model, target, shard_bytes_max, false)?,
        })
    }

    fn tokenizer(&self) -> Result<Tokenizer<'_>, ConvertError> {
        Tokenizer::read(&self.gguf, &self.model.config)
    }

    fn write(
        &self,
        layout: &Layout,
        out_dir: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), StreamError> {
        let out = OutDir::new(out_dir, layout.total_bytes())?;
        out.write_json("config.json", &layout.config, true)?;
        self.tokenizer()?.write(&out, &layout.config)?;
        let groups: Vec<_> = layout.parameters.iter().map(|parameter| &parameter.group).collect();
        let mut scratch = Scratch::new();
        shards::write(&out, &groups, &Metadata::new(), progress, |parameter_idx, sink| {
            scratch.convert(&self.gguf, &layout.parameters[parameter_idx], sink)
        })?;
        out.finish()?;
        Ok(())
    }
}

impl Plan<'_> {
    /// Returns all tensors in the order they are written, which is execution order.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.layout.tensors
    }

    /// Returns the tensors whose values change; empty if the conversion is lossless.
    pub fn lossy(&self) -> impl Iterator<Item = &PlannedTensor> {
        self.tensors().iter().filter(|tensor| !tensor.is_lossless())
    }

    /// Returns the size of all tensors of the MLX model, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.layout.total_bytes()
    }

    /// Returns the number of safetensors files to write.
    pub fn n_shards(&self) -> usize {
        self.layout.n_shards
    }

    /// Writes the model directory `out_dir`.
    ///
    /// Everything is written to a hidden directory next to `out_dir`, synced, and renamed into place at the end. An
    /// error, an interruption or a panic of `progress` leaves nothing behind; a killed process leaves the hidden
    /// directory, named `.NAME.` plus six letters. Memory: 2 MiB plus the tokenizer's tables.
    ///
    /// `progress` is called at least once per MiB; [`ControlFlow::Break`] stops the conversion. If the bias of a block
    /// overflows `f16`, the conversion restarts with `f32` scales, which the report shows.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or any error of reading and writing.
    pub fn run(
        &self,
        out_dir: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Report, ConvertError> {
        let report = |layout: Layout| Report {
            out_dir: out_dir.to_owned(),
            total_bytes: layout.total_bytes(),
            n_shards: layout.n_shards,
            tensors: layout.tensors,
        };
        match self.conversion.write(&self.layout, out_dir, progress) {
            Ok(()) => Ok(report(self.layout.clone())),
            Err(StreamError::Failed(error)) => Err(error),
            Err(StreamError::NeedsWideScales) => {
                let model = &self.conversion.model;
                let wide = Layout::new(model, self.target, self.shard_bytes_max, true)?;
                match self.conversion.write(&wide, out_dir, progress) {
                    Ok(()) => Ok(report(wide)),
                    Err(StreamError::Failed(error)) => Err(error),
                    Err(StreamError::NeedsWideScales) => unreachable!("f32 holds every bias"),
                }
            }
        }
    }
}
