//! Decoding: a pass of few rows, most often the next token of each context.

use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::compute::Value;
use crate::nn::layer::{LayerInput, LayerOutput};
use crate::stream::experts::PredictedRouting;
use crate::stream::proxy::WeightOwner;
use crate::stream::tiles::TileLoader;

use super::batch::{Chunk, layer_segments, lazy_arrays};
use super::layer::DecoderLayer;
use super::{Decoder, Pass};

/// Maximum rows of a pass that several layers of may compute at once: their intermediate values take little memory.
pub(super) const FEW_ROWS: usize = 32;

impl Decoder {
    /// Runs a chunk of [few](FEW_ROWS) rows through all layers, and replaces it by the hidden states after the last.
    pub(super) fn decode(&mut self, pass: &mut Pass<'_>, chunk: &mut Chunk) -> Result<(), ModelError> {
        for layer_idx in 0..self.layers.len() {
            pass.interrupt.check()?;
            self.adapt_before(pass, layer_idx, std::slice::from_ref(chunk))?;
            chunk.x = self.decode_layer(pass, layer_idx, chunk)?;
        }
        Ok(())
    }

    /// Runs rows through one layer and its experts. The result may still be computing when this returns.
    fn decode_layer(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        chunk: &Chunk,
    ) -> Result<Value, ModelError> {
        let Some((layer, after)) = self.layers[layer_idx..].split_first_mut() else {
            unreachable!("the layer exists");
        };
        let Pass { batch, residency, interrupt, .. } = pass;
        let output = layer.proxy.scope(residency, |layer, residency, _| {
            let tiles = &mut TileLoader { matrices: &mut self.tiles, residency, interrupt };
            let segments = layer_segments(batch, &chunk.spans, layer_idx);
            layer.forward(LayerInput { x: &chunk.x, segments, tiles })
        })?;
        async_eval(lazy_arrays(batch, layer_idx))?;
        pass.residency.schedule_output(layer.bundle(), &output.hidden)?;
        let predicted = match &*pass.experts {
            Some(experts) if experts.looks_ahead() => predict_next(after, layer_idx + 1, &output.hidden)?,
            _ => None,
        };
        if layer.experts_out.is_none() {
            return layer.mix(pass, layer_idx, output, predicted);
        }
        let LayerOutput { hidden, routed } = output;
        let routed = routed.expect("a layer with an output projection of experts has experts");
        let sum = layer.mix_alone(pass, layer_idx, routed, predicted)?;
        let out = layer.experts_out.as_mut().expect("checked above");
        let token = out.scope(pass.residency, |out, _, _| Ok(out.add(&hidden, &sum)?))?;
        pass.residency.schedule_output(out.bundle(), &token)?;
        Ok(token)
    }
}

/// Predicts the routing of the next layer with experts, if its router is in memory. `after[0]` is the layer
/// `first_idx`.
fn predict_next<'a>(
    after: &'a mut [DecoderLayer],
    first_idx: usize,
    hidden: &Value,
) -> Result<Option<PredictedRouting<'a>>, ModelError> {
    let mut layers = (first_idx..).zip(after);
    match layers.find(|(_, layer)| layer.mixture.is_some()) {
        Some((layer_idx, layer)) => layer.predict_routing(layer_idx, hidden),
        None => Ok(None),
    }
}
