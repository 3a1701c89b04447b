//! `convert`: a GGUF file, or a directory of Hugging Face, to a model directory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flash_convert::{Checkpoint, Conversion, ConvertError, Plan, Progress, Quantized, Report, Target};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::CtrlC;
use crate::layers;
use crate::options::{ConvertOptions, ConvertSource};
use crate::output::note;
use crate::size::Bytes;

/// Is told how far a conversion is, and may end it.
type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

pub(crate) fn run(options: &ConvertOptions) -> anyhow::Result<ExitCode> {
    let ConvertOptions { source, out, shard_bytes } = options;
    match source {
        ConvertSource::Gguf { gguf, target } => {
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
            let checkpoint = Checkpoint::open(&model.find()?)?;
            let plan = checkpoint.quantize(*bits, *group_size, *shard_bytes)?;
            let Quantized { out_dir, n_parameters, n_quantized, total_bytes, n_shards, .. } =
                watched(plan.total_bytes(), |progress| plan.run(out, progress))?;
            let what = format!("{n_quantized} of {n_parameters} parameters quantized");
            tell(&out_dir, &what, total_bytes, n_shards);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Converts with a progress bar, and until Ctrl-C.
fn watched<T>(
    total_bytes: u64,
    convert: impl FnOnce(&mut OnProgress<'_>) -> Result<T, ConvertError>,
) -> anyhow::Result<T> {
    let bar = ProgressBar::new(total_bytes).with_style(ProgressStyle::with_template(
        "{bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    let stop = Arc::new(AtomicBool::new(false));
    let ctrl_c = CtrlC::new(Arc::clone(&stop))?;
    let caught = ctrl_c.catch();
    let result = convert(&mut |now| {
        bar.set_position(now.done_bytes);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(caught);
    bar.finish_and_clear();
    Ok(result?)
}

fn tell(out_dir: &Path, what: &str, total_bytes: u64, n_shards: usize) {
    let files = if n_shards == 1 { "file" } else { "files" };
    note(&format!("{}: {what}, {} in {n_shards} {files}", out_dir.display(), Bytes(total_bytes)));
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
