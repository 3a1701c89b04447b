//! A model before it runs: its layers, what they need of memory, and how fast they would be.

use std::path::Path;

use flash_kv::{Geometry, Identity, KvDtype, KvShape};
use flash_sched::{Prediction, ResidencyPlan};

use crate::ModelError;
use crate::checkpoint::Checkpoint;
use crate::compute::{Backend, Compute, ComputeOptions};
use crate::decoder::Decoder;
use crate::engine::identity::ComputedBy;
use crate::engine::needs::{MemoryNeeds, Planned, Workload};
use crate::kv::{Keeps, KvPolicy, StateShape, n_kv_layers};
use crate::models;
use crate::nn::weights::Weights;
use crate::stream::bundle::{BundleInfo, Bundles};
use crate::stream::experts::{ExpertInfo, ExpertPlan, ExpertRows, Mixture};
use crate::stream::planner::MachineSpeeds;

/// A model whose layers are made and checked against its checkpoint, without a weight in memory.
#[derive(Debug)]
pub struct Model {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) backend: Backend,
    pub(crate) decoder: Decoder,
    pub(crate) bundles: Bundles,
    pub(crate) kv_shape: KvShape,
    /// By layer.
    pub(crate) keeps: Vec<Keeps>,
    /// The windows of those that have keys and values.
    pub(crate) windows: Vec<Option<usize>>,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: Option<usize>,
    pub(crate) positions_max: Option<usize>,
    /// How many experts a token takes, if not as many as the model was trained with.
    pub(crate) top_k: Option<usize>,
}

impl Model {
    /// Makes the layers that the checkpoint's configuration asks for.
    ///
    /// # Errors
    /// [`ModelError`], for an architecture that is not known, or tensors that do not fit the configuration.
    pub fn open(checkpoint: Checkpoint) -> Result<Self, ModelError> {
        Self::open_on(checkpoint, Compute::Auto)
    }

    /// The same, with a choice of who computes: a [`Compute`], or [`ComputeOptions`] that name an instruction set, too.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ModelError::NativeCompute`].
    pub fn open_on(checkpoint: Checkpoint, compute: impl Into<ComputeOptions>) -> Result<Self, ModelError> {
        let backend = Backend::new(compute.into())?;
        let weights = Weights::new(&checkpoint, &backend);
        let architecture = models::build(&weights)?;
        let kv_shape = KvShape {
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            halves: architecture.halves,
            dtype: KvDtype::F32,
        };
        let keeps: Vec<Keeps> = architecture.layers.iter().map(|(_, parts)| parts.keeps).collect();
        let with_kv = architecture.layers.iter().filter(|(_, parts)| parts.keeps == Keeps::KeysValues);
        let windows = with_kv.map(|(_, parts)| parts.layer.window()).collect();
        let vocab_size = architecture.vocab_size as usize;
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
            vocab_size,
            max_position_embeddings,
            positions_max,
            top_k: None,
        })
    }

    /// Has each token take `top_k` experts of a layer instead of as many as the model was trained with, which it returns:
    /// less is read and computed, and what the model says is not the same.
    ///
    /// # Errors
    /// [`ModelError::NoExperts`], and [`ModelError::TopK`] for a number that there is not.
    pub fn override_top_k(&mut self, top_k: usize) -> Result<usize, ModelError> {
        let trained = self.decoder.override_top_k(top_k)?;
        self.top_k = Some(top_k);
        Ok(trained)
    }

    /// Where the weights come from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The longest context that the model was trained for, or that its positions are stretched to, if it says. Longer ones run,
    /// with a warning.
    pub fn max_context_tokens(&self) -> Option<usize> {
        self.max_position_embeddings
    }

    /// Bytes of all weights.
    pub fn model_bytes(&self) -> u64 {
        self.checkpoint.catalog().total_bytes()
    }

    /// Bytes that a token leaves in the KV cache.
    pub fn kv_token_bytes(&self) -> u64 {
        (n_kv_layers(&self.keeps) * self.kv_shape.token_bytes()) as u64
    }

    /// Bytes of the states that layers keep instead of keys and values, whatever the number of tokens.
    pub fn state_bytes(&self) -> u64 {
        self.states().map(|shape| shape.bytes() as u64).sum()
    }

    fn states(&self) -> impl Iterator<Item = &StateShape> {
        self.keeps.iter().filter_map(|keeps| match keeps {
            Keeps::State(shape) => Some(shape),
            _ => None,
        })
    }

    /// The bundles in execution order.
    pub fn bundles(&self) -> impl Iterator<Item = BundleInfo> {
        self.bundles.info()
    }

    /// What a workload takes beside the weights, in a budget: keys and values take what suits it.
    pub fn needs(&self, workload: &Workload, budget_bytes: u64) -> MemoryNeeds {
        self.planned().needs(workload, budget_bytes).0
    }

    pub(crate) fn planned(&self) -> Planned<'_> {
        let Self { backend, decoder, bundles, kv_shape, keeps, windows, vocab_size, .. } = self;
        Planned {
            backend,
            decoder,
            bundles,
            kv_shape: *kv_shape,
            n_layers: n_kv_layers(keeps),
            windows,
            state_bytes: self.states().map(StateShape::budget_bytes).sum(),
            vocab_size: *vocab_size,
        }
    }

    /// Which bundles a budget pins, and the slots of the others. [`load`](Self::load) keeps to the plan for the usual speeds.
    ///
    /// # Errors
    /// [`ModelError::BelowFloor`].
    pub fn plan(
        &self,
        workload: &Workload,
        budget_bytes: u64,
        speeds: &MachineSpeeds,
    ) -> Result<ResidencyPlan, ModelError> {
        let (needs, _) = self.planned().needs(workload, budget_bytes);
        let plan = self.bundles.plan(needs.fixed_bytes(), budget_bytes, workload.prefetch, speeds);
        plan.map_err(|_| self.planned().below_floor(workload, budget_bytes))
    }

    /// How long a token is predicted to take in a budget; experts, if there are any, are taken to be used alike.
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

    /// Experts of all layers, how many of them a budget holds, and what a token takes of all; none if there are none.
    pub fn experts(&self, workload: &Workload, budget_bytes: u64) -> Option<ExpertInfo> {
        let plan = self.decoder.expert_plan()?;
        let n_held = plan.n_held(self.needs(workload, budget_bytes).expert_bytes);
        let ExpertPlan { n_experts, total_bytes, token_bytes, .. } = plan;
        Some(ExpertInfo { n_experts, n_held, total_bytes, token_bytes })
    }

    /// The experts of each layer, as rows of one tensor.
    ///
    /// # Errors
    /// [`ModelError::NoExperts`] if there are none, [`ModelError::Packed`] if they are that already.
    pub fn expert_rows(&self) -> Result<Vec<ExpertRows>, ModelError> {
        let rows = self.decoder.mixtures().flatten().map(Mixture::as_rows).collect::<Option<Vec<_>>>();
        match rows {
            None => Err(ModelError::Packed { dir: self.checkpoint.dir().to_owned() }),
            Some(rows) if rows.is_empty() => Err(ModelError::NoExperts),
            Some(rows) => Ok(rows),
        }
    }

    /// The smallest budget for a workload.
    pub fn floor_bytes(&self, workload: &Workload) -> u64 {
        self.planned().floor_bytes(workload)
    }

    /// Finds out what pages of this model in `kv_dir` are told from others by, if it is not known yet. Whoever opens a
    /// session or shares prefixes asks for it, too; this is for those who have something else to wait for meanwhile.
    ///
    /// Up to 32 MiB of weights are read whole; of more, samples, unless `kv_dir` knows the files and they have not been
    /// touched.
    ///
    /// # Errors
    /// [`ModelError::Io`] if weights cannot be read, [`ModelError::File`] if the configuration is gone, [`ModelError::Kv`] if
    /// `kv_dir` cannot be read or written.
    pub fn identify(&self, kv_dir: &Path) -> Result<(), ModelError> {
        self.checkpoint.digest(kv_dir).map(drop)
    }

    /// What pages of this model in `kv_dir` are told from others by.
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
