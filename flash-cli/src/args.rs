//! The flags as they are typed. What they mean together is in [`options`](crate::options).

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use flash_io::IoMode;
use flash_model::FLOOR_CONTEXT_TOKENS;

mod bench;
mod convert;
mod kv;
mod pack;

pub(crate) use bench::{
    BenchArgs, BenchCommand, BenchExpertsArgs, BenchIoArgs, BenchPrefillArgs, BenchStreamArgs,
};
pub(crate) use convert::ConvertArgs;
pub(crate) use kv::{
    EvictArg, KeepArgs, KvArgs, KvCommand, KvGcArgs, KvListArgs, KvPlaceArgs, KvRmArgs, KvShowArgs,
    KvToolArgs,
};
pub(crate) use pack::PackArgs;

use crate::hub::ModelId;
use crate::model::ModelName;
use crate::ram::Ram;
use crate::sampling::{Seed, TopK};
use crate::size::Size;
use crate::speed::{ComputeSpeed, Rate};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB; K, M, G and T mean KiB, MiB, GiB and TiB).
Exit status: 0 for success, 1 for failure, 2 for bad usage, 128 and the number of the signal that ended it: 130 after Ctrl-C.";

const PLAN_AFTER_HELP: &str = "\
SIZE is a number of GiB (1.5), or a number with a unit (512MiB, 1.5GB; K, M, G and T mean KiB, MiB, GiB and TiB).
RATE is a number of GB/s (7), or a number with a unit (500MB/s, 1.5GiB/s).
SPEED is a time (100ms, 0.1s), or a RATE with a unit at which weights are computed with (40GB/s).
Exit status: 0 for success, 1 for failure, 2 for bad usage.";

const PULL_AFTER_HELP: &str = "\
A pull that was interrupted goes on where it was. Every --model takes an ID, too, and pulls what is not in the cache.
The cache is that of Hugging Face's own tools, and so are the variables: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH,
HF_ENDPOINT, and HF_HUB_OFFLINE=1 or TRANSFORMERS_OFFLINE=1 to ask nobody.";

/// Run language models larger than memory
///
/// The weights are streamed from the SSD under a hard memory budget, and the budget changes no bit of the output.
#[derive(Debug, Parser)]
#[command(name = "flash-cli", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Show what a model is made of and the memory it needs
    Inspect(InspectArgs),
    /// Predict how fast a model runs in a budget, and what more memory would buy
    Plan(PlanArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Bring a model from the Hugging Face hub to the cache, and print its directory
    Pull(PullArgs),
    /// Make a model directory of a GGUF file, or quantize one of Hugging Face
    Convert(ConvertArgs),
    /// Copy a mixture of experts so that each expert is read from one place on the disk
    Pack(PackArgs),
    /// Look after sessions and prefixes that were kept
    Kv(KvToolArgs),
    /// Measure what this machine gives a model
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Continue this text; without it and --prompt-file, the text on standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Continue the text in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Ask the prompt as a user would, through the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Generate at most this many tokens
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) max_tokens: usize,
    /// Go on behind a token that ends an answer, to measure a given number of tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Pass the prompt once before the run that is measured, so that pinned weights are in memory
    #[arg(long, conflicts_with = "session")]
    pub(crate) warm_up: bool,
    /// Print one JSON object when done, and no text before
    #[arg(long)]
    pub(crate) json: bool,
    /// Say at the end what was done, as is usual on a terminal
    #[arg(long, conflicts_with = "json")]
    pub(crate) summary: bool,
    /// Write when what was read, waited for and computed: trace events, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Say this to the model before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Hold a conversation of this many tokens [default: 4096, or what the model was trained for]
    #[arg(long, value_name = "N")]
    pub(crate) ctx: Option<usize>,
    /// Generate at most this many tokens an answer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct InspectArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PLAN_AFTER_HELP)]
pub(crate) struct PlanArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: ModelName,
    /// Cap the memory of the whole program [default: what is free, less some headroom]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) ram: Option<Size>,
    /// Plan for prompts and answers of this many tokens together
    #[arg(long, value_name = "N", default_value_t = FLOOR_CONTEXT_TOKENS)]
    pub(crate) ctx: usize,
    /// What the disk gives: a rate of large reads that are queued [default: 2GB/s]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) disk: Option<Rate>,
    /// What computing takes with all weights in memory: the time of a token, or a rate [default: 20GB/s]
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
    /// The text to predict
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Predict windows of this many tokens, each from its own beginning
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) ctx: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PULL_AFTER_HELP)]
pub(crate) struct PullArgs {
    /// The model: ORG/NAME or ORG/NAME@REVISION
    #[arg(value_name = "ID")]
    pub(crate) id: ModelId,
    /// The branch, tag or commit [default: main]
    #[arg(long, value_name = "NAME")]
    pub(crate) revision: Option<String>,
}

/// How a model is run.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// The directory of the model, or its id on the Hugging Face hub: ORG/NAME or ORG/NAME@REVISION
    #[arg(long)]
    pub(crate) model: Option<ModelName>,
    /// Take settings from this file; flags override them
    #[arg(long, value_name = "FILE")]
    pub(crate) modelfile: Option<PathBuf>,
    /// Cap the memory of the whole program; auto takes what is free, less some headroom, and gives back what gets short
    /// [default: auto]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Memory and disk")]
    pub(crate) ram: Option<Ram>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Read the weights past the page cache (uring, direct), through it (pread), from a map of it (mmap), or as the
    /// disk likes best (auto)
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Memory and disk")]
    pub(crate) io: IoArg,
    /// Have the disk make this many reads at once [default: what suits it]
    #[arg(long, value_name = "N", help_heading = "Memory and disk")]
    pub(crate) threads: Option<usize>,
    /// Read at most this much a second, for whoever shares the disk
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = "Memory and disk")]
    pub(crate) max_read_rate: Option<Size>,
    /// Compute with MLX's operations, or with our own kernels (on a CPU) [default: native on a CPU, else mlx]
    #[arg(long, value_name = "WHO")]
    pub(crate) compute: Option<ComputeArg>,
    /// Have our own kernels round as little as MLX does in float32: up to twice as slow where weights are in memory
    #[arg(long)]
    pub(crate) exact: bool,
    /// Have each token take this many experts instead of as many as the model was trained with, which changes what it says;
    /// 0 for those [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) moe_top_k: Option<usize>,
    /// Do not read ahead: slower, with less memory
    #[arg(long, help_heading = "Memory and disk")]
    pub(crate) no_pipeline: bool,
    /// Tell on standard error what is planned and done
    #[arg(long)]
    pub(crate) debug: bool,
}

/// How tokens are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temp: f32,
    /// Draw from this many of the most likely tokens; 0 or -1 for all
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub(crate) top_k: TopK,
    /// Draw from the most likely tokens that hold this part of the probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Draw from tokens at least this likely, next to the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Make recent tokens less likely; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,
    /// Draw the same tokens every time with the same number; -1 draws others each time
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true)]
    pub(crate) seed: Seed,
    /// End before this text; may be given more than once
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IoArg {
    Auto,
    Uring,
    Direct,
    Pread,
    Mmap,
}

impl IoArg {
    pub(crate) fn mode(self) -> IoMode {
        match self {
            Self::Auto => IoMode::Auto,
            Self::Uring => IoMode::Uring,
            Self::Direct => IoMode::Direct,
            Self::Pread => IoMode::Pread,
            Self::Mmap => IoMode::Mmap,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ComputeArg {
    Mlx,
    Native,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FloatArg {
    F32,
    F16,
    Bf16,
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
