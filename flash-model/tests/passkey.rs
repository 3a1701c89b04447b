//! Passkey retrieval: 8-bit KV pages find a number at every depth of a long context at which full precision finds it.
//! Where full precision does not, the next-token distributions are at least close. The test is mlx-flash's, with five
//! digits and ten depths.
//!
//! `FLASH_PASSKEY_TOKENS` is the length of the context, 1,000 tokens by default.

#![expect(clippy::print_stdout, reason = "prints where keys were found, or why the test is skipped")]

#[expect(dead_code, reason = "other tests open engines with it")]
mod common;

use common::demo_model;
use flash_io::IoMode;
use flash_model::{Checkpoint, EngineOptions, KvFormat, KvPolicy, Model, Workload};
use flash_text::Tokenizer;

const DEPTHS: usize = 10;
const ANSWER_TOKENS: usize = 10;
/// Maximum KL divergence, in nats, of 8 bits from full precision, where the latter does not find the key.
const DIVERGENCE_MAX: f64 = 0.02;
const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
const QUESTION: &str = "What is the secret passkey? The secret passkey is";

/// Returns a prompt of about `n_tokens` with the key at a relative `depth`.
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

/// The result of decoding after a prompt.
struct Answer {
    is_found: bool,
    /// Logits of the token after the prompt.
    logits: Vec<f32>,
}

/// Decodes greedily after each prompt.
fn answers(
    dir: &std::path::Path,
    format: KvFormat,
    prompts: &[(u32, Vec<u32>)],
    tokenizer: &Tokenizer,
) -> Vec<Answer> {
    let model = Model::open(Checkpoint::open(dir, IoMode::Auto).unwrap()).unwrap();
    let longest = prompts.iter().map(|(_, prompt)| prompt.len()).max().unwrap();
    let workload = Workload::new(longest, longest + ANSWER_TOKENS).with_kv(KvPolicy::new(format));
    // A budget in which only few quantised pages stay in memory.
    let budget_bytes = model.floor_bytes(&workload) + model.model_bytes();
    let mut engine = model.load(&EngineOptions::new(budget_bytes, workload)).unwrap();
    let answer = |(key, prompt): &(u32, Vec<u32>)| {
        let reused = engine.reuse(prompt).unwrap();
        let logits = engine.forward(&prompt[reused..]).unwrap();
        let mut ids = vec![best(&logits)];
        while ids.len() < ANSWER_TOKENS {
            ids.push(best(&engine.forward(&ids[ids.len() - 1..]).unwrap()));
        }
        let is_found = tokenizer.decode(&ids).unwrap().contains(&key.to_string());
        Answer { is_found, logits }
    };
    prompts.iter().map(answer).collect()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

/// Returns the Kullback-Leibler divergence of the distributions of `logits` and `other`, in nats.
fn divergence(logits: &[f32], other: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
    let (sum, other_sum) = (log_sum(logits), log_sum(other));
    let pairs = logits.iter().zip(other).map(|(a, b)| (f64::from(*a) - sum, f64::from(*b) - other_sum));
    pairs.map(|(a, b)| a.exp() * (a - b)).sum()
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
        [KvFormat::Exact, KvFormat::Int8].map(|format| answers(&dir, format, &prompts, &tokenizer));
    let found = |answers: &[Answer]| answers.iter().map(|answer| answer.is_found).collect::<Vec<_>>();
    let divergences: Vec<_> =
        exact.iter().zip(&eight).map(|(exact, eight)| divergence(&exact.logits, &eight.logits)).collect();
    let (exact, eight) = (found(&exact), found(&eight));
    println!("of {n_tokens} tokens, full precision finds {exact:?}, 8 bits {eight:?}");
    println!("KL divergences of the token after the question: {divergences:.5?} nats");
    for (idx, divergence) in divergences.iter().enumerate() {
        assert!(eight[idx] || !exact[idx], "lost at depth {idx}");
        assert!(exact[idx] || *divergence < DIVERGENCE_MAX, "{divergence} nats at depth {idx}");
    }
    // Only at the default length; at other lengths the model itself may fail.
    assert!(n_tokens != 1000 || exact.iter().filter(|found| **found).count() >= DEPTHS / 2, "{exact:?}");
}
