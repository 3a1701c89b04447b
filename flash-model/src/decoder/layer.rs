//! A decoder layer with the experts that belong to it.

use crate::ModelError;
use crate::compute::Value;
use crate::models::LayerParts;
use crate::nn::fused::Fused;
use crate::nn::layer::{Layer, LayerOutput, Routed};
use crate::nn::layers::Linear;
use crate::nn::var_builder::VarBuilder;
use crate::stream::bundle::{BundleIdx, Bundles};
use crate::stream::experts::{Mixture, PredictedRouting};
use crate::stream::proxy::{StreamingProxy, WeightOwner};

use super::Pass;

/// A decoder layer: its streamed weights, its experts, and the output projection of their sum.
#[derive(Debug)]
pub(super) struct DecoderLayer {
    pub proxy: StreamingProxy<dyn Layer>,
    pub mixture: Option<Mixture>,
    /// Projects the sum of the experts before the residual is added, in models whose experts are narrower than the
    /// hidden state.
    pub experts_out: Option<StreamingProxy<Linear>>,
}

impl DecoderLayer {
    /// Creates a layer without weights, whose tensors lie below `path`, and adds its bundles to `bundles`.
    pub(super) fn new(
        path: &str,
        parts: LayerParts,
        fused: &[Fused],
        weights: &VarBuilder<'_>,
        bundles: &mut Bundles,
    ) -> Result<Self, ModelError> {
        let (checkpoint, backend) = (weights.checkpoint(), weights.backend());
        let LayerParts { layer, mixture, experts_out, .. } = parts;
        let proxy = StreamingProxy::with_fused(layer, path, fused, checkpoint, bundles)?;
        let proxy = proxy.with_strips(backend, checkpoint, bundles);
        let experts_out = experts_out
            .map(|(path, out)| StreamingProxy::new(Box::new(out), &path, checkpoint, bundles))
            .transpose()?;
        let experts_out = experts_out.map(|out| out.with_strips(backend, checkpoint, bundles));
        Ok(Self { proxy, mixture, experts_out })
    }

    /// Returns the first bundle in execution order.
    pub(super) fn bundle(&self) -> BundleIdx {
        self.proxy.bundle()
    }

    /// Returns the parts that may hold weights.
    pub(super) fn weight_owners(&mut self) -> impl Iterator<Item = &mut dyn WeightOwner> {
        let out = self.experts_out.as_mut().map(|out| out as &mut dyn WeightOwner);
        [&mut self.proxy as &mut dyn WeightOwner].into_iter().chain(out)
    }

    /// Predicts this layer's routing from hidden states of an earlier layer, if its router is in memory.
    pub(super) fn predict_routing(
        &mut self,
        layer_idx: usize,
        hidden: &Value,
    ) -> Result<Option<PredictedRouting<'_>>, ModelError> {
        let (Some(mixture), Some(layer)) = (&self.mixture, self.proxy.bound()) else { return Ok(None) };
        Ok(layer.predict_routing(hidden)?.map(|routed| PredictedRouting { layer_idx, mixture, routed }))
    }

    /// Adds the weighted outputs of the routed experts to the hidden states of `output`.
    pub(super) fn mix(
        &self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        output: LayerOutput,
        predicted: Option<PredictedRouting<'_>>,
    ) -> Result<Value, ModelError> {
        let LayerOutput { hidden, routed } = output;
        match (&mut *pass.experts, &self.mixture, routed) {
            (Some(experts), Some(mixture), Some(routed)) => {
                experts.mix(layer_idx, mixture, &hidden, &routed, predicted, pass.interrupt)
            }
            (_, _, None) => Ok(hidden),
            _ => unreachable!("a layer with a router has experts"),
        }
    }

    /// Mixes experts without the residual, for layers that project the sum first.
    pub(super) fn mix_alone(
        &self,
        pass: &mut Pass<'_>,
        layer_idx: usize,
        routed: Routed,
        predicted: Option<PredictedRouting<'_>>,
    ) -> Result<Value, ModelError> {
        let hidden = mlx_rs::ops::zeros_like(&routed.x)?.into();
        self.mix(pass, layer_idx, LayerOutput { hidden, routed: Some(routed) }, predicted)
    }
}
