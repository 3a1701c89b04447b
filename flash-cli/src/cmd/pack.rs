//! `pack`: a copy of a mixture of experts in which each expert lies in one place.

use std::process::ExitCode;

use flash_convert::{LayerExperts, Member, PackPlan, Packed};
use flash_io::IoMode;
use flash_model::{Compute, ExpertRows, ExpertTensor};

use super::writing::{tell, watched};
use crate::args::PackArgs;
use crate::session::open_model;

pub(crate) fn run(args: &PackArgs) -> anyhow::Result<ExitCode> {
    let PackArgs { model, out } = args;
    let dir = model.find()?;
    // Only its headers are read.
    let layers = open_model(&dir, IoMode::Pread, Compute::Auto)?.expert_rows()?;
    let member = |ExpertTensor { name, tensor, idx, .. }| Member { name, tensor, idx };
    let layer = |ExpertRows { name, experts, .. }| LayerExperts {
        name,
        experts: experts.into_iter().map(|tensors| tensors.into_iter().map(member).collect()).collect(),
    };
    let layers: Vec<_> = layers.into_iter().map(layer).collect();
    let plan = PackPlan::new(&dir, &layers)?;
    let Packed { out_dir, n_experts, total_bytes, .. } =
        watched(plan.total_bytes(), |progress| plan.run(out, progress))?;
    tell(&out_dir, &format!("{n_experts} experts"), total_bytes, 1);
    Ok(ExitCode::SUCCESS)
}
