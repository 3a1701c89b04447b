//! `convert`: a GGUF file to a model directory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flash_convert::{Conversion, Plan, Report, Target};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt::CtrlC;
use crate::layers;
use crate::options::ConvertOptions;
use crate::output::note;
use crate::size::Bytes;

pub(crate) fn run(options: &ConvertOptions) -> anyhow::Result<ExitCode> {
    let ConvertOptions { gguf, out, target, shard_bytes } = options;
    let conversion = Conversion::open(gguf)?;
    let plan = conversion.plan(*target, *shard_bytes)?;
    if *target == Target::Keep {
        tell_what_changes(&plan);
    }

    let progress = ProgressBar::new(plan.total_bytes()).with_style(ProgressStyle::with_template(
        "{bar:40} {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    let stop = Arc::new(AtomicBool::new(false));
    let ctrl_c = CtrlC::new(Arc::clone(&stop))?;
    let caught = ctrl_c.catch();
    let result = plan.run(out, &mut |now| {
        progress.set_position(now.done_bytes);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(caught);
    progress.finish_and_clear();

    let Report { out_dir, tensors, total_bytes, n_shards, .. } = result?;
    let files = if n_shards == 1 { "file" } else { "files" };
    let (n_tensors, size) = (tensors.len(), Bytes(total_bytes));
    note(&format!("{}: {n_tensors} tensors, {size} in {n_shards} {files}", out_dir.display()));
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
