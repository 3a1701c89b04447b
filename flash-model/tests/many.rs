//! Answers to many prompts at once ([`Batch`]): the same as each alone, whatever happens to others.

#[path = "common/family.rs"]
mod family;
#[path = "common/words.rs"]
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use family::family;
use flash_io::IoMode;
use flash_io::faults::{Fault, FaultyStorage, When};
use flash_model::sample::SamplerConfig;
use flash_model::{
    Batch, BatchError, BatchOptions, Checkpoint, Engine, EngineOptions, FinishReason, GenerateOptions, Model,
    ModelError, Request, StartError, Workload, generate,
};
use words::tokenizer;

const CONTEXT_TOKENS: usize = 400;

fn load(dir: &Path, n_contexts: usize) -> Result<Engine, ModelError> {
    let workload = Workload::new(300, CONTEXT_TOKENS).with_contexts(n_contexts);
    let model = Model::open(Checkpoint::open(dir, IoMode::Pread)?)?;
    let budget_bytes = model.floor_bytes(&workload);
    model.load(&EngineOptions::new(budget_bytes, workload))
}

fn start(dir: &Path, vocab: usize, n_contexts: usize) -> Batch {
    let dir: PathBuf = dir.to_owned();
    let options = BatchOptions::default();
    Batch::start(move || load(&dir, n_contexts), tokenizer(vocab), options).unwrap()
}

/// Returns requests of different lengths and samplers.
fn requests(n: usize, vocab: usize) -> Vec<Request> {
    let request = |idx: usize| {
        let n_tokens = [3, 1, 150, 40, 7, 290, 20][idx % 7];
        let prompt = (0..n_tokens).map(|at| ((at * 13 + idx * 29 + 2) % vocab) as u32).collect();
        let mut options = GenerateOptions::new([9, 30, 4, 1, 17, 6, 0][idx % 7]);
        options.ignore_eos = true;
        if idx % 2 == 1 {
            options.sampler =
                SamplerConfig { temperature: 0.9, seed: idx as u64, ..SamplerConfig::default() };
        }
        Request::new(prompt, options)
    };
    (0..n).map(request).collect()
}

/// Returns the tokens of each answer, computed one after the other.
fn alone(dir: &Path, vocab: usize, requests: &[Request]) -> Vec<Vec<u32>> {
    let (mut engine, tokenizer) = (load(dir, 1).unwrap(), tokenizer(vocab));
    let answer = |Request { prompt, options, .. }: &Request| {
        engine.truncate(0).unwrap();
        generate(&mut engine, &tokenizer, prompt, options, |_| ()).unwrap().token_ids
    };
    requests.iter().map(answer).collect()
}

#[test]
fn every_answer_is_the_same_as_alone() {
    for name in ["qwen3", "llama-sliding", "mixtral", "gpt_oss", "deepseek_v3", "nemotron_h", "qwen3_next-q4"]
    {
        let (dir, vocab) = family(name);
        let requests = requests(11, vocab);
        let wanted = alone(&dir, vocab, &requests);
        for n_contexts in [1, 3, 16] {
            let batch = start(&dir, vocab, n_contexts);
            let answers: Vec<_> = requests.iter().map(|request| batch.submit(request.clone())).collect();
            for (idx, mut answer) in answers.into_iter().enumerate() {
                let text: String = answer.by_ref().collect();
                let generation = answer.finish().unwrap();
                let what = format!("{name}, {n_contexts} contexts, request {idx}");
                assert_eq!(generation.token_ids.len(), wanted[idx].len(), "{what}");
                // MLX's own operations round a row differently in other company.
                assert!(!cfg!(target_os = "linux") || generation.token_ids == wanted[idx], "{what}");
                assert_eq!(generation.text, text);
                assert_eq!(generation.finish_reason, FinishReason::Length);
            }
        }
    }
}

#[test]
fn a_request_that_cannot_be_answered_fails_alone() {
    let (dir, vocab) = family("qwen3");
    let batch = start(&dir, vocab, 2);
    let good = || Request::new(vec![1, 2, 3], GenerateOptions::new(5));
    let bad: [(Vec<u32>, &str); 3] =
        [(vec![], "empty"), (vec![vocab as u32], "vocabulary"), (vec![1; CONTEXT_TOKENS + 200], "tokens")];
    let wanted = batch.submit(good()).finish().unwrap().token_ids;
    for (prompt, text) in bad {
        let answers = [good(), Request::new(prompt, GenerateOptions::new(5)), good()];
        let [first, bad, last] = answers.map(|request| batch.submit(request));
        let error = bad.finish().unwrap_err();
        assert!(matches!(error, BatchError::Model(_)) && error.to_string().contains(text), "{error}");
        for answer in [first, last] {
            assert_eq!(answer.finish().unwrap().token_ids, wanted);
        }
    }
}

#[test]
fn an_answer_ends_at_the_length_of_its_context() {
    let (dir, vocab) = family("qwen3");
    let batch = start(&dir, vocab, 1);
    let mut options = GenerateOptions::new(usize::MAX);
    options.ignore_eos = true;
    let generation = batch.submit(Request::new(vec![5; 290], options)).finish().unwrap();
    assert_eq!(generation.finish_reason, FinishReason::Length);
    assert!(
        (290 + generation.token_ids.len()).abs_diff(CONTEXT_TOKENS) < 130,
        "{}",
        generation.token_ids.len()
    );
}

#[test]
fn a_cancelled_answer_ends_and_the_others_go_on() {
    let (dir, vocab) = family("qwen3");
    let batch = start(&dir, vocab, 2);
    let mut endless = GenerateOptions::new(usize::MAX);
    endless.ignore_eos = true;
    let requests = requests(4, vocab);
    let wanted: Vec<_> =
        requests.iter().map(|request| batch.submit(request.clone()).finish().unwrap().token_ids).collect();
    for round in 0..20 {
        let mut cancelled = batch.submit(Request::new(vec![3; 1 + 12 * round], endless.clone()));
        let dropped = batch.submit(Request::new(vec![3; 200], endless.clone()));
        let answers: Vec<_> = requests.iter().map(|request| batch.submit(request.clone())).collect();
        let n_read = round % 3;
        assert_eq!(cancelled.by_ref().take(n_read).count(), n_read);
        cancelled.cancel();
        drop(dropped);
        // It may have reached the length of its context before.
        let generation = cancelled.finish().unwrap();
        assert!(generation.token_ids.len() >= n_read);
        for (answer, wanted) in answers.into_iter().zip(&wanted) {
            assert_eq!(answer.finish().unwrap().token_ids, *wanted);
        }
    }
}

#[test]
fn a_slow_reader_is_paused_and_the_others_are_not() {
    let (dir, vocab) = family("qwen3");
    let batch = start(&dir, vocab, 2);
    let mut options = GenerateOptions::new(200);
    options.ignore_eos = true;
    let slow = batch.submit(Request::new(vec![7; 5], options.clone()));
    let wanted = batch.submit(Request::new(vec![7; 5], options)).finish().unwrap().token_ids;
    assert_eq!(wanted.len(), 200);
    // The slow one waits with what nobody has read, and then goes on where it was.
    assert_eq!(slow.finish().unwrap().token_ids, wanted);
}

#[test]
fn dropping_a_batch_ends_its_answers_soon() {
    let (dir, vocab) = family("qwen3");
    let mut endless = GenerateOptions::new(usize::MAX);
    endless.ignore_eos = true;
    let batch = start(&dir, vocab, 1);
    let answers: Vec<_> = (0..3).map(|_| batch.submit(Request::new(vec![7; 290], endless.clone()))).collect();
    let begin = Instant::now();
    drop(batch);
    assert!(begin.elapsed() < Duration::from_secs(20));
    for answer in answers {
        let end = answer.finish();
        assert!(matches!(end, Ok(_) | Err(BatchError::Stopped)), "{end:?}");
    }
}

#[test]
fn a_failed_read_ends_the_requests_of_its_pass_and_later_ones_are_answered() {
    let (dir, vocab) = family("qwen3");
    let request = || Request::new(vec![1, 2, 3, 4], GenerateOptions::new(8));
    let wanted = start(&dir, vocab, 1).submit(request()).finish().unwrap().token_ids;
    let mut failures = 0;
    for nth in 0..90 {
        let dir = dir.clone();
        let load = move || {
            let workload = Workload::new(300, CONTEXT_TOKENS).with_contexts(3).with_prefetch(false);
            let when = When::Nth(nth);
            let checkpoint = Checkpoint::open(&dir, IoMode::Pread)?
                .map_storage(|_, storage| Arc::new(FaultyStorage::new(storage, Fault::Denied, when)));
            let model = Model::open(checkpoint)?;
            let budget_bytes = model.floor_bytes(&workload);
            model.load(&EngineOptions::new(budget_bytes, workload))
        };
        let batch = Batch::start(load, tokenizer(vocab), BatchOptions::default()).unwrap();
        let answers: Vec<_> = (0..3).map(|_| batch.submit(request())).collect();
        for answer in answers {
            match answer.finish() {
                Ok(generation) => assert_eq!(generation.token_ids, wanted, "read {nth}"),
                Err(BatchError::Model(_)) => failures += 1,
                Err(other) => panic!("read {nth}: {other}"),
            }
        }
        // One read fails, of these requests or of the next one; then the engine goes on.
        if batch.submit(request()).finish().is_err() {
            failures += 1;
        }
        assert_eq!(batch.submit(request()).finish().unwrap().token_ids, wanted, "read {nth}");
    }
    assert!(failures > 20, "only {failures} requests failed");
}

#[test]
fn an_engine_that_cannot_be_loaded_is_an_error_of_the_start() {
    let missing = || load(Path::new("/no/such/model"), 1);
    let error = Batch::start(missing, tokenizer(4), BatchOptions::default()).unwrap_err();
    assert!(matches!(error, StartError::Load(_)) && error.to_string().contains("/no/such/model"), "{error}");
    let panics = || -> Result<Engine, ModelError> { panic!("not loaded") };
    assert!(matches!(Batch::start(panics, tokenizer(4), BatchOptions::default()), Err(StartError::Panicked)));
}
