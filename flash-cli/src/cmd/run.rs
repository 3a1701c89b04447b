//! `run`: generates text from a prompt.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flash_io::IoMode;
use flash_model::{EngineStats, FinishReason, Generation, ModelError, SessionContext, generate};
use flash_text::{Message, Tokenizer};
use serde::Serialize;

use crate::interrupt::{self, Signals};
use crate::options::RunOptions;
use crate::output::{self, TextStream};
use crate::report::{self, ExpertsReport, SpeculationReport};
use crate::sampling::model_defaults;
use crate::session::{Loaded, Session};
use crate::template::TemplateOptions;
use crate::transcript::Transcript;

pub(crate) fn run(options: RunOptions) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let debug = options.engine.debug;
    let RunOptions {
        engine,
        prompt,
        chat,
        generate: mut generate_options,
        sampling,
        warm_up,
        json,
        summary,
        trace,
    } = options;
    let session = Session::open(engine)?;
    let context = session.open_context()?;
    if chat.is_some() {
        generate_options.sampler = sampling.over(&model_defaults(session.dir())?);
    }
    if debug || !json {
        sampling.note_seed(&generate_options.sampler, debug);
    }
    let prompt = Prompt::new(&session, context.as_ref(), prompt, chat.as_ref())?;
    let held = context.as_ref().map_or(0, |context| context.token_ids().len());
    let mut workload = session.workload(prompt.ids.len().max(held), generate_options.max_tokens);
    // The context is one prompt and its answer, so tokens are only appended. With a session or shared prefixes it is in
    // pages, which keep all tokens in any case.
    workload.kv.is_append_only = true;
    if prompt.continues_session() {
        // Tokens in the KV cache of the session are not computed again.
        workload.prompt_tokens = prompt.ids.len() - held;
    }
    let workload = session.with_drafts(workload, generate_options.speculation);
    let Loaded { mut engine, tokenizer, io, listener, watcher: _watcher } =
        session.load_with(workload, context, trace)?;
    let load = begin.elapsed();

    let signals = Signals::new(engine.interrupt())?;
    let mut text = TextStream::new(engine.interrupt());
    let on_text = |piece: &str| {
        if !json {
            text.push(piece);
        }
    };
    let guard = signals.guard();
    if warm_up {
        match engine.forward(&prompt.ids) {
            Err(ModelError::Interrupted) => return Ok(ExitCode::from(interrupt::exit_code())),
            logits => logits?,
        };
        engine.truncate(0)?;
    }
    let before = engine.stats();
    let reuse = Instant::now();
    let reused_tokens = engine.reuse(&prompt.ids)?;
    let reuse = reuse.elapsed();
    let mut generation =
        generate(&mut engine, &tokenizer, &prompt.ids[reused_tokens..], &generate_options, on_text)?;
    (generation.prompt_tokens, generation.ttft) = (prompt.ids.len(), generation.ttft + reuse);
    if let Err(error) = engine.share_prefix(prompt.ids.len()) {
        output::note(&format!("the prompt was not added to the prefix cache: {error}"));
    }
    if let Some(dir) = &prompt.dir {
        prompt.transcript(&generation, &tokenizer).write(dir)?;
        engine.save()?;
    }
    let is_terminated = guard.is_terminated();
    drop(guard);

    let mut stats = engine.stats();
    stats.streamed_bytes -= before.streamed_bytes;
    stats.stall -= before.stall;
    drop(engine);
    if let Some(listener) = listener {
        listener.finish()?;
    }
    if json {
        output::print_json(&Report::new(
            &generation,
            reused_tokens,
            &stats,
            load,
            io,
            generate_options.sampler.seed,
        ))?;
    } else {
        text.finish()?;
    }
    if summary {
        output::note(&report::summary(&stats, &generation));
    }
    Ok(match generation.finish_reason {
        FinishReason::Interrupted => ExitCode::from(interrupt::exit_code()),
        // The signal arrived after the generation.
        _ if is_terminated => ExitCode::from(interrupt::exit_code()),
        _ => ExitCode::SUCCESS,
    })
}

/// A prompt, with the session that it continues.
struct Prompt {
    /// All tokens, including those of the session.
    ids: Vec<u32>,
    /// The conversation including the new question; none for a text.
    messages: Option<Vec<Message>>,
    /// The directory of the session.
    dir: Option<PathBuf>,
}

impl Prompt {
    /// Appends the prompt to the text or, as a user message, to the conversation of the session.
    fn new(
        session: &Session,
        context: Option<&SessionContext>,
        prompt: String,
        chat: Option<&TemplateOptions>,
    ) -> anyhow::Result<Self> {
        let tokenizer = &session.tokenizer;
        let place = context.map(SessionContext::dir).zip(session.session_name());
        let dir = context.map(|context| context.dir().to_owned());
        let (ids, messages) = if let Some(options) = chat {
            let mut messages = match place {
                Some((dir, name)) => {
                    let messages = Transcript::messages(dir, name)?;
                    options.check_system(name, &messages)?;
                    messages
                }
                None => Vec::new(),
            };
            if messages.is_empty() {
                messages.extend(options.system_message());
            }
            messages.push(Message::new("user", prompt));
            let template = options.open(session.dir())?;
            // The chat template already contains the special tokens.
            (tokenizer.encode(&template.render(&messages, true)?, false)?, Some(messages))
        } else {
            let mut ids = match (place, context) {
                (Some((dir, name)), Some(context)) => Transcript::text(dir, name, context.token_ids())?,
                _ => Vec::new(),
            };
            // A continued text gets no second beginning-of-sequence token.
            let more = if ids.is_empty() {
                tokenizer.encode_prompt(&prompt)?
            } else {
                tokenizer.encode(&prompt, false)?
            };
            ids.extend(more);
            (ids, None)
        };
        if ids.is_empty() { Err(ModelError::EmptyPrompt.into()) } else { Ok(Self { ids, messages, dir }) }
    }

    /// Whether the prompt starts with all tokens of the session.
    fn continues_session(&self) -> bool {
        self.messages.is_none()
    }

    /// Returns the transcript of the session after a generation.
    fn transcript(&self, generation: &Generation, tokenizer: &Tokenizer) -> Transcript {
        match &self.messages {
            Some(messages) if generation.token_ids.is_empty() => {
                // An unanswered question is dropped: otherwise two user messages would follow each other.
                Transcript::chat(&messages[..messages.len() - 1])
            }
            Some(messages) => {
                let answer = Message::new("assistant", generation.text.clone());
                Transcript::chat(&[&messages[..], &[answer]].concat())
            }
            None => {
                let (last, text) =
                    generation.token_ids.split_last().map_or((None, &[][..]), |(l, t)| (Some(*l), t));
                // The end-of-sequence token is not part of the text.
                let ends = generation.finish_reason == FinishReason::Stop;
                let last = last.filter(|last| !(ends && tokenizer.is_eos(*last)));
                Transcript::Text { token_ids: self.ids.iter().chain(text).copied().chain(last).collect() }
            }
        }
    }
}

/// Report of `run`, as printed by `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    token_ids: &'a [u32],
    prompt_tokens: usize,
    reused_tokens: usize,
    generated_tokens: usize,
    finish_reason: &'static str,
    load_ms: f64,
    ttft_ms: f64,
    decode_tok_per_s: Option<f64>,
    model_bytes: u64,
    pinned_bytes: u64,
    table_bytes: u64,
    budget_bytes: u64,
    streamed_bytes: u64,
    streamed_bytes_per_token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<ExpertsReport>,
    #[serde(flatten)]
    speculation: SpeculationReport,
    compute_ms: f64,
    stall_ms: f64,
    peak_rss_bytes: u64,
    io: &'static str,
    seed: u64,
}

impl<'a> Report<'a> {
    fn new(
        generation: &'a Generation,
        reused_tokens: usize,
        stats: &EngineStats,
        load: Duration,
        io: IoMode,
        seed: u64,
    ) -> Self {
        let generated_tokens = generation.token_ids.len();
        let compute = (generation.ttft + generation.decode).saturating_sub(stats.stall);
        Self {
            text: &generation.text,
            token_ids: &generation.token_ids,
            prompt_tokens: generation.prompt_tokens,
            reused_tokens,
            generated_tokens,
            finish_reason: generation.finish_reason.as_str(),
            load_ms: report::ms(load),
            ttft_ms: report::ms(generation.ttft),
            decode_tok_per_s: generation.decode_tok_per_s(),
            model_bytes: stats.model_bytes,
            pinned_bytes: stats.pinned_bytes,
            table_bytes: stats.table_bytes,
            budget_bytes: stats.budget_bytes,
            streamed_bytes: stats.streamed_bytes,
            streamed_bytes_per_token: stats.streamed_bytes / generated_tokens.max(1) as u64,
            experts: stats.experts.map(ExpertsReport::from),
            speculation: SpeculationReport::new(generation),
            compute_ms: report::ms(compute),
            stall_ms: report::ms(stats.stall),
            peak_rss_bytes: report::peak_bytes(),
            io: io.name(),
            seed,
        }
    }
}
