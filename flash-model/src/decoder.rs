//! The decoder of a model with streamed weights. [`decode`] runs passes of few rows, [`prefill`] passes of many.

mod batch;
mod decode;
pub(crate) mod embedding;
mod head;
mod layer;
mod prefill;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::ModelError;
use crate::compute::Value;
use crate::compute::arrays::{positions, to_arrays};
use crate::interrupt::Interrupt;
use crate::models::Architecture;
use crate::nn::layers::RmsNorm;
use crate::nn::tiled::{TiledMatrix, Tiling};
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::{Bundle, Bundles};
use crate::stream::experts::{ExpertPlan, Experts, Mixture};
use crate::stream::proxy::{StreamingProxy, WeightOwner};
use crate::stream::residency::Residency;
use crate::stream::tiles::TileProxies;

pub(crate) use batch::BatchSegment;
use batch::{Chunk, cut};
use decode::FEW_ROWS;
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

/// The rows of a pass, and the mutable state that it uses beside the decoder.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub batch: Vec<BatchSegment<'a>>,
    pub residency: &'a mut Residency,
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

    /// Runs the rows of a pass through the model, and sets `logits` to those of the rows that want them, `[rows, vocab]`.
    pub(crate) fn logits(&mut self, pass: &mut Pass<'_>, logits: &mut Vec<f32>) -> Result<(), ModelError> {
        logits.clear();
        let chunks = self.hidden(pass)?;
        let Some(rows) = wanted_rows(&pass.batch, &chunks)? else {
            // Nothing else waits for the last layers, and no kernel may be running when the pass ends.
            return Ok(mlx_rs::transforms::eval(&arrays_of(&chunks)?)?);
        };
        drop(chunks);
        let normed = self.norm.run(pass.residency, |norm| norm.forward(&rows))?;
        self.head.logits(pass.residency, &normed, pass.interrupt, logits)
    }

    /// Runs the rows of a pass through the model, and returns the cross-entropy of each against its target, in nats.
    pub(crate) fn losses(&mut self, pass: &mut Pass<'_>, targets: &[u32]) -> Result<Vec<f64>, ModelError> {
        let chunks = self.hidden(pass)?;
        let hidden = mlx_rs::ops::concatenate(&arrays_of(&chunks)?, 1)?.into();
        drop(chunks);
        let normed = self.norm.run(pass.residency, |norm| norm.forward(&hidden))?.array()?;
        normed.eval()?;
        self.head.losses(pass.residency, &normed, targets, pass.interrupt)
    }

    /// Returns the hidden states after the last layer.
    fn hidden(&mut self, pass: &mut Pass<'_>) -> Result<Vec<Chunk>, ModelError> {
        let mut rows = Vec::with_capacity(pass.batch.len());
        for segment in &mut pass.batch {
            rows.push((segment.kv.begin(segment.ids, segment.is_tentative)?, segment.ids.len()));
        }
        self.embedding.adapt(pass.residency);
        let mut chunks = Vec::new();
        for spans in cut(rows) {
            pass.interrupt.check()?;
            let ids =
                spans.iter().flat_map(|span| &pass.batch[span.segment_idx].ids[span.start..][..span.n_rows]);
            let ids: Vec<u32> = ids.copied().collect();
            let x = self.embedding.lookup(pass.residency.reader(), &ids)?.into();
            chunks.push(Chunk { x, spans });
        }
        match chunks.as_mut_slice() {
            [chunk] if chunk.x.dim(1) as usize <= FEW_ROWS => self.decode(pass, chunk)?,
            chunks => self.prefill(pass, chunks)?,
        }
        Ok(chunks)
    }

    /// Replans residency before the layer `layer_idx` if the allowance has changed. `hidden` is evaluated first,
    /// because no kernel may be reading weights that are released.
    fn adapt_before(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        hidden: &[Chunk],
    ) -> Result<(), ModelError> {
        if !pass.residency.has_to_adapt() {
            return Ok(());
        }
        mlx_rs::transforms::eval(&arrays_of(hidden)?)?;
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
    /// `scored_tokens`, and logits of `n_logits` rows.
    pub(crate) fn activation_bytes(&self, tokens: usize, n_logits: usize, scored_tokens: usize) -> u64 {
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
        let values = hidden_states + 4 * chunk * hidden;
        // Logits of further rows take the memory of the layers, which have computed by then.
        let last_bytes = self.head.activation_bytes(n_logits.min(1));
        let further_bytes = self.head.activation_bytes(n_logits) - last_bytes;
        let layer_bytes = (4 * layer).max(further_bytes);
        4 * values + layer_bytes + last_bytes + self.embedding.recent_bytes() + derived_bytes
    }
}

/// Returns the hidden states of chunks as arrays, without evaluating them.
fn arrays_of(chunks: &[Chunk]) -> Result<Vec<Array>, Exception> {
    chunks.iter().map(|chunk| chunk.x.array()).collect()
}

/// Returns the rows of the last chunks that want logits, `[1, rows, hidden]`; none if there are none.
fn wanted_rows(batch: &[BatchSegment<'_>], chunks: &[Chunk]) -> Result<Option<Value>, ModelError> {
    let mut parts = Vec::new();
    for Chunk { x, spans } in chunks {
        let (n, mut end) = (x.dim(1) as usize, 0);
        for span in spans {
            end += span.n_rows;
            let BatchSegment { ids, n_logits, .. } = &batch[span.segment_idx];
            let first_wanted = (ids.len() - n_logits).max(span.start);
            let wanted = (span.start + span.n_rows).saturating_sub(first_wanted);
            match wanted {
                0 => {}
                wanted if wanted == n => parts.push(x.clone()),
                wanted => parts.push(positions(&x.array()?, end - wanted, end)?.into()),
            }
        }
    }
    Ok(match parts.len() {
        0 | 1 => parts.pop(),
        _ => Some(mlx_rs::ops::concatenate(&to_arrays(&parts)?, 1)?.into()),
    })
}

/// Collects all weight owners: those of layers, the norm, and the tiles of the head.
fn weight_owners<'a>(
    layers: impl Iterator<Item = &'a mut dyn WeightOwner>,
    norm: &'a mut StreamingProxy<RmsNorm>,
    head: &'a mut Head,
) -> Vec<&'a mut dyn WeightOwner> {
    layers.chain([norm as &mut dyn WeightOwner]).chain(head.weight_owners()).collect()
}
