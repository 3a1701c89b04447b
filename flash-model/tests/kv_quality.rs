//! Perplexity of a real model with quantised KV pages, on the first chapters of *Alice's Adventures in Wonderland*
//! (Lewis Carroll, 1865, public domain; the text of Project Gutenberg's Millennium Fulcrum Edition 2.9).
//!
//! This test uses a part of the text;
//! `flash-cli perplexity --file flash-model/tests/texts/alice.txt --ctx 2048 --kv-quant 8` evaluates all of its 15,702
//! tokens (docs/performance.md).

#![expect(clippy::print_stdout, reason = "a skipped test says why")]

#[expect(dead_code, reason = "other tests open engines with it")]
mod common;

use std::path::Path;

use common::demo_model;
use flash_io::IoMode;
use flash_model::{Checkpoint, EngineOptions, KvFormat, KvPolicy, Model, Workload};
use flash_text::Tokenizer;

const TEXT: &str = include_str!("texts/alice.txt");
const WINDOW_TOKENS: usize = 1024;
const WINDOWS: usize = 3;

fn perplexity(dir: &Path, format: KvFormat, ids: &[u32]) -> f64 {
    let model = Model::open(Checkpoint::open(dir, IoMode::Auto).unwrap()).unwrap();
    let workload = Workload::new(WINDOW_TOKENS, WINDOW_TOKENS).with_kv(KvPolicy::new(format));
    let mut engine = model.load(&EngineOptions::new(1 << 40, workload)).unwrap();
    let windows = ids.chunks_exact(WINDOW_TOKENS).take(WINDOWS);
    let losses: Vec<f64> = windows.flat_map(|window| engine.losses(window).unwrap()).collect();
    (losses.iter().sum::<f64>() / losses.len() as f64).exp()
}

#[test]
fn pages_of_8_bits_cost_less_than_a_thousandth_of_perplexity_and_4_bits_less_than_a_hundredth() {
    let Some(dir) = demo_model("kept") else { return };
    let ids = Tokenizer::open(&dir).unwrap().encode(TEXT, false).unwrap();
    let exact = perplexity(&dir, KvFormat::Exact, &ids);
    for (format, most) in [(KvFormat::F16, 1e-4), (KvFormat::Int8, 1e-3), (KvFormat::Int4, 1e-2)] {
        let quantised = perplexity(&dir, format, &ids);
        let change = (quantised / exact - 1.0).abs();
        assert!(change < most, "{format:?}: {quantised} for {exact}, a change of {change}");
    }
}
