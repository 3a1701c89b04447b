//! A model that is not loaded yet: its layers, their memory needs, and speed predictions.

use std::path::Path;

use flash_kv::{Geometry, Identity, KvDtype, KvShape};
use flash_sched::{Prediction, ResidencyPlan};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::compute::{Backend, Compute};
use crate::decoder::Decoder;
use crate::engine::identity::ComputedBy;
use crate::engine::needs::{MemoryNeeds, MemoryPlanner, Workload};
use crate::engine::options::ModelOptions;
use crate::kv::{CacheKind, KvPolicy, StateShape, n_kv_layers};
use crate::models;
use crate::nn::tiled::Tiling;
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::{BundleInfo, Bundles};
use crate::stream::experts::{ExpertInfo, ExpertPlan, ExpertRows, Mixture};
use crate::stream::planner::MachineSpeeds;

/// A model whose layers have been built and checked against its checkpoint, without weights in memory.
#[derive(Debug)]
pub struct Model {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) backend: Backend,
    pub(crate) decoder: Decoder,
    pub(crate) bundles: Bundles,
    pub(crate) kv_shape: KvShape,
    /// Keys and values, or the state, that each layer keeps.
    pub(crate) keeps: Vec<CacheKind>,
    /// Sliding windows of the layers that have keys and values.
    pub(crate) windows: Vec<Option<usize>>,
    pub(crate) max_position_embeddings: Option<usize>,
    pub(crate) positions_max: Option<usize>,
    /// Experts per token, if the trained number was overridden.
    pub(crate) top_k: Option<usize>,
}

impl Model {
    /// Builds the layers of a checkpoint's configuration.
    ///
    /// # Errors
    /// [`ModelError`] if the architecture is not supported, or tensors do not match the configuration.
    pub fn open(checkpoint: Checkpoint) -> Result<Self, ModelError> {
        Self::open_on(checkpoint, Compute::Auto)
    }

    /// Builds the layers of a checkpoint's configuration with options, or for a chosen backend.
    ///
    /// # Errors
    /// The errors of [`open`](Self::open), and [`ModelError::NativeCompute`].
    pub fn open_on(checkpoint: Checkpoint, options: impl Into<ModelOptions>) -> Result<Self, ModelError> {
        let ModelOptions { compute, tile_rows, tile_bytes_min } = options.into();
        let backend = Backend::new(compute)?;
        let tiling = tile_rows.map(|rows| Tiling::new(rows.get(), tile_bytes_min));
        let weights = VarBuilder::new(&checkpoint, &backend).with_tiling(tiling.as_ref());
        let architecture = models::build(&weights)?;
        let kv_shape = KvShape {
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            parts: architecture.parts,
            dtype: KvDtype::F32,
        };
        let keeps: Vec<CacheKind> = architecture.layers.iter().map(|(_, parts)| parts.keeps).collect();
        let with_kv = architecture.layers.iter().filter(|(_, parts)| parts.keeps == CacheKind::KeysValues);
        let windows = with_kv.map(|(_, parts)| parts.layer.window()).collect();
        let max_position_embeddings = architecture.max_position_embeddings;
        let positions_max = architecture.positions_max;
        let (embed_path, head_path) = (architecture.embed_path.clone(), architecture.head_path.clone());
        let (decoder, bundles) = Decoder::new(&weights, architecture)?;
        checkpoint.config().refuse_unread()?;
        checkpoint.refuse_unused(&embed_path, &head_path)?;
        Ok(Self {
            checkpoint,
            backend,
            decoder,
            bundles,
            kv_shape,
            keeps,
            windows,
            max_position_embeddings,
            positions_max,
            top_k: None,
        })
    }

    /// Overrides the number of experts per token and layer, and returns the number that the model was trained with.
    /// Fewer experts mean less reading and computing, and different output.
    ///
    /// # Errors
    /// [`ModelError::NoExperts`], and [`ModelError::TopK`] if the number is out of range.
    pub fn override_top_k(&mut self, top_k: usize) -> Result<usize, ModelError> {
        let trained = self.decoder.override_top_k(top_k)?;
        self.top_k = Some(top_k);
        Ok(trained)
    }

    /// Returns the checkpoint that the weights are read from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns the context length that the model was trained for, or that its positions are scaled to, if its
    /// configuration says. Longer contexts run, with a warning.
    pub fn max_context_tokens(&self) -> Option<usize> {
        self.max_position_embeddings
    }

    /// Returns the bytes of all weights.
    pub fn model_bytes(&self) -> u64 {
        self.checkpoint.catalog().total_bytes()
    }

    /// Returns the bytes of a token in the KV cache, in all layers, stored as computed (f32).
    pub fn kv_token_bytes(&self) -> u64 {
        (n_kv_layers(&self.keeps) * self.kv_shape.token_bytes()) as u64
    }

    /// Returns the bytes of recurrent states, which some layers keep instead of keys and values, for any number of
    /// tokens.
    pub fn state_bytes(&self) -> u64 {
        self.states().map(|shape| shape.bytes() as u64).sum()
    }

    fn states(&self) -> impl Iterator<Item = &StateShape> {
        self.keeps.iter().filter_map(|keeps| match keeps {
            CacheKind::State(shape) => Some(shape),
            _ => None,
        })
    }

    /// Returns the bundles in execution order.
    pub fn bundles(&self) -> impl Iterator<Item = BundleInfo> {
        self.bundles.info()
    }

    /// Returns the memory that a workload needs besides streamed and pinned weights; the KV cache is sized to the
    /// budget.
    pub fn needs(&self, workload: &Workload, budget_bytes: u64) -> MemoryNeeds {
        self.memory_planner().needs(workload, budget_bytes).0
    }

    /// Returns the number of [tentative rows](Workload::tentative_rows) that drafts of a workload can have without taking
    /// more than a hundredth of a budget; 0 if drafts would take more, or could change tokens because MLX's operations compute.
    pub fn affordable_tentative_rows(&self, workload: &Workload, budget_bytes: u64) -> usize {
        self.memory_planner().affordable_tentative_rows(workload, budget_bytes)
    }

    pub(crate) fn memory_planner(&self) -> MemoryPlanner<'_> {
        let Self { backend, decoder, bundles, kv_shape, keeps, windows, .. } = self;
        MemoryPlanner {
            backend,
            decoder,
            bundles,
            kv_shape: *kv_shape,
            n_layers: n_kv_layers(keeps),
            windows,
            states: self.states().copied().collect(),
        }
    }

    /// Plans which bundles a budget pins, and the slots of the others. [`load`](Self::load) uses the plan for default
    /// speeds.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`].
    pub fn plan(
        &self,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<ResidencyPlan, ModelError> {
        let planner = self.memory_planner();
        let below_floor = || planner.below_floor(workload, budget_bytes);
        if budget_bytes < planner.floor_bytes(workload) {
            return Err(below_floor());
        }
        let (needs, _) = planner.needs(workload, budget_bytes);
        let plan = self.bundles.plan(needs.fixed_bytes(), budget_bytes, workload.prefetch, speeds);
        plan.map_err(|_| below_floor())
    }

    /// Predicts the time of a token in a budget; all experts are assumed to be equally likely.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`].
    pub fn predict(
        &self,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<Prediction, ModelError> {
        let plan = self.plan(workload, budget_bytes, speeds)?;
        let mut prediction = self.bundles.predict(&plan, speeds);
        if let Some(experts) = self.decoder.expert_plan() {
            let expert_bytes = self.needs(workload, budget_bytes).expert_bytes;
            experts.add_to(&mut prediction, expert_bytes, speeds);
        }
        Ok(prediction)
    }

    /// Returns the number and size of all experts, and how many of them a budget holds; `None` for models without
    /// experts.
    pub fn experts(&self, workload: &Workload, budget_bytes: u64) -> Option<ExpertInfo> {
        let plan = self.decoder.expert_plan()?;
        let n_held = plan.n_held(self.needs(workload, budget_bytes).expert_bytes);
        let ExpertPlan { n_experts, total_bytes, token_bytes, .. } = plan;
        Some(ExpertInfo { n_experts, n_held, total_bytes, token_bytes })
    }

    /// Returns the experts of each layer as rows of one tensor, the form in which `flash_convert::PackPlan` packs them.
    ///
    /// # Errors
    /// [`ModelError::NoExperts`] if there are none, [`ModelError::Packed`] if they are packed already.
    pub fn expert_rows(&self) -> Result<Vec<ExpertRows>, ModelError> {
        let rows = self.decoder.mixtures().flatten().map(Mixture::as_rows).collect::<Option<Vec<_>>>();
        match rows {
            None => Err(ModelError::Packed { dir: self.checkpoint.dir().to_owned() }),
            Some(rows) if rows.is_empty() => Err(ModelError::NoExperts),
            Some(rows) => Ok(rows),
        }
    }

    /// Returns the smallest budget that works for a workload in this process. It contains the memory of the process at
    /// its first plan, which differs a little between runs.
    pub fn floor_bytes(&self, workload: &Workload) -> u64 {
        self.memory_planner().floor_bytes(workload)
    }

    /// Returns a budget close to the floor that works in other runs, too, to be shown to users.
    pub fn reported_floor_bytes(&self, workload: &Workload) -> u64 {
        self.memory_planner().reported_floor_bytes(workload)
    }

    /// Computes the identity of this model's pages in `kv_dir` ahead of time, unless it is cached.
    ///
    /// Opening a session and sharing prefixes compute it too; this lets callers do so while they wait for something
    /// else. Up to 32 MiB of weights are read whole, and samples of more, unless `kv_dir` has a digest of the files and
    /// they are unmodified.
    ///
    /// # Errors
    /// [`ModelError::Io`] if weights cannot be read, [`ModelError::File`] if the configuration is missing,
    /// [`ModelError::Kv`] if `kv_dir` cannot be read or written.
    pub fn identify(&self, kv_dir: &Path) -> Result<(), ModelError> {
        self.checkpoint.digest(kv_dir).map(drop)
    }

    /// Returns the identity that distinguishes pages of this model in `kv_dir` from others.
    pub(crate) fn identity(&self, kv_dir: &Path, policy: &KvPolicy) -> Result<Identity, ModelError> {
        let model = self.computed_by().digest(&self.checkpoint, kv_dir)?;
        Ok(Identity { model, geometry: self.geometry(policy) })
    }

    pub(crate) fn computed_by(&self) -> ComputedBy {
        ComputedBy::new(&self.backend, self.top_k)
    }

    pub(crate) fn geometry(&self, policy: &KvPolicy) -> Geometry {
        policy.geometry(self.kv_shape, n_kv_layers(&self.keeps))
    }
}
