//! Flags of the KV cache, and of the command `kv`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use flash_model::WINDOW_TOKENS;

use crate::size::Size;

/// Help heading, set on each flag: `next_help_heading` would also apply to the flags after this group.
const HEADING: &str = "KV cache";

/// Flags that control the format and size of the KV cache.
#[derive(Debug, Args)]
pub(crate) struct KvArgs {
    /// Store older tokens at this many bits: 4, 8 or 16; 0 stores them as computed, in memory if they fit
    #[arg(long, value_name = "BITS", default_value_t = 0, help_heading = HEADING)]
    pub(crate) kv_quant: u32,
    /// Keep this many recent tokens at 16 bits when older ones are quantized, in whole pages of 128
    #[arg(long, value_name = "N", default_value_t = WINDOW_TOKENS, help_heading = HEADING)]
    pub(crate) kv_window: usize,
    /// Keep at most this many tokens, and evict old ones to make room
    #[arg(long, value_name = "N", help_heading = HEADING)]
    pub(crate) max_kv_size: Option<usize>,
    /// Never evict this many of the first tokens [default: 250]
    #[arg(long, value_name = "N", help_heading = HEADING)]
    pub(crate) kv_keep: Option<usize>,
    /// Directory for pages that do not fit in memory [default: kv in the user's cache directory]
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    pub(crate) kv_dir: Option<PathBuf>,
    /// Limit the disk space of the pages; the context ends when they are full
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, help_heading = HEADING)]
    pub(crate) kv_max_bytes: Option<Size>,
    /// Evict pages when the disk space is used up, oldest first except those of --kv-keep
    #[arg(long, value_name = "POLICY", requires = "kv_max_bytes", help_heading = HEADING)]
    pub(crate) kv_evict: Option<EvictArg>,
}

/// Flags that keep KV pages between runs.
#[derive(Debug, Args)]
pub(crate) struct PersistArgs {
    /// Resume this session, or create it, and save it at the end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["max_kv_size", "kv_evict"], help_heading = HEADING)]
    pub(crate) session: Option<String>,
    /// Cache the keys and values of prompts, and reuse them for prompts with the same beginning
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
    /// List sessions and cached prefixes
    List(KvListArgs),
    /// Show the details of a session
    Show(KvShowArgs),
    /// Remove a session
    Rm(KvRmArgs),
    /// Remove files of crashed runs, and least recently used prefixes beyond a size
    Gc(KvGcArgs),
}

/// Flags of every `kv` command: the directory and the output format.
#[derive(Debug, Args)]
pub(crate) struct KvDirArgs {
    /// Directory of the KV cache [default: kv in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) kv_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KvListArgs {
    #[command(flatten)]
    pub(crate) dir: KvDirArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvShowArgs {
    /// Name of the session
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) dir: KvDirArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvRmArgs {
    /// Name of the session
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) dir: KvDirArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KvGcArgs {
    /// Remove prefixes, least recently used first, until they take no more than this
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) max_bytes: Option<Size>,
    #[command(flatten)]
    pub(crate) dir: KvDirArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EvictArg {
    // Without a doc comment: documented values switch clap to the long help format.
    Oldest,
}
