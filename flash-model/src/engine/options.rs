//! Options of a model and of an engine.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use flash_io::ReaderConfig;
use flash_sched::ByteRate;

use crate::compute::{Compute, ComputeOptions};
use crate::engine::needs::Workload;
use crate::stream::record::Event;

/// Options of a model. None of them changes a bit of its output, except those of [`ComputeOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// The backend.
    pub compute: ComputeOptions,
    /// Cuts the matrices of layers into tiles of at most so many rows, which are loaded one after the other; `None` to
    /// load layers whole. The smallest budget then has to hold two tiles instead of two layers. Rows are rounded down to
    /// a multiple of four, the fewest. Each chunk of a prompt (128 tokens) reads the tiles again.
    pub tile_rows: Option<NonZeroU64>,
    /// Smallest size of a tile, which may then have more rows: small reads are slow, and thousands of tiles take memory
    /// themselves. 256 KiB by default.
    pub tile_bytes_min: u64,
}

/// Default of [`ModelOptions::tile_bytes_min`].
const TILE_BYTES_MIN: u64 = 256 << 10;

impl Default for ModelOptions {
    fn default() -> Self {
        ComputeOptions::default().into()
    }
}

impl From<ComputeOptions> for ModelOptions {
    fn from(compute: ComputeOptions) -> Self {
        Self { compute, tile_rows: None, tile_bytes_min: TILE_BYTES_MIN }
    }
}

impl From<Compute> for ModelOptions {
    fn from(compute: Compute) -> Self {
        ComputeOptions::from(compute).into()
    }
}

/// Options of an engine. Create with [`new`](Self::new), then set fields.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Hard cap on the memory of the whole process, in bytes.
    pub budget_bytes: u64,
    /// The workload that memory is planned for.
    pub workload: Workload,
    /// Configuration of the reader.
    pub reader: ReaderConfig,
    /// Cap on the read rate, for a disk that is shared with other programs.
    pub read_rate: Option<ByteRate>,
    /// Channel that receives a trace of events.
    pub events: Option<Sender<Event>>,
    /// Directory of KV pages that do not fit in memory, of sessions and of shared prefixes.
    pub kv_dir: PathBuf,
    /// Whether prompts share the pages of common prefixes, within and across runs.
    pub share_prefixes: bool,
}

impl EngineOptions {
    /// Creates options for a workload in a budget, with `kv_dir` in the system's directory for temporary files.
    pub fn new(budget_bytes: u64, workload: Workload) -> Self {
        let (reader, kv_dir) = (ReaderConfig::default(), std::env::temp_dir().join("flash-kv"));
        Self { budget_bytes, workload, reader, read_rate: None, events: None, kv_dir, share_prefixes: false }
    }
}
