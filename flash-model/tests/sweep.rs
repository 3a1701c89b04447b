//! Greedy ids of many random quantised mixtures are those of mlx-lm in float32, if kernels compute exactly.
//!
//! `FLASH_SWEEP` names a folder that `goldens/parity/sweep_mixtures.py` has written. `cargo test -p flash-model --test sweep -- --ignored` runs it.

#![expect(clippy::print_stdout, reason = "the figures are what the sweep is for")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use flash_io::IoMode;
use flash_model::{Checkpoint, Compute, ComputeOptions, Engine, EngineOptions, Model, Workload};
use serde::Deserialize;

/// The part of mixtures that may part from mlx-lm where kernels round activations to 15 bits: of 224 8 were seen.
const PARTED_MAX: f64 = 0.05;

/// And where they do not: of 224 one was seen, for a router may be nearly undecided in float32 as well.
const EXACT_PARTED_MAX: f64 = 0.01;

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

/// The largest logit's id; of equal ones the lowest.
fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.expect("a vocabulary") as u32
}

fn engine(dir: &Path, n_tokens: usize, compute: ComputeOptions) -> Engine {
    let model = Model::open_on(Checkpoint::open(dir, IoMode::Pread).unwrap(), compute).unwrap();
    model.load(&EngineOptions::new(1 << 40, Workload::new(n_tokens, n_tokens))).unwrap()
}

/// Whether the greedy ids of all prompts are those of mlx-lm.
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
    let mut n_parted = Vec::new();
    for compute in [exact, Compute::Native.into(), Compute::Mlx.into()] {
        let parted: Vec<_> = dirs.iter().filter(|dir| !is_equal(dir, compute)).collect();
        println!("{compute:?}: {} of {} part from mlx-lm: {parted:?}", parted.len(), dirs.len());
        n_parted.push(parted.len());
    }
    for (n_parted, part_max) in n_parted.into_iter().zip([EXACT_PARTED_MAX, PARTED_MAX, EXACT_PARTED_MAX]) {
        assert!(n_parted as f64 <= part_max * dirs.len() as f64, "{n_parted} of {}", dirs.len());
    }
}
