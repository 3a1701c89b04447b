//! `convert`: converts a GGUF file, or quantizes a Hugging Face model.

use std::process::ExitCode;

use flash_convert::{Checkpoint, Conversion, Quantized, Report, Target};

use crate::options::{ConvertOptions, ConvertSource};
use crate::progress::{report_written, with_progress};
use crate::{foreign, gguf};

pub(crate) fn run(options: &ConvertOptions) -> anyhow::Result<ExitCode> {
    let ConvertOptions { source, out, shard_bytes } = options;
    match source {
        ConvertSource::Gguf { gguf: file, target } => {
            foreign::check_pointers(file)?;
            let conversion = Conversion::open(file)?;
            let plan = conversion.plan(*target, *shard_bytes)?;
            if *target == Target::Keep {
                gguf::note_lossy(&plan);
            }
            let Report { out_dir, tensors, total_bytes, n_shards, .. } =
                with_progress(plan.total_bytes(), |progress| plan.run(out, progress))?;
            report_written(&out_dir, &format!("{} tensors", tensors.len()), total_bytes, n_shards);
        }
        ConvertSource::Hf { model, bits, group_size } => {
            let dir = model.find()?;
            foreign::check_pointers(&dir)?;
            let checkpoint = Checkpoint::open(&dir).map_err(|error| foreign::explain(&dir, error.into()))?;
            let plan = checkpoint.quantize(*bits, *group_size, *shard_bytes)?;
            let Quantized { out_dir, n_parameters, n_quantized, total_bytes, n_shards, .. } =
                with_progress(plan.total_bytes(), |progress| plan.run(out, progress))?;
            let what = format!("{n_quantized} of {n_parameters} parameters quantized");
            report_written(&out_dir, &what, total_bytes, n_shards);
        }
    }
    Ok(ExitCode::SUCCESS)
}
