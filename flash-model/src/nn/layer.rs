//! The interface of a decoder layer.

use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Module;

use crate::ModelError;
use crate::compute::arrays::values;
use crate::compute::{Segment, Value};
use crate::nn::tiled::Tiles;

/// One layer of a decoder.
pub(crate) trait Layer:
    for<'a> Module<LayerInput<'a>, Output = LayerOutput, Error = ModelError> + Debug
{
    /// Predicts the layer's routing from hidden states, `[1, n, hidden]`, that have not passed its attention; `None`
    /// without a router. The prediction only decides which experts are read ahead.
    fn predict_routing(&mut self, _hidden: &Value) -> Result<Option<Routed>, Exception> {
        Ok(None)
    }

    /// Returns the length of the sliding window, the token itself included; `None` for full attention.
    fn window(&self) -> Option<usize> {
        None
    }
}

/// Input of a layer, or of its attention.
#[derive(Debug)]
pub(crate) struct LayerInput<'a> {
    /// Hidden states of the rows of all segments, `[1, n, hidden]`.
    pub x: &'a Value,
    pub segments: Vec<Segment<'a>>,
    /// The tiles of matrices that are not loaded with the layer.
    pub tiles: &'a mut dyn Tiles,
}

/// Output of a layer.
#[derive(Debug)]
pub(crate) struct LayerOutput {
    /// Hidden states, `[1, n, hidden]`.
    pub hidden: Value,
    /// Input of the routed experts, if any; their output is added to `hidden`.
    pub routed: Option<Routed>,
}

impl From<Value> for LayerOutput {
    fn from(hidden: Value) -> Self {
        Self { hidden, routed: None }
    }
}

/// Input of the experts of a layer.
#[derive(Debug)]
pub(crate) struct Routed {
    /// The experts' input: `[1, n, hidden]`, or `[1, n, latent]`.
    pub x: Array,
    /// The router's logits, `[1, n, n_experts]`.
    pub logits: Array,
    /// Bias on the scores when experts are chosen, f32 `[n_experts]`; it does not change their weights.
    pub correction: Option<Array>,
}

impl Routed {
    /// Concatenates the chunks of a prompt; `None` for no chunk.
    pub(crate) fn joined(chunks: &[Self]) -> Result<Option<Self>, Exception> {
        let Some(first) = chunks.first() else { return Ok(None) };
        let join = |part: fn(&Self) -> &Array| {
            mlx_rs::ops::concatenate(&chunks.iter().map(part).collect::<Vec<_>>(), 1)
        };
        let correction = first.correction.clone();
        Ok(Some(Self { x: join(|routed| &routed.x)?, logits: join(|routed| &routed.logits)?, correction }))
    }

    /// Returns the evaluated logits, and the correction of each expert.
    pub(crate) fn scores(&self) -> Result<(&[f32], Option<&[f32]>), Exception> {
        Ok((values(&self.logits)?, self.correction.as_ref().map(values).transpose()?))
    }

    /// Returns all arrays, to be evaluated together.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.x, &self.logits].into_iter().chain(&self.correction)
    }
}
