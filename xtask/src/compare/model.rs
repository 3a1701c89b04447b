//! The models that are compared: each as an MLX directory and as GGUF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{cache, models, run};

const SYNTHETIC: &str = include_str!("synthetic.py");
const HALF_PRECISION: &str = include_str!("half_precision.py");

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

impl Model {
    /// The same without a number in f32: the type of norms is what mlx-lm computes in, and directories that are published
    /// have norms of half precision.
    pub fn in_half_precision(self, python: &Path) -> Result<Self> {
        let config = self.mlx.join("config.json");
        let config = fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let made_from = cache::sha256_of(&[HALF_PRECISION.as_bytes(), &config, self.name.as_bytes()]);
        let dir = made_once(&made_from, |dir| {
            run::check(Command::new(python).args(["-c", HALF_PRECISION]).args([&self.mlx, dir]))
        })?;
        Ok(Self { mlx: dir, ..self })
    }
}

/// The folder of a model that is made from what `made_from` is a hash of; renamed into place when it is whole.
fn made_once(made_from: &str, make: impl FnOnce(&PathBuf) -> Result<()>) -> Result<PathBuf> {
    let dir = cache::dir()?.join("synthetic").join(&made_from[..16]);
    if !dir.exists() {
        let parent = dir.parent().expect("joined above");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let temporary = tempfile::tempdir_in(parent)?;
        let made = temporary.path().join("model");
        make(&made)?;
        fs::rename(&made, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    Ok(dir)
}

fn synthetic_8b(python: &Path, demo: &Model) -> Result<Model> {
    let model = |dir: &Path| Model {
        name: "Random weights in the shapes of Llama 3 8B, 4.5 bits each (GGUF: Q4_0; MLX: affine, groups of 64)",
        mlx: dir.join("mlx"),
        gguf: dir.join("model.gguf"),
        rows_bytes: 49_152 * 4096 * 9 / 16,
    };
    let dir = made_once(&cache::sha256_of(&[SYNTHETIC.as_bytes()]), |dir| {
        eprintln!("Making a model of random weights in the shapes of Llama 3 8B (once, 8.4 GB)");
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let made = model(dir);
        let mut python = Command::new(python);
        python.args(["-c", SYNTHETIC]).args([&made.mlx, &made.gguf, &demo.mlx, &demo.gguf]);
        run::check(&mut python)
    })?;
    Ok(model(&dir))
}
