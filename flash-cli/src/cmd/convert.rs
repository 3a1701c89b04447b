//! `convert`: converts a GGUF file, or quantizes a Hugging Face model.

use std::collections::BTreeMap;
use std::process::ExitCode;

use flash_convert::{Checkpoint, Conversion, Plan, Quantized, Report, Target};

use super::progress::{report_written, with_progress};
use crate::foreign;
use crate::layers;
use crate::options::{ConvertOptions, ConvertSource};
use crate::output::note;

pub(crate) fn run(options: &ConvertOptions) -> anyhow::Result<ExitCode> {
    let ConvertOptions { source, out, shard_bytes } = options;
    match source {
        ConvertSource::Gguf { gguf, target } => {
            foreign::check_pointers(gguf)?;
            let conversion = Conversion::open(gguf)?;
            let plan = conversion.plan(*target, *shard_bytes)?;
            if *target == Target::Keep {
                print_lossy(&plan);
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

/// Prints the tensors that cannot be converted without loss, with one line for all layers.
fn print_lossy(plan: &Plan<'_>) {
    let mut changes: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in plan.lossy() {
        let name = layers::collapse(&tensor.name);
        *changes.entry(format!("{name}: {} becomes {}", tensor.from, tensor.becomes)).or_default() += 1;
    }
    if changes.is_empty() {
        return;
    }
    note("These tensors cannot be converted without loss:");
    for (change, n_tensors) in changes {
        note(&format!("  {n_tensors} × {change}"));
    }
}
