//! A number that was said long ago is found again: at every depth of a context at which full precision finds it, pages of 8 bits
//! do, too. The test is mlx-flash's, with five digits and ten depths.
//!
//! `FLASH_PASSKEY_TOKENS` is the length of the context, 1,000 tokens by default.

#![expect(clippy::print_stdout, reason = "it says where keys were found, and a skipped one why")]

#[expect(dead_code, reason = "others open engines with it")]
mod common;

use common::demo_model;
use flash_io::IoMode;
use flash_model::text::Tokenizer;
use flash_model::{
    Checkpoint, EngineOptions, GenerateOptions, KvFormat, KvPolicy, Model, Workload, generate,
};

const DEPTHS: usize = 10;
const ANSWER_TOKENS: usize = 10;
const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
const QUESTION: &str = "What is the secret passkey? The secret passkey is";

/// A context of about `n_tokens` with the key at a part of it.
fn prompt(tokenizer: &Tokenizer, key: u32, n_tokens: usize, depth: f64) -> Vec<u32> {
    let with = |n_fillers: usize| {
        let before = (n_fillers as f64 * depth).round() as usize;
        let (before, behind) = (FILLER.repeat(before), FILLER.repeat(n_fillers - before));
        let text = format!("{before}The secret passkey is {key}. Remember it. {behind}{QUESTION}");
        tokenizer.encode_prompt(&text).unwrap()
    };
    let filler_tokens = tokenizer.encode(FILLER, false).unwrap().len();
    with((n_tokens - with(0).len()) / filler_tokens)
}

/// Whether each depth's key is found.
fn found(
    dir: &std::path::Path,
    format: KvFormat,
    prompts: &[(u32, Vec<u32>)],
    tokenizer: &Tokenizer,
) -> Vec<bool> {
    let model = Model::open(Checkpoint::open(dir, IoMode::Auto).unwrap()).unwrap();
    let longest = prompts.iter().map(|(_, prompt)| prompt.len()).max().unwrap();
    let kv = KvPolicy { format, ..KvPolicy::default() };
    let workload = Workload { kv, ..Workload::new(longest, longest + ANSWER_TOKENS) };
    // Of quantised pages, few stay in memory.
    let budget_bytes = model.floor_bytes(&workload) + model.model_bytes();
    let mut engine = model.load(&EngineOptions::new(budget_bytes, workload)).unwrap();
    let options = GenerateOptions { max_tokens: ANSWER_TOKENS, ..GenerateOptions::default() };
    let answers = prompts.iter().map(|(key, prompt)| {
        let reused = engine.reuse(prompt).unwrap();
        let answer = generate(&mut engine, tokenizer, &prompt[reused..], &options, |_| {}).unwrap();
        answer.text.contains(&key.to_string())
    });
    answers.collect()
}

#[test]
fn eight_bits_find_a_passkey_wherever_full_precision_does() {
    let Some(dir) = demo_model("kept") else { return };
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let n_tokens = std::env::var("FLASH_PASSKEY_TOKENS").map_or(1000, |n| n.parse().unwrap());
    let prompts: Vec<_> = (0..DEPTHS)
        .map(|idx| {
            let (key, depth) = (10_007 + 8_731 * idx as u32, (idx as f64 + 0.5) / DEPTHS as f64);
            (key, prompt(&tokenizer, key, n_tokens, depth))
        })
        .collect();
    let [exact, eight] =
        [KvFormat::Exact, KvFormat::Int8].map(|format| found(&dir, format, &prompts, &tokenizer));
    println!("of {n_tokens} tokens, full precision finds {exact:?}, 8 bits {eight:?}");
    assert_eq!(eight, exact);
    // At the length of the test that everyone runs; at others the model may fail by itself.
    assert!(n_tokens != 1000 || exact.iter().filter(|found| **found).count() >= DEPTHS / 2, "{exact:?}");
}
