//! The report of `bench io`.

use std::path::PathBuf;

use serde::Serialize;

use super::fio::Fio;
use super::raw::Cell;
use super::sustained::Sustained;

/// Report of `bench io`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The file that was read: the largest shard of the model.
    pub(super) shard: PathBuf,
    pub(super) shard_bytes: u64,
    pub(super) cells: Vec<Cell>,
    /// Whether parts were read more than once because the file is too short.
    pub(super) repeats: bool,
    pub(super) ceiling_bytes_per_s: f64,
    pub(super) reader: Reader,
    pub(super) fio: Option<FioReport>,
}

/// Throughput of the reader as configured in the engine.
#[derive(Debug, Serialize)]
pub(super) struct Reader {
    pub(super) io: &'static str,
    pub(super) depth: usize,
    pub(super) chunk_bytes: usize,
    #[serde(flatten)]
    pub(super) sustained: Sustained,
    pub(super) ceiling_fraction: f64,
}

/// Throughput of fio.
#[derive(Debug, Serialize)]
pub(super) struct FioReport {
    /// fio with default settings.
    pub(super) plain: Fio,
    /// fio with its buffer in huge pages, like slots.
    pub(super) huge_pages: Fio,
    /// Throughput of the reader as a fraction of the faster fio run.
    pub(super) reader_fraction: f64,
}
