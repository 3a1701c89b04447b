//! Settings of each command, resolved from its flags and a Modelfile, and validated as far as possible without the
//! model.

mod convert;
mod engine;
mod plan;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use flash_model::GenerateOptions;
use flash_model::sample::SamplerConfig;

use crate::args::{ChatArgs, ManyArgs, PerplexityArgs, RunArgs, SamplingArgs, TemplateArgs, TextArgs};
use crate::prompt;
use crate::sampling::{SamplingFlags, Seed};
use crate::template::TemplateOptions;
use crate::usage::{UsageError, context_at_least};

pub(crate) use convert::{ConvertOptions, ConvertSource};
pub(crate) use engine::{EngineSettings, kernels};
pub(crate) use plan::{Assumable, PlanOptions};

/// Settings of `run`.
#[derive(Debug)]
pub(crate) struct RunOptions {
    pub(crate) engine: EngineSettings,
    pub(crate) prompt: String,
    /// Settings of the chat template; none for a plain-text prompt.
    pub(crate) chat: Option<TemplateOptions>,
    pub(crate) generate: GenerateOptions,
    pub(crate) sampling: SamplingFlags,
    /// Whether to process the prompt once before the measured run.
    pub(crate) warm_up: bool,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) json: bool,
    /// Whether to print a summary at the end.
    pub(crate) summary: bool,
}

impl RunOptions {
    pub(crate) fn resolve(args: RunArgs) -> anyhow::Result<Self> {
        let RunArgs {
            engine,
            prompt,
            prompt_file,
            many: _,
            chat,
            max_tokens,
            ignore_eos,
            warm_up,
            trace,
            json,
            summary,
            text: TextArgs { persist, template, sampling },
        } = args;
        let engine = EngineSettings::resolve(engine)?.persist(persist);
        let (mut generate, sampling) = generate_options(sampling, max_tokens)?;
        generate.ignore_eos = ignore_eos;
        Ok(Self {
            summary: summary || !json && (engine.debug || io::stderr().is_terminal()),
            engine,
            generate,
            sampling,
            prompt: prompt::text(prompt, prompt_file)?,
            chat: template_options(template, chat)?,
            warm_up,
            trace,
            json,
        })
    }
}

/// Settings of `run --prompts`.
#[derive(Debug)]
pub(crate) struct ManyOptions {
    pub(crate) engine: EngineSettings,
    /// Files of the prompts and of their answers.
    pub(crate) prompts: PathBuf,
    pub(crate) out: PathBuf,
    /// Prompts that are answered at once.
    pub(crate) clients: usize,
    /// Settings of the chat template; none for plain-text prompts.
    pub(crate) chat: Option<TemplateOptions>,
    pub(crate) generate: GenerateOptions,
    pub(crate) sampling: SamplingFlags,
}

impl ManyOptions {
    /// # Panics
    /// If the flags have no file of prompts, or none of answers.
    pub(crate) fn resolve(args: RunArgs) -> anyhow::Result<Self> {
        let RunArgs { engine, many, chat, max_tokens, ignore_eos, text, .. } = args;
        let TextArgs { persist: _, template, sampling } = text;
        let (mut generate, sampling) = generate_options(sampling, max_tokens)?;
        generate.ignore_eos = ignore_eos;
        let ManyArgs { prompts, out, clients } = many;
        Ok(Self {
            engine: EngineSettings::resolve(engine)?,
            prompts: prompts.expect("many prompts"),
            out: out.expect("clap requires it with --prompts"),
            clients: clients.get(),
            chat: template_options(template, chat)?,
            generate,
            sampling,
        })
    }
}

/// Returns the settings of the chat template if it is used.
///
/// # Errors
/// [`UsageError::TemplateWithoutChat`] if it is not, but has settings.
fn template_options(args: TemplateArgs, is_chat: bool) -> Result<Option<TemplateOptions>, UsageError> {
    let template = TemplateOptions::resolve(args)?;
    match template.given().filter(|_| !is_chat) {
        Some(flag) => Err(UsageError::TemplateWithoutChat { flag }),
        None => Ok(is_chat.then_some(template)),
    }
}

/// Settings of `chat`.
#[derive(Debug)]
pub(crate) struct ChatOptions {
    pub(crate) engine: EngineSettings,
    pub(crate) template: TemplateOptions,
    pub(crate) context_tokens: Option<usize>,
    pub(crate) generate: GenerateOptions,
    pub(crate) sampling: SamplingFlags,
}

impl ChatOptions {
    pub(crate) fn resolve(args: ChatArgs) -> anyhow::Result<Self> {
        let ChatArgs { engine, ctx, max_tokens, text: TextArgs { persist, template, sampling } } = args;
        if max_tokens == 0 {
            return Err(UsageError::ChatMaxTokens.into());
        }
        let (generate, sampling) = generate_options(sampling, max_tokens)?;
        Ok(Self {
            engine: EngineSettings::resolve(engine)?.persist(persist),
            template: TemplateOptions::resolve(template)?,
            context_tokens: ctx.map(|ctx| context_at_least(1, ctx)).transpose()?,
            generate,
            sampling,
        })
    }
}

/// Settings of `perplexity`.
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
        // A window of one token has no token to predict.
        Ok(Self { engine, file, window_tokens: context_at_least(2, ctx)?, json })
    }
}

/// Returns the options of generation, with the sampler that the flags describe by themselves, and the flags, for a chat to put
/// them over the model's defaults.
fn generate_options(
    args: SamplingArgs,
    max_tokens: usize,
) -> Result<(GenerateOptions, SamplingFlags), UsageError> {
    let SamplingArgs { temp, top_k, top_p, min_p, repetition_penalty, seed, speculate, stop } = args;
    let flags = SamplingFlags {
        temperature: temp,
        top_k: top_k.map(|top_k| top_k.0),
        top_p,
        min_p,
        repetition_penalty,
        seed: seed.draw(),
        is_seed_random: seed == Seed::Random,
    };
    let sampler = flags.over(&SamplerConfig::default());
    sampler.validate()?;
    if stop.iter().any(String::is_empty) {
        return Err(UsageError::EmptyStop);
    }
    let mut options = GenerateOptions::new(max_tokens);
    (options.sampler, options.stop, options.speculation) = (sampler, stop, speculate.speculation());
    Ok((options, flags))
}
