//! The report of `plan`.

use std::time::Duration;

use flash_model::{MachineSpeeds, Model, ModelError, Workload};
use flash_sched::{Bound, ByteRate, Prediction};
use serde::Serialize;

use crate::options::PlanOptions;
use crate::report::ms;
use crate::speed::ComputeSpeed;

const GIB: u64 = 1 << 30;

/// Report of `plan`, as printed by `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model_bytes: u64,
    pub(super) context_tokens: usize,
    pub(super) budget_bytes: u64,
    pub(super) floor_bytes: u64,
    /// Bytes of the budget that are not for weights.
    pub(super) other_bytes: u64,
    /// Present for a mixture of experts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) experts: Option<ExpertsReport>,
    /// The smallest budget that holds all weights.
    pub(super) resident_bytes: u64,
    pub(super) pinned_bytes: u64,
    pub(super) streamed_bytes_per_token: u64,
    pub(super) n_slots: usize,
    pub(super) slot_bytes: u64,
    pub(super) disk_bytes_per_s: f64,
    pub(super) disk_is_assumed: bool,
    pub(super) compute_is_assumed: bool,
    #[serde(flatten)]
    pub(super) speed: SpeedReport,
    /// Speed with one more GiB; none if all weights are already in memory.
    pub(super) next_gib: Option<SpeedReport>,
    pub(super) bundles: Vec<BundleReport>,
    pub(super) curve: Vec<PointReport>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct SpeedReport {
    pub(super) tok_per_s: f64,
    pub(super) token_ms: f64,
    pub(super) compute_ms: f64,
    pub(super) reading_ms: f64,
    pub(super) limited_by: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct BundleReport {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) is_pinned: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct PointReport {
    pub(super) budget_bytes: u64,
    pub(super) tok_per_s: f64,
}

/// Assumptions of a plan: the workload, and the speeds of the machine.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    options: &'a PlanOptions,
    workload: Workload,
    speeds: MachineSpeeds,
}

impl<'a> Machine<'a> {
    pub(super) fn new(model: &Model, options: &'a PlanOptions) -> Self {
        let context_tokens = options.context_tokens.min(model.max_context_tokens().unwrap_or(usize::MAX));
        // The workload of `run` with a prompt and an answer of the same length.
        let mut workload = Workload::new(context_tokens.div_ceil(2), context_tokens);
        workload.kv.is_append_only = true;
        let compute = match options.compute.value {
            // At least a nanosecond, so that rates stay finite.
            ComputeSpeed::Token(time) => {
                let time = time.max(Duration::from_nanos(1));
                ByteRate::measured(model.model_bytes().max(1), time)
                    .unwrap_or(MachineSpeeds::default().compute)
            }
            ComputeSpeed::Weights(rate) => rate.0,
        };
        Self { options, workload, speeds: MachineSpeeds::new(options.disk.value.0, compute) }
    }

    /// Predicts tokens per second for budgets from the floor to all weights in memory.
    fn curve(
        &self,
        model: &Model,
        budgets: (u64, u64),
        n_points: usize,
    ) -> Result<Vec<PointReport>, ModelError> {
        let (floor_bytes, resident_bytes) = budgets;
        let room_bytes = (resident_bytes - floor_bytes) as f64;
        (0..n_points)
            .map(|point| {
                let fraction = point as f64 / (n_points - 1).max(1) as f64;
                let budget_bytes = floor_bytes + (fraction * room_bytes).round() as u64;
                let tok_per_s = model.predict(&self.workload, budget_bytes, &self.speeds)?.tok_per_s();
                Ok(PointReport { budget_bytes, tok_per_s })
            })
            .collect()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ExpertsReport {
    pub(super) n_experts: usize,
    /// Number of experts held in memory.
    pub(super) n_held: usize,
    pub(super) held_bytes: u64,
    pub(super) total_bytes: u64,
    /// Bytes of the experts of one token.
    pub(super) bytes_per_token: u64,
}

impl Report {
    pub(super) fn new(
        model: &Model,
        machine: &Machine<'_>,
        budget_bytes: u64,
        n_points: usize,
    ) -> Result<Self, ModelError> {
        let Machine { workload, speeds, .. } = machine;
        let plan = model.plan(workload, budget_bytes, speeds)?;
        let floor_bytes = model.reported_floor_bytes(workload);
        // A budget below the floor is rejected even if it would hold a tiny model.
        let resident_bytes = model.plan(workload, u64::MAX, speeds)?.total_bytes.max(floor_bytes);
        let next_gib = if budget_bytes < resident_bytes {
            let prediction = model.predict(workload, budget_bytes.saturating_add(GIB), speeds)?;
            Some(SpeedReport::new(&prediction))
        } else {
            None
        };
        let bundles: Vec<_> = model
            .bundles()
            .zip(&plan.pinned)
            .map(|(bundle, &is_pinned)| BundleReport {
                name: bundle.name,
                bytes: bundle.tensor_bytes,
                is_pinned,
            })
            .collect();
        let bytes = |is_pinned: bool| {
            let matching = bundles.iter().filter(|bundle| bundle.is_pinned == is_pinned);
            matching.map(|bundle| bundle.bytes).sum()
        };
        let needs = model.needs(workload, budget_bytes);
        let PlanOptions { disk, compute, .. } = machine.options;
        Ok(Self {
            model_bytes: model.model_bytes(),
            context_tokens: workload.context_tokens,
            budget_bytes,
            floor_bytes,
            other_bytes: needs.total_bytes() - needs.small_weights_bytes - needs.expert_bytes,
            experts: model.experts(workload, budget_bytes).map(|experts| ExpertsReport {
                n_experts: experts.n_experts,
                n_held: experts.n_held,
                held_bytes: experts.total_bytes / experts.n_experts.max(1) as u64 * experts.n_held as u64,
                total_bytes: experts.total_bytes,
                bytes_per_token: experts.token_bytes,
            }),
            resident_bytes,
            pinned_bytes: bytes(true),
            streamed_bytes_per_token: bytes(false),
            n_slots: plan.n_slots,
            slot_bytes: plan.slot_bytes,
            disk_bytes_per_s: disk.value.0.bytes_per_s(),
            disk_is_assumed: disk.is_assumed,
            compute_is_assumed: compute.is_assumed,
            speed: SpeedReport::new(&model.predict(workload, budget_bytes, speeds)?),
            next_gib,
            bundles,
            curve: machine.curve(model, (floor_bytes, resident_bytes), n_points)?,
        })
    }
}

impl SpeedReport {
    fn new(prediction: &Prediction) -> Self {
        Self {
            tok_per_s: prediction.tok_per_s(),
            token_ms: ms(prediction.token),
            compute_ms: ms(prediction.compute),
            reading_ms: ms(prediction.reading),
            limited_by: match prediction.bound() {
                Bound::Compute => "compute",
                Bound::Disk => "disk",
                Bound::Slots => "slots",
            },
        }
    }
}
