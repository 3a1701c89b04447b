//! Mixtral, as `mlx_lm/models/mixtral.py` has it: Llama's attention, and experts.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::macros::ModuleParameters;
use mlx_rs::module::Module;
use serde::Deserialize;
