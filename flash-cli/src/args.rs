//! Command line flags, as typed. [`options`](crate::options) validates and combines them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use flash_model::FLOOR_CONTEXT_TOKENS;

mod bench;
mod convert;
mod engine;
mod help;
mod kv;
mod pack;
mod sampling;
mod template;

pub(crate) use bench::{
    BenchArgs, BenchBatchArgs, BenchCommand, BenchExpertsArgs, BenchIoArgs, BenchKernelsArgs,
    BenchPrefillArgs, BenchStreamArgs, JsonArg,
};
pub(crate) use convert::{ConvertArgs, FloatArg};
pub(crate) use engine::{ComputeArg, EngineArgs, TilingArgs};
use help::{AFTER_HELP, PLAN_AFTER_HELP, PULL_AFTER_HELP};
pub(crate) use kv::{
    EvictArg, KvArgs, KvCommand, KvDirArgs, KvGcArgs, KvListArgs, KvRmArgs, KvShowArgs, KvToolArgs,
    PersistArgs,
};
pub(crate) use pack::PackArgs;
pub(crate) use sampling::SamplingArgs;
pub(crate) use template::TemplateArgs;

use crate::hub::ModelId;
use crate::model::ModelName;
use crate::size::Size;
use crate::speed::{ComputeSpeed, Rate};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Run language models larger than memory
///
/// Weights are streamed from the SSD under a hard memory budget. The budget does not change a bit of the output.
#[derive(Debug, Parser)]
#[command(name = "flash-cli", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate text from a prompt
    Run(RunArgs),
    /// Chat with a model
    Chat(ChatArgs),
    /// Show the tensors of a model and its memory requirements
    Inspect(InspectArgs),
    /// Predict the speed of a model in a memory budget, and the gain from more memory
    Plan(PlanArgs),
    /// Measure the perplexity of a text
    Perplexity(PerplexityArgs),
    /// Download a model from the Hugging Face hub to the cache, and print its directory
    Pull(PullArgs),
    /// Convert a GGUF file to a model directory, or quantize a Hugging Face model
    Convert(ConvertArgs),
    /// Copy a mixture of experts with each expert contiguous on disk
    Pack(PackArgs),
    /// Manage saved sessions and cached prefixes
    Kv(KvToolArgs),
    /// Measure the performance of this machine
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Prompt text [default: standard input, unless a file is given]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from this file; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) many: ManyArgs,
    /// Format the prompt as a user message with the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Generate at most this many tokens
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) max_tokens: usize,
    /// Do not stop at end-of-sequence tokens, to measure a fixed number of tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Process the prompt once before the measured run, so that pinned weights are in memory
    #[arg(long, conflicts_with = "session")]
    pub(crate) warm_up: bool,
    /// Print one JSON object at the end, instead of the text as it is generated
    #[arg(long)]
    pub(crate) json: bool,
    /// Print a summary to standard error at the end [default: only on a terminal]
    #[arg(long, conflicts_with = "json")]
    pub(crate) summary: bool,
    /// Write a trace of reads, stalls and compute, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) text: TextArgs,
}

/// Flags of `run` for many prompts at once.
#[derive(Debug, Args)]
pub(crate) struct ManyArgs {
    /// Answer all prompts of this file, several at once: a JSON object in each line, with `prompt` or, with --chat,
    /// `messages`, and optionally `id`
    #[arg(
        long,
        value_name = "FILE",
        requires = "out",
        conflicts_with_all = [
            "prompt", "prompt_file", "warm_up", "json", "summary", "trace", "session", "prefix_cache"
        ]
    )]
    pub(crate) prompts: Option<PathBuf>,
    /// Write the answers to this file, a JSON object in each line, as they are complete. What it has is not computed again
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub(crate) out: Option<PathBuf>,
    /// Answer this many prompts at once
    #[arg(long, value_name = "N", requires = "prompts", default_value = "8")]
    pub(crate) clients: NonZeroUsize,
}

/// Flags of the commands that generate text.
#[derive(Debug, Args)]
pub(crate) struct TextArgs {
    #[command(flatten)]
    pub(crate) persist: PersistArgs,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Context size in tokens [default: 4096, or the trained context if that is shorter]
    #[arg(long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
    /// Generate at most this many tokens per answer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) text: TextArgs,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct InspectArgs {
    /// Model directory, GGUF file (converted once), or Hugging Face model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(short, long)]
    pub(crate) model: ModelName,
    #[command(flatten)]
    pub(crate) tiling: TilingArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PLAN_AFTER_HELP)]
pub(crate) struct PlanArgs {
    /// Model directory, GGUF file (converted once), or Hugging Face model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(short, long)]
    pub(crate) model: ModelName,
    #[command(flatten)]
    pub(crate) tiling: TilingArgs,
    /// Memory budget of the whole process [default: free memory minus headroom]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) ram: Option<Size>,
    /// Plan for a context of this many tokens: prompt and answer together
    #[arg(long, value_name = "N", default_value_t = FLOOR_CONTEXT_TOKENS)]
    pub(crate) ctx: usize,
    /// Throughput of large queued reads from the disk [default: 2GB/s]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) disk: Option<Rate>,
    /// Compute speed with all weights in memory: time per token, or a rate of weights [default: 20GB/s]
    #[arg(long, value_name = "SPEED", allow_hyphen_values = true)]
    pub(crate) compute: Option<ComputeSpeed>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Text file to measure
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Split the text into windows of this many tokens, each predicted independently
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) ctx: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PULL_AFTER_HELP)]
pub(crate) struct PullArgs {
    /// Model id: ORG/NAME or ORG/NAME@REVISION
    #[arg(value_name = "ID")]
    pub(crate) id: ModelId,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "NAME")]
    pub(crate) revision: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
