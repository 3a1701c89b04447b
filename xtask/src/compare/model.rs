//! The models that are compared: each as an MLX directory and as GGUF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{cache, models, run};

const SYNTHETIC: &str = include_str!("synthetic.py");
const HALF_PRECISION: &str = include_str!("half_precision.py");

/// One of those that the script knows.
struct Preset {
    argument: &'static str,
    name: &'static str,
    /// On the disk.
    size: &'static str,
    unread_bytes: u64,
    is_mixture: bool,
}

const DENSE_8B: Preset = Preset {
    argument: "8b",
    name: "Random weights in the shapes of Llama 3 8B, 4.5 bits each (GGUF: Q4_0; MLX: affine, groups of 64)",
    size: "8.4 GB",
    unread_bytes: at_4_5_bits(49_152 * 4096),
    is_mixture: false,
};
const MIXTURE_30B: Preset = Preset {
    argument: "30b-a3b",
    name: "Random weights in the shapes of Qwen3 30B-A3B, 4.5 bits each (GGUF: Q4_0; MLX: affine, groups of 64)",
    size: "34 GB, and 17 more meanwhile",
    unread_bytes: at_4_5_bits(49_152 * 2048 + 48 * (128 - 8) * 3 * 2048 * 768),
    is_mixture: true,
};

const fn at_4_5_bits(weights: u64) -> u64 {
    weights * 9 / 16
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Choice {
    /// SmolLM2-135M-Instruct
    Demo,
    /// Random weights in the shapes of Llama 3 8B; made once, takes 8.4 GB
    #[value(name = "8b")]
    Synthetic8b,
    /// Random weights in the shapes of Qwen3 30B-A3B, a mixture of experts; made once, takes 34 GB, and 17 more meanwhile
    #[value(name = "30b-a3b")]
    Synthetic30b,
    /// Those without experts
    Dense,
}

pub struct Model {
    pub name: &'static str,
    pub mlx: PathBuf,
    pub gguf: PathBuf,
    /// The part of the weights that a decoded token does not read: the rows of others in an embedding that is not the head,
    /// and other experts.
    pub unread_bytes: u64,
    /// Whether it has experts. They follow from tokens, so those are to be drawn as llama.cpp's benchmark draws them.
    pub is_mixture: bool,
}

impl Choice {
    pub fn models(self, python: &Path, flash_cli: &Path) -> Result<Vec<Model>> {
        let demo = demo(flash_cli)?;
        Ok(match self {
            Self::Demo => vec![demo],
            Self::Synthetic8b => vec![synthetic(&DENSE_8B, python, flash_cli, &demo)?],
            Self::Synthetic30b => vec![synthetic(&MIXTURE_30B, python, flash_cli, &demo)?],
            Self::Dense => {
                let synthetic = synthetic(&DENSE_8B, python, flash_cli, &demo)?;
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
        unread_bytes: 0,
        is_mixture: false,
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

/// A model of random weights. That with experts is packed: each program has it as it reads it best.
fn synthetic(preset: &Preset, python: &Path, flash_cli: &Path, demo: &Model) -> Result<Model> {
    let made_by = if preset.is_mixture { "rows" } else { "mlx" };
    let model = |dir: &Path| Model {
        name: preset.name,
        mlx: dir.join(made_by),
        gguf: dir.join("model.gguf"),
        unread_bytes: preset.unread_bytes,
        is_mixture: preset.is_mixture,
    };
    let made_from = cache::sha256_of(&[SYNTHETIC, preset.argument, made_by].map(str::as_bytes));
    let dir = made_once(&made_from, |dir| {
        eprintln!("Making a model of random weights (once, {})", preset.size);
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (made, mlx) = (model(dir), dir.join("mlx"));
        let mut python = Command::new(python);
        python.args(["-c", SYNTHETIC, preset.argument]).args([&mlx, &made.gguf, &demo.mlx, &demo.gguf]);
        run::check(&mut python)?;
        if preset.is_mixture {
            let mut pack = Command::new(flash_cli);
            run::check(pack.args(["pack", "--model"]).arg(&mlx).arg("--out").arg(&made.mlx))?;
            fs::remove_dir_all(&mlx).with_context(|| format!("cannot remove {}", mlx.display()))?;
        }
        Ok(())
    })?;
    Ok(model(&dir))
}
