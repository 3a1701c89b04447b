//! The models that are compared: each as an MLX directory and as GGUF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{cache, models, run};

const SYNTHETIC: &str = include_str!("synthetic.py");

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Choice {
    /// SmolLM2-135M-Instruct
    Demo,
    /// Random weights in the shapes of Llama 3 8B; made once, takes 8.4 GB
    #[value(name = "8b")]
    Synthetic8b,
    /// Both
    All,
}

pub struct Model {
    pub name: &'static str,
    pub mlx: PathBuf,
    pub gguf: PathBuf,
    /// The part of the weights of which a decoded token reads one row: an embedding that is not the head, too.
    pub rows_bytes: u64,
}

impl Choice {
    pub fn models(self, python: &Path, flash_cli: &Path) -> Result<Vec<Model>> {
        let demo = demo(flash_cli)?;
        Ok(match self {
            Self::Demo => vec![demo],
            Self::Synthetic8b => vec![synthetic_8b(python, &demo)?],
            Self::All => {
                let synthetic = synthetic_8b(python, &demo)?;
                vec![demo, synthetic]
            }
        })
    }
}

fn demo(flash_cli: &Path) -> Result<Model> {
    Ok(Model {
        name: "SmolLM2-135M-Instruct, 4 bits (GGUF: Q4_1; MLX: the same weights)",
        mlx: models::demo(flash_cli)?,
        gguf: models::gguf()?,
        rows_bytes: 0,
    })
}

fn synthetic_8b(python: &Path, demo: &Model) -> Result<Model> {
    let dir = cache::dir()?.join("synthetic").join(&cache::sha256_of(&[SYNTHETIC.as_bytes()])[..16]);
    let model = |dir: &Path| Model {
        name: "Random weights in the shapes of Llama 3 8B, 4.5 bits each (GGUF: Q4_0; MLX: affine, groups of 64)",
        mlx: dir.join("mlx"),
        gguf: dir.join("model.gguf"),
        rows_bytes: 49_152 * 4096 * 9 / 16,
    };
    if !dir.exists() {
        eprintln!("Making a model of random weights in the shapes of Llama 3 8B (once, 8.4 GB)");
        let parent = dir.parent().expect("joined above");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        // Renamed into place when it is whole.
        let temporary = tempfile::tempdir_in(parent)?;
        let script = temporary.path().join("synthetic.py");
        fs::write(&script, SYNTHETIC)?;
        let half_made = model(temporary.path());
        run::check(Command::new(python).arg(&script).args([
            &half_made.mlx,
            &half_made.gguf,
            &demo.mlx,
            &demo.gguf,
        ]))?;
        fs::rename(temporary.keep(), &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    Ok(model(&dir))
}
