//! A decoder with streamed weights, and one pass of tokens through it.

use std::sync::atomic::{AtomicBool, Ordering};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;

use crate::ModelError;
use crate::attention::LayerInput;
use crate::bundle::{Bundle, Bundles};
use crate::embedding::Embedding;
use crate::head::Head;
use crate::kv::KvCache;
use crate::layers::RmsNorm;
use crate::models::{Architecture, Layer};
use crate::proxy::{Holder, StreamingProxy};
use crate::residency::Residency;
use crate::weights::Weights;

/// Tokens that pass through a layer at once. The same for every budget, so that the budget changes no bit.
pub(crate) const CHUNK_TOKENS: usize = 128;

/// The parts of a model, in execution order.
#[derive(Debug)]
pub(crate) struct Decoder {
    embedding: Embedding,
    layers: Vec<StreamingProxy<dyn Layer>>,
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
}

impl Decoder {
    /// A decoder without weights, and the bundles that it will ask for.
    pub(crate) fn new(
        weights: &Weights<'_>,
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
        };
        let Architecture { layers, fused, norm, norm_path, head_path, hidden_size, vocab_size, .. } =
            architecture;
        let layers = layers
            .into_iter()
            .map(|(path, layer)| StreamingProxy::with_fused(layer, &path, &fused, checkpoint, &mut bundles))
            .collect::<Result<Vec<_>, _>>()?;
        let layer_bytes = bundles.as_slice().iter().map(Bundle::tensor_bytes).max().unwrap_or(0);
        let norm = StreamingProxy::new(Box::new(norm), &norm_path, checkpoint, &mut bundles)?;
        let head = Head::new(&weights.at(&head_path), [vocab_size, hidden_size], layer_bytes, &mut bundles)?;
        Ok((Self { embedding, layers, norm, head, dims }, bundles))
    }

    /// Passes tokens through the model and returns the logits of the last one.
    pub(crate) fn logits(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<f32>, ModelError> {
        let hidden = self.hidden(pass, ids)?;
        let last = hidden.last().ok_or(ModelError::EmptyPrompt)?;
        let n = last.dim(1) as usize;
        let normed = self.norm.forward(pass.residency, &positions(last, n - 1, n)?)?;
        self.head.logits(pass.residency, &normed)
    }

    /// Passes tokens through the model and returns the cross-entropy of each against the next one.
    pub(crate) fn losses(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<f64>, ModelError> {
        let ([inputs @ .., _], [_, targets @ ..]) = (ids, ids) else {
            return Ok(Vec::new());
        };
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.hidden(pass, inputs)?;
        let hidden = mlx_rs::ops::concatenate(&hidden, 1)?;
        let normed = self.norm.forward(pass.residency, &hidden)?;
        normed.eval()?;
        self.head.losses(pass.residency, &normed, targets)
    }

    /// The hidden states behind the last layer, in chunks.
    ///
    /// Layer by layer: all chunks pass through a layer before the next one is loaded, so that tokens of any number cost
    /// one pass over the weights.
    fn hidden(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<Array>, ModelError> {
        let Pass { residency, kv, interrupt } = pass;
        let first = kv.begin(ids)?;
        let mut chunks = ids
            .chunks(CHUNK_TOKENS)
            .map(|ids| self.embedding.lookup(residency.reader(), ids))
            .collect::<Result<Vec<_>, _>>()?;
        let Self { layers, norm, head, .. } = self;
        let n_parts = layers.len() * chunks.len();
        let mut n_done = 0_usize;
        for (idx, kv) in kv.layers.iter_mut().enumerate() {
            if interrupt.load(Ordering::Relaxed) {
                return Err(ModelError::Interrupted);
            }
            if residency.has_to_adapt() {
                mlx_rs::transforms::eval(&chunks)?;
                let next = layers[idx].bundle();
                residency.adapt(None, next, &mut holders(layers.iter_mut(), norm, head))?;
            }
            let (before, rest) = layers.split_at_mut(idx);
            let [layer, after @ ..] = rest else { break };
            if let ([token], 1) = (chunks.as_mut_slice(), ids.len()) {
                *token = layer.forward(residency, LayerInput { x: token, kv, position: first })?;
                continue;
            }
            let in_use = layer.bundle();
            layer.scope(residency, |layer, residency, stays| {
                let lazy = stays && chunks.len() == 1;
                let mut position = first;
                for chunk in &mut chunks {
                    let output = layer.forward(LayerInput { x: chunk, kv, position })?;
                    position += chunk.dim(1) as usize;
                    *chunk = output;
                    n_done += 1;
                    residency.progress(n_done as f64 / n_parts as f64);
                    if lazy {
                        continue;
                    }
                    // Chunk by chunk: what is computed for one is large.
                    chunk.eval()?;
                    if residency.has_to_adapt() {
                        let next = after.first().map_or(norm.bundle(), Holder::bundle);
                        let others = before.iter_mut().chain(after.iter_mut());
                        residency.adapt(Some(in_use), next, &mut holders(others, norm, head))?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(chunks)
    }

    /// What passing `tokens` through the model takes beside weights and KV, with scores for `scored_tokens` at once.
    pub(crate) fn activation_bytes(&self, tokens: usize, scored_tokens: usize) -> u64 {
        let Dims { hidden, intermediate, n_heads, head_dim } = self.dims;
        let (tokens, chunk) = (tokens as u64, tokens.min(CHUNK_TOKENS) as u64);
        // Hidden states of all chunks, before and after a layer; in the layer: queries, keys and values with their
        // rotated copies, scores before and after the softmax, and what the MLP multiplies.
        let hidden_states = 2 * tokens * hidden;
        let attention = chunk * (8 * n_heads * head_dim + 3 * n_heads * scored_tokens as u64);
        let mlp = chunk * 4 * intermediate;
        4 * (hidden_states + attention.max(mlp) + 4 * chunk * hidden) + self.head.activation_bytes()
    }
}

/// These layers and what comes behind them, as what may have weights.
fn holders<'a>(
    layers: impl Iterator<Item = &'a mut StreamingProxy<dyn Layer>>,
    norm: &'a mut StreamingProxy<RmsNorm>,
    head: &'a mut Head,
) -> Vec<&'a mut dyn Holder> {
    let layers = layers.map(|layer| layer as &mut dyn Holder);
    layers.chain([norm as &mut dyn Holder]).chain(head.holders()).collect()
}

/// What one pass of tokens works on.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub residency: &'a mut Residency,
    pub kv: &'a mut KvCache,
    /// Set by another thread to stop between two layers.
    pub interrupt: &'a AtomicBool,
}

/// Positions `start..end` of `x`, `[1, n, hidden]`.
pub(crate) fn positions(x: &Array, start: usize, end: usize) -> Result<Array, Exception> {
    x.try_index((.., start as i32..end as i32, ..))
}
