//! A decoder with streamed weights, and one pass of tokens through it.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::ModelError;
use crate::arrays::positions;
use crate::attention::LayerInput;
use crate::bundle::{Bundle, Bundles};
use crate::compute::{Value, arrays};
use crate::embedding::Embedding;
use crate::experts::{ExpertPlan, Experts, Foreseen, Mixture, Routed};
use crate::head::Head;
use crate::interrupt::Interrupt;
use crate::kv::KvCache;
use crate::layers::{Linear, RmsNorm};
use crate::models::{Architecture, Layer, LayerOutput, LayerParts};
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
    /// By layer.
    mixtures: Vec<Option<Mixture>>,
    /// What the sum of a layer's experts passes, by layer.
    experts_outs: Vec<Option<StreamingProxy<Linear>>>,
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
    /// Bytes of what layers make of their weights.
    made: u64,
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
            made: architecture.made_bytes,
        };
        let Architecture { layers, fused, norm, norm_path, head_path, hidden_size, vocab_size, .. } =
            architecture;
        let (mut proxies, mut mixtures, mut experts_outs) = (Vec::new(), Vec::new(), Vec::new());
        for (path, LayerParts { layer, mixture, experts_out, .. }) in layers {
            let layer = StreamingProxy::with_fused(layer, &path, &fused, checkpoint, &mut bundles)?;
            proxies.push(layer.arranged(weights.backend(), checkpoint, &bundles));
            mixtures.push(mixture);
            let out = experts_out
                .map(|(path, out)| StreamingProxy::new(Box::new(out), &path, checkpoint, &mut bundles))
                .transpose()?;
            experts_outs.push(out.map(|out| out.arranged(weights.backend(), checkpoint, &bundles)));
        }
        let layer_bytes = bundles.as_slice().iter().map(Bundle::tensor_bytes).max().unwrap_or(0);
        let norm = StreamingProxy::new(Box::new(norm), &norm_path, checkpoint, &mut bundles)?;
        let head = Head::new(&weights.at(&head_path), [vocab_size, hidden_size], layer_bytes, &mut bundles)?;
        Ok((Self { embedding, layers: proxies, mixtures, experts_outs, norm, head, dims }, bundles))
    }

    pub(crate) fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Passes tokens through the model, and sets `logits` to those of the last one.
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
        let normed = self.norm.begin(pass.residency, |norm| norm.of(&last))?;
        self.head.logits(pass.residency, &normed, pass.interrupt, logits)
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
        let hidden = mlx_rs::ops::concatenate(&arrays(&hidden)?, 1)?.into();
        let normed = self.norm.begin(pass.residency, |norm| norm.of(&hidden))?.array()?;
        normed.eval()?;
        self.head.losses(pass.residency, &normed, targets, pass.interrupt)
    }

    /// The hidden states behind the last layer, in chunks.
    ///
    /// Layer by layer: all chunks pass through a layer before the next one is loaded, so that tokens of any number cost
    /// one pass over the weights.
    fn hidden(&mut self, pass: &mut Pass<'_>, ids: &[u32]) -> Result<Vec<Value>, ModelError> {
        let Pass { residency, kv, experts, interrupt } = pass;
        let first = kv.begin(ids)?;
        let Self { embedding, layers, mixtures, experts_outs, norm, head, .. } = self;
        embedding.adapt(residency);
        let mut chunks = ids
            .chunks(CHUNK_TOKENS)
            .map(|ids| {
                interrupt.check()?;
                Ok(embedding.lookup(residency.reader(), ids)?.into())
            })
            .collect::<Result<Vec<Value>, ModelError>>()?;
        let n_parts = layers.len() * chunks.len();
        let mut n_done = 0_usize;
        for (idx, kv) in kv.layers.iter_mut().enumerate() {
            interrupt.check()?;
            if residency.has_to_adapt() {
                mlx_rs::transforms::eval(&arrays(&chunks)?)?;
                embedding.adapt(residency);
                let next = layers[idx].bundle();
                let others = layers.iter_mut();
                residency.adapt(None, next, &mut holders(others, experts_outs, norm, head), experts)?;
            }
            let (before, rest) = layers.split_at_mut(idx);
            let [layer, after @ ..] = rest else { break };
            if let ([token], 1) = (chunks.as_mut_slice(), ids.len()) {
                let input = LayerInput { x: token, kv: &mut *kv, position: first };
                let output = layer.scope(residency, |layer, _, _| Ok(layer.forward(input)?))?;
                mlx_rs::transforms::async_eval(kv.lazy_arrays())?;
                residency.began(layer.bundle(), &output.hidden)?;
                let foreseen = match experts {
                    Some(experts) if experts.looks_ahead() => foresee(idx, after, mixtures, &output.hidden)?,
                    _ => None,
                };
                let Some(out) = &mut experts_outs[idx] else {
                    *token = mix(experts, idx, &mixtures[idx], output, foreseen, interrupt)?;
                    continue;
                };
                let LayerOutput { hidden, routed } = output;
                let sum = mix(experts, idx, &mixtures[idx], onto_nothing(routed)?, foreseen, interrupt)?;
                *token = out.scope(residency, |out, _, _| Ok(out.add(&hidden, &sum)?))?;
                residency.began(out.bundle(), token)?;
                continue;
            }
            let mut sent = Vec::new();
            let in_use = layer.bundle();
            layer.scope(residency, |layer, residency, stays| {
                let lazy = stays && chunks.len() == 1;
                let mut position = first;
                for chunk in &mut chunks {
                    interrupt.check()?;
                    let output = layer.forward(LayerInput { x: chunk, kv: &mut *kv, position })?;
                    position += chunk.dim(1) as usize;
                    *chunk = output.hidden;
                    sent.extend(output.routed);
                    n_done += 1;
                    residency.progress(n_done as f64 / n_parts as f64);
                    if lazy && kv.lazy_arrays().is_empty() {
                        continue;
                    }
                    // Chunk by chunk: what is computed for one is large, and MLX takes memory for all of it when it begins.
                    let (is_light, output) = (chunk.is_promise(), chunk.array()?);
                    let routed = sent.last().into_iter().flat_map(Routed::arrays);
                    if is_light {
                        residency.begin_next(&output, routed)?;
                    } else {
                        mlx_rs::transforms::eval(
                            [&output].into_iter().chain(routed).chain(kv.lazy_arrays()),
                        )?;
                    }
                    if residency.has_to_adapt() {
                        embedding.adapt(residency);
                        let next = after.first().map_or(norm.bundle(), Holder::bundle);
                        let next = experts_outs[idx].as_ref().map_or(next, Holder::bundle);
                        let others = before.iter_mut().chain(after.iter_mut());
                        let mut others = holders(others, experts_outs, norm, head);
                        residency.adapt(Some(in_use), next, &mut others, experts)?;
                    }
                }
                Ok(())
            })?;
            if let Some(routed) = joined(&sent)? {
                // The chunks together: each expert is read once for all of them.
                let out = &mut experts_outs[idx];
                let output = if out.is_some() {
                    onto_nothing(Some(routed))?
                } else {
                    let hidden = mlx_rs::ops::concatenate(&arrays(&chunks)?, 1)?.into();
                    LayerOutput { hidden, routed: Some(routed) }
                };
                let mixed = mix(experts, idx, &mixtures[idx], output, None, interrupt)?.array()?;
                let starts = (0..ids.len()).step_by(CHUNK_TOKENS);
                let chunk = |start| Ok(positions(&mixed, start, ids.len().min(start + CHUNK_TOKENS))?.into());
                let mixed = starts.map(chunk).collect::<Result<Vec<Value>, ModelError>>()?;
                match out {
                    Some(out) => out.scope(residency, |out, _, _| {
                        for (chunk, sum) in chunks.iter_mut().zip(&mixed) {
                            *chunk = out.add(chunk, sum)?;
                        }
                        Ok(mlx_rs::transforms::eval(&arrays(&chunks)?)?)
                    })?,
                    None => chunks = mixed,
                }
            }
        }
        Ok(chunks)
    }

    /// Has tokens take so many experts; returns how many they took.
    pub(crate) fn override_top_k(&mut self, top_k: usize) -> Result<usize, ModelError> {
        let n_experts = self.mixtures().flatten().map(|mixture| mixture.dims.n_experts).min();
        let n_experts = n_experts.ok_or(ModelError::NoExperts)?;
        if !(1..=n_experts).contains(&top_k) {
            return Err(ModelError::TopK { given: top_k, n_experts });
        }
        let routers = self.mixtures.iter_mut().flatten().map(|mixture| &mut mixture.router);
        let before = routers.map(|router| std::mem::replace(&mut router.top_k, top_k));
        Ok(before.max().unwrap_or(top_k))
    }

    /// The experts of each layer.
    pub(crate) fn mixtures(&self) -> impl Iterator<Item = Option<&Mixture>> {
        self.mixtures.iter().map(Option::as_ref)
    }

    /// What memory they need; none if there are none.
    pub(crate) fn expert_plan(&self) -> Option<ExpertPlan> {
        ExpertPlan::of(self.mixtures().flatten())
    }

    /// What passing `tokens` through the model takes beside weights and KV, with scores for `scored_tokens` at once.
    pub(crate) fn activation_bytes(&self, tokens: usize, scored_tokens: usize) -> u64 {
        let Dims { hidden, intermediate, n_heads, head_dim, made } = self.dims;
        let (tokens, chunk) = (tokens as u64, tokens.min(CHUNK_TOKENS) as u64);
        // Hidden states of all chunks, before and after a layer; in the layer: queries, keys and values with their
        // rotated copies, scores before and after the softmax, and what the MLP multiplies.
        let hidden_states = 2 * tokens * hidden;
        let attention = chunk * (8 * n_heads * head_dim + 3 * n_heads * scored_tokens as u64);
        let mlp = chunk * 4 * intermediate;
        let experts = self.mixtures().flatten().map(|mixture| mixture.activation_values(tokens)).max();
        let layer = attention.max(mlp).max(experts.unwrap_or(0));
        let rows_bytes = self.embedding.recent_bytes();
        4 * (hidden_states + layer + 4 * chunk * hidden) + self.head.activation_bytes() + rows_bytes + made
    }
}

/// What a layer makes, with what its experts add.
fn mix(
    experts: &mut Option<Experts>,
    layer_idx: usize,
    mixture: &Option<Mixture>,
    output: LayerOutput,
    foreseen: Option<Foreseen<'_>>,
    interrupt: &Interrupt,
) -> Result<Value, ModelError> {
    let LayerOutput { hidden, routed } = output;
    match (experts, mixture, routed) {
        (Some(experts), Some(mixture), Some(routed)) => {
            experts.mix(layer_idx, mixture, &hidden, &routed, foreseen, interrupt)
        }
        (_, _, None) => Ok(hidden),
        _ => unreachable!("a layer that routes has experts"),
    }
}

/// What was routed, for what experts make of it to be added up by itself.
fn onto_nothing(routed: Option<Routed>) -> Result<LayerOutput, Exception> {
    let routed = routed.expect("a layer whose experts' sum is passed on has experts");
    Ok(LayerOutput { hidden: mlx_rs::ops::zeros_like(&routed.x)?.into(), routed: Some(routed) })
}

/// What the next router behind a layer would say of its hidden states as they are, if that router is in memory. Layers without
/// experts between the two are passed over.
fn foresee<'a>(
    layer_idx: usize,
    after: &mut [StreamingProxy<dyn Layer>],
    mixtures: &'a [Option<Mixture>],
    hidden: &Value,
) -> Result<Option<Foreseen<'a>>, Exception> {
    let mut next = after.iter_mut().zip(mixtures.iter().enumerate().skip(layer_idx + 1));
    let found = next.find_map(|(layer, (idx, mixture))| Some((layer, idx, mixture.as_ref()?)));
    let Some((layer, layer_idx, mixture)) = found else { return Ok(None) };
    let Some(layer) = layer.bound() else { return Ok(None) };
    Ok(layer.foresee(hidden)?.map(|routed| Foreseen { layer_idx, mixture, routed }))
}

/// What chunks of tokens send to experts, as one.
fn joined(sent: &[Routed]) -> Result<Option<Routed>, Exception> {
    if sent.is_empty() {
        return Ok(None);
    }
    let join =
        |part: fn(&Routed) -> &Array| mlx_rs::ops::concatenate(&sent.iter().map(part).collect::<Vec<_>>(), 1);
    let correction = sent[0].correction.clone();
    Ok(Some(Routed { x: join(|routed| &routed.x)?, logits: join(|routed| &routed.logits)?, correction }))
}

/// These layers, what sums of experts pass and what comes behind the layers, as what may have weights.
fn holders<'a>(
    layers: impl Iterator<Item = &'a mut StreamingProxy<dyn Layer>>,
    experts_outs: &'a mut [Option<StreamingProxy<Linear>>],
    norm: &'a mut StreamingProxy<RmsNorm>,
    head: &'a mut Head,
) -> Vec<&'a mut dyn Holder> {
    let layers = layers.map(|layer| layer as &mut dyn Holder);
    let outs = experts_outs.iter_mut().flatten().map(|out| out as &mut dyn Holder);
    layers.chain(outs).chain([norm as &mut dyn Holder]).chain(head.holders()).collect()
}

/// What one pass of tokens works on.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub residency: &'a mut Residency,
    pub kv: &'a mut KvCache,
    pub experts: &'a mut Option<Experts>,
    pub interrupt: &'a Interrupt,
}
