//! Greedy ids of many random quantised mixtures equal those of mlx-lm in float32, if kernels are exact.
//!
//! `FLASH_SWEEP` names a folder written by `goldens/parity/sweep_mixtures.py`. Run it with
//! `cargo test -p flash-model --test sweep -- --ignored`.

#![expect(clippy::print_stdout, reason = "the sweep prints its figures")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_model::{Checkpoint, Compute, ComputeOptions, Engine, EngineOptions, Model, Workload};
use serde::Deserialize;

/// Maximum fraction of mixtures that diverge from mlx-lm if kernels round activations to 15 bits: 8 of 224 were
/// measured.
const DIVERGED_MAX: f64 = 0.05;

/// Maximum fraction of mixtures that diverge from mlx-lm if kernels are exact: one of 224 was measured, since router
/// scores may nearly tie in float32 as well.
const EXACT_DIVERGED_MAX: f64 = 0.01;

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

/// Returns the id of the largest logit; of equal ones the lowest.
fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.expect("a vocabulary") as u32
}

fn engine(dir: &Path, n_tokens: usize, compute: ComputeOptions) -> Engine {
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    model.load(&EngineOptions::new(1 << 40, Workload::new(n_tokens, n_tokens))).unwrap()
}

/// Returns whether the greedy ids of all prompts are those of mlx-lm.
fn is_equal(dir: &Path, compute: ComputeOptions) -> bool {
    let golden = fs::read(dir.join("golden.json")).unwrap();
    let prompts: Vec<Prompt> = serde_json::from_slice(&golden).unwrap();
    prompts.iter().all(|Prompt { ids, greedy }| {
        let mut engine = engine(dir, ids.len() + greedy.len(), compute);
        let mut logits = engine.forward(ids).unwrap();
        greedy.iter().enumerate().all(|(at, wanted)| {
            if at > 0 {
                logits = engine.forward(&greedy[at - 1..at]).unwrap();
            }
            argmax(&logits) == *wanted
        })
    })
}

#[test]
#[ignore = "takes a folder of models, which FLASH_SWEEP names"]
fn greedy_ids_of_random_mixtures_are_those_of_mlx_lm_if_kernels_are_exact() {
    let folder = env::var_os("FLASH_SWEEP").expect("FLASH_SWEEP names a folder of models");
    let mut dirs: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "there are models");
    let exact = ComputeOptions { is_exact: true, ..Compute::Native.into() };
    let limits = [
        (exact, EXACT_DIVERGED_MAX),
        (Compute::Native.into(), DIVERGED_MAX),
        (Compute::Mlx.into(), EXACT_DIVERGED_MAX),
    ];
    let counts = limits.map(|(compute, fraction_max)| {
        let diverged: Vec<_> = dirs.iter().filter(|dir| !is_equal(dir, compute)).collect();
        println!("{compute:?}: {} of {} diverge from mlx-lm: {diverged:?}", diverged.len(), dirs.len());
        (diverged.len(), fraction_max)
    });
    for (n_diverged, fraction_max) in counts {
        assert!(n_diverged as f64 <= fraction_max * dirs.len() as f64, "{n_diverged} of {}", dirs.len());
    }
}
