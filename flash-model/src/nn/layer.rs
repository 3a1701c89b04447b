//! The interface of a decoder layer.

use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Module;

use crate::compute::Value;
use crate::compute::arrays::values;
use crate::kv::LayerKv;

/// One layer of a decoder.
pub(crate) trait Layer:
    for<'a> Module<LayerInput<'a>, Output = LayerOutput, Error = Exception> + Debug
{
    /// Predicts the layer's routing from hidden states, `[1, n, hidden]`, that have not passed its attention; none if it has no
    /// router. The prediction only decides which experts are read ahead.
    fn predict_routing(&mut self, _hidden: &Value) -> Result<Option<Routed>, Exception> {
        Ok(None)
    }

    /// The most recent tokens that a token sees, itself among them; none if it sees all before it.
    fn window(&self) -> Option<usize> {
        None
    }
}

/// Input of a layer, or of its attention.
#[derive(Debug)]
pub(crate) struct LayerInput<'a> {
    /// Hidden states, `[1, n, hidden]`.
    pub x: &'a Value,
    /// What the layer keeps of the tokens before.
    pub kv: &'a mut LayerKv,
    /// Position of the first token.
    pub position: usize,
}

/// Output of a layer.
#[derive(Debug)]
pub(crate) struct LayerOutput {
    /// Hidden states, `[1, n, hidden]`.
    pub hidden: Value,
    /// Input of the layer's experts, if it has any: their output is added to `hidden`.
    pub routed: Option<Routed>,
}

impl From<Value> for LayerOutput {
    fn from(hidden: Value) -> Self {
        Self { hidden, routed: None }
    }
}

/// What a layer hands to its experts.
#[derive(Debug)]
pub(crate) struct Routed {
    /// The experts' input: `[1, n, hidden]`, or as many columns as they work on.
    pub x: Array,
    /// The router's logits, `[1, n, n_experts]`.
    pub logits: Array,
    /// Correction of each expert's score when experts are chosen, f32 `[n_experts]`.
    pub correction: Option<Array>,
}

impl Routed {
    /// Joins the chunks of a prompt; none if there are none.
    pub(crate) fn joined(chunks: &[Self]) -> Result<Option<Self>, Exception> {
        let Some(first) = chunks.first() else { return Ok(None) };
        let join = |part: fn(&Self) -> &Array| {
            mlx_rs::ops::concatenate(&chunks.iter().map(part).collect::<Vec<_>>(), 1)
        };
        let correction = first.correction.clone();
        Ok(Some(Self { x: join(|routed| &routed.x)?, logits: join(|routed| &routed.logits)?, correction }))
    }

    /// The evaluated logits, and the correction of each expert.
    pub(crate) fn scores(&self) -> Result<(&[f32], Option<&[f32]>), Exception> {
        Ok((values(&self.logits)?, self.correction.as_ref().map(values).transpose()?))
    }

    /// All arrays, to be evaluated together.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.x, &self.logits].into_iter().chain(&self.correction)
    }
}
