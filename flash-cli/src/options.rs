//! The settings that the flags, and a Modelfile, come to. Valid as far as can be told without the model.

mod convert;
mod engine;
mod plan;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use flash_kernels::KernelError;
use flash_model::GenerateOptions;
use flash_model::sample::{SampleError, SamplerConfig};

use crate::args::{ChatArgs, PerplexityArgs, RunArgs, SamplingArgs};
use crate::prompt;

pub(crate) use convert::{ConvertOptions, ConvertSource};
pub(crate) use engine::{EngineSettings, THREADS};
pub(crate) use plan::{Assumable, PlanOptions};

/// Why the flags make no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("no model was given: use --model MODEL, or --modelfile with a FROM directive")]
    NoModel,
    #[error("no prompt was given: use --prompt TEXT or --prompt-file FILE, or pipe a text in")]
    NoPrompt,
    #[error("--kv-quant must be 0, 4, 8 or 16, found {bits}")]
    KvQuantBits { bits: u32 },
    #[error("--max-kv-size must be at least {min} with this --kv-keep and --kv-window, found {max_tokens}")]
    MaxKvSize { max_tokens: usize, min: usize },
    #[error("--kv-keep has no effect without --max-kv-size or --kv-evict, which give up old tokens")]
    NothingGivenUp,
    #[error("--max-tokens must be at least 1 in a conversation, found 0")]
    NoAnswer,
    #[error("--threads must be from 1 to {max}, found {threads}")]
    Threads { threads: usize, max: usize },
    #[error("FLASH_KERNELS: {0}")]
    Kernels(KernelError),
    #[error("--ctx must be at least {min}, found {ctx}")]
    Context { ctx: usize, min: usize },
    #[error("--stop must not be empty")]
    EmptyStop,
    #[error("{0}")]
    Sample(#[from] SampleError),
    #[error("{flag} {bits} --group-size {group_size}: {error}")]
    Quantize { flag: &'static str, bits: u32, group_size: usize, error: KernelError },
    #[error("nothing to convert was given: use --gguf FILE or --hf MODEL")]
    NoSource,
}

/// How `run` runs.
#[derive(Debug)]
pub(crate) struct RunOptions {
    pub(crate) engine: EngineSettings,
    pub(crate) prompt: String,
    pub(crate) chat: bool,
    pub(crate) generate: GenerateOptions,
    /// Whether to pass the prompt once before.
    pub(crate) warm_up: bool,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) json: bool,
    /// Whether to say at the end what was done.
    pub(crate) summary: bool,
}

impl RunOptions {
    pub(crate) fn resolve(args: RunArgs) -> anyhow::Result<Self> {
        let RunArgs {
            engine,
            keep,
            prompt,
            prompt_file,
            chat,
            max_tokens,
            ignore_eos,
            warm_up,
            trace,
            sampling,
            json,
            summary,
        } = args;
        let engine = EngineSettings::resolve(engine)?.keep(keep);
        let mut generate = generate_options(sampling, max_tokens)?;
        generate.ignore_eos = ignore_eos;
        Ok(Self {
            summary: summary || !json && (engine.debug || io::stderr().is_terminal()),
            engine,
            generate,
            prompt: prompt::text(prompt, prompt_file)?,
            chat,
            warm_up,
            trace,
            json,
        })
    }
}

/// How `chat` runs.
#[derive(Debug)]
pub(crate) struct ChatOptions {
    pub(crate) engine: EngineSettings,
    pub(crate) system: Option<String>,
    pub(crate) context_tokens: Option<usize>,
    pub(crate) generate: GenerateOptions,
}

impl ChatOptions {
    pub(crate) fn resolve(args: ChatArgs) -> anyhow::Result<Self> {
        let ChatArgs { engine, keep, system, ctx, max_tokens, sampling } = args;
        if max_tokens == 0 {
            return Err(UsageError::NoAnswer.into());
        }
        Ok(Self {
            engine: EngineSettings::resolve(engine)?.keep(keep),
            system,
            context_tokens: ctx.map(|ctx| at_least(1, ctx)).transpose()?,
            generate: generate_options(sampling, max_tokens)?,
        })
    }
}

/// How `perplexity` runs.
#[derive(Debug)]
pub(crate) struct PerplexityOptions {
    pub(crate) engine: EngineSettings,
    pub(crate) file: PathBuf,
    pub(crate) window_tokens: usize,
    pub(crate) json: bool,
}

impl PerplexityOptions {
    pub(crate) fn resolve(args: PerplexityArgs) -> anyhow::Result<Self> {
        let PerplexityArgs { engine, file, ctx, json } = args;
        let engine = EngineSettings::resolve(engine)?;
        // A window of one token predicts nothing.
        Ok(Self { engine, file, window_tokens: at_least(2, ctx)?, json })
    }
}

fn at_least(min: usize, ctx: usize) -> Result<usize, UsageError> {
    if ctx < min { Err(UsageError::Context { ctx, min }) } else { Ok(ctx) }
}

fn generate_options(args: SamplingArgs, max_tokens: usize) -> Result<GenerateOptions, UsageError> {
    let SamplingArgs { temp, top_k, top_p, min_p, repetition_penalty, seed, stop } = args;
    let sampler = SamplerConfig {
        temperature: temp,
        top_k: top_k.0,
        top_p,
        min_p,
        repetition_penalty,
        seed: seed.draw(),
        ..SamplerConfig::default()
    };
    sampler.validate()?;
    if stop.iter().any(String::is_empty) {
        return Err(UsageError::EmptyStop);
    }
    let mut options = GenerateOptions::new(max_tokens);
    (options.sampler, options.stop) = (sampler, stop);
    Ok(options)
}
