//! Measures mlx-lm on MLX's CPU backend with a Python script.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::confine::Confinement;
use super::flash;

const SCRIPT: &str = include_str!("mlx_lm_decode.py");

/// The type of scales, biases and activations.
#[derive(Debug, Clone, Copy)]
pub enum Dtype {
    /// The type in the model's files, the default of mlx-lm.
    Stored,
    Float32,
}

/// Decodes `n_tokens` after the first, and returns tokens per second.
pub fn decode(
    python: &Path,
    model: &Path,
    n_tokens: usize,
    dtype: Dtype,
    confinement: &Confinement,
) -> Result<f64> {
    let dtype = match dtype {
        Dtype::Stored => "stored",
        Dtype::Float32 => "float32",
    };
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(model).args([&n_tokens.to_string(), dtype, &flash::text(1)]);
    let output = confinement.output(&command)?;
    output.lines().last().unwrap_or_default().parse().context("the script for mlx-lm printed no rate")
}

/// Returns the versions of mlx-lm and MLX.
pub fn version(python: &Path) -> Result<String> {
    const VERSIONS: &str = "\
from importlib.metadata import version
print(f\"mlx-lm {version('mlx-lm')}, MLX {version('mlx')}\")";
    crate::run::output(Command::new(python).args(["-c", VERSIONS]))
}
