//! The decoder of a model with streamed weights. [`decode`] runs passes of one token, [`prefill`] passes of several.

mod decode;
pub(crate) mod embedding;
mod head;
mod layer;
mod prefill;

use crate::ModelError;
use crate::compute::Value;
use crate::compute::arrays::{positions, to_arrays};
use crate::interrupt::Interrupt;
use crate::kv::KvCache;
use crate::models::Architecture;
use crate::nn::layers::RmsNorm;
use crate::nn::tiled::{TiledMatrix, Tiling};
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::{Bundle, Bundles};
use crate::stream::experts::{ExpertPlan, Experts, Mixture};
use crate::stream::proxy::{StreamingProxy, WeightOwner};
use crate::stream::residency::Residency;
use crate::stream::tiles::TileProxies;

use embedding::Embedding;
use head::Head;
use layer::DecoderLayer;

/// Maximum tokens per chunk. It does not depend on the budget, so that no budget changes a bit of the output.
pub(crate) const CHUNK_TOKENS: usize = 128;

/// The parts of a model, in execution order.
#[derive(Debug)]
pub(crate) struct Decoder {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    /// The tiles of the layers' matrices, if the model is tiled.
    tiles: Vec<TileProxies>,
    norm: StreamingProxy<RmsNorm>,
    head: Head,
    dims: Dims,
}

#[derive(Debug, Clone, Copy)]
struct Dims {
    hidden: u64,
    intermediate: u64,
    n_heads: u64,
    head_dim: u64,
    /// Bytes of parameters that layers derive from their weights.
    derived_bytes: u64,
}

/// The mutable state that a pass uses beside the decoder.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub residency: &'a mut Residency,
    pub kv: &'a mut KvCache,
    pub experts: &'a mut Option<Experts>,
    pub interrupt: &'a Interrupt,
}

impl Decoder {
    /// Creates a decoder without weights, and its bundles in execution order. `weights` must be the
    /// builder that `architecture` was built with.
    pub(crate) fn new(
        weights: &VarBuilder<'_>,
        architecture: Architecture,
    ) -> Result<(Self, Bundles), ModelError> {
        let checkpoint = weights.checkpoint();
        let mut bundles = Bundles::default();
        let embedding = Embedding::new(checkpoint, &architecture)?;
        let dims = Dims {
            hidden: architecture.hidden_size as u64,
            intermediate: architecture.intermediate_size as u64,
            n_heads: architecture.n_heads as u64,
            head_dim: architecture.head_dim as u64,
            derived_bytes: architecture.derived_bytes,
        };
        let Architecture { layers, fused, norm, norm_path, head_path, hidden_size, vocab_size, .. } =
            architecture;
        let matrices = weights.tiling().map(Tiling::take_matrices).unwrap_or_default();
        let mut matrices = matrices.into_iter().peekable();
        let (mut decoder_layers, mut tiles) = (Vec::with_capacity(layers.len()), Vec::new());
        for (path, parts) in layers {
            decoder_layers.push(DecoderLayer::new(&path, parts, &fused, weights, &mut bundles)?);
            let is_inside = |matrix: &TiledMatrix| matrix.path.starts_with(&format!("{path}."));
            while let Some(matrix) = matrices.next_if(is_inside) {
                tiles.push(TileProxies::new(matrix, &fused, weights.backend(), checkpoint, &mut bundles)?);
            }
        }
        assert!(matrices.next().is_none(), "every matrix belongs to a layer");
        let largest_bytes = bundles.as_slice().iter().map(Bundle::tensor_bytes).max().unwrap_or(0);
        let norm = StreamingProxy::new(Box::new(norm), &norm_path, checkpoint, &mut bundles)?;
        let head = weights.at(&head_path);
        let head = Head::new(&head, [vocab_size, hidden_size], largest_bytes, &mut bundles)?;
        Ok((Self { embedding, layers: decoder_layers, tiles, norm, head, dims }, bundles))
    }

    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Runs tokens through the model and sets `logits` to those of the last token.
    pub(crate) fn logits(
        &mut self,
        pass: &mut Pass<'_>,
        ids: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let hidden = self.hidden(pass, ids)?;
        let chunk = hidden.last().ok_or(ModelError::EmptyPrompt)?;
        let last = match chunk.dim(1) as usize {
            1 => chunk.clone(),
            n => positions(&chunk.array()?, n - 1, n)?.into(),
        };
        drop(hidden);
        let normed = self.norm.run(pass.residency, |norm| norm.forward(&last))?;
        self.head.logits(pass.residency, &normed, pass.interrupt, logits)
    }

    /// Runs tokens through the model and returns the cross-entropy of each prediction against the next token, in nats.
    pub(crate) fn losses(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        let ([inputs @ .., _], [_, targets @ ..]) = (ids, ids) else {
            return Ok(Vec::new());
        };
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.hidden(pass, inputs)?;
        let hidden = mlx_rs::ops::concatenate(&to_arrays(&hidden)?, 1)?.into();
        let normed = self.norm.run(pass.residency, |norm| norm.forward(&hidden))?.array()?;
        normed.eval()?;
        self.head.losses(pass.residency, &normed, targets, pass.interrupt)
    }

    /// Returns the hidden states after the last layer, in chunks of [`CHUNK_TOKENS`], each `[1, n, hidden]`.
    fn hidden(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<Value>, ModelError> {
        let position = pass.kv.begin(ids)?;
        self.embedding.adapt(pass.residency);
        let mut chunks = ids
            .chunks(CHUNK_TOKENS)
            .map(|ids| {
                pass.interrupt.check()?;
                Ok(self.embedding.lookup(pass.residency.reader(), ids)?.into())
            })
            .collect::<Result<Vec<Value>, ModelError>>()?;
        match (chunks.as_mut_slice(), ids) {
            ([token], [_]) => self.decode(pass, token, position)?,
            _ => self.prefill(pass, &mut chunks, position)?,
        }
        Ok(chunks)
    }

    /// Replans residency before the layer `layer_idx` if the allowance has changed. `hidden` is evaluated first,
    /// because no kernel may be reading weights that are released.
    fn adapt_before(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        hidden: &[Value],
    ) -> Result<(), ModelError> {
        if !pass.residency.has_to_adapt() {
            return Ok(());
        }
        mlx_rs::transforms::eval(&to_arrays(hidden)?)?;
        self.embedding.adapt(pass.residency);
        let next = self.layers[layer_idx].bundle();
        let layers = self.layers.iter_mut().flat_map(DecoderLayer::weight_owners);
        let layers = layers.chain(self.tiles.iter_mut().flat_map(TileProxies::weight_owners));
        let mut owners = weight_owners(layers, &mut self.norm, &mut self.head);
        pass.residency.adapt(None, next, &mut owners, pass.experts)
    }

    /// Sets the number of experts per token in all layers, and returns the largest number before.
    pub(crate) fn override_top_k(&mut self, top_k: usize) -> Result<usize, ModelError> {
        let n_experts = self.mixtures().flatten().map(|mixture| mixture.dims.n_experts).min();
        let n_experts = n_experts.ok_or(ModelError::NoExperts)?;
        if !(1..=n_experts).contains(&top_k) {
            return Err(ModelError::TopK { given: top_k, n_experts });
        }
        let mixtures = self.layers.iter_mut().filter_map(|layer| layer.mixture.as_mut());
        let before = mixtures.map(|mixture| std::mem::replace(&mut mixture.router.top_k, top_k));
        Ok(before.max().unwrap_or(top_k))
    }

    /// Returns the mixture of experts of each layer, `None` for layers without one.
    pub(crate) fn mixtures(&self) -> impl Iterator<Item = Option<&Mixture>> {
        self.layers.iter().map(|layer| layer.mixture.as_ref())
    }

    /// Returns the memory that experts need, `None` for a model without experts.
    pub(crate) fn expert_plan(&self) -> Option<ExpertPlan> {
        ExpertPlan::of(self.mixtures().flatten())
    }

    /// Returns the bytes that a pass of `tokens` takes beside weights and KV, with attention scores over
    /// `scored_tokens`.
    pub(crate) fn activation_bytes(&self, tokens: usize, scored_tokens: usize) -> u64 {
        let Dims { hidden, intermediate, n_heads, head_dim, derived_bytes } = self.dims;
        let (tokens, chunk) = (tokens as u64, tokens.min(CHUNK_TOKENS) as u64);
        // Hidden states of all chunks, before and after a layer. Inside the layer: queries, keys and values with their
        // rotated copies, scores before and after the softmax, and the intermediate values of the MLP.
        let hidden_states = 2 * tokens * hidden;
        let attention = chunk * (8 * n_heads * head_dim + 3 * n_heads * scored_tokens as u64);
        // Outputs of tiles exist beside the concatenated output.
        let mlp = chunk * if self.tiles.is_empty() { 4 } else { 6 } * intermediate;
        let experts = self.mixtures().flatten().map(|mixture| mixture.activation_values(tokens)).max();
        let layer = attention.max(mlp).max(experts.unwrap_or(0));
        let values = hidden_states + layer + 4 * chunk * hidden;
        4 * values + self.head.activation_bytes() + self.embedding.recent_bytes() + derived_bytes
    }
}

/// Collects all weight owners: those of layers, the norm, and the tiles of the head.
fn weight_owners<'a>(
    layers: impl Iterator<Item = &'a mut dyn WeightOwner>,
    norm: &'a mut StreamingProxy<RmsNorm>,
    head: &'a mut Head,
) -> Vec<&'a mut dyn WeightOwner> {
    layers.chain([norm as &mut dyn WeightOwner]).chain(head.weight_owners()).collect()
}
