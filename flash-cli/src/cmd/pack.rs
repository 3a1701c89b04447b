//! `pack`: a copy of a mixture of experts in which each expert lies in one place.

use std::process::ExitCode;

use flash_convert::{Member, PackPlan, Packed};
use flash_io::IoMode;
use flash_model::{Compute, ExpertTensor};

use super::writing::{tell, watched};
use crate::args::PackArgs;
use crate::session::open_model;

/// An index of all tensors of all experts would have to be read at every start.
const ONE_FILE: u64 = u64::MAX;

pub(crate) fn run(args: &PackArgs) -> anyhow::Result<ExitCode> {
    let PackArgs { model, out } = args;
    let dir = model.find()?;
    // Only its headers are read.
    let experts = open_model(&dir, IoMode::Pread, Compute::Auto)?.expert_tensors()?;
    let member = |ExpertTensor { name, tensor, idx, .. }| Member { name, tensor, idx };
    let experts: Vec<Vec<Member>> =
        experts.into_iter().map(|tensors| tensors.into_iter().map(member).collect()).collect();
    let plan = PackPlan::new(&dir, &experts, ONE_FILE)?;
    let Packed { out_dir, n_experts, total_bytes, n_shards, .. } =
        watched(plan.total_bytes(), |progress| plan.run(out, progress))?;
    tell(&out_dir, &format!("{n_experts} experts"), total_bytes, n_shards);
    Ok(ExitCode::SUCCESS)
}
