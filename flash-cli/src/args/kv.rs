//! The flags of the KV cache.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use flash_model::WINDOW_TOKENS;

use crate::size::Size;

/// Of each flag, and not of all that follow: those that come behind are others.
const HEADING: &str = "KV cache";

/// How keys and values are kept.
#[derive(Debug, Args)]
pub(crate) struct KvArgs {
    /// Store older tokens at this many bits: 4, 8 or 16; 0 stores them as computed, in memory if they fit there
    #[arg(long, value_name = "BITS", default_value_t = 0, help_heading = HEADING)]
    pub(crate) kv_quant: u32,
    /// See so many recent tokens at 16 bits when older ones are quantised, in whole pages of 128
    #[arg(long, value_name = "N", default_value_t = WINDOW_TOKENS, help_heading = HEADING)]
    pub(crate) kv_window: usize,
    /// Hold so many tokens at most, and give up old ones for new ones
    #[arg(long, value_name = "N", help_heading = HEADING)]
    pub(crate) max_kv_size: Option<usize>,
    /// Never give up so many of the first tokens [default: 250]
    #[arg(long, value_name = "N", help_heading = HEADING)]
    pub(crate) kv_keep: Option<usize>,
    /// Put what memory has no room for below this folder [default: kv in the user's cache folder]
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    pub(crate) kv_dir: Option<PathBuf>,
    /// Let the pages take no more than this of the disk: a context ends where they are full
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = HEADING)]
    pub(crate) kv_max_bytes: Option<Size>,
    /// Give up pages when they are full, the oldest but those of --kv-keep, and go on
    #[arg(long, value_name = "WHICH", requires = "kv_max_bytes", help_heading = HEADING)]
    pub(crate) kv_evict: Option<EvictArg>,
}

/// What outlives the run.
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Go on with what this session holds, or begin it, and save it at the end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["max_kv_size", "kv_evict"], help_heading = HEADING)]
    pub(crate) session: Option<String>,
    /// Keep the keys and values of prompts, and do not compute anew what a prompt has in common with earlier ones
    #[arg(long, conflicts_with_all = ["max_kv_size", "kv_evict"], help_heading = HEADING)]
    pub(crate) prefix_cache: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KvToolArgs {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// List sessions and prefixes
    List(KvListArgs),
    /// Tell what a session is
    Show(KvShowArgs),
    /// Remove a session
    Rm(KvRmArgs),
    /// Remove what nothing uses any more, and prefixes beyond a size
    Gc(KvGcArgs),
}

/// Where caches are.
#[derive(Debug, Args)]
pub(crate) struct KvPlaceArgs {
    /// Look below this folder [default: kv in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) kv_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KvListArgs {
    #[command(flatten)]
    pub(crate) place: KvPlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvShowArgs {
    /// The session
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: KvPlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvRmArgs {
    /// The session
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: KvPlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvGcArgs {
    /// Remove prefixes, those first that were not used for the longest time, until they take no more than this
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) max_bytes: Option<Size>,
    #[command(flatten)]
    pub(crate) place: KvPlaceArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EvictArg {
    // Not in the help: what is said of a value has clap write all of it in the long form.
    Oldest,
}
