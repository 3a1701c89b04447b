//! Creates models of random weights, of any size and any architecture of mlx-lm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{models, native, run, venv};

const SCRIPT: &str = include_str!("synth.py");

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// Use the shapes of this `config.json`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Output directory; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Bits per weight of matrices, in groups of 64; 16 for no quantization
    #[arg(long, value_name = "N", default_value = "4", value_parser = bits)]
    bits: u32,
    /// Copy the tokenizer of this model [default: the demo model]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
}

fn bits(given: &str) -> Result<u32, String> {
    match given.parse() {
        Ok(bits @ (2..=6 | 8 | 16)) => Ok(bits),
        _ => Err("must be 2, 3, 4, 5, 6, 8 or 16".to_owned()),
    }
}

/// Creates the model beside `out`, and renames it when complete.
pub fn run(args: &SynthArgs) -> Result<()> {
    let SynthArgs { config, out, bits, tokenizer } = args;
    if out.exists() {
        bail!("{} exists already", out.display());
    }
    let tokenizer = match tokenizer {
        Some(dir) => dir.clone(),
        None => {
            native::prepare(None)?;
            models::demo(&models::build_cli("release")?)?
        }
    };
    let python = venv::python()?;
    let parent = out.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let temporary = tempfile::tempdir_in(parent)?;
    let partial = temporary.path().join("model");
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).args([config, &partial, &tokenizer]).arg(bits.to_string());
    run::check(&mut command)?;
    fs::rename(&partial, out).with_context(|| format!("cannot create {}", out.display()))
}
