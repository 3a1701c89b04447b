//! Prefill: a pass of many rows, layer by layer. All chunks run through a layer before the next layer is loaded,
//! so that a prompt of any length reads the weights once.

use crate::ModelError;
use crate::compute::Value;
use crate::compute::arrays::positions;
use crate::nn::layer::{LayerInput, LayerOutput, Routed};
use crate::stream::proxy::WeightOwner;
use crate::stream::tiles::{TileLoader, TileProxies};

use super::batch::{Chunk, layer_segments, lazy_arrays};
use super::layer::DecoderLayer;
use super::{Decoder, Pass, arrays_of, weight_owners};

/// Progress of a prefill, counted in chunks times layers.
struct Progress {
    n_done: usize,
    n_parts: usize,
}

impl Progress {
    /// Counts one chunk of a layer as done and returns the fraction that is done.
    fn step(&mut self) -> f64 {
        self.n_done += 1;
        self.n_done as f64 / self.n_parts as f64
    }
}

impl Decoder {
    /// Runs chunks of rows through all layers, and replaces them by the hidden states after the last.
    pub(super) fn prefill(&mut self, pass: &mut Pass<'_>, chunks: &mut [Chunk]) -> Result<(), ModelError> {
        let mut progress = Progress { n_done: 0, n_parts: self.layers.len() * chunks.len() };
        for layer_idx in 0..self.layers.len() {
            pass.interrupt.check()?;
            self.adapt_before(pass, layer_idx, chunks)?;
            let routed = self.prefill_layer(pass, layer_idx, chunks, &mut progress)?;
            if let Some(routed) = routed {
                self.layers[layer_idx].mix_chunks(pass, layer_idx, chunks, routed)?;
            }
        }
        Ok(())
    }

    /// Runs chunks through one layer without its experts, and returns the routing of all chunks.
    fn prefill_layer(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        chunks: &mut [Chunk],
        progress: &mut Progress,
    ) -> Result<Option<Routed>, ModelError> {
        let Self { embedding, layers, tiles, norm, head, .. } = self;
        let Pass { batch, residency, experts, interrupt } = pass;
        let (before, rest) = layers.split_at_mut(layer_idx);
        let Some((DecoderLayer { proxy, experts_out, .. }, after)) = rest.split_first_mut() else {
            unreachable!("the layer exists");
        };
        let in_use = proxy.bundle();
        let next = experts_out.as_ref().map(WeightOwner::bundle);
        let next = next.or(after.first().map(DecoderLayer::bundle)).unwrap_or(norm.bundle());
        let mut routed = Vec::new();
        proxy.scope(residency, |layer, residency, stays| {
            let is_lazy = stays && chunks.len() == 1;
            for chunk in chunks {
                interrupt.check()?;
                let loader = &mut TileLoader { matrices: &mut *tiles, residency: &mut *residency, interrupt };
                let segments = layer_segments(batch, &chunk.spans, layer_idx);
                let output = layer.forward(LayerInput { x: &chunk.x, segments, tiles: loader })?;
                chunk.x = output.hidden;
                routed.extend(output.routed);
                residency.progress(progress.step());
                if is_lazy && lazy_arrays(batch, layer_idx).next().is_none() {
                    continue;
                }
                // Chunks are evaluated one by one: MLX allocates the intermediates of everything it is given before it
                // begins.
                let (is_light, hidden) = (chunk.x.is_promise(), chunk.x.array()?);
                let beside = routed.last().into_iter().flat_map(Routed::arrays);
                if is_light {
                    residency.schedule_chunk(&hidden, beside)?;
                } else {
                    mlx_rs::transforms::eval(
                        [&hidden].into_iter().chain(beside).chain(lazy_arrays(batch, layer_idx)),
                    )?;
                }
                if residency.has_to_adapt() {
                    embedding.adapt(residency);
                    let others = before.iter_mut().chain(&mut *after).flat_map(DecoderLayer::weight_owners);
                    let out = experts_out.as_mut().map(|out| out as &mut dyn WeightOwner);
                    let tiles = tiles.iter_mut().flat_map(TileProxies::weight_owners);
                    let mut owners = weight_owners(others.chain(out).chain(tiles), norm, head);
                    residency.adapt(Some(in_use), next, &mut owners, experts)?;
                }
            }
            Ok(())
        })?;
        Ok(Routed::joined(&routed)?)
    }
}

impl DecoderLayer {
    /// Adds the experts' outputs to each chunk. All chunks are mixed together, so that each expert is read once.
    fn mix_chunks(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        chunks: &mut [Chunk],
        routed: Routed,
    ) -> Result<(), ModelError> {
        let mixed = if self.experts_out.is_some() {
            self.mix_alone(pass, layer_idx, routed, None)?
        } else {
            let hidden = mlx_rs::ops::concatenate(&arrays_of(chunks)?, 1)?.into();
            self.mix(pass, layer_idx, LayerOutput { hidden, routed: Some(routed) }, None)?
        };
        let mixed = mixed.array()?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(chunks.len());
        for chunk in &*chunks {
            let end = start + chunk.x.dim(1) as usize;
            parts.push(Value::from(positions(&mixed, start, end)?));
            start = end;
        }
        let Some(out) = &mut self.experts_out else {
            chunks.iter_mut().zip(parts).for_each(|(chunk, part)| chunk.x = part);
            return Ok(());
        };
        out.scope(pass.residency, |out, _, _| {
            for (chunk, sum) in chunks.iter_mut().zip(&parts) {
                chunk.x = out.add(&chunk.x, sum)?;
            }
            Ok(mlx_rs::transforms::eval(&arrays_of(chunks)?)?)
        })
    }
}
