//! `run`: continues a prompt.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use flash_io::IoMode;
use flash_model::text::{ChatTemplate, Message};
use flash_model::{EngineStats, FinishReason, Generation, ModelError, generate};
use serde::Serialize;

use crate::interrupt::{self, CtrlC};
use crate::options::RunOptions;
use crate::output::{self, TextStream};
use crate::report;
use crate::session::{Loaded, Session};

pub(crate) fn run(options: RunOptions) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let RunOptions { engine, prompt, chat, generate: generate_options, warm_up, json, summary, trace } =
        options;
    let session = Session::open(engine)?;
    let prompt = prompt_ids(&session, prompt, chat)?;
    let workload = session.workload(prompt.len(), generate_options.max_tokens)?;
    let Loaded { mut engine, tokenizer, io, listener, watch: _watch } =
        session.load_traced(workload, trace)?;
    let load = begin.elapsed();

    let ctrl_c = CtrlC::new(engine.interrupt())?;
    let mut text = TextStream::new(engine.interrupt());
    let on_text = |piece: &str| {
        if !json {
            text.push(piece);
        }
    };
    let caught = ctrl_c.catch();
    if warm_up {
        match engine.forward(&prompt) {
            Err(ModelError::Interrupted) => return Ok(ExitCode::from(interrupt::EXIT_CODE)),
            logits => logits?,
        };
        engine.truncate(0)?;
    }
    let before = engine.stats();
    let generation = generate(&mut engine, &tokenizer, &prompt, &generate_options, on_text)?;
    drop(caught);

    let mut stats = engine.stats();
    stats.streamed_bytes -= before.streamed_bytes;
    stats.stall -= before.stall;
    drop(engine);
    if let Some(listener) = listener {
        listener.finish()?;
    }
    if json {
        output::print_json(&Report::new(&generation, &stats, load, io))?;
    } else {
        text.finish()?;
    }
    if summary {
        output::note(&report::summary(&stats, &generation));
    }
    Ok(match generation.finish_reason {
        FinishReason::Interrupted => ExitCode::from(interrupt::EXIT_CODE),
        _ => ExitCode::SUCCESS,
    })
}

/// The tokens of the prompt: as it is, or as what a user says. A chat template brings its own special tokens.
fn prompt_ids(session: &Session, prompt: String, chat: bool) -> anyhow::Result<Vec<u32>> {
    let tokenizer = &session.tokenizer;
    let ids = if chat {
        let template = ChatTemplate::open(session.dir())?;
        tokenizer.encode(&template.render(&[Message::new("user", prompt)], true)?, false)?
    } else {
        tokenizer.encode_prompt(&prompt)?
    };
    if ids.is_empty() { Err(ModelError::EmptyPrompt.into()) } else { Ok(ids) }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    token_ids: &'a [u32],
    prompt_tokens: usize,
    generated_tokens: usize,
    finish_reason: &'static str,
    load_ms: f64,
    ttft_ms: f64,
    decode_tok_per_s: Option<f64>,
    model_bytes: u64,
    pinned_bytes: u64,
    budget_bytes: u64,
    streamed_bytes: u64,
    streamed_bytes_per_token: u64,
    compute_ms: f64,
    stall_ms: f64,
    peak_rss_bytes: u64,
    io: &'static str,
}

impl<'a> Report<'a> {
    fn new(generation: &'a Generation, stats: &EngineStats, load: Duration, io: IoMode) -> Self {
        let generated_tokens = generation.token_ids.len();
        let compute = (generation.ttft + generation.decode).saturating_sub(stats.stall);
        Self {
            text: &generation.text,
            token_ids: &generation.token_ids,
            prompt_tokens: generation.prompt_tokens,
            generated_tokens,
            finish_reason: generation.finish_reason.as_str(),
            load_ms: report::ms(load),
            ttft_ms: report::ms(generation.ttft),
            decode_tok_per_s: generation.decode_tok_per_s(),
            model_bytes: stats.model_bytes,
            pinned_bytes: stats.pinned_bytes,
            budget_bytes: stats.budget_bytes,
            streamed_bytes: stats.streamed_bytes,
            streamed_bytes_per_token: stats.streamed_bytes / generated_tokens.max(1) as u64,
            compute_ms: report::ms(compute),
            stall_ms: report::ms(stats.stall),
            peak_rss_bytes: report::peak_bytes(),
            io: io.name(),
        }
    }
}
