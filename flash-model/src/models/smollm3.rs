//! `SmolLM3`, as `mlx_lm/models/smollm3.py` has it: Llama, but some layers are not told positions.

use serde::Deserialize;

use super::windows::Unlisted;
use super::{Architecture, llama};
use crate::ModelError;
use crate::nn::weights::Weights;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    /// One layer in so many has no positions, if `no_rope_layers` does not say which.
    #[serde(default = "default_interval")]
    no_rope_layer_interval: usize,
    /// 0 for each layer that has none.
    no_rope_layers: Option<Vec<u8>>,
    num_hidden_layers: usize,
}

fn default_interval() -> usize {
    4
}

/// The model, for [`MODELS`](super::MODELS).
pub(super) fn build(weights: &Weights<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    if args.no_rope_layer_interval == 0 {
        return Err(config.field_error("no_rope_layer_interval", &0, "it must be positive"));
    }
    if let Some(listed) = args.no_rope_layers.as_ref().filter(|listed| listed.len() != args.num_hidden_layers)
    {
        let given = format!("{} numbers", listed.len());
        return Err(config.field_error("no_rope_layers", &given, "one for each layer"));
    }
    config.expect("use_sliding_window", &[false.into()])?;
    llama::with_positions(weights, Unlisted::Full, |layer_idx| match &args.no_rope_layers {
        Some(listed) => listed[layer_idx] != 0,
        None => !(layer_idx + 1).is_multiple_of(args.no_rope_layer_interval),
    })
}
