//! Shared code of the criterion suites under `benches/` and the comparisons of `xtask`: synthetic checkpoints on a real
//! disk, page cache eviction, weights larger than all caches, and the memory bandwidth.
//!
//! Bench names are `group/case/parameter`. Cases that end in `_cold` read bytes that are not in the page cache, cases
//! that end in `_warm` read bytes that are.

mod memory;
mod weights;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

pub use memory::MemoryReader;
pub use weights::{Format, Weights, activations};

/// Block that files are filled with; no suite depends on the contents.
static BLOCK: [u8; 1 << 16] = [0x5a; 1 << 16];

/// Writes a safetensors file of `n_tensors` byte tensors, named `{prefix}.0` and so on, and syncs it to the disk.
///
/// # Errors
/// I/O errors of the system.
pub fn write_shard(path: &Path, prefix: &str, n_tensors: usize, tensor_bytes: usize) -> io::Result<()> {
    let entries = (0..n_tensors).map(|i| {
        let (start, end) = (i * tensor_bytes, (i + 1) * tensor_bytes);
        format!(r#""{prefix}.{i}":{{"dtype":"U8","shape":[{tensor_bytes}],"data_offsets":[{start},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut left = n_tensors * tensor_bytes;
    while left > 0 {
        let n = left.min(BLOCK.len());
        file.write_all(&BLOCK[..n])?;
        left -= n;
    }
    file.sync_all()
}

/// Evicts a synced file from the page cache.
///
/// # Errors
/// I/O errors of the system.
#[cfg(target_os = "linux")]
pub fn make_cold(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?)
}
