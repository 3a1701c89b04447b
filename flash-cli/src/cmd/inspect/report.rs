//! The report of `inspect`.

use flash_model::{BundleInfo, Model, Workload};
use serde::Serialize;

use super::kind::BytesByKind;

/// Returns the workload for which the floor is reported: a short question and its answer.
fn workload() -> Workload {
    Workload::new(128, 256)
}

/// Report of `inspect`, as printed by `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model_type: String,
    pub(super) model_bytes: u64,
    pub(super) floor_bytes: u64,
    pub(super) floor_no_pipeline_bytes: u64,
    pub(super) kv_token_bytes: u64,
    pub(super) state_bytes: u64,
    pub(super) max_context_tokens: Option<usize>,
    pub(super) n_tensors: usize,
    pub(super) n_shards: usize,
    pub(super) needs: NeedsReport,
    pub(super) bytes_by_kind: BytesByKind,
    pub(super) bundles: Vec<BundleReport>,
    pub(super) tensors: Vec<TensorReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct NeedsReport {
    pub(super) process_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) expert_bytes: u64,
    pub(super) activation_bytes: u64,
    pub(super) small_weights_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct BundleReport {
    pub(super) name: String,
    pub(super) n_tensors: usize,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct TensorReport {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: u64,
}

impl Report {
    pub(super) fn new(model: &Model) -> Self {
        let floor_bytes = model.reported_floor_bytes(&workload());
        let needs = model.needs(&workload(), floor_bytes);
        let catalog = model.checkpoint().catalog();
        let tensors: Vec<_> = catalog
            .tensors()
            .map(|tensor| TensorReport {
                name: tensor.name.clone(),
                dtype: tensor.dtype.to_string(),
                shape: tensor.shape.clone(),
                bytes: tensor.span.len_bytes(),
            })
            .collect();
        let mut bytes_by_kind = BytesByKind::default();
        for TensorReport { name, bytes, .. } in &tensors {
            bytes_by_kind.add(name, *bytes);
        }
        let bundle =
            |BundleInfo { name, n_tensors, tensor_bytes: bytes, .. }| BundleReport { name, n_tensors, bytes };
        Self {
            model_type: model.checkpoint().config().model_type().to_owned(),
            model_bytes: model.model_bytes(),
            floor_bytes,
            floor_no_pipeline_bytes: model.reported_floor_bytes(&workload().with_prefetch(false)),
            kv_token_bytes: model.kv_token_bytes(),
            state_bytes: model.state_bytes(),
            max_context_tokens: model.max_context_tokens(),
            n_tensors: tensors.len(),
            n_shards: catalog.shards().len(),
            needs: NeedsReport {
                process_bytes: needs.process_bytes,
                kv_bytes: needs.kv_bytes,
                expert_bytes: needs.expert_bytes,
                activation_bytes: needs.activation_bytes,
                small_weights_bytes: needs.small_weights_bytes,
            },
            bytes_by_kind,
            bundles: model.bundles().map(bundle).collect(),
            tensors,
        }
    }

    /// Describes the workload for which the floor is reported.
    pub(super) fn workload() -> String {
        format!("a context of {} tokens", workload().context_tokens)
    }
}
