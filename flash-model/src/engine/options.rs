//! How a model is to be run.

use std::path::PathBuf;
use std::sync::mpsc::Sender;

use flash_io::ReaderConfig;
use flash_sched::ByteRate;

use crate::engine::needs::Workload;
use crate::stream::record::Event;

/// How a model is to be run: [`new`](Self::new), and then fields that differ.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Hard cap on the memory of the whole process.
    pub budget_bytes: u64,
    /// What the run will ask of memory.
    pub workload: Workload,
    /// How bundles are read.
    pub reader: ReaderConfig,
    /// A cap on the rate of reads, if the disk is to be shared.
    pub read_rate: Option<ByteRate>,
    /// Who is told what happens when, if anyone is.
    pub events: Option<Sender<Event>>,
    /// Where pages of keys and values go that memory has no room for, and what outlives the run.
    pub kv_dir: PathBuf,
    /// Whether prompts share the pages of their common prefixes, with each other and with those of other runs.
    pub share_prefixes: bool,
}

impl EngineOptions {
    /// A workload in a budget, with pages in the folder for temporary files.
    pub fn new(budget_bytes: u64, workload: Workload) -> Self {
        let (reader, kv_dir) = (ReaderConfig::default(), std::env::temp_dir().join("flash-kv"));
        Self { budget_bytes, workload, reader, read_rate: None, events: None, kv_dir, share_prefixes: false }
    }
}
