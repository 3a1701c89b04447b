//! `run --prompts`: answers many prompts at once, and can be resumed.

mod answers;
mod prompts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use flash_model::{Batch, BatchOptions, Request, StartError};
use flash_text::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::elastic::MemoryWatcher;
use crate::options::{EngineSettings, ManyOptions};
use crate::output;
use crate::sampling::model_defaults;
use crate::session::{Loaded, Session};
use answers::{Answers, Line};
use prompts::Prompt;

/// Requests submitted for each context, so that a context that becomes free has the next one at once.
const SUBMITTED_PER_CLIENT: usize = 2;

/// Time that a pass may take. Nobody waits for the next token, so prompts run as whole as there is memory for.
const MAX_PASS: Duration = Duration::from_secs(60);

pub(crate) fn run(options: ManyOptions) -> anyhow::Result<ExitCode> {
    let ManyOptions { engine, prompts, out, clients, chat, mut generate, sampling } = options;
    let model_dir = engine.model.find_to_run()?;
    let tokenizer = Tokenizer::open(&model_dir)?;
    if chat.is_some() {
        generate.sampler = sampling.over(&model_defaults(&model_dir)?);
    }
    sampling.note_seed(&generate.sampler, engine.debug);
    let template = chat.map(|options| Ok::<_, anyhow::Error>((options.open(&model_dir)?, options)));
    let prompts = Prompt::read(&prompts, &tokenizer, template.transpose()?.as_ref())?;
    let answers = Answers::open(&out, &prompts)?;
    let todo: Vec<&Prompt> = prompts.iter().filter(|prompt| !answers.has(prompt.index)).collect();
    let n_answered = prompts.len() - todo.len();
    if n_answered > 0 {
        output::note(&format!("{}: {n_answered} of {} prompts are answered", out.display(), prompts.len()));
    }
    if todo.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let longest = todo.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    let n_clients = clients.min(todo.len());
    let (batch, _watcher) = start(engine, tokenizer, longest, generate.max_tokens, n_clients)?;

    let bar = ProgressBar::new(prompts.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} prompts, {eta} left")?)
        .with_position(n_answered as u64);
    let (next, answers) = (Mutex::new(todo.into_iter()), Mutex::new(answers));
    let answer_all = || -> anyhow::Result<usize> {
        let mut n_failed = 0;
        loop {
            let prompt = next.lock().next();
            let Some(prompt) = prompt else { return Ok(n_failed) };
            let answer = batch.submit(Request::new(prompt.ids.clone(), generate.clone())).finish();
            n_failed += usize::from(answer.is_err());
            answers.lock().add(&Line::new(prompt, answer))?;
            bar.inc(1);
        }
    };
    let n_threads = SUBMITTED_PER_CLIENT * n_clients;
    let n_failed = thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(answer_all)).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("answering does not panic"));
        results.sum::<anyhow::Result<usize>>()
    })?;
    bar.finish_and_clear();
    ensure!(n_failed == 0, "{}: {n_failed} prompts have no answer but an error", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Loads the model on the thread of a batch. Returns the watcher of free memory, too, if there is one.
fn start(
    settings: EngineSettings,
    tokenizer: Tokenizer,
    prompt_tokens: usize,
    answer_tokens: usize,
    n_contexts: usize,
) -> anyhow::Result<(Batch, Arc<Mutex<Option<MemoryWatcher>>>)> {
    let watcher = Arc::new(Mutex::new(None));
    let of_thread = Arc::clone(&watcher);
    let load = move || -> anyhow::Result<_> {
        let session = Session::open(settings)?;
        let mut workload = session.workload(prompt_tokens, answer_tokens).with_contexts(n_contexts);
        // A context is one prompt and its answer.
        workload.kv.is_append_only = true;
        let Loaded { engine, watcher, .. } = session.load(workload)?;
        *of_thread.lock() = watcher;
        Ok(engine)
    };
    let mut options = BatchOptions::default();
    options.max_pass = MAX_PASS;
    match Batch::start(load, tokenizer, options) {
        Ok(batch) => Ok((batch, watcher)),
        Err(StartError::Load(error)) => Err(error),
        Err(other) => Err(anyhow::Error::msg(other.to_string())),
    }
}

/// Returns the context of an error in a line of a file.
fn in_line<T, E>(result: Result<T, E>, path: &std::path::Path, line_idx: usize) -> anyhow::Result<T>
where
    Result<T, E>: Context<T, E>,
{
    result.with_context(|| format!("{}, line {}", path.display(), line_idx + 1))
}

/// Reads a file, and names it in errors.
fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
