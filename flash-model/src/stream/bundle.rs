//! Bundles: the tensors that are loaded together.

use std::ops::Range;
use std::sync::Arc;

use flash_io::{BundleLayout, Dtype, PageBuf, Reader, Slot, Span, Tensor, Ticket};
use flash_sched::{BelowFloor, Frontier, PlanRequest, Prediction, ResidencyPlan};
use mlx_rs::Dtype as MlxDtype;
use parking_lot::Mutex;

use crate::ModelError;
use crate::mlx::View;
use crate::stream::planner::MachineSpeeds;

/// A bundle of this size costs less memory than its reading would cost time: a norm is one, a layer never is.
const SMALL_BYTES: usize = 64 << 10;

/// The place of a bundle in execution order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleIdx(pub(crate) usize);

/// One tensor, or some of its rows.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub name: String,
    pub shard: flash_io::ShardIdx,
    pub span: Span,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
}

impl Part {
    /// `rows` of a tensor, along its first axis.
    pub(crate) fn rows(tensor: &Tensor, rows: &Range<u64>) -> Self {
        let n_rows = tensor.shape[0].max(1);
        let row_bytes = tensor.span.len_bytes() / n_rows;
        let mut shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
        shape[0] = (rows.end - rows.start) as i32;
        let span =
            Span::new(tensor.span.start + rows.start * row_bytes, tensor.span.start + rows.end * row_bytes);
        Self { name: tensor.name.clone(), shard: tensor.shard, span, dtype: tensor.dtype, shape }
    }

    /// All of a tensor.
    pub(crate) fn whole(tensor: &Tensor) -> Self {
        Self::rows(tensor, &(0..tensor.shape[0]))
    }

    /// The same so many bytes behind.
    pub(crate) fn shifted(self, bytes: u64) -> Self {
        let Span { start, end } = self.span;
        Self { span: Span::new(start + bytes, end + bytes), ..self }
    }

    /// Of its rows, cut in `of` parts that are as long, the `nth`.
    pub(crate) fn row_chunk(self, chunk_idx: u64, n_chunks: u64) -> Self {
        let mut shape = self.shape;
        shape[0] /= n_chunks as i32;
        let bytes = self.span.len_bytes() / n_chunks;
        let start = self.span.start + chunk_idx * bytes;
        Self { shape, span: Span::new(start, start + bytes), ..self }
    }
}

/// What is loaded together, and how it lies in a slot.
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

    /// Bytes of the tensors.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.span.len_bytes()).sum()
    }

    /// Bytes of a slot that holds it.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.layout.slot_bytes()
    }

    /// Whether it is too small to be worth a slot: it is always pinned.
    pub(crate) fn is_small(&self) -> bool {
        self.slot_bytes() <= SMALL_BYTES
    }

    /// What it costs a budget to hold it.
    pub(crate) fn cost_bytes(&self) -> u64 {
        PageBuf::cost_bytes(self.slot_bytes())
    }

    /// What computing with it may take beside it: MLX widens half-precision numbers to f32 before it multiplies.
    pub(crate) fn widened_bytes(&self) -> u64 {
        let is_half = |part: &&Part| matches!(part.dtype, Dtype::F16 | Dtype::BF16);
        2 * self.parts.iter().filter(is_half).map(|part| part.span.len_bytes()).sum::<u64>()
    }

    /// Begins to read it.
    pub(crate) fn submit(&self, reader: &Reader, slot: Slot) -> Ticket {
        reader.submit(&self.layout, slot)
    }

    /// The same, when `waiting_bytes` of its kind are still to be read.
    pub(crate) fn submit_behind(&self, waiting_bytes: u64, reader: &Reader, slot: Slot) -> Ticket {
        reader.submit_behind(waiting_bytes, &self.layout, slot)
    }

    /// The same, if nothing else is to be read that is wanted.
    pub(crate) fn submit_speculative(&self, waiting_bytes: u64, reader: &Reader, slot: Slot) -> Ticket {
        reader.guess(waiting_bytes, &self.layout, slot)
    }

    /// Where a part lies in the slot.
    pub(crate) fn offset(&self, part_idx: usize) -> usize {
        self.layout.tensor_offset(part_idx)
    }

    /// The tensors as they lie in the slot.
    pub(crate) fn views(&self) -> Vec<View> {
        let view = |(idx, part): (usize, &Part)| View {
            offset: self.offset(idx),
            shape: part.shape.clone(),
            dtype: mlx_dtype(part.dtype),
        };
        self.parts.iter().enumerate().map(view).collect()
    }

    /// An error of reading it, with the tensor that the read began in.
    pub(crate) fn read_error(&self, source: flash_io::IoError) -> ModelError {
        let flash_io::IoError::ReadFailed { offset, .. } = source else { return source.into() };
        // A direct read begins at a block, before the tensor: name the first that ends after it.
        let after = self.parts.iter().filter(|part| part.span.end > offset);
        match after.min_by_key(|part| part.span.end) {
            Some(part) => ModelError::WeightRead { tensor: part.name.clone(), source },
            None => source.into(),
        }
    }
}

/// The dtypes that [`Checkpoint::tensor`](crate::Checkpoint) lets through.
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
    /// The best plan for each budget on a machine, once one is asked for.
    frontier: Mutex<Option<(MachineSpeeds, Frontier)>>,
}

/// A bundle, for a person to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleInfo {
    /// The path of its tensors in the checkpoint; with the rows, if it has only some.
    pub name: String,
    /// How many tensors it has.
    pub n_tensors: usize,
    /// Their bytes.
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

    /// What they are.
    pub fn info(&self) -> impl Iterator<Item = BundleInfo> {
        self.list.iter().map(|bundle| BundleInfo {
            name: bundle.name.clone(),
            n_tensors: bundle.parts.len(),
            tensor_bytes: bundle.tensor_bytes(),
        })
    }

    /// What the bundles that are always pinned cost.
    pub(crate) fn small_bytes(&self) -> u64 {
        self.list.iter().filter(|bundle| bundle.is_small()).map(Bundle::cost_bytes).sum()
    }

    /// Which of them are pinned in a budget of which `fixed_bytes` are taken by other things, and the slots of the others.
    ///
    /// With `prefetch` there are two slots at least: one is read while the other computes. More, and how what is pinned is
    /// spread, is what a machine of these speeds is predicted to be fastest with.
    ///
    /// # Errors
    /// [`BelowFloor`], with the floor.
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

    /// What they cost together.
    pub(crate) fn cost_bytes(&self) -> u64 {
        self.list.iter().map(Bundle::cost_bytes).sum()
    }

    /// The least that they can run in.
    pub(crate) fn floor_bytes(&self, prefetch: bool) -> u64 {
        let plan = self.plan(0, u64::MAX, prefetch, &MachineSpeeds::default());
        plan.expect("everything fits into all there is").floor_bytes
    }

    /// How long a token is predicted to take with a plan of these bundles.
    pub(crate) fn predict(&self, plan: &ResidencyPlan, speeds: &MachineSpeeds) -> Prediction {
        let bundle_bytes: Vec<u64> = self.list.iter().map(Bundle::tensor_bytes).collect();
        speeds.predict(&bundle_bytes, plan)
    }
}
