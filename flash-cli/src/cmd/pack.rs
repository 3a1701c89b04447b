//! `pack`: copies a mixture of experts with each expert contiguous on disk.

use std::process::ExitCode;

use flash_convert::{Member, PackPlan, Packed, PackedLayer};
use flash_io::IoMode;
use flash_model::{Compute, ExpertRows, ExpertTensor};

use crate::args::PackArgs;
use crate::progress::{report_written, with_progress};
use crate::session::open_model;

pub(crate) fn run(args: &PackArgs) -> anyhow::Result<ExitCode> {
    let PackArgs { model, out } = args;
    let dir = model.find()?;
    // Only headers are read, so any I/O mode works.
    let layers = open_model(&dir, IoMode::Pread, Compute::Auto)?.expert_rows()?;
    let member = |ExpertTensor { name, tensor, idx, .. }| Member { name, tensor, idx };
    let layer = |ExpertRows { name, experts, .. }| PackedLayer {
        name,
        experts: experts.into_iter().map(|tensors| tensors.into_iter().map(member).collect()).collect(),
    };
    let layers: Vec<_> = layers.into_iter().map(layer).collect();
    let plan = PackPlan::new(&dir, &layers)?;
    let Packed { out_dir, n_experts, total_bytes, .. } =
        with_progress(plan.total_bytes(), |progress| plan.run(out, progress))?;
    report_written(&out_dir, &format!("{n_experts} experts"), total_bytes, 1);
    Ok(ExitCode::SUCCESS)
}
