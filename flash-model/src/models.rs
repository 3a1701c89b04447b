//! The architectures, one file each, named as in mlx-lm.

mod llama;

use std::fmt::Debug;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Module;

use crate::ModelError;
use crate::attention::LayerInput;
use crate::experts::{Mixture, Routed};
use crate::weights::Weights;

/// One layer of a decoder.
pub(crate) trait Layer:
    for<'a> Module<LayerInput<'a>, Output = LayerOutput, Error = Exception> + Debug
{
}

impl<T> Layer for T where T: for<'a> Module<LayerInput<'a>, Output = LayerOutput, Error = Exception> + Debug {}

/// What a layer makes of its input.
#[derive(Debug)]
pub(crate) struct LayerOutput {
    /// Hidden states, `[1, n, hidden]`.
    pub hidden: Array,
    /// What is sent to the layer's experts, if it has any: what they make of it will be added.
    pub routed: Option<Routed>,
}

impl From<Array> for LayerOutput {
    fn from(hidden: Array) -> Self {
        Self { hidden, routed: None }
    }
}

/// A decoder as its architecture describes it. No weight is loaded.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The layers, each with the path of its tensors.
    pub layers: Vec<(String, Box<dyn Layer>)>,
    /// The experts of each layer that has some; nothing at all if none has.
    pub mixtures: Vec<Option<Mixture>>,
    pub embed_path: &'static str,
    pub norm_path: &'static str,
    /// That of the embedding if the two are tied.
    pub head_path: &'static str,
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub n_heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub vocab_size: i32,
    pub norm_eps: f32,
    /// The longest context that the model was trained for.
    pub max_position_embeddings: Option<usize>,
}

type Build = fn(&Weights<'_>) -> Result<Architecture, ModelError>;

/// `model_type` → architecture.
const MODELS: &[(&str, Build)] = &[("llama", llama::build)];

/// The architecture that a checkpoint's configuration names.
pub(crate) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let found = MODELS.iter().find(|(model_type, _)| *model_type == config.model_type());
    let (_, build) = found.ok_or_else(|| ModelError::UnknownModelType {
        path: config.path().to_owned(),
        given: config.model_type().to_owned(),
        known: MODELS.iter().map(|(model_type, _)| *model_type).collect(),
    })?;
    build(weights)
}
