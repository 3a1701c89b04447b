//! Read parameters of a device.

use crate::mode::IoMode;
use crate::reader::{CHUNKS_IN_FLIGHT, ReaderConfig};
use crate::storage::DIRECT_ALIGN;

/// I/O mode, queue depth and read size for the files of a device; [`find`](Self::find) measures the fastest ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Mode to open files with; never [`IoMode::Auto`] if the directory holds a model.
    pub mode: IoMode,
    /// Reads in flight, for [`ReaderConfig::depth`].
    pub depth: usize,
    /// Bytes of one read, for [`ReaderConfig::chunk_bytes`].
    pub chunk_bytes: usize,
}

impl From<Tuning> for ReaderConfig {
    /// Returns the default configuration with depth and chunk size of the tuning.
    fn from(Tuning { depth, chunk_bytes, .. }: Tuning) -> Self {
        Self { depth, chunk_bytes, ..Self::default() }
    }
}

impl Tuning {
    /// Returns how many reads of [`chunk_bytes`](Self::chunk_bytes) a [`Reader`](crate::Reader) has in flight: `depth`,
    /// and twice as many with io_uring.
    pub fn chunks_in_flight(&self) -> usize {
        match self.mode {
            IoMode::Uring => self.depth.saturating_mul(CHUNKS_IN_FLIGHT),
            _ => self.depth,
        }
    }

    /// Returns depth and chunk size that work on most machines.
    pub(super) fn default_for(mode: IoMode) -> Self {
        let ReaderConfig { depth, chunk_bytes, .. } = ReaderConfig::default();
        Self { mode, depth, chunk_bytes }
    }

    /// Returns whether a probe could have found these values.
    pub(super) fn is_valid(&self) -> bool {
        let Self { mode, depth, chunk_bytes } = *self;
        matches!(mode, IoMode::Uring | IoMode::Direct)
            && (1..=256).contains(&depth)
            && (DIRECT_ALIGN..=64 << 20).contains(&chunk_bytes)
            && chunk_bytes.is_multiple_of(DIRECT_ALIGN)
    }
}
