//! The flags of the KV cache.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use flash_model::WINDOW_TOKENS;

use crate::size::Size;

/// How keys and values are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "KV cache")]
pub(crate) struct KvArgs {
    /// Store older tokens at this many bits: 4, 8 or 16; 0 stores them as computed, in memory if they fit there
    #[arg(long, value_name = "BITS", default_value_t = 0)]
    pub(crate) kv_quant: u32,
    /// See so many recent tokens at 16 bits when older ones are quantised, in whole pages of 128
    #[arg(long, value_name = "N", default_value_t = WINDOW_TOKENS)]
    pub(crate) kv_window: usize,
    /// Hold so many tokens at most, and give up old ones for new ones
    #[arg(long, value_name = "N")]
    pub(crate) max_kv_size: Option<usize>,
    /// Never give up so many of the first tokens
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub(crate) kv_keep: usize,
    /// Put what memory has no room for below this folder [default: kv in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) kv_dir: Option<PathBuf>,
    /// Let the pages take no more than this of the disk: a context ends where they are full
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub(crate) kv_max_bytes: Option<Size>,
    /// Give up pages when they are full, and go on
    #[arg(long, value_name = "WHICH", requires = "kv_max_bytes")]
    pub(crate) kv_evict: Option<EvictArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EvictArg {
    /// The oldest but those of --kv-keep
    Oldest,
}
