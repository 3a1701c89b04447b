//! What the criterion suites under `benches/` and the comparisons of `xtask` share: synthetic checkpoints on a real disk,
//! a cold page cache, weights that no cache holds, and the speed of memory.
//!
//! Bench names are `group/case/parameter`. A case that ends in `_cold` reads bytes that are not in the page
//! cache, one that ends in `_warm` reads bytes that are.

mod memory;
mod weights;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

pub use memory::MemoryReader;
pub use weights::{Format, Weights, activations};

/// Bytes written at once; their content does not matter to any suite.
static BLOCK: [u8; 1 << 16] = [0x5a; 1 << 16];

/// Writes a safetensors file of `n_tensors` byte tensors, named `{prefix}.0` and so on, and waits until it
/// is on the disk.
///
/// # Errors
/// Whatever the system says.
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

/// Takes a file that is on the disk out of the page cache.
///
/// # Errors
/// Whatever the system says.
#[cfg(target_os = "linux")]
pub fn make_cold(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?)
}
