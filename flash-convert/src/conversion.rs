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

/// How large a shard becomes unless asked otherwise, in bytes: what Hugging Face's tools default to.
pub const SHARD_BYTES_DEFAULT: u64 = 5_000_000_000;

/// A GGUF model that can be converted: everything but its tensors' data is read and found in order.
#[derive(Debug)]
pub struct Conversion {
    gguf: GgufFile,
    model: Model,
}

/// What a conversion will do: [`Conversion::plan`] makes it, [`run`](Self::run) carries it out.
#[derive(Debug)]
pub struct Plan<'a> {
    conversion: &'a Conversion,
    target: Target,
    shard_bytes_max: u64,
    layout: Layout,
}

/// What a conversion made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The model directory.
    pub out_dir: PathBuf,
    /// What became of each tensor.
    pub tensors: Vec<PlannedTensor>,
    /// Bytes of weights.
    pub total_bytes: u64,
    /// How many safetensors files there are.
    pub n_shards: usize,
}

impl Conversion {
    /// Opens a GGUF file and checks all that can be checked before any weight is read.
    ///
    /// # Errors
    /// Any [`ConvertError`] about the GGUF file.
    pub fn open(gguf: &Path) -> Result<Self, ConvertError> {
        let gguf = GgufFile::open(gguf)?;
        let model = Model::read(&gguf)?;
        let conversion = Self { gguf, model };
        conversion.tokenizer()?;
        Ok(conversion)
    }

    /// The GGUF file.
    pub fn gguf(&self) -> &GgufFile {
        &self.gguf
    }

    /// Decides what becomes of each tensor, and which shard it goes to.
    ///
    /// A shard holds whole parameters (codes, scales and biases together) in the order of execution, and not more
    /// than `shard_bytes_max` bytes of them unless a single one is larger.
    ///
    /// # Errors
    /// [`ConvertError::Target`] if the target asks for a width or a group size that is not supported.
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
        let placed: Vec<_> = layout.parameters.iter().map(|parameter| &parameter.placed).collect();
        let mut scratch = Scratch::new();
        shards::write(&out, &placed, &Metadata::new(), progress, |parameter_idx, sink| {
            scratch.convert(&self.gguf, &layout.parameters[parameter_idx], sink)
        })?;
        out.finish()?;
        Ok(())
    }
}

impl Plan<'_> {
    /// Every tensor, in the order in which they are written: that of execution.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.layout.tensors
    }

    /// The tensors whose values change. None means: the model stays exactly what it is.
    pub fn lossy(&self) -> impl Iterator<Item = &PlannedTensor> {
        self.tensors().iter().filter(|tensor| !tensor.is_lossless())
    }

    /// What all tensors take in the MLX model, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.layout.total_bytes()
    }

    /// How many safetensors files there will be.
    pub fn n_shards(&self) -> usize {
        self.layout.n_shards
    }

    /// Writes the model directory `out_dir`.
    ///
    /// All is written to a hidden directory beside `out_dir`, made durable, and moved into place at the end; after
    /// an error, an interruption or a panic of `progress` nothing is left. (A process that is killed does leave the
    /// hidden directory, named `.NAME.` and six letters.) Memory: 2 MiB, and the tokenizer's tables.
    ///
    /// `progress` is called for every MiB or less; [`ControlFlow::Break`] ends the conversion. Should the bias of a
    /// block prove too large for `f16`, the conversion starts anew with `f32` scales, as the report then shows.
    ///
    /// # Errors
    /// [`ConvertError::OutputExists`], [`ConvertError::Interrupted`], or what reading and writing may meet.
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
