//! Bundles: tensors that are loaded together.

use std::ops::Range;
use std::sync::Arc;

use flash_io::{BundleLayout, Dtype, PageBuf, Reader, Slot, Span, Tensor, Ticket};
use flash_sched::{BelowFloor, Frontier, PlanRequest, Prediction, ResidencyPlan};
use mlx_rs::Dtype as MlxDtype;
use parking_lot::Mutex;

use crate::ModelError;
use crate::mlx::{Misaligned, View, ViewError};
use crate::stream::planner::MachineSpeeds;

/// Bundles up to this size are always pinned: reading them costs more time than holding them costs memory. Norms are
/// below it, layers never are.
const SMALL_BYTES: usize = 64 << 10;

/// The index of a bundle in execution order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleIdx(pub(crate) usize);

/// A tensor, or some of its rows.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub name: String,
    pub shard: flash_io::ShardIdx,
    pub span: Span,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
}

impl Part {
    /// Selects `rows` of a tensor, along its first axis.
    pub(crate) fn rows(tensor: &Tensor, rows: &Range<u64>) -> Self {
        let n_rows = tensor.shape[0].max(1);
        let row_bytes = tensor.span.len_bytes() / n_rows;
        let mut shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
        shape[0] = (rows.end - rows.start) as i32;
        let span =
            Span::new(tensor.span.start + rows.start * row_bytes, tensor.span.start + rows.end * row_bytes);
        Self { name: tensor.name.clone(), shard: tensor.shard, span, dtype: tensor.dtype, shape }
    }

    /// Selects a whole tensor.
    pub(crate) fn whole(tensor: &Tensor) -> Self {
        Self::rows(tensor, &(0..tensor.shape[0]))
    }

    /// Shifts the span by `bytes` within the shard.
    pub(crate) fn shifted(self, bytes: u64) -> Self {
        let Span { start, end } = self.span;
        Self { span: Span::new(start + bytes, end + bytes), ..self }
    }

    /// Splits the rows into `n_chunks` chunks of equal length and returns the one at `chunk_idx`.
    pub(crate) fn row_chunk(self, chunk_idx: u64, n_chunks: u64) -> Self {
        let mut shape = self.shape;
        shape[0] /= n_chunks as i32;
        let bytes = self.span.len_bytes() / n_chunks;
        let start = self.span.start + chunk_idx * bytes;
        Self { shape, span: Span::new(start, start + bytes), ..self }
    }
}

/// Tensors that are loaded together, and their layout in a slot.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub name: String,
    pub parts: Vec<Part>,
    layout: Arc<BundleLayout>,
}

impl Bundle {
    pub(crate) fn new(name: String, parts: Vec<Part>) -> Self {
        let spans: Vec<_> = parts.iter().map(|part| (part.shard, part.span)).collect();
        Self { name, parts, layout: Arc::new(BundleLayout::new(&spans)) }
    }

    /// Returns the bytes of the tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.span.len_bytes()).sum()
    }

    /// Returns the bytes of a slot that holds the bundle.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.layout.slot_bytes()
    }

    /// Returns whether the bundle is too small to stream, and always pinned.
    pub(crate) fn is_small(&self) -> bool {
        self.slot_bytes() <= SMALL_BYTES
    }

    /// Returns the bytes of the bundle in a budget.
    pub(crate) fn cost_bytes(&self) -> u64 {
        PageBuf::cost_bytes(self.slot_bytes())
    }

    /// Returns the bytes of temporary f32 copies: MLX widens half-precision weights before it multiplies.
    pub(crate) fn widened_bytes(&self) -> u64 {
        let is_half = |part: &&Part| matches!(part.dtype, Dtype::F16 | Dtype::BF16);
        2 * self.parts.iter().filter(is_half).map(|part| part.span.len_bytes()).sum::<u64>()
    }

    /// Starts a read of the bundle.
    pub(crate) fn submit(&self, reader: &Reader, slot: Slot) -> Ticket {
        reader.submit(&self.layout, slot)
    }

    /// Starts a read of the bundle, with `waiting_bytes` of other bundles of its kind still to be read.
    pub(crate) fn submit_with_backlog(&self, waiting_bytes: u64, reader: &Reader, slot: Slot) -> Ticket {
        reader.submit_with_backlog(waiting_bytes, &self.layout, slot)
    }

    /// Starts a speculative read of the bundle, which yields to all demanded reads.
    pub(crate) fn submit_speculative(&self, waiting_bytes: u64, reader: &Reader, slot: Slot) -> Ticket {
        reader.guess(waiting_bytes, &self.layout, slot)
    }

    /// Returns the offset of a part in the slot.
    pub(crate) fn offset(&self, part_idx: usize) -> usize {
        self.layout.tensor_offset(part_idx)
    }

    /// Returns views of the tensors in the slot.
    pub(crate) fn views(&self) -> Vec<View> {
        let view = |(idx, part): (usize, &Part)| View {
            offset: self.offset(idx),
            shape: part.shape.clone(),
            dtype: mlx_dtype(part.dtype),
        };
        self.parts.iter().enumerate().map(view).collect()
    }

    /// Converts an error of [views](Self::views), and names the tensor.
    pub(crate) fn view_error(&self, error: ViewError) -> ModelError {
        match error {
            ViewError::Misaligned(Misaligned { view_idx, offset }) => {
                ModelError::TensorAlignment { tensor: self.parts[view_idx].name.clone(), offset }
            }
            ViewError::View { view_idx, error: source } => {
                ModelError::TensorView { tensor: self.parts[view_idx].name.clone(), source }
            }
            ViewError::Mlx(error) => error.into(),
        }
    }

    /// Converts a read error, and names the tensor in which the read began.
    pub(crate) fn read_error(&self, source: flash_io::IoError) -> ModelError {
        let flash_io::IoError::ReadFailed { offset, .. } = source else { return source.into() };
        // Direct reads begin at a block boundary, before the tensor, so the first tensor that ends after it is named.
        let after = self.parts.iter().filter(|part| part.span.end > offset);
        match after.min_by_key(|part| part.span.end) {
            Some(part) => ModelError::WeightRead { tensor: part.name.clone(), source },
            None => source.into(),
        }
    }
}

/// Converts the dtypes that [`Checkpoint::tensor`](crate::Checkpoint) accepts.
fn mlx_dtype(dtype: Dtype) -> MlxDtype {
    match dtype {
        Dtype::F16 => MlxDtype::Float16,
        Dtype::BF16 => MlxDtype::Bfloat16,
        Dtype::U32 => MlxDtype::Uint32,
        Dtype::U8 => MlxDtype::Uint8,
        _ => MlxDtype::Float32,
    }
}

/// The bundles of a model, in execution order.
#[derive(Debug, Default)]
pub struct Bundles {
    list: Vec<Bundle>,
    /// Cached frontier of plans over all budgets, for the machine it was computed for.
    frontier: Mutex<Option<(MachineSpeeds, Frontier)>>,
}

/// Description of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleInfo {
    /// Path of the tensors in the checkpoint, with the range of rows if the bundle has only some.
    pub name: String,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Bytes of the tensors.
    pub tensor_bytes: u64,
}

impl Bundles {
    pub(crate) fn push(&mut self, bundle: Bundle) -> BundleIdx {
        self.list.push(bundle);
        *self.frontier.get_mut() = None;
        BundleIdx(self.list.len() - 1)
    }

    pub(crate) fn as_slice(&self) -> &[Bundle] {
        &self.list
    }

    /// Returns a description of each bundle.
    pub fn info(&self) -> impl Iterator<Item = BundleInfo> {
        self.list.iter().map(|bundle| BundleInfo {
            name: bundle.name.clone(),
            n_tensors: bundle.parts.len(),
            tensor_bytes: bundle.tensor_bytes(),
        })
    }

    /// Returns the bytes of the bundles that are always pinned.
    pub(crate) fn small_bytes(&self) -> u64 {
        self.list.iter().filter(|bundle| bundle.is_small()).map(Bundle::cost_bytes).sum()
    }

    /// Plans which bundles are pinned in a budget, `fixed_bytes` of which are taken by other things, and the slots for
    /// the others.
    ///
    /// With `prefetch` there are at least two slots: one is read while the other computes. Their number, and the
    /// positions of the pinned bundles, are those predicted to be fastest on a machine of these `speeds`. Without,
    /// there is one slot, and `speeds` are not used.
    ///
    /// # Errors
    /// [`BelowFloor`], with the minimum budget.
    pub fn plan(
        &self,
        fixed_bytes: u64,
        budget_bytes: u64,
        prefetch: bool,
        speeds: &MachineSpeeds,
    ) -> Result<ResidencyPlan, BelowFloor> {
        let streamable = self.list.iter().filter(|bundle| !bundle.is_small());
        let bundle_bytes: Vec<u64> = streamable.map(Bundle::cost_bytes).collect();
        let fixed_bytes = fixed_bytes + self.small_bytes();
        let n_slots = if prefetch { 2 } else { 1 };
        let request = PlanRequest { bundle_bytes: &bundle_bytes, fixed_bytes, budget_bytes, n_slots };
        let mut plan = flash_sched::plan(&request)?;
        if prefetch && plan.streamed_bytes > 0 {
            let mut known = self.frontier.lock();
            let frontier = match known.take() {
                Some((found, frontier)) if found == *speeds => frontier,
                _ => speeds.frontier(&bundle_bytes, n_slots),
            };
            plan = frontier.plan(fixed_bytes, budget_bytes)?.plan;
            *known = Some((*speeds, frontier));
        }
        let mut planned = std::mem::take(&mut plan.pinned).into_iter();
        plan.pinned =
            self.list.iter().map(|bundle| bundle.is_small() || planned.next().unwrap_or(true)).collect();
        Ok(plan)
    }

    /// Returns the bytes of all bundles in a budget.
    pub(crate) fn cost_bytes(&self) -> u64 {
        self.list.iter().map(Bundle::cost_bytes).sum()
    }

    /// Returns the minimum budget of the bundles.
    pub(crate) fn floor_bytes(&self, prefetch: bool) -> u64 {
        let plan = self.plan(0, u64::MAX, prefetch, &MachineSpeeds::default());
        plan.expect("an unlimited budget has a plan").floor_bytes
    }

    /// Predicts the time of a token with a plan of these bundles.
    pub(crate) fn predict(&self, plan: &ResidencyPlan, speeds: &MachineSpeeds) -> Prediction {
        let bundle_bytes: Vec<u64> = self.list.iter().map(Bundle::tensor_bytes).collect();
        speeds.predict(&bundle_bytes, plan)
    }
}

#[cfg(test)]
mod tests {
    use flash_io::ShardIdx;
    use mlx_rs::error::Exception;

    use super::*;

    #[test]
    fn errors_of_views_name_the_tensor() {
        let part = |name: &str, start| Part {
            name: name.to_owned(),
            shard: ShardIdx(0),
            span: Span::new(start, start + 6),
            dtype: Dtype::F16,
            shape: vec![3],
        };
        let bundle = Bundle::new("layer".to_owned(), vec![part("first", 0), part("second", 6)]);
        let misaligned = ViewError::Misaligned(Misaligned { view_idx: 1, offset: 6 });
        let error = bundle.view_error(misaligned);
        assert!(matches!(&error, ModelError::TensorAlignment { tensor, offset: 6 } if tensor == "second"));
        let refused = ViewError::View { view_idx: 0, error: Exception::custom("too long") };
        let error = bundle.view_error(refused).to_string();
        assert!(error.starts_with("tensor \"first\": MLX: ") && error.contains("too long"), "{error}");
    }
}
