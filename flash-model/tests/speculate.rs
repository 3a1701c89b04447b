//! Speculation: drafts change no token of an answer.

// The CPU kernels are available on Linux only, and MLX's own operations round a row differently in other company.
#![cfg(target_os = "linux")]

#[path = "common/contexts.rs"]
mod contexts;
#[path = "common/family.rs"]
mod family;
#[path = "common/words.rs"]
mod words;

use std::sync::Arc;

use contexts::{FAMILIES, Memory, engine};
use family::family;
use flash_io::IoMode;
use flash_io::faults::{Fault, FaultyStorage, When};
use flash_model::sample::SamplerConfig;
use flash_model::{
    Checkpoint, Compute, Engine, EngineOptions, FinishReason, GenerateOptions, Generation, KvFormat,
    KvPolicy, Model, ModelError, Speculation, Workload, generate,
};
use flash_text::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use words::tokenizer;

/// Returns a text that repeats itself, as copies need it, with a part that differs.
fn prompt(n_tokens: usize, period: usize, vocab: usize) -> Vec<u32> {
    let token = |at: usize| {
        (at % period * 37 + at % period * at % period + 11 + usize::from(at % 50 == 49) * at) % vocab
    };
    (0..n_tokens).map(|at| token(at) as u32).collect()
}

fn options(
    max_tokens: usize,
    sampler: SamplerConfig,
    stop: &[String],
    speculation: Speculation,
) -> GenerateOptions {
    let mut options = GenerateOptions::new(max_tokens);
    (options.sampler, options.stop, options.speculation) = (sampler, stop.to_vec(), speculation);
    options.ignore_eos = true;
    options
}

/// Two questions of a conversation.
#[derive(Debug, Clone)]
struct Script {
    family: &'static str,
    memory: Memory,
    format: KvFormat,
    is_paged: bool,
    prompts: [Vec<usize>; 2],
    max_tokens: usize,
    temperature: f32,
    repetition_penalty: f32,
    top_k: usize,
    seed: u64,
    stop: Option<u32>,
}

fn scripts() -> impl Strategy<Value = Script> {
    let memory = prop::sample::select(vec![Memory::Floor, Memory::Plenty]);
    let formats = vec![KvFormat::Exact, KvFormat::F16, KvFormat::Int8, KvFormat::Int4];
    let prompts = || (1_usize..120, 2_usize..40).prop_map(|(n, period)| vec![n, period]);
    let model =
        (prop::sample::select(FAMILIES.to_vec()), memory, prop::sample::select(formats), any::<bool>());
    let sampler = (
        prop::sample::select(vec![0.0_f32, 0.0, 0.2, 1.0]),
        prop::sample::select(vec![1.0_f32, 1.0, 1.3]),
        prop::sample::select(vec![0_usize, 1, 4]),
        any::<u64>(),
    );
    (model, prompts(), prompts(), 1_usize..60, sampler, prop::option::of(0_u32..60)).prop_map(
        |((family, memory, format, is_paged), first, second, max_tokens, sampler, stop)| {
            let (temperature, repetition_penalty, top_k, seed) = sampler;
            let prompts = [first, second];
            Script {
                family,
                memory,
                format,
                is_paged,
                prompts,
                max_tokens,
                temperature,
                repetition_penalty,
                top_k,
                seed,
                stop,
            }
        },
    )
}

/// Answers both questions, and returns the answers and the tokens that the context holds after each.
fn answers(script: &Script, speculation: Speculation) -> Vec<(Generation, Vec<u32>)> {
    let (dir, vocab) = family(script.family);
    let mut kv = KvPolicy::new(script.format);
    kv.is_paged = script.is_paged;
    let mut engine = engine(&dir, Compute::Auto, script.memory, kv, 1);
    let tokenizer = tokenizer(vocab);
    let sampler = SamplerConfig {
        temperature: script.temperature,
        repetition_penalty: script.repetition_penalty,
        top_k: script.top_k,
        seed: script.seed,
        ..SamplerConfig::default()
    };
    let stop: Vec<String> = script.stop.iter().map(u32::to_string).collect();
    let options = options(script.max_tokens, sampler, &stop, speculation);
    let answer = |prompt: &Vec<usize>| {
        let prompt = self::prompt(prompt[0], prompt[1], vocab);
        let mut text = String::new();
        let generation =
            generate(&mut engine, &tokenizer, &prompt, &options, |piece| text.push_str(piece)).unwrap();
        assert_eq!(generation.text, text);
        (generation, engine.held().to_vec())
    };
    script.prompts.iter().map(answer).collect()
}

fn check(script: &Script) -> Result<u64, TestCaseError> {
    let wanted = answers(script, Speculation::Off);
    let mut accepted = 0;
    for speculation in [Speculation::Always, Speculation::Auto] {
        for ((got, got_held), (wanted, held)) in answers(script, speculation).iter().zip(&wanted) {
            prop_assert_eq!(&got.token_ids, &wanted.token_ids);
            prop_assert_eq!((&got.text, got.finish_reason), (&wanted.text, wanted.finish_reason));
            prop_assert_eq!(got_held, held);
            let (passes, n_tokens) = (got.speculation.passes, got.token_ids.len() as u64);
            let accepted_now = got.speculation.accepted();
            prop_assert!(
                passes + accepted_now == n_tokens.saturating_sub(1)
                    || got.finish_reason == FinishReason::Stop
            );
            prop_assert!(accepted_now <= got.speculation.drafted());
            accepted += accepted_now;
        }
    }
    Ok(accepted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn drafts_change_no_token(script in scripts()) {
        check(&script)?;
    }
}

#[test]
fn drafts_of_every_family_are_accepted_and_change_no_token() {
    for family in FAMILIES {
        let mut accepted = 0;
        for (format, is_paged) in [(KvFormat::Exact, false), (KvFormat::Exact, true), (KvFormat::Int8, false)]
        {
            let script = Script {
                family,
                memory: Memory::Floor,
                format,
                is_paged,
                prompts: [vec![110, 6], vec![30, 3]],
                max_tokens: 70,
                temperature: 0.0,
                repetition_penalty: 1.0,
                top_k: 0,
                seed: 0,
                stop: None,
            };
            accepted += check(&script).unwrap_or_else(|error| panic!("{script:?}: {error}"));
        }
        assert!(accepted > 10, "{family}: {accepted} tokens were accepted");
    }
}

/// Returns an engine and a tokenizer of a family.
fn open(name: &'static str) -> (Engine, Tokenizer, usize) {
    let (dir, vocab) = family(name);
    (engine(&dir, Compute::Auto, Memory::Floor, KvPolicy::default(), 1), tokenizer(vocab), vocab)
}

#[test]
fn an_interrupt_within_a_draft_ends_the_answer_behind_a_token_of_it() {
    let (mut engine, tokenizer, vocab) = open("qwen3");
    let prompt = prompt(110, 6, vocab);
    let all = |speculation| options(60, SamplerConfig::default(), &[], speculation);
    let wanted = generate(&mut engine, &tokenizer, &prompt, &all(Speculation::Off), |_| ()).unwrap();
    for at in [1, 2, 5, 17, 40] {
        engine.truncate(0).unwrap();
        let flag = engine.interrupt();
        let mut n_pieces = 0;
        let stop_there = |_: &str| {
            n_pieces += 1;
            flag.store(n_pieces == at, std::sync::atomic::Ordering::Relaxed);
        };
        let answer =
            generate(&mut engine, &tokenizer, &prompt, &all(Speculation::Always), stop_there).unwrap();
        assert_eq!(answer.finish_reason, FinishReason::Interrupted);
        let n_tokens = answer.token_ids.len();
        assert_eq!(answer.token_ids, wanted.token_ids[..n_tokens]);
        assert_eq!(engine.held(), [&prompt, &answer.token_ids[..n_tokens - 1]].concat());
        flag.store(false, std::sync::atomic::Ordering::Relaxed);
        // It continues as if it had never stopped.
        let mut rest = options(60 - n_tokens, SamplerConfig::default(), &[], Speculation::Always);
        rest.ignore_eos = true;
        let last = &answer.token_ids[n_tokens - 1..];
        let rest = generate(&mut engine, &tokenizer, last, &rest, |_| ()).unwrap();
        assert_eq!(rest.token_ids, wanted.token_ids[n_tokens..]);
    }
}

#[test]
fn a_pass_that_fails_with_a_draft_is_repeated_without_it() {
    // Experts are read in every pass.
    let (dir, vocab) = family("mixtral");
    let tokenizer = tokenizer(vocab);
    let prompt = prompt(110, 6, vocab);
    let answer = |when: Option<When>| {
        let mut checkpoint = Checkpoint::open(&dir, IoMode::Pread).unwrap();
        if let Some(when) = when {
            checkpoint = checkpoint
                .map_storage(|_, storage| Arc::new(FaultyStorage::new(storage, Fault::Denied, when)));
        }
        let model = Model::open(checkpoint).unwrap();
        let workload = Workload::new(300, 384).with_tentative_rows(40);
        let budget_bytes = model.floor_bytes(&workload);
        let mut engine = model.load(&EngineOptions::new(budget_bytes, workload))?;
        let options = options(50, SamplerConfig::default(), &[], Speculation::Always);
        generate(&mut engine, &tokenizer, &prompt, &options, |_| ())
    };
    let wanted = answer(None).unwrap();
    assert!(wanted.speculation.accepted() > 0);
    let mut n_repeated = 0;
    for nth in (40..400).step_by(9) {
        if let Ok(got) = answer(Some(When::Nth(nth))) {
            assert_eq!(got.token_ids, wanted.token_ids, "read {nth}");
            n_repeated += usize::from(got.speculation.accepted() != wanted.speculation.accepted());
        }
    }
    assert!(n_repeated > 0, "no draft met a failure");
}

#[test]
fn an_error_of_the_sampler_within_a_draft_is_that_of_a_single_token() {
    let (mut engine, tokenizer, vocab) = open("qwen3");
    let prompt = prompt(40, 5, vocab);
    let mut failing = options(10, SamplerConfig::default(), &[], Speculation::Always);
    failing.sampler.temperature = -1.0;
    assert!(matches!(
        generate(&mut engine, &tokenizer, &prompt, &failing, |_| ()),
        Err(ModelError::Sample(_))
    ));
    assert_eq!(engine.held_tokens(), 0);
}
