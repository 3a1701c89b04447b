//! `SmolLM3` (`mlx_lm/models/smollm3.py`): Llama in which some layers have no RoPE.

use serde::Deserialize;

use super::windows::WindowPattern;
use super::{Architecture, llama};
use crate::ModelError;
use crate::nn::var_builder::VarBuilder;

#[derive(Debug, Deserialize)]
struct ModelArgs {
    /// Every `n`-th layer has no RoPE, unless `no_rope_layers` is given.
    #[serde(default = "default_interval")]
    no_rope_layer_interval: usize,
    /// A flag for each layer: 0 for no RoPE.
    no_rope_layers: Option<Vec<u8>>,
    num_hidden_layers: usize,
}

fn default_interval() -> usize {
    4
}

/// Builds a `SmolLM3` decoder.
pub(super) fn build(weights: &VarBuilder<'_>) -> Result<Architecture, ModelError> {
    let config = weights.config();
    let args: ModelArgs = config.args()?;
    if args.no_rope_layer_interval == 0 {
        return Err(config.field_error("no_rope_layer_interval", &0, "it must be positive"));
    }
    if let Some(listed) = args.no_rope_layers.as_ref().filter(|listed| listed.len() != args.num_hidden_layers)
    {
        let given = format!("{} numbers", listed.len());
        return Err(config.field_error("no_rope_layers", &given, "it must have one for each layer"));
    }
    config.expect("use_sliding_window", &[false.into()])?;
    llama::build_with(weights, WindowPattern::Full, |layer_idx| match &args.no_rope_layers {
        Some(listed) => listed[layer_idx] != 0,
        None => !(layer_idx + 1).is_multiple_of(args.no_rope_layer_interval),
    })
}
