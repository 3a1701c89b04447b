//! Models to compare with, each as an MLX directory and as GGUF.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{cache, models, run};

const SYNTHETIC: &str = include_str!("synthetic.py");
const HALF_PRECISION: &str = include_str!("half_precision.py");

/// A preset of the script `synthetic.py`.
struct Preset {
    argument: &'static str,
    name: &'static str,
    /// Disk space.
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
    size: "34 GB, plus 17 GB temporarily",
    unread_bytes: at_4_5_bits(49_152 * 2048 + 48 * (128 - 8) * 3 * 2048 * 768),
    is_mixture: true,
};

/// Returns the bytes of weights at 4.5 bits each.
const fn at_4_5_bits(weights: u64) -> u64 {
    weights * 9 / 16
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Choice {
    /// SmolLM2-135M-Instruct
    Demo,
    /// Random weights with the shapes of Llama 3 8B; created once, takes 8.4 GB
    #[value(name = "8b")]
    Synthetic8b,
    /// Random weights with the shapes of Qwen3 30B-A3B, a mixture of experts; created once, takes 34 GB, plus 17 GB
    /// temporarily
    #[value(name = "30b-a3b")]
    Synthetic30b,
    /// All models without experts
    Dense,
}

/// A model in both formats.
pub struct Model {
    pub name: &'static str,
    pub mlx: PathBuf,
    pub gguf: PathBuf,
    /// Bytes of weights that a decoded token does not read: other rows of an embedding that is not the head, and
    /// other experts.
    pub unread_bytes: u64,
    /// Whether the model has experts. Tokens determine the experts, so they are sampled as llama.cpp's benchmark does.
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
    /// Returns the model with norms in half precision, as in published models: mlx-lm computes in the type of the
    /// norms.
    pub fn in_half_precision(self, python: &Path) -> Result<Self> {
        let config = self.mlx.join("config.json");
        let config = fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let key = cache::sha256_of(&[HALF_PRECISION.as_bytes(), &config, self.name.as_bytes()]);
        let dir = cached(&key, |dir| {
            run::check(Command::new(python).args(["-c", HALF_PRECISION]).args([&self.mlx, dir]))
        })?;
        Ok(Self { mlx: dir, ..self })
    }
}

/// Returns the directory of a derived model, creating it with `make` if it does not exist. `key` is a hash of the
/// inputs.
fn cached(key: &str, make: impl FnOnce(&PathBuf) -> Result<()>) -> Result<PathBuf> {
    let dir = cache::dir()?.join("synthetic").join(&key[..16]);
    if !dir.exists() {
        let parent = dir.parent().expect("joined above");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        // Renamed into place when complete.
        let temporary = tempfile::tempdir_in(parent)?;
        let partial = temporary.path().join("model");
        make(&partial)?;
        fs::rename(&partial, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    Ok(dir)
}

/// Returns a model of random weights, creating it if it does not exist. For flash, a mixture of experts is packed, so
/// that each program has its best format.
fn synthetic(preset: &Preset, python: &Path, flash_cli: &Path, demo: &Model) -> Result<Model> {
    let mlx_name = if preset.is_mixture { "rows" } else { "mlx" };
    let model = |dir: &Path| Model {
        name: preset.name,
        mlx: dir.join(mlx_name),
        gguf: dir.join("model.gguf"),
        unread_bytes: preset.unread_bytes,
        is_mixture: preset.is_mixture,
    };
    let key = cache::sha256_of(&[SYNTHETIC, preset.argument, mlx_name].map(str::as_bytes));
    let dir = cached(&key, |dir| {
        eprintln!("Creating a model of random weights (once, {})", preset.size);
        fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (model, mlx) = (model(dir), dir.join("mlx"));
        let mut python = Command::new(python);
        python.args(["-c", SYNTHETIC, preset.argument]).args([&mlx, &model.gguf, &demo.mlx, &demo.gguf]);
        run::check(&mut python)?;
        if preset.is_mixture {
            let mut pack = Command::new(flash_cli);
            run::check(pack.args(["pack", "--model"]).arg(&mlx).arg("--out").arg(&model.mlx))?;
            fs::remove_dir_all(&mlx).with_context(|| format!("cannot remove {}", mlx.display()))?;
        }
        Ok(())
    })?;
    Ok(model(&dir))
}
