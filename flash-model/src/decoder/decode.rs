//! Decoding: a pass of one token.

use mlx_rs::transforms::async_eval;

use crate::ModelError;
use crate::compute::Value;
use crate::nn::layer::{LayerInput, LayerOutput};
use crate::stream::experts::PredictedRouting;
use crate::stream::proxy::WeightOwner;
use crate::stream::tiles::TileLoader;

use super::layer::DecoderLayer;
use super::{Decoder, Pass};

impl Decoder {
    /// Runs the token at `position` through all layers. `token`, `[1, 1, hidden]`, is replaced by the hidden state
    /// after the last layer.
    pub(super) fn decode(
        &mut self,
        pass: &mut Pass<'_>,
        token: &mut Value,
        position: usize,
    ) -> Result<(), ModelError> {
        for layer_idx in 0..self.layers.len() {
            pass.interrupt.check()?;
            self.adapt_before(pass, layer_idx, std::slice::from_ref(token))?;
            *token = self.decode_layer(pass, layer_idx, token, position)?;
        }
        Ok(())
    }

    /// Runs the token through one layer and its experts. The result may still be computing when this returns.
    fn decode_layer(
        &mut self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        token: &Value,
        position: usize,
    ) -> Result<Value, ModelError> {
        let Some((layer, after)) = self.layers[layer_idx..].split_first_mut() else {
            unreachable!("the layer exists");
        };
        let kv = &mut pass.kv.layers[layer_idx];
        let interrupt = pass.interrupt;
        let output = layer.proxy.scope(pass.residency, |layer, residency, _| {
            let tiles = &mut TileLoader { matrices: &mut self.tiles, residency, interrupt };
            layer.forward(LayerInput { x: token, kv: &mut *kv, position, tiles })
        })?;
        async_eval(kv.lazy_arrays())?;
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
