//! `convert`: a GGUF file, or a directory of Hugging Face, to a model directory.

use std::collections::BTreeMap;
use std::process::ExitCode;

use flash_convert::{Checkpoint, Conversion, Plan, Quantized, Report, Target};

use super::writing::{tell, watched};
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
                tell_what_changes(&plan);
            }
            let Report { out_dir, tensors, total_bytes, n_shards, .. } =
                watched(plan.total_bytes(), |progress| plan.run(out, progress))?;
            tell(&out_dir, &format!("{} tensors", tensors.len()), total_bytes, n_shards);
        }
        ConvertSource::Hf { model, bits, group_size } => {
            let dir = model.find()?;
            foreign::check_pointers(&dir)?;
            let checkpoint = Checkpoint::open(&dir).map_err(|error| foreign::explain(&dir, error.into()))?;
            let plan = checkpoint.quantize(*bits, *group_size, *shard_bytes)?;
            let Quantized { out_dir, n_parameters, n_quantized, total_bytes, n_shards, .. } =
                watched(plan.total_bytes(), |progress| plan.run(out, progress))?;
            let what = format!("{n_quantized} of {n_parameters} parameters quantized");
            tell(&out_dir, &what, total_bytes, n_shards);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Names the tensors that cannot be kept, those of all layers in one line.
fn tell_what_changes(plan: &Plan<'_>) {
    let mut changes: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in plan.lossy() {
        let name = layers::collapse(&tensor.name);
        *changes.entry(format!("{name}: {} becomes {}", tensor.from, tensor.becomes)).or_default() += 1;
    }
    if changes.is_empty() {
        return;
    }
    note("These tensors cannot be kept as they are:");
    for (change, n_tensors) in changes {
        note(&format!("  {n_tensors} × {change}"));
    }
}
